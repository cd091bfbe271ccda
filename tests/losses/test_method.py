"""``method`` and ``bins`` of Lovász-softmax: sorted or binned."""

import pytest
import torch

from monai_surrogates.losses import LovaszSoftmaxLoss
from tests.losses.arguments import SOFTMAX
from tests.losses.test_against_monai import random_batch


def lovasz(images, *names, **arguments):
    """The loss by each method, under a softmax by default."""
    return [LovaszSoftmaxLoss(**{**SOFTMAX, **arguments}, method=name)(*images).item() for name in names]


def test_auto_sorts_small_images_and_bins_large_ones():
    small, large = (random_batch(7, shape, 3, torch.float64) for shape in ((16, 32), (27, 19)))  # 512 voxels, and 513
    sort, bins, auto = lovasz(small, "sort", "bins", "auto")
    assert auto == sort != bins
    sort, bins, auto = lovasz(large, "sort", "bins", "auto")
    assert auto == bins != sort
    assert 0 < sort - bins <= 1 / 256
    sort, bins, auto = lovasz(small, "sort", "bins", "auto", batch=True)  # two items
    assert auto == bins != sort
    sort, bins, auto = lovasz(large, "sort", "bins", "auto", bins=257)  # two voxels per bin
    assert auto == sort != bins
    sort, auto = lovasz(large, "sort", "auto", softmax=False, other_act=lambda x: x.softmax(1))
    assert auto == sort
    sort, auto = lovasz(small, "sort", "auto", softmax=False, sigmoid=True)
    assert auto == sort


@pytest.mark.parametrize(
    ("shape", "classes", "batch", "bins"),
    [
        ((9, 9), 3, False, 256),
        ((96, 96), 3, False, 576),
        ((96, 96), 3, True, 2 * 576),
        ((256, 257), 3, False, 4096),
        ((64, 64), 2, False, 256 // 4),  # two channels get four times as many as asked for
        ((256, 256), 2, False, 4096 // 4),
        ((512, 514), 2, False, 4096),
    ],
)
def test_the_default_is_one_bin_for_16_voxels_between_its_limits(shape, classes, batch, bins):
    images = random_batch(7, shape, classes, torch.float64)
    settings = {**SOFTMAX, "method": "bins", "batch": batch}
    default, named = (LovaszSoftmaxLoss(**settings, bins=number)(*images) for number in (None, bins))
    assert torch.equal(default, named)


@pytest.mark.parametrize(("shape", "classes"), [((96, 96), 3), ((128, 128), 2), ((256, 256), 2), ((256, 256), 4)])
def test_the_default_keeps_the_error_that_is_promised(shape, classes):
    x, y = random_batch(3, shape, classes, torch.float64)
    x = (x + 2 * torch.nn.functional.one_hot(y[:, 0], classes).movedim(-1, 1)).requires_grad_()  # half trained
    exact, binned = (LovaszSoftmaxLoss(**SOFTMAX, method=method)(x, y) for method in ("sort", "bins"))
    assert 0 <= exact - binned < 1e-5
    exact, binned = (torch.autograd.grad(loss, x)[0] for loss in (exact, binned))
    assert (binned - exact).norm() < 5e-3 * exact.norm()


def test_small_images_are_sorted_and_bins_are_as_many_as_asked_for():
    x, y = random_batch(7, (9, 9), 3, torch.float64)
    exact, auto, few, many = (
        LovaszSoftmaxLoss(**SOFTMAX, **arguments)(x, y)
        for arguments in ({"method": "sort"}, {}, {"method": "bins", "bins": 4}, {"method": "bins", "bins": 4096})
    )
    torch.testing.assert_close(auto, exact, rtol=0, atol=0)
    assert 1e-4 < exact - few <= 1 / 4
    assert 0 <= exact - many <= 1 / 4096
    for bins in (0, 1.5, "64"):
        with pytest.raises(ValueError, match="bins must be at least 1, a whole number"):
            LovaszSoftmaxLoss(bins=bins)
