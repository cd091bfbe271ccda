"""The handler gives a schedule its epoch, and the logs the weights of the objectives."""

import logging
import warnings

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import TensorBoardStatsHandler
from monai.losses import DeepSupervisionLoss, DiceLoss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_surrogates.handlers import ObjectiveSchedule
from monai_surrogates.losses import CrossEntropyToSoftDiceLoss, PlainCELoss, ScheduledLoss, SoftDiceLoss
from tests.processes import results_of_ranks

FLAGS = {"softmax": True, "to_onehot_y": True}
SCHEDULE = {0: "cross_entropy", 2: "soft_dice"}


def item():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 5, generator=generator), torch.randint(0, 3, (2, 1, 5), generator=generator)


def engine_of(loss, values):
    """A bare engine that scores the same batch in every epoch."""
    return Engine(lambda engine, batch: values.append(loss(*batch).item()))


def run(loss, max_epochs, handler=None, data=None):
    values = []
    engine = engine_of(loss, values)
    (handler or ObjectiveSchedule(loss)).attach(engine)
    engine.run(data or [item()], max_epochs=max_epochs)
    return values, engine


def test_a_bare_engine_trains_each_objective_in_its_epochs():
    loss = ScheduledLoss(SCHEDULE, ramp=1, **FLAGS)
    values, engine = run(loss, 4)
    first, second = (cls(**FLAGS)(*item()).item() for cls in (PlainCELoss, SoftDiceLoss))
    assert values == pytest.approx([first, first, (first + second) / 2, second])
    assert engine.state.metrics == {"objective/cross_entropy": 0, "objective/soft_dice": 1}


def test_a_longer_run_goes_on_and_a_new_one_starts_the_schedule_anew():
    loss = CrossEntropyToSoftDiceLoss(**FLAGS)
    handler, values = ObjectiveSchedule(loss), []
    engine = engine_of(loss, values)
    handler.attach(engine)
    first, second = (cls(**FLAGS)(*item()).item() for cls in (PlainCELoss, SoftDiceLoss))
    engine.run([item()], max_epochs=2)
    engine.run([item()], max_epochs=4)
    assert values == pytest.approx([first, second, second, second])
    engine.state.max_epochs = None  # Ignite's way to begin again
    values.clear()
    engine.run([item()], max_epochs=4)
    assert values == pytest.approx([first, first, second, second])


def test_the_log_names_the_objectives_when_their_weights_change(caplog):
    caplog.set_level(logging.INFO, "monai_surrogates")
    run(ScheduledLoss(SCHEDULE, ramp=1, **FLAGS), 5)
    assert [record.getMessage() for record in caplog.records] == [
        "Epoch 1 trains cross_entropy 1.",
        "Epoch 3 trains cross_entropy 0.5, soft_dice 0.5.",
        "Epoch 4 trains soft_dice 1.",
    ]


def trainer(loss, max_epochs, handlers, network=None):
    data = [
        {"image": torch.randn(1, 6, generator=torch.Generator().manual_seed(n)), "label": torch.ones(1, 6)}
        for n in (0, 1)
    ]
    torch.manual_seed(0)
    network = network or nn.Conv1d(1, 2, 1)
    return SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=loss,
        train_handlers=handlers,
    )


def test_a_monai_trainer_gives_its_own_loss_and_tensorboard_gets_the_weights(tmp_path):
    loss = ScheduledLoss(SCHEDULE, ramp=1, **FLAGS)
    board = TensorBoardStatsHandler(log_dir=str(tmp_path), iteration_log=False)
    trainer(loss, 4, [ObjectiveSchedule(), board]).run()
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    weights = [(event.step, event.value) for event in events.Scalars("objective/soft_dice")]
    assert weights == [(1, 0), (2, 0), (3, 0.5), (4, 1)]


@pytest.mark.parametrize("loss", [DiceLoss(**FLAGS), SoftDiceLoss(**FLAGS), lambda x, y: SoftDiceLoss(**FLAGS)(x, y)])
def test_other_losses_are_left_alone(loss):
    engine = trainer(loss, 2, [ObjectiveSchedule()])
    engine.run()
    assert engine.state.metrics == {}


@pytest.mark.parametrize("wrap", [DeepSupervisionLoss, lambda loss: torch.compile(loss, backend="eager")])
def test_a_schedule_inside_another_loss_is_found(wrap):
    torch._dynamo.reset()
    loss = ScheduledLoss(SCHEDULE, **FLAGS)
    values, _ = run(wrap(loss), 3, ObjectiveSchedule(wrap(loss)))
    assert values[0] == values[1] != values[2]
    assert loss.epoch == 2


def test_half_way_comes_from_max_epochs():
    loss = CrossEntropyToSoftDiceLoss(**FLAGS)
    values, _ = run(loss, 6)
    assert loss.starts == [0, 3]
    assert values[:3] == [values[0]] * 3
    assert values[3:] == [values[3]] * 3


