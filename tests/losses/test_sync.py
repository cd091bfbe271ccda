"""sync=True: loss and parameter gradients under DistributedDataParallel are those of one process on the whole batch."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from monai_surrogates import losses

FLAGS = {"softmax": True, "to_onehot_y": True, "batch": True, "ignore_index": 9}
CASES = {
    "SoftDice": (losses.SoftDiceLoss, {}),
    "SoftDice, squared and weighted": (losses.SoftDiceLoss, {"squared_pred": True, "weight": [1.0, 2.0, 3.0]}),
    "SoftJaccard, present": (losses.SoftJaccardLoss, {"classes": "present"}),
    "SoftTversky": (losses.SoftTverskyLoss, {"alpha": 0.3, "beta": 0.7}),
    "LovaszSoftmax": (losses.LovaszSoftmaxLoss, {}),
    "LovaszSoftmax, bins": (losses.LovaszSoftmaxLoss, {"method": "bins", "bins": 64}),
    "LovaszHinge": (losses.LovaszHingeLoss, {"softmax": False}),
    "SoftDiceCE": (losses.SoftDiceCELoss, {"weight": torch.tensor([1.0, 2.0, 3.0])}),
    "LovaszSoftmaxCE, sum": (losses.LovaszSoftmaxCELoss, {"reduction": "sum"}),
}
ITEMS = {2: (1, 3), 3: (2, 1, 2)}  # images per rank: uneven


def whole_batch(items):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(items, 2, 4, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (items, 1, 4, 5), generator=generator)
    y[0][y[0] == 2] = 1  # the first rank may have no sample of class 2
    y[-1, ..., 0] = 9
    return x, y


def network():
    torch.manual_seed(0)
    return torch.nn.Conv2d(2, 3, 1).double()


def loss_and_gradients(model, loss, x, y):
    value = loss(model(x), y)
    value.backward()
    return value.detach(), [p.grad.clone() for p in model.parameters()]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def rank_main(rank, world_size, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    sizes = ITEMS[world_size]
    x, y = whole_batch(sum(sizes))
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    for name, (cls, arguments) in CASES.items():
        model = DistributedDataParallel(network())
        loss = cls(**{**FLAGS, **arguments}, sync=True)
        results[rank, name] = loss_and_gradients(model, loss, x[own], y[own])
        with torch.no_grad():
            alone = cls(**{**FLAGS, **arguments})
            torch.testing.assert_close(loss(model.module(x[own]), y[own]), alone(model.module(x[own]), y[own]))
    if rank == 0:
        with torch.no_grad():  # no collective runs, or this rank would wait for ever
            losses.SoftDiceLoss(**FLAGS, sync=True)(network()(x), y)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", ITEMS)
def test_ranks_together_are_one_process(world_size):
    results = mp.get_context("spawn").Manager().dict()
    mp.spawn(rank_main, (world_size, free_port(), results), nprocs=world_size)
    x, y = whole_batch(sum(ITEMS[world_size]))
    for name, (cls, arguments) in CASES.items():
        value, gradients = loss_and_gradients(network(), cls(**{**FLAGS, **arguments}), x, y)
        for rank in range(world_size):
            of_rank, gradients_of_rank = results[rank, name]
            torch.testing.assert_close(of_rank, value, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
            for mine, whole in zip(gradients_of_rank, gradients, strict=True):
                torch.testing.assert_close(mine, whole, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_without_a_process_group_sync_changes_nothing():
    x, y = whole_batch(3)
    model = network()
    for cls, arguments in CASES.values():
        together, alone = (cls(**{**FLAGS, **arguments}, sync=sync)(model(x), y) for sync in (True, False))
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("cls", [losses.SoftDiceLoss, losses.LovaszSoftmaxLoss])
def test_sync_needs_one_batch(cls):
    with pytest.raises(ValueError, match=r"sync=True .* needs batch=True"):
        cls(softmax=True, sync=True)
