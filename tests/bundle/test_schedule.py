"""Schedules by config: the four ways reach one, and a training that was killed goes on as if it had not been."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_surrogates.losses import (
    CrossEntropyToLovaszSoftmaxLoss,
    CrossEntropyToSoftDiceLoss,
    PlainCELoss,
    ScheduledLoss,
    loss_class,
)
from monai_surrogates.losses.names import LOSSES
from tests.bundle.runs import (
    LOGGED,
    SMALL,
    as_arguments,
    environment,
    logged,
    open_workflow,
    run_bundle,
    run_workflow,
    training_losses,
    warnings_in,
)
from tests.bundle.test_switching import TRAIN, WAYS
from tests.processes import start_module

slow = pytest.mark.slow

SCHEDULE = "cross_entropy_to_lovasz_softmax"
FLAGS = {"softmax": True, "to_onehot_y": True}
WAYS = {
    "name": WAYS["name"],
    "target": lambda name: (*TRAIN, "--loss#_target_", f"monai_surrogates.losses.{loss_class(name).__name__}"),
}


@slow
@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_switching_reaches_a_schedule(way: str, new_bundle: Callable[[], Path], task: Path) -> None:
    root = new_bundle()
    done = run_bundle(root, *WAYS[way](SCHEDULE), *as_arguments(dataset_dir=task, epochs=2, **SMALL))
    losses = logged("train_loss", done.stdout)
    scheduled = CrossEntropyToLovaszSoftmaxLoss(**FLAGS)
    assert losses == pytest.approx(
        training_losses(new_bundle(), dataset_dir=str(task), epochs=2, loss=scheduled, **SMALL), abs=LOGGED
    )
    alone = training_losses(new_bundle(), dataset_dir=str(task), epochs=2, loss=PlainCELoss(**FLAGS), **SMALL)
    assert losses[:2] == pytest.approx(alone[:2], abs=LOGGED)
    assert losses[2:] != pytest.approx(alone[2:], abs=1e-2)
    assert re.findall(r"Epoch \d trains .*", done.stdout) == [
        "Epoch 1 trains cross_entropy 1.",
        "Epoch 2 trains lovasz_softmax 1.",
    ]
    assert logged("objective/lovasz_softmax", done.stdout) == [0, 1]
    events = EventAccumulator(str(root / "eval"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("objective/lovasz_softmax")] == [(1, 0), (2, 1)]
    assert warnings_in(done.stderr) == []


def test_epochs_and_ramp_of_a_named_schedule_are_config_values(bundle: Path, task: Path) -> None:
    epochs = {"loss#switch_epoch": 7, "loss#ramp": 3}
    workflow = open_workflow(
        bundle, "train", dataset_dir=str(task), objective="cross_entropy_to_soft_dice", **epochs, **SMALL
    )
    loss = workflow.parser.get_parsed_content("loss")
    assert type(loss) is CrossEntropyToSoftDiceLoss
    assert loss.weights_at(7) == {"cross_entropy": 0.75, "soft_dice": 0.25}


@pytest.mark.parametrize(("switch", "starts"), [(None, [0, 10]), ("0.25", [0, 5]), (0.75, [0, 15]), ("12", [0, 12])])
def test_any_two_names_are_a_schedule_that_reads_the_block_and_fractions(
    switch: float | str | None, starts: list[int], bundle: Path, task: Path
) -> None:
    arguments = {} if switch is None else {"loss#switch_epoch": switch}
    workflow = open_workflow(
        bundle, "train", dataset_dir=str(task), objective="weighted_cross_entropy_to_soft_dice_ce", **arguments, **SMALL
    )
    loss = workflow.parser.get_parsed_content("loss")
    assert type(loss) is loss_class("weighted_cross_entropy_to_soft_dice_ce")
    loss.set_length(20)
    assert (loss.starts, loss.names) == (starts, ["weighted_cross_entropy", "soft_dice_ce"])
    assert loss.parts["weighted_cross_entropy"].class_weight.numel() == 2  # counted in the labels


def test_the_overlay_of_a_schedule_of_ones_own(bundle: Path, task: Path) -> None:
    workflow = open_workflow(bundle, "train", "schedule", dataset_dir=str(task), **SMALL)
    loss = workflow.parser.get_parsed_content("loss")
    assert type(loss) is ScheduledLoss
    assert dict(zip(loss.starts, loss.names, strict=True)) == {
        0: "cross_entropy",
        50: "SoftJaccardCELoss",
        75: "lovasz_softmax",
    }
    assert loss.ramp == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss#objectives#75": "lovasz"},
            f"objective must be one of {', '.join(LOSSES)}, but is 'lovasz'. Did you mean 'lovasz_softmax'?",
        ),
        (
            {"loss#ramp": 30},
            "ramp must not be longer than an objective holds, but is 30 where SoftJaccardCELoss has the 25 epochs from 50 to "
            "75; shorten it, or move the epochs apart.",
        ),
    ],
)
def test_an_impossible_schedule_stops_before_training(
    changes: dict[str, Any], message: str, bundle: Path, task: Path
) -> None:
    with pytest.raises(RuntimeError) as failure:
        open_workflow(bundle, "train", "schedule", dataset_dir=str(task), **changes, **SMALL)
    causes = [failure.value, failure.value.__cause__, getattr(failure.value.__cause__, "__cause__", None)]
    assert message in [str(cause) for cause in causes]
    assert {path.name for path in bundle.iterdir()} <= {"configs", "docs", "LICENSE", "eval"}


def test_a_schedule_that_the_training_does_not_reach_warns(bundle: Path, task: Path) -> None:
    with pytest.warns(
        UserWarning,
        match=r"does not reach SoftJaccardCELoss \(50\), lovasz_softmax \(75\), because the training ends after epoch 1",
    ):
        run_workflow(bundle, "train", "schedule", dataset_dir=str(task), epochs=1, **SMALL)


def killed_in(epoch: int, root: Path, *arguments: str) -> None:
    """Starts a training, and ends it with SIGKILL after the first iteration of an epoch."""
    printed = root.parent / "printed"
    process = start_module("monai.bundle", ["run", *arguments], root, environment(), printed)
    begun = re.compile(rf"Epoch: {epoch}/\d+, Iter: 1/")
    while process.is_alive() and not begun.search(text_of(printed.with_suffix(".out"))):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


# The switch comes after 3 epochs of 6, and the ramp takes 2: the kill falls into the middle of it.
@slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_training_resumes_with_the_same_losses(
    num_workers: int, new_bundle: Callable[[], Path], task: Path
) -> None:
    settings = {**SMALL, "num_workers": num_workers, "objective": SCHEDULE, "epochs": 6, "loss#ramp": 2}
    arguments = (*TRAIN, *as_arguments(dataset_dir=task, **settings))
    whole, killed = new_bundle(), new_bundle()
    uninterrupted = run_bundle(whole, *arguments).stdout
    killed_in(5, killed, *arguments)
    resumed = run_bundle(killed, *arguments, "--resume", "True").stdout
    assert "after 4 epochs." in resumed
    for name in ("train_loss", "val_dice", "val_iou", "objective/lovasz_softmax"):
        values, rest = logged(name, uninterrupted), logged(name, resumed)
        assert len(rest) == len(values) // 3
        assert rest == values[-len(rest) :]
    for file in ("model.pt", "last.pt"):
        a, b = (torch.load(root / "models" / file, weights_only=True) for root in (whole, killed))
        assert same(a, b), file


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
