"""Statistics of an assignment: positives per object, by level and object size.

numpy, for one image at a time; `merge` adds images up. Sizes are COCO's: an object is small below
32^2 pixels of the network input, large from 96^2.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
Counts = dict[str, float]


def level_of(level_counts: Sequence[int]) -> Int[np.ndarray, "A"]:
    """Level of every anchor, 0 for the finest."""
    return np.repeat(np.arange(len(level_counts)), level_counts)


def count_positives(
    gt: Int[np.ndarray, "A"],
    positive: Bool[np.ndarray, "A"],
    boxes: Float[np.ndarray, "G 4"],
    objects: Bool[np.ndarray, "G"],
    level_counts: Sequence[int],
) -> Counts:
    """Sums over one image, to be merged: objects, positives, by level and by object size.

    Keys: objects, objects_without, positives, level_<l>, objects_<size>, positives_<size>.
    """
    per_object = np.bincount(gt[positive], minlength=len(objects))
    per_level = np.bincount(level_of(level_counts)[positive], minlength=len(level_counts))
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    counts = {
        "objects": float(objects.sum()),
        "objects_without": float((objects & (per_object == 0)).sum()),
        "positives": float(per_object[objects].sum()),
    }
    counts |= {f"level_{level}": float(count) for level, count in enumerate(per_level)}
    for size, (low, high) in SIZES.items():
        chosen = objects & (area >= low) & (area < high)
        counts[f"objects_{size}"] = float(chosen.sum())
        counts[f"positives_{size}"] = float(per_object[chosen].sum())
    return counts


def merge(counts: Sequence[Mapping[str, float]]) -> Counts:
    """Sums over images."""
    keys = dict.fromkeys(key for one in counts for key in one)
    return {key: float(sum(one.get(key, 0.0) for one in counts)) for key in keys}


def summarise(counts: Mapping[str, float]) -> Counts:
    """Means from sums: positives per object (also by size), share by level, share without any."""

    def ratio(part: str, whole: str) -> float:
        return counts.get(part, 0.0) / max(counts.get(whole, 0.0), 1.0)

    summary = {
        "positives_per_object": ratio("positives", "objects"),
        "share_without_positive": ratio("objects_without", "objects"),
    }
    for size in SIZES:
        summary[f"positives_per_{size}_object"] = ratio(f"positives_{size}", f"objects_{size}")
    levels = [key for key in counts if key.startswith("level_")]
    return summary | {f"share_on_{key}": ratio(key, "positives") for key in levels}


def overlap(one: Bool[np.ndarray, "*n"], other: Bool[np.ndarray, "*n"]) -> float:
    """Intersection over union of two sets of positives; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0
