"""Twelve hand-made cases by our metrics, NumPy, MONAI, torchmetrics and Ignite; every disagreement has its reason."""

import math
import warnings

import numpy as np
import pytest
import torch
from ignite.metrics import ConfusionMatrix, DiceCoefficient, IoU
from monai.metrics import DiceMetric, MeanIoU
from torchmetrics.functional.segmentation import dice_score, mean_iou

from monai_surrogates.metrics import PerImageDiceMetric, PerImageIoUMetric, PerImageScores
from tests import reference

NONE = (math.nan, math.nan)
ABSENT = (None, None)  # the library has no such setting, or cannot hold such a case

# name: (C, settings, prediction and reference of each image, our per-image Dice and IoU of class 1, our pooled ones),
# the fractions counted by hand
CASES = {
    "half found": (2, {}, [("1100", "1000")], (2 / 3, 1 / 2), (2 / 3, 1 / 2)),
    "missed": (2, {}, [("0000", "0100")], (0, 0), (0, 0)),
    "both empty": (2, {}, [("0000", "0000")], NONE, NONE),
    "false alarm": (2, {}, [("0100", "0000")], NONE, NONE),
    "both empty, empty=score": (2, {"empty": "score"}, [("0000", "0000")], (1, 1), (1, 1)),
    "false alarm, empty=score": (2, {"empty": "score"}, [("0100", "0000")], (0, 0), (0, 0)),
    "false alarm, empty=both": (2, {"empty": "both"}, [("0100", "0000")], (0, 0), (0, 0)),
    "large found, small missed": (2, {}, [("1111", "1111"), ("0000", "1000")], (1 / 2, 1 / 2), (8 / 9, 4 / 5)),
    "255 ignored": (2, {"ignore_index": 255}, [("1101", "10__")], (2 / 3, 1 / 2), (2 / 3, 1 / 2)),
    "class 2 ignored": (3, {"ignore_index": 2}, [("1112", "1022")], (2 / 3, 1 / 2), (2 / 3, 1 / 2)),
    "everything ignored": (2, {"ignore_index": 255}, [("1100", "____")], NONE, NONE),
    "structures overlap": (2, {"masks": True}, [("1332", "3120")], (4 / 5, 2 / 3), (4 / 5, 2 / 3)),
}

# reasons for other values of a library
ABSENT_IN_BOTH = "Dice NaN, IoU -1"
NO_RULE = "no rule, 0/0 is 0"
REASONS = {
    "both empty": {"torchmetrics": ABSENT_IN_BOTH, "Ignite": NO_RULE},
    "false alarm": {"torchmetrics": "counts it as 0", "Ignite": "counts it as 0"},
    "both empty, empty=score": {"torchmetrics": ABSENT_IN_BOTH, "Ignite": NO_RULE},
    "false alarm, empty=both": {"MONAI": "has no such rule"},
    "255 ignored": {"torchmetrics": "ignores nothing"},
    "class 2 ignored": {
        "MONAI": "MeanIoU leaves out the class, DiceMetric its voxels",
        "torchmetrics": "ignores nothing",
        "Ignite": "leaves out the class, not its voxels",
    },
    "everything ignored": {"torchmetrics": "ignores nothing", "Ignite": NO_RULE},
    "structures overlap": {"Ignite": "one class per voxel"},
}


def label_map(text: str) -> list[int]:
    """A character per voxel, ``_`` is 255."""
    return [255 if character == "_" else int(character) for character in text]


