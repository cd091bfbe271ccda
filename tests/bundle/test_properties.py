"""The bundle keeps the promises that MONAI's tools and its model zoo rely on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties

import monai_surrogates
from monai_surrogates.data import read_task
from monai_surrogates.losses import OBJECTIVES, loss_class
from monai_surrogates.losses.names import LOSSES
from tests.bundle.runs import PATCH, SMALL, open_workflow

CONTEXT = {
    "class_counts": [90, 10],
    "class_weighting": "median_frequency",
    "structure_volumes": [45.0, 10.0],
    "smoothing": "structure_volume",
}
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
WORKFLOWS = {
    "train": (("train",), "train"),
    "evaluate": (("train", "evaluate"), "train"),
    "inference": (("inference",), "infer"),
}
# key_metric scores against labels, which inference does not have
OPTIONAL = {
    "train": {*TrainProperties},
    "evaluate": {*TrainProperties},
    "inference": {*InferProperties} - {"key_metric"},
}


def metadata(shipped: Path) -> dict[str, Any]:
    return json.loads((shipped / "configs" / "metadata.json").read_text(encoding="utf-8"))


def settings(name: str) -> dict[str, Any]:
    return {"patch_size": PATCH, "num_workers": 0} if name == "inference" else SMALL


@pytest.mark.parametrize("name", WORKFLOWS)
def test_monai_finds_every_property_of_the_workflow(name: str, bundle: Path, task: Path) -> None:
    configs, workflow_type = WORKFLOWS[name]
    workflow = open_workflow(bundle, *configs, workflow_type=workflow_type, dataset_dir=str(task), **settings(name))
    assert workflow.check_properties() == []
    missing = [key for key in sorted(OPTIONAL[name] | {*MetaProperties}) if getattr(workflow, key) is None]
    assert missing == []


def test_properties_hold_the_values_that_tools_expect(bundle: Path, task: Path) -> None:
    workflow = open_workflow(bundle, "train", dataset_dir=str(task), epochs=7, **{**SMALL, "val_interval": 3})
    assert workflow.bundle_root == str(bundle)
    assert workflow.dataset_dir == str(task)
    assert (workflow.max_epochs, workflow.val_interval) == (7, 3)
    assert workflow.trainer.state.max_epochs == 7
    assert len(workflow.train_dataset) == len(workflow.train_dataset_data)
    assert [*workflow.train_key_metric, *workflow.val_key_metric] == ["train_dice", "val_dice"]
    assert workflow.channel_def == {"0": "background", "1": "lesion"}


def test_max_epochs_can_be_set_on_the_trainer_as_in_zoo_bundles(bundle: Path, task: Path) -> None:
    workflow = open_workflow(bundle, "train", dataset_dir=str(task), **{"train#trainer#max_epochs": 4}, **SMALL)
    assert workflow.trainer.state.max_epochs == 4
    assert workflow.parser.get_parsed_content("lr_scheduler").T_max == 4


@pytest.mark.parametrize(
    "key",
    [
        *("bundle_root", "device", "dataset_dir", "output_dir", "val_interval", "network_def", "imports"),
        *("train#trainer#max_epochs", "train#dataset#data", "train#handlers", "train#inferer", "train#key_metric"),
        *("validate#evaluator", "validate#dataset#data", "validate#handlers", "validate#inferer"),
        *("validate#key_metric", "validate#preprocessing", "validate#postprocessing"),
        *("initialize", "run", "finalize"),
    ],
)
def test_train_config_has_the_zoos_keys(key: str, shipped: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(shipped / "configs" / "train.yaml"))
    assert key in parser


def test_images_that_train_choose_and_score_are_disjoint_and_complete(bundle: Path, task: Path) -> None:
    def images(items: list[dict[str, str]]) -> set[str]:
        return {Path(item["image"]).name for item in items}

    scored_over_all_folds = set()
    for fold in range(3):
        overrides = {"dataset_dir": str(task), "fold": fold, **SMALL}
        training = open_workflow(bundle, "train", **overrides)
        train, chosen = images(training.train_dataset_data), images(training.val_dataset_data)
        scored = images(open_workflow(bundle, "train", "evaluate", **overrides).val_dataset_data)
        assert train
        assert chosen
        assert scored
        assert not (train & chosen or train & scored or chosen & scored)
        assert train | chosen | scored == {path.name for path in (task / "imagesTr").iterdir()}
        scored_over_all_folds |= scored
    assert scored_over_all_folds == {path.name for path in (task / "imagesTr").iterdir()}


def test_one_overlay_shows_the_way_and_no_other_repeats_a_name(shipped: Path) -> None:
    stems = {file.stem for file in (shipped / "configs").glob("*.yaml")}
    others = {"train", "evaluate", "inference", "multi_gpu_train", "schedule", "nnunet_default"}
    assert stems - others == {"lovasz_softmax"}


def test_overlay_changes_the_objective_and_nothing_else(shipped: Path) -> None:
    overlay = yaml.safe_load((shipped / "configs" / "lovasz_softmax.yaml").read_text(encoding="utf-8"))
    trained = yaml.safe_load((shipped / "configs" / "train.yaml").read_text(encoding="utf-8"))
    assert [*overlay] == ["loss"]
    target = overlay["loss"].pop("_target_")
    assert target == "monai_surrogates.losses.LovaszSoftmaxLoss"
    assert locate(target) is loss_class("lovasz_softmax")
    del trained["loss"]["_target_"]
    assert overlay["loss"] == {key: trained["loss"][key] for key in overlay["loss"]}
    # an overlay leaves out the context, and the choices, that its objective does not read
    assert {*trained["loss"]} - {*overlay["loss"]} == {*CONTEXT}


def test_overlay_builds_its_loss_without_the_configs_imports(shipped: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(shipped / "configs" / "lovasz_softmax.yaml"))
    assert type(parser.get_parsed_content("loss")) is loss_class("lovasz_softmax")


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "lovasz_hinge"])
def test_every_name_fits_the_loss_block_of_the_config(name: str, shipped: Path) -> None:
    block = yaml.safe_load((shipped / "configs" / "train.yaml").read_text(encoding="utf-8"))["loss"]
    parser = ConfigParser({"loss": block, "objective": name, **CONTEXT, "smoothing": None})
    parser["loss#_target_"] = LOSSES[name]
    assert type(parser.get_parsed_content("loss")) is loss_class(name)


@pytest.mark.parametrize("name", ["WeightedCELoss", "monai_surrogates.losses.WeightedCELoss"])
def test_context_reaches_a_loss_by_target_alone(name: str, bundle: Path, task: Path) -> None:
    overrides = {"class_counts": [90, 10], "loss#_target_": name}
    workflow = open_workflow(bundle, "train", dataset_dir=str(task), **overrides, **SMALL)
    loss = workflow.parser.get_parsed_content("loss")
    assert loss.class_weight.tolist() == pytest.approx([100 / 180, 100 / 20])


@pytest.mark.parametrize("theirs", ["DiceFocalLoss", "monai.losses.DiceCELoss", "monai.losses.GeneralizedDiceLoss"])
def test_a_loss_of_monai_by_target_alone_gets_no_context(theirs: str, bundle: Path, task: Path) -> None:
    overrides = {"smoothing": "structure_volume", "loss#_target_": theirs}
    workflow = open_workflow(bundle, "train", dataset_dir=str(task), **overrides, **SMALL)
    loss = workflow.parser.get_parsed_content("loss")
    assert type(loss).__name__ == theirs.rpartition(".")[2]
    assert type(loss).__module__.startswith("monai.losses")


@pytest.mark.parametrize("batch_dice", [True, False])
def test_the_default_of_nnunet_is_soft_dice_of_structures_and_cross_entropy_of_all(
    batch_dice: bool, bundle: Path, task: Path
) -> None:
    workflow = open_workflow(bundle, "train", "nnunet_default", dataset_dir=str(task), **SMALL, batch_dice=batch_dice)
    x = torch.randn(2, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, :1] > 0.3).long()
    p, q = x.softmax(1)[:, 1], (y[:, 0] == 1).float()
    axes = (0, 1, 2, 3) if batch_dice else (1, 2, 3)
    dice = ((2 * (p * q).sum(axes) + 1e-5) / (p.sum(axes) + q.sum(axes) + 1e-5)).mean()
    expected = 1 - dice + torch.nn.functional.cross_entropy(x, y[:, 0])
    torch.testing.assert_close(workflow.parser.get_parsed_content("loss")(x, y), expected)


def test_metadata_has_the_zoos_fields(shipped: Path) -> None:
    assert {
        *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
        *("required_packages_version", "supported_apps", "name", "task", "description", "authors", "copyright"),
        *("intended_use", "references", "data_source", "data_type", "image_classes", "label_classes", "pred_classes"),
        *("eval_metrics", "network_data_format"),
    } <= {*metadata(shipped)}


def test_metadata_names_the_channels_and_the_labels_of_the_embedded_task(shipped: Path, task: Path) -> None:
    formats, described = metadata(shipped)["network_data_format"], read_task(task)
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert image["channel_def"] == {str(index): name for index, name in enumerate(described.channels)}
    assert pred["channel_def"] == {str(label): name for label, name in described.labels.items()}
    assert (image["num_channels"], pred["num_channels"]) == (described.num_channels, described.num_classes)


def test_metadata_versions_are_ours(shipped: Path) -> None:
    meta = metadata(shipped)
    assert meta["version"] == next(iter(meta["changelog"]))
    release = monai_surrogates.__version__.partition(".dev")[0]  # the bundle names the release that it is made for
    assert meta["required_packages_version"]["monai-surrogates"] == release


def test_metadata_pins_the_versions_of_the_tests(shipped: Path) -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", CONSTRAINTS.read_text(encoding="utf-8"), flags=re.MULTILINE))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    meta = metadata(shipped)
    stated = {
        name: version for name, version in meta["required_packages_version"].items() if name != "monai-surrogates"
    }
    stated |= {"monai": meta["monai_version"], "torch": meta["pytorch_version"], "numpy": meta["numpy_version"]}
    assert stated == {name: pinned.get(name) for name in stated}


def test_training_and_inference_build_the_same_network_on_the_same_preprocessing(shipped: Path) -> None:
    parsers = {"train": ConfigParser(), "inference": ConfigParser()}
    for config, parser in parsers.items():
        parser.read_config(str(shipped / "configs" / f"{config}.yaml"))
        parser.update({"in_channels": 2, "num_classes": 2})
    weights = [parser.get_parsed_content("network_def").state_dict() for parser in parsers.values()]
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in weights]
    assert shapes[0] == shapes[1]
    for key in ("inferer", "patch_size"):
        assert parsers["train"].get(f"validate#{key}", parsers["train"].get(key)) == parsers["inference"][key]
    validated = [{**step, "keys": ["image"]} for step in parsers["train"]["validate#preprocessing#transforms"]]
    inferred = [{**step, "keys": ["image"]} for step in parsers["inference"]["preprocessing#transforms"]]
    assert validated == inferred


@pytest.mark.parametrize("config", ["train", "inference"])
def test_network_has_the_inputs_and_outputs_of_the_metadata(config: str, shipped: Path, task: Path) -> None:
    configs = shipped / "configs"
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / f"{config}.yaml"),
        device="cpu",
        dataset_dir=str(task),
    )


def test_network_needs_no_data_set_once_its_channels_are_given(shipped: Path, tmp_path: Path) -> None:
    configs = shipped / "configs"
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        device="cpu",
        n=2,
        dataset_dir=str(tmp_path / "absent"),
        in_channels=2,
        num_classes=2,
    )


def test_loss_by_short_name_needs_the_configs_import(bundle: Path, task: Path) -> None:
    loss = {"_target_": "SoftJaccardLoss", "softmax": True, "to_onehot_y": True}
    workflow = open_workflow(bundle, "train", dataset_dir=str(task), loss=loss, **SMALL)
    assert type(workflow.parser.get_parsed_content("loss")) is OBJECTIVES["soft_jaccard"]


def test_unknown_objective_stops_before_any_data_is_read(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="loss_class") as failure:
        open_workflow(bundle, "train", dataset_dir=str(tmp_path / "absent"), objective="soft_dise")
    with pytest.raises(ValueError, match=r"objective must be one of .*soft_dice.* 'soft_dise'.*mean 'soft_dice'"):
        raise failure.value.__cause__ or failure.value


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"objective": "weighted_cross_entropy", "class_counts": [90, 10, 5]}, "class_counts must have 2 values"),
        (
            {"smoothing": "structure_volume", "structure_volumes": [45.0, 10.0, 3.0]},
            "structure_volumes must have 2 values, one per class and the background first, but has 3",
        ),
        (
            {"smoothing": "structure_volume", "structure_volumes": [45.0, -1.0]},
            "structure_volumes must hold one volume",
        ),
        ({"smoothing": "volume"}, 'smoothing must be None or "structure_volume"'),
        ({"class_weighting": "median"}, "class_weighting must be one of inverse_frequency"),
        ({"loss#weight": [1.0, 2.0, 3.0]}, "weight must have 2 values"),
        (
            {
                "objective": "cross_entropy_to_soft_dice",
                "smoothing": "structure_volume",
                "structure_volumes": [45.0, 10.0, 3.0],
            },
            "structure_volumes must have 2 values, one per class and the background first, but has 3",
        ),
    ],
)
def test_impossible_context_stops_before_training(
    overrides: dict[str, Any], match: str, bundle: Path, task: Path
) -> None:
    with pytest.raises(RuntimeError) as failure:
        open_workflow(bundle, "train", dataset_dir=str(task), **overrides, **SMALL)
    cause = failure.value.__cause__ or failure.value
    while not isinstance(cause, ValueError) and cause.__cause__ is not None:
        cause = cause.__cause__
    with pytest.raises(ValueError, match=match):
        raise cause
    assert not (bundle / "models").exists()


def test_a_loss_of_another_package_passes_the_check(bundle: Path, task: Path) -> None:
    loss = {"_target_": "DiceLoss", "softmax": True, "to_onehot_y": True}
    workflow = open_workflow(bundle, "train", dataset_dir=str(task), loss=loss, **SMALL)
    assert type(workflow.parser.get_parsed_content("loss")).__module__.startswith("monai.losses")
