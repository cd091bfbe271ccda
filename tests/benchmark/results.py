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

from tests.benchmark.cases import ALLOCATORS, COUNTING, CROSS_ENTROPY, DICE_METRIC, PEERS, Case
from tests.benchmark.measure import ROOT, Measurement, Settings

CASE = ("batch", "classes", "shape", "dtype")  # what JSON says of a case, and of a measurement
KNOWN = ("seconds", "memory", "loss_error", "gradient_error", "score_error", "failure")
LIBRARIES = ("torch", "monai", "kornia", "numpy")


class Results:
    """Measurements by case, method and allocator; of this machine and these versions, unless another is named."""

    def __init__(self, settings: Settings, device: str | None = None, libraries: dict[str, str] | None = None) -> None:
        self.settings, self._device, self.versions = settings, device, libraries or versions()
        self._found: dict[tuple[str, str, str], Measurement] = {}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Results:
        """The results of a run that :meth:`as_json` has written."""
        results, rows = (
            cls(Settings(**record["settings"]), record["device"], record["versions"]),
            record["measurements"],
        )
        methods = {
            row["case"]: tuple(dict.fromkeys(r["method"] for r in rows if r["case"] == row["case"])) for row in rows
        }
        for row in rows:
            case = Case.of({name: row[name] for name in CASE} | {"methods": methods[row["case"]]})
            known = {name: row[name] for name in KNOWN}
            results.add([Measurement(case, row["method"], row["allocator"], **known)])
        return results

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

    def allocators(self) -> tuple[str, ...]:
        """Those under which anything was measured."""
        found = {m.allocator for m in self}
        return tuple(name for name in ALLOCATORS if name in found)

    def failed(self) -> list[Measurement]:
        return [m for m in self if m.failure is not None]

    def device(self) -> str:
        """The GPU, or the processor and how many threads it lends."""
        if self._device is not None:
            return self._device
        gpu = next((m.device_name for m in self if m.device_name), None)
        return gpu or f"{processor()}, {self.settings.threads} threads of {os.cpu_count()} processors"

    def disturbance(self) -> float:
        """How many times its minimum the median of cross-entropy is, at most: on an idle machine little more than 1."""
        times = [m for m in self if m.method == CROSS_ENTROPY and m.seconds]
        return max((m.median / m.minimum for m in times), default=1.0)

    def as_json(self) -> dict[str, Any]:
        return {
            "device": self.device(),
            "versions": self.versions,
            "settings": asdict(self.settings),
            "measurements": [self._row(m) for m in self],
        }

    def _row(self, m: Measurement) -> dict[str, Any]:
        times = {"minimum": m.minimum, "median": m.median} if m.seconds else {}
        ratios = {peer: self.ratio(m, peer) for peer in peers(m.case)}
        return {
            "case": m.case.name,
            **{name: getattr(m.case, name) for name in CASE},
            "method": m.method,
            "allocator": m.allocator,
            **times,
            "ratios": {peer: ratio for peer, ratio in ratios.items() if ratio is not None},
            **{name: getattr(m, name) for name in KNOWN},
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