def test_a_resumed_engine_continues_in_the_middle_of_the_schedule():
    whole, _ = run(ScheduledLoss(SCHEDULE, ramp=2, **FLAGS), 6)
    loss, values = ScheduledLoss(SCHEDULE, ramp=2, **FLAGS), []
    engine = engine_of(loss, values)
    ObjectiveSchedule(loss).attach(engine)
    engine.load_state_dict({"epoch": 3, "max_epochs": 6, "epoch_length": 1})
    engine.run([item()])
    assert values == whole[3:]


def test_fractions_are_of_the_engine_s_epochs_and_of_the_state_after_a_resume():
    def loss():
        return ScheduledLoss({0: "cross_entropy", 0.25: "soft_dice", 0.75: "soft_jaccard"}, **FLAGS)

    first, resumed = loss(), loss()
    run(first, 4)
    assert first.starts == [0, 1, 3]
    resumed.load_state_dict(first.state_dict())
    engine = engine_of(resumed, [])
    ObjectiveSchedule(resumed).attach(engine)
    engine.load_state_dict({"epoch": 4, "max_epochs": 40, "epoch_length": 1})
    engine.run([item()])
    assert resumed.starts == [0, 1, 3]


def test_a_training_too_short_for_its_fractions_is_refused_before_training():
    loss, values = ScheduledLoss({0: "cross_entropy", 0.2: "soft_dice", 0.4: "soft_jaccard"}, **FLAGS), []
    engine = engine_of(loss, values)
    ObjectiveSchedule(loss).attach(engine)
    with pytest.raises(ValueError, match=r"0\.2 and 0\.4 both mean epoch 1; move them apart, or train longer"):
        engine.run([item()], max_epochs=4)
    assert values == []


def test_half_way_stays_where_it_was_when_the_training_is_made_longer():
    loss = CrossEntropyToSoftDiceLoss(**FLAGS)
    run(loss, 4)
    resumed = CrossEntropyToSoftDiceLoss(**FLAGS)
    resumed.load_state_dict(loss.state_dict())
    engine = engine_of(resumed, [])
    ObjectiveSchedule(resumed).attach(engine)
    engine.load_state_dict({"epoch": 4, "max_epochs": 20, "epoch_length": 1})
    engine.run([item()])
    assert resumed.starts == [0, 2]
    without_state = CrossEntropyToSoftDiceLoss(**FLAGS)
    engine = engine_of(without_state, [])
    ObjectiveSchedule(without_state).attach(engine)
    engine.load_state_dict({"epoch": 4, "max_epochs": 20, "epoch_length": 1})
    engine.run([item()])
    assert without_state.starts == [0, 10]


@pytest.mark.parametrize(
    ("arguments", "max_epochs", "match"),
    [
        (
            {},
            2,
            r"ScheduledLoss does not reach soft_dice \(2\), because the training ends after epoch 2; train longer",
        ),
        (
            {"ramp": 3},
            5,
            "does not complete its ramp to soft_dice, epochs 2 to 5, because the training ends after epoch 5",
        ),
    ],
)
def test_objectives_beyond_the_last_epoch_warn_before_training(arguments, max_epochs, match):
    order = []
    loss = ScheduledLoss(SCHEDULE, **arguments, **FLAGS)
    engine = engine_of(loss, [])
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: order.append("epoch"))
    ObjectiveSchedule(loss).attach(engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=match):
            engine.run([item()], max_epochs=max_epochs)
    assert order == []


# Ignite counts in iterations too; an epoch of a run of max_iters may be cut short at the end.
@pytest.mark.parametrize(("max_iters", "switch"), [(12, 3), (11, 3), (9, 2), (2, 1)])
def test_half_way_comes_from_max_iters(max_iters, switch):
    loss, values = CrossEntropyToSoftDiceLoss(**FLAGS), []
    engine = engine_of(loss, values)
    ObjectiveSchedule(loss).attach(engine)
    engine.run([item()] * 2, max_iters=max_iters)
    assert loss.starts == [0, switch]
    assert len(values) == max_iters


def test_objectives_beyond_max_iters_warn():
    loss = ScheduledLoss(SCHEDULE, **FLAGS)
    engine = engine_of(loss, [])
    ObjectiveSchedule(loss).attach(engine)
    with pytest.warns(UserWarning, match=r"does not reach soft_dice \(2\), because the training ends after epoch 2"):
        engine.run([item()] * 2, max_iters=3)


