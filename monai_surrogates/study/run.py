"""Carry out a study: the stages of all runs, with progress and the time left, then the report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from monai_surrogates.study.plan import LOCK, Study, StudyError, StudyRun
from monai_surrogates.study.report import write_report
from monai_surrogates.study.stage import StageRunner, why_it_died

# The duration of an evaluation in epochs, start of its process included: more in a quick study, fewer in a long one.
EVALUATION = 10


def run_study(study: Study, console: Console | None = None, jobs: int = 1) -> bool:
    """Train and evaluate every run that is not finished, then write the tables and the plots.

    A run that fails is reported with the end of its log; the others go on. Finished runs are not repeated.

    Args:
        study: from :meth:`~monai_surrogates.study.plan.Study.prepare`.
        console: where to print.
        jobs: number of runs at the same time; they share the machine's cores.

    Returns:
        Whether every run finished.

    Raises:
        StudyError: another process works on this study.
    """
    console = console or Console()
    with _only_one(study):
        study.open()
        todo = [run for run in study.runs if run.todo()]
        finished = len(study.runs) - len(todo)
        if finished:
            console.print(f"Resuming {study.out}: {finished} of {len(study.runs)} runs are finished.", soft_wrap=True)
        if todo:
            _run_all(study, todo, console, min(jobs, len(todo)))
        return write_report(study, console)


@contextmanager
def _only_one(study: Study) -> Iterator[None]:
    study.out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(study.out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyError(f"{study.out} is being written by another run; wait for it or choose another --out.") from None
    try:
        yield
    finally:
        lock.release()


def _run_all(study: Study, todo: list[StudyRun], console: Console, jobs: int) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    total = sum(_cost(study, stage) for run in todo for stage in run.todo())
    runner = StageRunner(study, jobs)
    progress = Progress(*columns, console=console, speed_estimate_period=math.inf)
    with progress, ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task(f"{len(todo)} runs", total=total)
        futures = [pool.submit(_run_stages, runner, run, progress, bar) for run in todo]
        try:
            for future in futures:
                future.result()
        except BaseException:  # interrupted: no process may outlive the study
            pool.shutdown(wait=False, cancel_futures=True)
            runner.stop()
            raise
        progress.update(bar, completed=total)


def _cost(study: Study, stage: str) -> int:
    """The share of a stage in the bar, in epochs of training."""
    return study.settings.epochs if stage == "train" else EVALUATION


def _run_stages(runner: StageRunner, run: StudyRun, progress: Progress, bar: TaskID) -> None:
    console, waiting = progress.console, run.todo()
    while waiting:
        stage, started = waiting.pop(0), time.monotonic()
        advance = _advance_by_share(progress, bar, _cost(runner.study, stage))
        code = runner.execute(run, stage, advance)
        if runner.stopped:
            return
        advance(1.0)
        took = f"{run.objective}, fold {run.fold}: {stage} took {time.monotonic() - started:.0f} s"
        if code != 0:
            progress.advance(bar, sum(_cost(runner.study, skipped) for skipped in waiting))
            console.print(
                f"[red]{took} and failed[/red]; the end of {run.log(stage)}:", highlight=False, soft_wrap=True
            )
            console.print(why_it_died(run.log(stage), code), markup=False, highlight=False, soft_wrap=True)
            return
        left = progress.tasks[bar].time_remaining
        console.print(f"{took}; about {timedelta(seconds=left)} left" if left else took, highlight=False)


def _advance_by_share(progress: Progress, bar: TaskID, cost: int) -> Callable[[float], None]:
    """A function that advances the bar to the finished share of a stage."""
    done = 0.0

    def advance(share: float) -> None:
        nonlocal done
        progress.advance(bar, cost * (share - done))
        done = share

    return advance
