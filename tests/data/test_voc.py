import math

import numpy as np
import pytest

from anchors_jax.data.records import DataError, Source
from anchors_jax.data.table import NO_AREA, NON_FINITE
from anchors_jax.data.voc import NO_BOX, OTHER_NAME, voc
from tests.data.tiny_data import voc_object, write_image, write_voc

CAT = voc_object("cat", (11, 6, 30, 25))
DOG = voc_object("dog", (1, 1, 60, 40))


def test_one_based_inclusive_pixels(tmp_path):
    keywords = write_voc(tmp_path, {"p": [CAT, DOG], "q": []})
    source = voc(**keywords)
    assert isinstance(source, Source)
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source[0].boxes, [[10, 5, 30, 25], [0, 0, 60, 40]])
    assert source[0].area.tolist() == [400, 2400]  # as many as there are pixels
    assert not source.problems
    assert source.image_ids.tolist() == [1, 2]
    assert len(source[1].labels) == 0
    zero = voc(**keywords, one_based=False)
    np.testing.assert_array_equal(zero[0].boxes, [[11, 6, 30, 25], [1, 1, 60, 40]])


def test_classes_agree_between_splits(tmp_path):
    write_voc(tmp_path, {"p": [CAT, DOG]}, split="train")
    write_voc(tmp_path, {"q": [DOG]}, split="val")
    assert voc(root=tmp_path, split="val").classes == ("cat", "dog")
    chosen = voc(root=tmp_path, split="train", classes=("dog",))
    assert chosen[0].labels.tolist() == [0]
    assert chosen.category_ids == (1,)
    with pytest.raises(DataError, match=r"'dgo'.*'dog'"):
        voc(root=tmp_path, split="train", classes=("dgo",))


def test_difficult_objects_are_crowd_regions_unless_used(tmp_path):
    keywords = write_voc(tmp_path, {"p": [CAT, voc_object("dog", (2, 2, 9, 9), difficult=1)]})
    assert voc(**keywords)[0].crowd.tolist() == [False, True]
    truth = voc(**keywords).ground_truth()["annotations"]
    assert [(a["iscrowd"], a["ignore"]) for a in truth] == [(0, 0), (1, 1)]
    assert voc(**keywords, use_difficult=True)[0].crowd.tolist() == [False, False]


def test_file_names_in_xml_do_not_matter(tmp_path):
    keywords = write_voc(tmp_path, {"p": [CAT], "q": [DOG]}, filename="wrong.png")
    source = voc(**keywords)
    assert source[1].file == "q.jpg"
    assert source.problems == {OTHER_NAME: 2}
    with pytest.raises(DataError, match=r"p\.xml names 'wrong.png'"):
        voc(**keywords, strict=True)


@pytest.mark.parametrize("one_based", [True, False])
def test_faulty_boxes(tmp_path, one_based):
    items = [
        voc_object("cat", (5, 5, 5, 9)),
        voc_object("cat", (9, 5, 5, 9)),
        voc_object("cat", (math.nan, 5, 9, 9)),
        voc_object("cat", None),
        CAT,
    ]
    keywords = write_voc(tmp_path, {"p": items})
    source = voc(**keywords, one_based=one_based)
    assert len(source[0].labels) == 1
    assert source.problems == {NO_AREA: 2, NON_FINITE: 1, NO_BOX: 1}
    with pytest.raises(DataError, match=r"p\.(xml|jpg)"):
        voc(**keywords, strict=True)


def test_errors_name_file_and_place(tmp_path):
    keywords = write_voc(tmp_path, {"p": [CAT], "q": [voc_object("cat", (1, 2, "x", 4))]})
    with pytest.raises(DataError, match=r"q\.xml, 'cat': <xmax> is 'x'"):
        voc(**keywords)
    (tmp_path / "Annotations" / "q.xml").write_text("<annotation>\n<size>\n</annotation>")
    with pytest.raises(DataError, match=r"q\.xml: line 3"):
        voc(**keywords)
    (tmp_path / "Annotations" / "q.xml").unlink()
    with pytest.raises(DataError, match=r"q\.xml: cannot be read"):
        voc(**keywords)
    with pytest.raises(DataError, match=r"nosplit.*\['train'\]"):
        voc(root=tmp_path, split="nosplit")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("p 1\np -1\n")
    with pytest.raises(DataError, match="p occurs twice"):
        voc(**keywords)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("p  1\n\n")
    assert len(voc(**keywords)) == 1
    (tmp_path / "JPEGImages" / "p.jpg").unlink()
    with pytest.raises(DataError, match=r"p\.jpg: missing; image id 1"):
        voc(**keywords)


def test_size_is_read_from_the_image_where_the_xml_has_none(tmp_path):
    keywords = write_voc(tmp_path, {"p": [CAT]}, said=(0, 0))
    assert voc(**keywords).sizes.tolist() == [[40, 60]]


def test_other_suffix_and_limit(tmp_path):
    keywords = write_voc(tmp_path, {"p": [CAT], "q": [DOG]})
    (tmp_path / "JPEGImages" / "p.jpg").rename(tmp_path / "JPEGImages" / "p.JPEG")
    source = voc(**keywords, limit=1)
    assert len(source) == 1
    assert source[0].size == (40, 60)
    write_image(tmp_path / "JPEGImages" / "q.jpg", 10, 10)
    assert voc(**keywords)[1].boxes.tolist() == [[0, 0, 10, 10]]


def test_real_voc(bccd):
    train, test = (voc(root=bccd, split=split) for split in ("trainval", "test"))
    assert (len(train), len(test)) == (292, 72)
    assert train.classes == test.classes == ("Platelets", "RBC", "WBC")
    assert sum(train.counts.sum(1)) + sum(test.counts.sum(1)) + train.problems.total() == 4888
    assert train.problems == {NO_AREA: 2}  # two boxes of one point
    example = train[0]
    assert example.size == (480, 640)
    assert (example.boxes >= 0).all()
    assert (example.boxes <= [640, 480, 640, 480]).all()
