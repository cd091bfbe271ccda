"""The definitions in plain torch, differentiable, in the type of the logits; written from the papers, not from the package."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_tversky_loss(logits: Tensor, labels: Tensor, alpha: float, beta: float, smooth: float = 1e-5) -> Tensor:
    """Mean over images and classes, MONAI's doubled counts: (½, ½) is its DiceLoss, (1, 1) that with jaccard=True."""
    p = logits.flatten(2).softmax(1)
    y = (labels.flatten(2) == torch.arange(p.shape[1], device=p.device).view(1, -1, 1)).to(p.dtype)
    hit = (p * y).sum(-1)
    wrong = alpha * (p.sum(-1) - hit) + beta * (y.sum(-1) - hit)
    return (1 - (2 * hit + smooth) / (2 * (hit + wrong) + smooth)).mean()


def lovasz_softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Berman et al., CVPR 2018 (arXiv 1705.08790), as their algorithm 1 says it, over the present classes of each image."""
    losses = []
    for p, y in zip(logits.flatten(2).softmax(1), labels.flatten(1), strict=True):
        masks = [(p_c, y == c) for c, p_c in enumerate(p)]
        of_classes = [lovasz_of_class(p_c, mask.to(p.dtype)) for p_c, mask in masks if mask.any()]
        losses.append(torch.stack(of_classes).mean())
    return torch.stack(losses).mean()


def lovasz_of_class(p: Tensor, foreground: Tensor) -> Tensor:
    """Errors sorted to fall, times the steps of the Jaccard loss."""
    errors, order = (foreground - p).abs().sort(descending=True)
    return torch.dot(errors, jaccard_steps(foreground[order]))


def jaccard_steps(foreground: Tensor) -> Tensor:
    """The Jaccard loss once the first i voxels are wrong, less that before the i-th."""
    volume = foreground.sum()
    jaccard = 1 - (volume - foreground.cumsum(0)) / (volume + (1 - foreground).cumsum(0))
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def dice_of_label_maps(prediction: Tensor, reference: Tensor, num_classes: int) -> Tensor:
    """Dice of every image and class, (B, C) in float64; all classes must occur in the reference."""
    masks = [(prediction.flatten(1) == c, reference.flatten(1) == c) for c in range(num_classes)]
    return torch.stack([2 * (a & b).sum(-1) / (a.sum(-1) + b.sum(-1)).double() for a, b in masks], dim=1)
