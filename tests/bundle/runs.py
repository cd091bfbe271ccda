"""How the tests start a bundle: as a user does, in a process of its own, or as a workflow in this process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from tests.processes import completed, free_port, run_module, start_module

# What makes a run small; the network halves each axis three times.
PATCH = [16, 16, 8]
SMALL = {"patch_size": PATCH, "folds": 3, "num_workers": 0, "val_interval": 1}
# Tolerance of the logged losses of two processes: they have four decimals, and training amplifies the rounding of threads.
LOGGED = 2e-4


def as_arguments(**overrides: Any) -> list[str]:
    """Overrides as on the command line, --name value."""
    return [word for name, value in overrides.items() for word in (f"--{name}", str(value).replace(" ", ""))]


def environment() -> dict[str, str]:
    """What a process of a run finds in its environment."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}


def run_bundle(cwd: Path, *args: str, check: bool = True, anew: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m monai.bundle run ...`` in the folder cwd; with check, a failure shows the end of its log.

    The process is forked from one that has imported MONAI, or started anew, as a shell does.
    """
    arguments = ["run", *map(str, args)]
    if anew:
        command, settings = [sys.executable, "-m", "monai.bundle", *arguments], {"cwd": cwd, "env": environment()}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **settings)
    else:
        done = run_module("monai.bundle", arguments, cwd, environment())
    if check:
        shown = f"{' '.join(arguments)}\n--- stdout\n{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-3000:]}"
        assert done.returncode == 0, f"exit code {done.returncode} of {shown}"
    return done


def run_on_two_ranks(cwd: Path, *args: str) -> list[subprocess.CompletedProcess[str]]:
    """Runs ``python -m monai.bundle run ...`` in two forked processes, in the environment that torchrun gives."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    arguments = ["run", *map(str, args)]
    outputs = [cwd.parent / f"rank{rank}" for rank in range(2)]
    ranks = [{**environment(), **meeting, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    processes = [start_module("monai.bundle", arguments, cwd, *rank) for rank in zip(ranks, outputs, strict=True)]
    return [completed(process, arguments, output) for process, output in zip(processes, outputs, strict=True)]


def logged(name: str, stdout: str) -> list[float]:
    """Every value of a name in the log, such as train_loss (one per iteration) or val_dice (one per epoch)."""
    return [float(value) for value in re.findall(rf" -- (?:.* )?{name}: (\S+)", stdout)]


def warnings_in(stderr: str) -> list[str]:
    """The warnings of a run, without MONAI's remark that a config is code."""
    return [line for line in stderr.splitlines() if "Warning:" in line and "Only proceed if this config" not in line]


def open_workflow(root: Path, *configs: str, workflow_type: str = "train", **overrides: Any) -> ConfigWorkflow:
    """Parses configs of the bundle in the folder root, by their names without suffix, in this process."""
    workflow = ConfigWorkflow(
        config_file=[str(root / "configs" / f"{name}.yaml") for name in configs],
        workflow_type=workflow_type,
        logging_file=False,  # logging.conf would replace pytest's handlers
        bundle_root=str(root),
        **overrides,
    )
    workflow.initialize()
    return workflow


def run_workflow(root: Path, *configs: str, workflow_type: str = "train", **overrides: Any) -> ConfigWorkflow:
    """Runs configs of the bundle in the folder root to their end, in this process."""
    workflow = open_workflow(root, *configs, workflow_type=workflow_type, **overrides)
    workflow.run()
    workflow.finalize()
    return workflow


def training_losses(root: Path, **overrides: Any) -> list[float]:
    """The loss of every iteration of a training in this process."""
    workflow = open_workflow(root, "train", **overrides)
    losses: list[float] = []
    workflow.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output[0]["loss"]))
    )
    workflow.run()
    workflow.finalize()
    return losses
