"""MONAI's focal, Dice-focal and generalized Dice losses, with the arguments and checks of every loss here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from numbers import Number
from typing import Any, ClassVar

import torch
from monai.losses import DiceFocalLoss, FocalLoss, GeneralizedDiceLoss
from monai.networks import one_hot
from torch import Tensor
from torch.nn.modules.loss import _Loss

from monai_surrogates.core.activation import Activation, read_activation
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.sums import voxel_sum
from monai_surrogates.losses.arguments import SharedArguments, check_activation, named_flags, warn_of_foreign
from monai_surrogates.losses.base import SurrogateLoss

SHARED = tuple(name for name in SharedArguments.__annotations__ if name != "sync")


class WrappedLoss(SurrogateLoss):
    """A loss of MONAI, which gives the unreduced values; checks, class weights and reduction are those of every loss here.

    Attributes:
        theirs: MONAI's class.
        passed_on: its arguments beside the activation.
    """

    theirs: ClassVar[type[Any]]
    passed_on: ClassVar[tuple[str, ...]]
    include_background: bool

    def __init__(self, *flags: Any, **arguments: Any) -> None:
        name = type(self).__name__
        arguments = named_flags(name, flags, arguments)
        read = self.reads(arguments)
        if not self.takes_logits:
            check_activation(name, arguments)
        warn_of_foreign(name, {key: arguments[key] for key in arguments.keys() - read.keys()})
        activation = read_activation(
            read.get("sigmoid", False), read.get("softmax", False), read.pop("other_act", None)
        )
        super().__init__(activation, **{key: value for key, value in read.items() if key not in self.passed_on})
        own = {key: read[key] for key in self.passed_on if read.get(key) is not None}
        self.include_background = own.pop("include_background", True)
        for key, value in own.items():
            setattr(self, key, value)
        # by number of channels, 3 for all more; no submodules: they hold no weights
        self._theirs = {
            channels: self.theirs(
                reduction="none",
                include_background=self._takes_background(channels),
                **own,
                **self._activation_of_theirs(channels),
            )
            for channels in (1, 2, 3)
        }

    @classmethod
    def reads(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments that the loss reads: no ``alpha`` of a Tversky loss, which stands beside ``beta``."""
        unread = () if given.get("beta") is None else ("alpha",)
        return {name: value for name, value in super().reads(given).items() if name not in unread}

    def _parts(self, theirs: Any) -> list[tuple[float, _Loss]]:
        """The summands of MONAI's loss with their weights; each is reduced by itself, as there."""
        return [(1.0, theirs)]

    def _takes_background(self, num_channels: int) -> bool:
        """Whether channel 0 of so many takes part; MONAI warns at every call if a single one is to be left out."""
        return self.include_background or num_channels == 1

    def _activation_of_theirs(self, num_channels: int) -> dict[str, Any]:
        """MONAI's argument for the activation."""
        return {"other_act": partial(_probabilities, self.activation)}

    def excludes_background(self) -> bool:
        """Whether the background is left out."""
        return not self.include_background

    def _ignored_on_single_channel(self) -> list[str]:
        background = [] if self.include_background else ["include_background=False"]
        return [*super()._ignored_on_single_channel(), *background]

    def _check_values(self, voxels: Voxels) -> None:
        super()._check_values(voxels)
        self._check_probabilities(voxels)

    def _loss(self, voxels: Voxels) -> Tensor:
        x, y, valid, spatial = voxels.zeroed()
        num_channels = x.shape[1]
        masks = one_hot(y.unsqueeze(1), num_channels, dtype=x.dtype) if voxels.is_label_map else y
        x, masks = (values.reshape(*x.shape[:2], *spatial) for values in (x, masks))
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for share, part in self._parts(self._theirs[min(num_channels, 3)]):
            loss = self._weigh(part(x, masks), num_channels)
            if valid is not None:
                loss = torch.where(valid.view(-1, 1, *spatial), loss, 0)
            total = total + share * (loss if self.reduction == "none" else self._reduce(loss, valid, len(spatial)))
        return total.to(x.dtype)

    def _weigh(self, loss: Tensor, num_channels: int) -> Tensor:
        """Losses (B, K, 1... or spatial...) times the weights of the K classes; a single class is not weighted."""
        weight = None if num_channels == 1 else self._weight_of(num_channels, loss)
        if weight is None or weight.ndim == 0:
            return loss if weight is None else loss * weight
        return loss * weight[int(not self._takes_background(num_channels)) :].view(-1, *[1] * (loss.ndim - 2))

    def _reduce(self, loss: Tensor, valid: Tensor | None, num_spatial: int) -> Tensor:
        """Σ loss/(K·N) over the batch, or as MONAI the sum over items and classes of Σ loss/N."""
        lacking = num_spatial + 2 - loss.ndim  # MONAI's batch=True has no items
        loss = loss.reshape(*[1] * lacking, *loss.shape).flatten(2)
        per_class = voxel_sum(loss)
        number = per_class.new_full((len(loss), 1), loss.shape[2]) if valid is None else valid.sum(1, keepdim=True)
        if self.reduction == "sum":
            return (per_class / number.clamp_min(1)).sum()
        return per_class.sum() / (number.sum() * loss.shape[1]).clamp_min(1)


