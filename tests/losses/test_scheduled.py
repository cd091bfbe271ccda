"""A schedule is its objectives, one after the other: weights by hand, values from the objectives alone."""

import copy
import io
import pickle
import warnings

import monai
import numpy as np
import pytest
import torch
from torch import nn

from monai_surrogates.losses import (
    OBJECTIVES,
    SCHEDULES,
    CrossEntropyToLovaszSoftmaxLoss,
    CrossEntropyToSoftDiceLoss,
    LovaszSoftmaxLoss,
    PlainCELoss,
    ScheduledLoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    WeightedCELoss,
    check_channels,
    loss_class,
    make_loss,
)

FLAGS = {"softmax": True, "to_onehot_y": True}
CE_LOVASZ = {0: "cross_entropy", 50: "lovasz_softmax"}


def batch(channels=3, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, 4, 5, generator=generator, dtype=torch.float64, requires_grad=requires_grad)
    return x, torch.randint(0, channels, (2, 1, 4, 5), generator=generator)


def value_at(loss, epoch, x, y):
    loss.set_epoch(epoch)
    return loss(x, y)


# Epochs and weights


def test_a_key_counts_completed_epochs():
    x, y = batch()
    loss = ScheduledLoss(CE_LOVASZ, **FLAGS)
    before, after = PlainCELoss(**FLAGS)(x, y), LovaszSoftmaxLoss(**FLAGS)(x, y)
    for epoch, expected in ((0, before), (49, before), (50, after), (51, after), (1000, after), (3, before)):
        assert torch.equal(value_at(loss, epoch, x, y), expected)
        assert loss.epoch == epoch


def test_a_ramp_of_three_mixes_for_three_epochs():
    x, y = batch()
    loss = ScheduledLoss({0: "soft_dice", 10: "soft_jaccard"}, ramp=3, **FLAGS)
    dice, jaccard = SoftDiceLoss(**FLAGS)(x, y), SoftJaccardLoss(**FLAGS)(x, y)
    for epoch, share in ((0, 0), (9, 0), (10, 1 / 4), (11, 2 / 4), (12, 3 / 4), (13, 1), (14, 1)):
        torch.testing.assert_close(value_at(loss, epoch, x, y), (1 - share) * dice + share * jaccard)
        assert loss.weights_at(epoch) == pytest.approx({"soft_dice": 1 - share, "soft_jaccard": share})


@pytest.mark.parametrize("ramp", [0, 1, 4, 5])
def test_weights_sum_to_one_and_never_jump_by_more_than_a_step_of_the_ramp(ramp):
    loss = ScheduledLoss(
        {0: "cross_entropy", 3: "soft_dice", 8: "soft_jaccard", 13: "cross_entropy"}, ramp=ramp, **FLAGS
    )
    table = torch.tensor([list(loss.weights_at(epoch).values()) for epoch in range(25)])
    assert table.shape == (25, 3)  # the same name twice is one objective
    torch.testing.assert_close(table.sum(1), torch.ones(25))
    assert (table >= 0).all()
    assert table.diff(dim=0).abs().max() == pytest.approx(1 / (ramp + 1))
    assert (table > 0).sum(1).max() <= 2
    assert loss.weights_at(13 + ramp)["cross_entropy"] == 1


def test_gradients_in_a_ramp_are_the_weighted_sum():
    x, y = batch(requires_grad=True)
    loss = ScheduledLoss({0: "cross_entropy", 1: "soft_dice"}, ramp=1, **FLAGS)
    (mixed,) = torch.autograd.grad(value_at(loss, 1, x, y), x)
    parts = [torch.autograd.grad(cls(**FLAGS)(x, y), x)[0] for cls in (PlainCELoss, SoftDiceLoss)]
    torch.testing.assert_close(mixed, sum(parts) / 2)


@pytest.mark.parametrize(
    "objectives", [{"0": "cross_entropy", "50": "soft_dice"}, {50: "soft_dice", 0: "cross_entropy"}]
)
def test_keys_may_be_strings_of_digits_and_stand_in_any_order(objectives):
    loss = ScheduledLoss(objectives, **FLAGS)
    assert loss.weights_at(49)["cross_entropy"] == 1
    assert loss.weights_at(50)["soft_dice"] == 1
    assert repr(loss).splitlines()[1].strip() == "{0: cross_entropy, 50: soft_dice}"


