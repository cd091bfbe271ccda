"""Scores over ranks are those of one process: uneven ranks, ranks without an image, images that a sampler repeated."""

import logging
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_surrogates.handlers import PerImageDice, PerImageIoU, PerImageSummary

# file names of the images of each rank
RANKS = {
    "uneven": (["a", "b", "c"], ["d"]),
    "a rank without an image": (["a", "b", "c"], []),
    "first rank without an image": ([], ["a", "d"], ["b"]),
    "a repeated image": (["a", "c", "e"], ["b", "d", "a"]),
    "a repeated image of three ranks": (["a", "d"], ["b", "a"], ["c", "b"]),
    "no names": (["", ""], [""]),
}
HANDLERS = {"dice": PerImageDice, "iou": PerImageIoU, "scores": PerImageSummary}


def image(name, position):
    """An image that its name (or, without one, its place) determines."""
    generator = torch.Generator().manual_seed(ord(name) if name else position)
    prediction, reference = torch.randint(0, 3, (2, 1, 4, 5), generator=generator)
    meta = {"filename_or_obj": f"{name}.nii.gz"} if name else {}
    return MetaTensor(prediction, meta=meta), reference


def run(names, first, handlers=None):
    """An engine that scores one image per iteration; without one, what happens at the end of its epoch."""
    engine = Engine(lambda engine, batch: ([batch[0]], [batch[1]]))
    handlers = handlers or {name: cls(num_classes=3, include_background=False) for name, cls in HANDLERS.items()}
    for name, handler in handlers.items():
        handler.attach(engine, name)
    images = [image(name, first + number) for number, name in enumerate(names)]
    if images:
        engine.run(images)
    else:  # Ignite refuses to run on nothing
        for name, handler in handlers.items():
            handler.started(engine)
            handler.completed(engine, name)
    return engine.state.metrics


def rank_main(rank, case, port, results):
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("monai_surrogates").addHandler(handler)
    logging.getLogger("monai_surrogates").setLevel(logging.INFO)
    names = RANKS[case]
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(names))
    results[rank] = run(names[rank], sum(map(len, names[:rank]))), logged
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("case", RANKS)
def test_ranks_together_score_what_one_process_scores(case):
    names = RANKS[case]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = mp.get_context("spawn").Manager().dict()
    mp.spawn(rank_main, (case, port, results), nprocs=len(names))
    every = [name for of_rank in names for name in of_rank]
    once = list(dict.fromkeys(every)) if all(every) else every
    expected = run(once, 0)
    for rank in range(len(names)):
        metrics, logged = results[rank]
        assert metrics == pytest.approx(expected)
        repeats = len(every) - len(once)
        said = [f"{name}: dropped {repeats} repeats among {len(every)} images." for name in HANDLERS]
        assert logged == (said if repeats and rank == 0 else [])


def test_one_process_counts_every_image_as_often_as_it_comes():
    assert run(["a", "a", "b"], 0)["dice/defined"] == 3
