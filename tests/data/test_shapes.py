import multiprocessing

import numpy as np
import pytest

from anchors_jax.data import drawing
from anchors_jax.data.scenes import Style, scene
from anchors_jax.data.shapes import shapes

SMALL = {"num_train": 6, "num_validation": 3, "image_size": 64}


def _scenes(count, **style):
    return [scene(np.random.default_rng((9, i)), Style(**style)) for i in range(count)]


def _same(a, b, count):
    for i in range(count):
        np.testing.assert_array_equal(a[i].image, b[i].image)
        np.testing.assert_array_equal(a[i].boxes, b[i].boxes)
        np.testing.assert_array_equal(a[i].labels, b[i].labels)


@pytest.mark.parametrize("name", drawing.CLASSES)
@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("box", [(10, 12, 42, 30), (3.25, 7.5, 15.75, 45.0)])
def test_box_is_the_tight_box_of_the_drawn_shape(name, angle, box):
    box = np.array(box, np.float64)
    alpha, (top, left) = drawing.mask(drawing.outline(name, angle), box)
    canvas = np.zeros((64, 64))
    canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
    y, x = np.nonzero(canvas > 0)
    seen = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    np.testing.assert_allclose(seen, [*np.floor(box[:2]), *np.ceil(box[2:])], atol=1.01)
    inner = (alpha > 0.99).mean()
    assert {"ring": 0.2, "star": 0.1}.get(name, 0.3) < inner < 0.98


def test_area_of_the_mask_is_that_of_the_shape():
    box = np.array([5.5, 7.25, 45.5, 37.25])
    disk, _ = drawing.mask(drawing.outline("disk", 0.0), box)
    ring, _ = drawing.mask(drawing.outline("ring", 0.0), box)
    whole = np.pi / 4 * 40 * 30
    assert disk.sum() == pytest.approx(whole, rel=0.02)
    assert ring.sum() == pytest.approx(whole * (1 - 0.55**2), rel=0.03)


def test_sizes_and_aspects_cover_their_ranges():
    drawn = _scenes(150, image_size=96, objects=(1, 3), min_size=8.0, max_size=0.5, max_aspect=3.0)
    boxes = np.concatenate([one.boxes for one in drawn])
    assert (boxes >= 0).all()
    assert (boxes <= 96).all()
    extent = boxes[:, 2:] - boxes[:, :2]
    size, aspect = np.sqrt(extent.prod(1)), extent[:, 0] / extent[:, 1]
    assert 8 - 1e-3 <= size.min() < 9
    assert 40 < size.max() <= 48 + 1e-3
    middle = np.sqrt(8 * 48)
    assert 0.35 < (size < middle).mean() < 0.65  # log-uniform
    assert 1 / 3 - 1e-3 <= aspect.min() < 0.45
    assert 2.3 < aspect.max() <= 3 + 1e-3
    labels = np.concatenate([one.labels for one in drawn])
    assert set(labels.tolist()) == set(range(5))


def test_crowding_and_occlusion():
    def overlaps(**style):
        worst = []
        for one in _scenes(40, image_size=96, objects=(5, 8), max_size=0.3, **style):
            low = np.maximum(one.boxes[:, None, :2], one.boxes[None, :, :2])
            high = np.minimum(one.boxes[:, None, 2:], one.boxes[None, :, 2:])
            common = np.clip(high - low, 0, None).prod(-1)
            area = (one.boxes[:, 2:] - one.boxes[:, :2]).prod(1)
            share = common / np.minimum(area[:, None], area)
            np.fill_diagonal(share, 0)
            worst.append(share.max(initial=0))
        return np.array(worst)

    apart = overlaps(occlusion=0.0, crowding=0.0)
    np.testing.assert_allclose(apart, 0, atol=1e-4)
    free, crowded = overlaps(occlusion=0.6, crowding=0.0), overlaps(occlusion=0.6, crowding=1.0)
    assert crowded.max() <= 0.6 + 1e-4
    assert crowded.mean() > free.mean()


def test_empty_images_and_their_share():
    assert all(len(one.labels) == 0 for one in _scenes(5, empty=1.0, image_size=64))
    assert all(len(one.labels) > 0 for one in _scenes(20, empty=0.0, image_size=64))


def test_objects_differ_from_what_is_behind():
    style = {"image_size": 96, "objects": (1, 1), "empty": 0.0, "distractors": (0, 0), "blur": 0.0}
    for one in _scenes(20, **style, noise=0.0, low_contrast=1.0, min_size=20.0):
        x0, y0, x1, y1 = one.boxes[0].astype(int)
        inside = one.image[y0:y1, x0:x1].reshape(-1, 3).astype(float)
        rest = np.ones(one.image.shape[:2], bool)
        rest[y0:y1, x0:x1] = False
        spread = inside.std(0).max() + np.abs(inside.mean(0) - one.image[rest].mean(0)).max()
        assert spread > 5


def test_deterministic_cached_and_extendable(tmp_path):
    first = shapes(cache_dir=tmp_path / "a", **SMALL)
    again = shapes(cache_dir=tmp_path / "b", **SMALL)
    assert (len(first), first.classes) == (6, drawing.CLASSES)
    _same(first, again, 6)
    more = shapes(cache_dir=tmp_path / "a", **{**SMALL, "num_train": 8})
    _same(first, more, 6)
    other = shapes(cache_dir=tmp_path / "a", **SMALL, seed=1)
    assert (other[0].image != first[0].image).any()
    validation = shapes(cache_dir=tmp_path / "a", split="validation", **SMALL)
    assert len(validation) == 3
    assert (validation[0].image != first[0].image).any()
    folders = [p for p in (tmp_path / "a" / "shapes").glob("*/*") if p.is_dir()]
    assert len(folders) == 3  # one per set of parameters, and no remains
    before = {p: p.stat().st_mtime_ns for p in folders[0].iterdir()}
    shapes(cache_dir=tmp_path / "a", **SMALL)
    assert before == {p: p.stat().st_mtime_ns for p in folders[0].iterdir()}


def test_boxes_survive_storage_exactly(tmp_path):
    source = shapes(cache_dir=tmp_path, **SMALL)
    drawn = scene(np.random.default_rng((0, 0, 2)), Style(image_size=64))
    np.testing.assert_allclose(source[2].boxes, drawn.boxes, atol=1e-5)
    np.testing.assert_array_equal(source[2].labels, drawn.labels)
    assert np.abs(source[2].image.astype(int) - drawn.image).mean() < 8  # JPEG
    chosen = shapes(cache_dir=tmp_path, classes=("star", "disk"), **SMALL)
    assert chosen.category_ids == (5, 1)


def test_environment_chooses_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORS_CACHE_DIR", str(tmp_path / "here"))
    shapes(**SMALL)
    assert (tmp_path / "here" / "shapes").is_dir()


def _generate(folder, barrier):
    barrier.wait()
    shapes(cache_dir=folder, **SMALL)


def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_generate, args=(tmp_path, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = [p.name for p in (tmp_path / "shapes").glob("*/*")]
    assert found == ["1.0.0"]
    assert len(shapes(cache_dir=tmp_path, **SMALL)[0].image) == 64


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 4},
        {"objects": (0, 3)},
        {"min_size": 100.0},
        {"max_size": 1.5},
        {"max_aspect": 0.5},
        {"empty": 2.0},
        {"num_train": 0},
        {"seed": -1},
    ],
)
def test_bad_parameters_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        shapes(cache_dir=tmp_path, **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())
