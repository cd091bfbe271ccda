"""Objectives by epoch: one loss first, another later."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from monai_surrogates._messages import warn_user
from monai_surrogates.core.distributed import is_shared
from monai_surrogates.losses.arguments import check_activation, has_activation, named_flags, warn_of_foreign
from monai_surrogates.losses.base import SurrogateLoss, warn_as_one
from monai_surrogates.losses.compound import SurrogateCELoss
from monai_surrogates.losses.cross_entropy import PlainCELoss
from monai_surrogates.losses.names import LOSSES, named_class

Objective = str | nn.Module


class ScheduledLoss(_Loss):
    """One objective first, another later: (1 − w)·previous + w·next, w = min(1, (e − k + 1)/(ramp + 1)) from epoch k on.

    e is the number of completed epochs and k the key of the next objective: it begins after k epochs. Ignite counts from 1: the
    objective of key 50 begins in Ignite's epoch 51. ``ramp=0`` switches at once. ``ramp=5`` mixes the two objectives for five
    epochs, w = 1/6 ... 5/6, and from k + 5 on w = 1. An objective of weight 0 is not computed.

    :class:`~monai_surrogates.handlers.ObjectiveSchedule` sets the epoch in an Ignite or MONAI engine; a loop of your own calls
    :meth:`set_epoch` at the start of each epoch. Until then the first objective is used, with a warning in training; among
    several ranks training without an epoch is an error. In validation the loss is that of the epoch, so its values before and
    after a switch are not comparable.

    The epoch is part of ``state_dict``. All ranks of a process group are at the same epoch, so gradients under
    DistributedDataParallel are those of the objectives; ``sync=True`` is passed on to each of them.

    Args:
        objectives: start -> objective. A key is a number of epochs or a fraction of the training, strictly between 0
            and 1: 0.5 is half of it, rounded down to whole epochs and at least one (1.0 is refused: it could also mean one
            epoch). Keys may be strings, as in JSON. One key is 0. Fractions become epochs once the length of the
            training is known, by :meth:`set_length`, which ObjectiveSchedule calls; a resumed training keeps these epochs.
            An objective is a name of :func:`~monai_surrogates.losses.loss_class`, built from the shared arguments, or a loss.
        ramp: epochs of each transition.
        reduction: ``"mean"`` or ``"sum"``, of all objectives; their unreduced shapes differ.
        **shared: arguments of the named objectives, such as :class:`~monai_surrogates.losses.arguments.PerClassArguments`. Each
            objective gets those that it reads: ``smoothing`` and ``structure_volumes`` reach soft Dice and soft Jaccard,
            ``class_counts`` and ``class_weighting`` weighted cross-entropy. Cross-entropy takes all classes, whatever
            ``include_background`` is, as in :class:`~monai_surrogates.losses.SurrogateCELoss`.

    Returns:
        The module's call gives a scalar. Inputs and targets are those of the objectives, (B, C, spatial...) and
        (B, 1, spatial...) or (B, C, spatial...).

    Raises:
        TypeError: an unknown argument, or an objective that is neither a name nor a loss.
        ValueError: an unknown name, keys that are neither epochs nor fractions, equal keys, no key 0, a ramp longer than its
            objective's interval, or named objectives of logits and of probabilities without an activation.
        RuntimeError: in training among several ranks, nobody told this rank the epoch.

    References:
        Berman et al., The Lovász-Softmax loss, CVPR 2018 (arXiv 1705.08790), and Eelbode et al., Optimization for medical image
        segmentation: theory and practice when evaluating with Dice score or Jaccard index, IEEE TMI 2020 (arXiv
        2010.13499): cross-entropy first, then the surrogate of the score.

    Examples:
        >>> import torch
        >>> schedule = {0: "cross_entropy", 50: "lovasz_softmax"}
        >>> loss = ScheduledLoss(schedule, ramp=3, softmax=True, to_onehot_y=True)
        >>> loss.set_epoch(50)
        >>> loss.weights_at(50)
        {'cross_entropy': 0.75, 'lovasz_softmax': 0.25}
        >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 1, 0, 1]]]))  # 3/4·ln 2 + 1/4·1/2
        tensor(0.6449)
    """

    def __init__(
        self,
        objectives: Mapping[int | float | str, Objective] | None = None,
        *,
        ramp: int = 0,
        reduction: str = "mean",
        **shared: Any,
    ) -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum" for a schedule of losses, but is {reduction!r}.')
        super().__init__(reduction=reduction)
        shared = named_flags(type(self).__name__, (), shared, own=("objectives",))
        schedule = _sorted_by_key(objectives)
        if not _is_count(ramp):
            raise ValueError(f"ramp must be a number of epochs, whole and not below 0, but is {ramp!r}.")
        self.ramp = int(ramp)
        self._keys, self._objectives = list(schedule), _names(schedule.values())
        self._key_epochs: list[int] = []  # the first epoch of each key's objective, once known
        self.starts, self.names = self._key_epochs, self._objectives
        named = list(dict.fromkeys(entry for entry in schedule.values() if isinstance(entry, str)))
        parts: dict[str, nn.Module] = {**_build(type(self).__name__, named, reduction, shared)}
        parts |= {
            n: loss for n, loss in zip(self._objectives, schedule.values(), strict=True) if isinstance(loss, nn.Module)
        }
        _check_reductions(parts, reduction)
        self.parts = nn.ModuleDict(parts)
        warn_as_one(self.parts)
        self._has_epoch, self._checked, self._warned = False, False, False
        self._move_to(0)
        if not self._fractions:
            self._set_key_epochs([int(key) for key in self._keys])

    @property
    def epoch(self) -> int:
        """The number of completed epochs, as set last."""
        return self._epoch

    @property
    def is_known(self) -> bool:
        """Whether the first epoch of each objective is known; False for fractions of a training of unknown length."""
        return bool(self._key_epochs)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of completed epochs: 0 in the first one, engine.state.epoch − 1 in Ignite's count.

        Raises:
            ValueError: a negative epoch, or one whose objective depends on :meth:`set_length`.
        """
        self._move_to(epoch)
        self._has_epoch = True

    def set_length(self, max_epochs: int) -> None:
        """Set the number of epochs of the training: fractions become epochs, rounded down, and at least 1.

        Raises:
            ValueError: no whole number from 1 on, or too small for objectives that begin apart and for the ramp.
        """
        if not _is_count(max_epochs) or max_epochs < 1:
            raise ValueError(f"max_epochs must be a whole number from 1 on, but is {max_epochs!r}.")
        if self._fractions:
            self._set_key_epochs([_epoch_of(key, max_epochs) for key in self._keys])

    def weights_at(self, epoch: int) -> dict[str, float]:
        """The weight of every objective after ``epoch`` completed epochs; they sum to 1.

        Raises:
            ValueError: a negative epoch, or one from 1 on before the length that a fraction needs is known.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be the number of completed epochs, from 0 on, but is {epoch}.")
        if epoch > 0 and not self.is_known:
            raise ValueError(
                f"the length of the training must be known from the second epoch on, because {type(self).__name__} switches "
                f"after {self._fractions[0]:g} of it; tell it by set_length, or give an epoch in place of the fraction."
            )
        place = max(0, bisect_right(self.starts, epoch) - 1)
        share = min(1.0, (epoch - self.starts[place] + 1) / (self.ramp + 1)) if place else 1.0
        weights = dict.fromkeys(self.names, 0.0)
        weights[self.names[place]] += share
        weights[self.names[place - 1]] += 1.0 - share
        return weights

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The objective of the epoch, or in a ramp the weighted sum of two; the first batch is checked for all."""
        self._ask_for_epoch(input)
        if not (self._checked or torch.compiler.is_compiling()):
            self._check_first(input, target)
        first, *second = self._active
        loss: Tensor = self.parts[first](input, target)
        if not second:
            return loss
        share = self._share.to(loss.dtype)
        total: Tensor = share * loss + (1 - share) * self.parts[second[0]](input, target)
        return total

    def get_extra_state(self) -> Tensor:
        """The epoch and, once known, the first epoch of each key's objective."""
        return torch.tensor([self.epoch, *self._key_epochs])

    def set_extra_state(self, state: Tensor) -> None:
        """Continue from a ``state_dict``: from its epoch, with its epochs in place of fractions.

        Keys that are epochs come from the arguments, not from the state.
        """
        epoch, *saved = state.tolist()
        if self._fractions and len(saved) == len(self._keys) and min(saved) >= 0:
            epochs = [e if isinstance(key, float) else int(key) for key, e in zip(self._keys, saved, strict=True)]
            self._set_key_epochs(epochs)
        if self.is_known:
            self._move_to(epoch)

    def extra_repr(self) -> str:
        """The schedule, in epochs where they are known."""
        entries = zip(self.starts or self._keys, self.names, strict=True)
        schedule = ", ".join(f"{start}: {name}" for start, name in entries)
        return f"{{{schedule}}}" + (f", ramp={self.ramp}" if self.ramp else "")

    @property
    def _fractions(self) -> list[float]:
        return [key for key in self._keys if isinstance(key, float)]

    def _set_key_epochs(self, epochs: list[int]) -> None:
        """Set the first epoch of each key's objective, in the order of the keys."""
        order = sorted(range(len(epochs)), key=epochs.__getitem__)
        starts, names = [epochs[i] for i in order], [self._objectives[i] for i in order]
        for first, second in pairwise(order):
            if epochs[first] == epochs[second]:
                raise ValueError(
                    f"objectives must begin at different epochs, but {self._keys[first]:g} and {self._keys[second]:g} both "
                    f"mean epoch {epochs[first]}; move them apart, or train longer."
                )
        for start, end, name in zip(starts[1:], starts[2:], names[1:], strict=False):
            if self.ramp > end - start:
                raise ValueError(
                    f"ramp must not be longer than an objective holds, but is {self.ramp} where {name} has the "
                    f"{end - start} epochs from {start} to {end}; shorten it, or move the epochs apart."
                )
        self._key_epochs, self.starts, self.names = epochs, starts, names
        self._move_to(self._epoch)

    def _move_to(self, epoch: int) -> None:
        weights = {name: weight for name, weight in self.weights_at(epoch).items() if weight > 0}
        self._epoch, self._active = epoch, tuple(weights)
        # A tensor, so that a ramp needs no new compilation; on the host, where reading it costs nothing.
        self._share = torch.tensor(weights[self._active[0]], dtype=torch.float64)

    def _ask_for_epoch(self, input: Tensor | Sequence[Tensor]) -> None:
        # Validation needs no epoch; only training without set_epoch is a mistake.
        first = input if isinstance(input, Tensor) else input[0]  # deep supervision gives a list
        if self._has_epoch or len(self.names) == 1 or not (torch.is_grad_enabled() and first.requires_grad):
            return
        cure = "list monai_surrogates.handlers.ObjectiveSchedule in the trainer's handlers"
        if is_shared():
            raise RuntimeError(
                f"{type(self).__name__} must be told the epoch on each of {dist.get_world_size()} ranks, but nobody told it on "
                f"rank {dist.get_rank()}, which would stay with {' and '.join(self._active)} while the others go on; {cure} of "
                "every rank (a multi-GPU overlay may cut the end of the list), or call set_epoch in each epoch."
            )
        if not (self._warned or torch.compiler.is_compiling()):
            self._warned = True
            warn_user(
                f"{type(self).__name__} stays with {' and '.join(self._active)} as long as nobody tells it the epoch; {cure}, "
                "or call set_epoch in each epoch."
            )

    def _check_first(self, input: Tensor, target: Tensor) -> None:
        # The errors of a later objective must not wait for its epoch.
        self._checked = True
        for part in self.parts.values():
            for loss in part.children() if isinstance(part, SurrogateCELoss) else [part]:
                if isinstance(loss, SurrogateLoss):
                    loss.check(input, target)


