import math
from fractions import Fraction

import pytest
import torch

from monai_surrogates.core import EMPTY_RULES, Overlap, dice_score, jaccard_score, tversky_index


def counts(intersection: int, prediction: int, reference: int) -> Overlap:
    return Overlap(*(torch.tensor([n]) for n in (intersection, prediction, reference)))


# (prediction, reference) voxels of a class whose reference is empty, then the score under each rule
EMPTY_CELLS = {
    ("ignore", 0): math.nan,
    ("ignore", 5): math.nan,
    ("score", 0): 1.0,
    ("score", 5): 0.0,
    ("both", 0): math.nan,
    ("both", 5): 0.0,
}


@pytest.mark.parametrize(("rule", "predicted"), EMPTY_CELLS)
@pytest.mark.parametrize("score", [dice_score, jaccard_score])
def test_the_empty_mask_rule(rule, predicted, score):
    assert score(counts(0, predicted, 0), rule).item() == pytest.approx(EMPTY_CELLS[rule, predicted], nan_ok=True)


@pytest.mark.parametrize("rule", EMPTY_RULES)
def test_a_missed_structure_scores_zero_under_every_rule(rule):
    assert dice_score(counts(0, 0, 7), rule).item() == 0 == jaccard_score(counts(0, 0, 7), rule).item()


@pytest.mark.parametrize("rule", EMPTY_RULES)
def test_dice_is_two_iou_over_one_plus_iou_on_every_cell(rule):
    cells = [(i, p, r) for p in range(5) for r in range(5) for i in range(min(p, r) + 1)]
    overlap = Overlap(*torch.tensor(cells).T)
    dice, iou = dice_score(overlap, rule), jaccard_score(overlap, rule)
    assert torch.equal(dice.isnan(), iou.isnan())
    torch.testing.assert_close(dice, 2 * iou / (1 + iou), equal_nan=True, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (1, 1), (0.25, 0.75), (0, 1)])
def test_tversky_is_its_fraction(alpha, beta):
    hit, prediction, reference = 3, 5, 11
    expected = Fraction(hit) / (hit + Fraction(alpha) * (prediction - hit) + Fraction(beta) * (reference - hit))
    assert tversky_index(counts(hit, prediction, reference), alpha, beta).item() == pytest.approx(
        float(expected), abs=1e-15
    )


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="empty must be one of ignore, score, both, but is 'zero'"):
        dice_score(counts(1, 1, 1), "zero")


def test_counts_of_slabs_add_up_and_are_no_tuples_to_string_together():
    slabs = [Overlap(*torch.tensor(counts)) for counts in ([3, 5, 4], [0, 2, 0], [1, 1, 6])]
    whole = slabs[0].plus(slabs[1]).plus(slabs[2])
    assert list(map(int, whole)) == [4, 8, 10]
    strung = (lambda a, b: a + b, lambda a, b: sum([a, b], ()), lambda a, b: 2 * a, lambda a, b: a * 2)
    for string in strung:
        with pytest.raises(TypeError, match=r"added up by overlap\.plus"):
            string(*slabs[:2])
