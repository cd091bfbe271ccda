"""The losses on a patch without foreground are the closed forms; the first tutorial's table is tested with the tutorials."""

from pathlib import Path

import pytest
import torch

from monai_surrogates.losses import OBJECTIVES, make_loss
from tests.empty_patch import LESION_VOLUME, ROWS, VOXELS, P, lesion_alone, with_background

ROOT = Path(__file__).parent.parent
SMOOTHING = {
    "-": {},
    "default": {},
    "smooth_nr=0": {"smooth_nr": 0},
    "structure_volume": {"smoothing": "structure_volume", "structure_volumes": [VOXELS, LESION_VOLUME]},
}


def computed(objective, classes, smoothing, include_background):
    """Loss and dL/dt of the module."""
    arguments = {"softmax": True, "to_onehot_y": True, "class_counts": [990, 10], **SMOOTHING[smoothing]}
    if classes != "-":
        arguments |= {"classes": classes, "include_background": include_background}
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    lesion = (t + torch.tensor(P, dtype=torch.float64).logit()).expand(1, 1, 32, 32, 32)
    value = make_loss(objective, **arguments)(
        torch.cat([torch.zeros_like(lesion), lesion], 1), torch.zeros(1, 1, 32, 32, 32)
    )
    (slope,) = torch.autograd.grad(value, t)
    return value.item(), slope.item()


@pytest.mark.parametrize("row", ROWS, ids=", ".join)
def test_loss_and_gradient_are_the_closed_forms(row):
    assert computed(*row, include_background=False) == pytest.approx(lesion_alone(*row), rel=1e-6, abs=1e-12)
    assert computed(*row, include_background=True) == pytest.approx(with_background(*row), rel=1e-6, abs=1e-12)


def test_every_objective_has_its_rows():
    assert {objective for objective, *_ in ROWS} == {*OBJECTIVES}
