"""Run a study: every cell's stages in turn, with progress and a time estimate, then the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from monai_surrogates.study.plan import Study, StudyCell, StudyError
from monai_surrogates.study.report import write_report
from monai_surrogates.study.stage import STAGES, last_lines, run_stage

EVALUATION_SHARE = 0.3  # of a training's time; used until the first evaluation has been measured


def run_study(study: Study, console: Console | None = None) -> bool:
    """Run what is not finished yet, then write the tables and the plots.

    A cell that dies is reported with the end of its log; the others go on. Finished cells are not run again.

    Args:
        study: from :meth:`~monai_surrogates.study.plan.Study.prepare`.
        console: where to print.

    Returns:
        Whether every cell finished.

    Raises:
        StudyError: another process runs this study.
    """
    console = console or Console()
    with _only_one(study):
        study.open()
        todo = [(cell, stage) for cell in study.cells for stage in STAGES if not cell.finished(stage)]
        if len(todo) < len(study.cells) * len(STAGES):
            finished = sum(all(cell.finished(stage) for stage in STAGES) for cell in study.cells)
            console.print(f"Resuming {study.out}: {finished} of {len(study.cells)} runs are finished.")
        if todo:
            _run_stages(study, todo, console)
        return write_report(study, console)


@contextmanager
def _only_one(study: Study) -> Iterator[None]:
    study.out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(study.out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyError(f"{study.out} is being written by another run; wait for it or choose another --out.") from None
    try:
        yield
    finally:
        lock.release()


def _run_stages(study: Study, todo: list[tuple[StudyCell, str]], console: Console) -> None:
    estimate = Estimate([stage for _, stage in todo])
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    dead: set[StudyCell] = set()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=1.0, left="")

        def show(fraction: float) -> None:
            progress.update(bar, completed=estimate.done(fraction), left=estimate.words(fraction))

        for cell, stage in todo:
            progress.update(bar, description=f"{cell.objective}, fold {cell.fold}: {stage}")
            if cell in dead:
                estimate.skip()
                continue
            estimate.start()
            show(0.0)
            succeeded = run_stage(study, cell, stage, show)
            estimate.finish()
            show(0.0)
            took = f"{cell.objective}, fold {cell.fold}: {stage} took {estimate.last:.0f} s"
            if succeeded:
                console.print(f"{took}; {estimate.words(0.0) or 'done'}", highlight=False)
            else:
                dead.add(cell)
                console.print(f"[red]{took} and failed[/red]; the end of {cell.log(stage)}:", highlight=False)
                console.print(last_lines(cell.log(stage)), markup=False, highlight=False)


@dataclass
class Estimate:
    """What is left, from what has been measured: a stage costs what its kind has cost so far.

    Attributes:
        waiting: the kinds of the stages still to come, the running one first.
    """

    waiting: list[str]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    last: float = 0.0
    _started: float = 0.0
    _spent: float = 0.0

    def start(self) -> None:
        """The first waiting stage begins."""
        self._started = time.monotonic()

    def finish(self) -> None:
        """The running stage ended."""
        self.last = time.monotonic() - self._started
        self._spent += self.last
        self.seconds.setdefault(self.waiting.pop(0), []).append(self.last)
        self._started = time.monotonic()

    def skip(self) -> None:
        """The next stage will not run."""
        self.waiting.pop(0)

    def left(self, fraction: float) -> float | None:
        """Seconds still to go, with the running stage finished to this fraction; None if nothing is known yet."""
        if not self.waiting:
            return 0.0
        running = time.monotonic() - self._started
        training = self._training(running, fraction)
        if training is None:
            return None
        cost = {"train": training, "evaluate": mean(self.seconds.get("evaluate", [EVALUATION_SHARE * training]))}
        return max(0.0, sum(cost[kind] for kind in self.waiting) - running)

    def _training(self, running: float, fraction: float) -> float | None:
        measured = self.seconds.get("train")
        if measured:
            return mean(measured)
        if self.waiting[0] == "train":
            return running / fraction if fraction > 0 else None
        return running / EVALUATION_SHARE  # a resumed study that begins with an evaluation

    def done(self, fraction: float) -> float:
        """The share of the whole that is done, in time."""
        left = self.left(fraction)
        spent = self._spent + (time.monotonic() - self._started if self.waiting else 0.0)
        return 0.0 if left is None or spent + left == 0 else spent / (spent + left)

    def words(self, fraction: float) -> str:
        """For people."""
        left = self.left(fraction)
        if left is None:
            return "estimating the time"
        return f"about {left / 60:.1f} min left" if left else ""
