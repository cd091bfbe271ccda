"""Soft Dice, soft Jaccard and soft Tversky: settings of one formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from monai_surrogates.core import Overlap, soft_overlap, softmax_overlap, tversky_index
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.losses.base import PerClassLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from monai_surrogates.losses.base import PerClassArguments


class OverlapLoss(PerClassLoss):
    """1 − T of the soft overlap; its members differ in (alpha, beta) alone."""

    alpha: float
    beta: float
    scale: ClassVar[float] = 2.0  # MONAI's Dice and Jaccard smooth doubled counts

    def __init__(
        self,
        *,
        squared_pred: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        soft_label: bool = False,
        **shared: Unpack[PerClassArguments],
    ) -> None:
        super().__init__(**shared)
        if not (smooth_nr >= 0 and smooth_dr >= 0):
            raise ValueError(f"smooth_nr and smooth_dr must not be below 0, but are {smooth_nr} and {smooth_dr}.")
        self.squared_pred = squared_pred
        self.smooth_nr, self.smooth_dr = float(smooth_nr), float(smooth_dr)
        self.soft_label = soft_label

    def _per_class(self, probabilities: Voxels) -> tuple[Tensor, Tensor]:
        return self._of_overlap(soft_overlap(probabilities, squared=self.squared_pred, soft_label=self.soft_label))

    def _tiled(self, logits: Voxels) -> tuple[Tensor, Tensor]:
        return self._of_overlap(softmax_overlap(logits, squared=self.squared_pred))

    def _of_overlap(self, overlap: Overlap) -> tuple[Tensor, Tensor]:
        if self.batch:
            overlap = overlap.pooled(self.sync)
        index = tversky_index(
            overlap, self.alpha, self.beta, scale=self.scale, smooth_nr=self.smooth_nr, smooth_dr=self.smooth_dr
        )
        return 1 - index, overlap.reference


class SoftTverskyLoss(OverlapLoss):
    """Soft Tversky loss, per image and class: 1 − (I + ε₁)/(I + α(Σp − I) + β(Σy − I) + ε₂), I = ⟨p, y⟩.

    Chooses between false positives (α) and false negatives (β); α = β = ½ is Dice, α = β = 1 Jaccard, with MONAI's
    TverskyLoss smoothing, which does not double the counts. An image (in training: a patch) without a class has the loss
    αS/(αS + ε) there, with S = Σp: with the default ε it teaches almost nothing; ε of the size of a structure does.

    Args:
        alpha: weight of false positives, not below 0.
        beta: weight of false negatives, not below 0.
        squared_pred: squared volumes in place of volumes; needs α = β, or the best prediction would not be the reference.
        smooth_nr: ε₁ in the numerator.
        smooth_dr: ε₂ in the denominator.
        soft_label: the target holds fractions; the loss of a prediction equal to the target is then 0.
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.base.PerClassArguments`.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the classes counted.

    Raises:
        TypeError: an argument that no loss knows.
        ValueError: arguments that exclude each other, or values out of their range.

    References:
        Salehi et al., Tversky loss function for image segmentation, 2017 (arXiv 1706.05721).

    Examples:
        >>> import torch
        >>> p = torch.tensor([0.9, 0.4, 0.3, 0.1]).view(1, 1, 2, 2)
        >>> y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
        >>> SoftTverskyLoss(alpha=0.3, beta=0.7, smooth_nr=0, smooth_dr=0)(p, y)  # 61/191
        tensor(0.3194)
    """

    scale = 1.0

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        squared_pred: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        soft_label: bool = False,
        **shared: Unpack[PerClassArguments],
    ) -> None:
        super().__init__(
            squared_pred=squared_pred, smooth_nr=smooth_nr, smooth_dr=smooth_dr, soft_label=soft_label, **shared
        )
        if not (alpha >= 0 and beta >= 0):
            raise ValueError(f"alpha and beta must not be below 0, but are {alpha} and {beta}.")
        if squared_pred and alpha != beta:
            raise ValueError(
                f"squared_pred=True needs alpha = beta, but they are {alpha} and {beta}, for which a perfect prediction would "
                "not be the best one; drop squared_pred."
            )
        self.alpha, self.beta = float(alpha), float(beta)


class SoftDiceLoss(OverlapLoss):
    """Soft Dice loss, per image and class: 1 − (2⟨p, y⟩ + ε₁)/(Σp + Σy + ε₂).

    For a mean per-image Dice as the target. An image (in training: a patch) without a class has the loss S/(S + ε) there, with
    S = Σp: with the default ε it is almost 1 whatever the network does and its gradient is almost 0.

    Args:
        squared_pred: Σp² + Σy² in the denominator (Milletari et al. 2016).
        smooth_nr: ε₁ in the numerator.
        smooth_dr: ε₂ in the denominator.
        soft_label: the target holds fractions; the loss of a prediction equal to the target is then 0.
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.base.PerClassArguments`.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the classes counted.

    Raises:
        TypeError: an argument that no loss knows.
        ValueError: arguments that exclude each other, or values out of their range.

    References:
        Bertels et al., Optimizing the Dice score and Jaccard index, MICCAI 2019 (arXiv 1911.01685).

    Examples:
        >>> import torch
        >>> p = torch.tensor([0.9, 0.4, 0.3, 0.1]).view(1, 1, 2, 2)
        >>> y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
        >>> SoftDiceLoss(smooth_nr=0, smooth_dr=0)(p, y)  # 11/37
        tensor(0.2973)
    """

    alpha = beta = 0.5


class SoftJaccardLoss(OverlapLoss):
    """Soft Jaccard loss, per image and class: 1 − (2⟨p, y⟩ + ε₁)/(2(Σp + Σy − ⟨p, y⟩) + ε₂).

    For a mean per-image IoU as the target; a Jaccard metric loss (soft labels allowed) with ``soft_label=True``. What
    :class:`SoftDiceLoss` says of images without a class holds here as well.

    Args:
        squared_pred: squared volumes in place of volumes.
        smooth_nr: ε₁ in the numerator.
        smooth_dr: ε₂ in the denominator.
        soft_label: the target holds fractions; the loss of a prediction equal to the target is then 0.
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.base.PerClassArguments`.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the classes counted.

    Raises:
        TypeError: an argument that no loss knows.
        ValueError: arguments that exclude each other, or values out of their range.

    References:
        Bertels et al., MICCAI 2019 (arXiv 1911.01685); Wang et al., Jaccard Metric Losses, NeurIPS 2023 (arXiv 2302.05666).

    Examples:
        >>> import torch
        >>> p = torch.tensor([0.9, 0.4, 0.3, 0.1]).view(1, 1, 2, 2)
        >>> y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
        >>> SoftJaccardLoss(smooth_nr=0, smooth_dr=0)(p, y)  # 11/24
        tensor(0.4583)
    """

    alpha = beta = 1.0