def test_half_way_of_an_unknown_number_of_epochs_is_refused_before_training():
    for loss, runs in (
        (CrossEntropyToSoftDiceLoss(**FLAGS), 0),
        (CrossEntropyToSoftDiceLoss(switch_epoch=1, **FLAGS), 3),
    ):
        values = []
        engine = engine_of(loss, values)
        ObjectiveSchedule(loss).attach(engine)
        if runs:
            engine.run(iter([item()] * 3), max_iters=3)
        else:
            with pytest.raises(
                ValueError, match=r"a fraction of the training, but how many epochs .* run it with max_epochs"
            ):
                engine.run(iter([item()] * 3), max_iters=3)
        assert len(values) == runs


def test_a_schedule_that_fits_does_not_warn():
    run(ScheduledLoss(SCHEDULE, ramp=2, **FLAGS), 5)
    run(ScheduledLoss({0: "soft_dice"}, ramp=9, **FLAGS), 1)


def test_an_engine_without_a_loss_is_one_sentence():
    engine = Engine(lambda engine, batch: None)
    ObjectiveSchedule().attach(engine)
    with pytest.raises(ValueError, match="loss_function must be given to ObjectiveSchedule where the engine has none"):
        engine.run([0])


# Under DistributedDataParallel

RAMP = {"objectives": {0: "cross_entropy", 1: "soft_dice"}, "ramp": 2, "batch": True, **FLAGS}
ITEMS = {0: slice(0, 1), 1: slice(1, 4)}  # of each rank: uneven


def whole_batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 2, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (4, 1, 6), generator=generator)


def parameters_of_each_epoch(network, loss, x, y):
    optimizer, after = torch.optim.SGD(network.parameters(), lr=0.5), []

    def step(engine, batch):
        optimizer.zero_grad()
        loss(network(x), y).backward()
        optimizer.step()

    engine = Engine(step)
    ObjectiveSchedule(loss).attach(engine)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: after.append([p.detach().clone() for p in network.parameters()])
    )
    engine.run([0], max_epochs=5)
    return after


def new_network():
    torch.manual_seed(0)
    return nn.Conv1d(2, 3, 1).double()


def rank_main(rank, world_size, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    x, y = (t[ITEMS[rank]] for t in whole_batch())
    loss = ScheduledLoss(**RAMP, sync=True)
    results[rank] = parameters_of_each_epoch(DistributedDataParallel(new_network()), loss, x, y)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_through_a_ramp_as_one_process_does():
    results = results_of_ranks(rank_main, 2)
    expected = parameters_of_each_epoch(new_network(), ScheduledLoss(**RAMP), *whole_batch())
    assert len(expected) == 5
    for rank in ITEMS:
        for epoch, of_epoch in enumerate(expected):
            for mine, alone in zip(results[rank][epoch], of_epoch, strict=True):
                torch.testing.assert_close(mine, alone, rtol=1e-10, atol=1e-10)


def rank_of_some(rank, world_size, port, results, told):
    """A training under DistributedDataParallel; the handler stands on the ranks that are told."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    loss, network = ScheduledLoss(**RAMP), DistributedDataParallel(new_network())
    x, y = whole_batch()
    engine = Engine(lambda engine, batch: loss(network(x), y).backward())
    if rank in told:
        ObjectiveSchedule(loss).attach(engine)
    try:
        with torch.no_grad():
            validated = loss(network(x), y).item()  # needs no epoch
        engine.run([0], max_epochs=3)
        results[rank] = validated, "trained"
    except RuntimeError as error:
        results[rank] = validated, str(error)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("told", [(0, 1), (0,), ()])
def test_a_rank_that_nobody_tells_the_epoch_trains_nothing(told):
    results = results_of_ranks(rank_of_some, 2, told)
    first = PlainCELoss(**FLAGS)(new_network()(whole_batch()[0]), whole_batch()[1]).item()
    for rank, (validated, ended) in results.items():
        assert validated == pytest.approx(first)
        if rank not in told:
            assert ended == (
                f"ScheduledLoss must be told the epoch on each of 2 ranks, but nobody told it on rank {rank}, which would stay "
                "with cross_entropy while the others go on; list monai_surrogates.handlers.ObjectiveSchedule in the trainer's "
                "handlers of every rank (a multi-GPU overlay may cut the end of the list), or call set_epoch in each epoch."
            )
        else:
            assert (ended == "trained") == (told == (0, 1))  # the other rank has ended


def test_a_loss_that_is_no_module_is_refused():
    with pytest.raises(TypeError, match="loss_function must be a loss, a torch module, or None"):
        ObjectiveSchedule("lovasz_softmax")


def test_a_switch_in_a_loaded_state_is_checked_against_the_length_too():
    long, short = (CrossEntropyToSoftDiceLoss(softmax=True, to_onehot_y=True) for _ in range(2))
    long.set_length(12)
    engine = Engine(lambda engine, batch: 0.0)
    ObjectiveSchedule(short).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: short.load_state_dict(long.state_dict()))
    with pytest.warns(UserWarning, match=r"does not reach soft_dice \(6\)"):
        engine.run([0], max_epochs=5)
