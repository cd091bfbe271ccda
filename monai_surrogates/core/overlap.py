"""Count the overlap once, read it many ways: the three counts behind every loss and every score."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from monai_surrogates.core.activation import PROBABILITIES, Activation, precise_sigmoid, probabilities_of
from monai_surrogates.core.distributed import rank_sum
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.kernels.operators import has_kernel
from monai_surrogates.core.kernels.overlap import tiled_softmax_overlap
from monai_surrogates.core.sums import class_sum, voxel_sum


class Overlap(NamedTuple):
    """The counts of an image and a class behind Dice, IoU and Tversky.

    Attributes:
        intersection: I = |A ∩ B|, in voxels; the soft form is ⟨p, y⟩.
        prediction: |A|, the predicted volume in voxels; the soft form is Σp, or Σp² when squared.
        reference: |B|, the reference volume in voxels; Σy, or Σy² when squared.
    """

    intersection: Tensor
    prediction: Tensor
    reference: Tensor

    def plus(self, other: Overlap) -> Overlap:
        """The counts of both, as those of two slabs of one image: |A ∩ B|, |A| and |B| add up.

        Examples:
            >>> import torch
            >>> slab = Overlap(*torch.tensor([1, 2, 3]))
            >>> slab.plus(slab).reference
            tensor(6)
        """
        return Overlap(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def __add__(self, other: object) -> NoReturn:
        """Tuples would be strung together, here and below."""
        raise TypeError("counts are added up by overlap.plus(other), or by overlap.pooled() over a batch.")

    def __radd__(self, other: object) -> NoReturn:
        self.__add__(other)

    def __mul__(self, other: object) -> NoReturn:
        self.__add__(other)

    def __rmul__(self, other: object) -> NoReturn:
        self.__add__(other)

    def pooled(self, sync: bool = False) -> Overlap:
        """The counts of the whole batch taken as one image, shape (1, C); with ``sync`` of the batches of all ranks."""
        counts = torch.stack(list(self)).sum(1, keepdim=True)
        return Overlap(*(rank_sum(counts) if sync else counts))


def overlap_of(
    voxels: Voxels,
    activation: Activation = PROBABILITIES,
    *,
    squared: bool = False,
    soft_label: bool = False,
    two_class: bool = False,
) -> Overlap:
    """Differentiable counts of a network's output: by a kernel where there is one, otherwise by their definition.

    Args:
        voxels: the network's output and the reference; see :class:`~monai_surrogates.core.inputs.Voxels`.
        activation: from the output to probabilities.
        squared: squared volumes; see :func:`soft_overlap`.
        soft_label: the form for soft references; see :func:`soft_overlap`.
        two_class: a single channel is scored as two classes.

    Returns:
        float64 counts of shape (B, C).

    Examples:
        >>> import torch
        >>> from monai_surrogates.core.activation import read_activation
        >>> overlap_of(Voxels(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]), None), read_activation(softmax=True)).intersection
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    x, of_softmax = voxels.input, activation.kind == "softmax"
    if of_softmax and voxels.is_label_map and has_kernel("softmax_overlap", x.device, x.numel()):
        return softmax_overlap(voxels, squared=squared)
    if activation.function is not None:
        voxels = voxels.zeroed()  # an activation sees no removed voxel; soft_overlap itself leaves out theirs
    p = probabilities_of(voxels, activation, two_class=two_class)
    complement = None
    if squared and activation.kind == "sigmoid":
        complement = p.input.flip(1) if two_class else precise_sigmoid(-voxels.input)
    return soft_overlap(p, squared=squared, soft_label=soft_label, of_softmax=of_softmax, complement=complement)


