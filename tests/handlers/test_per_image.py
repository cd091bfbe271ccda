"""The handlers on a bare Ignite engine and on MONAI's engines, with the handlers that people attach beside them."""

import csv
import inspect
import io
import math
import warnings
from math import nan

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from ignite.handlers import EarlyStopping, ProgressBar
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import (
    CheckpointSaver,
    MeanDice,
    MeanIoUHandler,
    MetricsSaver,
    ValidationHandler,
    from_engine,
    stopping_fn_from_metric,
)
from monai.metrics import DiceMetric
from monai.transforms import AsDiscreted
from monai.utils import MetricReduction

from monai_surrogates import core
from monai_surrogates.core import ShapeMismatchError
from monai_surrogates.handlers import PerImageDice, PerImageHandler, PerImageIoU, PerImageSummary
from monai_surrogates.metrics import PerImageIoUMetric

HANDLERS = {"dice": PerImageDice, "iou": PerImageIoU}

# label maps of four voxels (prediction, reference) and their Dice and IoU of class 1, counted by hand
IMAGES = {
    "half": ([[1, 1], [0, 0]], [[1, 0], [0, 0]]),
    "perfect": ([[0, 1], [1, 1]], [[0, 1], [1, 1]]),
    "missed": ([[0, 0], [0, 0]], [[0, 1], [0, 0]]),
    "empty": ([[0, 1], [0, 0]], [[0, 0], [0, 0]]),
}
SCORES = {
    "dice": {"half": 2 / 3, "perfect": 1, "missed": 0, "empty": math.nan},
    "iou": {"half": 1 / 2, "perfect": 1, "missed": 0, "empty": math.nan},
}


