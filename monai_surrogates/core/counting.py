"""Hard counts: how many voxels an image and a class have in the prediction, in the reference and in both.

A batch is read in tiles that stay in the cache, several small images or a part of a large one, so that counting needs a few
megabytes beside its inputs. Voxels that are removed or of no class get the label C, one beyond the last class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_surrogates.core.inputs import (
    Once,
    ShapeMismatchError,
    check_no_nan,
    check_one_hot,
    check_whole_numbers,
    describe_fraction,
    differs_from,
    find_fraction,
    find_outside,
    nearest_whole,
    plain_tensor,
    signed,
    valid_voxels,
)
from monai_surrogates.core.overlap import Overlap

TILE = 2**18  # values
GPU_TILE = 2**24  # fewer calls; the temporaries of a tile stay far below a volume of logits
LARGEST_TABLE = 2**15 - 1  # cells of the confusion matrices of a tile: the largest int16

Images = Tensor | Sequence[Tensor]


class _Form(NamedTuple):
    """How a batch is read: C, and which of the two sides hold labels rather than one mask per class."""

    num_classes: int
    prediction_is_map: bool
    reference_is_map: bool


def hard_overlap(
    prediction: Images,
    reference: Images,
    num_classes: int | None = None,
    *,
    threshold: float | None = None,
    argmax: bool = False,
    ignore_index: int | None = None,
    mask: Images | None = None,
    check: bool = True,
) -> Overlap:
    """Count the voxels of each image and class, exactly.

    Both sides are tensors (B, 1 or C, spatial...), or lists of B images (1 or C, spatial...) of any size each. With
    ``num_classes`` above 1 a single channel is a label map, in any number type that holds whole numbers; C channels are masks
    of 0 and 1, which may overlap. A label map is compared with masks as well: these must then be one-hot.

    Noise below 1e-3, as of a file's slope, counts as the nearest whole number. So do larger fractions of the reference, from an
    interpolated label map or mask, with a warning (ties as in ``torch.round``, .5 is 0 and 1.5 is 2). In a prediction they are
    an error: probabilities need ``threshold`` or ``argmax``.

    Args:
        prediction: label maps or masks; probabilities or logits with ``threshold`` or ``argmax``.
        reference: label maps or masks of the same images.
        num_classes: C; needed for label maps, unless the prediction has one channel per class.
        threshold: values of the prediction from here on are 1, the others 0; in the unit of the prediction.
        argmax: the prediction has one channel per class, and each voxel belongs to the largest.
        ignore_index: voxels to remove on both sides, as if they were cropped away: those whose label it is. In masks of C > 1
            channels it names the class whose voxels go, or, outside 0..C-1, the value that marks them in some channel; then
            voxels of the reference without any class are removed too, as in MONAI. They stay, as background, where channels
            are structures that may overlap: with ``threshold``, or with neither ``num_classes`` nor ``argmax``.
        mask: 0 or 1 for each voxel, (B, 1, spatial...) or a list of (1, spatial...); voxels with 0 are removed too.
        check: whether values are checked, which reads them on the host. Without it a GPU is never waited for, a label outside
            0..C-1 belongs to no class, and any whole number but 0 in a mask counts as 1.

    Returns:
        int64 counts of shape (B, C), in voxels.

    Raises:
        ShapeMismatchError: the sides do not describe the same voxels.
        ValueError: labels out of range, masks of other values than 0 and 1, a prediction with fractions, two classes in one
            voxel.
        TypeError: something else than tensors.

    Examples:
        >>> import torch
        >>> hard_overlap(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]), num_classes=2)
        Overlap(intersection=tensor([[1, 1]]), prediction=tensor([[1, 2]]), reference=tensor([[2, 1]]))
        >>> probabilities = torch.tensor([[[0.9, 0.4, 0.2], [0.1, 0.6, 0.8]]])
        >>> hard_overlap(probabilities, torch.tensor([[[0, 0, 1]]]), argmax=True).intersection
        tensor([[1, 1]])
    """
    counter = OverlapCounter(num_classes, threshold=threshold, argmax=argmax, ignore_index=ignore_index)
    return counter(prediction, reference, mask, check=check)


@dataclass(frozen=True)
class OverlapCounter:
    """:func:`hard_overlap` with its settings checked once, which warns of fractions once.

    ``names`` are the names of the two sides in messages.
    """

    num_classes: int | None = None
    threshold: float | None = None
    argmax: bool = False
    ignore_index: int | None = None
    names: tuple[str, str] = ("prediction", "reference")
    warn: Once = field(default_factory=Once, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.num_classes is not None and (not isinstance(self.num_classes, int) or self.num_classes < 1):
            raise ValueError(
                f"num_classes must be at least 1, a whole number, but is {self.num_classes!r}; count the classes."
            )
        if self.argmax and self.threshold is not None:
            raise ValueError(
                f"threshold={self.threshold} and argmax=True exclude each other; keep argmax for classes of which each voxel "
                "has one, threshold for structures that may overlap."
            )

    def __call__(
        self, prediction: Images, reference: Images, mask: Images | None = None, check: bool = True
    ) -> Overlap:
        """Counts (B, C) of a batch; arguments as in :func:`hard_overlap`."""
        if isinstance(prediction, list | tuple) or isinstance(reference, list | tuple):
            return self._of_list(prediction, reference, mask, check)
        for name, x in zip((*self.names, "mask"), (prediction, reference, mask), strict=True):
            if not isinstance(x, Tensor) and not (x is None and name == "mask"):
                raise TypeError(f"{name} must be a tensor or a list of tensors, but is {type(x).__name__}.")
        p, r, m = (plain_tensor(x.detach()) if isinstance(x, Tensor) else None for x in (prediction, reference, mask))
        return self._of_batch(p, r, m, check)  # type: ignore[arg-type]  # only the mask may be None

    def _of_list(self, prediction: Images, reference: Images, mask: Images | None, check: bool) -> Overlap:
        sides = [prediction, reference] if mask is None else [prediction, reference, mask]
        sizes = [len(side) for side in sides]
        if len(set(sizes)) > 1 or sizes[0] == 0:
            raise ShapeMismatchError(
                f"{' and '.join((*self.names, 'mask')[: len(sides)])} must hold the same images, at least one image each, "
                f"but hold {' and '.join(map(str, sizes))} images."
            )
        overlaps = []
        for number, image in enumerate(zip(*sides, strict=True)):
            try:
                p, r, *m = (x.unsqueeze(0) if isinstance(x, Tensor) else x for x in image)
                overlaps.append(self(p, r, m[0] if m else None, check))
            except (ValueError, TypeError) as error:
                raise type(error)(f"{error} This is image {number} of the list.") from None
        classes = [overlap.reference.shape[1] for overlap in overlaps]
        if len(set(classes)) > 1:
            raise ShapeMismatchError(
                f"{self.names[0]} must have the same classes in every image, but has {classes}; add the missing channels."
            )
        return Overlap(*(torch.cat(counts) for counts in zip(*overlaps, strict=True)))

    def _of_batch(self, prediction: Tensor, reference: Tensor, mask: Tensor | None, check: bool) -> Overlap:
        form = self._form(prediction, reference)
        if mask is not None:
            _check_mask_shape(mask, reference)
        counts = torch.zeros(3, len(reference), form.num_classes, dtype=torch.int64, device=reference.device)
        for items, p, r, m in _tiles(prediction, reference, mask, form.num_classes):
            counts[:, items] += self._count_tile(p, r, m, form, check)
        return Overlap(*counts)

    def _form(self, prediction: Tensor, reference: Tensor) -> _Form:
        for name, x in zip(self.names, (prediction, reference), strict=True):
            if x.ndim < 3 or x.shape[0] == 0 or x.shape[1] == 0:
                raise ShapeMismatchError(
                    f"{name} must have the shape (B, C, spatial...) with at least one image and channel, but has "
                    f"{tuple(x.shape)}; add the missing axes."
                )
        channels = prediction.shape[1]
        if channels == 1 and self.argmax:
            raise ShapeMismatchError(
                f"{self.names[0]} must have one channel per class for argmax=True, but has the shape "
                f"{tuple(prediction.shape)}; use threshold= for a single channel."
            )
        is_beside_map = reference.shape[1] == 1 < channels
        count = self.num_classes or (channels if self.argmax or is_beside_map else None)
        is_map = [count is not None and count > 1 and x.shape[1] == 1 for x in (prediction, reference)]
        if channels == 1 and self.threshold is not None and is_map[0] and count != 2:
            raise ShapeMismatchError(
                f"{self.names[0]} must have {count} channels for threshold= with num_classes={count}, but has the shape "
                f"{tuple(prediction.shape)}; threshold gives one mask per channel."
            )
        expected = {x.shape[1] for x, labels in zip((prediction, reference), is_map, strict=True) if not labels}
        expected |= set() if count is None else {count}
        same_voxels = prediction.shape[0] == reference.shape[0] and prediction.shape[2:] == reference.shape[2:]
        if len(expected) > 1 or not same_voxels:
            raise ShapeMismatchError(
                f"{' and '.join(self.names)} must have the same shape, or be label maps (B, 1, spatial...) with num_classes, "
                f"but are {tuple(prediction.shape)} and {tuple(reference.shape)} with num_classes={self.num_classes}; "
                + ("give num_classes, or one channel per class." if same_voxels else "crop or resample one of the two.")
            )
        return _Form(expected.pop(), self.argmax or is_map[0], is_map[1])

    def _count_tile(self, p: Tensor, r: Tensor, mask: Tensor | None, form: _Form, check: bool) -> Tensor:
        """Counts (3, b, C) of a tile, from (b, 1 or C, n); the mask is (b, n)."""
        num_classes, *is_map = form
        limits = [num_classes if of_labels else None for of_labels in is_map]
        reference = nearest_whole(r)
        valid = self._valid(reference, mask, check)
        p = self._harden(p, valid, check)
        if check:
            sides = [self._checked(p, nearest_whole(p), 0, limits[0], valid)]
            sides += [self._checked(reference, reference, 1, limits[1], valid)]
            self._warn_of_fraction(r, reference, valid)
        else:
            sides = [_in_limits(x, limit) for x, limit in zip((p, reference), limits, strict=True)]
        two_classes = num_classes == 2 and all(is_map)
        if two_classes and not check:  # some labels may be no class, so that each class is counted by itself
            two_classes, is_map = False, [False, False]
            sides = [torch.cat([x == 0, x == 1], dim=1) for x in sides]
        if two_classes or not any(is_map):
            p, r = (x.bool() if valid is None else x.bool() & valid.unsqueeze(1) for x in sides)
            return count_two_classes(p, r, valid) if two_classes else count_masks(p, r)
        dtype = _label_type(num_classes)
        sides = [x.to(dtype) if valid is None else x.to(dtype) * valid.unsqueeze(1).to(dtype) for x in sides]
        labels = [
            _labels(x[:, 0], num_classes, valid) if is_map[side] else _labels_of_masks(x, self.names[side], check)
            for side, x in enumerate(sides)
        ]
        return count_labels(labels[0], labels[1], num_classes)

    def _valid(self, r: Tensor, mask: Tensor | None, check: bool) -> Tensor | None:
        """The valid voxels of a tile, (b, n) bool; None if all are."""
        if mask is not None and check:
            cures = ("mark the voxels that count with 1, the others with 0.",) * 2
            check_whole_numbers(mask, nearest_whole(mask), None, "mask", cures)
        marked = None if mask is None else differs_from(mask, 0)
        if self.ignore_index is None:
            return marked
        valid = valid_voxels(r, self.ignore_index, structures=self._reads_structures())
        return valid if marked is None else valid & marked

    def _reads_structures(self) -> bool:
        """Whether channels are structures that may overlap, or all be absent."""
        return self.threshold is not None or (self.num_classes is None and not self.argmax)

    def _warn_of_fraction(self, given: Tensor, nearest: Tensor, valid: Tensor | None) -> None:
        fraction = find_fraction(given, nearest, valid)
        if fraction is not None:
            self.warn(f"{describe_fraction(self.names[1], fraction)}.")

    def _harden(self, p: Tensor, valid: Tensor | None, check: bool) -> Tensor:
        if check and (self.argmax or self.threshold is not None):
            check_no_nan(p if valid is None else p.where(valid.unsqueeze(1), 0), self.names[0])
        if self.argmax:
            return largest_channel(p).unsqueeze(1)
        return p if self.threshold is None else p >= self.threshold

    def _checked(
        self, given: Tensor, nearest: Tensor, side: int, num_classes: int | None, valid: Tensor | None
    ) -> Tensor:
        """Labels, or masks where ``num_classes`` is None, whose values are fit for a narrow type wherever they count."""
        if find_outside(nearest, num_classes or 2) is None and find_fraction(given, nearest) is None:
            return nearest
        if valid is not None:  # removed voxels may hold anything
            given, nearest = (torch.where(valid.unsqueeze(1), x, 0) for x in (given, nearest))
        cures = (_LABEL_CURES if num_classes else _MASK_CURES)[side]
        check_whole_numbers(given, nearest, num_classes, self.names[side], cures)
        return nearest


def _in_limits(x: Tensor, num_classes: int | None) -> Tensor:
    """Unchecked labels with C for values that are no class, which some narrow types cannot hold; or masks."""
    if num_classes is None:
        return differs_from(x, 0)
    x = nearest_whole(x) if x.is_floating_point() else x.long()
    return torch.where((x >= 0) & (x < num_classes), x, num_classes)


_FRACTION_CURE = "give threshold= for masks, or argmax=True for one channel per class"
# for prediction and reference: the cure of a fraction, and of a value out of range
_LABEL_CURES = (
    (f"{_FRACTION_CURE}.", "correct the labels, or raise num_classes."),
    (
        "interpolate labels with mode='nearest'.",
        "correct the labels, or leave these voxels out with ignore_index={value:g}.",
    ),
)
_MASK_CURES = (
    (f"{_FRACTION_CURE}.", f"{_FRACTION_CURE}, or num_classes for label maps."),
    (
        "round it, or interpolate it with mode='nearest'.",
        "give num_classes for label maps, divide masks of 0 and 255 by 255, or leave these voxels out with "
        "ignore_index={value:g}.",
    ),
)


def largest_channel(x: Tensor) -> Tensor:
    """The first largest of C channels at each voxel, (b, C, n) to (b, n); torch's argmax over channels is slow on a CPU.

    The label is the number of channels before the first that equals the maximum.
    """
    if x.device.type != "cpu":
        return x.argmax(1)
    largest = x.amax(1)
    before = torch.ones(largest.shape, dtype=torch.bool)
    label = torch.zeros(largest.shape, dtype=_label_type(x.shape[1]))
    for channel in x[:, :-1].unbind(1):
        before &= channel != largest
        label += before
    return label


def count_labels(prediction: Tensor, reference: Tensor, num_classes: int) -> Tensor:
    """Counts (3, b, C) of two stacks of label maps (b, n) with labels 0..C, where C belongs to no class.

    Up to C = 180 they are read off confusion matrices, histograms of (C + 1)·prediction + reference.
    """
    size = num_classes + 1
    if size * size <= LARGEST_TABLE:
        table = _histograms(torch.add(reference, prediction, alpha=size), size * size).view(-1, size, size)
        counts = torch.stack([table.diagonal(dim1=1, dim2=2), table.sum(2), table.sum(1)])
    else:
        both = torch.where(prediction == reference, prediction, num_classes)
        counts = torch.stack([_histograms(x, size) for x in (both, prediction, reference)])
    return counts[..., :num_classes]


def count_two_classes(prediction: Tensor, reference: Tensor, valid: Tensor | None = None) -> Tensor:
    """Counts (3, b, 2) of two stacks of masks (b, 1, n) of class 1, with 0 in removed voxels.

    |A₀| = n − |A₁|, |B₀| = n − |B₁| and I₀ = n − |A₁| − |B₁| + I₁: three sums give the six counts.
    """
    ones = count_masks(prediction, reference)
    zeros = (reference.shape[2] if valid is None else _size(valid).unsqueeze(1)) - ones
    zeros[0] += 2 * ones[0] - ones[1] - ones[2]
    return torch.cat([zeros, ones], dim=2)


def count_masks(prediction: Tensor, reference: Tensor) -> Tensor:
    """Counts (3, b, C) of two stacks of masks (b, C, n), bool."""
    return torch.stack([_size(x) for x in (prediction & reference, prediction, reference)])


def _size(mask: Tensor) -> Tensor:
    """Voxels of masks (..., n), of a tile at most; torch sums int32 the fastest."""
    return mask.sum(-1, dtype=torch.int32).long()


def _histograms(labels: Tensor, size: int) -> Tensor:
    """How often each of 0..size-1 occurs in each row, (b, n) to (b, size)."""
    rows = len(labels)
    if rows > 1:
        labels = labels + size * torch.arange(rows, dtype=labels.dtype, device=labels.device).unsqueeze(1)
    return _histogram(labels.flatten(), rows * size).view(rows, size)


def _histogram(labels: Tensor, size: int) -> Tensor:
    return torch.bincount(labels, minlength=size) if labels.device.type == "cpu" else scattered_histogram(labels, size)


def scattered_histogram(labels: Tensor, size: int) -> Tensor:
    """How often each of 0..size-1 occurs; on a GPU ``bincount`` would wait for the smallest and the largest label."""
    one = torch.ones((), dtype=torch.int64, device=labels.device)
    return labels.new_zeros(size, dtype=torch.int64).scatter_add_(0, labels.long(), one.expand(labels.shape))


def _label_type(num_classes: int) -> torch.dtype:
    """A type for labels 0..C, and for cells of confusion matrices where those are used."""
    return torch.int16 if (num_classes + 1) ** 2 <= LARGEST_TABLE else torch.int32


def _labels(x: Tensor, num_classes: int, valid: Tensor | None) -> Tensor:
    """Labels (b, n) with C in removed voxels."""
    return x if valid is None else (x - num_classes) * valid.to(x.dtype) + num_classes


def _labels_of_masks(x: Tensor, name: str, check: bool) -> Tensor:
    """One-hot masks (b, C, n) as labels (b, n); a voxel without exactly one class gets C."""
    num_classes, dtype = x.shape[1], _label_type(x.shape[1])
    active = x.sum(1, dtype=dtype)
    if check:
        check_one_hot(active, name)
    classes = torch.arange(num_classes, dtype=dtype, device=x.device).unsqueeze(1)
    return torch.where(active == 1, (x * classes).sum(1, dtype=dtype), num_classes)


def _tiles(p: Tensor, r: Tensor, mask: Tensor | None, num_classes: int) -> Iterator[tuple[Any, ...]]:
    """The items of each tile, a slice, and its pieces (b, 1 or C, n) of both sides and (b, n) of the mask."""
    channels, voxels = max(p.shape[1], r.shape[1]), max(1, r[0, 0].numel())
    values = TILE if r.device.type == "cpu" else GPU_TILE
    many = max(1, min(values // (channels * voxels), LARGEST_TABLE // (num_classes + 1) ** 2))
    step = max(values // channels, 1)
    for first in range(0, len(r), many):
        items = slice(first, first + many)
        sides = [None if x is None else x[items].flatten(2) for x in (p, r, mask)]  # a copy of images in another layout
        for start in range(0, voxels, step):
            p_x, r_x, m_x = (None if x is None else signed(x[..., start : start + step]) for x in sides)
            yield items, p_x, r_x, None if m_x is None else m_x[:, 0]


def _check_mask_shape(mask: Tensor, reference: Tensor) -> None:
    expected = (reference.shape[0], 1, *reference.shape[2:])
    if tuple(mask.shape) != expected:
        raise ShapeMismatchError(
            f"mask must have the shape {expected}, one value per voxel, but has {tuple(mask.shape)}; "
            "add the missing axes, or crop it like the images."
        )
