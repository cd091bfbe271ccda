"""sync=True: loss and parameter gradients under DistributedDataParallel are those of one process on the whole batch."""

import itertools

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from monai_surrogates import losses
from monai_surrogates.core.kernels import operators
from tests.processes import results_of_ranks

VOXELS = {"softmax": True, "to_onehot_y": True, "ignore_index": 9}
LABELS = {**VOXELS, "batch": True}
MASKS = {"sigmoid": True, "ignore_index": 9, "batch": True}  # of structures that overlap
WEIGHTS = {"weight": [1.0, 2.0, 3.0]}
COUNTS = {"class_counts": [700, 200, 100]}
VOLUMES = {"smoothing": "structure_volume", "structure_volumes": [9.0, 4.0, 3.0]}


class ScheduledLossInARamp(losses.ScheduledLoss):
    """A third of the next objective."""

    def __init__(self, **arguments):
        super().__init__(ramp=2, **arguments)
        self.set_epoch(1)


CASES = {
    "SoftDice": (losses.SoftDiceLoss, LABELS),
    "SoftDice, squared and weighted": (losses.SoftDiceLoss, {**LABELS, **WEIGHTS, "squared_pred": True}),
    "SoftDice, masks": (losses.SoftDiceLoss, MASKS),
    "SoftJaccard, present": (losses.SoftJaccardLoss, {**LABELS, "classes": "present"}),
    "SoftJaccard, masks and present": (losses.SoftJaccardLoss, {**MASKS, "classes": "present"}),
    "SoftJaccard, by volume": (losses.SoftJaccardLoss, {**LABELS, **VOLUMES}),
    "SoftTversky": (losses.SoftTverskyLoss, {**LABELS, "alpha": 0.3, "beta": 0.7}),
    "LovaszSoftmax": (losses.LovaszSoftmaxLoss, LABELS),
    "LovaszSoftmax, all classes": (losses.LovaszSoftmaxLoss, {**LABELS, "classes": "all"}),
    "LovaszSoftmax, bins": (losses.LovaszSoftmaxLoss, {**LABELS, "method": "bins", "bins": 64}),
    "LovaszSoftmax, masks": (losses.LovaszSoftmaxLoss, MASKS),
    "LovaszSoftmax, masks and bins": (losses.LovaszSoftmaxLoss, {**MASKS, "method": "bins", "bins": 64}),
    "LovaszHinge": (losses.LovaszHingeLoss, {**LABELS, "softmax": False}),
    "LovaszHinge, masks": (losses.LovaszHingeLoss, MASKS),
    "PlainCE": (losses.PlainCELoss, VOXELS),
    "PlainCE, sum": (losses.PlainCELoss, {**VOXELS, **WEIGHTS, "label_smoothing": 0.1, "reduction": "sum"}),
    "PlainCE, masks": (losses.PlainCELoss, {"sigmoid": True, "ignore_index": 9, **WEIGHTS}),
    "WeightedCE": (losses.WeightedCELoss, {**VOXELS, **COUNTS}),
    "WeightedCE, per image": (losses.WeightedCELoss, {**VOXELS, **COUNTS, "per_image": True}),
    "SoftDiceCE": (losses.SoftDiceCELoss, {**LABELS, **WEIGHTS}),
    "SoftDiceCE, masks": (losses.SoftDiceCELoss, {**MASKS, **WEIGHTS}),
    "LovaszSoftmaxCE, sum": (losses.LovaszSoftmaxCELoss, {**LABELS, "reduction": "sum"}),
    "Scheduled, in a ramp": (
        ScheduledLossInARamp,
        {**LABELS, **WEIGHTS, "objectives": {0: "cross_entropy", 1: "lovasz_softmax"}},
    ),
    "Scheduled, in a ramp, by volume": (
        ScheduledLossInARamp,
        {**LABELS, **COUNTS, **VOLUMES, "objectives": {0: "weighted_cross_entropy", 1: "soft_jaccard"}},
    ),
}
ITEMS = {2: (1, 3), 3: (2, 1, 2)}  # images per rank: uneven


def whole_batch(world_size):
    """Images, a label map and masks: the first rank lacks class 2, the middle one of three has ignored voxels alone."""
    generator = torch.Generator().manual_seed(3)
    items, first = sum(ITEMS[world_size]), ITEMS[world_size][0]
    x = torch.randn(items, 2, 4, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (items, 1, 4, 5), generator=generator)
    masks = (torch.rand(items, 3, 4, 5, generator=generator) > 0.6).double()
    y[:first][y[:first] == 2] = 1
    masks[:first, 2] = 0
    for target in (y, masks):
        target[-1, ..., 0] = 9
        if world_size == 3:
            target[first] = 9
    return x, y, masks