class TwoStageLoss(ScheduledLoss):
    """Two objectives fixed by the class, so that a config can name them: ``first``, then ``second``.

    Otherwise as :class:`ScheduledLoss`.

    Args:
        *flags: MONAI's first five arguments, by position.
        switch_epoch: number of completed epochs after which the second begins, or a fraction of the training; 0.5 by default.
        ramp: epochs of the transition.
        **shared: arguments of the two objectives, under MONAI's names.

    Returns:
        As :class:`ScheduledLoss`.

    Raises:
        TypeError: an unknown argument.
        ValueError: as :class:`ScheduledLoss`.

    Examples:
        >>> loss = CrossEntropyToSoftDiceLoss(softmax=True, to_onehot_y=True)
        >>> loss.set_length(100)
        >>> loss.weights_at(50)
        {'cross_entropy': 0.0, 'soft_dice': 1.0}
    """

    first: ClassVar[str] = "cross_entropy"
    second: ClassVar[str]

    def __init__(self, *flags: Any, switch_epoch: float | str | None = None, ramp: int = 0, **shared: Any) -> None:
        start = 0.5 if switch_epoch is None else _as_key(switch_epoch, "switch_epoch")
        if start == 0:
            raise ValueError(f"switch_epoch must be at least 1, but is 0; {self.second} is an objective of its own.")
        shared = named_flags(type(self).__name__, flags, shared)
        super().__init__({0: self.first, start: self.second}, ramp=ramp, **shared)


