"""The study from end to end, each stage in the process that a user would get."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_surrogates import data
from monai_surrogates.study import Study, StudyError, run_study
from monai_surrogates.study.stage import command, seconds_per_epoch
from tests.reference import dice_and_iou
from tests.study.conftest import TINY

OBJECTIVES = ("soft_dice", "lovasz_softmax")


def prepared(out, task, settings, objectives=OBJECTIVES):
    return Study.prepare(out, objectives, settings, task, progress=False)


def recorder():
    return Console(file=io.StringIO(), width=120)


def outcome_of(study):
    """Whether the study succeeded, and its output."""
    console = recorder()
    return run_study(study, console, jobs=2), console.file.getvalue()


def summary_of(study):
    return json.loads((study.out / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, task):
    study = prepared(tmp_path_factory.mktemp("study") / "out", task, TINY)
    succeeded, text = outcome_of(study)
    assert succeeded, text
    return study, text


@pytest.mark.slow
def test_the_printed_table_and_the_written_files(finished):
    study, text = finished
    for word in (*OBJECTIVES, "Dice", "IoU", "s/epoch", "interval is too narrow", "per_image.csv", "summary.json"):
        assert word in text
    summary = json.loads((study.out / "summary.json").read_text())
    assert [o["objective"] for o in summary["objectives"]] == list(OBJECTIVES)
    assert all(o["seconds_per_epoch"] > 0 for o in summary["objectives"])
    for picture in ("per_image.png", "case.png"):
        assert (study.out / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_log_file_says_how_long_each_stage_took_and_how_long_the_rest_will_take(finished):
    _, text = finished
    lines = [line for line in text.splitlines() if " took " in line]
    assert len(lines) == 4
    assert all(re.fullmatch(r"\w+, fold 0: (train|evaluate) took \d+ s(; about 0:\d\d:\d\d left)?", x) for x in lines)
    assert "left" in lines[1]
    assert "left" not in lines[-1]
    (bar,) = [line for line in text.splitlines() if line.startswith("2 runs")]
    assert re.search(r"100% 0:\d\d:\d\d 0:00:00 left", bar)


@pytest.mark.slow
def test_the_time_of_an_epoch_is_the_median_that_tensorboard_shows_and_needs_no_checkpoint(finished):
    study, _ = finished
    for run in study.runs:
        events = EventAccumulator(str(run.folder / "eval")).Reload()
        seconds = [event.value for event in events.Scalars("seconds_per_epoch")]
        assert len(seconds) == study.settings.epochs
        assert run.noted("train")["seconds_per_epoch"] == pytest.approx(
            np.median(seconds), rel=1e-6
        )  # TensorBoard keeps float32
    model = study.runs[0].folder / "models" / "model.pt"
    kept = model.read_bytes()
    model.unlink()
    try:
        assert outcome_of(study)[0]
        assert all(o["seconds_per_epoch"] > 0 for o in summary_of(study)["objectives"])
    finally:
        model.write_bytes(kept)


@pytest.mark.slow
def test_a_study_begun_by_the_version_before_shows_no_time_and_trains_nothing_again(finished):
    study, _ = finished
    marker = study.runs[0].marker("train")
    kept = marker.read_bytes()
    before = json.loads(kept)
    del before["seconds_per_epoch"]
    marker.write_text(json.dumps(before))
    try:
        succeeded, text = outcome_of(study)
        assert succeeded, text
        assert "took" not in text
        times = [o["seconds_per_epoch"] for o in summary_of(study)["objectives"]]
        assert times[0] is None
        assert times[1] > 0
    finally:
        marker.write_bytes(kept)
    assert outcome_of(study)[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"seconds": 1, "left": null}'])
def test_a_damaged_marker_is_a_stage_to_run(tmp_path, tiny, text):
    (run,) = prepared(tmp_path / "out", None, tiny, ("soft_dice",)).runs
    run.folder.mkdir(parents=True)
    run.marker("train").write_text(text)
    assert run.todo() == ["train", "evaluate"]
    assert run.record("train") == {}


def test_an_epoch_costs_the_median_of_its_log(tmp_path):
    (tmp_path / "log").write_text(
        "2026-01-01 INFO - Epoch[1] Metrics -- train_dice: 0.5000\n"
        "2026-01-01 INFO - State values: times: {'EPOCH_COMPLETED': 9.5, 'COMPLETED': 0.0} \n"
        "2026-01-01 INFO - State values: times: {'EPOCH_COMPLETED': 0.25, 'COMPLETED': 0.0} \n"
        "2026-01-01 INFO - State values: times: {'EPOCH_COMPLETED': 1e-05, 'COMPLETED': 0.0} \n"
    )
    assert seconds_per_epoch(tmp_path / "log") == 0.25
    (tmp_path / "log").write_text("nothing of the kind")
    assert seconds_per_epoch(tmp_path / "log") is None


@pytest.mark.slow
def test_per_image_scores_are_those_of_the_masks_on_images_that_trained_nothing(finished):
    study, _ = finished
    table = pd.read_csv(study.out / "per_image.csv")
    assert list(table.columns) == ["objective", "image", "class", "dice", "iou"]
    parts = data.split(study.task_dir, study.settings.folds, 0, study.settings.seed)
    labels = {name_of(item["image"]): item["label"] for item in parts.evaluation}
    assert set(table["image"]) == set(labels)
    assert not set(labels) & {name_of(item["image"]) for item in parts.train + parts.validation}
    for row in table.itertuples():
        mask = study.out / "cells" / row.objective / "fold0" / "eval" / "predictions" / f"{row.image}.nii.gz"
        prediction, reference = (np.asarray(nib.load(p).dataobj) == 1 for p in (mask, labels[row.image]))
        assert (row.dice, row.iou) == pytest.approx(dice_and_iou(prediction, reference))
        assert row.dice == pytest.approx(2 * row.iou / (1 + row.iou))


def name_of(path):
    return os.path.basename(path).removesuffix(".nii.gz")  # noqa: PTH119


@pytest.mark.slow
def test_a_second_call_runs_nothing_again(finished):
    study, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (study.out / "cells").rglob("*") if p.is_file()}
    table = (study.out / "per_image.csv").read_bytes()
    started = time.monotonic()
    assert outcome_of(study)[0]
    assert time.monotonic() - started < 15  # a process that trains would need as long to import alone
    assert {p: p.stat().st_mtime_ns for p in (study.out / "cells").rglob("*") if p.is_file()} == before
    assert (study.out / "per_image.csv").read_bytes() == table


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_the_others_are_kept(finished, tmp_path):
    study, _ = finished
    run = study.runs[0]
    model = run.folder / "models" / "model.pt"
    kept, marker = model.read_bytes(), run.marker("evaluate").read_bytes()
    try:
        model.write_bytes(b"not a checkpoint")
        run.marker("evaluate").unlink()
        succeeded, text = outcome_of(study)
        assert not succeeded
        assert "soft_dice, fold 0: evaluate took" in text
        assert "and failed" in text
        assert "evaluate.log" in text
        assert "exit code 1" in text
        assert set(pd.read_csv(study.out / "per_image.csv")["objective"]) == {"lovasz_softmax"}
        statuses = {
            o["objective"]: o["status"] for o in json.loads((study.out / "summary.json").read_text())["objectives"]
        }
        assert statuses == {"soft_dice": "failed", "lovasz_softmax": "finished"}
    finally:
        model.write_bytes(kept)
        run.marker("evaluate").write_bytes(marker)
    assert outcome_of(study)[0]


@pytest.mark.slow
def test_deleted_files_are_made_again_and_fewer_objectives_drop_nothing(finished):
    study, _ = finished
    mask = next(study.runs[1].prediction_dir.iterdir())
    kept = mask.read_bytes()
    mask.unlink()
    table = (study.out / "per_image.csv").read_text().splitlines()
    succeeded, text = outcome_of(replace(study, objectives=(study.objectives[1],)))
    assert succeeded
    assert "lovasz_softmax, fold 0: evaluate took" in text
    assert "train took" not in text
    assert mask.read_bytes() == kept
    assert sorted((study.out / "per_image.csv").read_text().splitlines()) == sorted(table)


@pytest.mark.slow
def test_volumes_of_one_slice_and_references_without_foreground(tmp_path, tiny):
    root = tmp_path / "data"
    data.write_synthetic_task(root, num_training=4, num_test=0, shape=(16, 16, 8))
    for file in sorted((root / "imagesTr").iterdir()) + sorted((root / "labelsTr").iterdir()):
        volume = nib.load(file)
        array = np.asarray(volume.dataobj)[:, :, :1]
        nib.save(nib.Nifti1Image(array * ("images" in str(file)), volume.affine), file)
    study = prepared(tmp_path / "out", root, replace(tiny, epochs=1, patch_size=(16, 16, 16)), ("soft_dice",))
    succeeded, text = outcome_of(study)
    assert succeeded, text
    summary = json.loads((study.out / "summary.json").read_text())
    assert summary["dice_of_one_class_everywhere"] is None
    assert summary["objectives"][0]["dice"] == {"mean": None, "low": None, "high": None, "images": 0}
    assert not (study.out / "case.png").exists()


@pytest.mark.slow
def test_an_interrupted_study_ends_its_process_and_is_resumed(task, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "monai_surrogates", "study", "--quick", "--data", str(task), "--out", str(out)]
    words += ["--objectives", "soft_dice", "--epochs", "5000"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = out / "cells" / "soft_dice" / "fold0" / "train.log"
    deadline = time.monotonic() + 120
    while "Epoch: 1/5000" not in (log.read_text() if log.is_file() else ""):
        assert time.monotonic() < deadline, process.communicate(timeout=5)
        time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "The same command goes on" in errors
    size = log.stat().st_size
    time.sleep(2)
    assert log.stat().st_size == size  # nothing writes any more
    assert not list(out.rglob("*.done.json"))


def test_the_same_folder_with_other_settings_is_another_run_but_more_objectives_are_not(task, tmp_path, tiny):
    study = prepared(tmp_path / "out", task, tiny)
    study.open()
    assert prepared(tmp_path / "out", task, tiny, ("cross_entropy",)).runs[0].objective == "cross_entropy"
    with pytest.raises(StudyError, match=r"holds another run \(epochs=2 instead of 7\)"):
        prepared(tmp_path / "out", task, replace(tiny, epochs=7))


def test_a_folder_whose_study_was_killed_before_its_first_file_is_new(task, tmp_path, tiny):
    (tmp_path / "out").mkdir()
    for name in (".lock", ".study.json", ".study.json.0f3a"):
        (tmp_path / "out" / name).touch()
    prepared(tmp_path / "out", task, tiny)


def test_two_runs_do_not_write_the_same_folder(task, tmp_path, tiny):
    study = prepared(tmp_path / "out", task, tiny)
    study.open()
    with FileLock(study.out / ".lock"), pytest.raises(StudyError, match="is being written by another run"):
        outcome_of(study)


def test_objectives_differ_in_one_config_value_and_in_their_folders(task, tmp_path, tiny):
    study = prepared(tmp_path / "out", task, tiny)
    first, second = ([w.replace(c.objective, "OBJECTIVE") for w in command(study, c, "train")] for c in study.runs)
    assert first == second


def test_a_schedule_is_an_objective_like_the_others_and_kept_as_they_are(tmp_path):
    study = prepared(tmp_path / "out", None, TINY, ["cross_entropy_to_soft_dice_ce"])
    (run,) = study.runs
    run.prediction_dir.mkdir(parents=True)
    for stage in ("train", "evaluate"):
        run.finish(stage, seconds=1.0, jobs=1)
    other = replace(study, objectives=("soft_dice",))
    assert other.with_earlier_objectives().objectives == ("soft_dice", "cross_entropy_to_soft_dice_ce")
