"""Loss blocks as zoo bundles have them, switched to every loss that can serve them by the target alone."""

import warnings

import pytest
import torch
from monai.bundle import ConfigParser

OVERLAP = ["SoftDiceLoss", "SoftJaccardLoss", "SoftTverskyLoss"]
LABELS = [*OVERLAP, "LovaszSoftmaxLoss", "WeightedCELoss", "PlainCELoss"]
COMPOUND = ["SoftDiceCELoss", "SoftJaccardCELoss", "LovaszSoftmaxCELoss"]
SCHEDULED = ["CrossEntropyToSoftDiceLoss", "CrossEntropyToSoftJaccardLoss", "CrossEntropyToLovaszSoftmaxLoss"]

# kind of bundle -> loss block, channels of the network, the losses that can serve it
BLOCKS = {
    "whole volumes, DiceCELoss": (
        {
            "_target_": "DiceCELoss",
            "to_onehot_y": True,
            "softmax": True,
            "squared_pred": True,
            "batch": True,
            "lambda_dice": 1.0,
            "lambda_ce": 0.5,
        },
        3,
        [*LABELS, *COMPOUND, *SCHEDULED],
    ),
    "three nested structures, DiceLoss with sigmoid": (
        {
            "_target_": "DiceLoss",
            "smooth_nr": 0,
            "smooth_dr": 1e-5,
            "squared_pred": True,
            "to_onehot_y": False,
            "sigmoid": True,
        },
        3,
        [*LABELS, *COMPOUND, *SCHEDULED, "LovaszHingeLoss"],
    ),
    "105 classes, DiceCELoss": (
        {"_target_": "DiceCELoss", "include_background": True, "to_onehot_y": True, "softmax": True},
        105,
        [*LABELS, *COMPOUND, *SCHEDULED],
    ),
    "background excluded and weighted, DiceCELoss": (
        {
            "_target_": "DiceCELoss",
            "include_background": False,
            "to_onehot_y": True,
            "softmax": True,
            "weight": "$torch.tensor([0.1, 1.0, 2.0])",
        },
        3,
        [*LABELS, *COMPOUND, *SCHEDULED],
    ),
    "background excluded, TverskyLoss": (
        {
            "_target_": "TverskyLoss",
            "include_background": False,
            "to_onehot_y": True,
            "softmax": True,
            "alpha": 0.3,
            "beta": 0.7,
            "smooth_nr": 1e-5,
            "smooth_dr": 1e-5,
            "batch": True,
        },
        3,
        [*LABELS, *COMPOUND, *SCHEDULED],
    ),
}

# the arguments above that a loss does not use
LAMBDAS = {"lambda_dice", "lambda_ce"}
OF_COUNTS = {"squared_pred", "alpha", "beta"}  # and smooth_nr, smooth_dr, which are harmless in the blocks
FOREIGN = {
    "SoftDiceLoss": {*LAMBDAS, "alpha", "beta"},
    "SoftJaccardLoss": {*LAMBDAS, "alpha", "beta"},
    "SoftTverskyLoss": LAMBDAS,
    "LovaszSoftmaxLoss": LAMBDAS | OF_COUNTS,
    "LovaszHingeLoss": LAMBDAS | OF_COUNTS,
    "PlainCELoss": LAMBDAS | OF_COUNTS | {"batch"},
    "WeightedCELoss": LAMBDAS | OF_COUNTS | {"batch"},
    "SoftDiceCELoss": {"alpha", "beta"},
    "SoftJaccardCELoss": {"alpha", "beta"},
    "LovaszSoftmaxCELoss": OF_COUNTS,
    "CrossEntropyToSoftDiceLoss": {*LAMBDAS, "alpha", "beta"},
    "CrossEntropyToSoftJaccardLoss": {*LAMBDAS, "alpha", "beta"},
    "CrossEntropyToLovaszSoftmaxLoss": LAMBDAS | OF_COUNTS,
}


def unused(target, block):
    names = FOREIGN[target] & block.keys()
    if block.get("lambda_dice") == 1:
        names -= {"lambda_dice"}
    # Excluding the background only changes the reading of the weights in cross-entropy.
    if (
        target in ("PlainCELoss", "WeightedCELoss")
        and "weight" not in block
        and not block.get("include_background", True)
    ):
        names.add("include_background")
    return names


def training_step(loss, classes, label_map):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, classes, 3, padding=1)
    before = network.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x = torch.randn(2, 1, 6, 6, 6)
    y = torch.randint(0, classes, (2, 1, 6, 6, 6)) if label_map else (torch.rand(2, classes, 6, 6, 6) > 0.7).float()
    value = loss(network(x), y)
    value.backward()
    optimizer.step()
    assert value.isfinite()
    assert not torch.equal(network.weight, before)


@pytest.mark.parametrize(("kind", "target"), [(k, t) for k, (_, _, targets) in BLOCKS.items() for t in targets])
def test_a_zoo_block_switched_by_its_target_trains_and_names_unused_arguments(kind, target):
    block, classes, _ = BLOCKS[kind]
    parser = ConfigParser({"loss": dict(block)})
    parser.update({"loss#_target_": f"monai_surrogates.losses.{target}"})  # as --loss#_target_
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss = parser.get_parsed_content("loss")
        training_step(loss, classes, label_map=block["to_onehot_y"])
    assert type(loss).__name__ == target
    names = ", ".join(sorted(unused(target, block)))
    messages = [str(w.message) for w in caught]
    if target in SCHEDULED:  # here without an epoch
        assert "stays with cross_entropy" in messages.pop()
    assert messages == ([f"{target} has no use for {names}: not used."] if names else [])


def test_the_hinge_says_why_it_cannot_serve_a_softmax_block():
    parser = ConfigParser({"loss": dict(BLOCKS["105 classes, DiceCELoss"][0])})
    parser.update({"loss#_target_": "monai_surrogates.losses.LovaszHingeLoss"})
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content("loss")
    assert "softmax and other_act must not be set" in str(error.value.__cause__)
