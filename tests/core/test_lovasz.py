import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_surrogates.core import lovasz_jaccard, lovasz_jaccard_binned, lovasz_jaccard_weights
from tests import reference

voxels = st.lists(st.tuples(st.integers(0, 16), st.booleans()), min_size=1, max_size=12)


def as_tensors(items):
    errors = torch.tensor([e / 16 for e, _ in items], dtype=torch.float64)
    return errors, torch.tensor([y for _, y in items])


@given(voxels)
def test_equals_the_integral_over_the_levels_of_the_errors(items):
    errors, y = as_tensors(items)
    assert lovasz_jaccard(errors, y).item() == pytest.approx(
        reference.lovasz_extension(errors.numpy(), y.numpy()), abs=1e-12
    )


@given(voxels)
def test_weights_are_a_distribution(items):
    _, y = as_tensors(items)
    weights = lovasz_jaccard_weights(y, dtype=torch.float64)
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)


@given(voxels, st.randoms(use_true_random=False))
def test_the_loss_does_not_depend_on_voxel_order_not_even_at_ties(items, random):
    shuffled = random.sample(items, len(items))
    torch.testing.assert_close(lovasz_jaccard(*as_tensors(items)), lovasz_jaccard(*as_tensors(shuffled)))


@given(voxels, voxels)
def test_removed_voxels_are_as_if_cropped(items, removed):
    errors, y = as_tensors(items + removed)
    errors.requires_grad_()
    valid = torch.arange(len(errors)) < len(items)
    loss = lovasz_jaccard(errors, y, valid)
    cropped, y_cropped = as_tensors(items)
    torch.testing.assert_close(loss, lovasz_jaccard(cropped, y_cropped))
    (gradient,) = torch.autograd.grad(loss, errors)
    assert not gradient[len(items) :].any()