def batch(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Label maps (B, 1, 1, N), or, where structures overlap, masks (B, 2, 1, N): bit 0 of a digit is class 1, bit 1 class 2."""
    images = CASES[case][2]
    sides = [torch.tensor([[[label_map(image[side])]] for image in images]) for side in (0, 1)]
    if "masks" in CASES[case][1]:
        sides = [torch.cat([x & 2, x & 1], dim=1).bool().long() for x in sides]
    return sides[0], sides[1]


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(B, C, 1, N); label maps become masks, in which 255 has no class."""
    return labels if labels.shape[1] > 1 else torch.cat([labels == c for c in range(num_classes)], dim=1).long()


def ours(case):
    num_classes, settings, _, _, _ = CASES[case]
    settings = {name: value for name, value in settings.items() if name != "masks"}
    values = []
    for metric_class in (PerImageDiceMetric, PerImageIoUMetric):
        metric = metric_class(num_classes=num_classes, reduction="mean_batch", **settings)
        metric(*batch(case))
        values.append(metric.aggregate()[1].item())
    return tuple(values)


def ours_pooled(case):
    num_classes, settings, _, _, _ = CASES[case]
    scores = PerImageScores(num_classes=num_classes, **{k: v for k, v in settings.items() if k != "masks"})
    scores(*batch(case))
    return tuple(scores.pooled()[name][1].item() for name in ("dice", "iou"))


def numpy(case):
    num_classes, settings, _, _, _ = CASES[case]
    prediction, target = (one_hot(x, num_classes)[:, 1].bool().numpy() for x in batch(case))
    labels = batch(case)[1][:, 0].numpy()
    scores = []
    for p, r, y in zip(prediction, target, labels, strict=True):
        valid = y != settings.get("ignore_index", -1)
        scores.append(reference.dice_and_iou_by_rule(p[valid], r[valid], settings.get("empty", "ignore")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means without a value
        return tuple(np.nanmean(scores, axis=0))


def monai(case):
    num_classes, settings, _, _, _ = CASES[case]
    if settings.get("empty") == "both":
        return ABSENT
    shared = {"ignore_empty": settings.get("empty", "ignore") == "ignore", "ignore_index": settings.get("ignore_index")}
    shared |= {"include_background": True, "reduction": "mean_batch", "get_not_nans": True}
    values = []
    for metric in (DiceMetric(**shared), MeanIoU(**shared)):
        metric(*(one_hot(x, num_classes) for x in batch(case)))
        value, count = metric.aggregate()
        values.append(value[1].item() if count[1] else math.nan)  # MONAI reports 0 beside a count of 0
    return tuple(values)


def torchmetrics(case):
    num_classes = CASES[case][0]
    masks = [one_hot(x, num_classes) for x in batch(case)]
    cells = dice_score(*masks, num_classes, average="none")[:, 1], mean_iou(*masks, num_classes, per_class=True)[:, 1]
    return tuple(cell.nanmean().item() for cell in cells)


def ignite(case):
    num_classes, settings, _, _, _ = CASES[case]
    if "masks" in settings:
        return ABSENT
    matrix = ConfusionMatrix(num_classes)
    ignored = settings.get("ignore_index")
    ignored = ignored if ignored in range(num_classes) else None  # labels out of range are left out anyhow
    metrics = [
        DiceCoefficient(matrix, ignored),
        IoU(matrix, ignored),
    ]  # made before the update, because making them resets the matrix
    prediction, target = batch(case)
    matrix.update((one_hot(prediction, num_classes), target[:, 0]))
    return tuple(metric.compute()[1].item() for metric in metrics)


COUNTERS = {
    "ours": ours,
    "NumPy": numpy,
    "MONAI": monai,
    "torchmetrics": torchmetrics,
    "ours pooled": ours_pooled,
    "Ignite": ignite,
}
AGAINST = {"NumPy": "ours", "MONAI": "ours", "torchmetrics": "ours", "Ignite": "ours pooled"}


def same(first, second) -> bool:
    # the peers' scores are float32
    return all(a == pytest.approx(b, abs=1e-6, nan_ok=True) for a, b in zip(first, second, strict=True))


def text(values) -> str:
    return "-" if values == ABSENT else " ".join("NaN " if math.isnan(v) else f"{v:.3f}" for v in values)


def test_twelve_cases_agree_or_the_reason_is_known(agreement_table):
    found = {case: {name: counter(case) for name, counter in COUNTERS.items()} for case in CASES}
    agreement_table[:] = [["case", *COUNTERS, "why others differ"]]
    for case, values in found.items():
        reasons = [f"{library}: {reason}" for library, reason in REASONS.get(case, {}).items()]
        agreement_table.append([case, *map(text, values.values()), "; ".join(reasons)])
    for case, values in found.items():
        assert same(values["ours"], CASES[case][3]), case
        assert same(values["ours pooled"], CASES[case][4]), case
    differing = {
        case: {name for name, own in AGAINST.items() if values[name] == ABSENT or not same(values[name], values[own])}
        for case, values in found.items()
    }
    assert {case: names for case, names in differing.items() if names} == {c: set(r) for c, r in REASONS.items()}