class CrossEntropyToSoftDiceLoss(TwoStageLoss):
    """Cross-entropy first, then soft Dice; arguments as in :class:`TwoStageLoss`."""

    second = "soft_dice"


class CrossEntropyToSoftJaccardLoss(TwoStageLoss):
    """Cross-entropy first, then soft Jaccard; arguments as in :class:`TwoStageLoss`."""

    second = "soft_jaccard"


class CrossEntropyToLovaszSoftmaxLoss(TwoStageLoss):
    """Cross-entropy first, then Lovász-softmax; arguments as in :class:`TwoStageLoss`."""

    second = "lovasz_softmax"


def _as_key(value: Any, argument: str = "a key of objectives") -> int | float:
    """A number of epochs, or a fraction of the training."""
    key = value
    if isinstance(value, str):  # JSON has no other keys
        try:
            key = int(value) if value.isascii() and value.isdigit() else float(value)
        except ValueError:
            key = None
    if _is_count(key):
        return int(key)
    if isinstance(key, Real) and 0 < float(key) < 1:
        return float(key)
    raise ValueError(
        f"{argument} must be an epoch, a whole number from 0 on, or a fraction of the training, above 0 and below 1, but is "
        f"{value!r}; count the completed epochs after which the objective begins, or write 0.5 for half of the training."
    )


