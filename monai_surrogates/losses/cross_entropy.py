"""Cross-entropy, plain and weighted by class, on logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

from monai_surrogates._messages import warn_user
from monai_surrogates.core import class_weights, positive_weights
from monai_surrogates.core.distributed import rank_sum
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.sums import voxel_sum
from monai_surrogates.losses.arguments import CommonArguments, Weight, named_flags
from monai_surrogates.losses.base import SurrogateLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CrossEntropyArguments(CommonArguments, total=False):
    """Arguments that :class:`WeightedCELoss` passes on to :class:`PlainCELoss`, and described there."""

    include_background: bool
    label_smoothing: float
    soft_label: bool
    per_image: bool
    structure_volumes: Sequence[float] | Tensor | None


class TopKArguments(CrossEntropyArguments, total=False):
    """Arguments that :class:`TopKCELoss` passes on to :class:`PlainCELoss`, and described there."""

    weight: Weight
    class_counts: Sequence[int] | Tensor | None
    class_weighting: str | None


class PlainCELoss(SurrogateLoss):
    """Cross-entropy on logits, −log p_y per voxel, normalised as in torch.

    That is, for label maps, by the summed weights of the batch's voxels; for one channel per class, and for binary
    cross-entropy, by the number of voxels.

    Softmax cross-entropy over the channels; with ``sigmoid=True``, or for a single channel, binary cross-entropy of each
    channel. The input always holds logits. The reference may be a label map even without ``to_onehot_y``. The loss
    of a voxel does not depend on other voxels, so a patch without foreground trains the network as any other does.

    Args:
        include_background: False means that C − 1 weights are those of the foreground; cross-entropy always has all classes, as
            in MONAI's DiceCELoss, so without weights False is not used, with a warning.
        label_smoothing: s in [0, 1]: the target becomes (1 − s)·y + s/C, for binary cross-entropy (1 − s)·y + s/2.
        per_image: normalise each item by its own voxels and take the mean over items (the sum with ``reduction="sum"``),
            instead of normalising the batch as a whole. Unreduced losses are never normalised.
        soft_label: the target may hold fractions, which are used with and without it.
        **shared: the arguments of every loss; see :class:`~monai_surrogates.losses.arguments.SharedArguments`. ``weight``
            with C − 1 values (and ``include_background=False``) gives the background the weight 1. For binary
            cross-entropy ``weight`` is that of positive voxels.

    Returns:
        The module's call gives a scalar, or with ``reduction="none"`` a map, (B, spatial...), for binary cross-entropy
        (B, C, spatial...).

    Raises:
        TypeError: an unknown argument.
        ValueError: arguments that exclude each other, or values out of their range.

    Examples:
        >>> import torch
        >>> PlainCELoss(to_onehot_y=True)(torch.zeros(1, 4, 2, 2), torch.ones(1, 1, 2, 2))  # ln 4
        tensor(1.3863)
    """

    declared = (*SurrogateLoss.declared, "include_background", "label_smoothing", "soft_label", "per_image")
    takes_logits = True

    def __init__(
        self,
        *flags: Any,
        label_smoothing: float = 0.0,
        soft_label: bool = False,
        per_image: bool = False,
        **shared: Any,
    ) -> None:
        shared = named_flags(type(self).__name__, flags, shared)
        include_background: bool = shared.pop("include_background", True)
        background: dict[str, Any] = {"include_background": include_background}
        read = self.reads({**background, "weight": shared.get("weight")})
        super().__init__(**shared, **({} if "include_background" in read else background))
        self.include_background = include_background
        if self.sync and self.reduction == "none":
            raise ValueError('sync=True sums over all ranks, but reduction="none" does not sum; drop one of the two.')
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in [0, 1], but is {label_smoothing}.")
        self.label_smoothing = float(label_smoothing)
        self.per_image = per_image

    @classmethod
    def reads(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments that the loss reads: ``include_background`` with weights alone."""
        unread = ("include_background",) if given.get("weight") is None else ()
        return {name: value for name, value in super().reads(given).items() if name not in unread}

    def _reads_labels(self, input: Tensor, target: Tensor) -> bool:
        if input.ndim < 2 or input.shape[1] == 1:
            return False
        return self.to_onehot_y or (target.ndim == input.ndim and target.shape[1] == 1)

    def _loss(self, voxels: Voxels) -> Tensor:
        voxels, num_channels = voxels.zeroed(), voxels.input.shape[1]
        if self.sigmoid or num_channels == 1:
            weight = self._weight_of(num_channels, voxels.input)
            loss, share = _binary_cross_entropy(voxels, weight, self.label_smoothing)
        else:
            loss, share = self._softmax_cross_entropy(voxels)
        if self.reduction == "none":
            return loss.reshape(*loss.shape[:-1], *voxels.spatial)
        return self._normalise(loss, share, voxels.valid)

    def _normalise(self, loss: Tensor, share: Tensor, valid: Tensor | None) -> Tensor:
        """Σ loss / Σ share, over the batch or per item and then the mean; a share is the weight of a voxel in the mean."""
        losses, shares = voxel_sum(loss.flatten(1)), voxel_sum(share.flatten(1))
        if self.per_image:
            losses, shares = _ratio(losses, shares), torch.ones_like(shares)
        sums = torch.stack([losses.sum(), shares.sum()])
        total, share = rank_sum(sums) if self.sync else sums
        return (total if self.reduction == "sum" else _ratio(total, share)).to(loss.dtype)

    def _softmax_cross_entropy(self, voxels: Voxels) -> tuple[Tensor, Tensor]:
        x, y, valid, _ = voxels
        weight = self._weight_of(x.shape[1], x)
        if voxels.is_label_map:
            y = y.long()  # torch indexes by int64
            loss = F.cross_entropy(x, y, weight, reduction="none", label_smoothing=self.label_smoothing)
        else:
            y = (1 - self.label_smoothing) * y + self.label_smoothing / x.shape[1]
            log_p = _times_log(y, F.log_softmax(x, dim=1))
            loss = -(log_p if weight is None else log_p * weight.unsqueeze(1)).sum(1)
        share = torch.ones_like(loss) if weight is None or not voxels.is_label_map else weight[y]
        return (loss, share) if valid is None else (torch.where(valid, loss, 0), share * valid)

    def _weight_of(self, num_channels: int, like: Tensor | None = None) -> Tensor | None:
        weight = super()._weight_of(num_channels, like)
        return None if weight is None else weight.expand(num_channels)

    def excludes_background(self) -> bool:
        """Whether C − 1 weights are those of the foreground."""
        return not self.include_background


