"""Tables for the terminal and for reading, and the plot of growth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from monai_surrogates.data.files import write_atomically
from tests.benchmark import overview
from tests.benchmark.cases import FINE_BINS, LOSSES, OLD, Case, Suite
from tests.benchmark.measure import Measurement
from tests.benchmark.results import Results, peers
from tests.benchmark.targets import Verdict, verdicts

JSON_NAME, TABLE_NAME, PLOT_NAME = "benchmark.json", "benchmark.md", "scale.png"
OVERVIEW_TABLE, OVERVIEW_PLOT = "readme.md", "readme.png"
HEADINGS = {
    "cross_entropy": "CE",
    "monai_dice": "MONAI Dice",
    "monai_jaccard": "MONAI Jaccard",
    "kornia_lovasz": "kornia",
    "textbook_lovasz": "textbook",
    "monai_dice_metric": "MONAI",
    OLD: "old",
}
PIXELS_PER_INCH = 160
NOTHING = "–"
LEGEND = (
    "Times in a column '/ X' are medians in multiples of X's; the targets are judged by them. MiB: peak memory beyond inputs "
    "and gradient; '/ logits': in multiples of the logits. Errors are against the definition in float64: of the loss "
    "absolute, of the gradient relative (L2)."
)


@dataclass(frozen=True)
class Sheet:
    """A table before anybody draws it."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left")
        for number, name in enumerate(self.head):
            table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number < 2)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a README."""
        rule = ["---" if number < 2 else "--:" for number in range(len(self.head))]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.head, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, ""])


def case_sheet(results: Results, case: Case) -> Sheet:
    """One row per method and allocator."""
    against = peers(case) + ((OLD,) if results.settings.against else ())
    head = ["method", "allocator", "min ms", "median ms", *(f"/ {HEADINGS[peer]}" for peer in against)]
    head += ["MiB", "/ logits", *_errors(case).values()]
    return Sheet(case.title, head, [_row(results, m, against) for m in results if m.case.name == case.name])


def _errors(case: Case) -> dict[str, str]:
    """What is known of a method's errors, and its heading."""
    return (
        {"loss_error": "loss error", "gradient_error": "gradient"} if case.dtype is None else {"score_error": "error"}
    )


def _row(results: Results, m: Measurement, against: tuple[str, ...]) -> list[str]:
    if m.failure is not None:
        return [m.method, m.allocator, "failed", *[NOTHING] * (len(against) + 3 + len(_errors(m.case)))]
    ratios = [_number(results.ratio(m, f"{OLD}{m.method}" if peer == OLD else peer)) for peer in against]
    multiple = None if m.memory is None or m.case.dtype else m.memory / m.case.logits_bytes
    memory = [_number(None if m.memory is None else m.memory / 2**20), _number(multiple)]
    return [
        m.method,
        m.allocator,
        _number(1e3 * m.minimum),
        _number(1e3 * m.median),
        *ratios,
        *memory,
        *(_number(getattr(m, name)) for name in _errors(m.case)),
    ]


def target_sheet(found: list[Verdict], allocators: tuple[str, ...]) -> Sheet:
    """One row per target."""
    rows = [
        [v.where, v.what, f"{'≥' if v.at_least else '≤'} {v.limit:g}"]
        + [_number(v.values.get(allocator)) for allocator in allocators]
        + ["met" if v.met else "MISSED"]
        for v in found
    ]
    return Sheet("Targets", ["case", "what", "target", *allocators, "verdict"], rows)


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def described(results: Results) -> str:
    """The machine, the versions, and whether other work disturbed the times."""
    libraries = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return f"{results.device()}; {libraries}.{overview.busy(results)}"


