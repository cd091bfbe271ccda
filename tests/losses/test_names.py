"""One table of names: every objective by name, any two of them as a schedule, and a new one by one class and one row."""

import copy
import inspect
import io
import pickle
import subprocess
import sys
from itertools import permutations

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss, TverskyLoss
from torch.nn.modules.loss import _Loss

from monai_surrogates.losses import (
    LovaszSoftmaxLoss,
    PlainCELoss,
    ScheduledLoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SurrogateCELoss,
    loss_class,
    make_loss,
)
from monai_surrogates.losses.arguments import ARGUMENTS, POSITIONS
from monai_surrogates.losses.names import LOSSES, objective_names
from monai_surrogates.losses.overlap import OverlapLoss
from tests import test_contract, test_readme
from tests.losses.arguments import SOFTMAX
from tests.losses.test_against_monai import random_batch

PAIRS = [*permutations(LOSSES, 2)]
OF_CLASSES = [name for name in LOSSES if name != "lovasz_hinge"]


def test_every_row_of_the_table_is_a_loss_class_of_its_own():
    classes = {loss_class(name) for name in LOSSES}
    assert len(classes) == len(LOSSES)
    assert all(issubclass(cls, _Loss) for cls in classes)
    assert objective_names() == [*LOSSES, *(f"{first}_to_{second}" for first, second in PAIRS)]


def test_any_two_objectives_are_a_schedule_with_a_class_of_its_own():
    classes = [loss_class(f"{first}_to_{second}") for first, second in PAIRS]
    assert len({cls.__name__ for cls in classes}) == len(classes)
    assert [(cls.first, cls.second) for cls in classes] == PAIRS
    assert all(loss_class(f"{first}_to_{second}") is cls for (first, second), cls in zip(PAIRS, classes, strict=True))


@pytest.mark.parametrize(("first", "second"), [p for p in PAIRS if {*p} <= {*OF_CLASSES}][::7])
def test_a_schedule_by_name_is_its_two_objectives(first, second):
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    loss = make_loss(f"{first}_to_{second}", **SOFTMAX, switch_epoch=2, class_counts=[7, 2, 1])
    for epoch, name in ((1, first), (2, second)):
        loss.set_epoch(epoch)
        assert torch.equal(loss(x, y), make_loss(name, **SOFTMAX, class_counts=[7, 2, 1])(x, y))


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_scheduled_loss_takes_every_name(name):
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    loss = ScheduledLoss({0: "lovasz_softmax", 1: name}, **SOFTMAX, class_counts=[7, 2, 1])
    loss.set_epoch(1)
    assert torch.equal(loss(x, y), make_loss(name, **SOFTMAX, class_counts=[7, 2, 1])(x, y))


def test_each_objective_of_a_schedule_reads_its_arguments():
    own = {"lambda_ce": 0.5, "alpha": 0.3, "beta": 0.7, "weight": [2.0, 3.0], "classes": [1, 2], "bins": 64}
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    objectives = {0: "cross_entropy", 1: "soft_tversky_ce", 2: "lovasz_softmax", 3: "soft_dice_ce"}
    loss = ScheduledLoss(objectives, **SOFTMAX, **own)
    of_tversky = {name: value for name, value in own.items() if name != "bins"}
    loss.set_epoch(1)
    assert torch.equal(loss(x, y), make_loss("soft_tversky_ce", **SOFTMAX, **of_tversky)(x, y))
    loss.set_epoch(0)
    assert torch.equal(loss(x, y), PlainCELoss(**SOFTMAX, weight=[1.0, 2.0, 3.0])(x, y))
    assert loss.parts["lovasz_softmax"].bins == 64


def test_weights_of_a_compound_s_foreground_reach_the_cross_entropy_beside_it():
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    loss = ScheduledLoss({0: "cross_entropy", 1: "soft_dice_ce"}, **SOFTMAX, classes=[1, 2], weight=[2.0, 3.0])
    assert torch.equal(loss(x, y), PlainCELoss(**SOFTMAX, weight=[1.0, 2.0, 3.0])(x, y))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "soft_dise_ce",
            r"objective must be one of cross_entropy, .*, or two of them as A_to_B, .*mean 'soft_dice_ce'\?",
        ),
        ("cross_entropy_to_soft_dise", r"Did you mean 'cross_entropy_to_soft_dice'\?"),
        (
            "soft_dice_ce_to_soft_dice_ce",
            "'soft_dice_ce_to_soft_dice_ce' stays at soft_dice_ce; name soft_dice_ce alone",
        ),
        ("soft_dice_to_soft_jaccard_to_lovasz_softmax", "or two of them as A_to_B, but is 'soft_dice_to_soft_j"),
        ("", "or two of them as A_to_B, but is ''"),
    ],
)
def test_a_wrong_name_is_one_sentence(name, match):
    with pytest.raises(ValueError, match=match):
        loss_class(name)


