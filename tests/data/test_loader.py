import collections
import json
import logging

import numpy as np
import pytest

from anchors_jax.data import transforms as T
from anchors_jax.data.coco import coco
from anchors_jax.data.loader import eval_loader, first_images, pack, train_loader
from anchors_jax.data.records import DataError
from tests.data.tiny_data import annotation, write_coco

CANVASES = ((32, 48), (48, 32))
AUGMENT = (T.scale_jitter(low=0.6), T.horizontal_flip())
SHAPES = {
    "image": (np.uint8, (32, 48, 3)),
    "image_size": (np.int32, (2,)),
    "image_id": (np.int32, ()),
    "scale": (np.float32, (2,)),
    "boxes": (np.float32, (3, 4)),
    "labels": (np.int32, (3,)),
    "valid": (np.bool_, (3,)),
    "crowd": (np.bool_, (3,)),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """13 images, 9 of them wide and 4 tall; image i has i % 4 objects; ids 100, 101, ..."""
    sizes = [(30, 50) if i % 3 else (50, 30) for i in range(13)]
    sizes[12] = (20, 24)
    boxes = [[1 + j, 2, 9 + 2 * j, 8] for j in range(3)]
    content = {
        "images": [
            {"id": 100 + i, "file_name": f"{i}.jpg", "height": h, "width": w}
            for i, (h, w) in enumerate(sizes)
        ],
        "annotations": [
            annotation(100 * i + j + 1, 100 + i, 1, boxes[j], iscrowd=int(i == 6 and j == 0))
            for i in range(13)
            for j in range(i % 4)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    return coco(**write_coco(tmp_path_factory.mktemp("coco"), content))


def _train(source, **keywords):
    defaults = {"batch_size": 4, "canvases": CANVASES, "transforms": AUGMENT, "max_objects": 3}
    return train_loader(source, **{**defaults, "num_threads": 2, **keywords})


def _take(loader, count):
    batches = [next(loader) for _ in range(count)]
    loader.close()
    return batches


def _assert_same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_batches_have_the_promised_arrays(source):
    canvases = set()
    for batch in _take(_train(source), 12):
        canvases.add(batch["image"].shape[1:3])
        for key, (dtype, shape) in SHAPES.items():
            assert batch[key].dtype == dtype, key
            if key != "image":
                assert batch[key].shape == (4, *shape), key
        height, width = batch["image"].shape[1:3]
        assert (batch["image_size"] <= [height, width]).all()
        for image, (h, w), valid, boxes in zip(
            batch["image"], batch["image_size"], batch["valid"], batch["boxes"], strict=True
        ):
            assert not image[h:].any()
            assert not image[:, w:].any()
            assert (boxes[valid] <= [w, h, w, h]).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
        number = batch["image_id"] - 100
        assert (batch["valid"].sum(1) == number % 4).all()
    assert canvases == set(CANVASES)


def test_boxes_and_scale_lead_back_to_the_source(source):
    loader = _train(source, transforms=[T.fit()], max_objects=3)
    for batch in _take(loader, 6):
        for row in range(4):
            original = source[int(batch["image_id"][row]) - 100]
            valid = batch["valid"][row]
            back = batch["boxes"][row][valid] / np.tile(batch["scale"][row], 2)
            np.testing.assert_allclose(back, original.boxes, rtol=1e-4, atol=1e-3)
            np.testing.assert_array_equal(batch["crowd"][row][valid], original.crowd)


def test_every_image_once_per_epoch_of_its_canvas(source):
    ids = np.concatenate([b["image_id"] for b in _take(_train(source), 13)])  # 4 epochs exactly
    counts = collections.Counter(ids.tolist())
    assert set(counts) == set(range(100, 113))
    assert set(counts.values()) == {4}
    assert _train(source).steps_per_epoch == 4
    one_canvas = _train(source, canvases=CANVASES[:1], batch_size=2)
    ids = np.concatenate([b["image_id"] for b in _take(one_canvas, 13)]).tolist()
    assert sorted(ids[:13]) == sorted(ids[13:]) == list(range(100, 113))
    assert ids[:13] != ids[13:]  # a new order in each epoch
    still = _train(source, canvases=CANVASES[:1], batch_size=2, shuffle=False)
    assert np.concatenate([b["image_id"] for b in _take(still, 13)]).tolist() == [
        *range(100, 113),
        *range(100, 113),
    ]


def test_seed_decides(source):
    first, again = _take(_train(source, seed=1), 5), _take(_train(source, seed=1), 5)
    _assert_same(first, again)
    other = _take(_train(source, seed=2), 5)
    assert any((a["image_id"] != b["image_id"]).any() for a, b in zip(first, other, strict=True))


def test_augmentation_differs_between_epochs(source):
    scales = collections.defaultdict(set)
    for batch in _take(_train(source), 13):
        for identity, scale in zip(batch["image_id"], batch["scale"], strict=True):
            scales[int(identity)].add(float(scale[0]))
    assert all(len(different) > 1 for different in scales.values())


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_change_nothing(source, threads):
    _assert_same(_take(_train(source, num_threads=threads), 7), _take(_train(source), 7))


def test_workers_change_nothing_and_resume_exactly(source):
    expected = _take(_train(source), 6)
    working = _train(source, num_workers=2)
    working.set_state({**working.get_state(), "step": 1})
    _assert_same([next(working) for _ in range(3)], expected[1:4])
    state = json.loads(json.dumps(working.get_state()))
    working.close()
    threaded = _train(source)  # the number of workers is no part of the state
    threaded.set_state(state)
    _assert_same(_take(threaded, 2), expected[4:])


@pytest.mark.parametrize("position", [0, 1, 6])
def test_resume_exactly(source, position):
    expected = _take(_train(source), 10)
    loader = _train(source)
    for _ in range(position):
        next(loader)
    state = json.loads(json.dumps(loader.get_state()))
    loader.close()
    fresh = _train(source)
    next(fresh)
    fresh.set_state(state)
    _assert_same(_take(fresh, 10 - position), expected[position:])


def test_closing_does_not_lose_batches(source):
    loader = _train(source)
    got = [next(loader), next(loader)]
    loader.close()
    _assert_same(got + _take(loader, 2), _take(_train(source), 4))


def test_foreign_state_is_refused(source):
    state = _train(source).get_state()
    with pytest.raises(ValueError, match="seed was 0, is now 3"):
        _train(source, seed=3).set_state(state)
    with pytest.raises(ValueError, match="batch_size"):
        _train(source, batch_size=2).set_state(state)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_same_global_batches(source, count):
    whole = _take(_train(source), 6)
    parts = [_take(_train(source, process_index=p, process_count=count), 6) for p in range(count)]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in SHAPES}
        for step in zip(*parts, strict=True)
    ]
    _assert_same(joined, whole)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("canvases", [CANVASES, CANVASES[:1]])
def test_evaluation_sees_every_image_once(source, processes, canvases):
    seen, lengths, shapes = [], set(), []
    for p in range(processes):
        loader = eval_loader(
            source,
            batch_size=4,
            canvases=canvases,
            transforms=[T.fit()],
            max_objects=3,
            num_threads=2,
            process_index=p,
            process_count=processes,
        )
        batches = list(loader)
        lengths.add((len(loader), len(batches)))
        shapes.append([batch["image"].shape for batch in batches])
        seen += [i for batch in batches for i in batch["image_id"].tolist() if i >= 0]
        for batch in batches:
            padding = batch["image_id"] < 0
            assert not batch["valid"][padding].any()
            assert not batch["image"][padding].any()
    expected = source.image_ids.tolist()
    assert sorted(seen) == sorted(expected)
    if processes == len(canvases) == 1:
        assert seen == expected
    assert lengths == {(4, 4)}  # 13 images, or 9 and 4
    assert all(shape == shapes[0] for shape in shapes)


def test_evaluation_can_be_repeated(source):
    loader = eval_loader(source, batch_size=8, canvases=CANVASES[:1], num_threads=1)
    first = list(loader)
    next(iter(loader))  # broken off
    _assert_same(list(loader), first)


def test_more_objects_than_slots(source, caplog):
    with caplog.at_level(logging.WARNING):
        loader = _train(source, max_objects=2)
    assert sum("3 images have more than max_objects = 2" in r.message for r in caplog.records) == 1
    for batch in _take(loader, 4):
        assert batch["boxes"].shape == (4, 2, 4)
    example = T.fit(canvas=CANVASES[0])(source[7], np.random.default_rng(0))
    packed = pack(example, canvas=CANVASES[0], max_objects=2)
    np.testing.assert_array_equal(packed["boxes"], example.boxes[1:])  # the larger ones
    crowded = example.replace(crowd=np.array([False, True, False]))
    packed = pack(crowded, canvas=CANVASES[0], max_objects=2)
    np.testing.assert_array_equal(packed["boxes"], example.boxes[[0, 2]])  # objects first


def test_images_can_be_left_out(source):
    ids = {i for b in _take(_train(source, keep_empty=False), 8) for i in b["image_id"].tolist()}
    assert ids == {100 + i for i in range(13) if i % 4}
    ids = {i for b in _take(_train(source, min_side=30), 13) for i in b["image_id"].tolist()}
    assert ids == set(range(100, 112))
    with pytest.raises(DataError, match="no image to train on"):
        _train(source, min_side=1000)


def test_image_larger_than_its_canvas_is_reduced(source):
    batch = _take(_train(source, transforms=(), canvases=((10, 10),)), 1)[0]
    assert (batch["image_size"].max(1) == 10).all()


def test_errors_of_the_source_reach_the_caller(source, tmp_path):
    keywords = write_coco(tmp_path)
    (tmp_path / "images" / "b.jpg").write_bytes(b"no image")
    loader = _train(coco(**keywords))
    with pytest.raises(DataError, match=r"b\.jpg: not a readable image"):
        _take(loader, 8)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch_size": 3, "process_count": 2}, "multiple of 2"),
        ({"batch_size": 0}, "batch_size"),
        ({"process_index": 1}, "process 1 of 1"),
        ({"canvases": ()}, "canvases"),
        ({"canvases": ((0, 5),)}, "canvases"),
        ({"max_objects": 0}, "max_objects"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_parameters_of_the_loader(source, keywords, message):
    with pytest.raises(ValueError, match=message):
        _train(source, **keywords)


def test_the_first_images_are_those_of_the_evaluation_in_the_source_s_order(source):
    keywords = {"canvases": CANVASES, "max_objects": 3}
    found = first_images(source, 5, **keywords)
    assert [int(batch["image_id"][0]) for batch in found] == [100, 101, 102, 103, 104]
    loader = eval_loader(source, batch_size=1, **keywords)
    evaluated = {int(batch["image_id"][0]): batch for batch in loader}
    _assert_same(found, [evaluated[100 + i] for i in range(5)])
    assert {batch["image"].shape for batch in found} == {(1, 32, 48, 3), (1, 48, 32, 3)}
    assert len(first_images(source, 99, **keywords)) == 13
