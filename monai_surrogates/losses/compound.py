"""A surrogate and cross-entropy together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from monai_surrogates._names import unknown_name
from monai_surrogates.losses.arguments import Weight, check_activation, named_flags, settings, warn_of_foreign
from monai_surrogates.losses.base import PerClassLoss, warn_as_one
from monai_surrogates.losses.cross_entropy import PlainCELoss
from monai_surrogates.losses.names import LOSSES, named_class

# Passed on to the cross-entropy; it needs neither to_onehot_y, since it recognises a label map, nor softmax, its default.
CROSS_ENTROPY_FLAGS = ("ignore_index", "check_labels", "sync")


def surrogate_class(name: str) -> type[PerClassLoss]:
    """The class of a surrogate, an objective with a loss per image and class.

    Raises:
        ValueError: unknown name; the message lists the names and suggests the nearest.
    """
    classes: dict[str, type] = {known: named_class("surrogate", known) for known in LOSSES}
    surrogates = {known: found for known, found in classes.items() if issubclass(found, PerClassLoss)}
    if name not in surrogates:
        raise unknown_name("surrogate", name, surrogates)
    return surrogates[name]


class SurrogateCELoss(_Loss):
    """λ₁·surrogate + λ₂·cross-entropy, MONAI's DiceCELoss for any surrogate.

    Cross-entropy takes the logits and all classes, whatever ``include_background`` is, and normalises over the batch as torch
    does. With ``sigmoid=True``, the hinge, or a single channel it is binary cross-entropy per channel (MONAI's DiceCELoss
    takes the softmax form for several channels, whatever the activation). Set an activation: without one the surrogate reads
    probabilities and the cross-entropy logits, as in MONAI. On an image (in training: a patch) without foreground the
    cross-entropy still has a gradient, and so has the surrogate with ``smoothing="structure_volume"``.

    Args:
        surrogate: ``"soft_dice"``, ``"soft_jaccard"``, ``"soft_tversky"``, ``"lovasz_softmax"`` or ``"lovasz_hinge"``. After it
            the flags may be given by position, in the order of MONAI's DiceLoss.
        lambda_surrogate: λ₁, not below 0; 1 by default.
        lambda_ce: λ₂, not below 0.
        lambda_dice: λ₁ under MONAI's name.
        reduction: ``"mean"`` or ``"sum"``; the two parts have no common unreduced shape.
        weight: one value or C values for both parts; the surrogate drops entry 0 with ``include_background=False``. C − 1
            values then give the background the weight 1 in the cross-entropy.
        label_smoothing: of the cross-entropy.
        per_image: of the cross-entropy.
        **shared: arguments of the surrogate; the flags, ``ignore_index`` and ``sync`` reach both parts.

    Returns:
        The module's call gives a scalar.

    Raises:
        TypeError: an unknown argument.
        ValueError: a negative λ, both names of λ₁, ``reduction="none"``, or an error of one of the two parts.

    Examples:
        >>> import torch
        >>> loss = SurrogateCELoss("soft_jaccard", softmax=True, to_onehot_y=True, lambda_ce=0.5)
        >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 1, 0, 1]]]))  # 2/3 + ln(2)/2
        tensor(1.0132)
    """

    own: ClassVar[tuple[str, ...]] = ("lambda_surrogate", "lambda_ce", "lambda_dice", "label_smoothing", "per_image")
    takes_logits: ClassVar[bool] = True

    def __init__(
        self,
        surrogate: str = "soft_dice",
        *flags: Any,
        lambda_surrogate: float | None = None,
        lambda_ce: float = 1.0,
        lambda_dice: float | None = None,
        reduction: str = "mean",
        weight: Weight = None,
        label_smoothing: float = 0.0,
        per_image: bool = False,
        **shared: Any,
    ) -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum" for a sum of two losses, but is {reduction!r}.')
        super().__init__(reduction=reduction)
        if lambda_surrogate is not None and lambda_dice is not None:
            raise ValueError("lambda_surrogate and lambda_dice are two names of the same weight; give one of them.")
        chosen = [value for value in (lambda_surrogate, lambda_dice) if value is not None]
        self.lambda_surrogate, self.lambda_ce = float(chosen[0]) if chosen else 1.0, float(lambda_ce)
        for name in ("lambda_surrogate", "lambda_ce"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be no less than 0, but is {getattr(self, name)}.")
        shared = named_flags(type(self).__name__, flags, shared, own=("surrogate",))
        cls = surrogate_class(surrogate)
        if not cls.takes_logits:
            check_activation(type(self).__name__, shared)
        of_surrogate = cls.reads(shared)
        warn_of_foreign(type(self).__name__, {name: shared[name] for name in shared.keys() - of_surrogate.keys()})
        self.surrogate = cls(reduction=reduction, weight=weight, **of_surrogate)
        if self.surrogate.two_class and weight is not None and torch.as_tensor(weight).ndim > 0:
            raise ValueError(
                "two_class=True has a single channel, whose cross-entropy takes one weight; give one value."
            )
        of_cross_entropy = {name: of_surrogate[name] for name in CROSS_ENTROPY_FLAGS if name in of_surrogate}
        if weight is not None:  # C − 1 weights are those of the foreground; background voxels stay in the mean
            of_cross_entropy["include_background"] = not self.surrogate.excludes_background()
        self.cross_entropy = PlainCELoss(
            sigmoid=self.surrogate.is_multilabel(),
            reduction=reduction,
            weight=weight,
            label_smoothing=label_smoothing,
            per_image=per_image,
            **of_cross_entropy,
        )
        warn_as_one(self)

    @classmethod
    def reads(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments that one of the two parts reads."""
        own = {name: value for name, value in given.items() if name in cls.own}
        return {**own, **surrogate_class(given.get("surrogate", "soft_dice")).reads(given)}

    def excludes_background(self) -> bool:
        """Whether the surrogate leaves the background out."""
        return self.surrogate.excludes_background()

    def extra_repr(self) -> str:
        """The weights of the two parts, where they are not 1; the parts show their own settings."""
        return settings(self, ("lambda_surrogate", "lambda_ce"))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The weighted sum; shapes and errors as in :meth:`~monai_surrogates.losses.base.SurrogateLoss.forward`."""
        surrogate, cross_entropy = self.surrogate(input, target), self.cross_entropy(input, target)
        total: Tensor = self.lambda_surrogate * surrogate + self.lambda_ce * cross_entropy
        return total


class NamedSurrogateCELoss(SurrogateCELoss):
    """A SurrogateCELoss with the surrogate fixed by the class, so that a config can name it."""

    name: ClassVar[str]

    def __init__(self, *flags: Any, **arguments: Any) -> None:
        super().__init__(self.name, *flags, **arguments)

    @classmethod
    def reads(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments that one of the two parts reads."""
        return super().reads({**given, "surrogate": cls.name})


class SoftDiceCELoss(NamedSurrogateCELoss):
    """Soft Dice plus cross-entropy, as MONAI's DiceCELoss; arguments as in :class:`SurrogateCELoss`."""

    name = "soft_dice"


class SoftJaccardCELoss(NamedSurrogateCELoss):
    """Soft Jaccard plus cross-entropy; arguments as in :class:`SurrogateCELoss`."""

    name = "soft_jaccard"


class SoftTverskyCELoss(NamedSurrogateCELoss):
    """Soft Tversky plus cross-entropy; arguments as in :class:`SurrogateCELoss`."""

    name = "soft_tversky"


class LovaszSoftmaxCELoss(NamedSurrogateCELoss):
    """Lovász-softmax plus cross-entropy; arguments as in :class:`SurrogateCELoss`."""

    name = "lovasz_softmax"
