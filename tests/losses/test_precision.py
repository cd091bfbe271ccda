"""The Lovász gradient in float32 at real sizes, against an independent float64 computation."""

import numpy as np
import pytest
import torch

from monai_surrogates.losses import LovaszSoftmaxLoss
from tests.reference import softmax


def lovasz_softmax_gradient(logits, labels):
    """d loss / d logits, (C, N) float64: the mean over classes, weights as exact differences of 1 − IoU."""
    p = softmax(logits)
    of_probability = np.zeros_like(p)
    for c in range(len(p)):
        y = labels == c
        errors = np.where(y, 1 - p[c], p[c])
        order = np.argsort(-errors, kind="stable")
        passed = np.cumsum(y[order], dtype=np.int64)
        union = y.sum() + np.arange(1, len(y) + 1) - passed
        weights = np.diff(1 - (y.sum() - passed) / union, prepend=0.0)
        of_probability[c, order] = weights * np.where(y[order], -1, 1)
    of_probability /= len(p)
    return p * (of_probability - (p * of_probability).sum(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "classes", "tolerance"), [(128, 2, 1e-5), (96, 14, 1e-4)], ids=["128³, 2 classes", "96³, 14 classes"]
)
def test_gradient_in_float32(side, classes, tolerance):
    generator = torch.Generator().manual_seed(0)
    n = side**3
    foreground = torch.rand(n, generator=generator) < (0.01 if classes == 2 else 0.3)
    labels = torch.where(foreground, torch.randint(1, classes, (n,), generator=generator), 0)
    x = torch.randn(classes, n, generator=generator)
    x += 2 * torch.nn.functional.one_hot(labels, classes).T
    x.requires_grad_()
    LovaszSoftmaxLoss(softmax=True, to_onehot_y=True)(x[None], labels[None, None]).backward()
    exact = lovasz_softmax_gradient(x.detach().double().numpy(), labels.numpy())
    error = np.linalg.norm(x.grad.double().numpy() - exact) / np.linalg.norm(exact)
    assert error <= tolerance
