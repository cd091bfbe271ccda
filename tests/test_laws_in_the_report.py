"""The lines that conftest.py prints, of a small contract suite."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SUITE = """
import pytest

@pytest.mark.parametrize("case", [1, 2, 3])
@pytest.mark.parametrize("name", ["Dice", "Dice, batch"])
def test_never_below_two(name, case):
    assert name == "Dice" or case >= 2

@pytest.mark.parametrize("name", ["Dice", pytest.param("CE", marks=pytest.mark.skip(reason="no score"))])
def test_at_most_one(name):
    pass
"""


def report(folder, *arguments):
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_contract.py").write_text(SUITE)
    (folder / "test_other.py").write_text("def test_other(): pass")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}  # for what conftest.py imports
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = ran.stdout.splitlines()
    begin = next((i for i, line in enumerate(lines, 1) if "losses and laws" in line), len(lines))
    return [" ".join(line.split()) for line in lines[begin : begin + 4]]


def test_one_line_per_loss_and_law(tmp_path):
    assert report(tmp_path) == [
        "CE at most one does not apply: no score",
        "Dice at most one passed",
        "Dice never below two passed 3",
        "Dice, batch never below two FAILED 1 of 3, passed 2 of 3",
    ]


def test_of_the_tests_that_ran(tmp_path):
    assert report(tmp_path, "-k", "never and batch")[0] == "Dice, batch never below two FAILED 1 of 3, passed 2 of 3"
    assert report(tmp_path, "test_other.py") == []
