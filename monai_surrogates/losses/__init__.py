"""Losses as torch modules, with MONAI's argument names."""

from monai_surrogates.losses.base import check_channels
from monai_surrogates.losses.compound import LovaszSoftmaxCELoss, SoftDiceCELoss, SoftJaccardCELoss, SurrogateCELoss
from monai_surrogates.losses.cross_entropy import PlainCELoss, WeightedCELoss
from monai_surrogates.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from monai_surrogates.losses.objectives import OBJECTIVES, loss_class, make_loss
from monai_surrogates.losses.overlap import SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss

__all__ = [
    "OBJECTIVES",
    "LovaszHingeLoss",
    "LovaszSoftmaxCELoss",
    "LovaszSoftmaxLoss",
    "PlainCELoss",
    "SoftDiceCELoss",
    "SoftDiceLoss",
    "SoftJaccardCELoss",
    "SoftJaccardLoss",
    "SoftTverskyLoss",
    "SurrogateCELoss",
    "WeightedCELoss",
    "check_channels",
    "loss_class",
    "make_loss",
]
