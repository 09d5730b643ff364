"""Images whose pixels say where they were, for what crops and expansions do to them."""

import numpy as np

from anchors_jax.data.records import Example
from tests.data.tiny_data import example


def seeded(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def mapped(height: int, width: int, boxes: list, *, crowd: list | None = None) -> Example:
    """Channel 0 of a pixel is its column, channel 1 its row (sides up to 255), channel 2 is 0."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(width), np.arange(height)[:, None]
    one = example(boxes, height=height, width=width, crowd=crowd)
    return one.replace(image=image, canvas=(64, 64))


def scene(seed: int, *, crowds: bool = True) -> Example:
    """One to six objects, a third of them crowd regions, of all sizes."""
    rng = seeded(seed)
    height, width = rng.integers(60, 250, 2).tolist()
    count = int(rng.integers(1, 7))
    sides = rng.uniform(3, [width, height], (count, 2))
    low = rng.uniform(0, [width, height] - sides)
    crowd = (rng.random(count) < 0.3) & crowds
    boxes = np.concatenate([low, low + sides], 1)
    return mapped(height, width, boxes.tolist(), crowd=crowd.tolist())


def patch_of(after: Example) -> tuple[int, int, int, int]:
    """Where a crop of a mapped image was."""
    (left, top), (height, width) = after.image[0, 0, :2].tolist(), after.size
    return left, top, left + width, top + height
