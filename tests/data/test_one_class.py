"""All objects as one class: labels and categories change, and nothing else does."""

import numpy as np

from anchors_jax.data import one_class, shapes

SOURCE = shapes.shapes(split="train", num_train=3, num_validation=1, image_size=48)
MERGED = one_class.OneClass(SOURCE)


def test_examples_differ_in_their_labels_alone():
    assert len(MERGED) == len(SOURCE) == 3
    assert MERGED.classes == ("object",)
    for index in range(3):
        one, other = MERGED[index], SOURCE[index]
        assert other.labels.any() or len(other.labels) == 0 or index
        np.testing.assert_array_equal(one.labels, np.zeros_like(other.labels))
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(MERGED.sizes, SOURCE.sizes)
    np.testing.assert_array_equal(MERGED.image_ids, SOURCE.image_ids)
    np.testing.assert_array_equal(MERGED.counts, SOURCE.counts)
    assert MERGED.problems is SOURCE.problems


def test_ground_truth_has_one_category():
    truth, other = MERGED.ground_truth(), SOURCE.ground_truth()
    assert truth["categories"] == [{"id": 1, "name": "object"}]
    assert {row["category_id"] for row in truth["annotations"]} == {1}
    assert [row["bbox"] for row in truth["annotations"]] == [
        row["bbox"] for row in other["annotations"]
    ]
    assert len({row["category_id"] for row in other["annotations"]}) > 1  # and stay as they were
