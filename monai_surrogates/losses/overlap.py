"""Soft Dice, soft Jaccard and soft Tversky: settings of one formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from monai_surrogates.core import structure_smoothing, tversky_index
from monai_surrogates.core.activation import Activation
from monai_surrogates.core.distributed import rank_sum
from monai_surrogates.core.inputs import Voxels, plain_tensor
from monai_surrogates.core.overlap import overlap_of
from monai_surrogates.losses.arguments import OF_ANOTHER_ALPHA, PerClassArguments
from monai_surrogates.losses.base import PerClassLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_SMOOTHING = 1e-5  # MONAI's


class OverlapArguments(PerClassArguments, total=False):
    """Arguments of the overlap losses.

    Attributes:
        squared_pred: squared volumes in place of volumes, Σp² and Σy² (Milletari et al. 2016).
        smoothing: ``"structure_volume"`` takes ε₁ and ε₂ from ``structure_volumes``: on an item without a class its
            loss is S/(S + v), S = Σp and v its mean volume in voxels (Tilborghs et al. 2022), and has a gradient. With
            ``batch=True`` v is multiplied by the number of items. None takes ``smooth_nr`` and ``smooth_dr``.
        smooth_nr: ε₁ in the numerator; 1e-5 by default. Beside ``smoothing`` it is not used, with a warning.
        smooth_dr: ε₂ in the denominator, likewise.
        soft_label: the target holds fractions; the loss of a prediction equal to the target is then 0. Without it fractions of
            a target with one channel per class are multiplied as they are, as in MONAI, and it is not.
    """

    squared_pred: bool
    smoothing: str | None
    smooth_nr: float | None
    smooth_dr: float | None
    soft_label: bool


class OverlapLoss(PerClassLoss):
    """1 − T of the soft overlap, T the Tversky index; the losses differ in (alpha, beta) and take :class:`OverlapArguments`."""

    declared = tuple(OverlapArguments.__annotations__)
    alpha: float
    beta: float
    scale: ClassVar[float] = 2.0  # MONAI's Dice and Jaccard add the smoothing to doubled counts
    structure_volumes: Tensor | None

    def __init__(
        self,
        *flags: Any,
        squared_pred: bool = False,
        smoothing: str | None = None,
        smooth_nr: float | None = None,
        smooth_dr: float | None = None,
        soft_label: bool = False,
        **shared: Unpack[PerClassArguments],
    ) -> None:
        given = {"squared_pred": squared_pred, "smooth_nr": smooth_nr, "smooth_dr": smooth_dr}
        weights = {"alpha": self.alpha, "beta": self.beta}
        read = self.reads({"smoothing": smoothing, **given, **weights})
        super().__init__(*flags, **shared, **{name: given[name] for name in given.keys() - read.keys()})
        self.smooth_nr, self.smooth_dr = (
            DEFAULT_SMOOTHING if value is None else float(value) for value in (smooth_nr, smooth_dr)
        )
        if not (self.smooth_nr >= 0 and self.smooth_dr >= 0):
            raise ValueError(f"smooth_nr and smooth_dr must not be below 0, but are {smooth_nr} and {smooth_dr}.")
        self.squared_pred = squared_pred and "squared_pred" in read
        self.smoothing = smoothing
        self.soft_label = soft_label
        self.register_buffer("structure_volumes", _read_volumes(smoothing, shared.get("structure_volumes")))

    @classmethod
    def reads(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments that the loss reads: beside ``smoothing`` no constants."""
        unread = () if given.get("smoothing") is None else ("smooth_nr", "smooth_dr")
        return {name: value for name, value in super().reads(given).items() if name not in unread}

    def _per_class(self, voxels: Voxels, activation: Activation) -> tuple[Tensor, Tensor]:
        overlap = overlap_of(
            voxels, activation, squared=self.squared_pred, soft_label=self.soft_label, two_class=self.two_class
        )
        smooth_nr, smooth_dr = self._smoothing_of(overlap.reference)
        if self.batch:
            overlap = overlap.pooled(self.sync)
        index = tversky_index(
            overlap, self.alpha, self.beta, scale=self.scale, smooth_nr=smooth_nr, smooth_dr=smooth_dr
        )
        return 1 - index, overlap.reference

    def _smoothing_of(self, reference: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """ε₁ and ε₂ for counts (B, C): constants, or one value per class."""
        if self.structure_volumes is None:
            return self.smooth_nr, self.smooth_dr
        volumes = self._buffer_on("structure_volumes", reference)[-reference.shape[1] :].to(reference.dtype)
        epsilon = structure_smoothing(volumes, self.alpha, scale=self.scale)
        if self.batch:  # pooled counts grow with the items; so a batch of copies has the loss of one
            epsilon = len(reference) * epsilon
            epsilon = rank_sum(epsilon) if self.sync else epsilon
        return epsilon, epsilon

    def _check_channels(self, num_channels: int) -> None:
        super()._check_channels(num_channels)
        if self.structure_volumes is None:
            return
        expected, given = 2 if self.two_class else num_channels, len(self.structure_volumes)
        # the volume of a background without a channel comes first and is dropped
        spare = not self.two_class and (self.is_multilabel() or num_channels == 1)
        if given != expected and not (spare and given == expected + 1):
            allowed = f"{expected} values, one per class and the background first"
            if spare:
                allowed = f"{expected} or {expected + 1} values, one per channel, the background's in front or left out"
            raise ValueError(
                f"structure_volumes must have {allowed}, but has {given}; count as many classes as the network has channels."
            )


def _read_volumes(smoothing: str | None, volumes: Sequence[float] | Tensor | None) -> Tensor | None:
    """The checked volumes, (C,), if the smoothing reads them."""
    if smoothing is None:
        return None
    if smoothing != "structure_volume":
        raise ValueError(
            f'smoothing must be None or "structure_volume", but is {smoothing!r}; for constants set smooth_nr and smooth_dr.'
        )
    if volumes is None:
        raise ValueError(
            'smoothing="structure_volume" needs structure_volumes, the mean volume of each class in voxels; '
            "monai_surrogates.data.structure_volumes measures them."
        )
    try:
        values = plain_tensor(torch.as_tensor(volumes, dtype=torch.float64)).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"structure_volumes must hold one volume per class, but is {volumes!r}.") from error
    if values.ndim != 1 or not bool(values.isfinite().all()) or bool((values < 0).any()) or not bool(values.any()):
        raise ValueError(
            "structure_volumes must hold one volume per class, finite, none below 0 and not all of them 0, "
            f"but is {values.tolist()}."
        )
    return values


