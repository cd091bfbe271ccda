"""Losses and gradients in float32 at real sizes, against independent float64 computations, on any processor."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_surrogates.core.kernels import operators
from monai_surrogates.losses import LovaszSoftmaxLoss, PlainCELoss, SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss
from tests.losses.arguments import SOFTMAX
from tests.reference import softmax

# What the losses promise. Float32 has 24 bits: probabilities are right to 6e-8 and a few times that, and so is a mean of
# them; slopes are products of a handful of such numbers.
LOSS, GRADIENT = 1e-6, 1e-5

SMOOTH = 1e-5  # the losses' default
# name: the loss, its (α, β), and its settings
SCORES = {
    "SoftDice": (SoftDiceLoss, (0.5, 0.5), {}),
    "SoftJaccard": (SoftJaccardLoss, (1.0, 1.0), {}),
    "SoftTversky": (SoftTverskyLoss, (1.0, 0.0), {"alpha": 1.0, "beta": 0.0}),
}
SQUARED = {"SoftDice, squared": (SoftDiceLoss, (0.5, 0.5), {"squared_pred": True})}


def random_labels(classes, voxels, generator):
    """A few per cent of foreground."""
    foreground = torch.rand(voxels, generator=generator) < 0.03
    return torch.where(foreground, torch.randint(1, classes, (voxels,), generator=generator), 0)


def near_constant(classes, labels, generator):
    """A network with nearly the same output everywhere: probabilities that round alike, and float32 sums that drift."""
    return torch.linspace(0.3, -5.2, classes)[:, None] + 1e-4 * torch.randn(classes, len(labels), generator=generator)


def sure(gap, of_wrong):
    """A network with a gap between the logits of its predicted class and the others, wrong in a share of the voxels."""

    def logits(classes, labels, generator):
        wrong = torch.rand(len(labels), generator=generator) < of_wrong
        said = torch.where(wrong, (labels + 1) % classes, labels)
        return gap * torch.nn.functional.one_hot(said, classes).T.float()

    return logits


PREDICTIONS = {
    "random": lambda classes, labels, generator: torch.randn(classes, len(labels), generator=generator),
    "near-constant": near_constant,
    "right by 10": sure(10.0, 0.0),
    "right by 15": sure(15.0, 0.0),
    "right by 20": sure(20.0, 0.0),
    "right by 30": sure(30.0, 0.0),
    "wrong by 10": sure(10.0, 1.0),
    "wrong by 15": sure(15.0, 1.0),
    "wrong by 15 in one of a hundred": sure(15.0, 0.01),
}


def exact_overlap_loss(x, labels, alpha, beta, scale, squared):
    """Soft Tversky loss and ∂L/∂x (C, N) in float64, by NumPy's pairwise sums.

    The slopes p_c(g_c − Σ_k p_k g_k) are taken with g less that of the most probable class, so that nothing cancels.
    """
    p = softmax(x)
    loss, g = 0.0, np.empty_like(p)
    for c, p_c in enumerate(p):
        y = labels == c
        hit, volume, reference = p_c[y].sum(), (p_c * p_c if squared else p_c).sum(), y.sum()
        numerator = scale * hit + SMOOTH
        denominator = scale * (hit + alpha * (volume - hit) + beta * (reference - hit)) + SMOOTH
        loss += (1 - numerator / denominator) / len(p)
        of_hit = scale * (-1 / denominator + numerator / denominator**2 * (1 - alpha - beta))
        of_volume = scale * alpha * numerator / denominator**2
        g[c] = (of_hit * y + of_volume * (2 * p_c if squared else 1)) / len(p)
    g -= np.take_along_axis(g, p.argmax(0)[None], 0)
    return loss, p * (g - (p * g).sum(0))


def assert_exact(name, loss, x, target, expected, tolerance=GRADIENT):
    x = x[None].clone().requires_grad_()
    value = loss(x, target)
    value.backward()
    exact, slopes = expected
    assert value.item() == pytest.approx(exact, abs=LOSS), name
    error = np.linalg.norm(x.grad[0].double().numpy() - slopes) / np.linalg.norm(slopes)
    assert error <= tolerance, name


WHERE_SUMS_DRIFT = ["near-constant", "right by 15", "wrong by 15", "wrong by 15 in one of a hundred"]
PLAIN = [(40, 2), (34, 3)]  # by the plain definitions, as on devices without kernels
CASES = [
    *((side, classes, prediction) for side, classes in PLAIN for prediction in PREDICTIONS),
    *((96, classes, prediction) for classes in (2, 3) for prediction in PREDICTIONS),
    *(pytest.param(96, 14, prediction, marks=pytest.mark.slow) for prediction in PREDICTIONS),
    *(pytest.param(128, c, prediction, marks=pytest.mark.slow) for c in (2, 3) for prediction in WHERE_SUMS_DRIFT),
    pytest.param(128, 14, "near-constant", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("side", "classes", "prediction"), CASES)
def test_overlap_losses_from_label_maps(side, classes, prediction, monkeypatch):
    if (side, classes) in PLAIN:
        monkeypatch.setattr(operators, "KERNELS", {})
    generator = torch.Generator().manual_seed(0)
    labels = random_labels(classes, side**3, generator)
    x = PREDICTIONS[prediction](classes, labels, generator)
    # by 30, float64's own 1e-16 is a thousandth of 1 − p, in which the slopes of squares are
    for name, (loss, weights, settings) in {**SCORES, **({} if prediction == "right by 30" else SQUARED)}.items():
        expected = exact_overlap_loss(x.double().numpy(), labels.numpy(), *weights, loss.scale, name in SQUARED)
        assert_exact(name, loss(softmax=True, to_onehot_y=True, **settings), x, labels[None, None], expected)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_overlap_losses_from_one_hot_masks(prediction):
    generator = torch.Generator().manual_seed(0)
    labels = random_labels(3, 96**3, generator)
    x = PREDICTIONS[prediction](3, labels, generator)
    masks = torch.nn.functional.one_hot(labels, 3).T.float()[None]
    for name, (loss, weights, settings) in {**SCORES, **({} if prediction == "right by 30" else SQUARED)}.items():
        expected = exact_overlap_loss(x.double().numpy(), labels.numpy(), *weights, loss.scale, name in SQUARED)
        assert_exact(name, loss(softmax=True, **settings), x, masks, expected)


@pytest.mark.parametrize("two_class", [False, True])
@pytest.mark.parametrize("gap", [0.0, 10.0, 20.0])
def test_squared_overlap_losses_of_a_sigmoid(gap, two_class):
    """1 − 2I/(Σp² + Σy²) and its slopes from the errors e = σ(∓x), with 1 − D = Σe²/(Σp² + Σy²)."""
    generator = torch.Generator().manual_seed(0)
    labels = random_labels(2, 34**3, generator)
    x = gap * (2.0 * labels - 1) + torch.randn(labels.shape, generator=generator)
    of_classes, slopes = [], torch.zeros(len(labels), dtype=torch.float64)
    for sign in (1, -1) if two_class else (1,):
        y = labels.double() if sign == 1 else 1 - labels.double()
        e = torch.sigmoid(sign * x.double() * (1 - 2 * y))
        p = torch.sigmoid(sign * x.double())
        denominator = (p * p).sum() + y.sum() + SMOOTH
        missing = (e * e).sum() / denominator
        of_classes.append(float(missing))
        # d(1 − D)/dp = 2(p − y)/denominator − (1 − D)·2p/denominator, p − y = ±e
        of_p = 2 * torch.where(y == 1, -e, e) / denominator - missing * 2 * p / denominator
        slopes += sign * of_p * p * torch.sigmoid(-sign * x.double())
    expected = np.mean(of_classes), slopes[None].numpy() / len(of_classes)
    loss = SoftDiceLoss(sigmoid=True, squared_pred=True, two_class=two_class)
    assert_exact("SoftDice", loss, x[None], labels.float()[None, None], expected)


@pytest.mark.parametrize("gap", [0.0, 10.0, 20.0])
def test_overlap_losses_of_a_sigmoid(gap):
    """∂L/∂x = g p(1 − p), which two logits of 0 and x have as softmax."""
    generator = torch.Generator().manual_seed(0)
    labels = random_labels(2, 96**3, generator)
    x = gap * (2.0 * labels - 1) + torch.randn(labels.shape, generator=generator)
    p, y = torch.sigmoid(x.double()), labels.double()
    denominator = p.sum() + y.sum() + SMOOTH
    numerator = 2 * p @ y + SMOOTH
    slopes = (-2 * y / denominator + numerator / denominator**2) * p * torch.sigmoid(-x.double())
    expected = 1 - float(numerator / denominator), slopes[None].numpy()
    assert_exact("SoftDice", SoftDiceLoss(sigmoid=True), x[None], y.float()[None, None], expected)


@pytest.mark.parametrize("gap", [0.0, 10.0, 20.0])
def test_two_classes_of_a_sigmoid_are_those_of_the_softmax_of_0_and_x(gap):
    generator = torch.Generator().manual_seed(0)
    labels = random_labels(2, 34**3, generator)
    labels[:] = 1  # the background is absent, and its volume a sum of small probabilities
    x = gap * (2.0 * labels - 1) + torch.randn(labels.shape, generator=generator)
    loss, slopes = exact_overlap_loss(
        torch.stack([torch.zeros_like(x), x]).double().numpy(), labels.numpy(), 0.5, 0.5, SoftDiceLoss.scale, False
    )
    y = labels.float()[None, None]
    assert_exact("SoftDice", SoftDiceLoss(sigmoid=True, two_class=True), x[None], y, (loss, slopes[1:]))


def exact_lovasz_softmax(logits, labels):
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
    # sorting: float32 weights differ where near-equal errors change places (REFERENCE: 5e-6 at two classes, 9e-5 at 14);
    # bins: what the docstring promises
    [(128, 2, [(EXACT, 1e-5), (BINS, 1e-3), (FINE, 1e-3)]), (96, 14, [(EXACT, 1e-4), (BINS, 5e-3), (FINE, 1e-3)])],
    ids=["128³, 2 classes", "96³, 14 classes"],
)
def test_lovasz_softmax(side, classes, tolerances):
    generator = torch.Generator().manual_seed(0)
    n = side**3
    foreground = torch.rand(n, generator=generator) < (0.01 if classes == 2 else 0.3)
    labels = torch.where(foreground, torch.randint(1, classes, (n,), generator=generator), 0)
    x = torch.randn(classes, n, generator=generator)
    x += 2 * torch.nn.functional.one_hot(labels, classes).T
    expected = exact_lovasz_softmax(x.double().numpy(), labels.numpy())
    for method, tolerance in tolerances:
        loss = LovaszSoftmaxLoss(softmax=True, to_onehot_y=True, **method)
        assert_exact(method, loss, x, labels[None, None], expected, tolerance)


@pytest.mark.parametrize("ignored", [None, 2])
def test_float32_counts_of_a_volume_are_those_of_float64(ignored):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(1, 2, 96, 96, 96, generator=generator)
    y = torch.randint(0, 2 if ignored is None else 3, (1, 1, 96, 96, 96), generator=generator)
    loss = SoftDiceLoss(**SOFTMAX, ignore_index=ignored, reduction="none")
    difference = loss(x, y).double() - loss(x.double(), y)
    assert difference.abs().max() <= LOSS


def test_binary_cross_entropy_is_torch_s_at_large_logits():
    x = torch.linspace(-60, 60, 240, dtype=torch.float64).view(1, 2, 120).requires_grad_()
    y = (torch.arange(240) % 3 == 0).double().view(1, 2, 120)
    for ours, theirs in (
        (PlainCELoss(sigmoid=True)(x, y), F.binary_cross_entropy_with_logits(x, y)),
        (
            PlainCELoss(sigmoid=True, weight=3.0)(x, y),
            F.binary_cross_entropy_with_logits(x, y, pos_weight=torch.tensor(3.0, dtype=torch.float64)),
        ),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)
