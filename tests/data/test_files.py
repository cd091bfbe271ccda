"""A file is old or new, never in between: after a kill, on a full disk, while others read it."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_surrogates.data.files import write_atomically


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("content", "expected"), [("Δ = ½\n", "Δ = ½\n".encode()), (b"\x89PNG\r\n", b"\x89PNG\r\n")])
def test_text_and_bytes_replace_a_file_and_folders_are_made(tmp_path, content, expected):
    path = tmp_path / "deep" / "folder" / "file"
    for before in ("longer than what comes after it", content):
        write_atomically(path, before)
    assert path.read_bytes() == expected
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path, umask):
    path = tmp_path / "file"
    write_atomically(path, "new")
    assert mode_of(path) == 0o640
    path.chmod(0o664)
    write_atomically(path, "newer")
    assert mode_of(path) == 0o664


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))  # no file of this process may grow beyond
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(path, bytes(2**21))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_no_temporary_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "text")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def write_for_ever(path: Path) -> None:
    while True:
        for letter in (b"a", b"b"):
            write_atomically(path, letter * 2**22)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_killed_at_any_instant_leaves_a_whole_file(tmp_path):
    path, instants = tmp_path / "file", random.Random(0)
    write_atomically(path, b"a" * 2**22)
    for _ in range(15):
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path,))
        writer.start()
        time.sleep(instants.uniform(0.01, 0.08))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        content = path.read_bytes()
        assert content in (b"a" * 2**22, b"b" * 2**22)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_that_write_the_same_file_do_not_mix(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"a" * 2**22)
    writers = [multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        seen = {path.read_bytes() for _ in range(40)}
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    assert seen <= {b"a" * 2**22, b"b" * 2**22}
