"""The tables, files and plots of a study."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import pandas as pd
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from monai_surrogates.data.files import write_atomically
from monai_surrogates.statistics import RESAMPLES
from monai_surrogates.study import plots
from monai_surrogates.study.plan import Study, StudyRun
from monai_surrogates.study.summary import (
    SMALL_SAMPLE,
    best_constant_dice,
    class_scores,
    image_means,
    score_run,
    summarise,
)


def write_report(study: Study, console: Console) -> bool:
    """Score the finished runs, write the files and print the table.

    Returns:
        Whether every run finished.
    """
    asked = study.runs
    study = study.with_earlier_objectives()  # fewer objectives must not drop finished ones from the report
    finished = [run for run in study.runs if not run.todo()]
    in_order = sorted(finished, key=lambda run: study.objectives.index(run.objective))
    scored = [score_run(study, run) for run in in_order]
    means = image_means(scored)
    summaries = [_summary(means, study, objective, finished) for objective in study.objectives]
    baseline = best_constant_dice(study, list(range(study.settings.run_folds)))
    write_atomically(study.out / "per_image.csv", class_scores(scored).to_csv(index=False))
    jobs = max((run.noted("train").get("jobs", 1) for run in finished), default=1)
    document = _document(study, summaries, baseline, jobs)
    write_atomically(study.out / "summary.json", json.dumps(document, indent=2, allow_nan=False) + "\n")
    _print_table(summaries, console)
    _print_notes(study, summaries, baseline, console)
    if jobs > 1:
        console.print(f"s/epoch was measured with up to {jobs} trainings side by side.", highlight=False)
    if finished:
        _plot(study, finished, means, console)
    return all(run in finished for run in asked)


def _summary(means: pd.DataFrame, study: Study, objective: str, finished: list[StudyRun]) -> dict[str, Any]:
    runs = [run for run in study.runs if run.objective == objective]
    unfinished = [run for run in runs if run not in finished]
    if unfinished:
        logs = [str(run.log(run.todo()[0]).relative_to(study.out)) for run in unfinished]
        return {"objective": objective, "status": "failed", "logs": logs}
    noted = [run.noted("train").get("seconds_per_epoch") for run in runs]
    times = [seconds for seconds in noted if seconds is not None]
    return summarise(means, objective, sum(times) / len(times) if times else None)


def _document(study: Study, summaries: list[dict[str, Any]], baseline: float | None, jobs: int) -> dict[str, Any]:
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "jobs": jobs, "torch": torch.__version__}
    return {
        "study": study.manifest(),
        "objectives": summaries,
        "dice_of_one_class_everywhere": baseline,
        "interval": f"95 % BCa bootstrap over images, {RESAMPLES} resamples",
        "run_on": machine,
    }


def _print_table(summaries: list[dict[str, Any]], console: Console) -> None:
    console.print("Mean per-image scores with 95 % bootstrap interval", highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))  # fits into 80 columns
    table.add_column("objective", no_wrap=True)
    for heading in ("Dice", "IoU", "s/epoch"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        if summary["status"] == "finished":
            seconds = summary["seconds_per_epoch"]
            time = "–" if seconds is None else f"{seconds:.2f}"
            table.add_row(summary["objective"], _interval(summary["dice"]), _interval(summary["iou"]), time)
        else:
            table.add_row(summary["objective"], "failed", "failed", "–")
    console.print(table)


def _interval(score: dict[str, Any]) -> str:
    if score["mean"] is None:
        return "–"
    if score["low"] is None:
        return f"{score['mean']:.3f}"
    return f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]".replace("[", "\\[")


def _print_notes(study: Study, summaries: list[dict[str, Any]], baseline: float | None, console: Console) -> None:
    if baseline is not None:
        console.print(f"Dice of an empty mask is 0, of one class everywhere {baseline:.3f}.", highlight=False)
    images = min((s["dice"]["images"] for s in summaries if s["status"] == "finished"), default=SMALL_SAMPLE)
    if images < SMALL_SAMPLE:
        console.print(
            f"The scores stand on {images} images: with fewer than {SMALL_SAMPLE} the interval is too narrow.",
            highlight=False,
        )
    failed = [log for s in summaries if s["status"] == "failed" for log in s["logs"]]
    if failed:
        console.print(
            f"[red]Not finished[/red], see {', '.join(failed)}; the same command tries again.", highlight=False
        )
    console.print(
        f"Scores: {study.out / 'per_image.csv'}, {study.out / 'summary.json'}", soft_wrap=True, highlight=False
    )


def _plot(study: Study, finished: list[StudyRun], means: pd.DataFrame, console: Console) -> None:
    shown = list(dict.fromkeys(run.objective for run in finished))
    plots.plot_per_image(means, shown, study.out / "per_image.png")
    names = "per_image.png"
    first = [run for run in finished if run.fold == finished[0].fold]
    if plots.plot_case(study, first, means, study.out / "case.png"):
        names += ", case.png"
    console.print(f"Plots in {study.out}: {names}", soft_wrap=True, highlight=False)