class Counting(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, input, target):
        self.calls += 1
        return input.sum() * 0 + self.value


def test_an_objective_of_weight_0_is_not_computed():
    first, second = Counting(1.0), Counting(3.0)
    loss = ScheduledLoss({0: first, 2: second}, ramp=1)
    x, y = batch()
    calls = []
    for epoch, expected in ((0, 1), (1, 1), (2, 2), (3, 3)):
        assert value_at(loss, epoch, x, y) == expected
        calls.append((first.calls, second.calls))
    assert calls == [(1, 0), (2, 0), (3, 1), (3, 2)]
    assert [*loss.weights_at(0)] == ["Counting", "Counting_2"]


def test_losses_as_objectives_keep_their_own_arguments():
    x, y = batch()
    compound = SoftDiceCELoss(**FLAGS, lambda_ce=0.5)
    loss = ScheduledLoss({0: compound, 1: "soft_jaccard", 2: monai.losses.DiceLoss(**FLAGS), 3: compound}, **FLAGS)
    assert torch.equal(value_at(loss, 0, x, y), compound(x, y))
    assert torch.equal(value_at(loss, 2, x, y), monai.losses.DiceLoss(**FLAGS)(x, y))
    assert [*loss.weights_at(3)] == ["SoftDiceCELoss", "soft_jaccard", "DiceLoss"]
    assert loss.weights_at(3)["SoftDiceCELoss"] == 1


# Shared arguments


def test_each_objective_gets_the_arguments_that_it_knows_in_silence():
    x, y = batch()
    shared = {**FLAGS, "include_background": False, "batch": True, "squared_pred": True, "label_smoothing": 0.1}
    shared |= {"class_counts": [70, 20, 10], "smooth_nr": 0, "ignore_index": 9}
    loss = ScheduledLoss({0: "weighted_cross_entropy", 1: "soft_dice"}, **shared)
    counts = {"label_smoothing": 0.1, "class_counts": [70, 20, 10], "ignore_index": 9}
    assert torch.equal(value_at(loss, 0, x, y), make_loss("weighted_cross_entropy", **FLAGS, **counts)(x, y))
    scores = {name: shared[name] for name in shared if name not in ("label_smoothing", "class_counts")}
    assert torch.equal(value_at(loss, 1, x, y), SoftDiceLoss(**scores)(x, y))


COUNTS = {"class_counts": [70, 20, 10], "class_weighting": "effective_number"}
VOLUMES = {"smoothing": "structure_volume", "structure_volumes": [13.0, 4.0, 2.0]}


def test_counts_and_volumes_reach_the_objectives_that_read_them():
    x, y = batch()
    loss = ScheduledLoss(
        {0: "weighted_cross_entropy", 1: "soft_dice", 2: "lovasz_softmax", 3: "soft_jaccard"},
        **{**FLAGS, **COUNTS, **VOLUMES},
    )
    expected = (
        *(WeightedCELoss(**FLAGS, **COUNTS), SoftDiceLoss(**FLAGS, **VOLUMES), LovaszSoftmaxLoss(**FLAGS)),
        SoftJaccardLoss(**FLAGS, **VOLUMES),
    )
    for epoch, objective in enumerate(expected):
        assert torch.equal(value_at(loss, epoch, x, y), objective(x, y))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_named_schedule_takes_it_too(name):
    x, y = batch()
    own = {} if name.endswith("lovasz_softmax") else VOLUMES
    loss = make_loss(name, **{**FLAGS, **COUNTS, **VOLUMES, **({} if own else {"smoothing": None})}, switch_epoch=2)
    assert torch.equal(value_at(loss, 1, x, y), PlainCELoss(**FLAGS)(x, y))
    assert torch.equal(value_at(loss, 2, x, y), make_loss(loss.names[1], **FLAGS, **own)(x, y))


