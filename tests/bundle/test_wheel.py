"""The wheel holds the source tree's files, and no others."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2]
TOP_LEVEL = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "monai_surrogates", "tests", "tutorials")
BUILT = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.nii.gz", ".*")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Path in the wheel to content, built from a copy of the source tree so that nothing is left in it."""
    copy = tmp_path_factory.mktemp("source")
    for name in TOP_LEVEL:
        if (SOURCE / name).is_dir():
            shutil.copytree(SOURCE / name, copy / name, ignore=BUILT)
        elif (SOURCE / name).exists():
            shutil.copy(SOURCE / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    (file,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def data_files() -> dict[str, bytes]:
    package = SOURCE / "monai_surrogates"
    files = [package / "py.typed", *(package / "bundle").rglob("*")]
    return {
        file.relative_to(SOURCE).as_posix(): file.read_bytes()
        for file in files
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_wheel_holds_the_bundle_byte_for_byte(wheel: dict[str, bytes]) -> None:
    expected = data_files()
    assert {"monai_surrogates/bundle/LICENSE", "monai_surrogates/bundle/docs/README.md"} <= {*expected}
    packed = {name: content for name, content in wheel.items() if name.startswith("monai_surrogates/bundle/")}
    assert {*packed} | {"monai_surrogates/py.typed"} == {*expected}
    assert [name for name, content in expected.items() if wheel[name] != content] == []


def test_wheel_holds_every_module_and_nothing_beside_the_package(wheel: dict[str, bytes]) -> None:
    modules = {file.relative_to(SOURCE).as_posix() for file in (SOURCE / "monai_surrogates").rglob("*.py")}
    assert modules <= {*wheel}
    roots = {name.partition("/")[0] for name in wheel}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"monai_surrogates"}
    assert [name for name in wheel if name.endswith((".pyc", ".ipynb"))] == []


def test_wheel_carries_the_licence(wheel: dict[str, bytes]) -> None:
    (licence,) = (name for name in wheel if name.endswith(".dist-info/licenses/LICENSE"))
    assert wheel[licence] == (SOURCE / "LICENSE").read_bytes()
    assert wheel["monai_surrogates/bundle/LICENSE"] == wheel[licence]
