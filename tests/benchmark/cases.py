"""What is measured: shapes, and which methods run on them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

CROSS_ENTROPY = "cross_entropy"
OVERLAP = {"soft_dice": "monai_dice", "soft_jaccard": "monai_jaccard"}  # ours, and MONAI's loss of the same definition
AUTO, SORT, BINS, FINE_BINS = "lovasz_auto", "lovasz_sort", "lovasz_bins", "lovasz_fine_bins"
KORNIA, TEXTBOOK = "kornia_lovasz", "textbook_lovasz"
LOSSES = (CROSS_ENTROPY, *OVERLAP, AUTO, SORT, BINS, *OVERLAP.values(), KORNIA)  # on slices
PEERS = (CROSS_ENTROPY, *OVERLAP.values(), KORNIA, TEXTBOOK)
LINEAR = (*OVERLAP, BINS)  # whose time per voxel and class is to stay the same; a sort's grows
COUNTING, DICE_METRIC = "counting", "monai_dice_metric"
OURS = (*OVERLAP, AUTO, SORT, BINS, FINE_BINS, COUNTING)
OLD = "old "  # before the name of a method of ours: the same of another checkout

# glibc maps a block above 32 MiB (or less, by what was freed before) anew at each call and pays for every page;
# a warm heap keeps them.
ALLOCATORS = {
    "default": {},
    "warm heap": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"},
}
DTYPES = ("int64", "float32", "uint8")

Size = tuple[int, int, tuple[int, ...]]  # batch, classes, shape of an image
SLICES: tuple[Size, ...] = (
    (16, 2, (256, 256)),
    (64, 3, (96, 96)),
    (4, 19, (256, 512)),
    (8, 4, (256, 256)),
    (32, 2, (128, 128)),
    (2, 2, (512, 512)),
)
VOLUMES: tuple[Size, ...] = ((2, 2, (96,) * 3), (1, 14, (96,) * 3), (1, 105, (64,) * 3))
MORE_VOLUMES: tuple[Size, ...] = ((2, 14, (64,) * 3), (1, 14, (128,) * 3))
CUDA_VOLUMES: tuple[Size, ...] = ((2, 14, (128,) * 3), (1, 105, (128,) * 3))
README: tuple[Size, ...] = (*SLICES[:3], *VOLUMES)
UNEVEN: Size = (3, 2, (80, 96, 88))
QUICK: tuple[Size, ...] = ((2, 3, (24, 32)), (1, 14, (12,) * 3))


@dataclass(frozen=True)
class Case:
    """A batch of images; ``dtype`` is that of the label maps of a score, None where logits go into a loss."""

    batch: int
    classes: int
    shape: tuple[int, ...]
    methods: tuple[str, ...] = LOSSES
    dtype: str | None = None
    allocators: tuple[str, ...] = tuple(ALLOCATORS)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Case:
        """A case that has been JSON, where tuples become lists."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    @property
    def name(self) -> str:
        """``b2-c14-64x64x64``; scores: ``scores-b2-c14-64x64x64-uint8``."""
        shape = f"b{self.batch}-c{self.classes}-{'x'.join(map(str, self.shape))}"
        return shape if self.dtype is None else f"scores-{shape}-{self.dtype}"

    @property
    def title(self) -> str:
        """``B2 C14 64³``."""
        shape = f"B{self.batch} C{self.classes} {self.image}"
        return shape if self.dtype is None else f"scores, {shape}, {self.dtype}"

    @property
    def image(self) -> str:
        """``64³``, ``256×512``."""
        powers = {1: "", 2: "²", 3: "³"}
        even = len(set(self.shape)) == 1
        return f"{self.shape[0]}{powers[len(self.shape)]}" if even else "×".join(map(str, self.shape))

    @property
    def size(self) -> Size:
        return self.batch, self.classes, self.shape

    @property
    def image_voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def voxels(self) -> int:
        return self.batch * self.image_voxels

    @property
    def logits_bytes(self) -> int:
        return 4 * self.classes * self.voxels


