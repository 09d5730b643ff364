import pickle

import numpy as np
import pytest

from anchors_jax.data.coco import coco
from anchors_jax.data.prepare import prepare
from anchors_jax.data.prepared import prepared
from anchors_jax.data.records import DataError
from anchors_jax.data.voc import voc
from tests.data.tiny_data import coco_content, voc_object, write_coco, write_image, write_voc


def _same(a, b, *, exact: bool = True):
    assert len(a) == len(b)
    assert a.classes == b.classes
    for i in range(len(a)):
        one, other = a[i], b[i]
        assert (one.image_id, one.file) == (other.image_id, other.file)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.crowd, other.crowd)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0 if exact else 1e-4)


def test_copy_equals_the_original(tmp_path):
    source = coco(**write_coco(tmp_path))
    folder = prepare(source, tmp_path / "out", name="tiny")
    assert folder == tmp_path / "out" / "tiny" / "1.0.0"
    copy = prepared(directory=folder, split="train")
    _same(source, copy)
    assert copy.category_ids == source.category_ids
    for key in ("images", "annotations", "categories"):
        assert copy.ground_truth()[key] == source.ground_truth()[key]
    assert copy.encoded(0) == source.encoded(0)  # not compressed a second time
    sent = pickle.loads(pickle.dumps(copy))
    _same(source, sent)
    assert prepared(directory=folder, split="train", classes=("boat",)).category_ids == (9,)


def test_without_the_coco_file_the_records_are_scanned(tmp_path):
    source = coco(**write_coco(tmp_path))
    folder = prepare(source, tmp_path / "out", name="tiny")
    (folder / "instances_train.json").unlink()
    copy = prepared(directory=folder, split="train")
    _same(source, copy, exact=False)
    assert len(prepared(directory=folder, split="train[:2]")) == 2


def test_several_splits(tmp_path):
    write_voc(tmp_path, {"p": [voc_object("cat", (1, 2, 30, 20))], "q": []}, split="train")
    write_voc(tmp_path, {"r": [voc_object("dog", (1, 2, 30, 20), difficult=1)]}, split="val")
    splits = {name: voc(root=tmp_path, split=name) for name in ("train", "val")}
    folder = prepare(splits, tmp_path / "out", name="pets", version="2.0.1")
    for name, source in splits.items():
        _same(source, prepared(directory=folder, split=name))
    with pytest.raises(DataError, match=r"split 'test' of \['train', 'val'\]"):
        prepared(directory=folder, split="test")


def test_all_or_nothing(tmp_path):
    source = coco(**write_coco(tmp_path))
    write_image(tmp_path / "images" / "c.jpg", 8, 8)
    (tmp_path / "images" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"b\.jpg: cannot be read"):
        prepare(source, tmp_path / "out", name="tiny")
    assert not list((tmp_path / "out" / "tiny").iterdir())
    write_image(tmp_path / "images" / "b.jpg", 60, 40)
    prepare(source, tmp_path / "out", name="tiny")
    with pytest.raises(DataError, match="exists"):
        prepare(source, tmp_path / "out", name="tiny")


def test_bad_requests(tmp_path):
    content = coco_content()
    source = coco(**write_coco(tmp_path, content))
    with pytest.raises(ValueError, match="name must be"):
        prepare(source, tmp_path, name="A b")
    with pytest.raises(ValueError, match="at least one split"):
        prepare({}, tmp_path, name="tiny")
    other = coco(annotations=tmp_path / "instances.json", images=None, classes=("boat",))
    with pytest.raises(DataError, match="same classes"):
        prepare({"a": source, "b": other}, tmp_path, name="tiny")
    with pytest.raises(DataError, match="not a prepared TFDS data set"):
        prepared(directory=tmp_path, split="train")
