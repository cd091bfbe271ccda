"""Losses as torch modules, with MONAI's argument names."""

from monai_surrogates._messages import missing_name as _missing_name
from monai_surrogates.losses.base import check_channels
from monai_surrogates.losses.compound import (
    LovaszSoftmaxCELoss,
    SoftDiceCELoss,
    SoftJaccardCELoss,
    SoftTverskyCELoss,
    SurrogateCELoss,
)
from monai_surrogates.losses.cross_entropy import PlainCELoss, TopKCELoss, WeightedCELoss
from monai_surrogates.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from monai_surrogates.losses.names import COMPARED as _COMPARED
from monai_surrogates.losses.names import SCHEDULES as _SCHEDULES
from monai_surrogates.losses.names import context_for, loss_class, make_loss
from monai_surrogates.losses.overlap import SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss
from monai_surrogates.losses.scheduled import (
    CrossEntropyToLovaszSoftmaxLoss,
    CrossEntropyToSoftDiceLoss,
    CrossEntropyToSoftJaccardLoss,
    ScheduledLoss,
)
from monai_surrogates.losses.wrapped import MonaiDiceFocalLoss, MonaiFocalLoss, MonaiGeneralizedDiceLoss

__all__ = [
    "OBJECTIVES",
    "SCHEDULES",
    "CrossEntropyToLovaszSoftmaxLoss",
    "CrossEntropyToSoftDiceLoss",
    "CrossEntropyToSoftJaccardLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxCELoss",
    "LovaszSoftmaxLoss",
    "MonaiDiceFocalLoss",
    "MonaiFocalLoss",
    "MonaiGeneralizedDiceLoss",
    "PlainCELoss",
    "ScheduledLoss",
    "SoftDiceCELoss",
    "SoftDiceLoss",
    "SoftJaccardCELoss",
    "SoftJaccardLoss",
    "SoftTverskyCELoss",
    "SoftTverskyLoss",
    "SurrogateCELoss",
    "TopKCELoss",
    "WeightedCELoss",
    "check_channels",
    "context_for",
    "loss_class",
    "make_loss",
]

# The objectives that a study compares by default, and the schedules with a dotted path; loss_class knows further names.
OBJECTIVES = {name: loss_class(name) for name in _COMPARED}
SCHEDULES = {name: loss_class(name) for name in _SCHEDULES}


def __getattr__(name: str) -> object:
    """A missing name is an error that suggests the nearest."""
    raise _missing_name(__name__, name)
