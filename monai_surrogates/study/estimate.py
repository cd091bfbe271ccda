"""How far a study is and how long it will take, from what has been measured."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from statistics import mean

# An evaluation is little more than starting the process; used until the first one has been measured.
EVALUATION_PER_START = 1.3


@dataclass
class RunningStage:
    """A stage that is running.

    Attributes:
        kind: ``"train"`` or ``"evaluate"``.
        began: when, in seconds.
        starting: how long it took to the first report of progress; None before.
        fraction: the finished share.
    """

    kind: str
    began: float
    starting: float | None = None
    fraction: float = 0.0

    def cost(self, now: float) -> float | None:
        """The seconds that the whole stage will have taken; None before it has reported progress."""
        if self.starting is None or self.fraction == 0:
            return None
        return self.starting + (now - self.began - self.starting) / self.fraction


@dataclass
class Estimate:
    """What is left: a stage costs what its kind has cost so far, or what the running ones are heading for.

    Attributes:
        waiting: the kinds of the stages still to start.
        jobs: how many stages run at the same time.
    """

    waiting: list[str]
    jobs: int = 1
    _measured: dict[str, list[float]] = field(default_factory=dict)
    _starts: list[float] = field(default_factory=list)
    _running: dict[object, RunningStage] = field(default_factory=dict)
    _began: float = field(default_factory=lambda: time.monotonic())
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self, key: object, kind: str) -> None:
        """A stage begins."""
        with self._lock:
            self.waiting.remove(kind)
            self._running[key] = RunningStage(kind, time.monotonic())

    def advance(self, key: object, fraction: float) -> None:
        """A running stage reports its finished share."""
        with self._lock:
            stage = self._running[key]
            if stage.starting is None:
                stage.starting = time.monotonic() - stage.began
                self._starts.append(stage.starting)
            stage.fraction = fraction

    def finish(self, key: object, succeeded: bool = True) -> float:
        """A stage ended; returns how many seconds it took. One that died says nothing about the others."""
        with self._lock:
            stage = self._running.pop(key)
            took = time.monotonic() - stage.began
            if succeeded:
                self._measured.setdefault(stage.kind, []).append(took)
            return took

    def drop(self, kind: str) -> None:
        """A waiting stage will not run."""
        with self._lock:
            self.waiting.remove(kind)

    def left(self) -> float | None:
        """Seconds still to go; None as long as nothing is known."""
        with self._lock:
            now = time.monotonic()
            todo = [(kind, 0.0) for kind in self.waiting]
            todo += [(stage.kind, now - stage.began) for stage in self._running.values()]
            costs = {kind: self._cost(kind, now) for kind, _ in todo}
            known = {kind: cost for kind, cost in costs.items() if cost is not None}
            if len(known) < len(costs):
                return None
            return sum(max(0.0, known[kind] - spent) for kind, spent in todo) / max(1, min(self.jobs, len(todo)))

    def _cost(self, kind: str, now: float) -> float | None:
        if kind in self._measured:
            return mean(self._measured[kind])
        heading = [cost for stage in self._running.values() if stage.kind == kind and (cost := stage.cost(now))]
        if heading:
            return mean(heading)
        return EVALUATION_PER_START * mean(self._starts) if kind == "evaluate" and self._starts else None

    def done(self) -> float:
        """The share of the whole that is done, in time."""
        left, spent = self.left(), time.monotonic() - self._began
        return 0.0 if left is None or spent + left == 0 else spent / (spent + left)

    def words(self) -> str:
        """For people."""
        left = self.left()
        if left is None:
            return "estimating the time"
        return f"about {left / 60:.1f} min left" if left else ""
