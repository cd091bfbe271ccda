"""Count the overlap once, read it many ways: the three counts behind every loss and every score."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_surrogates.core.distributed import rank_sum
from monai_surrogates.core.inputs import ShapeMismatchError, Voxels, check_labels


class Overlap(NamedTuple):
    """What an image and a class contribute to Dice, IoU and Tversky.

    Attributes:
        intersection: I = |A ∩ B|, in voxels; the soft form is ⟨p, y⟩.
        prediction: |A|, the predicted volume in voxels; the soft form is Σp, or Σp² when squared.
        reference: |B|, the reference volume in voxels; Σy, or Σy² when squared.
    """

    intersection: Tensor
    prediction: Tensor
    reference: Tensor

    def pooled(self, sync: bool = False) -> Overlap:
        """The counts of the whole batch taken as one image, shape (1, C); with ``sync`` of the batches of all ranks."""
        counts = torch.stack(list(self)).sum(1, keepdim=True)
        return Overlap(*(rank_sum(counts) if sync else counts))


def soft_overlap(voxels: Voxels, *, squared: bool = False, soft_label: bool = False) -> Overlap:
    """Differentiable counts of probabilities against a label map or one value per class.

    I = ⟨p, y⟩, |p| = Σp, |y| = Σy; with ``squared`` Σp² and Σy². With ``soft_label``
    I = (‖p‖₁ + ‖y‖₁ − ‖p − y‖₁)/2, which equals ⟨p, y⟩ on hard labels and makes the loss of a perfect soft prediction 0.

    Args:
        voxels: probabilities and reference; see :class:`~monai_surrogates.core.inputs.Voxels`.
        squared: squared volumes, for Milletari's form of Dice.
        soft_label: the form that is right for soft references (the squared form already is).

    Returns:
        Counts of shape (B, C), in the type of the probabilities.

    References:
        Wang et al., Jaccard Metric Losses, NeurIPS 2023 (arXiv 2302.05666).

    Examples:
        >>> import torch
        >>> p = torch.tensor([[[0.75, 0.5], [0.25, 0.5]]])
        >>> soft_overlap(Voxels(p, torch.tensor([[0, 1]]), None)).intersection
        tensor([[0.7500, 0.5000]])
    """
    p = voxels.input if voxels.valid is None else torch.where(voxels.valid.unsqueeze(1), voxels.input, 0)
    volume = (p * p if squared else p).sum(-1)
    if voxels.is_label_map:
        return Overlap(*_label_map_overlap(p, volume, voxels))
    y = voxels.target
    reference = (y * y if squared else y).sum(-1)
    if soft_label and not squared:
        # (p + y − |p − y|)/2 = min(p, y); hard labels take py, so that a perfect prediction has the gradient of ⟨p, y⟩ there
        shared = torch.where((y == 0) | (y == 1), p * y, torch.minimum(p, y))
        return Overlap(shared.sum(-1), volume, reference)
    return Overlap((p * y).sum(-1), volume, reference)


def _label_map_overlap(p: Tensor, volume: Tensor, voxels: Voxels) -> tuple[Tensor, Tensor, Tensor]:
    labels = voxels.target
    p_y = p.gather(1, labels.unsqueeze(1)).squeeze(1)  # the probability of each voxel's own class
    ones = torch.ones_like(p_y) if voxels.valid is None else voxels.valid.to(p_y.dtype)
    # scatter_add_ adds one by one: in float32 it is 5e-5 off at 96³ voxels, so these two sums are taken in float64.
    zeros = torch.zeros(p.shape[:2], dtype=torch.float64, device=p.device)
    intersection = zeros.scatter_add(1, labels, p_y.double()).to(p.dtype)
    return intersection, volume, zeros.scatter_add(1, labels, ones.double()).to(p.dtype)


def hard_overlap(prediction: Tensor, reference: Tensor, num_classes: int | None = None) -> Overlap:
    """Count the voxels of each image and class, exactly.

    Args:
        prediction: label map (B, N), int64, or mask per class (B, C, N), bool.
        reference: likewise, in the same form.
        num_classes: C, for label maps.

    Returns:
        int64 counts of shape (B, C).

    Raises:
        ShapeMismatchError: the two have different shapes.
        ValueError: a label outside 0..C-1, or label maps without ``num_classes``.

    Examples:
        >>> import torch
        >>> hard_overlap(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]]), num_classes=2)
        Overlap(intersection=tensor([[1, 1]]), prediction=tensor([[1, 2]]), reference=tensor([[2, 1]]))
    """
    if prediction.shape != reference.shape:
        raise ShapeMismatchError(
            f"prediction and reference must have the same shape, but have {tuple(prediction.shape)} and "
            f"{tuple(reference.shape)}; crop or resample one of the two."
        )
    if num_classes is None:
        if prediction.dtype != torch.bool or reference.dtype != torch.bool:
            raise ValueError(
                f"masks must be bool, but are {prediction.dtype} and {reference.dtype}; give num_classes for label maps."
            )
        intersection = torch.count_nonzero(prediction & reference, dim=-1)
        return Overlap(intersection, torch.count_nonzero(prediction, dim=-1), torch.count_nonzero(reference, dim=-1))
    for name, labels in (("prediction", prediction), ("reference", reference)):
        check_labels(labels, num_classes, name)
    batch = prediction.shape[0]
    images = torch.arange(batch, device=prediction.device).unsqueeze(1)
    cells = (images * num_classes + reference) * num_classes + prediction
    table = torch.bincount(cells.flatten(), minlength=batch * num_classes**2)
    confusion = table.view(batch, num_classes, num_classes)  # image, reference, prediction
    return Overlap(confusion.diagonal(dim1=1, dim2=2), confusion.sum(1), confusion.sum(2))
