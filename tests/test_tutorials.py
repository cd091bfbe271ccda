"""Every tutorial runs without a warning, and the outputs stored in it are those of its code.

After a change of a tutorial, ``python -m tests.test_tutorials`` runs them all and stores their outputs.
"""

import ast
import functools
import os
import re
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import matplotlib.font_manager  # noqa: F401 - builds matplotlib's font cache, which a slow first kernel would warn of
import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

from monai_surrogates.core import class_weights
from monai_surrogates.losses import OBJECTIVES
from tests.empty_patch import ROWS, lesion_alone, shown, with_background

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))
LARGEST_FILE = 400_000  # bytes

pytestmark = pytest.mark.slow


class RunningPython(KernelSpecManager):
    """The interpreter that runs the tests is the kernel, whatever kernels the machine has registered."""

    def get_kernel_spec(self, kernel_name):
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, language="python", display_name="Python 3")


@functools.cache
def executed(path):
    """The notebook with fresh outputs, run in a folder of its own; a cell that raises fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "IPYTHONDIR": folder,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            # what tqdm says of a Jupyter without ipywidgets, as soon as MONAI imports it, is of no use here
            "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:IProgress not found"])),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        manager = AsyncKernelManager(
            connection_file=str(Path(folder) / "kernel.json"), kernel_spec_manager=RunningPython()
        )
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook, km=manager, timeout=600, record_timing=False, resources=resources, coalesce_streams=True
        )
        client.execute(cleanup_kc=True, env=environment)
    notebook.metadata.language_info = {"name": "python"}  # the version is the machine's
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(notebook):
    """What the cells print and show as text."""
    return [output.text if "text" in output else output.data["text/plain"] for output in outputs(notebook)]


def printed(path, pattern):
    """The groups of the one place where the output matches."""
    (match,) = re.finditer(pattern, "\n".join(texts(executed(path))), re.MULTILINE)
    return match.groups()


def test_there_are_tutorials():
    assert TUTORIALS


@pytest.fixture(params=TUTORIALS, ids=lambda path: path.stem)
def tutorial(request):
    return request.param


def test_no_cell_warns(tutorial):
    assert [output.text for output in outputs(executed(tutorial)) if output.get("name") == "stderr"] == []


def test_stored_outputs_are_fresh(tutorial):
    stored = nbformat.read(tutorial, as_version=4)
    nbformat.validate(stored)
    assert texts(stored) == texts(executed(tutorial)), "run: python -m tests.test_tutorials"


def test_the_file_is_small_and_of_no_machine(tutorial):
    assert tutorial.stat().st_size < LARGEST_FILE
    text = "\n".join(texts(nbformat.read(tutorial, as_version=4)))
    assert re.findall(r"/tmp|/home|/Users|site-packages|ipykernel", text) == []


def pictures(notebook):
    """The cells that show one."""
    return [
        cell.id
        for cell in notebook.cells
        if cell.cell_type == "code" and any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]


def test_there_are_pictures(tutorial):
    assert len(pictures(nbformat.read(tutorial, as_version=4))) == len(pictures(executed(tutorial))) > 0


class TestFirstObjective:
    PATH = ROOT / "tutorials" / "01_a_first_objective_in_ten_lines.ipynb"

    def test_ten_lines(self):
        (lines,) = [cell.source.splitlines() for cell in executed(self.PATH).cells if cell.id == "ten-lines"]
        assert len(lines) == 10
        assert lines[0].startswith("loss = make_loss(")

    def test_every_objective_is_trained(self):
        assert printed(self.PATH, r"^trained: (.*)$")[0].split(", ") == [*OBJECTIVES]

    def test_table_of_the_empty_patch(self):
        (table,) = [text for text in texts(executed(self.PATH)) if "lesion alone: loss" in text]
        expected = [[*map(shown, (*lesion_alone(*row), *with_background(*row)))] for row in ROWS]
        assert [line.split()[-4:] for line in table.splitlines()[2:]] == expected
        assert [line.split()[-5] for line in table.splitlines()[2:]] == [row[2] for row in ROWS]

    def test_the_volumes_of_the_patches_are_no_larger_than_patches(self):
        background, lesion = ast.literal_eval(
            printed(self.PATH, r"^mean volumes \(background, lesion\): (.*) voxels$")[0]
        )
        sizes = ast.literal_eval(printed(self.PATH, r"^lesion voxels of each image: (.*) of 32000$")[0])
        assert (background, lesion) == (12**3, round(sum(min(size, 12**3) for size in sizes) / len(sizes), 1))


class TestBundleByConfig:
    PATH = ROOT / "tutorials" / "02_switch_a_bundles_objective_by_config.ipynb"

    def test_the_four_ways_are_one_training(self):
        assert printed(self.PATH, r"^all four .*: (\w+)$") == ("True",)
        runs = ast.literal_eval(printed(self.PATH, r"^iterations of each run: (.*)$")[0])
        assert len(runs) == 4
        assert min(runs) > 0

    def test_the_schedule_is_cross_entropy_until_half_way_and_ramps_to_its_surrogate(self):
        said = re.findall(r"^Epoch (\d+) trains (.*)\.$", "\n".join(texts(executed(self.PATH))), re.MULTILINE)
        ramp = [(str(21 + i), f"cross_entropy {(4 - i) / 5}, lovasz_softmax {(1 + i) / 5}") for i in range(4)]
        assert said == [("1", "cross_entropy 1"), *ramp, ("25", "lovasz_softmax 1")]
        assert printed(self.PATH, r"in epochs 1 to 20: (\w+), and later: (\w+)$") == ("True", "False")

    def test_the_weights_are_those_of_the_counts(self):
        counts = ast.literal_eval(printed(self.PATH, r"^voxels per class: (.*)$")[0])
        for weighting in ("inverse_frequency", "median_frequency", "effective_number"):
            shown_weights = ast.literal_eval(printed(self.PATH, rf"^{weighting} +(\[.*\])$")[0])
            assert shown_weights == pytest.approx(class_weights(counts, weighting).tolist(), abs=5e-4)

    def test_the_loss_of_an_empty_patch_is_that_of_its_volume(self):
        _, volume = ast.literal_eval(printed(self.PATH, r"^mean volumes where a class occurs: (.*) voxels$")[0])
        for p in (0.3, 0.1, 0.01):
            plain, by_volume = printed(
                self.PATH, rf"^p = {p} +smoothing null: (\S+) +smoothing structure_volume: (\S+)$"
            )
            assert plain == "1.000"
            assert float(by_volume) == pytest.approx(p * 16**3 / (p * 16**3 + volume), abs=6e-4)

    def test_mistakes_are_one_sentence_each(self):
        (said,) = [text.splitlines() for text in texts(executed(self.PATH)) if "lovasz_sofmax" in text]
        starts = ("objective must be one of", "class_weighting must be one of", "structure_volumes must have 2 values")
        assert [line.startswith(start) for line, start in zip(said, starts, strict=True)] == [True] * 3


class TestPerImageAndPooledScores:
    """Numbers from the geometry of the pictures: a square of side a found as one of side b inside it has Dice 2b²/(a² + b²)."""

    PATH = ROOT / "tutorials" / "03_per_image_and_pooled_scores.ipynb"
    SIDES = (
        [(80, 78), (10, 9), (9, 8), (10, 8), (8, 7), (9, 7), (8, 6), (10, 6), (9, 5), (8, 5), (7, 4), (6, 4), (5, 3)]
        + [(side, 0) for side in (6, 7, 5, 8, 6, 5, 4)]
    )  # fmt: skip

    def shows(self, pattern, *expected):
        """The numbers of the one place where the output matches are these, to the decimals that it gives."""
        found = printed(self.PATH, pattern)
        decimals = [len(number.partition(".")[2]) for number in found]
        assert list(found) == [f"{float(e):.{d}f}" for e, d in zip(expected, decimals, strict=True)]

    def test_one_image(self):
        lesion, found, image = 50 * 50, 70 * 80, 1000 * 1000
        for score, expected in (("Dice", Fraction(2 * lesion, lesion + found)), ("IoU", Fraction(lesion, found))):
            (fraction,) = printed(self.PATH, rf"^{score} = \d+/\d+ = (\S+) = \S+$")
            assert Fraction(fraction) == expected
            self.shows(rf"^{score} = .* = (\S+)$", expected)
        self.shows(r"^pixel accuracy = (\S+)$", 1 - Fraction(found - lesion, image))
        self.shows(r"empty prediction = (\S+)$", 1 - Fraction(lesion, image))

    def test_background(self):
        dice = Fraction(2 * (10**6 - 5600), 2 * 10**6 - 5600 - 2500)
        numbers = r"background (\S+), lesion (\S+), mean of the two (\S+)$"
        for score, classes in (("Dice", (dice, Fraction(50, 81))), ("IoU", (dice / (2 - dice), Fraction(25, 56)))):
            self.shows(rf"^{score}: {numbers}", *classes, sum(classes) / 2)

    def test_cohort(self):
        dice = [Fraction(2 * b * b, a * a + b * b) for a, b in self.SIDES]
        iou = [Fraction(b * b, a * a) for a, b in self.SIDES]
        references, predictions = (sum(side**2 for side in sides) for sides in zip(*self.SIDES, strict=True))
        pooled = Fraction(2 * predictions, references + predictions)
        self.shows(r"^pooled Dice +(\S+) ", pooled)
        self.shows(r"^mean per-image Dice +(\S+) ", sum(dice) / 20)
        self.shows(r"^worst 10 % of images (\S+) ", sum(sorted(dice)[:2]) / 2)
        self.shows(r"^pooled IoU (\S+), mean per-image IoU (\S+)$", Fraction(predictions, references), sum(iou) / 20)
        self.shows(r"^weighted mean of the per-image Dice: (\S+)$", pooled)
        large = Fraction(80**2 + 78**2, references + predictions)
        self.shows(r"large lesion: (\S+), of all others: (\S+)$", large, 1 - large)

    @pytest.mark.parametrize(
        ("rule", "cells"),
        [
            ("ignore", ["0.667", "0.0", "NaN", "NaN", "0.333", "2"]),
            ("score", ["0.667", "0.0", "1.0", "0.0", "0.417", "4"]),
            ("both", ["0.667", "0.0", "NaN", "0.0", "0.222", "3"]),
        ],
    )
    def test_table_of_the_rules(self, rule, cells):
        (table,) = [text for text in texts(executed(self.PATH)) if "rightly empty" in text]
        (row,) = [line.split()[1:] for line in table.splitlines() if line.startswith(rule)]
        assert row == cells

    def test_paired_comparison(self):
        careful, eager = Fraction(2 * 48, 64 + 48), Fraction(2 * 56, 64 + 56)
        (table,) = [text for text in texts(executed(self.PATH)) if "paired difference" in text]
        rows = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in table.splitlines()[2:]}
        of_lesions = [careful, eager, careful - eager, 6]
        of_all = [(6 * careful + 4) / 10, 6 * eager / 10, (6 * careful + 4 - 6 * eager) / 10, 10]
        of_each_model = [careful, 6 * eager / 10, careful - eager, 6]
        expected = {"ignore": of_lesions, "score": of_all, "both": of_each_model}
        assert rows == {rule: pytest.approx([float(e) for e in row], abs=6e-4) for rule, row in expected.items()}

    def test_engine(self):
        dice = [Fraction(2 * b * b, a * a + b * b) for a, b in self.SIDES]
        references, predictions = (sum(side**2 for side in sides) for sides in zip(*self.SIDES, strict=True))
        self.shows(r"^dice +(\d\S+)$", sum(dice) / 20)
        self.shows(r"^dice/defined +(\S+)$", 20)
        self.shows(r"^scores/pooled_precision +(\S+)$", Fraction(predictions, predictions + 6 * 6))
        self.shows(r"^scores/pooled_dice +(\S+)$", Fraction(2 * predictions, references + predictions + 6 * 6))
        self.shows(r"^dice (\S+), dice/defined (\S+)$", 0, 0)


if __name__ == "__main__":
    for path in TUTORIALS:
        nbformat.write(executed(path), path)
