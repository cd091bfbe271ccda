"""``python -m tests.benchmark``: parse, measure, print."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.benchmark import report
from tests.benchmark.cases import Case, Suite, suite
from tests.benchmark.measure import ALLOCATORS, Settings, measure_case, stages
from tests.benchmark.results import Results
from tests.benchmark.targets import verdicts

WIDTH = 150  # of tables where no terminal tells its own


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark",
        description="Time, memory and error of losses and scores, and what they are in multiples of their peers'. All of it "
        "takes half an hour or more; --case chooses.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what computes (cpu)")
    parser.add_argument(
        "--case", action="append", default=[], help="losses, scores, scale, or a pattern such as 'b1-c14-*'; repeatable"
    )
    parser.add_argument("--allocator", choices=tuple(ALLOCATORS), help="one of the two; on a CPU both by default")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method, up to ten calls each (3)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of each method (2)")
    parser.add_argument("--no-accuracy", action="store_true", help="leave out the errors against float64")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to try the machinery")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), help="folder for JSON, table and plot (%(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar="JSON",
        help="print the times of the second in multiples of the first's",
    )
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.threads < 1:
        parser.error("--rounds and --threads must be at least 1.")
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"--out must be a folder, but {given.out} is a file.")
    plan = suite(given.device, given.quick)
    for pattern in given.case:
        if not plan.cases([pattern]):
            names = ", ".join(case.name for case in plan.cases([]))
            parser.error(f"--case {pattern}: no such case; there are losses, scores, scale, {names}.")
    if given.compare:
        given.compare = [_read(path, parser) for path in given.compare]
    if given.device == "cuda" and not _has_cuda():
        parser.error("--device cuda: torch finds no CUDA device here.")
    return given


def _read(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["measurements"][0]["case"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        parser.error(f"--compare: {path} is no {report.JSON_NAME} of a run ({type(error).__name__}: {error}).")
    return record


def _has_cuda() -> bool:
    import torch  # takes seconds, and nothing else here needs it

    return torch.cuda.is_available()


def main(arguments: list[str] | None = None) -> int:
    """0 if every method could be measured."""
    given, console = parse(arguments), Console()
    if not console.is_terminal:
        console.width = WIDTH
    if given.compare:
        sheet = report.compared(*given.compare)
        console.print(sheet.rich() if sheet.rows else "The two runs have no measurement in common.")
        return 0 if sheet.rows else 1
    plan = suite(given.device, given.quick)
    cases = plan.cases(given.case)
    if given.list:
        console.print(*(f"{case.name}: {', '.join(case.methods)}" for case in cases), sep="\n")
        return 0
    try:
        results = measure(cases, plan, settings_of(given), given.out, console)
    except KeyboardInterrupt:
        console.print(f"Interrupted; {given.out} holds the cases that were finished.")
        return 130
    targets = verdicts(results, plan)
    if targets:
        console.print(report.target_sheet(targets, results.settings.allocators).rich())
        met = f"{sum(v.met for v in targets)} of {len(targets)} targets met."
        console.print(f"{met} These shapes are too small for them to mean anything." if given.quick else met)
    console.print(report.LEGEND)
    console.print(report.described(results))
    console.print(f"Written to {given.out}: {report.JSON_NAME}, {report.TABLE_NAME}, {report.PLOT_NAME}.")
    for m in results.failed():
        console.print(f"{m.case.name}, {m.method}, {m.allocator}: {m.failure}", style="red", markup=False)
    return 1 if results.failed() else 0


def settings_of(given: argparse.Namespace) -> Settings:
    """A GPU has an allocator of its own, so that one setting of the processor's will do."""
    both = tuple(ALLOCATORS) if given.device == "cpu" else ("default",)
    allocators = both if given.allocator is None else (given.allocator,)
    return Settings(given.device, given.threads, given.rounds, not given.no_accuracy, allocators)


def measure(cases: list[Case], plan: Suite, settings: Settings, out: Path, console: Console) -> Results:
    """Case by case; the files are written after each, so that nothing is lost when it is stopped."""
    out.mkdir(parents=True, exist_ok=True)
    results = Results(settings)
    columns = (
        TextColumn("{task.description:44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        steps = [len(case.methods) * len(stages(settings, a)) for case in cases for a in settings.allocators]
        task = progress.add_task("", total=sum(steps))
        for case in cases:
            for allocator in settings.allocators:

                def advance(method: str, where: str = f"{case.name}, {allocator}") -> None:
                    progress.update(task, advance=1, description=f"{where}, {method}")

                results.add(measure_case(case, allocator, settings, advance))
            console.print(report.case_sheet(results, case).rich())
            report.write(results, plan, out)
    return results


if __name__ == "__main__":
    sys.exit(main())
