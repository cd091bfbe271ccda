"""Every check of a tensor, and the one form of a batch in the rest of the package.

A batch becomes :class:`Voxels`: the network's output, its reference as a label map or as one value per class, and the
valid voxels. Nothing here copies a label map into one-hot form.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from monai_surrogates._messages import warn_of_data

PROBABILITY_SLACK = 1e-3  # half precision rounds a probability of 1 upwards
OVERSHOOT = 0.5  # a mask that splines interpolate leaves [0, 1] by less
NOISE = 1e-3  # the slope and intercept of a file may move a label this far from a whole number
LABEL_CURE = (
    "give the label key `mode: nearest` in the transform that interpolates it, or round it by AsDiscreted with "
    "`rounding: torchrounding` behind one that scales it"
)
FRACTION_CURE = "interpolate labels with mode='nearest', or pass soft labels with one channel per class."


class ShapeMismatchError(AssertionError, ValueError):
    """Prediction and reference do not fit together.

    MONAI raises AssertionError for this in DiceLoss and ValueError in DiceCELoss; code that catches either one still works.
    """


class Once:
    """A warning of data that is given once, however often it is called for."""

    def __init__(self) -> None:
        self._given = False

    def __call__(self, message: str) -> None:
        """Warn, at the first call."""
        if not self._given:
            self._given = True
            warn_of_data(message)


class Voxels(NamedTuple):
    """One batch, spatial axes flattened into N voxels.

    Attributes:
        input: logits or probabilities, (B, C, N), float32 or float64.
        target: label map (B, N), whole numbers, or one value per class (B, C, N) in the input's type, 0 and 1 for Lovász
            losses; zeros in removed voxels.
        valid: (B, N), True where the voxel counts; None if every voxel does.
        spatial: lengths of the spatial axes before they were flattened.
    """

    input: Tensor
    target: Tensor
    valid: Tensor | None
    spatial: tuple[int, ...] = ()

    @property
    def is_label_map(self) -> bool:
        """Whether the target holds labels rather than one value per class."""
        return self.target.ndim == 2

    def zeroed(self) -> Voxels:
        """With zeros in the input of removed voxels, too."""
        if self.valid is None:
            return self
        return self._replace(input=torch.where(self.valid.unsqueeze(1), self.input, 0))


def plain_tensor(x: Tensor) -> Tensor:
    """A MetaTensor without its meta data; any other tensor as it is."""
    return x if type(x) is Tensor else x.as_subclass(Tensor)


def at_least_float32(x: Tensor) -> Tensor:
    """Sums in float16 overflow at 65504 voxels and bfloat16 cannot count, so both are widened."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def flatten_voxels(
    input: Tensor, target: Tensor, *, label_map: bool, ignore_index: int | None, structures: bool = False
) -> Voxels:
    """Bring a batch into the one form that the core reads; input and integer label maps are copied only where needed.

    Args:
        input: (B, C, spatial...).
        target: (B, 1, spatial...) labels, whole numbers, if ``label_map``; otherwise (B, C, spatial...).
        label_map: how to read the target.
        ignore_index: label of the voxels to remove; see :func:`valid_voxels`.
        structures: see there.
    """
    x = at_least_float32(plain_tensor(input)).flatten(2)
    y = signed(plain_tensor(target)).flatten(2)
    valid = None if ignore_index is None else valid_voxels(y, ignore_index, structures=structures)
    y = y[:, 0] if label_map else y.to(x.dtype)
    if valid is not None:
        y = torch.where(valid if label_map else valid.unsqueeze(1), y, 0)
    return Voxels(x, y, valid, tuple(input.shape[2:]))


def valid_voxels(target: Tensor, ignore_index: int, *, structures: bool) -> Tensor:
    """The voxels that ``ignore_index`` leaves, (B, N) bool: the one rule of losses and scores.

    Values are compared as their nearest whole numbers.

    Args:
        target: labels or a single mask (B, 1, N), or one value per class (B, C, N).
        ignore_index: label of the voxels to remove. With one value per class it names the class whose voxels are removed, or,
            outside 0..C-1, the voxels that belong to no class (MONAI's reading) or hold this value.
        structures: the channels are structures of their own, so that a voxel of none of them is background and stays.
    """
    num_channels = target.shape[1]
    if num_channels == 1:
        return differs_from(target[:, 0], ignore_index)
    if 0 <= ignore_index < num_channels:
        return differs_from(target[:, ignore_index], 1)
    unmarked = differs_from(target, ignore_index).all(dim=1)
    if structures:
        return unmarked
    # soft labels of 0.4, 0.3 and 0.3 are classes, though each is nearest to 0
    absent = target.abs().amax(dim=1) < NOISE if target.is_floating_point() else ~target.any(dim=1)
    return unmarked & ~absent


