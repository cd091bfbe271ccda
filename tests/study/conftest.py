import pytest

from monai_surrogates.data import write_synthetic_task
from monai_surrogates.study import Settings

TINY = Settings(
    folds=2,
    run_folds=1,
    epochs=2,
    val_interval=1,
    patch_size=(16, 16, 8),
    patches_per_image=1,
    batch_size=2,
    num_res_units=0,
    num_workers=0,
    num_images=6,
)


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    """A Decathlon folder to be read, never written."""
    root = tmp_path_factory.mktemp("data") / "Task99_Tiny"
    write_synthetic_task(root, num_training=6, num_test=0, shape=(16, 16, 8))
    return root