def pair(*images: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(prediction, reference), label maps (B, 1, 2, 2)."""
    prediction, reference = zip(*(IMAGES[image] for image in images), strict=True)
    return torch.tensor(prediction).unsqueeze(1), torch.tensor(reference).unsqueeze(1)


def mean_score(name: str, *images: str) -> float:
    defined = [SCORES[name][image] for image in images if not math.isnan(SCORES[name][image])]
    return sum(defined) / len(defined)


def foreground(name: str, **kwargs):
    return HANDLERS[name](num_classes=2, include_background=False, **kwargs)


def bare_engine(name: str, **kwargs) -> Engine:
    """An engine whose batches are its outputs."""
    engine = Engine(lambda engine, batch: batch)
    foreground(name, **kwargs).attach(engine, name)
    return engine


# A bare Ignite engine

FORMS = {
    "tuple": lambda p, r: (p, r),
    "reference without channel axis": lambda p, r: (p, r.squeeze(1)),
    "masks": lambda p, r: (torch.cat([1 - p, p], 1), torch.cat([1 - r, r], 1)),
    "prediction masks, reference labels": lambda p, r: (torch.cat([1 - p, p], 1), r.squeeze(1)),
    "mapping": lambda p, r: {"y_pred": p, "y": r.squeeze(1)},
    "lists, which Ignite unrolls": lambda p, r: (list(p), list(r)),
    "lists of references without channel axis": lambda p, r: (list(p), list(r.squeeze(1))),
    "mapping of lists": lambda p, r: {"y_pred": list(p), "y": list(r)},
    "meta tensors": lambda p, r: (MetaTensor(p), MetaTensor(r.squeeze(1))),
    "volumes": lambda p, r: (p.unsqueeze(-1), r.squeeze(1).unsqueeze(-1)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HANDLERS)
def test_every_form_of_output_on_a_bare_engine(name, form):
    batches = [("half", "perfect"), ("missed", "empty", "half")]
    state = bare_engine(name).run([FORMS[form](*pair(*batch)) for batch in batches])
    images = [image for batch in batches for image in batch]
    assert state.metrics[name] == pytest.approx(mean_score(name, *images), abs=1e-7)
    assert state.metrics[f"{name}/defined"] == 4
    details = state.metric_details[name]
    assert details.flatten().tolist() == pytest.approx([SCORES[name][image] for image in images], nan_ok=True)


def test_lists_hold_images_of_different_size():
    small, large = pair("half"), [x.repeat(1, 1, 2, 2) for x in pair("half")]
    state = bare_engine("dice").run([([small[0][0], large[0][0]], [small[1][0], large[1][0]])])
    assert state.metric_details["dice"].tolist() == [[2 / 3], [2 / 3]]


@pytest.mark.parametrize("name", HANDLERS)
def test_every_epoch_has_its_own_value(name):
    epochs = [[pair("half"), pair("missed")], [pair("perfect"), pair("half")]]
    engine, seen = bare_engine(name), []
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: e.set_data(epochs[e.state.epoch - 1]))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(e.state.metrics[name]))
    engine.run(epochs[0], max_epochs=2)
    assert seen == pytest.approx([mean_score(name, "half", "missed"), mean_score(name, "perfect", "half")], abs=1e-7)


@pytest.mark.parametrize(("empty", "expected"), [("ignore", 1 / 3), ("score", 2 / 3 / 3), ("both", 2 / 3 / 3)])
def test_the_rule_for_empty_masks_is_an_argument(empty, expected):
    state = bare_engine("dice", empty=empty).run([pair("half", "missed", "empty")])
    assert state.metrics["dice"] == pytest.approx(expected, abs=1e-7)


def test_the_background_can_be_scored():
    engine = Engine(lambda engine, batch: batch)
    PerImageIoU(num_classes=2).attach(engine, "iou")
    state = engine.run([pair("half")])
    assert state.metric_details["iou"].tolist() == [[2 / 3, 1 / 2]]
    assert state.metrics["iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_reduction_to_classes_puts_a_finite_tensor_into_the_metrics():
    engine = Engine(lambda engine, batch: batch)
    PerImageDice(num_classes=3, reduction="mean_batch").attach(engine, "dice")
    with pytest.warns(UserWarning, match=r"dice: some of the scores are undefined .* reported as 0"):
        state = engine.run([pair("half", "missed")])
    torch.testing.assert_close(state.metrics["dice"], torch.tensor([(4 / 5 + 6 / 7) / 2, 1 / 3, 0]))
    assert state.metrics["dice/defined"].tolist() == [2, 2, 0]


def test_details_can_be_left_out():
    state = bare_engine("dice", save_details=False).run([pair("half")])
    assert state.metrics["dice"] == pytest.approx(2 / 3)
    assert not hasattr(state, "metric_details")


def test_one_handler_under_two_names_fills_both():
    engine, handler = Engine(lambda engine, batch: batch), foreground("dice")
    handler.attach(engine, "first")
    handler.attach(engine, "second")
    state = engine.run([pair("half", "perfect")])
    assert state.metrics["first"] == state.metrics["second"] == pytest.approx(5 / 6)
    assert state.metric_details["first"].tolist() == state.metric_details["second"].tolist() == [[2 / 3], [1]]


def test_one_handler_on_two_engines_fills_the_one_that_ran():
    engines, handler = [Engine(lambda engine, batch: batch) for _ in range(2)], foreground("dice")
    for engine in engines:
        handler.attach(engine, "dice")
    for engine, image in zip(engines, ("half", "perfect"), strict=True):
        engine.run([pair(image)])
    assert [engine.state.metrics["dice"] for engine in engines] == pytest.approx([2 / 3, 1])
    assert [engine.state.metric_details["dice"].item() for engine in engines] == pytest.approx([2 / 3, 1])


def test_without_an_engine_it_is_an_ignite_metric():
    handler = foreground("iou")
    handler.update(pair("half"))
    handler.update(pair("missed"))
    assert handler.compute() == pytest.approx(1 / 4)
    handler.reset()
    handler.update(pair("perfect"))
    assert handler.compute() == 1


# Arguments, classes and usages

THREE = {  # label maps of three classes (prediction, reference)
    "a": ([[0, 1], [2, 2]], [[0, 1], [1, 2]]),
    "b": ([[1, 1], [0, 0]], [[1, 0], [0, 0]]),  # without class 2
}


def three_classes(*images: str) -> tuple[torch.Tensor, torch.Tensor]:
    prediction, reference = zip(*(THREE[image] for image in images), strict=True)
    return torch.tensor(prediction).unsqueeze(1), torch.tensor(reference).unsqueeze(1)


def test_each_class_has_its_mean_and_its_count_under_its_name():
    engine = Engine(lambda engine, batch: batch)
    arguments = {"num_classes": 3, "include_background": False, "class_labels": ["liver", "tumour"]}
    PerImageDice(**arguments).attach(engine, "dice")
    PerImageIoU(**arguments).attach(engine, "iou")
    metrics = engine.run([three_classes("a"), three_classes("b")]).metrics
    assert metrics["dice/liver"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert (metrics["dice/tumour"], metrics["dice/tumour/defined"]) == (pytest.approx(2 / 3), 1)
    assert metrics["iou/liver"] == pytest.approx(1 / 2)
    assert (metrics["iou/liver/defined"], metrics["iou"], metrics["iou/defined"]) == (2, pytest.approx(1 / 2), 2)


def test_a_class_that_no_reference_holds_is_0_with_one_warning_that_names_it():
    engine = Engine(lambda engine, batch: batch)
    PerImageDice(num_classes=3, include_background=False, class_labels=["liver", "tumour"]).attach(engine, "dice")
    with pytest.warns(UserWarning, match=r"dice: some of the scores are undefined \(tumour, empty") as caught:
        metrics = engine.run([three_classes("b")], max_epochs=2).metrics
    assert len(caught) == 1
    assert (metrics["dice/tumour"], metrics["dice/tumour/defined"]) == (0, 0)


COLLIDING = {
    "the count's name": (["liver", "defined"], "defined"),
    "the same to MLflow": (["a(b", "a/b"], "a_b"),
    "no name": (["liver", ""], ""),
}


@pytest.mark.parametrize(("labels", "key"), COLLIDING.values(), ids=COLLIDING)
@pytest.mark.parametrize("handler", [PerImageDice, PerImageIoU, PerImageSummary])
def test_names_of_classes_must_not_collide(handler, labels, key):
    with pytest.raises(ValueError, match=f"class_labels must give every class a key of its own, but {key}[, ]"):
        handler(num_classes=2, class_labels=labels)


def test_every_argument_of_the_metric_is_reached():
    logits = torch.tensor([[[[3.0, 1, -1, -2]], [[-3.0, -1, 1, 2]]]])
    reference = torch.tensor([[[[0, 1, 1, 255]]]])
    engine = Engine(lambda engine, batch: batch)
    PerImageDice(argmax=True, ignore_index=255, include_background=False).attach(engine, "argmax")
    PerImageIoU(threshold=0, ignore_index=255, num_classes=2, include_background=False).attach(engine, "threshold")
    PerImageDice(argmax=True, ignore_index=255, ignore_empty=False, reduction="sum").attach(engine, "empty")
    metrics = engine.run([(logits, reference)]).metrics
    assert metrics["argmax"] == pytest.approx(2 / 3)
    assert metrics["threshold"] == pytest.approx(1 / 2)
    assert metrics["empty"] == pytest.approx(2 / 3 + 2 / 3)


def test_a_mask_in_the_output_leaves_voxels_out():
    prediction, reference = pair("half")
    mask = torch.tensor([[[[1, 0], [1, 1]]]])
    assert bare_engine("dice").run([(prediction, reference, mask)]).metrics["dice"] == 1


MASKED = {
    "tensors": lambda p, r, m: (p, r, m),
    "lists": lambda p, r, m: (list(p), list(r), list(m)),
    "mapping": lambda p, r, m: {"y_pred": p, "y": r.squeeze(1), "mask": m},
    "mapping of lists": lambda p, r, m: {"y_pred": list(p), "y": list(r), "mask": list(m)},
}


@pytest.mark.parametrize("form", MASKED)
def test_every_form_of_output_takes_a_mask(form):
    mask = torch.tensor([[[[1, 0], [1, 1]]]]).expand(2, 1, 2, 2)
    assert bare_engine("dice").run([MASKED[form](*pair("half", "half"), mask)]).metrics["dice"] == 1


def test_a_mapping_without_a_reference_says_so():
    with pytest.raises(ValueError, match="output must hold y_pred and y, but has no y;"):
        bare_engine("dice").run([{"y_pred": pair("half")[0]}])


def test_usage_chooses_when_a_score_is_computed():
    engine, seen = Engine(lambda engine, batch: batch), []
    foreground("dice").attach(engine, "dice", usage="batch_wise")
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.metrics["dice"]))
    engine.run([pair("half"), pair("perfect", "missed")])
    assert seen == pytest.approx([2 / 3, 1 / 2])


def test_an_epoch_continues_from_the_state_of_a_checkpoint(tmp_path):
    first, second = foreground("iou"), foreground("iou")
    first.update(pair("half", "perfect"))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for handler in (first, second):
        handler.update(pair("missed"))
    assert second.compute() == first.compute() == pytest.approx(1 / 2)
    empty = foreground("iou")
    empty.load_state_dict(foreground("iou").state_dict())
    with pytest.raises(NotComputableError):
        empty.compute()


def test_a_state_of_another_handler_is_refused_and_loses_nothing():
    dice, summary = foreground("dice"), PerImageSummary(num_classes=2, include_background=False)
    for handler in (dice, summary):
        handler.update(pair("half"))
    with pytest.raises(
        ValueError, match=r"rows of PerImageDiceMetric .* but holds \(1, 1, 3\) and 1 names; load the state"
    ):
        dice.load_state_dict(summary.state_dict())
    assert dice.compute() == pytest.approx(2 / 3)


def test_a_state_of_more_processes_is_refused():
    state = foreground("dice").state_dict()
    state["per_rank"] = state["per_rank"] * 2
    with pytest.raises(ValueError, match="must be of 1 processes, as there are now, but is of 2"):
        foreground("dice").load_state_dict(state)


def test_any_of_our_metrics_can_be_handled_and_no_other():
    engine = Engine(lambda engine, batch: batch)
    PerImageHandler(PerImageIoUMetric(num_classes=2, include_background=False)).attach(engine, "iou")
    assert engine.run([pair("half")]).metrics["iou"] == pytest.approx(1 / 2)
    with pytest.raises(TypeError, match=r"metric_fn must be a metric of monai_surrogates.metrics, but is DiceMetric"):
        PerImageHandler(DiceMetric())


# In the place of MONAI's handlers


@pytest.mark.parametrize(("ours", "monai"), [(PerImageDice, MeanDice), (PerImageIoU, MeanIoUHandler)])
def test_the_order_of_arguments_is_monais(ours, monai):
    by_position = [p.name for p in inspect.signature(ours).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_position == list(inspect.signature(monai).parameters)


def masks_of_three(*images: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot masks (B, 3, 2, 2), in the type that MONAI's transforms give."""
    return tuple(torch.cat([x == c for c in range(3)], dim=1).float() for x in three_classes(*images))


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("reduction", [member.value for member in MetricReduction])
@pytest.mark.parametrize(("ours", "monai"), [(PerImageDice, MeanDice), (PerImageIoU, MeanIoUHandler)])
def test_each_reduction_puts_what_monai_puts_into_the_state(ours, monai, reduction, include_background):
    found, expected = Engine(lambda engine, batch: batch), Engine(lambda engine, batch: batch)
    ours(include_background, reduction, save_details=False).attach(found, "score")
    monai(include_background, reduction, save_details=False).attach(expected, "score")
    data = [masks_of_three("a", "a"), masks_of_three("a")]
    value, monais = (engine.run(data).metrics["score"] for engine in (found, expected))
    assert type(value) is type(monais)
    torch.testing.assert_close(torch.as_tensor(value).float(), torch.as_tensor(monais).float())


@pytest.mark.parametrize("return_with_label", [True, ["liver", "tumour"]], ids=str)
def test_means_under_the_names_of_classes_stand_where_monai_puts_them(return_with_label):
    found, expected = Engine(lambda engine, batch: batch), Engine(lambda engine, batch: batch)
    arguments = {"include_background": False, "reduction": "mean_batch", "return_with_label": return_with_label}
    PerImageDice(**arguments).attach(found, "dice")
    MeanDice(**arguments).attach(expected, "dice")
    data = [masks_of_three("a"), masks_of_three("b")]
    metrics, monais = found.run(data).metrics, expected.run(data).metrics
    first, second = monais["dice"]
    assert metrics["dice"] == pytest.approx(monais["dice"], abs=5.1e-5)  # MONAI's have four decimals
    assert metrics["dice"] == {first: pytest.approx(2 / 3), second: pytest.approx(2 / 3)}
    assert {name: metrics[name] for name in (first, second)} == metrics["dice"]
    assert (metrics[f"dice/{second}"], metrics[f"dice/{second}/defined"]) == (pytest.approx(2 / 3), 1)


def test_a_single_mean_under_its_name_is_a_dictionary_too_and_finite():
    engine = Engine(lambda engine, batch: batch)
    foreground("iou", reduction="mean_batch", return_with_label=["lesion"]).attach(engine, "iou")
    with pytest.warns(UserWarning, match="no image has a defined score"):
        assert engine.run([pair("empty")]).metrics["iou"] == {"lesion": 0}


MONAIS = {"get_not_nans": True, "ignore_empty": True, "return_with_label": ["a", "b"], "ignore_index": 255}


@pytest.mark.parametrize("handler", [PerImageDice, PerImageIoU, PerImageSummary])
def test_every_argument_of_monai_is_taken(handler):
    engine = Engine(lambda engine, batch: batch)
    handler(reduction="mean", num_classes=3, include_background=False, **MONAIS).attach(engine, "scores")
    prediction, reference = three_classes("a", "b")
    reference[0, 0, 0, 0] = 255
    metrics = engine.run([(prediction, reference)]).metrics
    assert metrics["scores/defined"] == 2
    assert {"scores/a/dice", "scores/a"} & metrics.keys()


@pytest.mark.parametrize("handler", [PerImageDice, PerImageIoU, PerImageSummary])
def test_components_are_not_scored_and_the_warning_names_the_handler(handler):
    with pytest.warns(UserWarning) as caught:
        handler(per_component=True)
    assert [str(w.message) for w in caught] == [
        f"{handler.__name__} has no use for per_component, because it scores an image as a whole: not used."
    ]
    assert caught[0].filename == __file__


def test_a_summary_gives_every_mean_whatever_the_reduction():
    with pytest.warns(UserWarning, match="PerImageSummary has no use for reduction, because it gives every mean: not"):
        PerImageSummary(reduction="mean_batch")


@pytest.mark.parametrize("handler", [PerImageDice, PerImageIoU, PerImageSummary])
@pytest.mark.parametrize(
    ("misspelt", "hint"),
    [
        ("num_class", "; did you mean 'num_classes'?"),
        ("save_detail", "; did you mean 'save_details'?"),
        ("class_label", "; did you mean 'class_labels'?"),
        ("gamma", "."),
    ],
)
def test_a_misspelt_argument_names_the_handler_and_the_nearest(handler, misspelt, hint):
    with pytest.raises(TypeError) as error:
        handler(**{misspelt: 2})
    assert str(error.value) == f"{handler.__name__} got an unexpected keyword argument {misspelt!r}{hint}"


@pytest.mark.parametrize("names", [["liver", "defined"], ["a(b", "a/b"]], ids=str)
def test_names_that_monai_takes_and_that_collide_are_numbers_with_a_warning(names):
    with pytest.warns(UserWarning, match=r"return_with_label must give every class a key of its own, .* are numbered"):
        handler = PerImageDice(num_classes=2, return_with_label=names)
    assert handler.metric_fn.class_labels == ("label_0", "label_1")


# Many classes


def many_classes(scored: int, present: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A perfect label map of a voxel per class, without the last classes."""
    labels = torch.arange(scored + 1).clamp(max=present).view(1, 1, 1, -1)
    return labels, labels


SHOWN = {
    "few, by default": (20, {}, True),
    "many, by default": (21, {}, False),
    "many, on demand": (104, {"per_class": True}, True),
    "few, unwanted": (2, {"per_class": False}, False),
}


@pytest.mark.parametrize("case", SHOWN)
@pytest.mark.parametrize("handler", [PerImageDice, PerImageSummary])
def test_scores_of_classes_are_shown_for_few_or_on_demand(handler, case):
    scored, arguments, shown = SHOWN[case]
    engine = Engine(lambda engine, batch: batch)
    handler(num_classes=scored + 1, include_background=False, **arguments).attach(engine, "scores")
    state = engine.run([many_classes(scored, scored)])
    of_classes = [name for name in state.metrics if name.startswith("scores/class")]
    assert (len(of_classes) >= scored) if shown else of_classes == []
    assert state.metrics["scores"] == 1
    details = state.metric_details["scores" if handler is PerImageDice else "scores_dice"]
    assert details.tolist() == [[1] * scored]


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        ({}, "left out of the mean"),
        ({"per_class": True}, "reported as 0"),
        ({"reduction": "mean_batch"}, "reported as 0"),
    ],
    ids=str,
)
def test_a_warning_counts_absent_classes_where_they_are_many(arguments, outcome):
    engine = Engine(lambda engine, batch: batch)
    PerImageDice(num_classes=105, include_background=False, **arguments).attach(engine, "dice")
    with pytest.warns(UserWarning) as caught:
        metrics = engine.run([many_classes(104, 42)], max_epochs=2).metrics
    assert [str(w.message) for w in caught] == [
        f"dice: some of the scores are undefined (62 of 104 classes, empty masks, empty='ignore'); {outcome}."
    ]
    assert torch.as_tensor(metrics["dice"]).sum() == (1 if "reduction" not in arguments else 42)


# All scores from one count


def test_a_summary_holds_every_score_of_the_count():
    engine = Engine(lambda engine, batch: batch)
    PerImageSummary(num_classes=3, include_background=False, class_labels=["liver", "tumour"], score="iou").attach(
        engine, "scores"
    )
    state = engine.run([three_classes("a"), three_classes("b")])
    metrics = state.metrics
    assert (metrics["scores"], metrics["scores/defined"]) == (pytest.approx(1 / 2), 2)
    assert metrics["scores/pooled_dice"] == pytest.approx((4 / 6 + 2 / 3) / 2)
    assert metrics["scores/liver/precision"] == pytest.approx((1 + 1 / 2) / 2)
    assert metrics["scores/tumour/recall"] == 1
    assert metrics["scores/tumour/defined_recall"] == 1
    assert all(math.isfinite(value) for value in metrics.values())
    assert state.metric_details["scores_recall"].flatten().tolist() == pytest.approx([1 / 2, 1, 1, nan], nan_ok=True)
    of_images = state.metric_details["scores"].flatten().tolist()  # of the chosen score, IoU
    assert of_images == pytest.approx([1 / 2, 1 / 2, 1 / 2, nan], nan_ok=True)


def test_a_summary_computes_each_score_once_per_epoch(monkeypatch):
    calls = []
    for name, score in core.SCORES.items():
        monkeypatch.setitem(core.SCORES, name, lambda *cells, n=name, f=score: (calls.append(n), f(*cells))[1])
    engine = Engine(lambda engine, batch: batch)
    PerImageSummary(num_classes=2, include_background=False).attach(engine, "scores")
    for epoch in ([pair("half"), pair("perfect", "missed")], [pair("half"), pair("perfect")]):
        calls.clear()
        engine.run(epoch)
        assert sorted(calls) == sorted(2 * [*core.SCORES])  # the cells, and the pooled counts


def test_a_summary_of_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="score must be one of dice, iou, precision"):
        PerImageSummary(score="hausdorff")


# Undefined scores


@pytest.mark.parametrize("name", HANDLERS)
def test_no_batch_is_not_computable(name):
    engine = Engine(lambda engine, batch: None)
    handler = foreground(name, output_transform=lambda output: ([], []))
    handler.attach(engine, name)
    with pytest.raises(NotComputableError, match=f"{type(handler).__name__} has no image yet"):
        engine.run([0])
    with pytest.raises(NotComputableError, match="must see one before it is computed"):
        foreground(name).compute()


@pytest.mark.parametrize("name", HANDLERS)
def test_without_a_defined_cell_the_metric_is_0_and_one_warning_says_so(name):
    engine = bare_engine(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = engine.run([pair("empty")], max_epochs=3)
    assert [str(w.message) for w in caught] == [
        f"{name}: no image has a defined score (empty masks, empty='ignore'); reported as 0."
    ]
    assert state.metrics == {name: 0, f"{name}/defined": 0, f"{name}/class1": 0, f"{name}/class1/defined": 0}
    assert state.metric_details[name].isnan().all()


BAD_OUTPUTS = {
    "broadcastable batch": (lambda p, r: (p, r[:1]), ShapeMismatchError, "must have the same shape"),
    "broadcastable reference": (lambda p, r: (p, r[0]), ShapeMismatchError, "must have the same shape"),
    "another shape": (lambda p, r: (p, r.squeeze(1)[..., :1]), ShapeMismatchError, "must have the same shape"),
    "label out of range": (lambda p, r: (p, 2 * r), ValueError, "y holds the label 2, but 2 classes allow 0 to 1"),
    "label with a fraction": (lambda p, r: (p / 2, r), ValueError, "y_pred must hold whole-number labels, but holds 0.5"),
    "four parts": (lambda p, r: (p, r, r, r), ValueError, r"output must have length 2 or 3, .* but has 4"),
    "a mask of another shape": (lambda p, r: (p, r, r[:1]), ShapeMismatchError, "mask must have the shape"),
    "a list whose second image is bad": (lambda p, r: (list(p), [r[0], 2 * r[1]]), ValueError, "y holds the label 2"),
    "lists of different length": (lambda p, r: (list(p), list(r)[:1]), ValueError, "must hold the same images"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_a_bad_output_ends_the_run_with_its_sentence_and_the_scores_so_far_stay(case):
    spoil, error, sentence = BAD_OUTPUTS[case]
    engine, handler = Engine(lambda engine, batch: batch), foreground("dice")
    handler.attach(engine, "dice")
    with pytest.raises(error, match=sentence):
        engine.run([pair("half", "perfect"), spoil(*pair("half", "perfect"))])
    assert handler.compute() == pytest.approx(5 / 6)


def test_a_label_map_beside_masks_needs_no_num_classes():
    engine = Engine(lambda engine, batch: batch)
    PerImageDice(include_background=False).attach(engine, "dice")
    prediction, reference = pair("half", "perfect")
    assert engine.run([(torch.cat([1 - prediction, prediction], 1), reference.squeeze(1))]).metrics["dice"] == (
        pytest.approx(5 / 6)
    )


@pytest.mark.parametrize("name", HANDLERS)
def test_an_interpolated_reference_is_rounded_with_one_warning_of_the_handler(name):
    engine, (prediction, reference) = bare_engine(name), pair("half")
    with pytest.warns(UserWarning, match=r"y holds 0\.375, read as 0, the nearest whole number") as caught:
        state = engine.run([(prediction, reference.float().clamp_min(0.375))] * 2, max_epochs=2)
    assert len(caught) == 1
    assert state.metrics[name] == pytest.approx(SCORES[name]["half"])


def test_a_label_map_without_num_classes_names_the_argument():
    engine = Engine(lambda engine, batch: batch)
    PerImageDice().attach(engine, "dice")
    prediction, reference = pair("half")
    with pytest.raises(ShapeMismatchError, match=r"label maps .* with num_classes, .* num_classes=None"):
        engine.run([(prediction, torch.cat([1 - reference, reference], 1))])


# Ignite's handlers beside it


def test_progress_bar_shows_the_score():
    engine, stream = bare_engine("dice"), io.StringIO()
    ProgressBar(persist=True, file=stream, ncols=200).attach(
        engine, metric_names="all", event_name=Events.EPOCH_COMPLETED, closing_event_name=Events.COMPLETED
    )
    engine.run([pair("half")], max_epochs=2)
    assert "dice=0.667, dice/defined=1" in stream.getvalue()


def test_early_stopping_reads_the_score():
    trainer = Engine(lambda engine, batch: None)
    evaluator = bare_engine("dice")
    of_epoch = ["half", "empty", "perfect", "half", "missed", "perfect"]  # 2/3, undefined, 1, 2/3, 0: stop after five
    evaluator.add_event_handler(
        Events.COMPLETED,
        EarlyStopping(patience=2, score_function=stopping_fn_from_metric("dice"), trainer=trainer),
    )
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: evaluator.run([pair(of_epoch[engine.state.epoch - 1])])
    )
    with pytest.warns(UserWarning, match="no image has a defined score"):
        trainer.run([0], max_epochs=len(of_epoch))
    assert trainer.state.epoch == 5


# MONAI's engines


class Logits(torch.nn.Module):
    """Hands the image on as logits; its parameter only marks which epoch a checkpoint is of."""

    def __init__(self):
        super().__init__()
        self.epoch = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, image):
        return torch.cat([0.5 - image, image - 0.5], dim=1)


def items(*images: str) -> list[dict]:
    """Images whose two-class logits have the prediction as their argmax."""
    return [
        {
            "image": MetaTensor(torch.tensor([IMAGES[image][0]]).float(), meta={"filename_or_obj": f"{image}.nii.gz"}),
            "label": MetaTensor(torch.tensor([IMAGES[image][1]]), meta={"filename_or_obj": f"{image}_label.nii.gz"}),
        }
        for image in images
    ]


class LoaderPerEpoch:
    """The next list of images each time it is iterated, as if a network had learned in between."""

    def __init__(self, *epochs):
        self.epochs, self.next = epochs, 0

    def __len__(self):
        return 1

    def __iter__(self):
        images = self.epochs[self.next]
        self.next += 1
        return iter(DataLoader(Dataset(items(*images)), batch_size=len(images)))


def evaluator_of(loader, network=None, **kwargs) -> SupervisedEvaluator:
    """The validation engine of a model-zoo bundle: decollated output, argmax as postprocessing."""
    output = from_engine(["pred", "label"])
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network or Logits(),
        postprocessing=AsDiscreted(keys="pred", argmax=True),
        key_val_metric={"val_dice": foreground("dice", output_transform=output)},
        additional_metrics={"val_iou": foreground("iou", output_transform=output)},
        **kwargs,
    )


def test_a_monai_evaluator_scores_decollated_output():
    images = ["half", "perfect", "missed", "empty"]
    evaluator = evaluator_of(DataLoader(Dataset(items(*images)), batch_size=3))
    evaluator.run()
    assert evaluator.state.metrics == {
        "val_dice": pytest.approx(mean_score("dice", *images), abs=1e-7),
        "val_dice/defined": 3,
        "val_dice/class1": pytest.approx(mean_score("dice", *images), abs=1e-7),
        "val_dice/class1/defined": 3,
        "val_iou": pytest.approx(mean_score("iou", *images), abs=1e-7),
        "val_iou/defined": 3,
        "val_iou/class1": pytest.approx(mean_score("iou", *images), abs=1e-7),
        "val_iou/class1/defined": 3,
    }
    assert evaluator.state.key_metric_name == "val_dice"
    assert evaluator.state.best_metric == evaluator.state.metrics["val_dice"]


def test_metrics_saver_writes_a_row_per_image_with_its_file_name(tmp_path):
    images = ["half", "missed", "perfect"]
    saver = MetricsSaver(
        save_dir=str(tmp_path),
        metrics="*",
        metric_details="*",
        batch_transform=lambda batch: [item["image"].meta for item in batch],
    )
    evaluator_of(DataLoader(Dataset(items(*images)), batch_size=2), val_handlers=[saver]).run()
    for name, scores in SCORES.items():
        with (tmp_path / f"val_{name}_raw.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["filename"] for row in rows] == [f"{image}.nii.gz" for image in images]
        assert [float(row["mean"]) for row in rows] == [scores[image] for image in images]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        metrics = {name: float(value) for name, value in csv.reader(file)}
    assert metrics["val_iou"] == pytest.approx(mean_score("iou", *images))
    assert metrics["val_dice/defined"] == 3


@pytest.mark.parametrize(
    ("of_epoch", "best"),
    [
        (["empty", "half", "perfect", "missed"], 3),
        (["half", "empty", "perfect", "half"], 3),
        (["half", "perfect", "half", "empty"], 2),
    ],
    ids=["empty first", "empty between", "empty last"],
)
def test_the_best_checkpoint_stays_and_an_epoch_without_a_score_cannot_take_its_place(tmp_path, of_epoch, best):
    network, metrics = Logits(), []
    saver = CheckpointSaver(
        save_dir=str(tmp_path), save_dict={"net": network}, save_key_metric=True, key_metric_filename="best.pt"
    )
    evaluator = evaluator_of(LoaderPerEpoch(*([image] for image in of_epoch)), network, val_handlers=[saver])
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: metrics.append(dict(engine.state.metrics)))
    trainer = Engine(lambda engine, batch: network.epoch.fill_(engine.state.epoch))
    ValidationHandler(interval=1, validator=evaluator).attach(trainer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.run([0], max_epochs=len(of_epoch))
    said = [str(w.message) for w in caught if "no image has a defined score" in str(w.message)]
    assert [message.split(":")[0] for message in said] == ["val_dice", "val_iou"]
    assert [m["val_dice"] for m in metrics] == pytest.approx(
        [0 if i == "empty" else SCORES["dice"][i] for i in of_epoch]
    )
    assert [m["val_dice/defined"] for m in metrics] == [0 if image == "empty" else 1 for image in of_epoch]
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"].item() == best
    assert (evaluator.state.best_metric, evaluator.state.best_metric_epoch) == (1, best)


def test_only_the_files_that_metrics_saver_writes_are_named(tmp_path):
    engine = Engine(lambda engine, batch: batch)
    arguments = {"num_classes": 3, "include_background": False, "class_labels": ["liver; (a)", "b"]}
    PerImageDice(**arguments).attach(engine, "dice")
    PerImageIoU(**arguments).attach(engine, "iou")
    (tmp_path / "iou_raw.csv").write_text("filename,class1,class2,mean\n")  # of an earlier run
    MetricsSaver(str(tmp_path), metric_details=["dice"], batch_transform=lambda batch: [], delimiter=";").attach(engine)
    engine.run([three_classes("a")])
    assert (tmp_path / "dice_raw.csv").read_text().splitlines()[0] == 'filename;"liver; (a)";b;mean'
    assert (tmp_path / "iou_raw.csv").read_text() == "filename,class1,class2,mean\n"


@pytest.mark.parametrize("name", ["dice", "scores"])
def test_metrics_saver_names_the_classes(tmp_path, name):
    engine = Engine(lambda engine, batch: batch)
    arguments = {"num_classes": 3, "include_background": False, "class_labels": ["liver", "tumour"]}
    handler = PerImageDice(**arguments) if name == "dice" else PerImageSummary(**arguments)
    handler.attach(engine, name)
    MetricsSaver(str(tmp_path), metric_details="*", batch_transform=lambda batch: [], summary_ops=["mean"]).attach(
        engine
    )
    engine.run([three_classes("a"), three_classes("b")], max_epochs=2)
    stem = "dice" if name == "dice" else "scores_dice"
    assert (tmp_path / f"{stem}_raw.csv").read_text() == (
        f"filename,liver,tumour,mean\n0,{2 / 3},{2 / 3},{2 / 3}\n1,{2 / 3},nan,{2 / 3}\n"
    )
    summary = (tmp_path / f"{stem}_summary.csv").read_text().split()
    assert summary == ["class,mean", "liver,0.6667", "tumour,0.6667", "mean,0.6667"]


def test_the_scores_of_images_in_a_file_are_those_of_the_state_to_the_last_bit(tmp_path):
    engine = Engine(lambda engine, batch: batch)
    PerImageSummary(num_classes=3).attach(engine, "scores")
    names = [{"filename_or_obj": f"left, right/{number}.nii.gz"} for number in range(7)]  # MetricsSaver quotes no comma
    saver = MetricsSaver(str(tmp_path), metric_details="*", batch_transform=lambda batch: names)
    saver.attach(engine)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 3, (2, 7, 1, 9, 11), generator=generator)
    images[1, 0] = 0  # an image without classes 1 and 2
    details = engine.run([(images[0], images[1])]).metric_details
    for name in ("scores_dice", "scores_relative_volume_error"):
        with (tmp_path / f"{name}_raw.csv").open(newline="") as file:
            heading, *rows = csv.reader(file)
        assert heading == ["filename", "class0", "class1", "class2", "mean"]
        assert [row[0] for row in rows] == [meta["filename_or_obj"] for meta in names]
        written = torch.tensor([[float(cell) for cell in row[1:]] for row in rows], dtype=torch.float64)
        assert written[:, :3].isnan().any()
        torch.testing.assert_close(written[:, :3], details[name], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(written[:, 3], details[name].nanmean(1), rtol=0, atol=0)


def test_mlflow_logs_the_scores(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    from monai.handlers import MLFlowHandler

    store = f"sqlite:///{tmp_path / 'runs.db'}"
    engine = Engine(lambda engine, batch: batch)
    arguments = {"num_classes": 2, "include_background": False, "class_labels": ["lesion (T2), left"]}
    PerImageDice(**arguments).attach(engine, "dice")
    PerImageSummary(**arguments).attach(engine, "scores")
    MLFlowHandler(store, iteration_log=False, output_transform=lambda output: None).attach(engine)
    engine.run([pair("half", "missed")])
    (run,) = mlflow.MlflowClient(store).search_runs(["1"])
    assert run.data.metrics["dice/lesion _T2__ left"] == pytest.approx(1 / 3)
    assert run.data.metrics["scores/pooled_iou"] == pytest.approx(1 / 3)


def test_tensorboard_shows_the_score_and_its_count(tmp_path):
    pytest.importorskip("tensorboard")
    from monai.handlers import TensorBoardStatsHandler
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardStatsHandler(log_dir=str(tmp_path), output_transform=lambda output: None)
    loader = DataLoader(Dataset(items("half", "perfect")), batch_size=2)
    evaluator_of(loader, val_handlers=[writer]).run()
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("val_dice")[-1].value == pytest.approx(mean_score("dice", "half", "perfect"))
    assert events.Scalars("val_iou/defined")[-1].value == 2
