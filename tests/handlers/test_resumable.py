"""A training that was stopped and resumed is the one that was not, to the last digit."""

import logging
import multiprocessing
import os
import random
import re
import signal
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, LrScheduleHandler, ValidationHandler
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandScaleIntensityd
from monai.utils import set_determinism
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_surrogates.handlers import ObjectiveSchedule, PerImageDice, ResumableTraining
from monai_surrogates.losses import make_loss
from tests.processes import results_of_ranks

EPOCHS = 6


@pytest.fixture(autouse=True)
def same_random_numbers_after():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    set_determinism(seed=None)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


class KilledError(Exception):
    """The training was killed."""


def items():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(5, 1, 8, 8, generator=generator)
    return [{"image": image, "label": (image > 0.5).float()} for image in images]


def transforms():
    return Compose(
        [
            RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
            RandScaleIntensityd("image", factors=0.5, prob=0.5),
            RandGaussianNoised("image", prob=0.5),
        ]
    )


def training(folder, resume=False, num_workers=0, seed=7, max_epochs=EPOCHS, batch_size=2):
    """A trainer with everything that has a state: dropout, momentum, a falling rate, a schedule, validation."""
    set_determinism(seed=seed)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    loss = make_loss(
        "cross_entropy_to_lovasz_softmax", ramp=2 if max_epochs == EPOCHS else 0, softmax=True, to_onehot_y=True
    )
    data = CacheDataset(items(), transforms(), progress=False)
    saver = CheckpointSaver(str(folder), {"model": network}, save_key_metric=True, key_metric_filename="model.pt")
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(CacheDataset(items(), progress=False), batch_size=5),
        network=network,
        key_val_metric={
            "dice": PerImageDice(
                num_classes=2, include_background=False, output_transform=lambda output: scored(output)
            )
        },
        val_handlers=[saver],
    )
    objects = {"model": network, "optimizer": optimizer, "lr_scheduler": scheduler, "loss": loss}
    objects |= {"evaluator": evaluator, "saver": saver, "nothing": None}
    resumable = ResumableTraining(folder / "last.pt", objects, resume=resume)
    handlers = [
        LrScheduleHandler(scheduler, print_lr=False),
        ValidationHandler(1, evaluator),
        ObjectiveSchedule(),
        resumable,
    ]
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=num_workers),
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        train_handlers=handlers,
    )
    return trainer, evaluator, saver


def scored(output):
    return [o["pred"].argmax(0, keepdim=True) for o in output], [o["label"] for o in output]


def losses_of(trainer, stop_in=None):
    """The loss of every iteration; the training is killed in the second iteration of an epoch, if asked."""
    losses = []

    def note(engine):
        losses.append(float(engine.state.output[0]["loss"]))
        if stop_in == engine.state.epoch and engine.state.iteration % engine.state.epoch_length == 2:
            raise KilledError

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    if stop_in is None:
        trainer.run()
    else:
        with pytest.raises(KilledError):
            trainer.run()
    return losses


# The schedule switches after 3 epochs and ramps for 2: before, at, in the middle of and after the ramp.
@pytest.mark.parametrize("stop_in", [2, 4, 5, 6])
def test_stopped_and_resumed_is_the_same_training(tmp_path, stop_in):
    trainer, evaluator, saver = training(tmp_path / "whole")
    whole = losses_of(trainer)
    losses_of(training(tmp_path / "stopped")[0], stop_in)
    resumed, evaluator_resumed, saver_resumed = training(tmp_path / "stopped", resume=True)
    rest = losses_of(resumed)
    assert len(rest) == 3 * (EPOCHS - stop_in + 1)
    assert rest == whole[-len(rest) :]
    for engine, other in ((trainer, resumed), (evaluator, evaluator_resumed)):
        assert engine.state.best_metric == other.state.best_metric
        assert engine.state.best_metric_epoch == other.state.best_metric_epoch
    assert saver._key_metric_checkpoint._saved[0].priority == saver_resumed._key_metric_checkpoint._saved[0].priority
    for name in ("model.pt", "last.pt"):
        files = [torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "stopped")]
        assert_same(*files)


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.mark.slow
def test_workers_that_load_the_data_draw_the_same_numbers(tmp_path):
    whole = losses_of(training(tmp_path / "whole", num_workers=2)[0])
    losses_of(training(tmp_path / "stopped", num_workers=2)[0], stop_in=4)
    rest = losses_of(training(tmp_path / "stopped", num_workers=2, resume=True)[0])
    assert rest == whole[-len(rest) :]