def _epoch_of(key: int | float, max_epochs: int) -> int:
    """⌊f·E⌋ of a fraction f of E epochs, at least 1; 0.29·100 is 28.999999999999996 in floating point and means 29."""
    return max(1, math.floor(round(key * max_epochs, 9))) if isinstance(key, float) else key


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _sorted_by_key(objectives: Any) -> dict[int | float, Objective]:
    """Epochs first, then fractions, each in rising order."""
    if not isinstance(objectives, Mapping) or not objectives:
        raise TypeError(
            'objectives must map epochs to objectives, such as {0: "cross_entropy", 50: "lovasz_softmax"}, '
            f"but is {objectives!r}."
        )
    by_key = sorted(
        ((_as_key(key), objective) for key, objective in objectives.items()),
        key=lambda entry: (isinstance(entry[0], float), entry[0]),
    )
    keys = [key for key, _ in by_key]
    for key, following in pairwise(keys):
        if key == following:
            raise ValueError(f"objectives must name each epoch once, but hold {key} twice; drop one of the two.")
    if keys[0] != 0:
        raise ValueError(f"objectives must say what holds from epoch 0 on, but begin at {keys[0]}; add a key 0.")
    return dict(by_key)


def _names(objectives: Any) -> list[str]:
    """A name for each objective; a loss has the name of its class, with a number if several losses share it."""
    names: dict[str, int] = {}  # name to the identity of its loss
    found = []
    for objective in objectives:
        if isinstance(objective, str):
            named_class("objective", objective)
            found.append(objective)
            continue
        if not isinstance(objective, nn.Module):
            raise TypeError(
                f"an objective must be one of {', '.join(LOSSES)}, or a loss (a torch module), but is {objective!r}."
            )
        stem, number = type(objective).__name__, 1
        name = stem
        while names.setdefault(name, id(objective)) != id(objective):
            number += 1
            name = f"{stem}_{number}"
        found.append(name)
    return found


def _build(schedule: str, names: list[str], reduction: str, shared: dict[str, Any]) -> dict[str, nn.Module]:
    """The losses of these names, each from the shared arguments that it reads."""
    classes = {name: named_class("objective", name) for name in names}
    used = {name: cls.reads(shared) for name, cls in classes.items()}
    of_logits = [name for name in names if classes[name].takes_logits]
    of_probabilities = [name for name in names if not classes[name].takes_logits]
    if of_probabilities:
        check_activation(schedule, shared)
    read = set().union(*used.values())
    warn_of_foreign(schedule, {name: value for name, value in shared.items() if name not in read})
    if of_logits and of_probabilities and not has_activation(shared):
        raise ValueError(
            f"softmax or sigmoid must be set in a schedule where {of_logits[0]} reads logits and {of_probabilities[0]} "
            "probabilities, but neither is; set softmax=True, or sigmoid=True for one channel or structures that overlap."
        )
    cross_entropies = [name for name in names if issubclass(classes[name], PlainCELoss)]
    losses = {n: classes[n](reduction=reduction, **used[n]) for n in names if n not in cross_entropies}
    excluded = any(loss.excludes_background() for loss in losses.values())
    for name in cross_entropies:  # C − 1 weights are those of the foreground
        background = {"include_background": False} if excluded and shared.get("weight") is not None else {}
        losses[name] = classes[name](reduction=reduction, **{**used[name], **background})
    return losses


def _check_reductions(parts: dict[str, nn.Module], reduction: str) -> None:
    for name, part in parts.items():
        found = getattr(part, "reduction", reduction)
        if str(getattr(found, "value", found)) != reduction:
            raise ValueError(
                f"reduction must be the same for all objectives of a schedule, {reduction!r}, but that of {name} is "
                f"{found!r}; give both the same."
            )
