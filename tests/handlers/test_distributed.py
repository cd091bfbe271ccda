"""Scores over ranks are those of one process: uneven ranks, ranks without an image, images that a sampler repeated."""

import logging
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_surrogates.handlers import PerImageDice, PerImageIoU, PerImageSummary
from tests.processes import results_of_ranks

# file names of the images of each rank
RANKS = {
    "uneven": (["a", "b", "c"], ["d"]),
    "a rank without an image": (["a", "b", "c"], []),
    "first rank without an image": ([], ["a", "d"], ["b"]),
    "a repeated image": (["a", "c", "e"], ["b", "d", "a"]),
    "a repeated image of three ranks": (["a", "d"], ["b", "a"], ["c", "b"]),
    "no names": (["", ""], [""]),
    "items of one file on each rank": (["a", "a", "b"], ["c", "c", "c"]),
    "slices of one file on both ranks": (["s", "s", "s"], ["s", "s"]),
}
HANDLERS = {"dice": PerImageDice, "iou": PerImageIoU, "scores": PerImageSummary}


def image(name, position):
    """An image that its name determines; without one, and for the slices of s, its place."""
    generator = torch.Generator().manual_seed(ord(name) if name not in ("", "s") else position)
    prediction, reference = torch.randint(0, 3, (2, 1, 4, 5), generator=generator)
    meta = {"filename_or_obj": f"{name}.nii.gz"} if name else {}
    return MetaTensor(prediction, meta=meta), reference


def make_handlers(**arguments):
    return {name: cls(num_classes=3, include_background=False, **arguments) for name, cls in HANDLERS.items()}


def run(names, first, handlers=None):
    """An engine that scores one image per iteration; without images the start and end of an epoch."""
    engine = Engine(lambda engine, batch: ([batch[0]], [batch[1]]))
    handlers = handlers or make_handlers()
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


def cases_of(world_size):
    return {case: names for case, names in RANKS.items() if len(names) == world_size}


def rank_main(rank, world_size, port, results):
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("monai_surrogates").addHandler(handler)
    logging.getLogger("monai_surrogates").setLevel(logging.INFO)
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", timeout=timeout, rank=rank, world_size=world_size)
    for case, names in cases_of(world_size).items():
        logged.clear()
        first, handlers = sum(map(len, names[:rank])), make_handlers()
        results[rank, case] = run(names[rank], first, handlers), list(logged)
        for name, handler in handlers.items():  # once more, from the same images
            assert handler.compute() == results[rank, case][0][name]
            assert {len(rows) for rows in handler._details.values()} == {sum(map(len, names))}
        resumed = make_handlers()
        for name, handler in handlers.items():
            resumed[name].load_state_dict(handler.state_dict())
            assert resumed[name].compute() == results[rank, case][0][name]
        every = run(names[rank], first, make_handlers(drop_repeats=False))
        assert every["dice/defined"] == sum(map(len, names))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_score_what_one_process_scores(world_size):
    results = results_of_ranks(rank_main, world_size)
    for case, names in cases_of(world_size).items():
        every = [name for of_rank in names for name in of_rank]
        repeated = case.startswith("a repeated")
        once = list(dict.fromkeys(every)) if repeated else every
        expected, repeats = run(once, 0), len(every) - len(once)
        said = [f"{name}: dropped {repeats} repeats among {len(every)} images." for name in HANDLERS]
        for rank in range(world_size):
            metrics, logged = results[rank, case]
            assert metrics == pytest.approx(expected), case
            assert logged == (said if repeats and rank == 0 else []), case


def test_one_process_counts_every_image_as_often_as_it_comes():
    assert run(["a", "a", "b"], 0)["dice/defined"] == 3
