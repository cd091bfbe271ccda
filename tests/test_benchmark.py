"""The benchmark's machinery; whether anything is fast is not for a test to say."""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmark import report
from tests.benchmark.cases import CROSS_ENTROPY, LINEAR, Case, suite
from tests.benchmark.inputs import make_inputs
from tests.benchmark.measure import Measurement, Settings, Worker, WorkerError, environment, stages
from tests.benchmark.results import Results
from tests.benchmark.targets import verdicts
from tests.reference_torch import lovasz_softmax_loss, soft_tversky_loss

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """The folder of a run on tiny shapes, and what it printed."""
    out = tmp_path_factory.mktemp("benchmark")
    options = ["--quick", "--rounds", "2", "--allocator", "default", "--out", str(out)]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.benchmark", *options], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return out, ran.stdout


@pytest.mark.slow
def test_a_run_leaves_every_method_of_every_case(quick_run):
    out, printed = quick_run
    record = json.loads((out / report.JSON_NAME).read_text(encoding="utf-8"))
    table = (out / report.TABLE_NAME).read_text(encoding="utf-8")
    measured = {(m["case"], m["method"]): m for m in record["measurements"]}
    assert measured.keys() == {(case.name, method) for case in suite("cpu", True).cases([]) for method in case.methods}
    for (_, method), m in measured.items():
        assert len(m["seconds"]) >= 2
        assert all(math.isfinite(second) and second > 0 for second in m["seconds"])
        assert (m["minimum"], m["median"]) == (min(m["seconds"]), statistics.median(m["seconds"]))
        assert m["failure"] is None
        assert m["memory"] is None or m["memory"] >= 0
        assert method in printed and f"| {method} |" in table
    assert (out / report.PLOT_NAME).read_bytes().startswith(b"\x89PNG")
    assert "Targets" in printed and "**Targets**" in table


@pytest.mark.slow
def test_the_ratios_of_a_run_are_those_of_its_medians(quick_run):
    record = json.loads((quick_run[0] / report.JSON_NAME).read_text(encoding="utf-8"))
    medians = {(m["case"], m["method"]): m["median"] for m in record["measurements"]}
    for m in record["measurements"]:
        assert m["ratios"]
        for peer, ratio in m["ratios"].items():
            assert ratio == pytest.approx(m["median"] / medians[m["case"], peer])


@pytest.mark.slow
def test_the_gradients_of_a_run_are_right(quick_run):
    record = json.loads((quick_run[0] / report.JSON_NAME).read_text(encoding="utf-8"))
    for m in record["measurements"]:
        # textbook differences lose digits (REFERENCE: 1e-2 at 128³, less here); a gradient in bins is off most on few voxels
        binned = m["method"] in ("lovasz_bins", "lovasz_fine_bins")
        if m["score_error"] is None:
            assert m["gradient_error"] < (0.02 if binned else 1e-4), m["method"]
            assert m["loss_error"] < (1e-4 if binned else 1e-6), m["method"]
        else:
            assert m["score_error"] < 1e-6


@pytest.mark.slow
def test_a_worker_that_fails_says_why():
    measurement = Measurement(Case(1, 2, 4), "no_such_method", "default")
    worker = Worker(measurement, Settings())
    with pytest.raises(WorkerError, match="KeyError: 'no_such_method'"):
        worker.answer()
    worker.close()


@pytest.mark.parametrize("case", [Case(2, 2, 12), Case(1, 14, 12), Case(2, 105, 8)], ids=lambda case: case.name)
def test_every_class_occurs_in_every_image(case):
    logits, labels = make_inputs(case, "cpu")
    assert logits.shape == (case.batch, case.classes, *labels.shape[2:])
    assert all(set(image.unique().tolist()) == set(range(case.classes)) for image in labels)
    again = make_inputs(case, "cpu")
    assert torch.equal(again[0], logits) and torch.equal(again[1], labels)


def test_the_suite_holds_the_cases_that_it_draws():
    for device in ("cpu", "cuda"):
        plan = suite(device, False)
        names = [case.name for case in plan.cases([])]
        assert len(set(names)) == len(names)
        assert {*plan.by_voxels, *plan.by_classes} <= set(names)
        linear = {case.name for case in plan.cases([]) if {CROSS_ENTROPY, *LINEAR} <= set(case.methods)}
        assert {*plan.by_voxels, *plan.by_classes} <= linear
    assert len(suite("cuda", False).losses) == len(suite("cpu", False).losses) + 2
    assert [case.name for case in suite("cpu", False).cases(["b2-*", "scale"])][:2] == ["b2-c2-96", "b2-c14-64"]