def test_epochs_differ_and_seeds_differ(tmp_path):
    trainer, _, _ = training(tmp_path)
    seeds = set()
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: seeds.add(torch.initial_seed()))
    first = losses_of(trainer)
    assert len(seeds) == EPOCHS
    assert first == losses_of(training(tmp_path)[0])
    assert first != losses_of(training(tmp_path, seed=8)[0])


def test_the_seed_of_an_unseeded_training_is_in_the_file(tmp_path):
    def draws(resume, max_epochs):
        torch.seed()
        drawn = []
        engine = Engine(lambda engine, batch: drawn.append(torch.rand(()).item()))
        ResumableTraining(tmp_path / "last.pt", {}, resume=resume).attach(engine)
        engine.run([0, 1], max_epochs=max_epochs)
        return drawn

    whole = draws(False, 4)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    state["trainer"]["iteration"] = 4
    torch.save(state, tmp_path / "last.pt")
    assert draws(True, 4) == whole[4:]


def test_the_file_is_written_every_interval_and_at_the_end(tmp_path):
    saved = []
    engine = Engine(lambda engine, batch: None)
    handler = ResumableTraining(tmp_path / "new" / "last.pt", {}, interval=2)
    handler.attach(engine)

    def note_and_remove():
        saved.append(handler.path.exists())
        handler.path.unlink(missing_ok=True)

    engine.add_event_handler(Events.EPOCH_STARTED, note_and_remove)
    engine.run([0], max_epochs=5)
    assert saved == [False, False, True, False, True]
    assert [file.name for file in handler.path.parent.iterdir()] == ["last.pt"]


def test_other_handlers_of_the_epochs_end_come_before_the_save(tmp_path):
    weight = nn.Parameter(torch.zeros(()))
    network = nn.ParameterList([weight])
    engine = Engine(lambda engine, batch: None)
    ResumableTraining(tmp_path / "last.pt", {"model": network}).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: weight.data.add_(1))
    engine.run([0], max_epochs=3)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["model"]["0"] == 3


def test_monai_s_checkpoint_loader_reads_the_file(tmp_path):
    trainer, _, _ = training(tmp_path, max_epochs=2)
    trainer.run()
    other, _, _ = training(tmp_path / "other", seed=1)
    CheckpointLoader(str(tmp_path / "last.pt"), {"model": other.network, "trainer": other})(other)
    assert other.state.epoch == 2
    assert_same(other.network.state_dict(), trainer.network.state_dict())


def test_a_finished_training_has_nothing_to_do(tmp_path, caplog):
    caplog.set_level(logging.INFO, "monai_surrogates")
    for resume, expected in ((False, 6), (True, 0)):
        assert len(losses_of(training(tmp_path, resume=resume, max_epochs=2)[0])) == expected
    assert f"Resumed from {tmp_path / 'last.pt'} after 2 epochs." in caplog.messages


def test_without_a_file_a_warning_says_that_it_starts_from_the_beginning(tmp_path):
    trainer, _, _ = training(tmp_path / "new", resume=True, max_epochs=2)
    with pytest.warns(UserWarning, match=r"there is no .*last\.pt: the training starts from the beginning"):
        assert len(losses_of(trainer)) == 6


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_epochs": 1}, "must be of no more than max_epochs=1, but is of 2 epochs; raise max_epochs"),
        (
            {"batch_size": 1},
            "must be of epochs with 5 iterations, as there are now, but is of 3; resume with the same data",
        ),
    ],
)
def test_a_file_of_another_training_is_one_sentence(tmp_path, arguments, match):
    training(tmp_path, max_epochs=2)[0].run()
    with pytest.raises(ValueError, match=match):
        training(tmp_path, resume=True, **arguments)[0].run()


def engine_at(path, resume=False, limit=None, objects=None, interval=1):
    """The numbers of the iterations that an engine with epochs of 2 runs."""
    ran = []
    engine = Engine(lambda engine, batch: ran.append(engine.state.iteration))
    ResumableTraining(path, objects or {}, resume=resume, interval=interval).attach(engine)
    engine.run([0, 1], **limit)
    return ran


