"""One process per kind: its config is parsed and trained for one epoch under each objective, with each set of handlers."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ComponentLocator, ConfigWorkflow
from monai.utils import set_determinism

from tests.zoo.kinds import Kind

MONAI_SCORES = ("MeanDice", "MeanIoUHandler")


def train_cells(kind: Kind, root: str, cells: Mapping[str, tuple[str | None, Mapping[str, str]]], output: str) -> None:
    """Trains each cell, the target of its loss and those in the place of MONAI's scores, and writes the outcomes as JSON."""
    torch.set_num_threads(1)
    os.chdir(root)
    locator = ComponentLocator()  # reads all of MONAI, once for all cells
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        outcomes = {name: outcome_of(kind, locator, *cell) for name, cell in cells.items()}
    Path(output).write_text(json.dumps(outcomes), encoding="utf-8")


def outcome_of(kind: Kind, locator: ComponentLocator, target: str | None, scores: Mapping[str, str]) -> dict[str, Any]:
    """The outcome of a training, or the error that ended it with its causes."""
    set_determinism(seed=0)
    try:
        return train(kind, locator, target, scores)
    except Exception as error:
        return {"error": " <- ".join(f"{type(cause).__name__}: {cause}" for cause in causes(error))}


def train(kind: Kind, locator: ComponentLocator, target: str | None, scores: Mapping[str, str]) -> dict[str, Any]:
    """Trains one epoch with nothing but targets exchanged, as on the command line."""
    workflow = ConfigWorkflow("configs/train.json", logging_file=False, run_id=kind.run)
    found = dict(scores_in(workflow.parser.get()))
    exchanged = {f"{where}#_target_": scores[name] for where, name in found.items() if name in scores}
    workflow.parser.update(exchanged | ({f"{kind.loss}#_target_": target} if target else {}))
    workflow.parser.locator = locator
    workflow.initialize()
    trainer, evaluator = (workflow.parser.get_parsed_content(name) for name in (kind.trainer, kind.evaluator))
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output[0]["loss"]))
    )
    workflow.run()
    workflow.finalize()
    return {
        "loss": type(trainer.loss_function).__name__,
        "losses": losses,
        "learnt": any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True)),
        "scores": {
            name: float((trainer.state.metrics | evaluator.state.metrics)[name])
            for name in (where.rpartition("#")[2] for where in found)
        },
    }


def scores_in(config: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """The id and the class of each of MONAI's scores in a config."""
    if isinstance(config, dict):
        name = str(config.get("_target_", "")).rpartition(".")[2]
        if name in MONAI_SCORES:
            yield where, name
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, item in items:
        yield from scores_in(item, f"{where}#{key}" if where else str(key))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__
