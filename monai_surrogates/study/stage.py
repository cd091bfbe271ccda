"""One stage of a run: training or evaluation, by MONAI's bundle engine in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import monai_surrogates
from monai_surrogates.study.plan import Study, StudyRun

BUNDLE = Path(monai_surrogates.__file__).parent / "bundle"

_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")
# Lines of StatsHandler: the iteration, and the seconds of training in an epoch, without validation.
_ITERATION = re.compile(r"Epoch: (\d+)/(\d+), Iter: (\d+)/(\d+)")
_EPOCH = re.compile(r"State values: times: \{'EPOCH_COMPLETED': ([^,}]+)")


def command(study: Study, run: StudyRun, stage: str) -> list[str]:
    """The command line of a stage: the shipped bundle with overrides."""
    configs = [BUNDLE / "configs" / "train.yaml"]
    if stage == "evaluate":
        configs.append(BUNDLE / "configs" / "evaluate.yaml")
    shared = asdict(study.settings)
    for name in ("run_folds", "num_images"):
        del shared[name]
    overrides = {
        "bundle_root": str(BUNDLE),
        "dataset_dir": str(study.task_dir),
        "output_dir": str(run.folder / "eval"),
        "ckpt_dir": str(run.folder / "models"),
        "class_counts_file": str(study.out / f"class_counts_fold{run.fold}.json"),
        "objective": run.objective,
        "fold": run.fold,
        "split_seed": study.settings.seed,
        **shared,
    }
    arguments = [word for name, value in overrides.items() for word in (f"--{name}", _literal(value))]
    return [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        _literal([str(c) for c in configs]),
        *arguments,
    ]


def _literal(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class StageRunner:
    """Runs stages as processes, several at the same time if asked, and can end them all.

    Args:
        study: the study.
        jobs: number of stages that share the machine.
    """

    def __init__(self, study: Study, jobs: int = 1) -> None:
        self.study, self.jobs = study, jobs
        # Threads that spin while waiting make training several times slower beside any other process.
        threads = max(1, (os.cpu_count() or 1) // jobs)
        self._environment = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), **os.environ}
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped.is_set()

    def execute(self, run: StudyRun, stage: str, on_progress: Callable[[float], None]) -> int:
        """Run one stage and keep its output.

        Args:
            run: objective and fold.
            stage: ``"train"`` or ``"evaluate"``.
            on_progress: called with the finished share of a training, above 0 and up to 1.

        Returns:
            The process's exit code: 0 if the stage finished; if not, its log says why.
        """
        if stage == "train" and run.folder.exists():
            shutil.rmtree(run.folder)  # the remains of a killed training
        run.folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        words = command(self.study, run, stage)
        with run.log(stage).open("w", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(words)}\n")
            log.flush()
            code = self._follow(words, log.write, on_progress)
        if code == 0 and not self.stopped:
            run.finish(stage, time.monotonic() - started, self.jobs, seconds_per_epoch(run.log(stage)))
        return code

    def stop(self) -> None:
        """End all stages; the unfinished ones run again when the study is resumed."""
        self._stopped.set()
        for process in list(self._processes):
            process.kill()

    def _follow(self, words: list[str], write: Callable[[str], object], on_progress: Callable[[float], None]) -> int:
        with subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process:
            self._processes.add(process)
            if self.stopped:
                process.kill()
            for line in process.stdout or ():
                write(line)
                if found := _ITERATION.search(line):
                    epoch, epochs, iteration, iterations = map(int, found.groups())
                    on_progress((epoch - 1 + iteration / iterations) / epochs)
            code = process.wait()
            self._processes.discard(process)
            return code


def seconds_per_epoch(log: Path) -> float | None:
    """Median over the epochs of the seconds of training, without validation; None for the log of an evaluation."""
    seconds = [float(found) for found in _EPOCH.findall(log.read_text(encoding="utf-8", errors="replace"))]
    return median(seconds) if seconds else None


def why_it_died(log: Path, code: int, count: int = 8) -> str:
    """The exit code, the first error in a log (the cause of later ones), and its last lines."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    causes = [line for line in lines if _ERROR.match(line)][:1]
    return "\n".join([ended, *(cause for cause in causes if cause not in lines[-count:]), *lines[-count:]])
