import pickle

import numpy as np
import pytest

from anchors_jax.data import transforms as T
from tests.data.tiny_data import example, picture

RED = np.uint8([255, 0, 0])


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _marked(seed: int):
    """An image whose only red pixels are those of its one box."""
    rng = _rng(seed)
    height, width = rng.integers(40, 120, 2).tolist()
    x0, y0 = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 20))
    x1, y1 = int(rng.integers(x0 + 8, width + 1)), int(rng.integers(y0 + 8, height + 1))
    one = example([[x0, y0, x1, y1]], height=height, width=width)
    image = np.zeros((height, width, 3), np.uint8)
    image[y0:y1, x0:x1] = RED
    return one.replace(image=image, canvas=(96, 128))


TRANSFORMS = {
    "resize": T.resize(short=70, long=100),
    "multi-scale": T.resize(short=(40, 90), long=None, interpolation="area"),
    "fit": T.fit(),
    "stretch": T.fit(canvas=(50, 77), keep_ratio=False),
    "jitter": T.scale_jitter(low=0.5, high=1.0),
    "flip": T.horizontal_flip(p=1.0),
    "some": T.compose([T.scale_jitter(low=0.7), T.horizontal_flip(p=0.5), T.resize(short=64)]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("seed", range(5))
def test_pixels_follow_the_box(name, seed):
    after = TRANSFORMS[name](_marked(seed), _rng(seed))
    assert after.image.dtype == np.uint8
    assert after.boxes.dtype == np.float32
    assert after.image.flags["C_CONTIGUOUS"]
    y, x = np.nonzero(after.image[:, :, 0] > 127)
    seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    np.testing.assert_allclose(after.boxes[0], seen, atol=1.0)
    height, width = after.size
    assert (after.boxes >= 0).all()
    assert (after.boxes <= [width, height, width, height]).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_scale_leads_back_to_original_pixels(name):
    transform = T.resize(short=70) if name in ("flip", "some") else TRANSFORMS[name]
    before = _marked(3)
    after = transform(before, _rng(1))
    np.testing.assert_allclose(
        after.boxes / np.tile(after.scale, 2), before.boxes, rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(after.scale, np.array(after.size[::-1]) / before.size[::-1])


def test_transforms_are_pure_and_can_be_sent():
    before = _marked(1)
    copy = before.image.copy(), before.boxes.copy()
    transform = TRANSFORMS["some"]
    first = transform(before, _rng(4))
    second = pickle.loads(pickle.dumps(transform))(before, _rng(4))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(before.image, copy[0])
    np.testing.assert_array_equal(before.boxes, copy[1])


def test_resize_sizes():
    def size(height, width, **keywords):
        one = example([], height=height, width=width)
        return T.resize(**keywords)(one, _rng()).size

    assert size(480, 640) == (800, 1067)  # int(x * scale + 0.5)
    assert size(480, 640, truncate=True) == (800, 1066)
    assert size(640, 480) == (1067, 800)
    assert size(100, 400) == (333, 1333)  # the long side decides
    assert size(100, 400, long=None) == (800, 3200)
    assert size(1, 300, long=100) == (1, 100)  # never 0
    sizes = {
        T.resize(short=(6, 8))(example([], height=20, width=30), _rng(i)).size[0] for i in range(40)
    }
    assert sizes == {6, 7, 8}


def test_flip_twice_is_identity():
    before = example([[0, 0, 7.5, 9], [10.25, 3, 60, 40]])
    once = T.horizontal_flip(p=1.0)(before, _rng())
    np.testing.assert_array_equal(once.boxes[1], [0, 3, 49.75, 40])
    twice = T.horizontal_flip(p=1.0)(once, _rng())
    np.testing.assert_array_equal(twice.image, before.image)
    np.testing.assert_allclose(twice.boxes, before.boxes, atol=1e-5)
    assert T.horizontal_flip(p=0.0)(before, _rng()) is before
    flips = [T.horizontal_flip(p=0.3)(before, rng) is not before for rng in map(_rng, range(500))]
    assert 0.2 < np.mean(flips) < 0.4


def test_jitter_covers_its_range():
    one = example([], height=100, width=100).replace(canvas=(200, 300))
    jitter = T.scale_jitter(low=0.25, high=1.0)
    sides = np.array([jitter(one, _rng(i)).size[0] for i in range(300)])
    assert 50 <= sides.min() < 55
    assert 190 < sides.max() <= 200
    assert 0.4 < (sides < 100).mean() < 0.6  # log-uniform: half below the geometric mean


def test_drop_small_keeps_crowds():
    one = example([[0, 0, 3, 30], [0, 0, 30, 3], [0, 0, 5, 5], [0, 0, 1, 1]])
    one = one.replace(crowd=np.array([False, False, False, True]))
    kept = T.drop_small(min_size=4.0)(one, _rng())
    assert kept.labels.tolist() == [2, 3]


def test_canvas_choice():
    canvases = ((800, 1344), (1344, 800))
    assert T.choose_canvas(480, 640, canvases) == 0
    assert T.choose_canvas(640, 480, canvases) == 1
    assert T.choose_canvas(500, 500, canvases) == 0  # a tie: the first
    assert T.choose_canvas(500, 500, ((100, 200), (100, 100))) == 1  # a tie: the smaller


def test_pad_and_shrink():
    image = picture(20, 30)
    padded = T.pad(image, (25, 40), fill=7)
    np.testing.assert_array_equal(padded[:20, :30], image)
    assert (padded[20:] == 7).all()
    assert (padded[:, 30:] == 7).all()
    with pytest.raises(ValueError, match="does not fit"):
        T.pad(image, (25, 29))
    big = example([[0, 0, 60, 40]])
    small = T.shrink_to(big, (30, 30))
    assert small.size == (20, 30)
    np.testing.assert_allclose(small.boxes, [[0, 0, 30, 20]])
    assert T.shrink_to(small, (30, 30)) is small


@pytest.mark.parametrize(
    "make",
    [
        lambda: T.resize(short=0),
        lambda: T.resize(short=(9, 8)),
        lambda: T.resize(long=0),
        lambda: T.resize(interpolation="magic"),
        lambda: T.fit(interpolation="magic"),
        lambda: T.scale_jitter(low=0.0),
        lambda: T.scale_jitter(high=2.0),
        lambda: T.horizontal_flip(p=1.5),
        lambda: T.fit()(example([]), _rng()),
    ],
)
def test_bad_parameters(make):
    with pytest.raises(ValueError):  # noqa: PT011, many messages
        make()
