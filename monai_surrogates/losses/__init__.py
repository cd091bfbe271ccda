"""Losses as torch modules, with MONAI's argument names."""

from monai_surrogates.losses.base import check_channels
from monai_surrogates.losses.compound import (
    LovaszSoftmaxCELoss,
    SoftDiceCELoss,
    SoftJaccardCELoss,
    SoftTverskyCELoss,
    SurrogateCELoss,
)
from monai_surrogates.losses.cross_entropy import PlainCELoss, WeightedCELoss
from monai_surrogates.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from monai_surrogates.losses.names import COMPARED as _COMPARED
from monai_surrogates.losses.names import SCHEDULES as _SCHEDULES
from monai_surrogates.losses.names import loss_class, make_loss
from monai_surrogates.losses.overlap import SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss
from monai_surrogates.losses.scheduled import (
    CrossEntropyToLovaszSoftmaxLoss,
    CrossEntropyToSoftDiceLoss,
    CrossEntropyToSoftJaccardLoss,
    ScheduledLoss,
)

__all__ = [
    "OBJECTIVES",
    "SCHEDULES",
    "CrossEntropyToLovaszSoftmaxLoss",
    "CrossEntropyToSoftDiceLoss",
    "CrossEntropyToSoftJaccardLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxCELoss",
    "LovaszSoftmaxLoss",
    "PlainCELoss",
    "ScheduledLoss",
    "SoftDiceCELoss",
    "SoftDiceLoss",
    "SoftJaccardCELoss",
    "SoftJaccardLoss",
    "SoftTverskyCELoss",
    "SoftTverskyLoss",
    "SurrogateCELoss",
    "WeightedCELoss",
    "check_channels",
    "loss_class",
    "make_loss",
]

# The objectives that a study compares by default, and the schedules with a dotted path; loss_class knows further names.
OBJECTIVES = {name: loss_class(name) for name in _COMPARED}
SCHEDULES = {name: loss_class(name) for name in _SCHEDULES}