@pytest.mark.parametrize("first", [{"max_epochs": 2}, {"max_iters": 4}, {"max_iters": 5}], ids=str)
@pytest.mark.parametrize(
    ("then", "last"), [({"max_epochs": 5}, 10), ({"max_iters": 10}, 10), ({"max_iters": 7}, 7)], ids=str
)
def test_the_new_run_decides_the_length(tmp_path, first, then, last):
    engine_at(tmp_path / "last.pt", limit=first)
    assert engine_at(tmp_path / "last.pt", resume=True, limit=then) == list(range(5, last + 1))


@pytest.mark.parametrize("first", [{"max_epochs": 2}, {"max_iters": 4}], ids=str)
def test_a_file_beyond_the_new_run_is_one_sentence(tmp_path, first):
    engine_at(tmp_path / "last.pt", limit=first)
    for then, match in (
        ({"max_epochs": 1}, "no more than max_epochs=1, but is of 2 epochs; raise max_epochs"),
        ({"max_iters": 3}, "no more than max_iters=3, but is of 4 iterations; raise max_iters"),
    ):
        with pytest.raises(ValueError, match=match):
            engine_at(tmp_path / "last.pt", resume=True, limit=then)


@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_iters": 6}, {"max_iters": 7}], ids=str)
def test_the_last_whole_epoch_is_saved_whatever_the_interval(tmp_path, limit):
    engine_at(tmp_path / "last.pt", limit=limit, interval=2)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["iteration"] == 6


def test_numpy_s_numbers_in_a_state_are_read_again(tmp_path):
    network = nn.BatchNorm1d(1)
    for resume in (False, True):
        engine = Engine(lambda engine, batch: None)
        saver = Checkpoint(
            {"model": network},
            DiskSaver(tmp_path / str(resume), create_dir=True),
            score_function=lambda engine: np.float64(engine.state.epoch),
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: np.float64(0.5))
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)
        objects = {"model": network, "saver": saver, "optimizer": optimizer, "scheduler": scheduler}
        ResumableTraining(tmp_path / "last.pt", objects, resume=resume).attach(engine)
        engine.run([0], max_epochs=2)
    assert [item.priority for item in saver._saved] == [2.0]
    assert torch.load(tmp_path / "last.pt", weights_only=True)["model"]._metadata[""]["version"] == 2


def test_a_path_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    engine_at("~/run/last.pt", limit={"max_epochs": 2})
    assert (tmp_path / "run" / "last.pt").is_file()
    assert engine_at("~/run/last.pt", resume=True, limit={"max_epochs": 3}) == [5, 6]


def save_for_ever(path):
    """A training that does little else than saving 8 MiB, in which every weight is the number of the epoch."""
    network = nn.Linear(2**21, 1, bias=False)
    engine = Engine(lambda engine, batch: network.weight.data.fill_(engine.state.epoch))
    ResumableTraining(path, {"model": network}, resume=path.is_file()).attach(engine)
    engine.run([0], max_epochs=10**6)


def last_save(path):
    return path.stat().st_mtime_ns if path.is_file() else 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_training_killed_at_any_instant_leaves_a_file_that_loads(tmp_path):
    path, instants, epochs = tmp_path / "last.pt", random.Random(0), [0]
    for _ in range(12):
        before, deadline = last_save(path), time.monotonic() + 60
        training = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(path,))
        training.start()
        while last_save(path) == before and training.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(instants.uniform(0, 0.05))
        os.kill(training.pid, signal.SIGKILL)
        training.join()
        assert training.exitcode == -signal.SIGKILL
        state = torch.load(path, weights_only=True)
        epochs.append(state["trainer"]["iteration"])
        assert (state["model"]["weight"] == epochs[-1]).all()
        assert {file.name for file in tmp_path.iterdir()} <= {"last.pt", ".last.pt"}  # the next save takes it over
    assert epochs == sorted(set(epochs))  # each training went on from the file of the one before


class Unwritable:
    """An object whose state cannot be written."""

    def state_dict(self):
        return {"lock": self}

    def __reduce__(self):
        raise ValueError("no state today")


