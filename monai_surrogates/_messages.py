"""Messages that several rooms give: warnings at the line of the user or of the config, and the nearest name to a wrong one."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
import warnings
from collections.abc import Collection
from types import FrameType

# Packages between a loss and the user: torch calls it, MONAI builds it from a config, Ignite runs the training.
BETWEEN = frozenset({"monai_surrogates", "torch", "monai", "ignite", "fire", "runpy", "importlib", "pydoc"})
ROOMS = ("losses", "metrics", "handlers", "data", "core")
NEAR = 0.7  # similarity of a name that was meant; SoftDice and SoftDiceLoss have 0.8


def warn_user(message: str) -> None:
    """Warn of settings, as :func:`warn_of_data` does; under torchrun on rank 0 alone, because all ranks have the same."""
    if os.environ.get("RANK", "0") == "0":  # torchrun sets it
        warn_of_data(message)


def warn_of_data(message: str) -> None:
    """Warn at the line of the caller outside MONAI, Ignite, torch and this package.

    Where nobody else has called, as in ``python -m monai.bundle run``, the place is the block of the config:
    ``<config loss>:1``.
    """
    frame, block = inspect.currentframe(), ""
    while frame is not None and _is_between(frame):
        block = block or _block_of(frame)
        frame = frame.f_back
    names = globals() if frame is None else frame.f_globals
    place = (f"<config {block}".strip() + ">", 1) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
    registry = names.setdefault("__warningregistry__", {})  # where Python remembers the lines that have warned
    warnings.warn_explicit(message, UserWarning, *place, module=names.get("__name__"), registry=registry)


def _is_between(frame: FrameType) -> bool:
    """Whether the frame is of a package between loss and user, or an expression of a config, which belongs to no module."""
    names = frame.f_globals
    if "__name__" not in names:
        return frame.f_code.co_filename == "<string>"
    # python -m monai.bundle is the module __main__ of the package monai.bundle
    return str(names.get("__package__") or names["__name__"]).partition(".")[0] in BETWEEN


def _block_of(frame: FrameType) -> str:
    """The id of the block that MONAI's config engine builds in this frame; empty in any other."""
    if frame.f_globals.get("__name__") != "monai.bundle.config_item":
        return ""
    return str(getattr(frame.f_locals.get("self"), "id", "")).replace("::", "#")


def unknown_argument(owner: str, name: str, known: Collection[str]) -> TypeError:
    """The error for an unknown argument; it suggests the nearest.

    Args:
        owner: the class that the user wrote.
        name: the argument.
        known: all arguments of the class.
    """
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return TypeError(f"{owner} got an unexpected keyword argument {name!r}{hint}")


def missing_name(module: str, name: str) -> AttributeError:
    """The error of a module without this name; before it, a warning with the nearest public name, if one is near.

    MONAI's config engine looks a target up by attribute, and drops the text of the error.

    Args:
        module: dotted name of the module.
        name: the missing name; a private one, or a probe such as ``__path__``, gets no warning.
    """
    public = {} if name.startswith("_") else _public_names(module)
    near = difflib.get_close_matches(name, public, n=1, cutoff=NEAR)
    if near:
        warn_user(f"{module} has no {name}; did you mean {public[near[0]]}?")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def _public_names(module: str) -> dict[str, str]:
    """Every public name of the loaded rooms, and the rooms, with its dotted path; those of the module itself come first."""
    package = __package__ or ""
    found = {room: f"{package}.{room}" for room in ROOMS} if module == package else {}
    rooms = [f"{package}.{room}" for room in ROOMS[:-1]]  # core holds functions for those who write losses
    for room in sorted(rooms, key=lambda room: room != module):
        for name in getattr(sys.modules.get(room), "__all__", ()):
            found.setdefault(name, f"{room}.{name}")
    return found