class MonaiFocalLoss(WrappedLoss):
    """MONAI's FocalLoss, per voxel and class: −(1 − p_y)^γ log p_y, with these arguments and checks.

    A softmax with ``softmax=True``; otherwise, or on a single channel, a sigmoid, as in MONAI. The input always holds logits.
    The loss of a voxel does not depend on other voxels, so a patch without foreground trains the network as any other does.

    Args:
        include_background: False leaves channel 0 out, before the softmax (MONAI). Of two classes it stays: MONAI's softmax of
            the one that is left is 1, its loss 0, and nothing trains.
        gamma: γ, 2 by default.
        alpha: MONAI's balance of classes: one number per class, or that of the foreground, 1 − alpha being the background's,
            which is not used, with a warning, where a softmax leaves the background out.
        ignore_index: voxels with this label are removed, from the mean too (MONAI's mean is then multiplied by K).
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.arguments.SharedArguments`, without
            ``sync``: the mean over voxels needs none.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` a map, (B, K, spatial...).

    Raises:
        TypeError: an unknown argument.
        ValueError: arguments that exclude each other, or values out of their range.

    References:
        Lin et al., Focal loss for dense object detection, ICCV 2017 (arXiv 1708.02002).

    Examples:
        >>> import torch
        >>> loss = MonaiFocalLoss(softmax=True, to_onehot_y=True)
        >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 1, 0, 1]]]))  # (1 − 1/2)²·ln(2)/2
        tensor(0.0866)
    """

    theirs = FocalLoss
    passed_on = ("include_background", "gamma", "alpha")
    declared = (*SHARED, *passed_on)
    takes_logits = True

    def _takes_background(self, num_channels: int) -> bool:
        return super()._takes_background(num_channels) or (self.softmax and num_channels == 2)

    def _activation_of_theirs(self, num_channels: int) -> dict[str, Any]:
        return {"use_softmax": self.softmax and num_channels > 1}

    @classmethod
    def reads(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments that the loss reads: no balance of background and foreground without a background (MONAI)."""
        foreground_alone = given.get("softmax") and not given.get("include_background", True)
        unread = ("alpha",) if foreground_alone and isinstance(given.get("alpha"), Number) else ()
        return {name: value for name, value in super().reads(given).items() if name not in unread}

    def is_multilabel(self) -> bool:
        """Whether the channels are structures that may overlap, or all be absent."""
        return not self.softmax

    def _check_probabilities(self, voxels: Voxels) -> None:
        """Logits may be any numbers."""


class _WithoutIgnoreIndex(WrappedLoss):
    """A loss that MONAI gives no ``ignore_index``."""

    def __init__(self, *flags: Any, **arguments: Any) -> None:
        if arguments.get("ignore_index") is not None:
            raise ValueError(
                f"ignore_index must be None, because MONAI's {self.theirs.__name__} has none, but is "
                f"{arguments['ignore_index']!r}; drop it, or take soft_dice_ce, soft_dice or focal, which leave voxels out."
            )
        super().__init__(*flags, **arguments)


class MonaiDiceFocalLoss(_WithoutIgnoreIndex):
    """MONAI's DiceFocalLoss, λ₁·Dice + λ₂·focal, with these arguments and checks.

    The focal part takes the logits by a sigmoid per channel, whatever the activation (MONAI). Set an activation for the Dice
    part: without one it reads probabilities. ``include_background`` and ``weight`` act on both parts.

    Args:
        include_background: False leaves channel 0 out of both parts.
        other_act: an activation of the Dice part, other than sigmoid and softmax.
        squared_pred: as the next four, of the Dice part; see MONAI's DiceLoss.
        jaccard: soft Jaccard in place of soft Dice.
        smooth_nr: 1e-5 by default.
        smooth_dr: likewise.
        batch: one Dice loss per class for the whole batch.
        gamma: γ of the focal part, 2 by default.
        alpha: balance of the focal part.
        lambda_dice: λ₁, 1 by default.
        lambda_focal: λ₂, 1 by default.
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.arguments.SharedArguments`, without ``sync``
            and ``ignore_index``.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` a map, (B, K, spatial...).

    Raises:
        TypeError: an unknown argument.
        ValueError: ``ignore_index``, arguments that exclude each other, or values out of their range.

    References:
        Zhu et al., AnatomyNet, Medical Physics 2019 (arXiv 1808.05238).

    Examples:
        >>> import torch
        >>> loss = MonaiDiceFocalLoss(softmax=True, to_onehot_y=True)
        >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 1, 0, 1]]]))  # 1/2 + (1 − 1/2)²·ln 2
        tensor(0.6733)
    """

    theirs = DiceFocalLoss
    passed_on = (
        *("include_background", "squared_pred", "jaccard", "smooth_nr", "smooth_dr", "batch", "gamma", "alpha"),
        *("lambda_dice", "lambda_focal"),
    )
    declared = (*SHARED, "other_act", *passed_on)

    def _parts(self, theirs: Any) -> list[tuple[float, _Loss]]:
        return [(theirs.lambda_dice, theirs.dice), (theirs.lambda_focal, theirs.focal)]


class MonaiGeneralizedDiceLoss(_WithoutIgnoreIndex):
    """MONAI's GeneralizedDiceLoss, per image 1 − (2 Σ w_c I_c + ε₁)/(Σ w_c(Σp + Σy) + ε₂), with these arguments and checks.

    w_c is 1/(Σy)² by default, so that small structures count as much as large ones; an absent class gets the largest weight of
    the present ones.

    Args:
        include_background: False leaves channel 0 out.
        other_act: an activation other than sigmoid and softmax.
        w_type: ``"square"``, ``"simple"`` for 1/Σy, or ``"uniform"``.
        smooth_nr: ε₁, 1e-5 by default.
        smooth_dr: ε₂, likewise.
        batch: one loss for the whole batch instead of one per item.
        soft_label: the target holds fractions.
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.arguments.SharedArguments`, without
            ``weight``, ``sync`` and ``ignore_index``.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, 1, 1...).

    Raises:
        TypeError: an unknown argument.
        ValueError: ``ignore_index``, arguments that exclude each other, or values out of their range.

    References:
        Sudre et al., Generalised Dice overlap as a deep learning loss function, DLMIA 2017 (arXiv 1707.03237).

    Examples:
        >>> import torch
        >>> p = torch.tensor([0.9, 0.4, 0.3, 0.1]).view(1, 1, 2, 2)
        >>> y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
        >>> MonaiGeneralizedDiceLoss(smooth_nr=0, smooth_dr=0)(p, y)  # of one class 11/37, soft Dice
        tensor(0.2973)
    """

    theirs = GeneralizedDiceLoss
    passed_on = ("include_background", "w_type", "smooth_nr", "smooth_dr", "batch", "soft_label")
    declared = (*(name for name in SHARED if name != "weight"), "other_act", *passed_on)


def _probabilities(activation: Activation, x: Tensor) -> Tensor:
    """Probabilities (B, C, spatial...) of a network's output."""
    return activation.on(x.shape[1])(x.flatten(2), tuple(x.shape[2:])).reshape(x.shape)
