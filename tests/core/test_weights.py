import pytest
import torch

from monai_surrogates.core import WEIGHTINGS, class_weights


def test_inverse_frequency_gives_every_class_the_same_summed_weight():
    counts = torch.tensor([900, 90, 10])
    torch.testing.assert_close(class_weights(counts) * counts, torch.full((3,), 1000 / 3, dtype=torch.float64))


def test_median_frequency_leaves_the_median_class_at_one():
    assert class_weights([7, 300, 40], "median_frequency").tolist() == pytest.approx([40 / 7, 40 / 300, 1])


def test_effective_number_of_one_voxel_is_one():
    beta = 0.9999
    weights = class_weights([1, 10_000], "effective_number")
    assert (weights[0] / weights[1]).item() == pytest.approx((1 - beta**10_000) / (1 - beta))
    assert weights.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_equal_counts_give_equal_weights_and_absent_classes_none(weighting):
    assert class_weights([50, 0, 50], weighting).tolist() == pytest.approx([1, 0, 1])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_volumes_past_32_bits_stay_finite(weighting):
    assert class_weights([2**40, 2**33, 12], weighting).isfinite().all()


@pytest.mark.parametrize("counts", [[0, 0], [-1, 5], [float("nan"), 1], [[1, 2]]])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="class_counts must hold one voxel count per class"):
        class_weights(counts)


def test_an_unknown_weighting_lists_the_known():
    with pytest.raises(ValueError, match="inverse_frequency, median_frequency, effective_number, but is 'inverse'"):
        class_weights([1, 2], "inverse")
