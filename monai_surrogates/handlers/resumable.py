from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from datetime import timedelta
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.handlers import DiskSaver
from ignite.utils import manual_seed
from monai.data.utils import set_rnd
from monai.handlers import CheckpointSaver
from torch.nn.parallel import DataParallel, DistributedDataParallel

from monai_surrogates._messages import warn_user

logger = logging.getLogger(__name__)

BEST = ("best_metric", "best_metric_epoch")  # the best score in the state of MONAI's engines
OWN = frozenset({"trainer", "scaler", "best", "seed"})  # entries of the file beside the objects
EPOCH_STRIDE = 1_000_003  # between the seeds of two epochs, larger than any number of ranks


class ResumableTraining:
    """Saves the whole training after each epoch, so that a killed one resumes with the same result.

    The file holds the state of the engine, of AMP's gradient scaler, and of all objects given; it is written in one step,
    so a kill leaves the old file or the new one. Random numbers, those of the data set's random transforms included, are
    seeded at each epoch from the seed of the training (``monai.utils.set_determinism``) and the number of the epoch; so a
    resumed epoch draws the same numbers as an uninterrupted one. This needs the same ``num_workers``, and does not hold for
    ``persistent_workers=True`` (transforms cannot be seeded again), nor for kernels that are not deterministic.

    The length of a resumed training is ``max_epochs`` or ``max_iters`` of the new run, not of the file. An epoch that
    ``max_iters`` cuts short is not saved: a resumed training begins it again.

    MONAI's CheckpointLoader reads the file too: a state under each object's name, and ``trainer``.

    Under torch.distributed every rank needs the handler: when training starts, the ranks wait for each other.

    Args:
        path: the file; rank 0 writes it.
        objects: name to object: network, optimizer, scheduler, loss. Of another engine (the evaluator) the best score is saved,
            of MONAI's CheckpointSaver the scores of its files. Objects without a state, such as a function or None, are
            left out.
        resume: continue from the file; if there is none, the training starts from the beginning, with a warning.
        interval: epochs between two saves.
        timeout: seconds that the ranks wait for each other when training starts; less than the process group's own timeout.

    Raises:
        TypeError: ``resume`` is neither True nor False.
        ValueError: an interval that is no whole number from 1 on, a timeout that is no positive number, or an object with a
            reserved name of the file. When training starts: the file lacks an object, has more epochs than ``max_epochs`` or
            ``max_iters`` allow, or epochs of another number of iterations; or only some processes see the file.
        RuntimeError: when training starts: a rank is without the handler, or began later than ``timeout``.

    Examples:
        >>> import tempfile, torch
        >>> from ignite.engine import Engine, Events
        >>> network = torch.nn.Linear(1, 1)
        >>> path = tempfile.mkdtemp() + "/last.pt"
        >>> for resume, max_epochs in ((False, 2), (True, 5)):
        ...     trainer = Engine(lambda engine, batch: None)
        ...     ResumableTraining(path, {"model": network}, resume=resume).attach(trainer)
        ...     first = []
        ...     _ = trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: first.append(engine.state.epoch))
        ...     _ = trainer.run([0, 1], max_epochs=max_epochs)
        ...     print(first)
        [1, 2]
        [3, 4, 5]
    """

    def __init__(
        self,
        path: str | PathLike[str],
        objects: Mapping[str, Any],
        resume: bool = False,
        interval: int = 1,
        timeout: float = 300.0,
    ) -> None:
        taken = sorted(OWN & objects.keys())
        if taken:
            raise ValueError(f"objects must not hold {', '.join(taken)}, a name of the file's own; rename it.")
        if not isinstance(resume, bool):  # a command line makes a string of true, and of false too
            raise TypeError(f"resume must be True or False, but is {resume!r}; write it with a capital letter.")
        if isinstance(interval, bool) or not hasattr(interval, "__index__") or interval < 1:
            raise ValueError(f"interval must be a whole number of epochs, at least 1, but is {interval!r}.")
        if isinstance(timeout, bool) or not hasattr(timeout, "__float__") or not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a positive number of seconds, but is {timeout!r}.")
        self.timeout = timedelta(seconds=float(timeout))
        self.path, self.resume, self.interval = Path(path).expanduser(), resume, int(interval)
        self.objects = dict(objects)
        self._seed = 0

    def attach(self, engine: Engine) -> None:
        """Save and resume an engine's epochs.

        Args:
            engine: a MONAI trainer or a bare Ignite engine.
        """
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)

    def started(self, engine: Engine) -> None:
        """Load the file, if asked. The saving handler is added here, so that it runs after all others."""
        _meet(self.timeout)
        self._seed = _seed_of_first_rank()
        if self.resume and self._is_there():
            self.load(engine)
            idist.barrier()  # the first rank must not overwrite the file while another one reads it
        elif self.resume:
            warn_user(f"resume=True, but there is no {self.path}: the training starts from the beginning.")
        if not engine.has_event_handler(self.epoch_completed, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_started(self, engine: Engine) -> None:
        """Seed the random numbers of the epoch."""
        seed = (self._seed + idist.get_rank() + EPOCH_STRIDE * engine.state.epoch) % 2**32
        manual_seed(seed)
        set_rnd(getattr(engine.state.dataloader, "dataset", None), seed)

    def epoch_completed(self, engine: Engine) -> None:
        """Save after every ``interval`` epochs, and after the last one."""
        if _is_last(engine) or engine.state.epoch % self.interval == 0:
            self.save(engine)

    def save(self, engine: Engine) -> None:
        """Write the file. Every rank must call it, because some states are gathered from all; rank 0 writes."""
        state = {name: _plain(item.state_dict()) for name, item in self._items(engine).items()}
        state |= {"trainer": engine.state_dict(), "best": _best(engine), "seed": self._seed}
        # Ignite's own atomic saver leaves a file of another name behind with each kill; here the next save takes it over.
        temporary = self.path.with_name(f".{self.path.name}")
        try:
            DiskSaver(self.path.parent, atomic=False, require_empty=False)(state, temporary.name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if idist.get_rank() == 0:
            temporary.replace(self.path)

    def load(self, engine: Engine) -> None:
        """Load the state of the engine and of all objects from the file."""
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        items, trainer = self._items(engine), state["trainer"]
        missing = sorted(items.keys() - state.keys())
        if missing:
            raise ValueError(
                f"{self.path} must hold {', '.join(items)}, but lacks {', '.join(missing)}; resume the training that wrote it."
            )
        epochs, iterations = engine.state.max_epochs, engine.state.max_iters
        length, found = engine.state.epoch_length, trainer["epoch_length"]
        if length is not None and found != length:
            raise ValueError(
                f"{self.path} must be of epochs with {length} iterations, as there are now, but is of {found}; "
                "resume with the same data, batch size and number of processes."
            )
        completed = trainer["iteration"] // found
        if epochs is not None and completed > epochs:
            raise ValueError(
                f"{self.path} must be of no more than max_epochs={epochs}, but is of {completed} epochs; raise max_epochs."
            )
        if iterations is not None and trainer["iteration"] > iterations:
            raise ValueError(
                f"{self.path} must be of no more than max_iters={iterations}, but is of {trainer['iteration']} iterations; "
                "raise max_iters."
            )
        engine.load_state_dict(trainer)
        # The limits of the file would end this run.
        engine.state.max_epochs, engine.state.max_iters = epochs, iterations
        _set_best(engine, state["best"])
        for name, item in items.items():
            item.load_state_dict(state[name])
        self._seed = state["seed"]
        logger.info("Resumed from %s after %d epochs.", self.path, completed)

    def _is_there(self) -> bool:
        """Whether the file is there, for all processes alike: otherwise they would wait for each other for ever."""
        seen, processes = int(idist.all_reduce(int(self.path.is_file()))), idist.get_world_size()
        if 0 < seen < processes:
            raise ValueError(
                f"{self.path} must be seen by all {processes} processes or by none, but is seen by {seen}; put it on a disk "
                "that they share, or copy it to each of their machines."
            )
        return seen > 0

    def _items(self, engine: Engine) -> dict[str, Any]:
        items = {name: _with_state(item) for name, item in self.objects.items()}
        items["scaler"] = getattr(engine, "scaler", None)
        return {name: item for name, item in items.items() if hasattr(item, "state_dict")}


class _BestOf:
    """The best score of an engine, as an object with a state."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def state_dict(self) -> dict[str, float]:
        return _best(self.engine)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        _set_best(self.engine, state)


def _with_state(item: Any) -> Any:
    """The part of an object that holds its state."""
    if isinstance(item, DistributedDataParallel | DataParallel):
        return item.module
    if isinstance(item, CheckpointSaver):  # a CheckpointSaver has load_state_dict, but no state_dict
        return item._key_metric_checkpoint
    return _BestOf(item) if isinstance(item, Engine) else item


def _is_last(engine: Engine) -> bool:
    """Whether this is the last complete epoch."""
    state = engine.state
    if state.max_iters is not None and state.iteration + state.epoch_length > state.max_iters:
        return True
    return state.max_epochs is not None and state.epoch >= state.max_epochs


def _plain(state: Any) -> Any:
    """A state with Python's numbers in place of NumPy's, which ``weights_only`` does not read."""
    if isinstance(state, Real) and hasattr(state, "item"):
        return state.item()
    if isinstance(state, dict):
        plain = copy.copy(state)  # with the attributes of a module's state
        plain.update({name: _plain(value) for name, value in state.items()})
        return plain
    return type(state)(map(_plain, state)) if type(state) in (list, tuple) else state


def _best(engine: Engine) -> dict[str, float]:
    return {name: float(getattr(engine.state, name)) for name in BEST if hasattr(engine.state, name)}


def _set_best(engine: Engine, best: Mapping[str, float]) -> None:
    for name, value in best.items():
        setattr(engine.state, name, int(value) if name.endswith("epoch") else value)


def _meet(timeout: timedelta) -> None:
    """Wait until this handler has started on every rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    # Not by a collective: a rank without the handler is in DistributedDataParallel's already, and gloo would abort both.
    store, name = dist.distributed_c10d._get_default_store(), "monai_surrogates.ResumableTraining"
    meeting = store.add(f"{name}/{dist.get_rank()}", 1)  # the number of this rank's meetings so far
    keys = {rank: f"{name}/{rank}/{meeting}" for rank in range(dist.get_world_size())}
    store.set(keys[dist.get_rank()], "here")
    try:
        store.wait(list(keys.values()), timeout)
    except RuntimeError:  # DistStoreError, or what a FileStore raises
        missing = ", ".join(str(rank) for rank, key in keys.items() if not store.check([key]))
        if missing:  # or else the last one has just started
            raise RuntimeError(
                f"ResumableTraining must start on every rank, but after {timeout.total_seconds():g} s it had not on rank "
                f"{missing} of {len(keys)}; list it in the handlers of every rank (a multi-GPU overlay may cut the end of the "
                "list), or raise timeout where ranks start that far apart."
            ) from None


def _seed_of_first_rank() -> int:
    seed = torch.tensor(torch.initial_seed() % 2**32, device=idist.device() if idist.get_world_size() > 1 else None)
    return int(idist.broadcast(seed, src=0)) if idist.get_world_size() > 1 else int(seed)
