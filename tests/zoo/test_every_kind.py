"""Bundles x objectives x handlers: every cell trains; scores of our handlers are MONAI's; the command line runs each kind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from monai_surrogates._names import LOSSES, SCHEDULES
from tests.bundle.runs import logged, run_bundle
from tests.processes import CONTEXT
from tests.zoo.kinds import KINDS, make_bundle
from tests.zoo.training import train_cells

OWN = "(its own)"
OBJECTIVES: dict[str, str | None] = {OWN: None, **LOSSES, **SCHEDULES}
HANDLERS = {
    "MONAI's": {},
    "ours": {
        "MeanDice": "monai_surrogates.handlers.PerImageDice",
        "MeanIoUHandler": "monai_surrogates.handlers.PerImageIoU",
    },
    "PerImageSummary": {"MeanDice": "monai_surrogates.handlers.PerImageSummary"},
}
CELLS = [(objective, handlers) for objective in OBJECTIVES for handlers in ("MONAI's", "ours")]
CELLS.append((OWN, "PerImageSummary"))

Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A bundle of a kind, made once."""
    return cache(lambda kind: make_bundle(KINDS[kind], tmp_path_factory.mktemp("zoo") / kind))


@pytest.fixture(scope="module")
def trained(bundle: Callable[[str], Path]) -> Callable[[str], Outcomes]:
    """The outcomes of all cells of a kind, trained once in one process."""

    @cache
    def outcomes_or_failure(kind: str) -> Outcomes | str:
        root = bundle(kind)
        output = root / "outcomes.json"
        cells = {
            f"{objective}, {handlers}": (OBJECTIVES[objective], HANDLERS[handlers]) for objective, handlers in CELLS
        }
        process = CONTEXT.Process(target=train_cells, args=(KINDS[kind], str(root), cells, str(output)))
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
        if process.exitcode != 0:
            return f"the process of {kind} ended with {process.exitcode} (None: not within 300 s)"
        outcomes: Outcomes = json.loads(output.read_text(encoding="utf-8"))
        return outcomes

    def trained(kind: str) -> Outcomes:
        found = outcomes_or_failure(kind)
        assert not isinstance(found, str), found
        return found

    return trained


def loss_block(root: Path, kind: str) -> dict[str, Any]:
    block: dict[str, Any] = ConfigParser.load_config_file(root / "configs" / "train.json")[KINDS[kind].loss]
    return block


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "handlers"), CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_under_every_objective_with_any_handlers(
    kind: str,
    objective: str,
    handlers: str,
    bundle: Callable[[str], Path],
    trained: Callable[[str], Outcomes],
    record_property: Callable[[str, object], None],
) -> None:
    record_property("zoo", (kind, objective, handlers))
    outcome = trained(kind)[f"{objective}, {handlers}"]
    block = loss_block(bundle(kind), kind)
    if objective == "lovasz_hinge" and block.get("softmax"):  # an exception that the README names
        assert "softmax and other_act must not be set" in outcome["error"]
        pytest.skip("a hinge of structures has no softmax")
    assert "error" not in outcome, outcome["error"]
    path = OBJECTIVES[objective] or block["_target_"]
    assert outcome["loss"] == path.rpartition(".")[2]
    assert len(outcome["losses"]) == 2
    assert all(map(math.isfinite, outcome["losses"]))
    assert outcome["learnt"]
    assert outcome["scores"] == pytest.approx(trained(kind)[f"{objective}, MONAI's"]["scores"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_switches_every_kind_by_its_target_alone(kind: str, bundle: Callable[[str], Path]) -> None:
    target = f"--{KINDS[kind].loss}#_target_"
    done = run_bundle(
        bundle(kind),
        *("--config_file", "configs/train.json", "--run_id", KINDS[kind].run),
        *(target, "monai_surrogates.losses.LovaszSoftmaxLoss"),
    )
    losses = logged("train_loss", done.stdout)
    assert len(losses) == 2
    assert all(0 <= loss <= 1 for loss in losses)
