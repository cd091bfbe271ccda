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
    small, large = (random_batch(7, shape, 3, torch.float64) for shape in ((64, 128), (64, 129)))
    sort, bins, auto = lovasz(small, "sort", "bins", "auto")
    assert auto == sort != bins
    sort, bins, auto = lovasz(large, "sort", "bins", "auto")
    assert auto == bins != sort
    assert 0 < sort - bins <= 1 / 4096
    sort, bins, auto = lovasz(small, "sort", "bins", "auto", batch=True)  # two items
    assert auto == bins != sort
    sort, auto = lovasz(large, "sort", "auto", softmax=False, other_act=lambda x: x.softmax(1))
    assert auto == sort
    sort, auto = lovasz(small, "sort", "auto", softmax=False, sigmoid=True)
    assert auto == sort


def test_small_images_are_sorted_and_bins_are_as_many_as_asked_for():
    x, y = random_batch(7, (9, 9), 3, torch.float64)
    exact, auto, few, many = (
        LovaszSoftmaxLoss(**SOFTMAX, **arguments)(x, y)
        for arguments in ({"method": "sort"}, {}, {"method": "bins", "bins": 4}, {"method": "bins"})
    )
    torch.testing.assert_close(auto, exact, rtol=0, atol=0)
    assert 1e-4 < exact - few <= 1 / 4
    assert 0 <= exact - many <= 1 / 4096
    for bins in (0, 1.5, "64"):
        with pytest.raises(ValueError, match="bins must be at least 1, a whole number"):
            LovaszSoftmaxLoss(bins=bins)
