"""Softmax and sigmoid have torch's values, and gradients that keep their digits where a network is sure."""

import pytest
import torch

from monai_surrogates.core import activation

PAIRS = {
    "softmax": (activation.precise_softmax, lambda x: x.softmax(1)),
    "sigmoid": (activation.precise_sigmoid, torch.sigmoid),
}


def slopes_of_softmax(x, g):
    """p_c Σ_k p_k (g_c − g_k): differences of slopes alone, so that nothing cancels."""
    p = x.softmax(1)
    return p * (p.unsqueeze(1) * (g.unsqueeze(2) - g.unsqueeze(1))).sum(2)


def slopes_of_sigmoid(x, g):
    """g σ(x) σ(−x)."""
    return g * torch.sigmoid(x) * torch.sigmoid(-x)


CLOSED_FORMS = {"softmax": slopes_of_softmax, "sigmoid": slopes_of_sigmoid}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("gap", [0.0, 10.0, 17.0, 35.0])
def test_gradients_in_float32_are_those_of_float64(name, gap):
    ours, torchs = PAIRS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 300, generator=generator)
    x[:, 1] += gap
    slopes = torch.randn(x.shape, generator=generator)
    (grad,) = torch.autograd.grad(ours(x.requires_grad_()), x, slopes)
    assert torch.equal(ours(x), torchs(x))
    expected = CLOSED_FORMS[name](x.detach().double(), slopes.double())
    assert (grad.double() - expected).norm() <= 1e-6 * expected.norm()  # ten roundings of float32 and some


@pytest.mark.parametrize("name", PAIRS)
def test_they_can_be_differentiated_twice(name):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(PAIRS[name][0], x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(PAIRS[name][0], x)