@pytest.mark.parametrize(
    ("objectives", "arguments", "unused"),
    [
        (CE_LOVASZ, {**COUNTS, **VOLUMES}, "smoothing"),
        (CE_LOVASZ, {**VOLUMES, "smooth_nr": 1}, "smooth_nr, smoothing"),
        ({0: "soft_dice", 1: "soft_jaccard"}, {**VOLUMES, "smooth_nr": 1, "smooth_dr": 1}, "smooth_dr, smooth_nr"),
    ],
)
def test_a_smoothing_without_use_is_one_warning(objectives, arguments, unused):
    with pytest.warns(UserWarning, match=f"^ScheduledLoss has no use for {unused}: not used") as caught:
        ScheduledLoss(objectives, **FLAGS, **arguments)
    assert len(caught) == 1


def test_context_that_no_objective_reads_does_not_warn():
    ScheduledLoss(CE_LOVASZ, **FLAGS, **COUNTS, structure_volumes=VOLUMES["structure_volumes"], smoothing=None)
    ScheduledLoss({0: SoftDiceLoss(**FLAGS)}, **COUNTS, structure_volumes=VOLUMES["structure_volumes"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({**VOLUMES, "structure_volumes": [13.0, 4.0]}, "structure_volumes must have 3 values"),
        ({**COUNTS, "class_counts": [70, 30]}, "class_counts must have 3 values"),
        ({"classes": [1, 7]}, "classes must lie in 0 to 2"),
        ({"weight": [1.0, 2.0]}, "weight must have 3 values"),
    ],
)
def test_lengths_of_every_objective_are_checked_before_training(arguments, match):
    shared = {**FLAGS, **COUNTS, **arguments}
    loss = ScheduledLoss({0: "cross_entropy", 5: "weighted_cross_entropy", 9: "soft_dice"}, **shared)
    with pytest.raises(ValueError, match=match):
        check_channels(loss, 3)


def test_lengths_of_a_compound_in_a_schedule_are_checked_before_training():
    compound = SoftDiceCELoss(**FLAGS, **{**VOLUMES, "structure_volumes": [13.0, 4.0]})
    loss = ScheduledLoss({0: "cross_entropy", 50: compound}, **FLAGS)
    check_channels(loss, 2)
    with pytest.raises(ValueError, match="structure_volumes must have 3 values"):
        check_channels(loss, 3)


@pytest.mark.parametrize("background", [{"include_background": False}, {"classes": [1, 2]}])
def test_weights_without_a_background_reach_cross_entropy_too(background):
    x, y = batch()
    loss = ScheduledLoss({0: "cross_entropy", 1: "soft_dice"}, **FLAGS, **background, weight=[2.0, 3.0])
    assert torch.equal(value_at(loss, 0, x, y), PlainCELoss(**FLAGS, weight=[1.0, 2.0, 3.0])(x, y))
    assert torch.equal(value_at(loss, 1, x, y), SoftDiceLoss(**FLAGS, **background, weight=[2.0, 3.0])(x, y))


def test_an_argument_of_no_objective_warns_once_and_an_unknown_one_is_an_error():
    with pytest.warns(UserWarning, match="^ScheduledLoss has no use for jaccard, lambda_ce: not used") as caught:
        ScheduledLoss(CE_LOVASZ, **FLAGS, lambda_ce=0.5, jaccard=True)
    assert len(caught) == 1
    with pytest.raises(
        TypeError, match="ScheduledLoss got an unexpected keyword argument 'softmx'; did you mean 'softmax'"
    ):
        ScheduledLoss(CE_LOVASZ, softmx=True)
    with pytest.warns(UserWarning, match="no use for softmax: not used"):  # every objective is built already
        ScheduledLoss({0: SoftDiceLoss(**FLAGS)}, softmax=True)


# Bad input


