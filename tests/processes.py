"""Processes of their own that need not import MONAI: all are forked from one that has imported it, and nothing else of ours."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.multiprocessing

CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
# imports of every bundle run; the package itself must be found by the config
PRELOADED = [
    "monai.bundle",
    "monai.engines",
    "nibabel",
    "torch._dynamo",
    "torch.distributed",
    "torch.utils.tensorboard",
]
CONTEXT.set_forkserver_preload(PRELOADED)


def start_module(
    module: str, arguments: list[str], cwd: Path, environment: Mapping[str, str], output: Path
) -> BaseProcess:
    """Starts ``python -m module arguments`` in a folder, with its output in the files output.out and output.err."""
    words = (module, list(arguments), str(cwd), dict(environment), str(output))
    process = CONTEXT.Process(target=_run_module, args=words)
    process.start()
    return process


def run_module(
    module: str, arguments: list[str], cwd: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m module arguments`` to its end, as subprocess.run does."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_module(module, arguments, cwd, environment, Path(folder) / "printed")
        return completed(process, [module, *arguments], Path(folder) / "printed")


def completed(process: BaseProcess, words: list[str], output: Path) -> subprocess.CompletedProcess[str]:
    """What a process printed until its end, and its exit code."""
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired(words, 300)
    out, err = (output.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".out", ".err"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def results_of_ranks(rank_main: Callable[..., None], world_size: int, *arguments: object) -> dict[Any, Any]:
    """What ``rank_main(rank, world_size, port, results, *arguments)`` of every rank puts into the dictionary ``results``.

    A rank that fails fails the test, with its traceback.
    """
    with CONTEXT.Manager() as manager:
        results = manager.dict()
        arguments = (world_size, free_port(), results, *arguments)
        torch.multiprocessing.start_processes(rank_main, arguments, nprocs=world_size, start_method="forkserver")
        return dict(results)


def free_port() -> int:
    """A port on which ranks may meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _run_module(module: str, arguments: list[str], cwd: str, environment: dict[str, str], output: str) -> None:
    for stream, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(f"{output}{suffix}", os.O_WRONLY | os.O_CREAT, 0o600), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    multiprocessing.set_start_method(None, force=True)  # the run starts its own processes in the platform's way
    sys.argv = [module, *arguments]
    sys.path.insert(0, cwd)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