def test_a_save_that_fails_keeps_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "last.pt"
    engine_at(path, limit={"max_epochs": 2})
    with pytest.raises(ValueError, match="no state today"):
        engine_at(path, limit={"max_epochs": 3}, objects={"model": Unwritable()})
    assert torch.load(path, weights_only=True)["trainer"]["iteration"] == 4
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_the_version_before_loads(tmp_path):
    network, before = nn.Linear(1, 1), nn.Linear(1, 1)
    state = {"model": before.state_dict(), "trainer": {"epoch_length": 2, "iteration": 4, "max_epochs": 2}}
    torch.save({**state, "best": {"best_metric": 0.5, "best_metric_epoch": 1.0}, "seed": 7}, tmp_path / "last.pt")
    ran = engine_at(tmp_path / "last.pt", resume=True, limit={"max_epochs": 3}, objects={"model": network})
    assert ran == [5, 6]
    assert_same(network.state_dict(), before.state_dict())


def rank_main(rank, world_size, port, results, folder):
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    engine_at(folder / "shared.pt", limit={"max_epochs": 2})
    dist.barrier()
    shared = engine_at(folder / "shared.pt", resume=True, limit={"max_epochs": 3})
    try:
        engine_at(folder / str(rank) / "last.pt", resume=True, limit={"max_epochs": 2})
    except ValueError as error:
        results[rank] = (shared, str(error))
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_file_that_only_one_of_two_processes_sees_is_refused_by_both(tmp_path):
    engine_at(tmp_path / "0" / "last.pt", limit={"max_epochs": 1})
    results = results_of_ranks(rank_main, 2, tmp_path)
    for rank in (0, 1):
        shared, said = results[rank]
        assert shared == [5, 6]
        assert "must be seen by all 2 processes or by none, but is seen by 1; put it on a disk that they share" in said


def rank_of_some(rank, world_size, port, results, folder, lacking):
    """A training under DistributedDataParallel, without the handler on one of the ranks."""
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    network = DistributedDataParallel(nn.Linear(1, 1))

    def step(engine, batch):
        network(torch.ones(1, 1)).sum().backward()

    engine = Engine(step)
    if rank != lacking:
        ResumableTraining(folder / "last.pt", {"model": network}, timeout=1).attach(engine)
    try:
        for max_epochs in (1, 2):  # a second start is another meeting
            engine.run([0], max_epochs=max_epochs)
        results[rank] = "trained"
    except RuntimeError as error:
        results[rank] = str(error)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [None, 0, 1])
def test_a_rank_without_the_handler_is_named_in_one_sentence(tmp_path, lacking):
    results = results_of_ranks(rank_of_some, 2, tmp_path, lacking)
    if lacking is None:
        assert results == {0: "trained", 1: "trained"}
        return
    assert results[1 - lacking] == (
        f"ResumableTraining must start on every rank, but after 1 s it had not on rank {lacking} of 2; list it in the handlers "
        "of every rank (a multi-GPU overlay may cut the end of the list), or raise timeout where ranks start that far apart."
    )
    assert results[lacking] != "trained"  # it waited in DistributedDataParallel for the other, which has ended
    assert not (tmp_path / "last.pt").exists()


def test_a_file_without_an_object_names_it(tmp_path):
    for objects in ({}, {"model": nn.Linear(1, 1)}):
        engine = Engine(lambda engine, batch: None)
        ResumableTraining(tmp_path / "last.pt", objects, resume=bool(objects)).attach(engine)
        if objects:
            with pytest.raises(ValueError, match="must hold model, but lacks model; resume the training that wrote it"):
                engine.run([0], max_epochs=2)
        else:
            engine.run([0], max_epochs=1)


def test_impossible_arguments(tmp_path):
    for name in ("trainer", "scaler", "best", "seed"):
        with pytest.raises(ValueError, match=f"objects must not hold {name}, a name of the file's own; rename it"):
            ResumableTraining(tmp_path / "last.pt", {name: nn.Linear(1, 1)})
    for interval in (0, 1.5, True, "2", np.float64(2)):
        with pytest.raises(
            ValueError,
            match=f"interval must be a whole number of epochs, at least 1, but is {re.escape(repr(interval))}",
        ):
            ResumableTraining(tmp_path / "last.pt", {}, interval=interval)
    for timeout in (0, -1.0, True, "5", float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout must be a positive number of seconds, but is"):
            ResumableTraining(tmp_path / "last.pt", {}, timeout=timeout)
    with pytest.raises(TypeError, match="resume must be True or False, but is 'false'; write it with a capital letter"):
        ResumableTraining(tmp_path / "last.pt", {}, resume="false")
