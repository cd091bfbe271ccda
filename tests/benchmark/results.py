"""Everything measured so far, its ratios, and how it is written as JSON."""

from __future__ import annotations

import os
import platform
import runpy
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.benchmark.cases import COUNTING, DICE_METRIC, PEERS, Case
from tests.benchmark.measure import ROOT, Measurement, Settings

LIBRARIES = ("torch", "monai", "kornia", "numpy")


class Results:
    """Measurements by case, method and allocator."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._found: dict[tuple[str, str, str], Measurement] = {}

    def add(self, measurements: list[Measurement]) -> None:
        self._found |= {(m.case.name, m.method, m.allocator): m for m in measurements}

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._found.values())

    def get(self, case: str, method: str, allocator: str) -> Measurement | None:
        """A measurement that has times; None where it failed or was not made."""
        found = self._found.get((case, method, allocator))
        return found if found is not None and found.seconds and found.failure is None else None

    def ratio(self, one: Measurement, peer: str) -> float | None:
        """The median time in multiples of a peer's on the same case and allocator."""
        other = self.get(one.case.name, peer, one.allocator)
        return one.median / other.median if other and one.seconds else None

    def cases(self) -> list[Case]:
        return list({m.case.name: m.case for m in self}.values())

    def failed(self) -> list[Measurement]:
        return [m for m in self if m.failure is not None]

    def device(self) -> str:
        """The GPU, or the processor and how many threads it lends."""
        gpu = next((m.device_name for m in self if m.device_name), None)
        return gpu or f"{processor()}, {self.settings.threads} threads of {os.cpu_count()} processors"

    def as_json(self) -> dict[str, Any]:
        return {
            "device": self.device(),
            "versions": versions(),
            "settings": asdict(self.settings),
            "measurements": [self._row(m) for m in self],
        }

    def _row(self, m: Measurement) -> dict[str, Any]:
        times = {"minimum": m.minimum, "median": m.median} if m.seconds else {}
        ratios = {peer: self.ratio(m, peer) for peer in peers(m.case)}
        case = {"batch": m.case.batch, "classes": m.case.classes, "edge": m.case.edge, "dtype": m.case.dtype}
        return {
            "case": m.case.name,
            **case,
            "method": m.method,
            "allocator": m.allocator,
            **times,
            "ratios": {peer: ratio for peer, ratio in ratios.items() if ratio is not None},
            "memory": m.memory,
            "loss_error": m.loss_error,
            "gradient_error": m.gradient_error,
            "score_error": m.score_error,
            "failure": m.failure,
            "seconds": m.seconds,
        }


def peers(case: Case) -> tuple[str, ...]:
    """Whom the methods of a case are compared with."""
    return tuple(name for name in (*PEERS, DICE_METRIC) if name in case.methods and name != COUNTING)


def versions() -> dict[str, str]:
    """Of Python, of this package and of those it is compared with."""
    own = runpy.run_path(str(ROOT / "monai_surrogates" / "_version.py"))["__version__"]  # importing it takes seconds
    found = {"python": platform.python_version(), "monai-surrogates": own}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def processor() -> str:
    """The processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
