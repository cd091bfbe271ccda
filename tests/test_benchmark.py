"""The benchmark's machinery; whether anything is fast is not for a test to say."""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmark import overview, report
from tests.benchmark.__main__ import draw, parse
from tests.benchmark.cases import (
    ALLOCATORS,
    AUTO,
    BINS,
    CROSS_ENTROPY,
    KORNIA,
    LINEAR,
    README,
    SORT,
    TEXTBOOK,
    Case,
    beside_old,
    measured_under,
    suite,
)
from tests.benchmark.inputs import make_inputs
from tests.benchmark.measure import Measurement, Settings, Worker, WorkerError, Workers, environment, stages
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
    assert measured.keys() == {
        (case.name, method) for case in suite("cpu", "quick").cases([]) for method in case.methods
    }
    for (_, method), m in measured.items():
        assert len(m["seconds"]) >= 2
        assert all(math.isfinite(second) and second > 0 for second in m["seconds"])
        assert (m["minimum"], m["median"]) == (min(m["seconds"]), statistics.median(m["seconds"]))
        assert m["failure"] is None
        assert m["memory"] is None or m["memory"] >= 0
        assert method in printed and f"| {method} |" in table
    for name in (report.PLOT_NAME, report.OVERVIEW_PLOT):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
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
        # the loss in at least 256 bins is at most 1/256 off, its gradient most on few voxels as here
        binned = m["method"] in (AUTO, BINS, "lovasz_fine_bins")
        if m["score_error"] is None:
            assert m["gradient_error"] < (0.1 if binned else 1e-4), m["method"]
            assert m["loss_error"] < (1 / 256 if binned else 1e-6), m["method"]
        else:
            assert m["score_error"] < 1e-6


@pytest.mark.slow
def test_a_run_can_be_drawn_again_without_measuring(quick_run, tmp_path):
    record = json.loads((quick_run[0] / report.JSON_NAME).read_text(encoding="utf-8"))
    draw(Results.of(record), tmp_path)
    for name in (report.JSON_NAME, report.TABLE_NAME, report.OVERVIEW_TABLE):
        assert (tmp_path / name).read_text(encoding="utf-8") == (quick_run[0] / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_worker_that_fails_says_why():
    worker = Worker("no_such_method", "default", Settings())
    with pytest.raises(WorkerError, match="KeyError: 'no_such_method'"):
        worker.answer()
    worker.close()


@pytest.mark.slow
def test_a_method_that_fails_on_one_case_is_measured_on_the_next():
    ok, wrong = (Case(1, 2, shape, (CROSS_ENTROPY,)) for shape in ((4, 4), (-4, 4)))
    with Workers("default", Settings(rounds=1)) as workers:
        (failed,), (measured,) = workers.measure(wrong), workers.measure(ok)
    assert "ended with 1: RuntimeError" in failed.failure
    assert measured.failure is None and measured.loss_error < 1e-6


@pytest.fixture
def other_checkout(tmp_path):
    """A checkout whose Dice loss is 7 everywhere."""
    package = tmp_path / "monai_surrogates"
    package.mkdir()
    code = "def SoftDiceLoss(**flags):\n    return lambda logits, labels: 0 * logits.sum() + 7\n"
    (package / "losses.py").write_text(code, encoding="utf-8")
    (package / "__init__.py").touch()
    return tmp_path


@pytest.mark.slow
def test_an_old_method_is_that_of_the_other_checkout(other_checkout):
    (case,) = beside_old([Case(1, 2, (8, 8), ("soft_dice",), allocators=("default",))])
    with Workers("default", Settings(rounds=1, against=str(other_checkout))) as workers:
        new, old = workers.measure(case)
    assert (new.method, old.method) == ("soft_dice", "old soft_dice")
    assert new.loss_error < 1e-6 and old.loss_error > 6


@pytest.mark.slow
def test_an_old_method_is_never_that_of_this_checkout(tmp_path):
    worker = Worker("old soft_dice", "default", Settings(against=str(tmp_path)))
    with pytest.raises(WorkerError, match="ImportError: monai_surrogates should come from"):
        worker.answer()
    worker.close()


def test_against_and_draw_say_what_they_need(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["--against", str(tmp_path)])
    assert "must be a checkout that holds monai_surrogates" in capsys.readouterr().err
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"measurements": [{"case": "b2-c2-96"}]}', encoding="utf-8")
    with pytest.raises(SystemExit):
        parse(["--draw", str(wrong)])
    assert "was written by another version" in capsys.readouterr().err