class SoftTverskyLoss(OverlapLoss):
    """Soft Tversky loss, per image and class: 1 − (I + ε₁)/(I + α(Σp − I) + β(Σy − I) + ε₂), I = ⟨p, y⟩.

    For a balance of false positives (α) against false negatives (β); α = β = ½ is Dice, α = β = 1 Jaccard, with MONAI's
    TverskyLoss smoothing, which does not double the counts. On an image (in training: a patch) without a class the loss
    of that class is αS/(αS + ε), S = Σp; see :class:`SoftDiceLoss`.

    Args:
        alpha: weight of false positives, not below 0.
        beta: weight of false negatives, not below 0.
        **arguments: as of every overlap loss, see :class:`OverlapArguments`; ``smoothing="structure_volume"`` sets
            ε₁ = ε₂ = α·v. ``squared_pred`` is used with α = β alone, because otherwise the best prediction is not the
            reference; with other weights it is not used, with a warning. Beside ``gamma`` and without ``beta``, ``alpha`` is
            that of a focal loss, and is not used either.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the number of chosen classes.

    Raises:
        TypeError: an unknown argument.
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
    declared = (*OverlapLoss.declared, "alpha", "beta")

    def __init__(
        self,
        *flags: Any,
        alpha: float | None = None,
        beta: float | None = None,
        **arguments: Unpack[OverlapArguments],
    ) -> None:
        read = self.reads({"alpha": alpha, "beta": beta, **arguments})
        self.alpha, self.beta = (_weight_of_errors(read.get(name)) for name in ("alpha", "beta"))
        if not (self.alpha >= 0 and self.beta >= 0):
            raise ValueError(f"alpha and beta must not be below 0, but are {alpha} and {beta}.")
        foreign: Any = {} if "alpha" in read else {"alpha": alpha}
        super().__init__(*flags, **arguments, **foreign)

    @classmethod
    def reads(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments that the loss reads: no ``alpha`` of a focal loss, no squares with two weights of errors."""
        focal = given.get("beta") is None and bool(OF_ANOTHER_ALPHA & given.keys())
        alpha, beta = (_weight_of_errors(value) for value in (None if focal else given.get("alpha"), given.get("beta")))
        unread = {name for name, applies in (("alpha", focal), ("squared_pred", alpha != beta)) if applies}
        return {name: value for name, value in super().reads(given).items() if name not in unread}


