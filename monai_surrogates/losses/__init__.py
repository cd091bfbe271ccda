"""Losses as torch modules, with MONAI's argument names."""

from monai_surrogates.losses.cross_entropy import PlainCELoss, WeightedCELoss
from monai_surrogates.losses.lovasz import LovaszSoftmaxLoss
from monai_surrogates.losses.objectives import OBJECTIVES, loss_class, make_loss
from monai_surrogates.losses.overlap import SoftDiceLoss, SoftJaccardLoss

__all__ = [
    "OBJECTIVES",
    "LovaszSoftmaxLoss",
    "PlainCELoss",
    "SoftDiceLoss",
    "SoftJaccardLoss",
    "WeightedCELoss",
    "loss_class",
    "make_loss",
]
