"""Every bad input ends with exit code 2 and one sentence, or typer's usage, and leaves every folder as it was."""

import json
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from monai_surrogates.cli import app
from monai_surrogates.losses import make_loss
from monai_surrogates.losses.names import LOSSES
from monai_surrogates.study import Study, StudyError
from monai_surrogates.study.plan import QUICK


@pytest.fixture
def data_dir(task, tmp_path):
    return shutil.copytree(task, tmp_path / "data")


def listing(folder):
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def refused(tmp_path, *arguments):
    """The message of a study that must not start."""
    before = listing(tmp_path)
    result = CliRunner().invoke(app, ["study", "--quick", "--out", str(tmp_path / "out"), *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert listing(tmp_path) == before
    message = result.stderr.strip()
    assert message.startswith("Error: ")
    assert len(message.splitlines()) == 1
    return message


def edit(data_dir, **changes):
    file = data_dir / "dataset.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, **changes}))


def rewrite(path, change_array=lambda a: a, change_affine=lambda a: a):
    volume = nib.load(path)
    array, affine = np.asarray(volume.dataobj), volume.affine
    nib.save(nib.Nifti1Image(change_array(array), change_affine(affine)), path)


def test_unknown_objective(tmp_path):
    message = refused(tmp_path, "--objectives", "soft_dise,lovasz_softmax")
    assert "cross_entropy, weighted_cross_entropy, soft_dice, soft_jaccard, lovasz_softmax" in message
    assert "Did you mean 'soft_dice'?" in message


@pytest.mark.parametrize("name", LOSSES)
def test_help_names_every_objective_that_fits_the_bundle(name):
    (option,) = [o for o in get_command(app).commands["study"].params if o.name == "objectives"]
    named = re.findall(r"[a-z]+(?:_[a-z]+)*", f"{option.default},{option.help}")
    try:
        make_loss(name, softmax=True, to_onehot_y=True, class_counts=[9, 1])
    except ValueError:
        assert name not in named
    else:
        assert named.count(name) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lovasz_hinge", "LovaszHingeLoss takes logits of structures: softmax and other_act must not be set"),
        ("cross_entropy_to_lovasz_hinge", "takes logits of structures"),
        ("soft_dice_to_soft_dice", "'soft_dice_to_soft_dice' stays at soft_dice; name soft_dice alone"),
        ("soft_dice_to_lovasz_sofmax", "Did you mean 'soft_dice_to_lovasz_softmax'?"),
    ],
)
def test_an_objective_that_the_bundle_cannot_train(name, words, tmp_path):
    assert words in refused(tmp_path, "--objectives", name)


def test_no_objective(tmp_path):
    assert "must name at least one objective" in refused(tmp_path, "--objectives", " , ")


def test_the_same_objective_twice(tmp_path):
    assert "name each of them once" in refused(tmp_path, "--objectives", "soft_dice,soft_dice")


def test_no_data_set(tmp_path):
    assert "dataset.json" in refused(tmp_path, "--data", tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"training": 3}'])
def test_malformed_data_set(tmp_path, data_dir, text):
    (data_dir / "dataset.json").write_text(text)
    assert "dataset.json" in refused(tmp_path, "--data", data_dir)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("./imagesTr/nobody.nii.gz", "nobody.nii.gz"),
        ("/imagesTr/lesion_000.nii.gz", "relative"),
        ("./imagesTr/../imagesTr/lesion_000.nii.gz", r".."),
    ],
)
def test_entries_missing_absolute_or_outside(tmp_path, data_dir, path, words):
    training = json.loads((data_dir / "dataset.json").read_text())["training"]
    training[0]["image"] = path
    edit(data_dir, training=training)
    assert words in refused(tmp_path, "--data", data_dir)


def test_symbolic_links_are_followed(tmp_path, data_dir):
    image = data_dir / "imagesTr" / "lesion_000.nii.gz"
    image.rename(tmp_path / "elsewhere.nii.gz")
    image.symlink_to(tmp_path / "elsewhere.nii.gz")
    Study.prepare(tmp_path / "out", ["soft_dice"], QUICK, data_dir, progress=False)


def test_image_and_label_of_different_shape(tmp_path, data_dir):
    rewrite(data_dir / "labelsTr" / "lesion_001.nii.gz", change_array=lambda a: a[..., 1:])
    assert "lesion_001" in refused(tmp_path, "--data", data_dir)