@pytest.mark.parametrize(
    ("objectives", "arguments", "error", "match"),
    [
        ({}, {}, TypeError, r"objectives must map epochs to objectives, .* but is \{\}"),
        (["cross_entropy"], {}, TypeError, "objectives must map epochs"),
        ({0: "cross_entropy", -5: "soft_dice"}, {}, ValueError, "a whole number from 0 on, or a fraction .* but is -5"),
        (
            {0: "cross_entropy", "-5": "soft_dice"},
            {},
            ValueError,
            "a whole number from 0 on, or a fraction .* but is '-5'",
        ),
        *(
            (
                {0: "cross_entropy", key: "soft_dice"},
                {},
                ValueError,
                rf"an epoch, .* or a fraction of the training, above 0 and below 1, but is {key!r}; count the completed .*0\.5",
            )
            for key in (1.0, "1.0", "0.0", 1.5, -0.5, "nan", "half", float("nan"), 50.0)
        ),
        ({0: "cross_entropy", 0.5: "soft_dice", "0.50": "soft_jaccard"}, {}, ValueError, "once, but hold 0.5 twice"),
        ({0.5: "cross_entropy"}, {}, ValueError, "holds from epoch 0 on, but begin at 0.5; add a key 0"),
        (
            {0: "cross_entropy", True: "soft_dice"},
            {},
            ValueError,
            "a whole number from 0 on, or a fraction .* but is True",
        ),
        (
            {0: "cross_entropy", 5: "soft_dice", "5": "soft_jaccard"},
            {},
            ValueError,
            "each epoch once, but hold 5 twice",
        ),
        ({3: "cross_entropy"}, {}, ValueError, "holds from epoch 0 on, but begin at 3; add a key 0"),
        (
            {0: "cross_entropy", 5: "lovasz"},
            {},
            ValueError,
            r"objective must be one of cross_entropy, weighted_cross_entropy, .*, but is 'lovasz'\. Did you mean 'lovasz_",
        ),
        (
            {0: "cross_entropy", 5: torch.sum},
            {},
            TypeError,
            "one of cross_entropy, .*, or a loss .a torch module., but is",
        ),
        (
            {0: "cross_entropy"},
            {"ramp": -1},
            ValueError,
            "ramp must be a number of epochs, whole and not below 0, but is -1",
        ),
        ({0: "cross_entropy"}, {"ramp": 1.5}, ValueError, "ramp must be a number of epochs, .* but is 1.5"),
        (
            {0: "cross_entropy", 5: "soft_dice", 8: "soft_jaccard"},
            {"ramp": 4},
            ValueError,
            "ramp must not be longer than an objective holds, but is 4 where soft_dice has the 3 epochs from 5 to 8",
        ),
        ({0: "cross_entropy"}, {"reduction": "none"}, ValueError, 'reduction must be "mean" or "sum"'),
        (
            {0: "cross_entropy", 1: SoftDiceLoss(**FLAGS, reduction="none")},
            {},
            ValueError,
            "reduction must be the same .*'mean', but that of SoftDiceLoss is 'none'",
        ),
        (
            {0: "cross_entropy", 1: "soft_dice"},
            {"softmax": False},
            ValueError,
            "softmax or sigmoid must be set in a schedule where cross_entropy reads logits and soft_dice probabilities",
        ),
    ],
)
def test_an_impossible_schedule_is_one_sentence(objectives, arguments, error, match):
    with pytest.raises(error, match=match) as caught:
        ScheduledLoss(objectives, **{**FLAGS, **arguments})
    assert str(caught.value).count(". ") <= 1  # one sentence, and the suggestion


@pytest.mark.parametrize("ramp", [3, 0])
def test_a_ramp_as_long_as_its_interval_is_allowed(ramp):
    ScheduledLoss({0: "cross_entropy", 5: "soft_dice", 8: "soft_jaccard"}, ramp=ramp, **FLAGS)


def test_errors_of_a_later_objective_come_with_the_first_batch():
    x, y = batch()
    with pytest.raises(ValueError, match="classes must lie in 0 to 2"):
        ScheduledLoss({0: "cross_entropy", 50: "soft_dice"}, **FLAGS, classes=[7])(x, y)
    soft = torch.full((2, 3, 4, 5), 1 / 3)
    compound = {0: "cross_entropy", 50: SoftDiceCELoss(softmax=True, classes=[7])}
    with pytest.raises(ValueError, match="classes must lie in 0 to 2"):
        ScheduledLoss(compound, softmax=True)(x, soft)
    with pytest.warns(UserWarning, match="for soft labels use SoftJaccardLoss") as caught:
        ScheduledLoss(CE_LOVASZ, softmax=True)(x, soft)
    assert len(caught) == 1
    with pytest.raises(ValueError, match="for soft labels use SoftJaccardLoss"):
        ScheduledLoss(CE_LOVASZ, softmax=True, check_labels=True)(x, soft)