def test_nothing_left_is_zero_with_a_zero_gradient():
    errors = torch.rand(5, requires_grad=True)
    loss = lovasz_jaccard(errors, torch.tensor([True, False, True, False, False]), torch.zeros(5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not errors.grad.any()


def test_without_reference_it_is_the_largest_error():
    errors = torch.tensor([0.2, 0.7, 0.1], requires_grad=True)
    loss = lovasz_jaccard(errors, torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(0.7)
    assert errors.grad.tolist() == [0, 1, 0]


def test_the_closed_form_keeps_float32_where_the_difference_cancels():
    # REFERENCE: the float32 difference J_i − J_{i−1} is off by 1e-2 at 128³; the closed form is held to 1e-5.
    n = 128**3
    y = torch.rand(n, generator=torch.Generator().manual_seed(1)) < 0.01
    weights = lovasz_jaccard_weights(y).numpy().astype(np.float64)
    passed = np.cumsum(y.numpy(), dtype=np.int64)
    jaccard = 1 - (passed[-1] - passed) / (passed[-1] + np.arange(1, n + 1) - passed)
    exact = np.diff(jaccard, prepend=0.0)
    assert np.linalg.norm(weights - exact) / np.linalg.norm(exact) < 1e-6


@given(voxels, voxels, st.sampled_from([1, 7, 64, 4096]))
def test_bins_are_never_above_the_exact_loss_and_at_most_one_bin_below(items, removed, bins):
    errors, y = as_tensors(items + removed)
    valid = torch.arange(len(errors)) < len(items)
    exact, binned = lovasz_jaccard(errors, y, valid), lovasz_jaccard_binned(errors, y, valid, bins=bins)
    assert -1e-12 <= (exact - binned).item() <= 1 / bins + 1e-12


@given(voxels)
def test_bins_that_tell_all_errors_apart_give_the_exact_loss(items):
    errors, y = as_tensors(items)
    torch.testing.assert_close(lovasz_jaccard_binned(errors, y, bins=17), lovasz_jaccard(errors, y))


def test_tied_voxels_of_a_kind_share_their_weight():
    errors = torch.full((6,), 0.5, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([True, True, False, False, False, False])
    lovasz_jaccard_binned(errors, y).backward()
    assert len(set(errors.grad[:2].tolist())) == len(set(errors.grad[2:].tolist())) == 1
    assert errors.grad.sum().item() == pytest.approx(1)  # the jump of 1 − IoU from 0 to 1
    # the mean over all orders of a reference voxel's 1/U, U uniform from 2 to 6 in steps of the background
    assert errors.grad[0].item() == pytest.approx((1 / 2 + 1 / 6) / 2)


def test_bins_without_reference_and_without_voxels():
    errors = torch.tensor([0.2, 0.7, 0.1], requires_grad=True)
    loss = lovasz_jaccard_binned(errors, torch.zeros(3, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.7)
    nothing = lovasz_jaccard_binned(errors, torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert not errors.grad.any()


def test_rows_that_share_their_errors_may_count_different_voxels():
    errors, y = torch.rand(1, 6), torch.tensor([[True, False, True, False, False, True]])
    valid = torch.tensor([[True] * 6, [True, True, False, True, False, True]])
    shared, apart = errors.expand(2, 6), errors.repeat(2, 1)
    torch.testing.assert_close(lovasz_jaccard(shared, y, valid), lovasz_jaccard(apart, y.repeat(2, 1), valid))


def test_half_precision_errors_are_sorted():
    errors, y = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float16), torch.tensor([True, False, True])
    exact = lovasz_jaccard(errors.float(), y).item()
    assert lovasz_jaccard(errors, y).item() == pytest.approx(exact, abs=1e-3)  # float16 has 11 bits


@pytest.mark.parametrize("marked", [False, True])
def test_infinite_errors_that_have_no_weight_add_nothing(marked):
    errors = torch.tensor([torch.inf, torch.inf, 0.5], requires_grad=True)
    loss = lovasz_jaccard(errors, torch.tensor([marked, False, False]))
    assert loss.item() == torch.inf  # one of them has a weight
    assert torch.autograd.grad(loss, errors)[0].sum() == 1


# many rows at once, which have a form of their own on a CPU

KINDS_OF_ERRORS = {
    "all different": lambda x: x,
    "ties": lambda x: (4 * x).round() / 4,
    "all equal": lambda x: torch.full_like(x, 0.5),
    "zeros of both signs": lambda x: torch.where(x < 0.5, -0.0, torch.where(x < 0.7, 0.0, x)),
    "hinge": lambda x: 40 * x,
}


def sum_over_falling_errors(errors, reference):
    """Σ m₍ᵢ₎ (J_i − J_{i−1}) in float64."""
    order = np.argsort(-errors)
    passed = np.cumsum(reference[order])
    jaccard = 1 - (passed[-1] - passed) / (passed[-1] + np.arange(1, len(order) + 1) - passed)
    return (errors[order] * np.diff(jaccard, prepend=0.0)).sum()


def loss_and_gradient(errors, reference, valid):
    errors = errors.clone().requires_grad_()
    loss = lovasz_jaccard(errors, reference, valid)
    return loss.detach(), torch.autograd.grad(loss.sum(), errors)[0]


@pytest.mark.parametrize("kind", KINDS_OF_ERRORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("items", "classes", "size"), [(7, 5, 1031), (300, 3, 64), (1, 1, 20000), (1, 2, 32767), (2, 1, 32768)]
)
@pytest.mark.parametrize("marked", ["labels", "masks", "nothing"])
def test_rows_together_are_as_each_row_of_its_own(marked, items, classes, size, dtype, kind):
    generator = torch.Generator().manual_seed(items)
    errors = KINDS_OF_ERRORS[kind](torch.rand(items, classes, size, generator=generator, dtype=dtype))
    y = torch.randint(0, classes + 1, (items, 1, size), generator=generator)  # a label more, which no row has
    masks = (y == torch.arange(classes).unsqueeze(1)) & (marked != "nothing")
    valid = torch.rand(items, 1, size, generator=generator) < 0.7
    valid[1:2] = False  # an image without any voxel left
    loss, gradient = loss_and_gradient(errors, y if marked == "labels" else masks, valid)
    assert not gradient[~valid.expand_as(errors)].any()
    # a distribution, and the gradient of a function that is homogeneous of degree 1
    total = valid.any(-1).expand(items, classes).double()
    torch.testing.assert_close(gradient.double().sum(-1), total, rtol=1e-5, atol=0)
    torch.testing.assert_close((gradient.double() * errors).sum(-1), loss, rtol=1e-5, atol=0)
    for item, row in {(0, 0), (items - 1, classes - 1), (items // 2, classes // 2)}:
        left = valid[item, 0]
        kept = (errors[item, row][left].abs().double().numpy(), masks[item, row][left].numpy())
        expected = sum_over_falling_errors(*kept) if left.any() else 0
        assert loss[item, row].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("removed", [False, True])
def test_rows_that_share_their_errors_have_losses_of_their_own(removed):
    errors, y = torch.rand(9, 1, 2500), torch.randint(0, 2, (9, 1, 2500))
    valid = torch.rand(9, 1, 2500) < 0.5 if removed else None
    shared, apart = (loss_and_gradient(x, y, valid) for x in (errors.expand(9, 2, 2500), errors.repeat(1, 2, 1)))
    torch.testing.assert_close(shared, apart, rtol=1e-6, atol=0)


def test_nan_makes_the_loss_of_its_row_nan_and_leaves_the_others_alone():
    errors, y = torch.rand(4, 3, 2048), torch.randint(0, 3, (4, 1, 2048))
    valid = torch.ones(4, 1, 2048, dtype=torch.bool)
    valid[2, 0, 7] = False
    expected = lovasz_jaccard(errors, y, valid)
    errors[1, 2, 5], errors[3, 0, 9] = torch.nan, -torch.tensor(torch.nan)
    errors[2, :, 7] = torch.nan  # removed
    expected[1, 2], expected[3, 0] = torch.nan, torch.nan
    weights = torch.ops.monai_surrogates.lovasz_weights_by_row(errors, y, valid)
    assert not weights[2, :, 7].any()
    loss = lovasz_jaccard(torch.where(valid, errors, 0), y, valid)
    torch.testing.assert_close(loss, expected, equal_nan=True)
