"""Two and three processes with uneven shares, one of them without an image, give what one process gives."""

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from monai_surrogates.core import ShapeMismatchError
from monai_surrogates.metrics import PerImageDiceMetric, PerImageIoUMetric, PerImageScores
from tests.processes import results_of_ranks

SHARES = {2: [(3, 2), (4, 0), (0, 1), (0, 0)], 3: [(1, 0, 3), (2, 1, 2), (0, 0, 4)]}  # images of each rank
METRICS = {"dice": PerImageDiceMetric, "iou": PerImageIoUMetric, "scores": PerImageScores}
SETTINGS = {"num_classes": 3, "include_background": False, "class_labels": ["liver", "tumour"]}


def images(number):
    generator = torch.Generator().manual_seed(number)
    prediction, target = torch.randint(0, 3, (2, number, 1, 5, 4), generator=generator)
    target[:1][target[:1] == 2] = 1  # NaN cells
    return prediction, target


def results(metric):
    """The scores of a metric in plain numbers, for another process; None without an image."""
    if metric.get_buffer() is None:
        return None
    return metric.get_buffer(), len(metric), metric.aggregate(), metric.by_label()


def rank_main(rank, world_size, port, told):
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # as torchrun sets it
    # a rank that waits for ever fails after a minute
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    for shares in SHARES[world_size]:
        prediction, target = images(sum(shares))
        begin, end = sum(shares[:rank]), sum(shares[: rank + 1])
        for name, metric_class in METRICS.items():
            metric = metric_class(**SETTINGS)
            for image in range(begin, end):  # one call each
                metric(prediction[image : image + 1], target[image : image + 1])
            told[rank, shares, name] = results(metric)
            if rank == 0 and sum(shares):
                results(metric)  # gathered rows are cached: no collective runs, or this rank would wait for ever
            metric.reset()
            told[rank, shares, name, "after reset"] = results(metric)
    metric = PerImageDiceMetric()
    metric(torch.ones(1, 2 + rank, 4), torch.ones(1, 2 + rank, 4))
    with pytest.raises(ShapeMismatchError, match=r"the ranks must score the same classes, but scored \[2, 3"):
        metric.aggregate()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", SHARES)
def test_ranks_together_are_one_process(world_size):
    told = results_of_ranks(rank_main, world_size)
    for shares in SHARES[world_size]:
        for name, metric_class in METRICS.items():
            metric = metric_class(**SETTINGS)
            if sum(shares):
                metric(*images(sum(shares)))
            for rank in range(world_size):
                torch.testing.assert_close(told[rank, shares, name], results(metric), rtol=0, atol=0, equal_nan=True)
                assert told[rank, shares, name, "after reset"] is None
