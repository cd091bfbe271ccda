"""The arguments of all losses: meaning, defaults, checks, and the warning of arguments without a use."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from monai_surrogates._messages import unknown_argument, warn_user
from monai_surrogates.core import inputs

Weight = Sequence[float] | float | Tensor | None
Classes = Literal["all", "present"] | Sequence[int]

_SHORT = reprlib.Repr()
_SHORT.maxlist = 8

# Every argument of a loss: its default, then further harmless values, which ask for nothing. A config that changes the target
# alone may hold any of them; a warning names those that the loss does not read.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    # of MONAI's DiceLoss, DiceCELoss and TverskyLoss
    "include_background": (True,),
    "to_onehot_y": (False,),
    "sigmoid": (False,),
    "softmax": (False,),
    "other_act": (None,),
    "squared_pred": (False,),
    "jaccard": (False,),
    "reduction": ("mean",),
    "smooth_nr": (1e-5, 0),
    "smooth_dr": (1e-5, 0),
    "batch": (False,),
    "weight": (None,),
    "soft_label": (False,),
    "alpha": (0.5,),
    "beta": (0.5,),
    "label_smoothing": (0,),
    "lambda_dice": (1,),
    "lambda_ce": (1, 0),
    # of MONAI's focal and generalized losses; gamma 0 is plain cross-entropy
    "gamma": (2.0, 0, 0.5, 0.75),
    "w_type": ("square",),
    "lambda_focal": (1, 0),
    "lambda_gdl": (1,),
    "dist_matrix": (None,),
    "weighting_mode": ("default",),
    "delta": (0.7,),
    "epsilon": (1e-7,),
    "num_classes": (2,),
    # of its NACLLoss and its clDice losses
    "dim": (None, 2, 3),
    "kernel_size": (3,),
    "kernel_ops": ("mean",),
    "distance_type": ("l1",),
    "sigma": (1.0,),
    "iter_": (3,),
    # of the losses here
    "ignore_index": (None,),
    "check_labels": (False,),
    "sync": (False,),
    "smoothing": (None,),
    "lambda_surrogate": (1,),
    "classes": ("all",),
    "two_class": (False,),
    "per_image": (False,),
    "method": ("auto",),
    "bins": (None, 4096),
    "k": (10,),
    "ramp": (0,),
    "switch_epoch": (None,),
    # context: accepted by every loss, read by few
    "class_counts": (None,),
    "class_weighting": (None,),
    "structure_volumes": (None,),
}
ASKING = frozenset({"lambda_ce"})  # the default asks for a cross-entropy, which a surrogate alone does not have
CONTEXT = frozenset({"class_counts", "class_weighting", "structure_volumes"})
POSITIONS = ("include_background", "to_onehot_y", "sigmoid", "softmax", "other_act")  # of MONAI's DiceLoss
ACTIVATIONS = ("softmax", "sigmoid", "other_act")
# Arguments of MONAI's losses that apply an activation of their own, and so read logits, beside those of losses that do not
OF_LOGITS = frozenset({"gamma", "lambda_focal", "lambda_gdl", "dist_matrix", "weighting_mode", "dim"})
OF_PROBABILITIES = frozenset({"delta", "epsilon", "num_classes"})  # with a gamma of their own
# Where one of these stands, alpha is no weight of false positives, but of classes or of the loss's second part
OF_ANOTHER_LOSS = {
    "classes": "dim",
    "smooth": "iter_",
}  # NACLLoss's number of classes and SoftclDiceLoss's constant, beside it
OF_ANOTHER_ALPHA = frozenset({"gamma", "lambda_focal", "dim", "iter_"})


class CommonArguments(TypedDict, total=False):
    """Arguments with the same meaning in every loss; those of MONAI have MONAI's names and meaning.

    Attributes:
        to_onehot_y: the target is a label map (B, 1, spatial...), read as its nearest whole numbers; otherwise it holds one
            channel per class.
        sigmoid: apply a sigmoid: every channel is a structure of its own.
        softmax: apply a softmax over the channels: every voxel belongs to one class.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        ignore_index: voxels with this label are removed: the result is that of the volume without them. In a target with one
            channel per class it is the class of the removed voxels. A label beyond the classes removes its own voxels and,
            unless ``sigmoid=True`` (structures may be absent), those of no class, as in MONAI.
        check_labels: check the values of labels and probabilities at every call, also on a GPU, and refuse fractions of labels,
            which are otherwise rounded with one warning.
        sync: the batch is that of all ranks of the process group: gradients under DistributedDataParallel equal those of one
            process on the whole batch. Losses per class need ``batch=True`` with it. Without gradients nothing is sent: in
            validation the loss is that of the rank's own batch.
    """

    to_onehot_y: bool
    sigmoid: bool
    softmax: bool
    reduction: str
    ignore_index: int | None
    check_labels: bool
    sync: bool


class SharedArguments(CommonArguments, total=False):
    """Arguments that every loss takes.

    Attributes:
        weight: one value, C values, or C − 1 when the background is excluded, by ``include_background=False`` or a list of
            classes without 0 (C values then drop entry 0). They are the weights of classes against each other: as in MONAI, a
            single class is not weighted.
        class_counts: voxels per class in the training data; read by WeightedCELoss alone, accepted by all.
        class_weighting: name of the rule that makes weights from class_counts; read by WeightedCELoss alone, accepted by all.
        structure_volumes: mean volume of each class in voxels over the training images that hold it, C values with the
            background first; read by the overlap losses with ``smoothing="structure_volume"``, accepted by all.
    """

    weight: Weight
    class_counts: Sequence[int] | Tensor | None
    class_weighting: str | None
    structure_volumes: Sequence[float] | Tensor | None


class PerClassArguments(SharedArguments, total=False):
    """Arguments of the losses per image and class.

    Attributes:
        include_background: False leaves channel 0 out of the mean.
        other_act: an activation other than sigmoid and softmax.
        batch: one loss per class for the whole batch instead of one per item.
        classes: ``"all"``, ``"present"`` (the mean over an item's classes that its reference holds, then over items, of
            which one without any counts as 0), or a list of class ids.
        two_class: read a single channel as two classes: inverted prediction and reference are the background. Several
            channels are a ValueError.
    """

    include_background: bool
    other_act: Callable[[Tensor], Tensor] | None
    batch: bool
    classes: Classes
    two_class: bool


def check_weight(weight: Weight) -> Tensor | None:
    """The class weights as a new tensor; a TypeError if they are no numbers, a ValueError if negative or not finite."""
    if weight is None:
        return None
    if isinstance(weight, str):
        raise ValueError(f"weight must be numbers here, but is {weight!r}; weights by name are WeightedCELoss's.")
    dtype = weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else torch.float64
    try:
        values = inputs.plain_tensor(torch.as_tensor(weight, dtype=dtype)).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"weight must be one number or one per class, but is {weight!r}.") from error
    if values.ndim > 1 or not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ValueError(
            f"weight must be one value or one per class, finite and none below 0, but is {values.tolist()}."
        )
    return values


def check_classes(classes: Classes, include_background: bool) -> Literal["all", "present"] | list[int]:
    """``"all"``, ``"present"`` or the class ids; a ValueError for an empty list, wrong ids, or an excluded background."""
    if isinstance(classes, str):
        if classes not in ("all", "present"):
            raise ValueError(f'classes must be "all", "present" or a list of class ids, but is {classes!r}.')
        return classes
    try:
        ids = [operator.index(c) for c in classes]
    except TypeError as error:
        raise ValueError(f'classes must be "all", "present" or a list of class ids, but is {classes!r}.') from error
    if not ids or min(ids) < 0 or len(set(ids)) < len(ids):
        raise ValueError(f"classes must be different ids from 0 on, but are {ids}.")
    if 0 in ids and not include_background:
        raise ValueError("classes holds 0, but include_background=False excludes it; drop one of the two.")
    return ids


def fit_weight(weight: Tensor, num_channels: int, excludes_background: bool) -> Tensor:
    """One class weight, or C of them; C − 1 foreground weights get a 1 for the background in front."""
    if weight.ndim == 0 or len(weight) == num_channels:
        return weight
    if len(weight) == num_channels - 1 and excludes_background:
        return torch.cat([weight.new_ones(1), weight])
    if num_channels == 1:
        raise ValueError(
            f"weight must have 1 value for a single channel, but has {len(weight)} values; give one number."
        )
    raise ValueError(
        f"weight must have {num_channels} values, one per class ({num_channels - 1} with the background excluded), "
        f"but has {len(weight)}; give as many as the network has channels, or one number for all."
    )


def named_flags(loss: str, flags: Sequence[Any], named: Mapping[str, Any], own: Sequence[str] = ()) -> dict[str, Any]:
    """All arguments by name; the first five may be given by position, as in MONAI's DiceLoss.

    ``use_softmax``, of MONAI's FocalLoss, becomes ``softmax`` or ``sigmoid``, unless an activation is given; the arguments
    of :data:`OF_ANOTHER_LOSS` are left out.

    Args:
        loss: class of the loss, for messages.
        flags: values by position.
        named: arguments by name.
        own: arguments of the loss alone, which a misspelt name may mean.

    Raises:
        TypeError: more than five values by position, an argument both by position and by name, or an unknown one.
    """
    if len(flags) > len(POSITIONS):
        raise TypeError(
            f"{loss} takes {', '.join(POSITIONS)} by position, as MONAI's DiceLoss does, but got {len(flags)} values; give "
            "what follows by name."
        )
    by_position = dict(zip(POSITIONS, flags, strict=False))
    twice = [name for name in by_position if name in named]
    if twice:
        raise TypeError(f"{loss} got {', '.join(twice)} both by position and by name; give it once.")
    given = {**by_position, **named}
    use_softmax = given.pop("use_softmax", None)
    if use_softmax is not None and not has_activation(given):
        given["softmax" if use_softmax else "sigmoid"] = True
    for argument in [name for name, beside in OF_ANOTHER_LOSS.items() if beside in given]:
        given.pop(argument, None)
    check_known(loss, given, own)
    return given


def has_activation(given: Mapping[str, Any]) -> bool:
    """Whether one of the arguments sets an activation."""
    return any(given.get(flag) for flag in ACTIVATIONS)


def check_activation(loss: str, given: Mapping[str, Any]) -> None:
    """Refuse the block of a loss that applies an activation of its own, for a loss on probabilities.

    Raises:
        ValueError: an argument of such a loss, and no activation; the message has the override to add.
    """
    telling = sorted(OF_LOGITS & given.keys())
    if telling and not (OF_PROBABILITIES & given.keys()) and not has_activation(given):
        raise ValueError(
            f"{loss} takes probabilities unless an activation is set, but {', '.join(telling)} belongs to a loss that applies "
            "one to logits; set softmax=True (in a bundle add --loss#softmax True), or sigmoid=True (--loss#sigmoid True) for "
            "one channel or structures that overlap."
        )


def is_default(value: Any, default: Any) -> bool:
    """Whether a value is None or the default."""
    return value is None or (isinstance(value, Number | str) and value == default)


def settings(loss: object, names: Iterable[str], **defaults: Any) -> str:
    """The settings of a loss that differ from the defaults, as Python arguments.

    Args:
        loss: each setting is an attribute of the same name; ``weight`` is ``class_weight``.
        names: keys of :data:`ARGUMENTS`.
        **defaults: in place of the table's.
    """
    found = {name: getattr(loss, "class_weight" if name == "weight" else name, None) for name in names}
    return ", ".join(
        f"{name}={_readable(value)}"
        for name, value in found.items()
        if not is_default(value, defaults.get(name, ARGUMENTS[name][0]))
    )


def _readable(value: Any) -> str:
    if isinstance(value, Tensor):  # one value, or one per class
        rounded = [float(f"{number:.4g}") for number in value.flatten().tolist()]
        value = rounded if value.ndim else rounded[0]
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return _SHORT.repr(value)


def check_known(loss: str, names: Iterable[str], own: Sequence[str] = ()) -> None:
    """Refuse arguments that nobody knows.

    Args:
        loss: class of the loss.
        names: the arguments.
        own: arguments of the loss alone, which a misspelt name may mean.

    Raises:
        TypeError: an unknown argument; the message suggests the nearest.
    """
    for name in sorted(names):
        if name not in ARGUMENTS:
            raise unknown_argument(loss, name, [*own, *ARGUMENTS])


def warn_of_foreign(loss: str, arguments: Mapping[str, Any]) -> None:
    """Warn once of the arguments that a loss does not read, unless their values are harmless.

    Raises:
        TypeError: an unknown argument; the message suggests the nearest.
    """
    check_known(loss, arguments)
    foreign = sorted(name for name, value in arguments.items() if not _is_harmless(name, value))
    if foreign:
        warn_user(f"{loss} has no use for {', '.join(foreign)}: not used.")


def _is_harmless(name: str, value: Any) -> bool:
    default, *others = ARGUMENTS[name]
    harmless = others if name in ASKING else [default, *others]
    return name in CONTEXT or any(is_default(value, known) for known in harmless)
