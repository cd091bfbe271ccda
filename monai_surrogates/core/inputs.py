"""Every check of a tensor, and the one form of a batch in the rest of the package.

A batch becomes :class:`Voxels`: the network's output, its reference as a label map or as one value per class, and the
valid voxels. Nothing here copies a label map into one-hot form.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

PROBABILITY_SLACK = 1e-3  # half precision rounds a probability of 1 upwards
NOISE = 1e-3  # the slope and intercept of a file may move a label this far from a whole number


class ShapeMismatchError(AssertionError, ValueError):
    """Prediction and reference do not fit together.

    MONAI raises AssertionError for this in DiceLoss and ValueError in DiceCELoss; code that catches either one still works.
    """


class Voxels(NamedTuple):
    """One batch, spatial axes flattened into N voxels.

    Attributes:
        input: logits or probabilities, (B, C, N), float32 or float64.
        target: label map (B, N), whole numbers, or one value per class (B, C, N) in the input's type; zeros in removed voxels.
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

    Labels in a floating-point type become the nearest whole number; NaN stays.

    Args:
        input: (B, C, spatial...).
        target: (B, 1, spatial...) labels if ``label_map``, otherwise (B, C, spatial...).
        label_map: how to read the target.
        ignore_index: label of the voxels to remove. With one value per class it names the class whose voxels are removed, or,
            outside 0..C-1, the voxels that belong to no class (MONAI's reading) or hold this value.
        structures: the channels are structures of their own, so that a voxel of none of them is background and stays.
    """
    x = at_least_float32(plain_tensor(input)).flatten(2)
    y = signed(plain_tensor(target)).flatten(2)
    y = y.round() if label_map and y.is_floating_point() else y
    valid = None if ignore_index is None else _valid_voxels(y, ignore_index, structures)
    y = y[:, 0] if label_map else y.to(x.dtype)
    if valid is not None:
        y = torch.where(valid if label_map else valid.unsqueeze(1), y, 0)
    return Voxels(x, y, valid, tuple(input.shape[2:]))


def _valid_voxels(target: Tensor, ignore_index: int, structures: bool) -> Tensor:
    num_channels = target.shape[1]
    if num_channels == 1:
        return differs_from(target[:, 0], ignore_index)
    if 0 <= ignore_index < num_channels:
        return differs_from(target[:, ignore_index], 1)
    unmarked = differs_from(target, ignore_index).all(dim=1)
    return unmarked if structures else unmarked & differs_from(target, 0).any(dim=1)


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


def check_no_fraction(labels: Tensor, name: str = "target") -> None:
    """Labels, as they are given, must be whole numbers but for noise.

    Raises:
        ValueError: a fraction or NaN, which is named.
    """
    fraction = _find_fraction(plain_tensor(labels))
    if fraction is not None:
        raise ValueError(
            f"{name} must hold whole-number labels, but holds {fraction!r}; "
            "interpolate labels with mode='nearest', or pass soft labels with one channel per class."
        )


def _find_fraction(values: Tensor) -> float | None:
    """The first value that is NaN, or at least ``NOISE`` away from a whole number."""
    if not values.is_floating_point() or torch.equal(values, values.round()):
        return None
    values = without_noise(values)
    fractions = values[values != values.round()]
    return fractions[0].item() if len(fractions) else None


def check_labels(labels: Tensor, num_classes: int, name: str = "target") -> None:
    """Whole-number labels must lie in 0..num_classes-1 (removed voxels hold 0 by now).

    Raises:
        ValueError: the offending label is named.
    """
    if labels.numel() == 0:
        return
    low, high = labels.aminmax()
    for label in (low.item(), high.item()):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"{name} holds the label {label:g}, but {num_classes} classes allow 0 to {num_classes - 1}; "
                + (
                    f"correct the labels, or leave these voxels out with ignore_index={label:g}."
                    if abs(label) < math.inf
                    else "correct the labels."
                )
            )


def check_fractions(values: Tensor, name: str, cure: str) -> None:
    """Values must lie in [0, 1].

    Raises:
        ValueError: the smallest or the largest value is named, with the cure.
    """
    if values.numel() == 0:
        return
    low, high = values.detach().aminmax()
    for value in (low.item(), high.item()):
        if value != value:
            raise ValueError(f"{name} must lie in [0, 1], but holds NaN; look for a division by zero before the loss.")
        if not -PROBABILITY_SLACK <= value <= 1 + PROBABILITY_SLACK:
            raise ValueError(f"{name} must lie in [0, 1], but holds {value:g}; {cure}")


def check_hard(target: Tensor) -> None:
    """Lovász losses are defined for hard references alone, here with values in [0, 1] by :func:`check_fractions`.

    Raises:
        ValueError: some value is neither 0 nor 1, but for noise.
    """
    fraction = _find_fraction(target)
    if fraction is not None:
        raise ValueError(
            f"target must hold 0 and 1 alone for a Lovász loss, but holds {fraction:g}; "
            "for soft labels use SoftJaccardLoss(soft_label=True)."
        )


def holds_whole_numbers(values: Tensor, limit: int) -> bool:
    """Whether all values are whole numbers in 0..limit-1; NaN is none."""
    if values.numel() == 0 or (values.dtype == torch.bool and limit > 1):
        return True
    low, high = (
        extreme.item() for extreme in values.aminmax()
    )  # compared as numbers, a narrow type would wrap the limit
    if not (low >= 0 and high < limit):
        return False
    return not values.is_floating_point() or not bool(values.frac().amax() > 0)


def check_whole_numbers(values: Tensor, num_classes: int | None, name: str, cures: tuple[str, str]) -> Tensor:
    """Labels are whole numbers in 0..num_classes-1, masks hold 0 and 1, both but for noise.

    Args:
        values: any shape and number type.
        num_classes: C for labels, None for masks.
        name: their name in the message.
        cures: the cure of a fraction, and of a whole number out of range (may hold ``{value:g}``).

    Returns:
        The values without noise.

    Raises:
        ValueError: the offending value is named.
    """
    limit = num_classes or 2
    if holds_whole_numbers(values, limit):
        return values
    values = without_noise(values)
    if holds_whole_numbers(values, limit):
        return values
    fractions = values != values.trunc() if values.is_floating_point() else torch.zeros_like(values, dtype=torch.bool)
    if bool(fractions.any()):
        found, cure = values[fractions][0].item(), cures[0]
    else:
        found, cure = next(value.item() for value in values.aminmax() if not 0 <= value.item() < limit), cures[1]
    if num_classes is None:
        expected = f"must hold masks of 0 and 1, but holds {found:g}"
    elif cure is cures[0]:
        expected = f"must hold whole-number labels, but holds {found:g}"
    else:
        expected = f"holds the label {found:g}, but {limit} classes allow 0 to {limit - 1}"
    raise ValueError(f"{name} {expected}; {cure.format(value=found)}")


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


def without_noise(values: Tensor) -> Tensor:
    """Values nearer than ``NOISE`` to a whole number as that number; fractions, NaN and infinities as they are."""
    if not values.is_floating_point():
        return values
    nearest = values.round()
    return torch.where((values - nearest).abs() < NOISE, nearest, values)


def differs_from(values: Tensor, label: int) -> Tensor:
    """Where values differ from a label by more than noise; NaN does.

    Comparing a narrow type with a number outside its range would wrap around.
    """
    if values.is_floating_point():
        return ~((values - label).abs() < NOISE)
    if values.dtype == torch.bool:
        values = values.to(torch.uint8)
    if not torch.iinfo(values.dtype).min <= label <= torch.iinfo(values.dtype).max:
        return torch.ones_like(values, dtype=torch.bool)
    return values != label


def signed(values: Tensor) -> Tensor:
    """The same values in a type that torch can search for extremes; it knows few operations on wide unsigned types."""
    return values.long() if values.dtype in (torch.uint16, torch.uint32, torch.uint64) else values
