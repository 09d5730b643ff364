"""Photometric distortion against arithmetic of the standard library."""

import colorsys

import numpy as np
import pytest

from anchors_jax.data import augment
from tests.data.mapped import scene, seeded
from tests.data.tiny_data import example


def _reference_colours(image, *, shift=0.0, gain=1.0, factor=1.0, degrees=0.0, last=False):
    """Pixel by pixel with the standard library, in floats, rounded and clipped at the end."""
    out = np.zeros(image.shape)
    for at in np.ndindex(image.shape[:2]):
        rgb = (image[at] + shift) * (1.0 if last else gain)
        hue, saturation, value = colorsys.rgb_to_hsv(*np.maximum(rgb, 0))
        rgb = colorsys.hsv_to_rgb((hue + degrees / 360) % 1, min(1, saturation * factor), value)
        out[at] = np.array(rgb) * (gain if last else 1.0)
    return np.clip(out, 0, 255)


class _Script(np.random.Generator):
    """A generator whose coins and values are written down."""

    def __init__(self, coins, values, last=False):
        super().__init__(np.random.PCG64(0))
        self.coins, self.values, self.last = iter(coins), iter(values), last
        self.drawn = 0

    def random(self, size=None):
        if size is not None:
            return np.where([next(self.coins) for _ in range(size)], 0.0, 0.9)
        self.drawn += 1
        return 0.9 if self.drawn == 1 else 0.9 * self.last  # no swap; contrast first or last

    def uniform(self, low, high):
        value = next(self.values)
        assert low <= value <= high
        return value

    def permutation(self, n):
        return np.arange(n)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("name", "coins", "value"),
    [
        ("shift", (1, 0, 0, 0), -31.0),
        ("shift", (1, 0, 0, 0), 30.5),
        ("gain", (0, 1, 0, 0), 1.45),
        ("factor", (0, 0, 1, 0), 1.4),
        ("factor", (0, 0, 1, 0), 0.5),
        ("degrees", (0, 0, 0, 1), 17.0),
        ("degrees", (0, 0, 0, 1), -18.0),
        (("shift", "gain", "factor", "degrees"), (1, 1, 1, 1), (25.0, 1.5, 1.5, -11.0)),
        (("shift", "gain", "factor", "degrees"), (1, 1, 1, 1), (-32.0, 0.5, 1.2, 9.0)),
    ],
)
def test_colours_against_the_standard_library(name, coins, value, last):
    image = seeded(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image[0, :, 1:] = image[0, :, :1]  # greys
    image[1, 0], image[1, 1] = 0, 255
    names, values = (name, value) if isinstance(name, tuple) else ((name,), (value,))
    before = example([], height=7, width=9).replace(image=image)
    after = augment.photometric_distortion()(before, _Script(coins, values, last))
    expected = _reference_colours(image, last=last, **dict(zip(names, values, strict=True)))
    assert np.abs(after.image - expected).max() < 0.51  # rounding alone


def test_colours_leave_boxes_alone_and_greys_grey():
    for seed in range(25):
        before = scene(seed)
        grey = before.replace(image=before.image[:, :, :1].repeat(3, 2))
        after = augment.photometric_distortion(p=1.0, swap_p=1.0)(grey, seeded(seed))
        assert after.boxes is grey.boxes
        assert after.size == grey.size
        np.testing.assert_array_equal(after.image, after.image[:, :, :1].repeat(3, 2))


def test_channels_are_swapped_and_nothing_else():
    before = scene(1)
    orders = set()
    for seed in range(40):
        after = augment.photometric_distortion(p=0.0, swap_p=1.0)(before, seeded(seed))
        order = tuple(
            next(i for i in range(3) if np.array_equal(before.image[:, :, i], after.image[:, :, c]))
            for c in range(3)
        )
        assert sorted(order) == [0, 1, 2]
        orders.add(order)
    assert len(orders) == 6
