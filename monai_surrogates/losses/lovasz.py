"""Lovász losses: the convex closure of the Jaccard loss in the errors."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core import inputs, lovasz_jaccard
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.losses.base import PerClassLoss


class LovaszSoftmaxLoss(PerClassLoss):
    """Lovász-softmax loss: per image and class the Lovász extension of 1 − IoU in the errors |p − y|.

    Tight for the IoU: equal to 1 − IoU at hard predictions, and never above the soft Jaccard loss. With ``sigmoid=True``
    the same loss for structures that may overlap. On an image without a class the loss of that class is its largest
    probability; ``classes="present"`` (the paper's choice and the default) leaves it out.

    Args:
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.base.PerClassArguments`, here with
            ``classes="present"`` by default.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` the losses, (B, K, 1...), K the classes counted.

    Raises:
        TypeError: an argument that no loss knows.
        ValueError: arguments that exclude each other, values out of their range, or a soft target.

    References:
        Berman et al., The Lovász-Softmax loss, CVPR 2018 (arXiv 1705.08790).

    Examples:
        >>> import torch
        >>> p = torch.tensor([[3 / 4, 1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 2, 3 / 4, 7 / 8]]).view(1, 2, 2, 2)
        >>> y = torch.tensor([0, 1, 1, 0]).view(1, 1, 2, 2)
        >>> LovaszSoftmaxLoss(to_onehot_y=True)(p, y)  # 55/96
        tensor(0.5729)
    """

    default_classes = "present"

    def _per_class(self, probabilities: Voxels) -> tuple[Tensor, Tensor]:
        p, y, valid = probabilities
        num_classes = p.shape[1]
        if probabilities.is_label_map:
            labels = y.unsqueeze(1)
            errors = p.scatter(1, labels, 1 - p.gather(1, labels))
            is_reference = labels == torch.arange(num_classes, device=y.device).view(1, -1, 1)
        else:
            errors, is_reference = (p - y).abs(), y > 0.5
        counted = None if valid is None else valid.unsqueeze(1)
        if self.batch:
            errors, is_reference = _one_image(errors), _one_image(is_reference)
            counted = None if counted is None else _one_image(counted)
        reference = is_reference if counted is None else is_reference & counted
        return lovasz_jaccard(errors, is_reference, counted), reference.sum(-1)

    def _check_values(self, voxels: Voxels) -> None:
        if not voxels.is_label_map:
            inputs.check_hard(voxels.target)
        super()._check_values(voxels)


def _one_image(x: Tensor) -> Tensor:
    """(B, C, N) → (1, C, B·N): the batch as one image."""
    return x.transpose(0, 1).flatten(1).unsqueeze(0)