def target_of(arguments, y, masks):
    return y if "to_onehot_y" in arguments else masks


def network():
    torch.manual_seed(0)
    return torch.nn.Conv2d(2, 3, 1).double()


def loss_and_gradients(model, loss, x, y):
    value = loss(model(x), y)
    value.backward()
    return value.detach(), [p.grad.clone() for p in model.parameters()]


def rank_main(rank, world_size, port, results):
    torch.set_num_threads(1)
    operators.KERNELS = dict.fromkeys(operators.KERNELS, 0)  # the kernels for large images
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    sizes = ITEMS[world_size]
    x, *targets = whole_batch(world_size)
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    for name, (cls, arguments) in CASES.items():
        y = target_of(arguments, *targets)
        model = DistributedDataParallel(network())
        loss = cls(**arguments, sync=True)
        results[rank, name] = loss_and_gradients(model, loss, x[own], y[own])
        with torch.no_grad():
            alone = cls(**arguments)
            torch.testing.assert_close(loss(model.module(x[own]), y[own]), alone(model.module(x[own]), y[own]))
    if rank == 0:
        with torch.no_grad():  # no collective runs, or this rank would wait for ever
            losses.SoftDiceLoss(**LABELS, sync=True)(network()(x), targets[0])
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", ITEMS)
def test_ranks_together_are_one_process(world_size):
    results = results_of_ranks(rank_main, world_size)
    x, *targets = whole_batch(world_size)
    for name, (cls, arguments) in CASES.items():
        value, gradients = loss_and_gradients(network(), cls(**arguments), x, target_of(arguments, *targets))
        for rank in range(world_size):
            of_rank, gradients_of_rank = results[rank, name]
            torch.testing.assert_close(of_rank, value, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
            for mine, whole in zip(gradients_of_rank, gradients, strict=True):
                torch.testing.assert_close(mine, whole, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


# One rank's share of the voxels is large enough for a kernel, the other's is not.
SHARES = [slice(0, 40_000), slice(40_000, 40_100)]
FORMS = {
    "overlap": (losses.SoftDiceLoss, {}),
    "auto": (losses.LovaszSoftmaxLoss, {}),
    "bins": (losses.LovaszSoftmaxLoss, {"method": "bins", "bins": 64}),
    "sort": (losses.LovaszSoftmaxLoss, {"method": "sort"}),
}


def image_of_all_ranks(classes):
    generator = torch.Generator().manual_seed(classes)
    x = torch.randn(1, classes, SHARES[-1].stop, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (1, 1, SHARES[-1].stop), generator=generator)


def loss_and_slopes(form, x, y, **arguments):
    cls, settings = FORMS[form]
    x = x.clone().requires_grad_()
    value = cls(softmax=True, to_onehot_y=True, batch=True, **settings, **arguments)(x, y)
    return value.detach(), torch.autograd.grad(value, x)[0]


def unequal_rank_main(rank, world_size, port, results):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    for form, classes in itertools.product(FORMS, (2, 3)):
        x, y = image_of_all_ranks(classes)
        results[rank, form, classes] = loss_and_slopes(form, x[..., SHARES[rank]], y[..., SHARES[rank]], sync=True)
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_with_images_of_unequal_size_take_one_form():
    results = results_of_ranks(unequal_rank_main, len(SHARES))
    for form, classes in itertools.product(FORMS, (2, 3)):
        value, slopes = loss_and_slopes(form, *image_of_all_ranks(classes))
        for rank, share in enumerate(SHARES):
            of_rank, own = results[rank, form, classes]
            torch.testing.assert_close(of_rank, value, rtol=1e-10, atol=1e-10)
            # DistributedDataParallel takes the mean over the ranks
            torch.testing.assert_close(own, len(SHARES) * slopes[..., share], rtol=1e-6, atol=1e-12)


def test_without_a_process_group_sync_changes_nothing():
    x, *targets = whole_batch(3)
    model = network()
    for cls, arguments in CASES.values():
        y = target_of(arguments, *targets)
        together, alone = (cls(**arguments, sync=sync)(model(x), y) for sync in (True, False))
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("cls", [losses.SoftDiceLoss, losses.LovaszSoftmaxLoss])
def test_sync_needs_one_batch(cls):
    with pytest.raises(ValueError, match=r"sync=True .* needs batch=True"):
        cls(softmax=True, sync=True)
