import json
import logging
import math

import numpy as np
import pytest

from anchors_jax.data.annotated import SIZE
from anchors_jax.data.coco import coco
from anchors_jax.data.records import DataError, Source
from anchors_jax.data.table import ACROSS, NO_AREA, NON_FINITE, OUTSIDE
from tests.data.tiny_data import annotation, coco_content, picture, write_coco, write_image


def test_labels_follow_names_not_ids(tmp_path):
    source = coco(**write_coco(tmp_path))
    assert isinstance(source, Source)
    assert source.classes == ("bicycle", "boat", "bottle")  # by category id: 2, 9, 44
    assert source.category_ids == (2, 9, 44)
    example = source[0]
    assert (example.image_id, example.file) == (7, "a.jpg")
    np.testing.assert_array_equal(example.boxes, [[5, 6, 25, 16], [30, 10, 40, 20]])
    np.testing.assert_array_equal(example.labels, [2, 0])
    np.testing.assert_array_equal(example.crowd, [False, True])
    np.testing.assert_array_equal(example.area, [200, 100])
    np.testing.assert_array_equal(example.annotation_ids, [11, 13])
    assert source[1].area == [99.0]
    assert abs(example.image.astype(int) - picture(40, 60, 0)).max() < 6  # RGB, not BGR


def test_chosen_classes_select_and_order(tmp_path):
    source = coco(**write_coco(tmp_path), classes=("bottle", "boat"))
    assert source.category_ids == (44, 9)
    assert [source[i].labels.tolist() for i in range(3)] == [[0], [], []]
    assert source.counts.tolist() == [[1, 0], [0, 0], [0, 0]]


def test_unknown_class_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"'botle'.*'bottle'"):
        coco(**write_coco(tmp_path), classes=("botle",))
    with pytest.raises(DataError, match="twice"):
        coco(**write_coco(tmp_path), classes=("boat", "boat"))


def test_image_without_objects_is_kept(tmp_path):
    source = coco(**write_coco(tmp_path))
    assert len(source) == 3
    assert source[2].boxes.shape == (0, 4)
    assert source[2].boxes.dtype == np.float32
    with pytest.raises(IndexError):
        source[3]


def test_ground_truth_needs_no_image(tmp_path):
    content = coco_content()
    keywords = write_coco(tmp_path, content, pictures=False)
    source = coco(annotations=keywords["annotations"], images=None)
    truth = source.ground_truth()
    assert truth["images"] == [
        {key: image[key] for key in ("id", "file_name", "height", "width")}
        for image in content["images"]
    ]
    assert truth["categories"] == sorted(content["categories"], key=lambda c: c["id"])
    by_id = {a["id"]: a for a in truth["annotations"]}
    assert set(by_id) == {11, 12, 13}
    for written in content["annotations"]:
        read = by_id[written["id"]]
        assert read["bbox"] == written["bbox"]
        assert read["category_id"] == written["category_id"]
        assert read["iscrowd"] == read["ignore"] == written.get("iscrowd", 0)
    assert by_id[12]["area"] == 99.0
    json.dumps(truth)  # plain types only
    with pytest.raises(DataError, match="no folder"):
        source[0]


def test_annotation_id_zero_is_shifted(tmp_path):
    content = coco_content()
    content["annotations"][0]["id"] = 0
    truth = coco(**write_coco(tmp_path, content)).ground_truth()
    assert sorted(a["id"] for a in truth["annotations"]) == [1, 13, 14]


FAULTS = [
    ([math.nan, 1, 5, 5], NON_FINITE, None),
    ([1, 1, math.inf, 5], NON_FINITE, None),
    ([1, 1, 0, 5], NO_AREA, None),
    ([1, 1, 5, -5], NO_AREA, None),
    ([100, 1, 5, 5], OUTSIDE, None),
    ([-9, 1, 5, 5], OUTSIDE, None),
    ([-5, 1, 15, 100], ACROSS, [0, 1, 10, 40]),
    ([50, 30, 20, 20], ACROSS, [50, 30, 60, 40]),
]