@pytest.mark.parametrize(
    "case",
    [Case(2, 2, (12, 12, 12)), Case(1, 14, (12, 9, 10)), Case(2, 105, (8,) * 3), Case(3, 19, (16, 24))],
    ids=lambda case: case.name,
)
def test_every_class_occurs_in_every_image(case):
    logits, labels = make_inputs(case, "cpu")
    assert logits.shape == (case.batch, case.classes, *case.shape) and labels.shape[2:] == case.shape
    assert all(set(image.unique().tolist()) == set(range(case.classes)) for image in labels)
    again = make_inputs(case, "cpu")
    assert torch.equal(again[0], logits) and torch.equal(again[1], labels)


def test_structures_fill_as_much_of_a_slice_as_of_a_volume():
    for shape in ((96, 96), (32, 32, 32)):
        _, labels = make_inputs(Case(16, 2, shape), "cpu")
        assert 0.005 < labels.float().mean() < 0.011  # 1 %, less what lies beyond the border


def test_names_and_titles():
    assert (Case(16, 2, (256, 256)).name, Case(16, 2, (256, 256)).title) == ("b16-c2-256x256", "B16 C2 256²")
    assert (Case(4, 19, (256, 512)).name, Case(4, 19, (256, 512)).title) == ("b4-c19-256x512", "B4 C19 256×512")
    scored = Case(2, 2, (96, 96, 96), dtype="uint8")
    assert (scored.name, scored.title) == ("scores-b2-c2-96x96x96-uint8", "scores, B2 C2 96³, uint8")


def test_the_suite_holds_the_cases_that_it_draws():
    for plan in (suite(device, extent) for device in ("cpu", "cuda") for extent in ("half", "all", "quick")):
        names = [case.name for case in plan.cases([])]
        assert len(set(names)) == len(names)
        linear = {case.name for case in plan.cases([]) if {CROSS_ENTROPY, *LINEAR} <= set(case.methods)}
        assert {*plan.by_voxels, *plan.by_classes} <= linear
    assert len(suite("cuda", "all").volumes) == len(suite("cpu", "all").volumes) + 2
    chosen = suite("cpu", "all").cases(["b2-*", "scale"])
    assert [case.name for case in chosen][:3] == ["b2-c2-512x512", "b2-c2-96x96x96", "b2-c14-64x64x64"]


def test_half_a_suite_is_part_of_the_whole():
    half, whole = suite("cpu"), suite("cpu", "all")
    names = {case.name for case in whole.cases([])}
    assert {case.name for case in half.cases([])} < names
    assert [case.size for case in half.readme] == [case.size for case in whole.readme] == list(README)
    assert all(case.allocators == tuple(ALLOCATORS) for case in whole.cases([]))
    assert {case.name for case in half.cases([]) if len(case.allocators) > 1} == {case.name for case in half.readme}
    textbook = {case.name for case in whole.cases([]) if TEXTBOOK in case.methods}
    assert textbook == {case.name for case in whole.volumes}
    assert not any(TEXTBOOK in case.methods for case in half.cases([]))
    assert {case.dtype for case in half.scores} == {"int64"}
    assert {case.dtype for case in whole.scores} == {"int64", "float32", "uint8"}


def test_each_allocator_has_its_own_variables_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    default, warm = environment("default", 3), environment("warm heap", 3)
    assert not any(name.startswith("MALLOC_") for name in default)
    assert warm["MALLOC_MMAP_MAX_"] == "0" and "MALLOC_ARENA_MAX" not in warm
    assert default["OMP_NUM_THREADS"] == warm["MKL_NUM_THREADS"] == "3"


def test_memory_comes_last_and_under_the_default_allocator_alone():
    settings, case = Settings(rounds=3), Case(1, 2, (4, 4))
    assert [name for name, _ in stages(settings, case, "default")] == [
        "start",
        "warm",
        *["round"] * 3,
        "error",
        "memory",
    ]
    assert [name for name, _ in stages(settings, case, "warm heap")] == ["start", "warm", *["round"] * 3]
    (case,) = measured_under([case], "warm heap")
    assert [name for name, _ in stages(settings, case, "warm heap")] == ["start", "warm", *["round"] * 3, "error"]


