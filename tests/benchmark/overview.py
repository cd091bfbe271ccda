"""The README's picture and table: what the losses cost in multiples of cross-entropy, at a glance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tests.benchmark.cases import ALLOCATORS, AUTO, CROSS_ENTROPY, KORNIA, Case
from tests.benchmark.results import Results

NOTHING = "–"
DISTURBED = 2.0  # times its minimum that cross-entropy's median is on a machine with other work
FIRST, *_ = ALLOCATORS
COLUMNS = {  # of the table, each in multiples of cross-entropy's time
    "soft_dice": "`SoftDiceLoss`",
    "monai_dice": "MONAI Dice",
    "soft_jaccard": "`SoftJaccardLoss`",
    "monai_jaccard": "MONAI Jaccard",
    AUTO: "`LovaszSoftmaxLoss`",
    KORNIA: "kornia Lovász",
}
MEMORY = {  # in multiples of the logits, beyond them and their gradient
    "memory of `SoftDiceLoss`, `LovaszSoftmaxLoss`": ("soft_dice", AUTO),
    "of MONAI Dice, kornia": ("monai_dice", KORNIA),
}
PANELS = {"Dice": ("soft_dice", "monai_dice"), "Jaccard": ("soft_jaccard", "monai_jaccard"), "Lovász": (AUTO, KORNIA)}
# Okabe and Ito's colours, told apart by all eyes; the shape says the same
LOOKS = {"ours": ("#0072B2", "o"), "MONAI": ("#E69F00", "s"), "kornia": ("#D55E00", "D")}
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
START, END = "<!-- time and memory -->\n", "<!-- /time and memory -->\n"
PICTURE = Path("tutorials") / "pictures" / "time.png"


def table(results: Results, cases: Iterable[Case]) -> str:
    """Medians under the default allocator and memory, one row per case, and the machine below."""
    head = ["batch, classes, image", "`cross_entropy`", *COLUMNS.values(), *MEMORY]
    lines = [head, ["---"] * len(head), *(_row(results, case) for case in cases)]
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    libraries = ", ".join(f"{name} {results.versions[name]}" for name in ("torch", "monai", "kornia"))
    return f"{rows}\n\nMedians of {results.settings.rounds} rounds on {results.device()}; {libraries}.{busy(results)}\n"


def busy(results: Results) -> str:
    """A sentence that warns of a run beside other work; nothing of one on an idle machine."""
    times = results.disturbance()
    if times <= DISTURBED:
        return ""
    return (
        " The machine was busy with other work, so that these times say little: "
        f"medians of `cross_entropy` are up to {times:.1f} times their minima."
    )


def _row(results: Results, case: Case) -> list[str]:
    base, *others = (results.get(case.name, name, FIRST) for name in (CROSS_ENTROPY, *COLUMNS))
    return [
        f"{case.batch}, {case.classes}, {case.image}",
        f"{_short(base and 1e3 * base.median)} ms",
        *(_short(m and results.ratio(m, CROSS_ENTROPY)) for m in others),
        *(", ".join(_memory(results, case, name) for name in names) for names in MEMORY.values()),
    ]


def _memory(results: Results, case: Case, method: str) -> str:
    """In multiples of the logits."""
    m = results.get(case.name, method, FIRST)
    return _short(None if m is None or m.memory is None else m.memory / case.logits_bytes)


def _short(value: float | None) -> str:
    """Two digits."""
    if value is None:
        return NOTHING
    return f"{value:.2f}" if value < 0.995 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def plot(results: Results, cases: Iterable[Case]) -> Figure:
    """A panel per kind of loss, a row per case: ours beside the peer's, hollow where the heap keeps its pages."""
    cases = tuple(cases)
    figure = Figure(figsize=(8.6, 0.38 * len(cases) + 1.35), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True, gridspec_kw={"width_ratios": [1, 1, 1.4]})
    for axes, (title, methods) in zip(panels, PANELS.items(), strict=True):
        rows = [list(_points(results, case, methods)) for case in cases]
        for number, points in enumerate(rows):
            _draw_row(axes, number, points)
        axes.set_title(title, fontsize=11)
        _scale(axes, [ratio for points in rows for *_, ratio in points])
    panels[0].set_yticks(range(len(cases)), [f"{c.batch} × {c.classes} × {c.image}" for c in cases])
    panels[0].set_ylabel("batch × classes × image")
    panels[0].set_ylim(len(cases) - 0.5, -0.5)
    figure.supxlabel("time in multiples of cross_entropy, forward and backward", fontsize=10)
    figure.legend(
        handles=_legend(hollow=len(results.allocators()) > 1),
        loc="outside upper center",
        ncols=5,
        frameon=False,
        fontsize=9,
    )
    return figure


def _points(results: Results, case: Case, methods: tuple[str, ...]) -> Iterator[tuple[str, str, float]]:
    """Look, allocator and ratio of everything that was measured."""
    for method in reversed(methods):  # ours is drawn last, above the peer's
        for allocator in results.allocators():
            m = results.get(case.name, method, allocator)
            if m is not None and (ratio := results.ratio(m, CROSS_ENTROPY)):
                yield _look(method), allocator, ratio


def _look(method: str) -> str:
    return {"monai": "MONAI", "kornia": "kornia"}.get(method.partition("_")[0], "ours")


def _draw_row(axes: Axes, row: int, points: list[tuple[str, str, float]]) -> None:
    if points:
        ratios = [ratio for _, _, ratio in points]
        axes.plot([min(ratios), max(ratios)], [row, row], color="0.8", linewidth=1.5, zorder=1)
    for look, allocator, ratio in points:
        axes.plot(ratio, row, **_marker(look, hollow=allocator != FIRST))


def _marker(look: str, *, hollow: bool) -> dict[str, object]:
    color, shape = LOOKS[look]
    return {
        "color": color,
        "marker": shape,
        "markersize": 7.5,
        "markerfacecolor": "white" if hollow else color,
        "linestyle": "none",
        "zorder": 2 if hollow else 3,
    }


def _scale(axes: Axes, ratios: list[float]) -> None:
    """Logarithmic, with cross-entropy's 1 always inside."""
    low, high = min([0.6, *ratios]) / 1.3, max([2.5, *ratios]) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="0.35", linewidth=1, linestyle="--", zorder=0)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _legend(*, hollow: bool) -> list[Line2D]:
    names = [Line2D([], [], label=look, **_marker(look, hollow=False)) for look in LOOKS]
    look = _marker("ours", hollow=True) | {"color": "0.35"}
    return [*names, Line2D([], [], label="hollow: heap that keeps its pages", **look)] if hollow else names


def published(readme: str, rows: str) -> str:
    """The README with the table between its marks replaced.

    Raises:
        ValueError: it has no such marks.
    """
    text, found = re.subn(f"(?<={START}).*?(?={END})", lambda _: f"\n{rows}\n", readme, flags=re.DOTALL)
    if found != 1:
        raise ValueError(f"the README needs one {START.strip()} and one {END.strip()}, but has {found} such pairs.")
    return text