def write(results: Results, suite: Suite, out: Path) -> list[str]:
    """All files, each replaced as a whole: their names."""
    found = verdicts(results, suite)
    record = results.as_json() | {"targets": [asdict(v) | {"met": v.met} for v in found]}
    sheets = [case_sheet(results, case) for case in results.cases()]
    sheets += [target_sheet(found, results.allocators()), before_and_after(results)]
    tables = "\n".join(sheet.markdown() for sheet in sheets if sheet.rows)
    files = {
        JSON_NAME: json.dumps(record, indent=1) + "\n",
        TABLE_NAME: f"{described(results)}\n\n{LEGEND}\n\n{tables}",
        OVERVIEW_TABLE: overview.table(results, suite.readme),
        OVERVIEW_PLOT: png(overview.plot(results, suite.readme)),
    }
    if suite.scale:
        files[PLOT_NAME] = png(plot(results, suite))
    for name, content in files.items():
        write_atomically(out / name, content)
    return list(files)


def png(figure: Figure) -> bytes:
    """A picture as the bytes of its file."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=PIXELS_PER_INCH)
    return picture.getvalue()


def plot(results: Results, suite: Suite) -> Figure:
    """Time per voxel and class under each allocator, and memory in multiples of the logits: flat lines scale linearly."""
    allocators = results.allocators()
    lines = (
        (suite.by_voxels, "edge of the cube in voxels", lambda case: case.shape[0]),
        (suite.by_classes, "classes", lambda case: case.classes),
    )
    figure = Figure(figsize=(4.6 * (len(allocators) + 1), 8), layout="constrained")
    for row, (names, growing, size) in zip(figure.subplots(2, len(allocators) + 1), lines, strict=True):
        for axes, allocator in zip(row, allocators, strict=False):
            _draw(axes, results, names, allocator, size, lambda m: 1e9 * m.median / (m.case.voxels * m.case.classes))
            title = "time (default allocator)" if allocator == "default" else f"time ({allocator})"
            axes.set(xlabel=growing, ylabel="ns per voxel and class", title=title)
            axes.set_yscale("log" if axes.lines else "linear")
        _draw(row[-1], results, names, "default", size, _memory_multiple)
        row[-1].set(xlabel=growing, ylabel="multiples of the logits", title="memory beyond logits and gradient")
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    figure.suptitle(results.device(), fontsize=9)
    return figure


def _memory_multiple(m: Measurement) -> float | None:
    return None if m.memory is None else m.memory / m.case.logits_bytes


def _draw(
    axes: Axes,
    results: Results,
    names: Iterable[str],
    allocator: str,
    size: Callable[[Case], int],
    value: Callable[[Measurement], float | None],
) -> None:
    for number, method in enumerate((*LOSSES, FINE_BINS)):
        found = [m for name in names if (m := results.get(name, method, allocator)) is not None]
        points = [(size(m.case), y) for m in found if (y := value(m)) is not None]
        if points:
            style = "--" if method in HEADINGS else "-"  # peers are dashed
            axes.plot(*zip(*points, strict=True), style, marker="o", color=f"C{number}", label=method)
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return
    axes.set_xscale("log")
    sizes = sorted({size(m.case) for m in results if m.case.name in names})
    axes.set_xticks(sizes, [str(number) for number in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def compared(old: dict[str, Any], new: dict[str, Any]) -> Sheet:
    """The medians of two runs, where both have one."""
    before, after = (
        {(m["case"], m["method"], m["allocator"]): m["median"] for m in run["measurements"] if "median" in m}
        for run in (old, new)
    )
    return _changes("Median ms", before, after)


def before_and_after(results: Results) -> Sheet:
    """The medians of the other checkout and of this one, measured in the same rounds."""
    medians = {(m.case.name, m.method, m.allocator): m.median for m in results if m.seconds}
    before = {(case, m.removeprefix(OLD), a): s for (case, m, a), s in medians.items() if m.startswith(OLD)}
    return _changes("Before and after, median ms", before, medians)


def _changes(title: str, before: dict[tuple[str, ...], float], after: dict[tuple[str, ...], float]) -> Sheet:
    pairs = [(key, before[key], after[key]) for key in before if key in after]
    rows = [[*key, _number(1e3 * a), _number(1e3 * b), _number(b / a)] for key, a, b in pairs]
    return Sheet(title, ["case", "method", "allocator", "first", "second", "second / first"], rows)
