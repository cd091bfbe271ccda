"""The Lovász extension of the Jaccard loss (Berman et al., CVPR 2018, arXiv 1705.08790)."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.activation import PROBABILITIES, Activation, probabilities_of
from monai_surrogates.core.distributed import is_shared, rank_concat, rank_sum, rank_total
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.kernels.lovasz import operator_of, tiled_lovasz_binned
from monai_surrogates.core.kernels.operators import has_kernel
from monai_surrogates.core.sums import class_sum, voxel_sum

METHODS = ("auto", "sort", "bins")
FEW_PER_BIN = 2  # voxels per bin up to which sorting costs about as little as bins do
VOXELS_PER_BIN = 16  # on average at least, where nobody asks for more bins: tables then cost less than the voxels
FEW_BINS, MANY_BINS = 256, 4096
MANY = 2**62  # numbers or voxels, where their true number may not decide


def lovasz_of(
    voxels: Voxels,
    activation: Activation = PROBABILITIES,
    *,
    method: str = "auto",
    bins: int | None = None,
    batch: bool = False,
    sync: bool = False,
    two_class: bool = False,
) -> tuple[Tensor, Tensor]:
    """Lovász extension of 1 − IoU in the errors |p − y|: sorted or in bins, by a kernel where there is one.

    Args:
        voxels: a network's output and the reference, label map or masks; see :class:`~monai_surrogates.core.inputs.Voxels`.
        activation: from the output to probabilities.
        method: ``"sort"`` is exact, ``"bins"`` takes linear time, ``"auto"`` sorts up to two voxels per bin, and errors that
            may lie outside [0, 1].
        bins: number of bins of [0, 1]; by default 4096, but at most one for 16 voxels of the image, and at least 256. One or
            two channels get four times as many as given, or up to four times as many by default.
        batch: the items make one image.
        sync: with ``batch``, and so do those of all ranks.
        two_class: a single channel is scored as two classes.

    Returns:
        The loss, and the reference volume in voxels: float64, (B, C), or (1, C) of the batch.

    Examples:
        >>> import torch
        >>> p = torch.tensor([[[3 / 4, 1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 2, 3 / 4, 7 / 8]]])
        >>> lovasz_of(Voxels(p, torch.tensor([[0, 1, 1, 0]]), None))[0].mean()  # 55/96
        tensor(0.5729, dtype=torch.float64)
    """
    x, of_softmax = voxels.input, activation.kind == "softmax"
    chosen = _bins_or_sort(voxels, activation, method, bins, batch, sync)
    numbers = MANY if sync and is_shared() else x.numel()  # ranks choose alike: the forms send different histograms
    kernel = operator_of(x.shape[1])
    if chosen is not None and of_softmax and voxels.is_label_map and has_kernel(kernel, x.device, numbers):
        return tiled_lovasz_binned(x, voxels.target, voxels.valid, bins=chosen, batch=batch, sync=sync)
    p = probabilities_of(voxels.zeroed(), activation, two_class=two_class)
    errors, reference = absolute_errors(p, alike=of_softmax and x.shape[1] == 2)
    return lovasz_of_errors(errors, reference, p.valid, bins=chosen, batch=batch, sync=sync)


def lovasz_hinge_of(voxels: Voxels, *, batch: bool = False, sync: bool = False) -> tuple[Tensor, Tensor]:
    """Lovász extension of 1 − IoU in the hinge errors of logits, exact; arguments and results as in :func:`lovasz_of`.

    Examples:
        >>> import torch
        >>> lovasz_hinge_of(Voxels(torch.tensor([[[-1.0, 0.5, -0.25]]]), torch.zeros(1, 1, 3), None))[0]  # max(0, 1 + x)
        tensor([[1.5000]], dtype=torch.float64)
    """
    errors, reference = hinge_errors(voxels.zeroed())
    return lovasz_of_errors(errors, reference, voxels.valid, bins=None, batch=batch, sync=sync)


def _bins_or_sort(
    voxels: Voxels, activation: Activation, method: str, bins: int | None, batch: bool, sync: bool
) -> int | None:
    """Number of bins, None for sorting; the size of the image, collective under ``sync``, is asked for once at most."""
    if method == "sort" or (method == "auto" and not activation.is_bounded):
        return None
    # one or two channels have few errors to count, and large ones: there finer bins cost little and are worth it
    finer = 4 if voxels.input.shape[1] <= 2 else 1
    if method == "bins" and bins is not None:
        return finer * bins
    size = _voxels_of_image(voxels, batch, sync)
    chosen = finer * bins if bins is not None else max(FEW_BINS, min(finer * MANY_BINS, size // VOXELS_PER_BIN))
    return None if method == "auto" and size <= FEW_PER_BIN * chosen else chosen


def _voxels_of_image(voxels: Voxels, batch: bool, sync: bool) -> int:
    """Voxels of an image, with ``batch`` of the batch, and with ``sync`` of those of all ranks, so that they choose alike."""
    items, _, size = voxels.input.shape
    size *= items if batch else 1
    if not (sync and is_shared()):
        return size
    # on a GPU, where reading it would wait: large
    return MANY if voxels.input.is_cuda else int(rank_total(torch.tensor(size)))


def absolute_errors(p: Voxels, *, alike: bool = False) -> tuple[Tensor, Tensor]:
    """|p − y| of each voxel and class, (B, C, N), and the reference: labels (B, 1, N), or masks (B, C, N), bool.

    Args:
        p: probabilities and the reference.
        alike: p₁ = 1 − p₀, so that both classes have the same errors.
    """
    if not p.is_label_map:
        return (p.input - p.target).abs(), p.target > 0.5
    labels = p.target.long().unsqueeze(1)
    if alike:
        return (p.input[:, 1:] - labels).abs().expand_as(p.input), labels
    return p.input.scatter(1, labels, 1 - p.input.gather(1, labels)).abs(), labels


def hinge_errors(logits: Voxels) -> tuple[Tensor, Tensor]:
    """max(0, 1 − x) in the reference and max(0, 1 + x) outside; results as in :func:`absolute_errors`."""
    x = logits.input
    if not logits.is_label_map:
        y = logits.target > 0.5
        return torch.where(y, 1 - x, 1 + x).clamp_min(0), y
    labels = logits.target.long().unsqueeze(1)
    return (1 + x).scatter(1, labels, 1 - x.gather(1, labels)).clamp_min(0), labels


def lovasz_of_errors(
    errors: Tensor, reference: Tensor, valid: Tensor | None, *, bins: int | None, batch: bool, sync: bool
) -> tuple[Tensor, Tensor]:
    """Lovász extension of 1 − IoU in any errors, by sorting or, with ``bins``, of errors in [0, 1]; see :func:`lovasz_of`."""
    num_classes = errors.shape[1]
    valid = None if valid is None else valid.unsqueeze(1)
    if batch:
        errors, reference = _one_image(errors), _one_image(reference)
        valid = None if valid is None else _one_image(valid)
    volume = _volume(reference, valid, num_classes)
    volume = rank_sum(volume) if sync else volume
    if bins is not None:
        return lovasz_jaccard_binned(errors, reference, valid, bins=bins, sync=sync), volume
    if sync:  # sorting needs the voxels of all ranks in one place
        errors, reference, *rest = rank_concat(errors, reference, *([] if valid is None else [valid]))
        valid = rest[0] if rest else None
    return lovasz_jaccard(errors, reference, valid), volume


def _volume(reference: Tensor, valid: Tensor | None, num_classes: int) -> Tensor:
    """Voxels of each item and class, (B, C)."""
    if reference.dtype == torch.bool:
        return (reference if valid is None else reference & valid).sum(-1).double()
    ones = torch.ones_like(reference, dtype=torch.bool) if valid is None else valid
    return class_sum(ones[:, 0], reference[:, 0], num_classes)


def _one_image(x: Tensor) -> Tensor:
    """(B, C, N) → (1, C, B·N): the batch as one image."""
    return x.transpose(0, 1).flatten(1).unsqueeze(0)


def lovasz_jaccard(errors: Tensor, reference: Tensor, valid: Tensor | None = None) -> Tensor:
    """Lovász extension of 1 − IoU: Σ m_(i) w_i over errors m sorted to fall, exact, by sorting.

    At ties every order gives the same loss and a subgradient; which one is up to the sort.

    Args:
        errors: (..., N), |p − y| per voxel, or hinge errors cut off at 0.
        reference: (..., N) bool; or for errors (B, C, N) labels (B, 1, N), row c being the one of label c.
        valid: broadcastable to (..., N) bool, False for removed voxels; None if all count.

    Returns:
        One loss per row, float64, shape (...): 1 − IoU at hard predictions, max(p) if the reference is empty, 0 if no voxel
        counts.

    Examples:
        >>> import torch
        >>> y = torch.tensor([True, True, False, False])
        >>> lovasz_jaccard((torch.tensor([0.9, 0.4, 0.3, 0.1]) - y.float()).abs(), y)  # 23/60
        tensor(0.3833, dtype=torch.float64)
    """
    kernel = "lovasz_weights_by_row"
    operator = kernel if has_kernel(kernel, errors.device, errors.numel()) else "lovasz_sorted_weights"
    weights = getattr(torch.ops.monai_surrogates, operator)(errors.detach(), reference, valid)
    return voxel_sum(torch.where(weights == 0, 0, errors * weights))  # an infinite error without a weight adds nothing


def lovasz_jaccard_binned(
    errors: Tensor, reference: Tensor, valid: Tensor | None = None, *, bins: int = 4096, sync: bool = False
) -> Tensor:
    """The same loss in linear time: errors in one of ``bins`` equal bins of [0, 1] count as tied.

    A bin that leads from the counts (I₀, U₀) to (I₁, U₁) gives each of its reference voxels the weight (1/U₀ + 1/U₁)/2 and each
    of its background voxels (I₀ + I₁)/(2 U₀ U₁): the mean over the orders of the tie, a subgradient at the binned errors. The
    weights multiply the errors themselves, so by convexity the result is never above the exact loss, and at most 1/bins below.

    Args:
        errors: (..., N) in [0, 1].
        reference: as in :func:`lovasz_jaccard`.
        valid: broadcastable to (..., N) bool, False for removed voxels; None if all count.
        bins: number of bins.
        sync: the voxels of all ranks make one image; histograms are summed, voxels stay where they are.

    Returns:
        One float64 loss per row, shape (...).

    Examples:
        >>> import torch
        >>> y = torch.tensor([True, True, False, False])
        >>> lovasz_jaccard_binned((torch.tensor([0.9, 0.4, 0.3, 0.1]) - y.float()).abs(), y)  # 23/60
        tensor(0.3833, dtype=torch.float64)
    """
    shared = sync and is_shared()
    weights = torch.ops.monai_surrogates.lovasz_binned_weights(errors.detach(), reference, valid, bins, shared)
    loss = voxel_sum(errors * weights)
    return rank_sum(loss) if shared else loss
