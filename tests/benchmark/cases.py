"""What is measured: shapes, and which methods run on them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

CROSS_ENTROPY = "cross_entropy"
OVERLAP = {"soft_dice": "monai_dice", "soft_jaccard": "monai_jaccard"}  # ours, and MONAI's loss of the same definition
PEERS = (CROSS_ENTROPY, "monai_dice", "monai_jaccard", "kornia_lovasz", "textbook_lovasz")
LOSSES = (CROSS_ENTROPY, *OVERLAP, "lovasz_sort", "lovasz_bins", "lovasz_fine_bins", *PEERS[1:])
LINEAR = (*OVERLAP, "lovasz_bins")  # whose time per voxel and class is to stay the same; a sort's grows
COUNTING, DICE_METRIC = "counting", "monai_dice_metric"

DTYPES = ("int64", "float32", "uint8")


@dataclass(frozen=True)
class Case:
    """A batch of cubes; ``dtype`` is that of the label maps of a score, None where logits go into a loss."""

    batch: int
    classes: int
    edge: int
    methods: tuple[str, ...] = LOSSES
    dtype: str | None = None

    @property
    def name(self) -> str:
        """``b2-c14-64``; scores: ``scores-b2-c14-64-uint8``."""
        shape = f"b{self.batch}-c{self.classes}-{self.edge}"
        return shape if self.dtype is None else f"scores-{shape}-{self.dtype}"

    @property
    def title(self) -> str:
        """``B2 C14 64³``."""
        shape = f"B{self.batch} C{self.classes} {self.edge}³"
        return shape if self.dtype is None else f"scores, {shape}, {self.dtype}"

    @property
    def voxels(self) -> int:
        return self.batch * self.edge**3

    @property
    def logits_bytes(self) -> int:
        return 4 * self.classes * self.voxels


@dataclass(frozen=True)
class Suite:
    """All cases, and the two lines along which one thing grows: voxels at one number of classes, classes at one size."""

    losses: tuple[Case, ...]
    scores: tuple[Case, ...]
    scale: tuple[Case, ...]
    by_voxels: tuple[str, ...]
    by_classes: tuple[str, ...]

    def cases(self, patterns: list[str]) -> list[Case]:
        """Those of which a pattern names the group or the case; all of them without a pattern."""
        groups = {"losses": self.losses, "scores": self.scores, "scale": self.scale}
        return [
            case
            for group, cases in groups.items()
            for case in cases
            if not patterns or any(pattern == group or fnmatch(case.name, pattern) for pattern in patterns)
        ]


def suite(device: str, quick: bool) -> Suite:
    """The suite of a device; ``quick`` has one tiny case of each kind, to try the machinery."""
    if quick:
        losses, shapes, dtypes = (Case(1, 14, 12),), ((1, 14, 12),), ("uint8",)
        edges, classes = (12,), ((12, 14),)
    else:
        sizes = [(2, 2, 96), (1, 14, 96), (2, 14, 64), (1, 14, 128), (1, 105, 64)]
        sizes += [(2, 14, 128), (1, 105, 128)] if device == "cuda" else []
        losses = tuple(Case(*size) for size in sizes)
        shapes, dtypes = ((2, 2, 96), (1, 14, 96), (1, 105, 64)), DTYPES
        edges, classes = (96, 128, 160, 192), tuple((64, c) for c in (14, 28, 56, 105))
    by_voxels = tuple(_growing(14, edge) for edge in edges)
    by_classes = tuple(_growing(c, edge) for edge, c in classes)
    names = {case.name for case in losses}
    return Suite(
        losses=losses,
        scores=tuple(Case(*shape, (COUNTING, DICE_METRIC), dtype) for shape in shapes for dtype in dtypes),
        scale=tuple(case for case in dict.fromkeys(by_voxels + by_classes) if case.name not in names),
        by_voxels=tuple(case.name for case in by_voxels),
        by_classes=tuple(case.name for case in by_classes),
    )


def _growing(classes: int, edge: int) -> Case:
    return Case(1, classes, edge, (CROSS_ENTROPY, *LINEAR))