@dataclass(frozen=True)
class Suite:
    """All cases, and the two lines along which one thing grows: voxels at one number of classes, classes at one size."""

    slices: tuple[Case, ...]
    volumes: tuple[Case, ...]
    scores: tuple[Case, ...]
    scale: tuple[Case, ...] = ()
    by_voxels: tuple[str, ...] = ()
    by_classes: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[str, tuple[Case, ...]]:
        """The cases by a name for each kind; the README's are of two kinds."""
        kinds = {"slices": self.slices, "volumes": self.volumes, "scores": self.scores, "scale": self.scale}
        return kinds | {"readme": self.readme}

    @property
    def readme(self) -> tuple[Case, ...]:
        """Those of the README's table; of a quick suite all losses, to try it."""
        losses = self.slices + self.volumes
        return tuple(case for case in losses if case.size in README + QUICK)

    def cases(self, patterns: list[str]) -> list[Case]:
        """Those of which a pattern names the group or the case; all of them without a pattern."""
        chosen = [
            case
            for group, cases in self.groups.items()
            for case in cases
            if not patterns or any(pattern == group or fnmatch(case.name, pattern) for pattern in patterns)
        ]
        return list(dict.fromkeys(chosen))


def suite(device: str, extent: str = "half") -> Suite:
    """The suite of a device.

    Args:
        device: ``"cpu"`` or ``"cuda"``, which has an allocator of its own, so that one setting of the processor's will do.
        extent: ``"half"`` measures under both allocators what the README shows; ``"all"`` everything; ``"quick"`` has one tiny
            case of each kind, to try the machinery.
    """
    whole = extent == "all"
    slices, volumes, scored = SLICES, VOLUMES, (*SLICES, UNEVEN, *VOLUMES)
    if extent == "quick":
        slices, volumes, scored = QUICK[:1], QUICK[1:], QUICK[1:]
    elif whole:
        volumes += MORE_VOLUMES + (CUDA_VOLUMES if device == "cuda" else ())
    of_volumes = (*LOSSES, FINE_BINS, *([TEXTBOOK] if whole else []))
    dtypes = DTYPES if whole else DTYPES[:1]

    def case(size: Size, methods: tuple[str, ...], dtype: str | None = None) -> Case:
        both = device == "cpu" and (whole or (dtype is None and size in README))
        return Case(*size, methods, dtype, tuple(ALLOCATORS)[: 2 if both else 1])

    found = Suite(
        slices=tuple(case(size, LOSSES) for size in slices),
        volumes=tuple(case(size, of_volumes) for size in volumes),
        scores=tuple(case(size, (COUNTING, DICE_METRIC), dtype) for size in scored for dtype in dtypes),
    )
    edges, classes = {"all": ((96, 128, 160, 192), (14, 28, 56, 105)), "quick": ((12,), (12, 14))}.get(extent, ((), ()))
    of_scale = (CROSS_ENTROPY, *LINEAR)
    by_voxels = [case((1, 14, (edge,) * 3), of_scale) for edge in edges]
    by_classes = [case((1, number, (64 if whole else 12,) * 3), of_scale) for number in classes]
    measured = {case.size for case in found.volumes}
    return replace(
        found,
        scale=tuple(case for case in dict.fromkeys(by_voxels + by_classes) if case.size not in measured),
        by_voxels=tuple(case.name for case in by_voxels),
        by_classes=tuple(case.name for case in by_classes),
    )


def measured_under(cases: Iterable[Case], allocator: str) -> list[Case]:
    """The same cases under one allocator."""
    return [replace(case, allocators=(allocator,)) for case in cases]


def beside_old(cases: Iterable[Case]) -> list[Case]:
    """The same cases with each method of ours a second time, as another checkout has it."""
    return [replace(c, methods=(*c.methods, *(f"{OLD}{m}" for m in c.methods if m in OURS))) for c in cases]
