"""The command line: parse, call, print. Slow imports stand inside the command that needs them."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monai_surrogates._names import COMPARED, LOSSES, OF_STRUCTURES, SCHEDULES, check_compared
from monai_surrogates._version import __version__

if TYPE_CHECKING:
    from monai_surrogates.study import Settings

# Names that fit the bundle beside those compared by default.
FURTHER = [name for name in LOSSES if name not in COMPARED and name not in OF_STRUCTURES]

app = typer.Typer(
    help="Surrogate losses and per-image scores for MONAI.", no_args_is_help=True, pretty_exceptions_enable=False
)

BAD_INPUT, INTERRUPTED = 2, 130


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Surrogate losses and per-image scores for MONAI."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def bundle(folder: Annotated[Path, typer.Argument(help="New folder for the bundle.")]) -> None:
    """Copy the MONAI bundle, with the objective as one config value."""
    in_the_way = next((p for p in folder.absolute().parents if p.exists() and not p.is_dir()), None)
    if in_the_way is not None:
        _refuse(f"{folder} cannot be made, because {in_the_way} is a file; name another folder.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _refuse(f"{folder} exists already; name a new or an empty folder, so that nothing is overwritten.")
    shutil.copytree(
        Path(__file__).parent / "bundle", folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    typer.echo(f"Copied the bundle to {folder}; {folder / 'docs' / 'README.md'} says how to run it.")


@app.command()
def study(
    quick: Annotated[bool, typer.Option("--quick", help="A few minutes: fewer epochs, one fold of three.")] = False,
    out: Annotated[Path, typer.Option(help="Output folder; the same command resumes it.")] = Path("surrogates-study"),
    data: Annotated[
        Path | None, typer.Option(help="Medical Segmentation Decathlon folder; without it an embedded task is written.")
    ] = None,
    objectives: Annotated[
        str,
        typer.Option(
            help=f"Names, separated by commas; further names: {', '.join(FURTHER)}; and any two as A_to_B, such as "
            f"{', '.join(SCHEDULES)}."
        ),
    ] = ",".join(COMPARED),
    folds: Annotated[int | None, typer.Option(min=2, help="Parts to divide the training list into.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of data, division, weights and order.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Objectives to run at the same time; 2 with --quick, else 1.")
    ] = None,
) -> None:
    """Train the bundle under each objective, and score each on the same images."""
    names = [name.strip() for name in objectives.split(",") if name.strip()]
    try:
        check_compared(names)
    except ValueError as error:
        _refuse(str(error))
    from rich.console import Console

    from monai_surrogates.data import DataError
    from monai_surrogates.study import Study, StudyError, run_study

    settings = _settings(quick, folds, epochs, seed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        plan = Study.prepare(out, names, settings, data)
        succeeded = run_study(plan, Console(), jobs or (2 if quick else 1))
    except (DataError, StudyError) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted. The same command goes on where {out} stopped.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(0 if succeeded else 1)


def _settings(quick: bool, folds: int | None, epochs: int | None, seed: int) -> Settings:
    from monai_surrogates.study import Settings
    from monai_surrogates.study.plan import QUICK

    settings = replace(QUICK if quick else Settings(), seed=seed)
    if folds is not None:
        settings = replace(settings, folds=folds, run_folds=1 if quick else folds)
    if epochs is not None:
        settings = replace(settings, epochs=epochs, val_interval=max(1, min(settings.val_interval, epochs)))
    return settings


def _refuse(message: str) -> None:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(BAD_INPUT)
