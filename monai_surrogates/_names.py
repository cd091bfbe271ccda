"""The table of objectives: name -> loss, and any two names as a schedule.

Values are dotted paths: losses that take names import this table, and the command line checks names without torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import permutations

LOSSES: dict[str, str] = {
    "cross_entropy": "monai_surrogates.losses.PlainCELoss",
    "weighted_cross_entropy": "monai_surrogates.losses.WeightedCELoss",
    "soft_dice": "monai_surrogates.losses.SoftDiceLoss",
    "soft_jaccard": "monai_surrogates.losses.SoftJaccardLoss",
    "lovasz_softmax": "monai_surrogates.losses.LovaszSoftmaxLoss",
    "soft_tversky": "monai_surrogates.losses.SoftTverskyLoss",
    "lovasz_hinge": "monai_surrogates.losses.LovaszHingeLoss",
    "soft_dice_ce": "monai_surrogates.losses.SoftDiceCELoss",
    "soft_jaccard_ce": "monai_surrogates.losses.SoftJaccardCELoss",
    "soft_tversky_ce": "monai_surrogates.losses.SoftTverskyCELoss",
    "lovasz_softmax_ce": "monai_surrogates.losses.LovaszSoftmaxCELoss",
    "top_k_cross_entropy": "monai_surrogates.losses.TopKCELoss",
    "focal": "monai_surrogates.losses.MonaiFocalLoss",
    "dice_focal": "monai_surrogates.losses.MonaiDiceFocalLoss",
    "generalized_dice": "monai_surrogates.losses.MonaiGeneralizedDiceLoss",
}
# Schedules with a dotted path; any other A_to_B is made on demand.
SCHEDULES: dict[str, str] = {
    "cross_entropy_to_soft_dice": "monai_surrogates.losses.CrossEntropyToSoftDiceLoss",
    "cross_entropy_to_soft_jaccard": "monai_surrogates.losses.CrossEntropyToSoftJaccardLoss",
    "cross_entropy_to_lovasz_softmax": "monai_surrogates.losses.CrossEntropyToLovaszSoftmaxLoss",
}
# The objectives that a study compares by default; all of them take the same loss block.
COMPARED = ("cross_entropy", "weighted_cross_entropy", "soft_dice", "soft_jaccard", "lovasz_softmax")
# Objectives of structures alone, which refuse the softmax of a study's loss block.
OF_STRUCTURES = frozenset({"lovasz_hinge"})


def schedules() -> dict[str, tuple[str, str]]:
    """Any two objectives of the table, under their name ``A_to_B``."""
    return {f"{first}_to_{second}": (first, second) for first, second in permutations(LOSSES, 2)}


def objective_names() -> list[str]:
    """All names: the table's, then any two of them."""
    return [*LOSSES, *schedules()]


def check_objective(name: str) -> None:
    """Refuse a name that is no objective.

    Raises:
        ValueError: unknown name (the message lists the names and suggests the nearest), or ``A_to_A``.
    """
    if name in LOSSES or name in schedules():
        return
    for known in LOSSES:
        if name == f"{known}_to_{known}":
            raise ValueError(
                f"objective must go from one to another, but {name!r} stays at {known}; name {known} alone."
            )
    raise unknown_name("objective", name, LOSSES, ", or two of them as A_to_B", schedules())


def check_compared(names: Sequence[str]) -> None:
    """Refuse objectives that cannot be compared.

    Raises:
        ValueError: no name, an unknown name, or a name given twice.
    """
    if not names:
        raise ValueError("objectives must name at least one objective, but is empty.")
    for name in names:
        check_objective(name)
    if len(set(names)) < len(names):
        raise ValueError(f"objectives must differ, but are {', '.join(names)}; name each of them once.")


def unknown_name(
    argument: str, name: str, table: Iterable[str], rule: str = "", further: Iterable[str] = ()
) -> ValueError:
    """The error for an unknown name; it lists the known ones and suggests the nearest.

    Args:
        argument: the argument that holds the name.
        name: the unknown name.
        table: the known names.
        rule: the rule for further names, in words.
        further: these further names, for the suggestion alone.
    """
    names = list(table)
    longer = [known for known in names if name and known.startswith(str(name))]
    near = longer or difflib.get_close_matches(str(name), [*names, *further], n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{argument} must be one of {', '.join(names)}{rule}, but is {name!r}.{hint}")