def test_a_negative_epoch_is_refused():
    with pytest.raises(ValueError, match="completed epochs, from 0 on, but is -1"):
        ScheduledLoss(CE_LOVASZ, **FLAGS).set_epoch(-1)


def test_training_without_set_epoch_warns_once():
    x, y = batch(requires_grad=True)
    loss = ScheduledLoss(CE_LOVASZ, **FLAGS)
    with pytest.warns(
        UserWarning, match="stays with cross_entropy as long as nobody tells it the epoch; .*ObjectiveSchedule"
    ):
        loss(x, y)
    loss(x, y)
    told = ScheduledLoss(CE_LOVASZ, **FLAGS)
    told.set_epoch(0)
    told(x, y)


def test_neither_validation_nor_a_state_takes_the_warning_away():
    x, y = batch(requires_grad=True)
    half_way = CrossEntropyToSoftDiceLoss(**FLAGS)
    half_way.set_length(4)
    for loss in (ScheduledLoss(CE_LOVASZ, **FLAGS), half_way):
        resumed = copy.deepcopy(loss)
        loss.set_epoch(2)
        resumed.load_state_dict(loss.state_dict())
        with torch.no_grad():
            resumed(x, y)
        with pytest.warns(UserWarning, match=f"stays with {resumed._active[0]} as long as nobody tells it the epoch"):
            resumed(x, y)
        resumed(x, y)  # once


def test_numpy_s_whole_numbers_are_epochs_too():
    loss = ScheduledLoss({np.int64(0): "cross_entropy", np.int64(4): "soft_dice"}, ramp=np.int64(3), **FLAGS)
    assert repr(loss).splitlines()[1].strip() == "{0: cross_entropy, 4: soft_dice}, ramp=3"
    assert [type(start) for start in loss.starts] == [int, int]


# State


def test_the_epoch_is_in_the_state_and_comes_back_from_a_file():
    x, y = batch()
    loss = ScheduledLoss(CE_LOVASZ, ramp=3, **FLAGS, weight=[1.0, 2.0, 3.0])
    expected = value_at(loss, 51, x, y)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    resumed = ScheduledLoss(CE_LOVASZ, ramp=3, **FLAGS, weight=[9.0, 9.0, 9.0])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.epoch == 51
    assert torch.equal(resumed(x, y), expected)
    assert {"parts.cross_entropy.class_weight", "parts.lovasz_softmax.class_weight"} <= loss.state_dict().keys()


@pytest.mark.parametrize("twin", [lambda loss: pickle.loads(pickle.dumps(loss)), copy.deepcopy])
def test_a_copy_has_the_same_epoch(twin):
    x, y = batch()
    loss = ScheduledLoss(CE_LOVASZ, ramp=3, **FLAGS)
    expected = value_at(loss, 51, x, y)
    assert torch.equal(twin(loss)(x, y), expected)


def test_a_compiled_schedule_follows_it_and_outlives_a_long_ramp():
    x, y = batch()
    loss = ScheduledLoss({0: "cross_entropy", 2: "soft_dice"}, ramp=20, **FLAGS)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for epoch in range(24):
        expected = value_at(loss, epoch, x, y)
        torch.testing.assert_close(compiled(x, y), expected)


# Named schedules


def test_the_table_of_names():
    assert {name: cls.__name__ for name, cls in SCHEDULES.items()} == {
        "cross_entropy_to_soft_dice": "CrossEntropyToSoftDiceLoss",
        "cross_entropy_to_soft_jaccard": "CrossEntropyToSoftJaccardLoss",
        "cross_entropy_to_lovasz_softmax": "CrossEntropyToLovaszSoftmaxLoss",
    }
    assert not SCHEDULES.keys() & OBJECTIVES.keys()
    assert all(loss_class(name) is cls for name, cls in SCHEDULES.items())


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_name_is_its_two_objectives(name):
    x, y = batch()
    loss = make_loss(name, **FLAGS, switch_epoch=2, class_counts=[70, 20, 10])
    later = name.removeprefix("cross_entropy_to_")
    assert torch.equal(value_at(loss, 1, x, y), PlainCELoss(**FLAGS)(x, y))
    assert torch.equal(value_at(loss, 2, x, y), make_loss(later, **FLAGS)(x, y))


