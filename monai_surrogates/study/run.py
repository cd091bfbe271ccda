"""Run a study: every cell's stages, with progress and a time estimate, then the report."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from monai_surrogates.study.estimate import Estimate
from monai_surrogates.study.plan import LOCK, Study, StudyCell, StudyError
from monai_surrogates.study.report import write_report
from monai_surrogates.study.stage import StageRunner, why_it_died


def run_study(study: Study, console: Console | None = None, jobs: int = 1) -> bool:
    """Run what is not finished yet, then write the tables and the plots.

    A cell that dies is reported with the end of its log; the others go on. Finished cells are not run again.

    Args:
        study: from :meth:`~monai_surrogates.study.plan.Study.prepare`.
        console: where to print.
        jobs: how many objectives to run at the same time; they share the machine's cores.

    Returns:
        Whether every cell finished.

    Raises:
        StudyError: another process runs this study.
    """
    console = console or Console()
    with _only_one(study):
        study.open()
        todo = [cell for cell in study.cells if cell.todo()]
        finished = len(study.cells) - len(todo)
        if finished:
            console.print(f"Resuming {study.out}: {finished} of {len(study.cells)} runs are finished.", soft_wrap=True)
        if todo:
            _run_cells(study, todo, console, min(jobs, len(todo)))
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


def _run_cells(study: Study, todo: list[StudyCell], console: Console, jobs: int) -> None:
    estimate = Estimate([stage for cell in todo for stage in cell.todo()], jobs)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    runner = StageRunner(study, jobs)
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task(f"{len(todo)} runs", total=1.0, left=estimate.words())
        futures = [pool.submit(_run_cell, runner, cell, estimate, progress, bar) for cell in todo]
        try:
            for future in futures:
                future.result()
        except BaseException:  # interrupted: no process may outlive the study
            pool.shutdown(wait=False, cancel_futures=True)
            runner.stop()
            raise
        progress.update(bar, completed=1.0, left="")


def _run_cell(runner: StageRunner, cell: StudyCell, estimate: Estimate, progress: Progress, bar: TaskID) -> None:
    console = progress.console
    todo = cell.todo()
    for position, stage in enumerate(todo):

        def advance(fraction: float) -> None:
            estimate.advance(cell, fraction)
            progress.update(bar, completed=estimate.done(), left=estimate.words())

        estimate.start(cell, stage)
        code = runner.run(cell, stage, advance)
        if runner.stopped:
            return
        took = f"{cell.objective}, fold {cell.fold}: {stage} took {estimate.finish(cell, code == 0):.0f} s"
        if code != 0:
            for skipped in todo[position + 1 :]:
                estimate.drop(skipped)
            console.print(
                f"[red]{took} and failed[/red]; the end of {cell.log(stage)}:", highlight=False, soft_wrap=True
            )
            console.print(why_it_died(cell.log(stage), code), markup=False, highlight=False, soft_wrap=True)
            return
        progress.update(bar, completed=estimate.done(), left=estimate.words())
        console.print(f"{took}; {estimate.words() or 'the last one'}", highlight=False)