@pytest.fixture
def invented():
    """Results of a whole suite in which every method takes 1 ns per voxel and class, but for a third case of bins."""
    plan = suite("cpu", "all")
    results = Results(Settings(extent="all"))
    for case in plan.cases([]):
        for allocator in case.allocators:
            found = [
                Measurement(case, method, allocator, [1e-9 * case.voxels * case.classes]) for method in case.methods
            ]
            for m in found:
                if (case.name, m.method, allocator) == ("b1-c14-160x160x160", "lovasz_bins", "warm heap"):
                    m.seconds = [1.5 * m.seconds[0]]
            results.add(found)
    return plan, results


def test_a_target_is_met_where_it_is_met_under_each_allocator(invented):
    plan, results = invented
    found = {(v.where, v.what): v for v in verdicts(results, plan)}
    spread = found[
        "b1-c14-96x96x96 to b1-c14-192x192x192", "lovasz_bins: spread of the time per voxel and class over voxels"
    ]
    assert spread.values == {"default": pytest.approx(1), "warm heap": pytest.approx(1.5)}
    assert not spread.met
    assert found[
        "b1-c14-64x64x64 to b1-c105-64x64x64", "lovasz_bins: spread of the time per voxel and class over classes"
    ].met
    assert not found["B2 C2 96³", "soft_dice: time / cross_entropy"].met  # 1 against 0.75
    assert found["B1 C105 64³", "soft_dice: time / cross_entropy"].met
    assert not found["B1 C105 64³", "soft_dice: time / monai_dice"].met  # at many classes half of MONAI's time
    assert found["B1 C14 96³", "lovasz_sort: times faster than kornia_lovasz"].met
    assert not found["scores, B1 C105 64³, uint8", "counting: times faster than monai_dice_metric"].met
    assert found["B32 C2 128²", "soft_dice: time / cross_entropy"].limit == 1.3
    assert found["B64 C3 96²", "soft_dice: time / cross_entropy"].limit == 1.0
    assert found["B64 C3 96²", "lovasz_auto: time / cross_entropy"].limit == 5.0
    assert not found["B64 C3 96²", "lovasz_sort: times faster than kornia_lovasz"].met  # 1 against 1.5
    assert ("B2 C2 512²", "lovasz_sort: times faster than kornia_lovasz") not in found  # four rows, not short ones
    assert found["scores, B3 C2 80×96×88, uint8", "counting: times faster than monai_dice_metric"].limit == 4
    assert not any("memory" in what for _, what in found)  # none was measured


def test_auto_is_measured_by_the_faster_of_its_methods():
    results, case = Results(Settings()), suite("cpu").slices[0]
    times = {CROSS_ENTROPY: 1.0, AUTO: 3.0, SORT: 2.0, BINS: 4.0, KORNIA: 6.0}
    results.add([Measurement(case, method, "default", [seconds]) for method, seconds in times.items()])
    found = {v.what: v for v in verdicts(results, suite("cpu"))}
    own, kornia = (
        found["lovasz_auto: time / the faster of lovasz_sort and lovasz_bins"],
        found[f"{AUTO}: times faster than {KORNIA}"],
    )
    assert own.values == {"default": pytest.approx(1.5)} and not own.met
    assert kornia.values == {"default": pytest.approx(2)} and kornia.met