def test_a_schedule_inside_a_schedule_is_refused():
    with pytest.raises(ValueError, match="must be a single objective, but is 'soft_dice_to_soft_jaccard'; give each"):
        ScheduledLoss({0: "cross_entropy", 5: "soft_dice_to_soft_jaccard"}, **SOFTMAX)


@pytest.mark.parametrize(
    "objectives",
    [
        {0: "cross_entropy", 1: "lovasz_softmax"},
        {0: "soft_dice_ce", 1: "soft_dice"},
        {0: "lovasz_hinge", 1: "soft_dice"},
    ],
    ids=str,
)
def test_logits_and_probabilities_need_an_activation(objectives):
    with pytest.raises(ValueError, match=f"where {objectives[0]} reads logits and {objectives[1]} probabilities"):
        ScheduledLoss(objectives, to_onehot_y=True)


# Pickling


def a_schedule():
    loss = make_loss("weighted_cross_entropy_to_soft_dice_ce", **SOFTMAX, ramp=3, class_counts=[7, 2, 1])
    loss.set_length(20)
    loss.set_epoch(11)
    return loss


def saved(loss):
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("twin", [lambda loss: pickle.loads(pickle.dumps(loss)), copy.deepcopy, saved])
def test_a_schedule_by_name_is_copied(twin):
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    loss = a_schedule()
    found = twin(loss)
    assert type(found) is type(loss)
    assert torch.equal(found(x, y), loss(x, y))


