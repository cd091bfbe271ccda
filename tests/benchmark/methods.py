"""What is timed. Each method imports what it needs and nothing else, so that no process carries another's libraries."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from tests.benchmark.cases import OLD, Case
from tests.reference_torch import dice_of_label_maps, lovasz_softmax_loss, soft_tversky_loss

Method = Callable[[Tensor, Tensor], Tensor]

FLAGS = {"softmax": True, "to_onehot_y": True}


def make(name: str, case: Case) -> Method:
    """The method of a name: (logits, label map) to a loss, or (label map, label map) to scores."""
    return BUILDERS[name.removeprefix(OLD)](case)


def _cross_entropy(case: Case) -> Method:
    return lambda logits, labels: functional.cross_entropy(logits, labels.squeeze(1))


def _ours(name: str, **settings: object) -> Callable[[Case], Method]:
    def build(case: Case) -> Method:
        from monai_surrogates import losses

        return getattr(losses, name)(**FLAGS, **settings)

    return build


def _monai(**settings: object) -> Callable[[Case], Method]:
    def build(case: Case) -> Method:
        from monai.losses import DiceLoss

        return DiceLoss(**FLAGS, **settings)

    return build


def _kornia(case: Case) -> Method:
    from kornia.losses import lovasz_softmax_loss as of_images

    # it knows images alone; a volume is one of a single row
    return lambda logits, labels: of_images(logits.flatten(2).unsqueeze(2), labels.flatten(2))


def _textbook(case: Case) -> Method:
    return lovasz_softmax_loss


def _counting(case: Case) -> Method:
    from monai_surrogates.metrics import PerImageDiceMetric

    return _once(PerImageDiceMetric(num_classes=case.classes))


def _dice_metric(case: Case) -> Method:
    from monai.metrics import DiceMetric

    return _once(DiceMetric(num_classes=case.classes))


def _once(metric: Callable[[Tensor, Tensor], Tensor]) -> Method:
    """The scores of one batch; a metric that kept them would grow from call to call."""

    def score(prediction: Tensor, reference: Tensor) -> Tensor:
        metric.reset()
        return metric(prediction, reference)

    return score


BUILDERS: dict[str, Callable[[Case], Method]] = {
    "cross_entropy": _cross_entropy,
    "soft_dice": _ours("SoftDiceLoss"),
    "soft_jaccard": _ours("SoftJaccardLoss"),
    "lovasz_auto": _ours("LovaszSoftmaxLoss"),
    "lovasz_sort": _ours("LovaszSoftmaxLoss", method="sort"),
    "lovasz_bins": _ours("LovaszSoftmaxLoss", method="bins"),
    "lovasz_fine_bins": _ours("LovaszSoftmaxLoss", method="bins", bins=16384),
    "monai_dice": _monai(),
    "monai_jaccard": _monai(jaccard=True),
    "kornia_lovasz": _kornia,
    "textbook_lovasz": _textbook,
    "counting": _counting,
    "monai_dice_metric": _dice_metric,
}


def definition(name: str, case: Case) -> Method:
    """What a method computes, from tests.reference_torch, to be called in float64."""
    if case.dtype is not None:
        return lambda prediction, reference: dice_of_label_maps(prediction, reference, case.classes)
    if name == "cross_entropy":
        return _cross_entropy(case)
    if "lovasz" in name:
        return lovasz_softmax_loss
    weight = 1.0 if "jaccard" in name else 0.5
    return lambda logits, labels: soft_tversky_loss(logits, labels, weight, weight)