def test_a_failed_method_stands_in_the_table_and_takes_no_part(invented, tmp_path):
    plan, results = invented
    case = plan.volumes[0]
    results.add([Measurement(case, CROSS_ENTROPY, a, failure="ended with -9") for a in case.allocators])
    written = report.write(results, plan, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(written)
    assert {report.JSON_NAME, report.TABLE_NAME, report.PLOT_NAME, report.OVERVIEW_TABLE} < set(written)
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


def test_before_and_after_of_one_run():
    results, case = (
        Results(Settings(against="elsewhere")),
        beside_old([Case(1, 2, (4, 4), (CROSS_ENTROPY, "soft_dice"))])[0],
    )
    times = {CROSS_ENTROPY: 1.0, "soft_dice": 2.0, "old soft_dice": 8.0}
    assert case.methods == tuple(times)
    results.add([Measurement(case, method, "default", [seconds]) for method, seconds in times.items()])
    assert report.before_and_after(results).rows == [[case.name, "soft_dice", "default", "8000", "2000", "0.25"]]
    sheet = report.case_sheet(results, case)
    assert [row[sheet.head.index("/ old")] for row in sheet.rows] == ["–", "0.25", "–"]


def test_the_readme_table_holds_multiples_of_cross_entropy(invented):
    plan, results = invented
    _, _, *rows = overview.table(results, plan.readme).split("\n\n")[0].splitlines()
    assert [row.split(" | ")[0] for row in rows] == [
        "| 16, 2, 256²",
        "| 64, 3, 96²",
        "| 4, 19, 256×512",
        "| 2, 2, 96³",
        "| 1, 14, 96³",
        "| 1, 105, 64³",
    ]
    for case, row in zip(plan.readme, rows, strict=True):
        time, *ratios = row.split(" | ")[1 : 2 + len(overview.COLUMNS)]
        assert float(time.removesuffix(" ms")) == pytest.approx(1e-6 * case.voxels * case.classes, rel=0.05)
        assert ratios == ["1.0"] * len(overview.COLUMNS)


def test_each_column_of_the_readme_table_is_its_methods():
    case, results = Case(1, 2, (4, 4)), Results(Settings())
    multiples = {name: 2.0 + number for number, name in enumerate(overview.COLUMNS)}
    of_memory = [name for names in overview.MEMORY.values() for name in names]
    for name, times in {CROSS_ENTROPY: 1.0, **multiples}.items():
        memory = of_memory.index(name) * case.logits_bytes if name in of_memory else None
        results.add([Measurement(case, name, "default", [1e-3 * times], memory=memory)])
    row = overview.table(results, [case]).splitlines()[2]
    assert [float(cell) for cell in row.split(" | ")[2 : 2 + len(multiples)]] == list(multiples.values())
    memory = row.strip(" |").split(" | ")[-len(overview.MEMORY) :]
    assert [float(x) for cell in memory for x in cell.split(", ")] == list(range(len(of_memory)))


def test_a_run_beside_other_work_says_so():
    results, case = Results(Settings()), Case(1, 2, (4, 4))
    results.add([Measurement(case, CROSS_ENTROPY, "default", [1.0, 1.5, 1.5])])
    assert "busy" not in overview.table(results, [case])
    results.add([Measurement(case, CROSS_ENTROPY, "warm heap", [1.0, 4.0, 4.0])])
    assert "medians of `cross_entropy` are up to 4.0 times their minima" in overview.table(results, [case])


def test_the_readme_takes_the_table_between_its_marks():
    text = f"before\n{overview.START}old\n{overview.END}after\n"
    assert overview.published(text, "| new |\n") == f"before\n{overview.START}\n| new |\n\n{overview.END}after\n"
    with pytest.raises(ValueError, match="the README needs one"):
        overview.published("nothing", "| new |\n")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert overview.published(readme, "| new |\n") != readme


def test_the_textbook_forms_on_exact_cases():
    """Table of exact cases: 55/96 for Lovász-softmax; for p = (.9, .4, .3, .1), y = 1100: soft Dice 11/37 of the foreground."""
    p = torch.tensor([[3 / 4, 1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 2, 3 / 4, 7 / 8]], dtype=torch.float64).view(1, 2, 2, 2)
    y = torch.tensor([0, 1, 1, 0]).view(1, 1, 2, 2)
    assert float(lovasz_softmax_loss(p.log(), y)) == pytest.approx(55 / 96)
    p = torch.tensor([0.9, 0.4, 0.3, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
    both, y = torch.cat([1 - p, p], dim=1), torch.tensor([1, 1, 0, 0]).view(1, 1, 2, 2)
    background = 1 - 2 * 1.6 / (2.3 + 2)  # the same formula by hand: 2·(.7 + .9)/(Σ(1 − p) + 2)
    assert float(soft_tversky_loss(both.log(), y, 0.5, 0.5, 0)) == pytest.approx((11 / 37 + background) / 2)
