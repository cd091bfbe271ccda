"""A kernel for another device is registered, and chosen from then on; without one the plain definition runs there."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from monai_surrogates.core.kernels import operators
from monai_surrogates.losses import LovaszSoftmaxLoss, SoftDiceLoss

KERNEL_OF = {
    "softmax_overlap": (SoftDiceLoss, 3),
    "lovasz_softmax": (LovaszSoftmaxLoss, 3),
    "lovasz_two_classes": (LovaszSoftmaxLoss, 2),
}


class Called(TorchDispatchMode):
    """Names of this package's operators that were called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "monai_surrogates":
            self.names.add(function._opname)
        return function(*args, **(kwargs or {}))


def operators_called(loss, channels):
    """By a loss and its gradient on the meta device, where operators have shapes alone."""
    with Called() as called:
        x = torch.zeros(1, channels, 64, 64, 64, device="meta", requires_grad=True)
        loss(x, torch.zeros(1, 1, 64, 64, 64, device="meta", dtype=torch.int64)).backward()
    return called.names


@pytest.mark.parametrize("kernel", KERNEL_OF)
def test_a_kernel_for_another_device_is_chosen_once_it_is_registered(kernel, monkeypatch):
    loss, channels = KERNEL_OF[kernel]
    loss = loss(softmax=True, to_onehot_y=True)
    assert kernel not in operators_called(loss, channels)
    monkeypatch.setitem(operators.KERNELS, (kernel, "meta"), 0)
    assert {kernel, f"{kernel}_backward"} <= operators_called(loss, channels)


def test_a_kernel_is_chosen_for_images_that_it_pays_for(monkeypatch):
    monkeypatch.setitem(operators.KERNELS, ("softmax_overlap", "cpu"), 12)
    assert operators.has_kernel("softmax_overlap", torch.device("cpu"), 12)
    assert not operators.has_kernel("softmax_overlap", torch.device("cpu"), 11)
    assert not operators.has_kernel("softmax_overlap", torch.device("meta"), 12)
    assert not operators.has_kernel("an operator without kernels", torch.device("cpu"), 12)
