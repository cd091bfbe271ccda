"""The parent's side: processes that wait for their turn, rounds that go around all of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
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
    """Fresh processes for one method and allocator, one a case; :mod:`tests.benchmark.worker` says what they can be asked."""

    def __init__(self, method: str, allocator: str, settings: Settings) -> None:
        self._complaints = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # closed by close()
        given = {"method": method, "device": settings.device, "threads": settings.threads}
        given["checkout"] = settings.against if method.startswith(OLD) else None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmark.worker", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            cwd=ROOT,
            env=environment(allocator, settings.threads),
            encoding="utf-8",
        )

    def tell(self, line: str) -> None:
        """Send a command, or the JSON of a case."""
        with suppress(OSError):  # the missing answer says that the process has ended
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def ask(self, command: str) -> Any:
        """The answer to a command.

        Raises:
            WorkerError: the process has ended.
        """
        self.tell(command)
        return self.answer()

    def answer(self) -> Any:
        """The next line; the first one of a case comes when the inputs are there: the name of the GPU."""
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


class Workers:
    """The workers of an allocator: each is started when a case first needs its method, and again after it failed."""

    def __init__(self, allocator: str, settings: Settings) -> None:
        self.allocator, self.settings = allocator, settings
        self._found: dict[str, Worker] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._found.values():
            worker.close()

    def __getitem__(self, method: str) -> Worker:
        if method not in self._found:
            self._found[method] = Worker(method, self.allocator, self.settings)
        return self._found[method]

    def drop(self, method: str) -> None:
        """End one that failed."""
        self._found.pop(method).close()

    def measure(self, case: Case, advance: Callable[[str], None] = lambda method: None) -> list[Measurement]:
        """All methods of a case, round by round; ``advance`` is called with a method after each of its stages."""
        measurements = [Measurement(case, method, self.allocator) for method in case.methods]
        for method in case.methods:
            self[method].tell(json.dumps(asdict(case)))
        for stage, first in stages(self.settings, case, self.allocator):
            for measurement in _turned(measurements, first):
                if measurement.failure is None:
                    self._run_stage(measurement, stage)
                advance(measurement.method)
        for method in (m.method for m in measurements if m.failure is None):
            self[method].tell("end")
        return measurements

    def _run_stage(self, found: Measurement, stage: str) -> None:
        worker = self[found.method]
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
            self.drop(found.method)


def stages(settings: Settings, case: Case, allocator: str) -> list[tuple[str, int]]:
    """What every worker is asked in turn, and with which worker a turn begins, so that none always follows the same one."""
    rounds = [("round", number) for number in range(settings.rounds)]
    # memory and error are the same under both allocators, but a heap that keeps everything cannot tell the memory of a call
    first = allocator == case.allocators[0]
    after = [("error", 0)] if settings.accuracy and first else []
    after += [("memory", 0)] if allocator == "default" else []
    return [("start", 0), ("warm", 0), *rounds, *after]


def _turned(measurements: list[Measurement], by: int) -> list[Measurement]:
    by %= len(measurements)
    return measurements[by:] + measurements[:by]
