"""What the README says must be so."""

import re
from pathlib import Path

import pytest

from monai_surrogates.losses import OBJECTIVES, SCHEDULES
from monai_surrogates.study.stage import BUNDLE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_python_examples_run(code, capsys):
    exec(compile(code, "README.md", "exec"), {})


def test_the_first_example_prints_a_dice(capsys):
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    assert re.fullmatch(r"tensor\(\[0\.\d+\]\)\n", capsys.readouterr().out)
    assert len(PYTHON[0].strip().splitlines()) <= 12


def test_links_and_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).is_file(), target
    for config in re.findall(r"configs/\w+\.yaml", README):
        assert (BUNDLE / config).is_file(), config


def test_every_objective_is_named():
    assert all(f"`{name}`" in README for name in [*OBJECTIVES, *SCHEDULES])


def test_the_two_commands_are_one_line_each_and_pinned():
    for mark in ("main job", "tests"):
        (command,) = re.search(rf"<!-- {mark} -->\n```\n(.*?)```", README, re.DOTALL).group(1).splitlines()
        assert command.startswith("python -m pip install -c tests/constraints.txt -e ")