@pytest.mark.parametrize(("max_epochs", "switch"), [(100, 50), (7, 3), (2, 1), (1, 1)])
def test_without_an_epoch_it_switches_half_way(max_epochs, switch):
    loss = CrossEntropyToSoftDiceLoss(**FLAGS)
    assert "{0: cross_entropy, 0.5: soft_dice}" in repr(loss)
    loss.set_length(max_epochs)
    assert loss.weights_at(switch - 1)["cross_entropy"] == 1
    assert loss.weights_at(switch)["soft_dice"] == 1
    assert f"{switch}: soft_dice" in repr(loss)


def test_half_way_needs_the_length_after_the_first_epoch():
    loss = CrossEntropyToSoftDiceLoss(**FLAGS)
    loss.set_epoch(0)
    with pytest.raises(ValueError, match=r"from the second epoch on, .* set_length"):
        loss.set_epoch(1)


def test_an_epoch_that_was_given_does_not_depend_on_the_length():
    loss = CrossEntropyToSoftDiceLoss(**FLAGS, switch_epoch="3", ramp=1)
    loss.set_length(100)
    assert loss.weights_at(3) == {"cross_entropy": 0.5, "soft_dice": 0.5}
    with pytest.raises(ValueError, match="switch_epoch must be at least 1, but is 0"):
        CrossEntropyToSoftDiceLoss(**FLAGS, switch_epoch=0)
    with pytest.raises(ValueError, match=r"switch_epoch must be an epoch, .* but is -2"):
        CrossEntropyToSoftDiceLoss(**FLAGS, switch_epoch=-2)


@pytest.mark.parametrize("key", [0.25, "0.25", np.float64(0.25), np.float32(0.25)], ids=repr)
def test_a_key_may_be_a_fraction_of_the_training(key):
    loss = ScheduledLoss({0: "cross_entropy", key: "soft_dice"}, ramp=3, **FLAGS)
    assert not loss.is_known
    assert loss.weights_at(0) == {"cross_entropy": 1, "soft_dice": 0}
    loss.set_length(np.int64(40))
    assert loss.is_known
    assert loss.starts == [0, 10]
    assert loss.weights_at(10) == {"cross_entropy": 0.75, "soft_dice": 0.25}
    loss.set_length(80)  # a new training
    assert loss.starts == [0, 20]


# the whole epochs of the fraction, and at least one; 0.29·100 and 2/3·3 lie below 29 and 2 in floating point
@pytest.mark.parametrize(
    ("fraction", "max_epochs", "start"),
    [(0.29, 100, 29), (2 / 3, 3, 2), (0.7, 10, 7), (0.999, 100, 99), (0.001, 100, 1), (0.5, 1, 1), (1 / 3, 300, 100)],
)
def test_a_fraction_is_rounded_down_to_whole_epochs(fraction, max_epochs, start):
    loss = CrossEntropyToSoftDiceLoss(**FLAGS, switch_epoch=fraction)
    loss.set_length(max_epochs)
    assert loss.starts == [0, start]


def test_fractions_and_epochs_take_their_places_once_the_length_is_known():
    objectives = {0: "cross_entropy", "0.5": "lovasz_softmax", 30: "soft_dice", 0.1: "soft_jaccard"}
    loss, resumed = (ScheduledLoss(objectives, ramp=10, **FLAGS) for _ in range(2))
    assert "{0: cross_entropy, 30: soft_dice, 0.1: soft_jaccard, 0.5: lovasz_softmax}, ramp=10" in repr(loss)
    loss.set_length(100)
    assert dict(zip(loss.starts, loss.names, strict=True)) == {
        **{0: "cross_entropy", 10: "soft_jaccard", 30: "soft_dice", 50: "lovasz_softmax"}
    }
    loss.set_epoch(52)
    resumed.load_state_dict(loss.state_dict())
    assert (resumed.starts, resumed.names, resumed._active) == (loss.starts, loss.names, loss._active)