class WeightedCELoss(PlainCELoss):
    """Cross-entropy weighted by class: −w_y log p_y; without ``weight``, by ``class_weighting`` of ``class_counts``.

    Given neither weights nor counts it is plain cross-entropy, with a warning. All else is as in :class:`PlainCELoss`. In a
    mean over voxels of one class its weight cancels: a patch without foreground, alone in its batch, has the gradient of plain
    cross-entropy; beside others a smaller one, because their foreground has larger weights.

    Args:
        weight: numbers as for every loss, or ``"inverse_frequency"``, ``"median_frequency"``, ``"effective_number"``: computed
            from ``class_counts``.
        class_weighting: one of these names, used if ``weight`` is not given; ``"inverse_frequency"`` by default.
        class_counts: voxels per class in the training data, C values. For binary cross-entropy (each class against
            all others) also C + 1 values with the background first (a single channel: background, foreground).
        **shared: as in :class:`PlainCELoss`.

    Returns:
        As :class:`PlainCELoss`.

    Raises:
        ValueError: weights by name without ``class_counts``.

    Examples:
        >>> import torch
        >>> loss = WeightedCELoss(to_onehot_y=True, class_counts=[90, 10])
        >>> loss.class_weight
        tensor([0.5556, 5.0000], dtype=torch.float64)
    """

    positive_weight: Tensor | None

    def __init__(
        self,
        *flags: Any,
        weight: str | Weight = None,
        class_counts: Sequence[int] | Tensor | None = None,
        class_weighting: str | None = None,
        **shared: Unpack[CrossEntropyArguments],
    ) -> None:
        numbers = None if isinstance(weight, str) else weight
        super().__init__(*flags, weight=numbers, class_weighting=class_weighting, **shared)
        argument = "class_weighting" if weight is None else "weight"
        if weight is None:
            weight = class_weighting or (None if class_counts is None else "inverse_frequency")
        self.register_buffer("positive_weight", None)
        if isinstance(weight, str):
            if class_counts is None:
                raise ValueError(
                    f"{argument}={weight!r} needs class_counts, the voxels per class of the training data; "
                    "monai_surrogates.data.class_counts counts them."
                )
            self.class_weight = class_weights(class_counts, weight)
            self.positive_weight = positive_weights(class_counts, weight)
        if weight is None:
            warn_user(
                f"{type(self).__name__} has neither weight nor class_counts, and is plain cross-entropy; give class_counts, in "
                'a config by class_counts: "$monai_surrogates.data.class_counts(DATA_LIST, NUM_CLASSES)".'
            )

    def _weight_of(self, num_channels: int, like: Tensor | None = None) -> Tensor | None:
        if self.positive_weight is None:
            return super()._weight_of(num_channels, like)
        binary, given = self.sigmoid or num_channels == 1, len(self.positive_weight)
        if given < 2 or given not in ((num_channels, num_channels + 1) if binary else (num_channels,)):
            raise ValueError(
                f"class_counts must have {max(num_channels, 2)} values, one per class and the background, but has {given}; "
                "count as many classes as the network has channels."
            )
        name = "positive_weight" if binary else "class_weight"
        weight = getattr(self, name) if like is None else self._buffer_on(name, like).to(like.dtype)
        return weight[-num_channels:]  # the weight of a background without a channel comes first and is dropped


