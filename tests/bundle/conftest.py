from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.utils import set_determinism

import monai_surrogates
from monai_surrogates.data import write_synthetic_task

SHIPPED = Path(monai_surrogates.__file__).parent / "bundle"


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The bundle inside the package; not to be written to."""
    return SHIPPED


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images with labels and two without."""
    root = tmp_path_factory.mktemp("data") / "task"
    return write_synthetic_task(root, seed=1, num_training=6, num_test=2, shape=(16, 16, 8))


@pytest.fixture(scope="session")
def new_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes fresh copies of the shipped bundle."""
    return lambda: Path(shutil.copytree(SHIPPED, tmp_path_factory.mktemp("bundle") / "bundle"))


@pytest.fixture
def bundle(new_bundle: Callable[[], Path]) -> Path:
    """A fresh copy of the shipped bundle."""
    return new_bundle()


@pytest.fixture(autouse=True)
def same_process_state() -> Iterator[None]:
    """A workflow that runs in this process seeds the generators and puts its folder on sys.path: both are taken back."""
    path, states = sys.path.copy(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    yield
    set_determinism(seed=None)
    sys.path[:] = path
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