@pytest.mark.slow
def test_a_schedule_by_name_is_read_by_another_process(tmp_path):
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    loss, file = a_schedule(), tmp_path / "loss.pt"
    torch.save({"loss": loss, "batch": (x, y)}, file)
    code = (
        f"import torch; found = torch.load({str(file)!r}, weights_only=False); "
        "print(type(found['loss']).__name__, found['loss'](*found['batch']).item())"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, value = done.stdout.split()
    assert name == "WeightedCrossEntropyToSoftDiceCELoss"
    assert float(value) == loss(x, y).item()


# A new surrogate: one class and one row


class SoftSensitiveDiceLoss(OverlapLoss):
    """1 − I/(I + ¼(Σp − I) + ¾(Σy − I)): a miss costs three times what a false alarm does."""

    alpha, beta = 0.25, 0.75


def test_a_surrogate_is_added_by_one_class_and_one_row(monkeypatch):
    monkeypatch.setitem(LOSSES, "soft_sensitive_dice", f"{__name__}.SoftSensitiveDiceLoss")
    assert loss_class("soft_sensitive_dice") is SoftSensitiveDiceLoss
    for loss in (make_loss("cross_entropy_to_soft_sensitive_dice", **SOFTMAX), SurrogateCELoss("soft_sensitive_dice")):
        assert [type(part) for part in loss.modules()].count(SoftSensitiveDiceLoss) == 1
    for name, case in test_contract.named_losses().items():
        monkeypatch.setitem(test_contract.LOSSES, name, case)
        monkeypatch.setitem(test_contract.SEVERAL_CLASSES, name, case)
    test_contract.test_zero_at_a_perfect_prediction("SoftSensitiveDice")
    test_contract.test_pickle_deepcopy_and_state_dict("SoftSensitiveDice")
    test_contract.test_a_foreign_argument_warns_once_with_its_name("SoftSensitiveDice")
    assert test_readme.differing_losses() == {"soft_sensitive_dice"}  # until its row is written


# What losses declare


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_reads_its_declared_arguments_and_no_others(name):
    cls = loss_class(name)
    flags = {"sigmoid": True} if name == "lovasz_hinge" else {"softmax": True}
    flags |= {"class_counts": [7, 2, 1]} if name == "weighted_cross_entropy" else {}
    for argument, (default, *_) in ARGUMENTS.items():
        if argument in cls.reads({argument: default}):
            cls(**{argument: default, **flags})
        else:
            something = {"include_background": False}.get(argument, object())
            with pytest.warns(UserWarning, match=f"has no use for {argument}: not used"):
                cls(**{**flags, argument: something})


@pytest.mark.parametrize("theirs", [DiceLoss, DiceCELoss, TverskyLoss])
def test_the_table_of_arguments_holds_monai_s_with_their_defaults_and_order(theirs):
    parameters = inspect.signature(theirs).parameters
    for name, parameter in parameters.items():
        assert ARGUMENTS[name][0] == getattr(parameter.default, "value", parameter.default)
    assert tuple(parameters)[: len(POSITIONS)] == POSITIONS


# Positions


@pytest.mark.parametrize("cls", [loss_class(name) for name in LOSSES])
def test_the_first_five_positions_are_those_of_monai_s_dice_loss(cls):
    positions = (False, True, True, False, None)
    weight = cls.reads({"weight": [2.0, 3.0]})  # all losses but one
    by_name = cls(include_background=False, to_onehot_y=True, sigmoid=True, **weight)
    assert repr(cls(*positions, **weight)) == repr(by_name)
    with pytest.raises(TypeError, match=rf"^{cls.__name__} takes include_background, .*, but got 6 values; give what"):
        cls(*positions, True)
    with pytest.raises(TypeError, match=f"^{cls.__name__} got sigmoid both by position and by name; give it once"):
        cls(*positions, sigmoid=True)


def test_positions_of_monai_s_losses_give_its_values():
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    assert torch.equal(
        SoftDiceLoss(False, True, False, True)(x, y), SoftDiceLoss(**SOFTMAX, include_background=False)(x, y)
    )
    compound = SurrogateCELoss("soft_dice", False, True, False, True)
    assert torch.equal(compound(x, y), SoftDiceCELoss(**SOFTMAX, include_background=False)(x, y))
    schedule = loss_class("cross_entropy_to_soft_dice")(True, True, False, True)
    assert torch.equal(schedule(x, y), PlainCELoss(**SOFTMAX)(x, y))


# Settings in the repr


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("soft_dice", {}, "SoftDiceLoss()"),
        ("soft_dice", {"softmax": True, "smooth_nr": 0}, "SoftDiceLoss(softmax=True, smooth_nr=0.0)"),
        ("soft_jaccard", {"weight": torch.tensor([1, 2 / 3])}, "SoftJaccardLoss(weight=[1.0, 0.6667])"),
        ("soft_tversky", {"weight": 2, "alpha": 0.3, "beta": 0.5}, "SoftTverskyLoss(weight=2.0, alpha=0.3)"),
        ("lovasz_softmax", {"classes": "present", "bins": 64}, "LovaszSoftmaxLoss(bins=64)"),
        ("lovasz_softmax", {"classes": "all"}, "LovaszSoftmaxLoss(classes='all')"),
        (
            "lovasz_hinge",
            {"classes": range(2, 4), "ignore_index": 255},
            "LovaszHingeLoss(ignore_index=255, classes=[2, 3])",
        ),
        ("cross_entropy", {"per_image": True, "reduction": "sum"}, "PlainCELoss(reduction='sum', per_image=True)"),
        ("weighted_cross_entropy", {"class_counts": [90, 10]}, "WeightedCELoss(weight=[0.5556, 5.0])"),
        ("soft_dice", {"other_act": torch.tanh}, "SoftDiceLoss(other_act=tanh)"),
        ("soft_dice", {"weight": [1.0] * 105}, f"SoftDiceLoss(weight=[{'1.0, ' * 8}...])"),
        (
            "soft_dice",
            {"smoothing": "structure_volume", "structure_volumes": [90, 12.34567]},
            "SoftDiceLoss(structure_volumes=[90.0, 12.35], smoothing='structure_volume')",
        ),
    ],
)
def test_the_repr_shows_settings_other_than_the_defaults_in_one_line(name, arguments, shown):
    assert repr(make_loss(name, **arguments)) == shown


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if not name.endswith("_ce") and name != "weighted_cross_entropy"]
)
def test_the_repr_of_a_loss_at_its_defaults_is_its_class(name):
    assert repr(make_loss(name)) == f"{loss_class(name).__name__}()"


def test_the_repr_of_a_compound_shows_its_weights_and_its_parts():
    assert repr(SoftDiceCELoss(softmax=True, lambda_ce=0.5)).splitlines() == [
        "SoftDiceCELoss(",
        "  lambda_ce=0.5",
        "  (surrogate): SoftDiceLoss(softmax=True)",
        "  (cross_entropy): PlainCELoss()",
        ")",
    ]
    assert (
        repr(LovaszSoftmaxLoss(softmax=True, to_onehot_y=True)) == "LovaszSoftmaxLoss(to_onehot_y=True, softmax=True)"
    )
