"""The parent's side: processes that wait for their turn, rounds that go around all of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmark.cases import ALLOCATORS, OLD, Case

ROOT = Path(__file__).parent.parent.parent

ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


@dataclass
class Measurement:
    """What is known of one method on one case under one allocator."""

    case: Case
    method: str
    allocator: str
    seconds: list[float] = field(default_factory=list)
    memory: int | None = None  # bytes beyond inputs and gradient
    loss_error: float | None = None  # absolute
    gradient_error: float | None = None  # relative L2
    score_error: float | None = None  # largest
    failure: str | None = None
    device_name: str | None = None

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Settings:
    device: str = "cpu"
    threads: int = 2
    rounds: int = 7
    accuracy: bool = True
    extent: str = "half"
    against: str | None = None  # folder of another checkout, whose methods are the old ones


class WorkerError(Exception):
    """A worker ended before it answered."""


class Worker:
    """A fresh process for one measurement; see :mod:`tests.benchmark.worker` for what it can be asked."""

    def __init__(self, measurement: Measurement, settings: Settings) -> None:
        self.measurement = measurement
        self._complaints = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # closed by close()
        given = {"case": asdict(measurement.case), "method": measurement.method}
        given |= {"device": settings.device, "threads": settings.threads, "checkout": None}
        if measurement.method.startswith(OLD):
            given["checkout"] = settings.against
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmark.worker", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            cwd=ROOT,
            env=environment(measurement.allocator, settings.threads),
            encoding="utf-8",
        )

    def ask(self, command: str) -> Any:
        """The answer to a command.

        Raises:
            WorkerError: the process has ended.
        """
        with suppress(OSError):  # the missing answer says it
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """The next line; the first one comes unasked, when the inputs are there: the name of the GPU."""
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._complaints.seek(0)
        said = self._complaints.read().strip().splitlines()
        raise WorkerError(f"ended with {status}: {said[-1] if said else 'no message'}")

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # an unsent command to a process that has ended
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._complaints.close()


def environment(allocator: str, threads: int) -> dict[str, str]:
    """Of a worker: one allocator's variables and nobody else's, and its number of threads."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(ALLOCATOR_VARIABLES)}
    number = str(threads)
    return own | ALLOCATORS[allocator] | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}


def measure_case(
    case: Case, allocator: str, settings: Settings, advance: Callable[[str], None] = lambda method: None
) -> list[Measurement]:
    """All methods of a case, one process each, round by round; ``advance`` is called ``steps`` times with a method."""
    measurements = [Measurement(case, method, allocator) for method in case.methods]
    with ExitStack() as stack:
        workers = []
        for measurement in measurements:
            workers.append(Worker(measurement, settings))
            stack.callback(workers[-1].close)
        for stage in stages(settings, case, allocator):
            for worker in _turned(workers, stage[1]):
                if worker.measurement.failure is None:
                    _run_stage(worker, stage[0])
                advance(worker.measurement.method)
    return measurements


def stages(settings: Settings, case: Case, allocator: str) -> list[tuple[str, int]]:
    """What every worker is asked in turn, and with which worker a turn begins, so that none always follows the same one."""
    rounds = [("round", number) for number in range(settings.rounds)]
    # memory and error are the same under both allocators, but a heap that keeps everything cannot tell the memory of a call
    first = allocator == case.allocators[0]
    after = [("error", 0)] if settings.accuracy and first else []
    after += [("memory", 0)] if allocator == "default" else []
    return [("start", 0), ("warm", 0), *rounds, *after]


def _turned(workers: list[Worker], by: int) -> list[Worker]:
    by %= len(workers)
    return workers[by:] + workers[:by]


def _run_stage(worker: Worker, stage: str) -> None:
    found = worker.measurement
    try:
        if stage == "start":
            found.device_name = worker.answer()
        elif stage == "round":
            found.seconds += worker.ask(stage)
        elif stage == "memory":
            found.memory = worker.ask(stage)
        elif stage == "error":
            for name, value in worker.ask(stage).items():
                setattr(found, name, value)
        else:
            worker.ask(stage)
    except WorkerError as error:
        found.failure = str(error)
