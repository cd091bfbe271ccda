"""The Lovász gradient in float32 at real sizes, against an independent float64 computation."""

import numpy as np
import pytest
import torch

from monai_surrogates.losses import LovaszSoftmaxLoss
from tests.reference import softmax


def lovasz_softmax(logits, labels):
    """The loss and d loss / d logits, (C, N), in float64: the mean over classes, weights as exact differences of 1 − IoU."""
    p = softmax(logits)
    of_probability, loss = np.zeros_like(p), 0.0
    for c in range(len(p)):
        y = labels == c
        errors = np.where(y, 1 - p[c], p[c])
        order = np.argsort(-errors, kind="stable")
        passed = np.cumsum(y[order], dtype=np.int64)
        union = y.sum() + np.arange(1, len(y) + 1) - passed
        weights = np.diff(1 - (y.sum() - passed) / union, prepend=0.0)
        loss += weights @ errors[order] / len(p)
        of_probability[c, order] = weights * np.where(y[order], -1, 1)
    of_probability /= len(p)
    return loss, p * (of_probability - (p * of_probability).sum(0))


EXACT, BINS, FINE = {"method": "sort"}, {}, {"bins": 16384}  # images are large enough for method="auto" to take bins


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "classes", "tolerances"),
    [(128, 2, [(EXACT, 1e-5), (BINS, 1e-3), (FINE, 1e-3)]), (96, 14, [(EXACT, 1e-4), (BINS, 5e-3), (FINE, 1e-3)])],
    ids=["128³, 2 classes", "96³, 14 classes"],
)
def test_loss_and_gradient_in_float32(side, classes, tolerances):
    generator = torch.Generator().manual_seed(0)
    n = side**3
    foreground = torch.rand(n, generator=generator) < (0.01 if classes == 2 else 0.3)
    labels = torch.where(foreground, torch.randint(1, classes, (n,), generator=generator), 0)
    x = torch.randn(classes, n, generator=generator)
    x += 2 * torch.nn.functional.one_hot(labels, classes).T
    expected, exact = lovasz_softmax(x.double().numpy(), labels.numpy())
    x.requires_grad_()
    for method, tolerance in tolerances:
        x.grad = None
        loss = LovaszSoftmaxLoss(softmax=True, to_onehot_y=True, **method)(x[None], labels[None, None])
        loss.backward()
        assert loss.item() == pytest.approx(expected, abs=1e-5), method
        error = np.linalg.norm(x.grad.double().numpy() - exact) / np.linalg.norm(exact)
        assert error <= tolerance, method