def check_tensors(input: object, target: object) -> None:
    """Arrays and lists are refused here, with a TypeError."""
    for name, x in (("input", input), ("target", target)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, but is {type(x).__name__}; convert it by torch.as_tensor.")


def check_same_shape(x: Tensor, expected: tuple[int, ...], name: str) -> None:
    """Raise a ShapeMismatchError for a tensor that would only broadcast."""
    if tuple(x.shape) != expected:
        raise ShapeMismatchError(
            f"{name} must keep the shape {expected}, but has {tuple(x.shape)}; it must not reduce axes."
        )


def check_shapes(input: Tensor, target: Tensor, *, label_map: bool) -> None:
    """Prediction and reference must describe the same voxels.

    Raises:
        ShapeMismatchError: they do not; the message holds both shapes and the cure.
    """
    if input.ndim < 3:
        raise ShapeMismatchError(
            f"input must have the shape (B, C, spatial...), but has {tuple(input.shape)}; add the missing axes."
        )
    if input.shape[1] < 1:
        raise ShapeMismatchError(f"input must have at least one channel, but has the shape {tuple(input.shape)}.")
    expected = (input.shape[0], 1 if label_map else input.shape[1], *input.shape[2:])
    if tuple(target.shape) == expected:
        return
    what = "target, read as a label map," if label_map else "target, one channel per class,"
    raise ShapeMismatchError(
        f"{what} must have the shape {expected} to match the input {tuple(input.shape)}, but has {tuple(target.shape)}; "
        + _shape_cure(input, target, label_map)
    )


def _shape_cure(input: Tensor, target: Tensor, label_map: bool) -> str:
    if target.ndim == input.ndim - 1:
        return "add the channel axis: target.unsqueeze(1)."
    if not label_map and target.ndim == input.ndim and target.shape[1] == 1 < input.shape[1]:
        return "a label map needs to_onehot_y=True."
    if label_map and tuple(target.shape) == tuple(input.shape):
        return "a target with one channel per class needs to_onehot_y=False."
    if target.ndim != input.ndim or target.shape[0] != input.shape[0]:
        return "give both the same axes and the same number of items."
    if target.shape[2:] == input.shape[2:]:
        return "the network must have one output channel per class of the target."
    return "crop or resample one of the two."


def nearest_whole(values: Tensor) -> Tensor:
    """Values as their nearest whole numbers, of two as near the even one; NaN and infinities as they are.

    MONAI's losses cut labels off, where 0.99999 is 0; its AsDiscrete rounds as here.
    """
    return values.round() if values.is_floating_point() else values


def find_fraction(values: Tensor, nearest: Tensor, valid: Tensor | None = None) -> float | None:
    """The first value ``NOISE`` or more away from its nearest whole number, if there is one; NaN is none.

    Args:
        values: (B, C, ...), floating point or not.
        nearest: their nearest whole numbers.
        valid: (B, N) bool, False for removed voxels, which may hold anything; None if there are none.
    """
    if values is nearest or not values.is_floating_point() or values.numel() == 0:
        return None
    distance = (values.detach() - nearest).abs_()
    if bool(distance.amax() < NOISE):
        return None
    found = distance >= NOISE
    if valid is not None:
        found = found.flatten(2) & valid.unsqueeze(1)
        values = values.flatten(2)
    fractions = values[found]
    return fractions[0].item() if len(fractions) else None


def describe_fraction(name: str, value: float) -> str:
    """The warning of a label that is read as its nearest whole number."""
    return f"{name} holds {value:.7g}, read as {round(value)}, the nearest whole number; {LABEL_CURE}"


def find_outside(values: Tensor, limit: int) -> float | None:
    """The smallest or the largest value if it lies outside 0..limit-1; NaN does."""
    if values.numel() == 0 or (values.dtype == torch.bool and limit > 1):
        return None
    # compared as numbers, a narrow type would wrap the limit
    return next((extreme.item() for extreme in values.aminmax() if not 0 <= extreme.item() < limit), None)


def check_range(
    values: Tensor,
    num_classes: int | None,
    name: str = "target",
    cures: tuple[str, str] = (
        FRACTION_CURE,
        "correct the labels, or leave these voxels out with ignore_index={value:g}.",
    ),
) -> None:
    """Whole numbers must lie in 0..num_classes-1, those of masks be 0 or 1.

    Args:
        values: any shape and number type.
        num_classes: C for labels, None for masks.
        name: their name in the message.
        cures: the cure of a value that is no whole number, and of one out of range (may hold ``{value:g}``).

    Raises:
        ValueError: the offending value is named.
    """
    found = find_outside(values, num_classes or 2)
    if found is None:
        return
    is_nan = found != found
    if is_nan or num_classes is None:
        expected = f"must hold {_kind(num_classes)}, but holds {found:g}"
    else:
        expected = f"holds the label {found:g}, but {num_classes} classes allow 0 to {num_classes - 1}"
    of_fraction, of_range = cures
    cure = of_fraction if is_nan else of_range.format(value=found)
    if num_classes is not None and abs(found) == math.inf:  # no ignore_index is infinite
        cure = "correct the labels."
    raise ValueError(f"{name} {expected}; {cure}")


def _kind(num_classes: int | None) -> str:
    return "masks of 0 and 1" if num_classes is None else "whole-number labels"


def check_fractions(values: Tensor, name: str, cure: str, slack: float = PROBABILITY_SLACK) -> float | None:
    """Values must lie in [0, 1].

    Args:
        values: any shape.
        name: their name in the message.
        cure: its end.
        slack: how far outside values may lie.

    Returns:
        A value more than ``PROBABILITY_SLACK`` outside, which a larger ``slack`` allows; None if there is none.

    Raises:
        ValueError: the smallest or the largest value is named, with the cure.
    """
    if values.numel() == 0:
        return None
    extremes = [extreme.item() for extreme in values.detach().aminmax()]
    for value in extremes:
        if value != value:
            raise ValueError(f"{name} must lie in [0, 1], but holds NaN; look for a division by zero before the loss.")
        if not -slack <= value <= 1 + slack:
            raise ValueError(f"{name} must lie in [0, 1], but holds {value:g}; {cure}")
    return next((value for value in extremes if not -PROBABILITY_SLACK <= value <= 1 + PROBABILITY_SLACK), None)


def check_whole_numbers(
    values: Tensor, nearest: Tensor, num_classes: int | None, name: str, cures: tuple[str, str]
) -> None:
    """Labels must be whole numbers in 0..num_classes-1, masks hold 0 and 1, both but for noise.

    Args:
        values: as they are given.
        nearest: their nearest whole numbers.
        num_classes: as the remaining arguments, see :func:`check_range`.
        name: see there.
        cures: see there.

    Raises:
        ValueError: the offending value is named.
    """
    fraction = find_fraction(values, nearest)
    if fraction is not None:
        raise ValueError(f"{name} must hold {_kind(num_classes)}, but holds {fraction:g}; {cures[0]}")
    check_range(nearest, num_classes, name, cures)


def check_no_nan(values: Tensor, name: str) -> None:
    """NaN belongs to no class.

    Raises:
        ValueError: some value is NaN.
    """
    if values.is_floating_point() and values.numel() and bool(values.amax().isnan()):
        raise ValueError(f"{name} must hold numbers, but holds NaN; look for a division by zero or a diverged network.")


def check_one_hot(active: Tensor, name: str) -> None:
    """Masks that are compared with a label map have at most one class per voxel.

    Args:
        active: number of classes of each voxel.
        name: their name in the message.

    Raises:
        ValueError: some voxel has more.
    """
    most = int(active.max()) if active.numel() else 0
    if most > 1:
        raise ValueError(
            f"{name} must be one-hot to be compared with a label map, but has {most} active classes in one voxel; "
            "give masks on both sides where structures overlap."
        )


def differs_from(values: Tensor, label: int) -> Tensor:
    """Where values, as their nearest whole numbers, differ from a label; NaN does.

    Comparing a narrow type with a number outside its range would wrap around.
    """
    if values.is_floating_point():
        return nearest_whole(values) != label
    if values.dtype == torch.bool:
        values = values.to(torch.uint8)
    if not torch.iinfo(values.dtype).min <= label <= torch.iinfo(values.dtype).max:
        return torch.ones_like(values, dtype=torch.bool)
    return values != label


def signed(values: Tensor) -> Tensor:
    """The same values in a type that torch can search for extremes; it knows few operations on wide unsigned types."""
    return values.long() if values.dtype in (torch.uint16, torch.uint32, torch.uint64) else values
