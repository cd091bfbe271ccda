"""Lovász losses: the convex closure of the Jaccard loss in the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from monai_surrogates.core.activation import Activation
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.lovasz import METHODS, lovasz_hinge_of, lovasz_of
from monai_surrogates.losses.base import PerClassLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from monai_surrogates.losses.arguments import PerClassArguments


MOST_BINS = 2**20  # with more, float32 could not separate the bins of one or two channels


class LovaszLoss(PerClassLoss):
    """The Lovász extension of 1 − IoU per image and class; the losses differ in the errors alone.

    It is defined for hard references: a target of one channel per class becomes the nearest whole numbers, 0 and 1, as label
    maps do in every loss. ``soft_label=True`` is refused.
    """

    declared = (*PerClassLoss.declared, "method", "soft_label")
    needs_hard_masks = True

    def __init__(
        self, *flags: Any, method: str = "auto", soft_label: bool = False, **shared: Unpack[PerClassArguments]
    ) -> None:
        super().__init__(*flags, **shared)
        if soft_label:
            raise ValueError(
                f"soft_label=True is not for {type(self).__name__}, which reads references of 0 and 1 alone; for soft labels "
                "use SoftJaccardLoss(soft_label=True)."
            )
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, but is {method!r}.")
        self.method = method


class LovaszSoftmaxLoss(LovaszLoss):
    """Lovász-softmax loss: per image and class Σ m₍ᵢ₎wᵢ over the errors m = |p − y| in falling order.

    wᵢ is the growth of 1 − IoU when the i-th voxel becomes wrong too: the Lovász extension of 1 − IoU. Tight for the IoU:
    equal to 1 − IoU at hard predictions, and never above the unsmoothed soft Jaccard loss. With ``sigmoid=True``
    the same loss for structures that may overlap. On an image (in training: a patch) without a class the loss of that
    class is its largest probability, with a gradient in one voxel; ``classes="present"`` (the paper's choice and the
    default) leaves the class out of the mean. The background, unless excluded, is a class of such a patch.

    Args:
        method: ``"sort"`` is exact. ``"bins"`` takes linear time: errors in the same one of ``bins`` equal bins are
            ties, with the mean weight over the orders of the tie (sorting takes one of these orders). Its loss is at most
            1/bins below the exact one. Where errors of all sizes occur, and structures hold many times as many voxels as a
            bin, the default number of bins gives a loss within 1e-5 of it and a gradient within a relative 5e-3. The gradient
            differs by more for small structures (in 96³ voxels of three classes by 9e-3 for a lesion of 1000 voxels, 7e-2
            for one of 27), and entirely where a network is nearly always sure, right or wrong (most gaps of the logits
            above 12): then most errors lie in one bin, and their order needs ``"sort"`` or more ``bins``. On slices of 64² with
            structures of 200 voxels it was up to 4e-5 and 2e-2, of 96² and more within the figures above.
            Errors must lie in [0, 1], as those of every activation but ``other_act`` do. ``"auto"`` sorts images (with
            ``batch=True``, batches) of up to two voxels per bin, by default of 512 voxels, where sorting costs about the
            same and bins take more memory, and the errors of ``other_act``; all else goes into bins.
        bins: number of bins of ``method="bins"`` and ``"auto"``; more of them make the gradient more exact. By default 4096,
            but at most one for every 16 voxels of an image (with ``batch=True`` of a batch), and at least 256: a slice of 256²
            gets 4096, one of 128² 1024, with a loss at most 1/1024 below the exact one. One or two channels get four times as
            many as given, and by default up to 16384, at little cost, for a gradient within a relative 1e-3 on volumes. With
            ``sync=True`` the ranks sum the sizes of their batches to choose alike (on a GPU they take the most);
            ``method="bins"`` with a number saves this sum.
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.arguments.PerClassArguments`, here with
            ``classes="present"`` by default.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the number of chosen classes.

    Raises:
        TypeError: an unknown argument.
        ValueError: arguments that exclude each other, values out of their range, or ``soft_label=True``.

    References:
        Berman et al., The Lovász-Softmax loss, CVPR 2018 (arXiv 1705.08790).

    Examples:
        >>> import torch
        >>> p = torch.tensor([[3 / 4, 1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 2, 3 / 4, 7 / 8]]).view(1, 2, 2, 2)
        >>> y = torch.tensor([0, 1, 1, 0]).view(1, 1, 2, 2)
        >>> LovaszSoftmaxLoss(to_onehot_y=True)(p, y)  # 55/96
        tensor(0.5729)
    """

    declared = (*LovaszLoss.declared, "bins")
    default_classes = "present"  # the rule of its paper

    def __init__(
        self, *flags: Any, method: str = "auto", bins: int | None = None, **shared: Unpack[PerClassArguments]
    ) -> None:
        super().__init__(*flags, method=method, **shared)
        is_number = isinstance(bins, int) and not isinstance(bins, bool)
        if bins is not None and not (is_number and 1 <= bins <= MOST_BINS):
            raise ValueError(
                f"bins must be at least 1, a whole number, and at most {MOST_BINS}, or None, but is {bins!r}."
            )
        self.bins = bins

    def _per_class(self, voxels: Voxels, activation: Activation) -> tuple[Tensor, Tensor]:
        return lovasz_of(
            voxels,
            activation,
            method=self.method,
            bins=self.bins,
            batch=self.batch,
            sync=self.sync,
            two_class=self.two_class,
        )


class LovaszHingeLoss(LovaszLoss):
    """Lovász hinge: per image and structure the Lovász extension of 1 − IoU in the hinge errors max(0, 1 − s·x), s = ±1.

    For one structure, or several that may overlap; the input always holds logits, so ``sigmoid=True`` changes nothing.
    Unlike the Lovász-softmax loss it is not bounded by 1. On an image (in training: a patch) without the structure it is the
    largest hinge error, of one voxel, as in the code of its paper; ``classes="present"`` leaves such images out of the mean.

    Args:
        method: ``"sort"`` or ``"auto"``, which sorts.
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.arguments.PerClassArguments`.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the number of chosen classes.

    Raises:
        TypeError: an unknown argument.
        ValueError: ``softmax=True`` or another activation, values out of their range, or ``soft_label=True``.

    References:
        Berman et al., The Lovász-Softmax loss, CVPR 2018 (arXiv 1705.08790), section 3.1.

    Examples:
        >>> import torch
        >>> x, y = torch.tensor([1.0, -1.0, 2.0, -0.5]).view(1, 1, 2, 2), torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 2)
        >>> LovaszHingeLoss()(x, y)
        tensor(1.5000)
        >>> LovaszHingeLoss()(torch.tensor([[[-1.0, 0.5, -0.25]]]), torch.zeros(1, 1, 3))  # max(0, 1 + x)
        tensor(1.5000)
    """

    takes_logits = True

    def __init__(self, *flags: Any, method: str = "auto", **shared: Unpack[PerClassArguments]) -> None:
        super().__init__(*flags, method=method, **shared)
        if method == "bins":
            raise ValueError("method='bins' needs errors in [0, 1], which hinge errors are not; use 'sort' or 'auto'.")
        if self.softmax or self.other_act is not None:
            raise ValueError(
                "LovaszHingeLoss takes logits of structures: softmax and other_act must not be set; set sigmoid=True, with one "
                "channel per structure in the target, or use LovaszSoftmaxLoss."
            )
        if self.two_class:
            raise ValueError(
                "LovaszHingeLoss has no two_class form; use LovaszSoftmaxLoss(sigmoid=True, two_class=True)."
            )

    def _per_class(self, voxels: Voxels, activation: Activation) -> tuple[Tensor, Tensor]:
        return lovasz_hinge_of(voxels, batch=self.batch, sync=self.sync)

    def is_multilabel(self) -> bool:
        """Always: each channel is a structure of its own."""
        return True

    def _check_probabilities(self, voxels: Voxels) -> None:
        """Logits may be any numbers."""
