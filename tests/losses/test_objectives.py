import pytest
import torch

from monai_surrogates.losses import (
    OBJECTIVES,
    LovaszSoftmaxLoss,
    PlainCELoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SurrogateCELoss,
    WeightedCELoss,
    loss_class,
    make_loss,
)


def test_the_table_of_names():
    table = {
        "cross_entropy": PlainCELoss,
        "weighted_cross_entropy": WeightedCELoss,
        "soft_dice": SoftDiceLoss,
        "soft_jaccard": SoftJaccardLoss,
        "lovasz_softmax": LovaszSoftmaxLoss,
    }
    assert table == OBJECTIVES
    assert all(loss_class(name) is cls for name, cls in OBJECTIVES.items())


@pytest.mark.parametrize(
    ("name", "nearest"), [("soft_dic", "soft_dice"), ("lovasz", "lovasz_softmax"), ("CrossEntropy", "cross_entropy")]
)
def test_an_unknown_name_lists_all_and_suggests_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"cross_entropy, weighted_cross_entropy, .* Did you mean '{nearest}'"):
        make_loss(name)


def test_weighted_cross_entropy_alone_reads_the_class_counts():
    x = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(16).view(2, 1, 8) % 5 == 0).long()
    flags = {"softmax": True, "to_onehot_y": True}
    for name in OBJECTIVES:
        with_counts, without = (make_loss(name, **flags, class_counts=c)(x, y) for c in ([90, 10], [1, 1]))
        assert torch.equal(with_counts, without) == (name != "weighted_cross_entropy")
    by_hand = torch.nn.functional.cross_entropy(x, y[:, 0], torch.tensor([100 / 180, 100 / 20]))
    torch.testing.assert_close(make_loss("weighted_cross_entropy", **flags, class_counts=[90, 10])(x, y), by_hand)


def test_named_weights_need_counts_and_belong_to_cross_entropy():
    with pytest.raises(ValueError, match="'median_frequency' needs class_counts"):
        WeightedCELoss(weight="median_frequency")
    with pytest.raises(ValueError, match="weights by name are WeightedCELoss's"):
        SoftDiceLoss(weight="median_frequency", class_counts=[1, 2])


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss])
def test_batch_scores_the_batch_as_one_image(cls):
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(3, 2, 5, generator=generator), torch.randint(0, 2, (3, 1, 5), generator=generator)
    flags = {"softmax": True, "to_onehot_y": True}
    as_one = cls(**flags)(x.transpose(0, 1).reshape(1, 2, 15), y.reshape(1, 1, 15))
    torch.testing.assert_close(cls(**flags, batch=True)(x, y), as_one)
    assert cls(**flags, batch=True, reduction="none")(x, y).shape == (2, 1)


def test_weights_of_both_lengths_without_background():
    x, y = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3)), torch.tensor([[[0, 1, 2, 0, 1, 2]]] * 2)
    flags = {"softmax": True, "to_onehot_y": True, "include_background": False}
    full, short = (SoftDiceLoss(**flags, weight=w)(x, y) for w in ([9.0, 2.0, 3.0], [2.0, 3.0]))
    torch.testing.assert_close(full, short)
    torch.testing.assert_close(SoftDiceLoss(**flags, weight=2.0)(x, y), 2 * SoftDiceLoss(**flags)(x, y))


def test_logits_where_probabilities_are_promised():
    logits, y = torch.tensor([[[3.0, -2.0], [0.0, 1.0]]]), torch.tensor([[[0, 1]]])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], but holds -2; for logits set softmax=True"):
        SoftDiceLoss(to_onehot_y=True)(logits, y)
    with pytest.raises(ValueError, match="for logits set sigmoid=True"):
        LovaszSoftmaxLoss()(logits[:, :1], y.float())


def test_a_soft_target_into_lovasz_names_the_loss_for_it():
    with pytest.warns(UserWarning, match=r"holds 0\.25, read as 0, .*; for soft labels use SoftJaccardLoss"):
        LovaszSoftmaxLoss(sigmoid=True)(torch.zeros(1, 1, 4), torch.full((1, 1, 4), 0.25))
    with pytest.raises(ValueError, match=r"holds 0\.25; for soft labels use SoftJaccardLoss"):
        LovaszSoftmaxLoss(sigmoid=True, check_labels=True)(torch.zeros(1, 1, 4), torch.full((1, 1, 4), 0.25))


def test_a_perfect_soft_prediction_costs_nothing_with_soft_label():
    y = torch.tensor([[[0.25, 0.75, 0.5, 0.0]]])
    for cls in (SoftDiceLoss, SoftJaccardLoss):
        assert cls(soft_label=True)(y, y).item() == pytest.approx(0, abs=1e-6)
        assert cls()(y, y).item() > 0.1


def test_a_single_channel_warns_as_monai_does_and_ignores_the_flags():
    x, y = torch.rand(1, 1, 4, generator=torch.Generator().manual_seed(4)), torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])
    with pytest.warns(UserWarning) as caught:
        value = SoftDiceLoss(softmax=True, to_onehot_y=True, include_background=False)(x, y)
    named = [str(w.message) for w in caught]
    assert [m for m in named if "single channel prediction" in m] == named
    assert {flag for m in named for flag in ("softmax", "to_onehot_y", "include_background") if flag in m} == {
        "softmax",
        "to_onehot_y",
        "include_background",
    }
    torch.testing.assert_close(value, SoftDiceLoss()(x, y))


def test_a_compound_takes_weights_of_both_lengths_without_background():
    x, y = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3)), torch.tensor([[[0, 1, 2, 0, 1, 2]]] * 2)
    flags = {"softmax": True, "to_onehot_y": True, "include_background": False}
    full, short = (SoftDiceCELoss(**flags, weight=w)(x, y) for w in ([1.0, 2.0, 3.0], [2.0, 3.0]))
    torch.testing.assert_close(full, short)


def test_class_counts_of_the_wrong_length_are_named():
    x, y = torch.zeros(1, 3, 4), torch.tensor([[[0, 1, 2, 0]]])
    for counts in ([90, 10], [1, 2, 3, 4, 5]):
        with pytest.raises(ValueError, match="class_counts must have 3 values"):
            make_loss("weighted_cross_entropy", softmax=True, to_onehot_y=True, class_counts=counts)(x, y)
    assert make_loss("weighted_cross_entropy", sigmoid=True, class_counts=[0, 10])(x[:, :1], y.clamp(max=1)).isfinite()


@pytest.mark.parametrize(
    ("reduction", "lambdas", "match"),
    [
        ("none", {}, 'reduction must be "mean" or "sum"'),
        ("mean", {"lambda_ce": -1}, "lambda_ce must be no less than 0"),
        ("mean", {"lambda_dice": 1, "lambda_surrogate": 1}, "two names of the same weight"),
    ],
)
def test_impossible_compounds(reduction, lambdas, match):
    with pytest.raises(ValueError, match=match):
        SoftDiceCELoss(reduction=reduction, **lambdas)


def test_an_unknown_surrogate_is_named():
    with pytest.raises(ValueError, match=r"surrogate must be one of .* Did you mean 'soft_dice'"):
        SurrogateCELoss("soft_dise")
