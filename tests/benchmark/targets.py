"""What the losses and scores are to reach, each target beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.benchmark.cases import (
    AUTO,
    BINS,
    COUNTING,
    CROSS_ENTROPY,
    DICE_METRIC,
    FINE_BINS,
    KORNIA,
    LINEAR,
    OLD,
    OVERLAP,
    SORT,
    Case,
    Suite,
)
from tests.benchmark.measure import Measurement
from tests.benchmark.results import Results

NOT_SLOWER = 1.1  # than another checkout; a machine differs by as much from run to run
SPREAD = 1.3  # the largest time per voxel and class over the smallest
FEW_BINS = 256  # of any image that is binned by default
SCORE_MEMORY = 8 * 2**20  # "a few megabytes"
LARGE = 96**3  # voxels of an image from which a volume counts as large
MORE_FOR_OVERLAP = {(32, 2, (128, 128)): 1.3}  # of cross-entropy's time, where the fixed costs of a call show
MORE_FOR_AUTO = {(32, 2, (128, 128)): 5.0, (64, 3, (96, 96)): 5.0}
MANY_ROWS = 32  # images times classes


@dataclass(frozen=True)
class Verdict:
    """One target: ``values`` by allocator; met where it is met under each of them."""

    where: str
    what: str
    limit: float
    values: dict[str, float]
    at_least: bool = False

    @property
    def met(self) -> bool:
        inside = (value >= self.limit if self.at_least else value <= self.limit for value in self.values.values())
        return all(inside)


def verdicts(results: Results, suite: Suite) -> list[Verdict]:
    """Those of everything that was measured; what was not has no verdict."""
    groups = [_of_slices(results, case) for case in suite.slices]
    groups += [_of_volumes(results, case) for case in suite.volumes]
    groups += [_of_scores(results, case) for case in suite.scores]
    groups += [_of_scale(results, suite.by_voxels, "voxels"), _of_scale(results, suite.by_classes, "classes")]
    return [verdict for group in groups for verdict in group if verdict.values]


def _of_slices(results: Results, case: Case) -> Iterator[Verdict]:
    yield Verdict(
        case.title, f"{AUTO}: error of the loss", 1 / FEW_BINS, _values(results, case, AUTO, lambda m: m.loss_error)
    )
    for name in OVERLAP:
        yield _ratio(results, case, name, CROSS_ENTROPY, MORE_FOR_OVERLAP.get(case.size, 1.0))
        yield _memory(results, case, name, 1.0)
    yield _ratio(results, case, AUTO, CROSS_ENTROPY, MORE_FOR_AUTO.get(case.size, 3.0))
    yield _memory(results, case, AUTO, 1.0)
    yield from _of_auto(results, case)
    if case.batch * case.classes >= MANY_ROWS:
        yield _speedup(results, case, SORT, KORNIA, 1.5)


def _of_auto(results: Results, case: Case) -> Iterator[Verdict]:
    yield _speedup(results, case, AUTO, KORNIA, 1)
    own = _values(
        results, case, AUTO, lambda m: max((r for o in (SORT, BINS) if (r := results.ratio(m, o))), default=None)
    )
    yield Verdict(case.title, f"{AUTO}: time / the faster of {SORT} and {BINS}", 1.2, own)


def _of_volumes(results: Results, case: Case) -> Iterator[Verdict]:
    for name in (*OVERLAP, BINS):
        yield _ratio(results, case, name, f"{OLD}{name}", NOT_SLOWER)
    few, many, large = case.classes == 2, case.classes >= 100, case.image_voxels >= LARGE
    for name, of_monai in OVERLAP.items():
        limit = 0.75 if few else 1.0 if many or large else 1.5
        yield _ratio(results, case, name, CROSS_ENTROPY, limit)
        yield _ratio(results, case, name, of_monai, 0.5 if many else 1.0)
        yield _memory(results, case, name, 0.15 if many else 0.5)
    yield _ratio(results, case, BINS, CROSS_ENTROPY, 1.5 if few else 2.0 if many or large else 2.5)
    yield _speedup(results, case, BINS, KORNIA, 5 if few else 10)
    yield _memory(results, case, BINS, 2.0)
    error = _values(results, case, BINS, lambda m: m.loss_error)
    yield Verdict(case.title, f"{BINS}: error of the loss", 1e-5, error)
    yield _gradient_error(results, case, BINS, 1e-3 if few else 5e-3)
    yield _gradient_error(results, case, FINE_BINS, 1e-3)
    yield _speedup(results, case, SORT, KORNIA, 1)
    yield from _of_auto(results, case)


def _of_scores(results: Results, case: Case) -> Iterator[Verdict]:
    yield _speedup(results, case, COUNTING, DICE_METRIC, 4 if case.classes < 14 else 15 if case.classes < 100 else 60)
    memory = _values(results, case, COUNTING, lambda m: m.memory)
    megabytes = {allocator: value / 2**20 for allocator, value in memory.items()}
    yield Verdict(case.title, f"{COUNTING}: MiB beyond the inputs", SCORE_MEMORY / 2**20, megabytes)


def _of_scale(results: Results, names: tuple[str, ...], growing: str) -> Iterator[Verdict]:
    for method in LINEAR if names else ():
        values = {}
        for allocator in results.allocators():
            found = [results.get(name, method, allocator) for name in names]
            times = [m.median / (m.case.voxels * m.case.classes) for m in found if m is not None]
            if len(times) == len(names) > 1:
                values[allocator] = max(times) / min(times)
        ends = f"{names[0]} to {names[-1]}"
        yield Verdict(ends, f"{method}: spread of the time per voxel and class over {growing}", SPREAD, values)


def _ratio(results: Results, case: Case, method: str, peer: str, limit: float) -> Verdict:
    values = _values(results, case, method, lambda m: results.ratio(m, peer))
    return Verdict(case.title, f"{method}: time / {peer}", limit, values)


def _speedup(results: Results, case: Case, method: str, peer: str, limit: float) -> Verdict:
    values = _values(results, case, method, lambda m: results.ratio(m, peer))
    times = {allocator: 1 / value for allocator, value in values.items()}
    return Verdict(case.title, f"{method}: times faster than {peer}", limit, times, at_least=True)


def _memory(results: Results, case: Case, method: str, limit: float) -> Verdict:
    memory = _values(results, case, method, lambda m: m.memory)
    multiples = {allocator: value / case.logits_bytes for allocator, value in memory.items()}
    return Verdict(case.title, f"{method}: memory / logits", limit, multiples)


def _gradient_error(results: Results, case: Case, method: str, limit: float) -> Verdict:
    error = _values(results, case, method, lambda m: m.gradient_error)
    return Verdict(case.title, f"{method}: error of the gradient", limit, error)


def _values(
    results: Results, case: Case, method: str, value: Callable[[Measurement], float | None]
) -> dict[str, float]:
    found = {allocator: results.get(case.name, method, allocator) for allocator in results.allocators()}
    values = {allocator: value(m) for allocator, m in found.items() if m is not None}
    return {allocator: number for allocator, number in values.items() if number is not None}
