from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn

from monai_surrogates.losses import ScheduledLoss

logger = logging.getLogger(__name__)


class ObjectiveSchedule:
    """Sets the epoch of a ScheduledLoss, and logs the weight of each objective.

    It has no effect on other losses, so a config may always list it. It finds a ScheduledLoss inside another loss (MONAI's
    DeepSupervisionLoss, a compiled one).

    Before each epoch the weights go into ``engine.state.metrics``, as ``objective/cross_entropy`` and the like, where MONAI's
    StatsHandler, TensorBoardStatsHandler and MLflowHandler and Ignite's loggers read them; a log line says when they change.
    The epoch is the engine's, so a resumed training continues in the middle of its schedule. Under torch.distributed every rank
    needs the handler: a loss of several objectives does not train on a rank that was not told the epoch.

    Args:
        loss_function: the loss; by default that of the engine, as MONAI's trainers have one.
        name: prefix of the weights in ``engine.state.metrics``.

    Raises:
        ValueError: when training starts: neither a loss given nor one in the engine; or fractions in the schedule and a number
            of epochs that is unknown (``max_iters`` over data without a length) or too small.

    Examples:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai_surrogates.losses import ScheduledLoss
        >>> loss = ScheduledLoss({0: "cross_entropy", 1: "soft_dice"}, softmax=True, to_onehot_y=True)
        >>> trainer = Engine(lambda engine, batch: loss(*batch).item())
        >>> ObjectiveSchedule(loss).attach(trainer)
        >>> state = trainer.run([(torch.zeros(1, 2, 4), torch.tensor([[[0, 1, 0, 1]]]))], max_epochs=2)
        >>> state.metrics
        {'objective/cross_entropy': 0.0, 'objective/soft_dice': 1.0}
    """

    def __init__(self, loss_function: Any = None, name: str = "objective") -> None:
        if loss_function is not None and not isinstance(loss_function, nn.Module):
            raise TypeError(
                f"loss_function must be a loss, a torch module, or None, but is {loss_function!r}; give the loss."
            )
        self.loss_function, self.name = loss_function, name
        self._logged_weights: dict[str, float] = {}
        self._checked_starts: list[list[int]] = []  # of each schedule, when its reach was checked last

    def attach(self, engine: Engine) -> None:
        """Follow an engine's epochs.

        Args:
            engine: a MONAI trainer or a bare Ignite engine.
        """
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)

    def started(self, engine: Engine) -> None:
        """Give the loss the length of the training, and warn of objectives beyond it."""
        self._logged_weights = {}
        epochs = _epochs_of(engine)
        for loss in self._schedules(engine):
            if epochs is not None and (engine.state.epoch == 0 or not loss.is_known):
                loss.set_length(epochs)  # a resumed training keeps the epochs of its state
            elif not loss.is_known:
                raise ValueError(
                    f"{type(loss).__name__} switches after a fraction of the training, but how many epochs it has is not "
                    "known; run it with max_epochs, give it epoch_length, or give the loss an epoch in place of the fraction."
                )
        self._warn_of_unreached(engine)

    def epoch_started(self, engine: Engine) -> None:
        """Give the loss the number of completed epochs; Ignite's number includes the current one."""
        schedules = self._schedules(engine)
        if [loss.starts for loss in schedules] != self._checked_starts:  # a state was loaded since the start
            self._warn_of_unreached(engine)
        weights: dict[str, float] = {}
        for loss in schedules:
            loss.set_epoch(engine.state.epoch - 1)
            weights |= loss.weights_at(loss.epoch)
        engine.state.metrics.update({f"{self.name}/{name}": weight for name, weight in weights.items()})
        if weights != self._logged_weights and _is_first_rank():
            active = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items() if weight > 0)
            logger.info("Epoch %d trains %s.", engine.state.epoch, active)
        self._logged_weights = weights

    def _schedules(self, engine: Engine) -> list[ScheduledLoss]:
        # MONAI's trainers get their loss after their handlers, so it is read when needed.
        loss = getattr(engine, "loss_function", None) if self.loss_function is None else self.loss_function
        if loss is None:
            raise ValueError(
                f"loss_function must be given to ObjectiveSchedule where the engine has none, but {type(engine).__name__} has "
                "none; write ObjectiveSchedule(loss)."
            )
        modules = loss.modules() if isinstance(loss, nn.Module) else []
        return [module for module in modules if isinstance(module, ScheduledLoss)]

    def _warn_of_unreached(self, engine: Engine) -> None:
        epochs = _epochs_of(engine)
        schedules = self._schedules(engine)
        self._checked_starts = [list(loss.starts) for loss in schedules]
        if epochs is not None:
            for loss in schedules:
                _warn_of_unreached(loss, epochs)


def _is_first_rank() -> bool:
    # Not ignite.distributed: its first question is a collective, in which a rank without this handler is missing.
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _warn_of_unreached(loss: ScheduledLoss, epochs: int) -> None:
    beyond = [f"{name} ({start})" for start, name in zip(loss.starts, loss.names, strict=True) if start >= epochs]
    if beyond:
        warnings.warn(
            f"{type(loss).__name__} does not reach {', '.join(beyond)}, because the training ends after epoch {epochs}; "
            "train longer, or begin earlier.",
            stacklevel=2,
        )
    elif loss.starts[-1] > 0 and loss.starts[-1] + loss.ramp >= epochs:
        warnings.warn(
            f"{type(loss).__name__} does not complete its ramp to {loss.names[-1]}, epochs {loss.starts[-1]} to "
            f"{loss.starts[-1] + loss.ramp}, because the training ends after epoch {epochs}; train longer, or shorten "
            "the ramp.",
            stacklevel=2,
        )


def _epochs_of(engine: Engine) -> int | None:
    """The number of epochs of the training, a last incomplete one included; None if unknown."""
    state = engine.state
    epochs: int | None = state.max_epochs
    iterations: int | None = state.max_iters
    length: int | None = state.epoch_length
    if epochs is None and iterations is not None and length is not None:
        return math.ceil(iterations / length)
    return epochs
