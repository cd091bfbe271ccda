"""What the losses and scores are to reach, each target beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.benchmark.cases import COUNTING, CROSS_ENTROPY, DICE_METRIC, LINEAR, OVERLAP, Case, Suite
from tests.benchmark.measure import Measurement
from tests.benchmark.results import Results

SPREAD = 1.3  # the largest time per voxel and class over the smallest
SCORE_MEMORY = 8 * 2**20  # "a few megabytes"
LARGE = 96**3  # voxels of an image from which a case counts as large


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
    groups = [_of_losses(results, case) for case in suite.losses]
    groups += [_of_scores(results, case) for case in suite.scores]
    groups += [_of_scale(results, suite.by_voxels, "voxels"), _of_scale(results, suite.by_classes, "classes")]
    return [verdict for group in groups for verdict in group if verdict.values]


def _of_losses(results: Results, case: Case) -> Iterator[Verdict]:
    few, many, large = case.classes == 2, case.classes >= 100, case.edge**3 >= LARGE
    for name, of_monai in OVERLAP.items():
        limit = 0.75 if few else 1.0 if many or large else 1.5
        yield _ratio(results, case, name, CROSS_ENTROPY, limit)
        yield _ratio(results, case, name, of_monai, 0.5 if many else 1.0)
        yield _memory(results, case, name, 0.15 if many else 0.5)
    bins = "lovasz_bins"
    yield _ratio(results, case, bins, CROSS_ENTROPY, 1.5 if few else 2.0 if many or large else 2.5)
    yield _speedup(results, case, bins, "kornia_lovasz", 5 if few else 10)
    yield _memory(results, case, bins, 2.0)
    error = _values(results, case, bins, lambda m: m.loss_error)
    yield Verdict(case.title, f"{bins}: error of the loss", 1e-5, error)
    yield _gradient_error(results, case, bins, 1e-3 if few else 5e-3)
    yield _gradient_error(results, case, "lovasz_fine_bins", 1e-3)
    yield _speedup(results, case, "lovasz_sort", "kornia_lovasz", 1)


def _of_scores(results: Results, case: Case) -> Iterator[Verdict]:
    yield _speedup(results, case, COUNTING, DICE_METRIC, 4 if case.classes == 2 else 15 if case.classes < 100 else 60)
    memory = _values(results, case, COUNTING, lambda m: m.memory)
    megabytes = {allocator: value / 2**20 for allocator, value in memory.items()}
    yield Verdict(case.title, f"{COUNTING}: MiB beyond the inputs", SCORE_MEMORY / 2**20, megabytes)


def _of_scale(results: Results, names: tuple[str, ...], growing: str) -> Iterator[Verdict]:
    for method in LINEAR:
        values = {}
        for allocator in results.settings.allocators:
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
    found = {allocator: results.get(case.name, method, allocator) for allocator in results.settings.allocators}
    values = {allocator: value(m) for allocator, m in found.items() if m is not None}
    return {allocator: number for allocator, number in values.items() if number is not None}
