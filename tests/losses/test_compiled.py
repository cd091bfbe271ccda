"""Losses compiled by torch's default backend are the losses, whatever a process with other instructions left in its cache."""

import os
import subprocess
import sys

import pytest
import torch

from monai_surrogates import losses

SOFTMAX = {"softmax": True, "to_onehot_y": True}
FORMS = {
    "overlap": (losses.SoftDiceLoss, SOFTMAX),
    "bins": (losses.LovaszSoftmaxLoss, {**SOFTMAX, "method": "bins"}),
    "sort": (losses.LovaszSoftmaxLoss, {**SOFTMAX, "method": "sort"}),
}
SMALL, LARGE = (6, 6, 6), (40, 40, 41)  # without kernels, and with them at two classes and more


@pytest.fixture(autouse=True)
def no_compiled_forms():
    """Dynamo keeps eight compiled forms of a forward, which all losses share."""
    torch._dynamo.reset()


def assert_compiles(loss, x, y):
    compiled = torch.compile(loss, fullgraph=True)(x, y)
    torch.testing.assert_close(compiled, loss(x, y))
    for gradient, expected in zip(*(torch.autograd.grad(f, x) for f in (compiled, loss(x, y))), strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(
    ("size", "layout"),
    [(SMALL, torch.channels_last_3d), (LARGE, torch.contiguous_format)],
    ids=["small, channels last", "large, contiguous"],
)
@pytest.mark.parametrize("form", FORMS)
def test_label_maps(form, size, layout, classes):
    loss, settings = FORMS[form]
    x = torch.randn(2, classes, *size).contiguous(memory_format=layout).requires_grad_()
    assert_compiles(loss(**settings), x, torch.randint(0, classes, (2, 1, *size)))


@pytest.mark.parametrize(
    "loss",
    [
        losses.SoftJaccardLoss(sigmoid=True, ignore_index=1),
        losses.LovaszSoftmaxLoss(sigmoid=True, classes="present", method="bins"),
        losses.SoftDiceCELoss(softmax=True, weight=[1.0, 2.0, 3.0]),
        losses.LovaszHingeLoss(),
    ],
    ids=["overlap", "bins", "with cross-entropy", "hinge"],
)
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last_3d], ids=["contiguous", "channels last"]
)
def test_masks(loss, layout):
    x = torch.randn(2, 3, 9, 10, 11).contiguous(memory_format=layout).requires_grad_()
    labels = torch.randint(0, 3, (2, 9, 10, 11))
    assert_compiles(loss, x, torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_an_input_without_a_gradient(form, classes):
    loss, settings = FORMS[form]
    x, y = torch.randn(1, classes, *LARGE), torch.randint(0, classes, (1, 1, *LARGE))
    torch.testing.assert_close(torch.compile(loss(**settings), fullgraph=True)(x, y), loss(**settings)(x, y))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", [SOFTMAX, {"sigmoid": True}], ids=["label map", "masks"])
def test_fractions_in_labels_are_rounded_as_without_a_compiler(form, settings):
    cls, own = FORMS[form]
    loss = cls(**{name: value for name, value in own.items() if name not in SOFTMAX}, **settings)
    channels = 3 if settings is SOFTMAX else 1
    x, y = torch.randn(2, channels, *SMALL), torch.randint(0, max(channels, 2), (2, 1, *SMALL))
    if form == "overlap" and settings is not SOFTMAX:
        pytest.skip("fractions of masks are used as they are")
    compiled = torch.compile(loss, fullgraph=True, backend="eager")(x, y + 0.375)
    torch.testing.assert_close(compiled, loss(x, y))


ONE_PROCESS = """
import torch
from monai_surrogates.losses import LovaszSoftmaxLoss
torch.manual_seed(0)
x, y = torch.randn(2, 5, 6, 6, 6, requires_grad=True), torch.randint(0, 5, (2, 1, 6, 6, 6))
loss = LovaszSoftmaxLoss(softmax=True, to_onehot_y=True, method="sort")
compiled = torch.compile(loss)(x, y)
torch.testing.assert_close(compiled, loss(x, y))
torch.testing.assert_close(*(torch.autograd.grad(f, x)[0] for f in (compiled, loss(x, y))))
"""


@pytest.mark.slow
def test_code_of_wider_instructions_in_the_cache_is_not_run(tmp_path):
    for capability in ({}, {"ATEN_CPU_CAPABILITY": "default"}):  # the processor's own, then plain x86-64
        environment = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"} | capability
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path)
        done = subprocess.run([sys.executable, "-c", ONE_PROCESS], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