class TopKCELoss(PlainCELoss):
    """Cross-entropy of the k per cent of voxels where it is largest: the mean of the n largest w_y·(−log p_y).

    n = ⌊k·N/100⌋ of the batch's N valid voxels, at least 1; with binary cross-entropy N counts the voxels of each channel.
    This is nnU-Net's TopKLoss: weights multiply, and the mean is not divided by them. Easy voxels, most of the background among
    them, have no gradient. On a batch of patches the worst voxels may all lie in one of them.

    Args:
        k: share of the voxels in per cent, above 0 and at most 100.
        **shared: as in :class:`PlainCELoss`. ``per_image`` takes the worst voxels of each item. ``ignore_index`` removes
            voxels, from N too (nnU-Net counts them). ``sync`` is not used, with a warning: each rank has its own worst voxels.

    Returns:
        The module's call gives a scalar; there is no unreduced form.

    Raises:
        TypeError: an unknown argument.
        ValueError: k out of its range, ``reduction="none"``, or an error of :class:`PlainCELoss`.

    References:
        Wu et al., Bridging category-level and instance-level semantic image segmentation, 2016 (arXiv 1605.06885); TopKLoss in
        nnU-Net, Isensee et al., Nature Methods 2021.

    Examples:
        >>> import torch
        >>> x = torch.tensor([0.0, 9.0, 9.0, 9.0]).view(1, 1, 2, 2)
        >>> TopKCELoss(k=25)(x, torch.ones(1, 1, 2, 2))  # ln 2, of one voxel
        tensor(0.6931)
    """

    declared = (*(name for name in PlainCELoss.declared if name != "sync"), "k")

    def __init__(self, *flags: Any, k: float = 10, **shared: Unpack[TopKArguments]) -> None:
        super().__init__(*flags, **shared)
        if self.reduction == "none":
            raise ValueError('reduction must be "mean" or "sum" for the worst voxels alone, but is "none".')
        if not 0 < k <= 100:
            raise ValueError(f"k must be a share of the voxels in per cent, above 0 and at most 100, but is {k}.")
        self.k = k

    def _normalise(self, loss: Tensor, share: Tensor, valid: Tensor | None) -> Tensor:
        """The n largest losses; removed voxels come last, and how many there are is known on the device alone."""
        if valid is not None:
            valid = (valid.unsqueeze(1) if loss.ndim == 3 else valid).expand_as(loss)
            loss = torch.where(valid, loss, -1)
        rows = loss.flatten(1) if self.per_image else loss.reshape(1, -1)
        largest = rows.topk(min(rows.shape[1], max(1, int(rows.shape[1] * self.k / 100))), dim=1).values
        if valid is None:
            counted = torch.ones_like(largest, dtype=torch.bool)
        else:
            number = (valid.reshape(len(rows), -1).sum(1, keepdim=True).double() * self.k / 100).floor().clamp_min(1)
            counted = (torch.arange(largest.shape[1], device=rows.device) < number) & (largest != -1)
        losses, numbers = voxel_sum(torch.where(counted, largest, 0)), counted.sum(1)
        if self.reduction == "mean":
            losses = _ratio(losses, numbers) / max(1, len(rows))  # a batch without items: 0
        return losses.sum().to(loss.dtype)


def _ratio(total: Tensor, share: Tensor) -> Tensor:
    return total / torch.where(share > 0, share, 1)  # no valid voxel: 0, with a zero gradient


def _binary_cross_entropy(voxels: Voxels, positive_weight: Tensor | None, smoothing: float) -> tuple[Tensor, Tensor]:
    """Per channel and voxel: −w·y·log σ(x) − (1 − y)·log σ(−x), and the share of each voxel in the mean."""
    x, y, valid, _ = voxels
    w = x.new_ones(x.shape[1]) if positive_weight is None else positive_weight
    outside, inside = smoothing / 2, 1 - smoothing / 2  # the smoothed targets of 0 and 1
    if voxels.is_label_map:
        labels = y.long().unsqueeze(1)
        own = _bernoulli(x.gather(1, labels), inside, w[labels])
        loss = _bernoulli(x, outside, w.view(1, -1, 1)).scatter(1, labels, own)
    else:
        loss = _bernoulli(x, outside + (inside - outside) * y, w.view(1, -1, 1))
    if valid is None:
        return loss, torch.ones_like(loss)
    valid = valid.unsqueeze(1).expand_as(loss)
    return torch.where(valid, loss, 0), valid.to(loss.dtype)


def _bernoulli(x: Tensor, y: Tensor | float, w: Tensor) -> Tensor:
    # torch's softplus is cut off above 20
    return -w * _times_log(y, F.logsigmoid(x)) - _times_log(1 - y, F.logsigmoid(-x))


def _times_log(y: Tensor | float, log_p: Tensor) -> Tensor:
    """y·log p with 0·log 0 = 0: an absent class that a logit of −inf rules out."""
    share = torch.as_tensor(y, dtype=log_p.dtype, device=log_p.device)
    return torch.where((share == 0) & (log_p == -torch.inf), 0, share * log_p)
