"""Loss blocks as zoo bundles have them, switched to every loss that can serve them by the target alone."""

import warnings

import pytest
import torch
from monai.bundle import ConfigParser

OVERLAP = ["SoftDiceLoss", "SoftJaccardLoss", "SoftTverskyLoss"]
OF_OTHERS = ["MonaiFocalLoss", "MonaiDiceFocalLoss", "MonaiGeneralizedDiceLoss", "TopKCELoss"]
LABELS = [*OVERLAP, "LovaszSoftmaxLoss", "WeightedCELoss", "PlainCELoss", *OF_OTHERS]
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
    "DiceFocalLoss": (
        {
            "_target_": "DiceFocalLoss",
            "include_background": False,
            "to_onehot_y": True,
            "softmax": True,
            "batch": True,
            "gamma": 3.0,
            "lambda_focal": 0.5,
        },
        3,
        [*LABELS, *COMPOUND, *SCHEDULED],
    ),
    "FocalLoss with use_softmax": (
        {"_target_": "FocalLoss", "to_onehot_y": True, "use_softmax": True, "gamma": 2.0},
        3,
        [*LABELS, *COMPOUND, *SCHEDULED],
    ),
    "GeneralizedDiceFocalLoss": (
        {
            "_target_": "GeneralizedDiceFocalLoss",
            "to_onehot_y": True,
            "sigmoid": True,
            "w_type": "simple",
            "lambda_gdl": 1.0,
        },
        3,
        [*LABELS, *COMPOUND, *SCHEDULED],
    ),
}

# the arguments above that a loss does not use
LAMBDAS = {"lambda_dice", "lambda_ce"}
OF_COUNTS = {"squared_pred", "alpha", "beta"}  # and smooth_nr, smooth_dr, which are harmless in the blocks
OF_FOCAL = {"gamma", "lambda_focal", "w_type"}  # of all but the losses of others
FOREIGN = {
    "MonaiFocalLoss": {*LAMBDAS, *OF_COUNTS, "batch", "lambda_focal", "w_type"},  # alpha beside beta is Tversky's
    "MonaiDiceFocalLoss": {"lambda_ce", "alpha", "beta", "w_type"},
    "MonaiGeneralizedDiceLoss": {*LAMBDAS, *OF_COUNTS, "gamma", "lambda_focal", "weight"},
    "TopKCELoss": LAMBDAS | OF_COUNTS | {"batch"} | OF_FOCAL,
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
    of_focal = set() if target in OF_OTHERS else OF_FOCAL
    names = (FOREIGN[target] | of_focal) & block.keys()
    if block.get("lambda_dice") == 1:
        names -= {"lambda_dice"}
    if block.get("gamma") == 2:
        names -= {"gamma"}
    # Excluding the background only changes the reading of the weights in cross-entropy.
    if (
        target in ("PlainCELoss", "WeightedCELoss", "TopKCELoss")
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
    if target == "WeightedCELoss" and "weight" not in block:
        assert "is plain cross-entropy" in messages.pop()
    assert messages == ([f"{target} has no use for {names}: not used."] if names else [])


@pytest.mark.parametrize(
    "block",
    [
        {"_target_": "FocalLoss", "to_onehot_y": True, "gamma": 2.0},
        {"_target_": "GeneralizedWassersteinDiceLoss", "dist_matrix": "$torch.ones(3, 3)", "weighting_mode": "default"},
    ],
    ids=lambda block: block["_target_"],
)
@pytest.mark.parametrize("target", [*OVERLAP, "LovaszSoftmaxLoss", *COMPOUND, *SCHEDULED])
def test_the_block_of_a_loss_with_its_own_activation_needs_the_override_of_the_message(block, target):
    parser = ConfigParser({"loss": dict(block)})
    parser.update({"loss#_target_": f"monai_surrogates.losses.{target}"})
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content("loss")
    assert "in a bundle add --loss#softmax True" in str(error.value.__cause__)
    parser.update({"loss#softmax": True, "loss#to_onehot_y": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser.parse(True)
        training_step(parser.get_parsed_content("loss"), 3, label_map=True)


def test_the_hinge_says_why_it_cannot_serve_a_softmax_block():
    parser = ConfigParser({"loss": dict(BLOCKS["105 classes, DiceCELoss"][0])})
    parser.update({"loss#_target_": "monai_surrogates.losses.LovaszHingeLoss"})
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content("loss")
    assert "softmax and other_act must not be set" in str(error.value.__cause__)