@pytest.mark.parametrize(
    ("objectives", "max_epochs", "match"),
    [
        (
            {0: "cross_entropy", 0.5: "soft_dice", 50: "soft_jaccard"},
            100,
            "but 50 and 0.5 both mean epoch 50; move them",
        ),
        (
            {0: "cross_entropy", 0.1: "soft_dice", 0.2: "soft_jaccard"},
            9,
            "but 0.1 and 0.2 both mean epoch 1; .* longer",
        ),
        (
            {0: "cross_entropy", 0.1: "soft_dice", 0.2: "soft_jaccard"},
            20,
            "ramp must not be longer .* is 3 where soft_dice has the 2 epochs from 2 to 4",
        ),
        ({0: "cross_entropy", 0.5: "soft_dice"}, 0, "max_epochs must be a whole number from 1 on, but is 0"),
        ({0: "cross_entropy"}, 2.5, "max_epochs must be a whole number from 1 on, but is 2.5"),
    ],
)
def test_a_length_that_does_not_hold_the_schedule_is_refused_and_changes_nothing(objectives, max_epochs, match):
    loss = ScheduledLoss(objectives, ramp=3, **FLAGS)
    before = repr(loss)
    with pytest.raises(ValueError, match=match):
        loss.set_length(max_epochs)
    assert repr(loss) == before


# states of the version before: the epoch and the first epochs of the objectives, −1 if unknown
@pytest.mark.parametrize(
    ("loss", "state", "epoch", "starts"),
    [
        (CrossEntropyToSoftDiceLoss(**FLAGS), [12, 0, 10], 12, [0, 10]),
        (CrossEntropyToSoftDiceLoss(**FLAGS), [0, 0, -1], 0, []),
        (CrossEntropyToSoftDiceLoss(**FLAGS, switch_epoch=15), [12, 0, 10], 12, [0, 15]),
        (ScheduledLoss(CE_LOVASZ, **FLAGS), [51, 0, 50], 51, [0, 50]),
        (ScheduledLoss({0: "soft_dice"}, **FLAGS), [7, 0], 7, [0]),
        (ScheduledLoss({0: "cross_entropy", 0.2: "soft_dice", 0.4: "soft_jaccard"}, **FLAGS), [9, 0, 10], 0, []),
    ],
)
def test_states_of_the_version_before_load(loss, state, epoch, starts):
    loss = copy.deepcopy(loss)
    loss.load_state_dict({"_extra_state": torch.tensor(state)})
    assert (loss.epoch, loss.starts) == (epoch, starts)


def test_half_way_is_part_of_the_state_and_an_epoch_of_the_arguments():
    loss, resumed = CrossEntropyToLovaszSoftmaxLoss(**FLAGS), CrossEntropyToLovaszSoftmaxLoss(**FLAGS)
    resumed.load_state_dict(loss.state_dict())  # nothing known yet
    assert (resumed.epoch, resumed.is_known) == (0, False)
    loss.set_length(20)
    loss.set_epoch(12)
    resumed.load_state_dict(loss.state_dict())
    assert (resumed.epoch, resumed.starts) == (12, [0, 10])
    given = CrossEntropyToLovaszSoftmaxLoss(**FLAGS, switch_epoch=15)
    given.load_state_dict(loss.state_dict())
    assert (given.epoch, given.starts) == (12, [0, 15])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_epochs_of_a_schedule_mean_nothing_to_a_single_objective(name):
    with pytest.warns(UserWarning, match="no use for ramp, switch_epoch: not used"):
        make_loss(name, **FLAGS, class_counts=[7, 2, 1], switch_epoch=5, ramp=2)


def test_a_schedule_of_one_objective_is_that_objective():
    x, y = batch(requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(ScheduledLoss({0: "soft_dice"}, **FLAGS)(x, y), SoftDiceLoss(**FLAGS)(x, y))


def test_objectives_may_be_of_deep_supervision():
    parts = {
        0: monai.losses.DeepSupervisionLoss(PlainCELoss(softmax=True, to_onehot_y=True)),
        5: monai.losses.DeepSupervisionLoss(SoftDiceLoss(softmax=True, to_onehot_y=True)),
    }
    x, y = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.zeros(1, 1, 4, 4)
    with pytest.warns(UserWarning, match="stays with DeepSupervisionLoss"):
        loss = ScheduledLoss(parts)([x, x[:, :, ::2, ::2]], y)
    torch.testing.assert_close(loss.item(), parts[0]([x, x[:, :, ::2, ::2]], y).item())