def test_a_corner_moved_by_more_than_one_percent_of_a_voxel(tmp_path, data_dir):
    def shift(affine):
        return affine @ np.array([[1, 0, 0, 0.02], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

    rewrite(data_dir / "labelsTr" / "lesion_002.nii.gz", change_affine=shift)
    assert "lesion_002" in refused(tmp_path, "--data", data_dir)


def test_undeclared_label_values(tmp_path, data_dir):
    rewrite(data_dir / "labelsTr" / "lesion_003.nii.gz", change_array=lambda a: np.where(a > 0, 5, a).astype(np.uint8))
    message = refused(tmp_path, "--data", data_dir)
    assert "lesion_003" in message
    assert "5" in message


def test_fewer_images_than_folds(tmp_path, data_dir):
    assert "folds" in refused(tmp_path, "--data", data_dir, "--folds", 7)
    assert "folds" in refused(tmp_path, "--folds", 999)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        *(("folds", value, "folds must be at least 2") for value in (-1, 0, 1)),
        *(("epochs", value, "epochs must be at least 1") for value in (0, -3)),
        *(("seed", value, "seed must lie in 0 to") for value in (-1, 2**32)),
    ],
)
def test_a_setting_out_of_range(tmp_path, setting, value, words):
    result = CliRunner().invoke(app, ["study", "--out", str(tmp_path / "out"), f"--{setting}", str(value)])
    assert result.exit_code == 2
    assert re.search(rf"Invalid value for .*{setting}", result.stderr)
    values = {"val_interval": 1, "run_folds": 1, setting: value}
    with pytest.raises(StudyError, match=words):
        Study.prepare(tmp_path / "out", ["soft_dice"], replace(QUICK, **values))
    assert listing(tmp_path) == {}


def test_an_output_folder_with_other_files(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    assert "holds other files" in refused(tmp_path)


def test_an_output_folder_of_another_run(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_text(json.dumps({"epochs": 3}))
    message = refused(tmp_path)
    assert "holds another run" in message
    assert "epochs=3" in message


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_damaged_study_file(tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_text(text)
    assert "damaged" in refused(tmp_path)


def test_an_output_path_below_a_file(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert "is a file" in refused(tmp_path, "--out", tmp_path / "file" / "out")
    result = CliRunner().invoke(app, ["bundle", str(tmp_path / "file" / "bundle")])
    assert result.exit_code == 2
    assert "is a file" in result.stderr


def test_paths_that_a_config_would_take_apart(tmp_path):
    assert "'#'" in refused(tmp_path, "--out", tmp_path / "a#b")


def test_images_of_one_name_in_several_folders(tmp_path, data_dir):
    training = json.loads((data_dir / "dataset.json").read_text())["training"]
    for number, item in enumerate(training):
        folder = data_dir / "imagesTr" / f"patient{number}"
        folder.mkdir()
        (data_dir / item["image"]).rename(folder / "scan.nii.gz")
        item["image"] = f"./imagesTr/patient{number}/scan.nii.gz"
    edit(data_dir, training=training)
    assert "a name of its own" in refused(tmp_path, "--data", data_dir)


def test_an_output_path_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("not a folder")
    assert "is a file" in refused(tmp_path)


def test_the_bundle_is_not_copied_over_anything(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.yaml").write_text("precious")
    result = CliRunner().invoke(app, ["bundle", str(tmp_path / "mine")])
    assert result.exit_code == 2
    assert "nothing is overwritten" in result.stderr
    assert (tmp_path / "mine" / "train.yaml").read_text() == "precious"


def test_the_bundle_is_copied_out_whole(tmp_path):
    result = CliRunner().invoke(app, ["bundle", str(tmp_path / "new")])
    assert result.exit_code == 0
    names = {str(p.relative_to(tmp_path / "new")) for p in (tmp_path / "new").rglob("*") if p.is_file()}
    assert {
        "configs/train.yaml",
        "configs/evaluate.yaml",
        "configs/inference.yaml",
        "LICENSE",
        "docs/README.md",
    } <= names
    assert {"configs/metadata.json", "configs/logging.conf", "configs/lovasz_softmax.yaml"} <= names
