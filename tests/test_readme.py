"""The README is true: its code runs, its table is that of the names."""

import re
from pathlib import Path

import pytest

from monai_surrogates.losses import SCHEDULES, loss_class
from monai_surrogates.losses.names import LOSSES
from monai_surrogates.study.stage import BUNDLE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", [*PYTHON, *re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)])
def test_python_examples_run(code, capsys):
    exec(compile(code, "README.md", "exec"), {})


def test_the_first_example_prints_a_dice(capsys):
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    assert re.fullmatch(r"tensor\(\[0\.\d+\]\)\n", capsys.readouterr().out)
    assert len(PYTHON[0].strip().splitlines()) <= 12


def test_links_and_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).is_file(), target
    own = set(re.findall(r"^# (configs/\S+)$", README, re.MULTILINE))  # overlays that the README shows
    for config in set(re.findall(r"configs/\w+\.yaml", README)) - own:
        assert (BUNDLE / config).is_file(), config


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


def differing_losses():
    """Names that the table of losses lacks or has too many, and classes that stand in another row than their name."""
    section = README.partition("## The losses")[2].partition("\n## ")[0]
    cells = [
        [re.findall(r"`(\w+)`", cell) for cell in row.split("|")[1:3]] for row in re.findall(r"^\|.*\|$", section, re.M)
    ]
    rows = {name: classes for classes, names in cells for name in names if name != "A_to_B"}
    return {n for n in rows.keys() | LOSSES.keys() if n not in LOSSES or loss_class(n).__name__ not in rows.get(n, [])}


def test_the_table_of_losses_is_that_of_the_names():
    assert differing_losses() == set()


def test_every_schedule_with_a_path_is_named():
    assert all(f"`{name}`" in README for name in SCHEDULES)


def test_the_two_commands_are_one_line_each_and_pinned():
    for mark in ("main job", "tests"):
        (command,) = re.search(rf"<!-- {mark} -->\n```\n(.*?)```", README, re.DOTALL).group(1).splitlines()
        assert command.startswith("python -m pip install -c tests/constraints.txt -e ")
