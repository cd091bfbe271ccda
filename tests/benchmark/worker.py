"""A process for one method and allocator: reads a case per line, and has a child of its own measure each.

The parent has imported what the method needs and done nothing else: imports take longer than most measurements. It waits until
the child has ended. The child reads a command per line and answers with a line of JSON each; between two commands it waits for
input and uses no processor. ``end`` ends it; the other commands:

- ``warm``: two calls; how long the second took decides how many calls make a round.
- ``round``: the seconds of each timed call, after one that is not timed; of a slow method those of one call, whose start is
  lost in its length. A call of a loss is forward and backward, from logits to their gradient.
- ``memory``: peak memory of a call beyond what was there before and beyond the gradient, in bytes: the median of three, of a
  slow method one. On CUDA it is torch's own peak. On a CPU it is the peak resident size of the process (VmHWM, reset before
  the call), with every block above 64 KiB returned to the system as soon as it is free; null where the system has no such
  counter. What a method keeps from call to call counts as there before. It changes the allocator for good, so that it comes
  after all rounds.
- ``end``: nothing more of this case.
- ``error``: of a loss, how far its value and its gradient (relative L2) are from those of the definition in float64; of a
  score, the largest difference from it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch

from tests.benchmark.cases import Case
from tests.benchmark.inputs import make_inputs
from tests.benchmark.methods import definition, make

ROUND_SECONDS, MOST_CALLS = 0.15, 5
SLOW = 0.5  # seconds of a call from which one a round must do
MMAP_THRESHOLD = -3  # glibc's number of this mallopt parameter


class Bench:
    """A method and its inputs."""

    def __init__(self, case: Case, method: str, device: str) -> None:
        self.case, self.name, self.device = case, method, device
        self.method = make(method, case)
        self.inputs = make_inputs(case, device)
        self.calls = 0  # timed ones of a round, 0 for a slow method's only one

    def call(self) -> float:
        """Seconds of one call."""
        self.inputs[0].grad = None
        self._wait()
        start = time.perf_counter()
        result = self.method(*self.inputs)
        if result.requires_grad:
            result.backward()
        self._wait()
        return time.perf_counter() - start

    def warm(self) -> float:
        self.call()
        seconds = self.call()
        self.calls = 0 if seconds > SLOW else max(1, min(MOST_CALLS, int(ROUND_SECONDS / seconds)))
        return seconds

    def round(self) -> list[float]:
        first = self.call()  # the processes that ran in between have emptied the caches
        return [self.call() for _ in range(self.calls)] or [first]

    def memory(self) -> int | None:
        found = [self._peak() for _ in range(3 if self.calls else 1)]
        return None if None in found else statistics.median(found)

    def _peak(self) -> int | None:
        gradient = self.case.logits_bytes if self.case.dtype is None else 0
        self.inputs[0].grad = None
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.call()
            return torch.cuda.max_memory_allocated() - before - gradient
        if not free_at_once() or not reset_peak_size():
            return None
        before = resident_size("VmRSS")
        self.call()
        return max(0, resident_size("VmHWM") - before - gradient)

    def error(self) -> dict[str, float]:
        exact = definition(self.name, self.case)
        if self.case.dtype is not None:
            return {"score_error": float((self.method(*self.inputs).double() - exact(*self.inputs)).abs().max())}
        logits = [self.inputs[0].detach().clone().requires_grad_(), self.inputs[0].detach().double().requires_grad_()]
        loss, expected = (method(x, self.inputs[1]) for method, x in zip((self.method, exact), logits, strict=True))
        loss.backward()
        expected.backward()
        gradient, right = (x.grad.double() for x in logits)
        return {
            "loss_error": float((loss.detach().double() - expected.detach()).abs()),
            "gradient_error": float((gradient - right).norm() / right.norm()),
        }

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def free_at_once() -> bool:
    """Make glibc return blocks above 64 KiB when they are freed, and what it holds of freed ones now; False elsewhere."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(MMAP_THRESHOLD, 2**16)) and libc.malloc_trim(0) >= 0
    except (OSError, AttributeError):
        return False


def reset_peak_size() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return True
    except OSError:
        return False


def resident_size(field: str) -> int:
    """VmRSS (now) or VmHWM (peak), in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def use_checkout(folder: str) -> None:
    """Import ``monai_surrogates`` from another checkout; ``tests`` stays this one's.

    Raises:
        ImportError: it came from elsewhere.
    """
    sys.path.insert(0, folder)
    package = Path(importlib.import_module("monai_surrogates").__file__)
    if not package.resolve().is_relative_to(Path(folder).resolve()):
        raise ImportError(f"monai_surrogates should come from {folder}, but came from {package}; a checkout holds it.")


def main(settings: str) -> None:
    """Import what the method needs, and serve case by case until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints shall not look like an answer
    given = json.loads(settings)
    torch.set_num_threads(given["threads"])
    if given["checkout"] is not None:
        use_checkout(given["checkout"])
    make(given["method"], Case(1, 2, (1,)))
    for case in commands():
        child = os.fork()
        if not child:
            _end_with(
                lambda case=case: serve(Bench(Case.of(json.loads(case)), given["method"], given["device"]), answers)
            )
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            sys.exit(128 - code if code < 0 else code)  # as a shell says that a signal ended it


def _end_with(work: Callable[[], None]) -> NoReturn:
    """Do it and end this process without an interpreter's clean-up, which waits for threads that a fork left behind."""
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def serve(bench: Bench, answers: TextIO) -> None:
    """Say that the inputs are there, and obey until the case ends."""
    _answer(answers, torch.cuda.get_device_name() if bench.device == "cuda" else None)
    for line in commands():
        if line == "end":
            return
        _answer(answers, getattr(bench, line)())
        if bench.device == "cuda":
            torch.cuda.empty_cache()  # the other processes need the room


def commands() -> Iterator[str]:
    """The lines of the input, byte by byte: parent and child share it, and a buffer would keep what is the other's."""
    line = b""
    while byte := os.read(sys.stdin.fileno(), 1):
        if byte != b"\n":
            line += byte
            continue
        yield line.decode()
        line = b""


def _answer(answers: TextIO, value: Any) -> None:
    print(json.dumps(value), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