def test_each_allocator_has_its_own_variables_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    default, warm = environment("default", 3), environment("warm heap", 3)
    assert not any(name.startswith("MALLOC_") for name in default)
    assert warm["MALLOC_MMAP_MAX_"] == "0" and "MALLOC_ARENA_MAX" not in warm
    assert default["OMP_NUM_THREADS"] == warm["MKL_NUM_THREADS"] == "3"


def test_memory_comes_last_and_under_the_default_allocator_alone():
    settings = Settings(rounds=3)
    assert [name for name, _ in stages(settings, "default")] == ["start", "warm", *["round"] * 3, "error", "memory"]
    assert [name for name, _ in stages(settings, "warm heap")] == ["start", "warm", *["round"] * 3]


@pytest.fixture
def invented():
    """Results of a whole suite in which every method takes 1 ns per voxel and class, but for a third case of bins."""
    plan, settings = suite("cpu", False), Settings()
    results = Results(settings)
    for case in plan.cases([]):
        for allocator in settings.allocators:
            found = [
                Measurement(case, method, allocator, [1e-9 * case.voxels * case.classes]) for method in case.methods
            ]
            for m in found:
                if (case.name, m.method, allocator) == ("b1-c14-160", "lovasz_bins", "warm heap"):
                    m.seconds = [1.5 * m.seconds[0]]
            results.add(found)
    return plan, results


def test_a_target_is_met_where_it_is_met_under_each_allocator(invented):
    plan, results = invented
    found = {(v.where, v.what): v for v in verdicts(results, plan)}
    spread = found["b1-c14-96 to b1-c14-192", "lovasz_bins: spread of the time per voxel and class over voxels"]
    assert spread.values == {"default": pytest.approx(1), "warm heap": pytest.approx(1.5)}
    assert not spread.met
    assert found["b1-c14-64 to b1-c105-64", "lovasz_bins: spread of the time per voxel and class over classes"].met
    assert not found["B2 C2 96³", "soft_dice: time / cross_entropy"].met  # 1 against 0.75
    assert found["B1 C105 64³", "soft_dice: time / cross_entropy"].met
    assert not found["B1 C105 64³", "soft_dice: time / monai_dice"].met  # at many classes half of MONAI's time
    assert found["B1 C14 96³", "lovasz_sort: times faster than kornia_lovasz"].met
    assert not found["scores, B1 C105 64³, uint8", "counting: times faster than monai_dice_metric"].met
    assert not any("memory" in what for _, what in found)  # none was measured


def test_a_failed_method_stands_in_the_table_and_takes_no_part(invented, tmp_path):
    plan, results = invented
    case = plan.losses[0]
    results.add([Measurement(case, CROSS_ENTROPY, a, failure="ended with -9") for a in results.settings.allocators])
    report.write(results, plan, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {report.JSON_NAME, report.TABLE_NAME, report.PLOT_NAME}
    assert "| cross_entropy | default | failed |" in (tmp_path / report.TABLE_NAME).read_text(encoding="utf-8")
    assert (case.title, "soft_dice: time / cross_entropy") not in {(v.where, v.what) for v in verdicts(results, plan)}
    assert len(results.failed()) == 2


def test_two_runs_are_compared_by_their_medians(invented):
    record = invented[1].as_json()
    slower = json.loads(json.dumps(record))
    slower["measurements"][0]["median"] *= 3
    rows = report.compared(record, slower).rows
    assert [row[-1] for row in rows[:2]] == ["3", "1"]
    assert len(rows) == len(record["measurements"])


def test_the_textbook_forms_on_exact_cases():
    """Table of exact cases: 55/96 for Lovász-softmax; for p = (.9, .4, .3, .1), y = 1100: soft Dice 11/37 of the foreground."""
    p = torch.tensor([[3 / 4, 1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 2, 3 / 4, 7 / 8]], dtype=torch.float64).view(1, 2, 2, 2)
    y = torch.tensor([0, 1, 1, 0]).view(1, 1, 2, 2)
    assert float(lovasz_softmax_loss(p.log(), y)) == pytest.approx(55 / 96)
    p = torch.tensor([0.9, 0.4, 0.3, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
    both, y = torch.cat([1 - p, p], dim=1), torch.tensor([1, 1, 0, 0]).view(1, 1, 2, 2)
    background = 1 - 2 * 1.6 / (2.3 + 2)  # the same formula by hand: 2·(.7 + .9)/(Σ(1 − p) + 2)
    assert float(soft_tversky_loss(both.log(), y, 0.5, 0.5, 0)) == pytest.approx((11 / 37 + background) / 2)