def _weight_of_errors(given: float | None) -> float:
    return 0.5 if given is None else float(given)


class SoftDiceLoss(OverlapLoss):
    """Soft Dice loss, per image and class: 1 − (2⟨p, y⟩ + ε₁)/(Σp + Σy + ε₂).

    For a mean per-image Dice as the target. On an image (in training: a patch) without a class the loss of that class is
    S/(S + ε), S = Σp, and its slope in every p is ε/(S + ε)²: with the default ε about 1 and 0, with ``smooth_nr=0`` 1 and 0,
    so such a patch has practically no gradient for the class. With ``smoothing="structure_volume"`` it has one,
    ``classes="present"`` leaves the class out of the mean. The background, unless excluded, is a class of such a patch.

    Args:
        **arguments: as of every overlap loss, see :class:`OverlapArguments`; ``smoothing="structure_volume"`` sets ε₁ = ε₂ = v.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the number of chosen classes.

    Raises:
        TypeError: an unknown argument.
        ValueError: arguments that exclude each other, or values out of their range.

    References:
        Bertels et al., Optimizing the Dice score and Jaccard index, MICCAI 2019 (arXiv 1911.01685); Tilborghs et al., The Dice
        loss in the context of missing or empty labels, MICCAI 2022 (arXiv 2207.09521).

    Examples:
        >>> import torch
        >>> p = torch.tensor([0.9, 0.4, 0.3, 0.1]).view(1, 1, 2, 2)
        >>> y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
        >>> SoftDiceLoss(smooth_nr=0, smooth_dr=0)(p, y)  # 11/37
        tensor(0.2973)
        >>> nothing = torch.zeros_like(y)
        >>> SoftDiceLoss()(p, nothing), SoftDiceLoss(smoothing="structure_volume", structure_volumes=[1.7])(p, nothing)
        (tensor(1.0000), tensor(0.5000))
    """

    alpha = beta = 0.5


class SoftJaccardLoss(OverlapLoss):
    """Soft Jaccard loss, per image and class: 1 − (2⟨p, y⟩ + ε₁)/(2(Σp + Σy − ⟨p, y⟩) + ε₂).

    For a mean per-image IoU as the target; a Jaccard metric loss (soft labels allowed) with ``soft_label=True``. On an
    image (in training: a patch) without a class the loss of that class is 2S/(2S + ε), S = Σp, as MONAI's Jaccard smooths
    doubled counts; see :class:`SoftDiceLoss`.

    Args:
        jaccard: the flag that makes MONAI's DiceLoss this loss; either value is accepted.
        **arguments: as of every overlap loss, see :class:`OverlapArguments`; ``smoothing="structure_volume"`` sets
            ε₁ = ε₂ = 2v.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the number of chosen classes.

    Raises:
        TypeError: an unknown argument.
        ValueError: arguments that exclude each other, or values out of their range.

    References:
        Bertels et al., MICCAI 2019 (arXiv 1911.01685); Wang et al., Jaccard Metric Losses, NeurIPS 2023 (arXiv 2302.05666);
        Tilborghs et al., MICCAI 2022 (arXiv 2207.09521).

    Examples:
        >>> import torch
        >>> p = torch.tensor([0.9, 0.4, 0.3, 0.1]).view(1, 1, 2, 2)
        >>> y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
        >>> SoftJaccardLoss(smooth_nr=0, smooth_dr=0)(p, y)  # 11/24
        tensor(0.4583)
    """

    declared = (*OverlapLoss.declared, "jaccard")
    alpha = beta = 1.0

    def __init__(self, *flags: Any, jaccard: bool = True, **arguments: Unpack[OverlapArguments]) -> None:
        super().__init__(*flags, **arguments)