@pytest.mark.parametrize(("box", "kind", "left"), FAULTS)
def test_faulty_boxes_are_dropped_or_clipped_and_counted(tmp_path, caplog, box, kind, left):
    content = coco_content()
    content["annotations"] += [annotation(20 + i, 7, 44, box) for i in range(3)]
    keywords = write_coco(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        source = coco(**keywords)
    assert source.problems == {kind: 3}
    assert [r.getMessage().count("annotation 20 of a.jpg") for r in caplog.records] == [1]
    expected = [[5, 6, 25, 16], [30, 10, 40, 20]] + ([] if left is None else [left] * 3)
    np.testing.assert_array_equal(source[0].boxes, expected)
    assert len(source.ground_truth()["annotations"]) == 3 + (0 if left is None else 3)
    with pytest.raises(DataError, match=r"annotation 20 of a\.jpg"):
        coco(**keywords, strict=True)


def test_overhang_by_rounding_is_no_problem(tmp_path):
    content = coco_content()
    content["annotations"].append(annotation(20, 7, 44, [50, 30, 10.01, 10.01]))
    source = coco(**write_coco(tmp_path, content), strict=True)
    assert not source.problems
    np.testing.assert_array_equal(source[0].boxes[-1], [50, 30, 60, 40])


def test_pixels_are_trusted_over_the_annotated_size(tmp_path):
    keywords = write_coco(tmp_path)
    write_image(tmp_path / "images" / "a.jpg", 12, 22)
    source = coco(**keywords)
    example = source[0]
    np.testing.assert_array_equal(example.boxes, [[5, 6, 22, 12]])  # the other is outside now
    assert source.problems == {SIZE: 1, OUTSIDE: 1}
    with pytest.raises(DataError, match=r"a\.jpg.*annotation 11"):
        coco(**keywords, strict=True)[0]


def test_missing_size_comes_from_the_file_header(tmp_path):
    content = coco_content()
    keywords = write_coco(tmp_path, content)
    del content["images"][0]["height"], content["images"][0]["width"]
    write_coco(tmp_path, content, pictures=False)
    assert coco(**keywords).sizes.tolist()[0] == [40, 60]


def test_limit_takes_the_first_images(tmp_path):
    source = coco(**write_coco(tmp_path), limit=2)
    assert source.image_ids.tolist() == [7, 3]
    assert len(source.ground_truth()["annotations"]) == 3
    source = coco(**write_coco(tmp_path), limit=1)
    assert [a["id"] for a in source.ground_truth()["annotations"]] == [11, 13]
    assert source[0].labels.tolist() == [2, 0]


def _change(**changes):
    def apply(content):
        for path, value in changes.items():
            key, index, field = path.split("__")
            content[key][int(index)][field] = value

    return apply


BROKEN = [
    (_change(annotations__1__image_id=555), "annotation 12: unknown image id 555"),
    (_change(annotations__1__category_id=555), "annotation 12: unknown category id 555"),
    (_change(annotations__1__id=11), "annotation id 11 occurs twice"),
    (_change(annotations__1__bbox=[1, 2, 3]), "annotation 12: 'bbox' must be four numbers"),
    (_change(annotations__1__bbox=None), "annotation 12: no 'bbox'"),
    (_change(annotations__1__bbox=[1, 2, None, 4]), "annotation 12: 'bbox' must be four numbers"),
    (_change(annotations__1__area="x"), "annotation 12: 'area' must be a number"),
    (_change(images__1__height="tall"), "image 3: height and width are"),
    (_change(annotations__1__id=None), "annotation number 1: no 'id'"),
    (_change(images__1__id=7), r"image id 7 occurs twice \(a.jpg, b.jpg\)"),
    (_change(images__1__id="b"), "image number 1: 'id' must be an integer, not 'b'"),
    (_change(images__1__id=-1), "image id -1 is not in 0"),
    (_change(images__1__file_name="no.jpg"), r"no.jpg: missing; image id 3 needs it"),
    (_change(categories__1__name="bottle"), "categories 44 and 2 are both 'bottle'"),
    (_change(categories__1__id=44), "category id 44 occurs twice"),
    (lambda content: content.pop("images"), "no list 'images'"),
    (lambda content: content["categories"].clear(), "no classes"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_broken_content_is_named(tmp_path, change, message):
    content = coco_content()
    keywords = write_coco(tmp_path, content)
    change(content)
    keywords["annotations"].write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        coco(**keywords)


def test_broken_files_are_named(tmp_path):
    keywords = write_coco(tmp_path)
    keywords["annotations"].write_text('{"images": [],\n"annotations": [}')
    with pytest.raises(DataError, match=r"instances.json: line 2"):
        coco(**keywords)
    keywords["annotations"].write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match=r"instances.json: not UTF-8"):
        coco(**keywords)
    with pytest.raises(DataError, match=r"nowhere.json: cannot be read"):
        coco(annotations=tmp_path / "nowhere.json", images=None)


@pytest.mark.parametrize("keep", [0, 100, -2])
def test_unreadable_image_is_named(tmp_path, keep, capfd):
    keywords = write_coco(tmp_path)
    path = tmp_path / "images" / "a.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    source = coco(**keywords)
    with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
        source[0]
    source[1]


def test_real_coco(coco128):
    source = coco(
        annotations=coco128 / "annotations" / "instances_train2017.json",
        images=coco128 / "train2017",
    )
    assert len(source) == 128
    assert len(source.classes) == 80
    assert source.category_ids[-1] == 90
    assert sum(source.counts.sum(1)) == 939
    for i in range(0, 128, 16):
        example = source[i]
        assert example.size == tuple(source.sizes[i])
        assert (example.boxes[:, 2:] > example.boxes[:, :2]).all()
    assert not source.problems
