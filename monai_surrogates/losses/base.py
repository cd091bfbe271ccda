"""Base classes of all losses: checked arguments, one form of the batch, choice of classes, class weights and reduction."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from monai_surrogates._messages import warn_user
from monai_surrogates._names import unknown_name
from monai_surrogates.core import WEIGHTINGS, inputs
from monai_surrogates.core.activation import Activation, read_activation
from monai_surrogates.core.distributed import rank_sum
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.kernels.operators import for_this_processor
from monai_surrogates.losses.arguments import (
    Classes,
    PerClassArguments,
    SharedArguments,
    Weight,
    check_activation,
    check_classes,
    check_weight,
    fit_weight,
    named_flags,
    settings,
    warn_of_foreign,
)


class SurrogateLoss(_Loss, ABC):
    """Base of every loss: argument checks, MONAI's flags, and one form of the batch.

    Attributes:
        declared: names of the arguments that the class reads.
        takes_logits: whether the input holds logits even without an activation.
        needs_hard_masks: whether a target of one channel per class is rounded, as label maps are in every loss.
        activation: MONAI's flags, read once.
    """

    declared: ClassVar[tuple[str, ...]] = tuple(SharedArguments.__annotations__)
    takes_logits: ClassVar[bool] = False
    needs_hard_masks: ClassVar[bool] = False
    class_weight: Tensor | None

    def __init__(
        self,
        activation: Activation | None = None,
        *,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        weight: Weight = None,
        ignore_index: int | None = None,
        class_counts: Sequence[int] | Tensor | None = None,
        class_weighting: str | None = None,
        structure_volumes: Sequence[float] | Tensor | None = None,
        check_labels: bool = False,
        sync: bool = False,
        **foreign: Any,
    ) -> None:
        if "sync" not in self.declared:  # a loss that cannot sum over ranks
            foreign, sync = {**foreign, "sync": sync}, False
        warn_of_foreign(type(self).__name__, foreign)
        if class_weighting is not None and class_weighting not in WEIGHTINGS:
            raise unknown_name("class_weighting", class_weighting, WEIGHTINGS)
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f'reduction must be one of "mean", "sum", "none", but is {reduction!r}.')
        super().__init__(reduction=reduction)
        self.activation = activation or read_activation(sigmoid, softmax)
        self.to_onehot_y = to_onehot_y
        try:
            self.ignore_index = None if ignore_index is None else operator.index(ignore_index)
        except TypeError as error:
            raise TypeError(f"ignore_index must be an integer or None, but is {ignore_index!r}.") from error
        self.check_labels = check_labels
        self.sync = sync
        self._called = False
        self._warn_once = inputs.Once()
        self.register_buffer("class_weight", check_weight(weight))

    @property
    def sigmoid(self) -> bool:
        """Whether a sigmoid is applied."""
        return self.activation.kind == "sigmoid"

    @property
    def softmax(self) -> bool:
        """Whether a softmax is applied."""
        return self.activation.kind == "softmax"

    @classmethod
    def reads(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments that the loss reads."""
        return {name: value for name, value in given.items() if name in cls.declared}

    def extra_repr(self) -> str:
        """The settings that differ from the defaults."""
        return settings(self, self.declared)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            input: logits or probabilities, (B, C, spatial...).
            target: labels (B, 1, spatial...) with ``to_onehot_y=True``, otherwise (B, C, spatial...). Labels, and one channel
                per class in Lovász losses, become the nearest whole number, ties the even one: noise below 1e-3 in
                silence, a fraction with one warning of the loss (on a GPU of its first call), or with ``check_labels=True``
                as an error. MONAI cuts labels off, 0.99999 is 0 there.

        Returns:
            A scalar, or the unreduced losses with ``reduction="none"``. NaN, as is the gradient, where a logit is NaN, or +inf
            under a softmax; −inf rules a class out.

        Raises:
            ShapeMismatchError: input and target do not fit together (an AssertionError and a ValueError).
            TypeError: input or target is no tensor.
            ValueError: weights or class ids that do not fit the channels, labels out of range, or logits where probabilities
                are expected.
        """
        loss = self._loss(self.check(input, target))
        return for_this_processor(loss) if torch.compiler.is_compiling() else loss

    def check(self, input: Tensor, target: Tensor) -> Voxels:
        """Check a batch as :meth:`forward` does, and return its voxels."""
        inputs.check_tensors(input, target)
        label_map = self._reads_labels(input, target)
        inputs.check_shapes(input, target, label_map=label_map)
        self._check_channels(input.shape[1])
        given = inputs.plain_tensor(target)
        labels = inputs.nearest_whole(given) if label_map or self.needs_hard_masks else given
        voxels = inputs.flatten_voxels(
            input, labels, label_map=label_map, ignore_index=self.ignore_index, structures=self.is_multilabel()
        )
        if self._checks_now(input):
            self._check_values(voxels)
            self._tell_of_fraction(inputs.find_fraction(given, labels, voxels.valid), label_map)
        return voxels

    def is_multilabel(self) -> bool:
        """Whether the channels are structures that may overlap, or all be absent."""
        return self.sigmoid

    @abstractmethod
    def _loss(self, voxels: Voxels) -> Tensor:
        """The reduced loss of a checked batch."""

    def _tell_of_fraction(self, fraction: float | None, label_map: bool) -> None:
        """Warn once of a label that was rounded, or refuse it."""
        if fraction is None:
            return
        soft = "for soft labels use SoftJaccardLoss(soft_label=True)."
        if self.check_labels and label_map:
            raise ValueError(f"target must hold whole-number labels, but holds {fraction!r}; {inputs.FRACTION_CURE}")
        if self.check_labels:
            raise ValueError(f"target must hold 0 and 1 alone for a Lovász loss, but holds {fraction:g}; {soft}")
        self._warn_once(inputs.describe_fraction("target", fraction) + ("." if label_map else f"; {soft}"))

    def _checks_now(self, input: Tensor) -> bool:
        # Reading values of a GPU waits for it, so they are read at the first call alone; never while compiling or capturing.
        if torch.compiler.is_compiling() or (input.is_cuda and torch.cuda.is_current_stream_capturing()):
            return False
        if input.is_meta:  # there are no values to read
            return self.check_labels
        first, self._called = not self._called, True
        if first and input.shape[1] == 1:
            self._warn_of_single_channel()
        return first or self.check_labels or input.device.type == "cpu"

    def _warn_of_single_channel(self) -> None:
        ignored = self._ignored_on_single_channel()
        if ignored:
            warn_user(f"single channel prediction, `{', '.join(ignored)}` ignored.")

    def _ignored_on_single_channel(self) -> list[str]:
        return [f"{flag}=True" for flag in ("softmax", "to_onehot_y") if getattr(self, flag)]

    def _reads_labels(self, input: Tensor, target: Tensor) -> bool:
        return self.to_onehot_y and input.ndim > 1 and input.shape[1] > 1

    def _check_channels(self, num_channels: int) -> None:
        """Raise a ValueError if an argument does not fit the number of channels."""
        self._weight_of(num_channels)

    def _weight_of(self, num_channels: int, like: Tensor | None = None) -> Tensor | None:
        """The class weights, one value or ``num_channels`` of them, in the type and on the device of ``like``."""
        if self.class_weight is None:
            return None
        if like is None:
            return fit_weight(self.class_weight, num_channels, self.excludes_background())
        weight = self._buffer_on("class_weight", like)
        return fit_weight(weight, num_channels, self.excludes_background()).to(like.dtype)

    def excludes_background(self) -> bool:
        """Whether C − 1 weights are those of the foreground."""
        return False

    def _buffer_on(self, name: str, like: Tensor) -> Tensor:
        # MONAI's bundles do not move their loss, so the buffer moves to the input's device and stays there.
        buffer: Tensor = getattr(self, name)
        if buffer.device != like.device:
            buffer = buffer.to(like.device)
            if not like.is_meta:  # or the values of the buffer would be lost
                setattr(self, name, buffer)
        return buffer

    def _check_values(self, voxels: Voxels) -> None:
        if voxels.is_label_map:
            inputs.check_range(voxels.target, voxels.input.shape[1])
            return
        overshoot = inputs.check_fractions(
            voxels.target,
            "target",
            "a label map needs to_onehot_y=True and one channel per class; "
            "masks of 0 and 255 are divided by 255; voxels to leave out need ignore_index, the label that marks them.",
            slack=inputs.PROBABILITY_SLACK if self.check_labels else inputs.OVERSHOOT,
        )
        if overshoot is not None:  # as MONAI does
            self._warn_once(f"target holds {overshoot:.7g}, outside [0, 1], used as it is; {inputs.LABEL_CURE}.")

    def _check_probabilities(self, voxels: Voxels) -> None:
        num_channels = voxels.input.shape[1]
        if self.activation.on(num_channels).function is None:
            flag = "softmax" if num_channels > 1 else "sigmoid"
            inputs.check_fractions(
                voxels.zeroed().input,
                "input without an activation",
                f"for logits set {flag}=True, in a bundle by --loss#{flag} True.",
            )


class PerClassLoss(SurrogateLoss):
    """A loss per image and class, then choice of classes, class weights, and reduction."""

    declared = tuple(PerClassArguments.__annotations__)
    default_classes: ClassVar[Literal["all", "present"]] = "all"

    def __init__(
        self,
        *flags: Any,
        batch: bool = False,
        two_class: bool = False,
        **shared: Any,
    ) -> None:
        shared = named_flags(type(self).__name__, flags, shared)
        if not self.takes_logits:
            check_activation(type(self).__name__, shared)
        include_background: bool = shared.pop("include_background", True)
        classes: Classes | None = shared.pop("classes", None)
        other_act: Callable[[Tensor], Tensor] | None = shared.pop("other_act", None)
        activation = read_activation(shared.get("sigmoid", False), shared.get("softmax", False), other_act)
        super().__init__(activation, **shared)
        self.other_act = other_act  # registered, if it is a module
        self.include_background = include_background
        if self.sync and not batch:
            raise ValueError("sync=True makes one batch of all ranks, so it needs batch=True; set it, or drop sync.")
        self.batch = batch
        self.two_class = two_class
        self.classes = check_classes(self.default_classes if classes is None else classes, include_background)

    def extra_repr(self) -> str:
        """The settings that differ from the defaults."""
        return settings(self, self.declared, classes=self.default_classes)

    @abstractmethod
    def _per_class(self, voxels: Voxels, activation: Activation) -> tuple[Tensor, Tensor]:
        """Loss and reference volume of each item (or of the batch) and class, (B, C) each."""

    def _loss(self, voxels: Voxels) -> Tensor:
        loss, reference = self._per_class(voxels, self.activation.on(voxels.input.shape[1]))
        if voxels.valid is not None:
            loss = torch.where(self._has_valid_voxels(voxels.valid), loss, 0)
        loss, num_classes = _nan_in_every_class(loss), loss.shape[1]
        loss, reference = self._choose(loss, num_classes), self._choose(reference, num_classes)
        if self.classes == "present":
            loss = torch.where((reference > 0) | loss.isnan(), loss, 0)
        reduced = self._reduce(self._weigh(loss, num_classes), reference, len(voxels.spatial))
        return reduced.to(voxels.input.dtype)

    def _has_valid_voxels(self, valid: Tensor) -> Tensor:
        """Whether an item (or the batch) has a valid voxel, (B, 1)."""
        number = valid.sum(-1, keepdim=True)
        if self.batch:
            number = number.sum(0, keepdim=True)
        return (rank_sum(number) if self.sync else number) > 0

    def _check_channels(self, num_channels: int) -> None:
        if self.two_class and num_channels > 1:
            raise ValueError(
                f"two_class=True scores a single channel, but the input has {num_channels}; drop two_class."
            )
        num_classes = 2 if self.two_class else num_channels
        if isinstance(self.classes, list) and max(self.classes) >= num_classes:
            raise ValueError(
                f"classes must lie in 0 to {num_classes - 1}, but are {self.classes}; drop those for which the network has no "
                "channel."
            )
        super()._check_channels(num_classes)

    def _choose(self, per_class: Tensor, num_classes: int) -> Tensor:
        """The columns of the chosen classes among (..., num_classes)."""
        if isinstance(self.classes, list):  # a list as index would be copied to the device at each call
            return torch.stack([per_class[..., c] for c in self.classes], dim=-1)
        return per_class[..., 1:] if not self.include_background and num_classes > 1 else per_class

    def excludes_background(self) -> bool:
        """Whether the background is left out, by flag or by a list of classes without 0."""
        return not self.include_background or (isinstance(self.classes, list) and 0 not in self.classes)

    def _weigh(self, loss: Tensor, num_classes: int) -> Tensor:
        # As in MONAI, a single class is not weighted.
        weight = None if loss.shape[1] == 1 else self._weight_of(num_classes, loss)
        if weight is None:
            return loss
        return loss * (weight if weight.ndim == 0 else self._choose(weight, num_classes))

    def _reduce(self, loss: Tensor, reference: Tensor, num_spatial: int) -> Tensor:
        if self.reduction == "none":
            # MONAI's shapes: (B, K, 1...) per item, (K, 1...) over the batch.
            return loss.reshape(*(loss.shape[1:] if self.batch else loss.shape), *[1] * num_spatial)
        if self.reduction == "sum":
            return loss.sum()
        if self.classes == "present":
            loss = loss.sum(1) / (reference > 0).sum(1).clamp_min(1)
        return loss.sum() / max(loss.numel(), 1)  # a batch without items: 0

    def _ignored_on_single_channel(self) -> list[str]:
        background = [] if self.include_background or self.two_class else ["include_background=False"]
        return [*super()._ignored_on_single_channel(), *background]

    def _check_values(self, voxels: Voxels) -> None:
        super()._check_values(voxels)
        self._check_probabilities(voxels)


def _nan_in_every_class(loss: Tensor) -> Tensor:
    """Losses (B, C), NaN in all classes of an item where it is NaN in one, and so in the gradient of all its voxels.

    Otherwise a NaN outside the chosen classes would leave a finite loss with NaN in its gradient.
    """
    return loss * torch.where(loss.isnan().any(1, keepdim=True), torch.nan, 1.0)


def warn_as_one(loss: torch.nn.Module) -> None:
    """Let the parts of a loss, which have the same target, give one warning together."""
    parts = [part for part in loss.modules() if isinstance(part, SurrogateLoss)]
    for part in parts:
        part._warn_once = parts[0]._warn_once


def check_channels(loss: object, num_channels: int) -> None:
    """Check the weights, counts, volumes and class ids of a loss against the network, before the first batch.

    For the ``initialize`` of a config. Losses of other packages pass; the parts of a wrapper (MONAI's DeepSupervisionLoss, a
    compound) are checked.

    Args:
        loss: any loss.
        num_channels: C, output channels of the network.

    Raises:
        ValueError: an argument does not fit the number of channels.

    Examples:
        >>> from monai_surrogates.losses import WeightedCELoss
        >>> check_channels(WeightedCELoss(to_onehot_y=True, class_counts=[90, 10]), 2)
    """
    for part in loss.modules() if isinstance(loss, torch.nn.Module) else ():
        if isinstance(part, SurrogateLoss):
            part._check_channels(num_channels)
