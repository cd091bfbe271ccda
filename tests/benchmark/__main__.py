"""``python -m tests.benchmark``: parse, measure, print."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from monai_surrogates.data.files import write_atomically
from tests.benchmark import overview, report
from tests.benchmark.cases import ALLOCATORS, Case, Suite, beside_old, measured_under, suite
from tests.benchmark.measure import ROOT, Settings, Workers, stages
from tests.benchmark.results import Results
from tests.benchmark.targets import verdicts

GROUPS = "slices, volumes, scores, scale, readme"
WIDTH = 150  # of tables where no terminal tells its own


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark",
        description="Time, memory and error of losses and scores, and what they are in multiples of their peers'. A "
        "representative half takes about a quarter of an hour; --case chooses, --all takes more than an hour.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what computes (cpu)")
    parser.add_argument(
        "--case", action="append", default=[], help=f"{GROUPS}, or a pattern such as 'b1-c14-*'; repeatable"
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--all", action="store_const", const="all", dest="extent", help="every case and allocator")
    extent.add_argument(
        "--quick", action="store_const", const="quick", dest="extent", help="tiny shapes, to try the machinery"
    )
    parser.set_defaults(extent="half")
    parser.add_argument("--allocator", choices=tuple(ALLOCATORS), help="one of the two")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each method, up to five calls each (7)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of each method (2)")
    parser.add_argument("--no-accuracy", action="store_true", help="leave out the errors against float64")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="measure our methods of another checkout beside, as 'old ...'"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), help="folder for JSON, tables and plots (%(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar="JSON",
        help="print the times of the second in multiples of the first's",
    )
    parser.add_argument(
        "--draw", type=Path, metavar="JSON", help="write the tables and plots of a run into --out again"
    )
    parser.add_argument("--publish", type=Path, metavar="JSON", help="put a run's picture and table into the README")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.threads < 1:
        parser.error("--rounds and --threads must be at least 1.")
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"--out must be a folder, but {given.out} is a file.")
    plan = suite(given.device, given.extent)
    for pattern in given.case:
        if not plan.cases([pattern]):
            names = ", ".join(case.name for case in plan.cases([]))
            parser.error(f"--case {pattern}: no such case; there are {GROUPS}, {names}.")
    if given.against and not (given.against / "monai_surrogates" / "__init__.py").is_file():
        parser.error(f"--against must be a checkout that holds monai_surrogates, but {given.against} does not.")
    if given.compare:
        given.compare = [_read("--compare", path, parser) for path in given.compare]
    for name in ("draw", "publish"):
        if path := getattr(given, name):
            setattr(given, name, _results(f"--{name}", path, parser))
    if given.device == "cuda" and not _has_cuda():
        parser.error("--device cuda: torch finds no CUDA device here.")
    return given


def _read(option: str, path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["measurements"][0]["case"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        parser.error(f"{option}: {path} is no {report.JSON_NAME} of a run ({type(error).__name__}: {error}).")
    return record


def _results(option: str, path: Path, parser: argparse.ArgumentParser) -> Results:
    record = _read(option, path, parser)
    try:
        return Results.of(record)
    except (LookupError, TypeError) as error:
        parser.error(f"{option}: {path} was written by another version ({type(error).__name__}: {error}).")


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
    if given.draw or given.publish:
        names = draw(given.draw, given.out) if given.draw else publish(given.publish)
        console.print(f"Written: {', '.join(names)}.")
        return 0
    plan = suite(given.device, given.extent)
    cases = plan.cases(given.case)
    cases = measured_under(cases, given.allocator) if given.allocator else cases
    cases = beside_old(cases) if given.against else cases
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
        console.print(report.target_sheet(targets, results.allocators()).rich())
        met = f"{sum(v.met for v in targets)} of {len(targets)} targets met."
        console.print(
            f"{met} These shapes are too small for them to mean anything." if given.extent == "quick" else met
        )
    changes = report.before_and_after(results)
    if changes.rows:
        console.print(changes.rich())
    console.print(report.LEGEND)
    console.print(report.described(results))
    console.print(f"Written to {given.out}: {', '.join(report.write(results, plan, given.out))}.")
    for m in results.failed():
        console.print(f"{m.case.name}, {m.method}, {m.allocator}: {m.failure}", style="red", markup=False)
    return 1 if results.failed() else 0


def settings_of(given: argparse.Namespace) -> Settings:
    """What every case shares."""
    against = str(given.against.resolve()) if given.against else None
    return Settings(given.device, given.threads, given.rounds, not given.no_accuracy, given.extent, against)


def draw(results: Results, out: Path) -> list[str]:
    """All files of a run once more, without measuring."""
    plan = suite(results.settings.device, results.settings.extent)
    return [str(out / name) for name in report.write(results, plan, out)]


def publish(results: Results) -> list[str]:
    """The README's picture and the table between its marks, from a run."""
    cases = suite(results.settings.device, results.settings.extent).readme
    readme, picture = ROOT / "README.md", ROOT / overview.PICTURE
    text = overview.published(readme.read_text(encoding="utf-8"), overview.table(results, cases))
    write_atomically(picture, report.png(overview.plot(results, cases)))
    write_atomically(readme, text)
    return [str(overview.PICTURE), "README.md"]


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
        steps = [len(case.methods) * len(stages(settings, case, a)) for case in cases for a in case.allocators]
        task = progress.add_task("", total=sum(steps))
        for allocator in ALLOCATORS:
            with Workers(allocator, settings) as workers:
                for case in (case for case in cases if allocator in case.allocators):

                    def advance(method: str, where: str = f"{case.name}, {allocator}") -> None:
                        progress.update(task, advance=1, description=f"{where}, {method}")

                    results.add(workers.measure(case, advance))
                    console.print(report.case_sheet(results, case).rich())
                    report.write(results, plan, out)
    return results


if __name__ == "__main__":
    sys.exit(main())
