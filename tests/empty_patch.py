"""A patch without foreground, in closed form, as the reference of every table of losses on such a patch.

Two classes under softmax, N voxels, all of them background, the lesion's probability p in each. A gradient is the slope dL/dt
when the lesion's logit rises by t in every voxel, so that dp/dt = p(1 − p).
"""

import math

VOXELS = 32**3
P = 0.1
LESION_VOLUME = 1000  # v; the background's mean volume is the whole patch

OVERLAP = ("soft_dice", "soft_jaccard")
SMOOTHINGS = ("default", "smooth_nr=0", "structure_volume")

# objective, classes, smoothing; a dash where the objective knows no such choice
ROWS = [
    ("cross_entropy", "-", "-"),
    ("weighted_cross_entropy", "-", "-"),
    *((objective, classes, s) for objective in OVERLAP for classes in ("all", "present") for s in SMOOTHINGS),
    ("lovasz_softmax", "all", "-"),
    ("lovasz_softmax", "present", "-"),
]


def lesion_alone(objective: str, classes: str, smoothing: str) -> tuple[float, float]:
    """Loss and gradient with ``include_background=False``, to which cross-entropy pays no attention."""
    if classes == "-":
        return -math.log(1 - P), P
    return (0.0, 0.0) if classes == "present" else absent_class(objective, smoothing)


def with_background(objective: str, classes: str, smoothing: str) -> tuple[float, float]:
    """Loss and gradient of the mean over both classes, on a patch that holds the background alone."""
    if classes == "-":
        return -math.log(1 - P), P
    background = full_class(objective, smoothing)
    if classes == "present":
        return background
    loss, slope = ((a + b) / 2 for a, b in zip(absent_class(objective, smoothing), background, strict=True))
    return loss, slope


def constants(objective: str, smoothing: str, volume: float) -> tuple[float, float]:
    """ε₁ and ε₂ beside undoubled counts for Jaccard, beside doubled ones for Dice."""
    doubled = 2 if objective == "soft_jaccard" else 1  # MONAI's 2I + ε over 2U + ε is I + ε/2 over U + ε/2
    return {
        "default": (1e-5 / doubled, 1e-5 / doubled),
        "smooth_nr=0": (0.0, 1e-5 / doubled),
        "structure_volume": (volume, volume),
    }[smoothing]


def absent_class(objective: str, smoothing: str) -> tuple[float, float]:
    """The lesion's: 1 − ε₁/(S + ε₂) of S = pN."""
    if objective == "lovasz_softmax":
        return P, P * (1 - P)  # the largest probability
    s, (e1, e2) = P * VOXELS, constants(objective, smoothing, LESION_VOLUME)
    return 1 - e1 / (s + e2), e1 / (s + e2) ** 2 * s * (1 - P)


def full_class(objective: str, smoothing: str) -> tuple[float, float]:
    """The background's: I = Q = (1 − p)N of a reference of N voxels."""
    if objective == "lovasz_softmax":
        return P, P * (1 - P)  # every step of the extension is 1/N: the mean error
    q, (e1, e2) = (1 - P) * VOXELS, constants(objective, smoothing, VOXELS)
    falls = q * P  # −dQ/dt
    if objective == "soft_jaccard":
        return 1 - (q + e1) / (VOXELS + e2), falls / (VOXELS + e2)
    total = q + VOXELS + e2
    return 1 - (2 * q + e1) / total, falls * (2 * total - (2 * q + e1)) / total**2


def shown(value: float) -> str:
    """Three decimals, and a bare 0 for what is 0 exactly."""
    return "0" if value == 0 else f"{value:.3f}"