def soft_overlap(
    voxels: Voxels,
    *,
    squared: bool = False,
    soft_label: bool = False,
    of_softmax: bool = False,
    complement: Tensor | None = None,
) -> Overlap:
    """Differentiable counts of probabilities against a label map or one value per class.

    I = ⟨p, y⟩, |p| = Σp, |y| = Σy; with ``squared`` Σp² and Σy². With ``soft_label``
    I = (‖p‖₁ + ‖y‖₁ − ‖p − y‖₁)/2, which equals ⟨p, y⟩ on hard labels and makes the loss of a perfect soft prediction 0.

    Args:
        voxels: probabilities and reference; see :class:`~monai_surrogates.core.inputs.Voxels`.
        squared: squared volumes, for Milletari's form of Dice.
        soft_label: the form that is right for soft references (the squared form already is).
        of_softmax: the probabilities of a voxel add up to 1.
        complement: 1 − p with the digits that p near 1 has lost, (B, C, N). Either of the two keeps the digits of squared
            counts near a perfect prediction, where 1 − 2I/(Σp² + Σy²) and its slopes cancel.

    Returns:
        float64 counts of shape (B, C).

    References:
        Wang et al., Jaccard Metric Losses, NeurIPS 2023 (arXiv 2302.05666).

    Examples:
        >>> import torch
        >>> p = torch.tensor([[[0.75, 0.5], [0.25, 0.5]]])
        >>> soft_overlap(Voxels(p, torch.tensor([[0, 1]]), None)).intersection
        tensor([[0.7500, 0.5000]], dtype=torch.float64)
    """
    p = voxels.zeroed().input
    if squared and (of_softmax or complement is not None):
        of_target = _squared_label_map_overlap if voxels.is_label_map else _squared_mask_overlap
        return of_target(p, voxels, complement)
    volume = voxel_sum(p * p if squared else p)
    if voxels.is_label_map:
        return Overlap(*_label_map_overlap(p, volume, voxels))
    y = voxels.target
    reference = voxel_sum(y * y if squared else y)
    if soft_label and not squared:
        # (p + y − |p − y|)/2 = min(p, y); hard labels take py, so that a perfect prediction has the gradient of ⟨p, y⟩ there
        shared = torch.where((y == 0) | (y == 1), p * y, torch.minimum(p, y))
        return Overlap(voxel_sum(shared), volume, reference)
    return Overlap(voxel_sum(p * y), volume, reference)


def softmax_overlap(logits: Voxels, *, squared: bool = False) -> Overlap:
    """The counts of softmax(logits) against a label map, without a tensor of probabilities; for devices with a kernel.

    Args:
        logits: logits (B, C, N) and labels; see :class:`~monai_surrogates.core.inputs.Voxels`.
        squared: squared volumes.

    Returns:
        The counts of :func:`soft_overlap`, to rounding.

    Examples:
        >>> import torch
        >>> softmax_overlap(Voxels(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]), None)).intersection
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    return Overlap(*tiled_softmax_overlap(logits.input, logits.target, logits.valid, squared))


def _squared_label_map_overlap(p: Tensor, voxels: Voxels, complement: Tensor | None) -> Overlap:
    """From the errors e = 1 − p_y, under softmax Σ_{k≠y} p_k: I = Σ (1 − e), and the own share of Σp² is Σ (1 − 2e + e²)."""
    labels, num_classes = voxels.target.long(), p.shape[1]  # torch indexes by int64
    others = p.scatter(1, labels.unsqueeze(1), 0)
    errors = others.sum(1) if complement is None else complement.gather(1, labels.unsqueeze(1)).squeeze(1)
    counted = torch.ones_like(errors) if voxels.valid is None else voxels.valid.to(errors.dtype)
    errors = errors if voxels.valid is None else torch.where(voxels.valid, errors, 0)
    reference, missed, squares = (class_sum(x, labels, num_classes) for x in (counted, errors, errors * errors))
    volume = voxel_sum(others * others) + reference - 2 * missed + squares
    return Overlap(reference - missed, volume, reference)


def _squared_mask_overlap(p: Tensor, voxels: Voxels, complement: Tensor | None) -> Overlap:
    """The same of one value per class, for those that are 1; under softmax where they are the only one of their voxel."""
    y = voxels.target
    own = y == 1
    if complement is None:
        own, complement = own & (y.sum(1, keepdim=True) == 1), (p * (1 - y)).sum(1, keepdim=True)
    errors, others = torch.where(own, complement, 0), torch.where(own, 0, p)
    size, missed, squares = (voxel_sum(x) for x in (own.to(p.dtype), errors, errors * errors))
    volume = voxel_sum(others * others) + size - 2 * missed + squares
    return Overlap(voxel_sum(others * y) + size - missed, volume, voxel_sum(y * y))


def _label_map_overlap(p: Tensor, volume: Tensor, voxels: Voxels) -> tuple[Tensor, Tensor, Tensor]:
    labels = voxels.target.long()  # torch indexes by int64
    p_y = p.gather(1, labels.unsqueeze(1)).squeeze(1)  # the probability of each voxel's own class
    ones = torch.ones_like(p_y) if voxels.valid is None else voxels.valid.to(p_y.dtype)
    own, reference = (class_sum(x, labels, p.shape[1]) for x in (p_y, ones))
    return own, volume, reference
