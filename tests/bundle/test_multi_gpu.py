"""multi_gpu_train.yaml under torchrun with two processes on the CPU; its scores are those of one process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from monai_surrogates.data import write_synthetic_task
from tests.bundle.runs import SMALL, as_arguments, logged, run_on_two_ranks, run_workflow

CONFIGS = "['configs/train.yaml','configs/multi_gpu_train.yaml']"


def torchrun(cwd: Path, **overrides: object) -> str:
    """What a training in two processes logs; rank 0 alone logs scores."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", CONFIGS, *as_arguments(**overrides)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def two_ranks(cwd: Path, **overrides: object) -> str:
    """The same, with two forked processes."""
    done = run_on_two_ranks(cwd, "--config_file", CONFIGS, *as_arguments(**overrides))
    log = "".join(each.stdout + each.stderr for each in done)
    assert [each.returncode for each in done] == [0, 0], log[-6000:]
    return log


# with three folds: more validating images than ranks, and fewer, so that the sampler repeats one
@pytest.mark.slow
@pytest.mark.parametrize(("start", "images", "validating"), [(torchrun, 14, 3), (two_ranks, 4, 1)])
def test_two_processes_score_as_one(
    new_bundle: Callable[[], Path], tmp_path: Path, start: Callable[..., str], images: int, validating: int
) -> None:
    task = write_synthetic_task(tmp_path / "task", seed=1, num_training=images, num_test=0, shape=(16, 16, 8))
    root = new_bundle()
    log = start(root, dataset_dir=task, epochs=1, **SMALL)
    alone = run_workflow(
        root,
        "train",
        "evaluate",
        dataset_dir=str(task),
        **SMALL,
        **{"validate#dataset#data": "$@splits.validation"},
    ).evaluator.state.metrics
    assert alone["val_dice/defined"] == validating
    for name in ("val_dice", "val_iou", "val_dice/defined"):
        assert logged(name, log) == [pytest.approx(alone[name], abs=5e-5)]
    assert ("val_dice: dropped 1 repeats among 2 images" in log) == (validating == 1)


@pytest.mark.slow
def test_two_processes_follow_a_schedule_and_resume_in_it(new_bundle: Callable[[], Path], task: Path) -> None:
    settings = {**SMALL, "dataset_dir": task, "objective": "cross_entropy_to_soft_dice", "val_interval": 5}
    settings |= {"loss#switch_epoch": 2, "loss#ramp": 1, "lr_scheduler#T_max": 3}
    whole, stopped = new_bundle(), new_bundle()
    log = two_ranks(whole, epochs=3, **settings)
    assert log.count("trains cross_entropy 0.5, soft_dice 0.5.") == 1  # rank 0 alone says it
    two_ranks(stopped, epochs=2, **settings)
    rest = two_ranks(stopped, epochs=3, resume=True, **settings)
    assert "after 2 epochs." in rest
    assert logged("train_loss", rest) == logged("train_loss", log)[-len(logged("train_loss", rest)) :]
    networks = [torch.load(root / "models" / "last.pt", weights_only=True)["model"] for root in (whole, stopped)]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
