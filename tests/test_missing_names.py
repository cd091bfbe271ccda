"""A target that does not exist: a warning with the nearest public name, before MONAI's own error."""

import subprocess
import sys
import warnings

import pytest
from monai.bundle import ConfigParser

import monai_surrogates
from monai_surrogates import core, data, handlers, losses, metrics

NEAREST = {
    "losses.LovaszSoftmax": "losses.LovaszSoftmaxLoss",
    "losses.SoftDice": "losses.SoftDiceLoss",
    "losses.DiceLoss": "losses.SoftDiceLoss",
    "losses.PerImageDiceMetric": "metrics.PerImageDiceMetric",
    "LovaszSoftmaxLoss": "losses.LovaszSoftmaxLoss",
    "PerImageDice": "handlers.PerImageDice",
    "loses": "losses",
    "metrics.PerImageDiceMetrics": "metrics.PerImageDiceMetric",
    "handlers.PerImageIou": "handlers.PerImageIoU",
}


@pytest.mark.parametrize(("wrong", "near"), NEAREST.items())
def test_a_target_that_does_not_exist_suggests_the_nearest(wrong, near):
    module, _, name = f"monai_surrogates.{wrong}".rpartition(".")
    with (
        pytest.warns(UserWarning, match=rf"^{module} has no {name}; did you mean monai_surrogates\.{near}\?") as caught,
        pytest.raises(ModuleNotFoundError, match="Cannot locate class or function path"),
    ):
        ConfigParser({"loss": {"_target_": f"monai_surrogates.{wrong}"}}).get_parsed_content("loss")
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("module", [monai_surrogates, losses, metrics, handlers], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    "name", ["__path_", "__wrapped__", "__loses__", "_SoftDiceLoss", "pytest_plugins", "setUpModule", "Adam"]
)
def test_probes_and_far_names_are_silent(module, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hasattr(module, name)
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute '{name}'"):
            getattr(module, name)


def test_rooms_without_suggestions_keep_python_s_error():
    for room in (core, data):
        with pytest.raises(AttributeError, match="has no attribute 'absent'"):
            room.absent  # noqa: B018


CONFIG = """
loss:
  _target_: monai_surrogates.losses.SoftDiceLoss
  softmax: true
  jaccard: true
initialize: []
run: ['$@loss']
finalize: []
"""


@pytest.mark.slow
@pytest.mark.parametrize(("target", "said"), [("SoftDiceLoss", "no use for jaccard"), ("SoftDice", "did you mean")])
def test_the_command_line_of_monai_shows_the_block_of_the_config(target, said, tmp_path):
    (tmp_path / "train.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "train.yaml"]
    command += ["--loss#_target_", f"monai_surrogates.losses.{target}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if said in line]
    assert len(lines) == 1
    assert lines[0].startswith("<config loss>:1: UserWarning: "), lines
    assert done.returncode == (target != "SoftDiceLoss")
