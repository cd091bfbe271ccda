"""The data of a case: the same in every process."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tests.benchmark.cases import Case

SEED = 0


def make_inputs(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Logits (B, C, spatial...) with a gradient to come, and an int64 label map (B, 1, spatial...).

    For a score two label maps: the reference, and a prediction that is the same moved by two voxels.
    """
    random = torch.Generator().manual_seed(SEED)
    reference = torch.stack([label_map(case, random) for _ in range(case.batch)]).unsqueeze(1)
    if case.dtype is not None:
        reference = reference.to(getattr(torch, case.dtype))
        return reference.roll(2, -1).contiguous().to(device), reference.to(device)
    logits = torch.randn(case.batch, case.classes, *case.shape, generator=random).mul_(2)
    return logits.to(device).requires_grad_(), reference.to(device)


def label_map(case: Case, random: torch.Generator) -> Tensor:
    """Connected structures, as organs are, every class present: a voxel belongs to the nearest of C − 1 random centres.

    Beyond a radius it is background. Structures fill about 1 % of the image at two classes, at most half of it at more.
    """
    structures, dimensions = case.classes - 1, len(case.shape)
    volume = (0.01 if structures == 1 else 0.5) * case.image_voxels / structures
    unit_ball = math.pi ** (dimensions / 2) / math.gamma(dimensions / 2 + 1)
    labels = torch.zeros(case.shape, dtype=torch.int64)
    nearest = torch.full(
        case.shape, (volume / unit_ball) ** (2 / dimensions)
    )  # squared radius of a ball of that volume
    steps = [torch.from_numpy(axis).float() for axis in np.ogrid[tuple(map(slice, case.shape))]]
    for number, voxel in enumerate(torch.randperm(labels.numel(), generator=random)[:structures].tolist(), start=1):
        centre = np.unravel_index(voxel, case.shape)
        distance = sum((axis - int(c)).square() for axis, c in zip(steps, centre, strict=True))
        closer = (distance < nearest) | (distance == 0)
        labels[closer], nearest[closer] = number, distance[closer]
    return labels
