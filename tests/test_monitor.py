import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax.monitor import MatchMonitor
from anchors_jax.types import Anchors, Assignment, Detector


class Loader:
    """Two batches of two images, the last slot of which is padding."""

    def __iter__(self):
        for ids in ([4, 5], [6, -1]):
            yield {
                "image": np.zeros((2, 4, 4, 3), np.uint8),
                "image_size": np.full((2, 2), 4, np.int32),
                "image_id": np.asarray(ids, np.int32),
                "scale": np.ones((2, 2), np.float32),
                "boxes": np.tile(np.float32([0, 0, 10, 10]), (2, 3, 1)),
                "labels": np.zeros((2, 3), np.int32),
                "valid": np.array([[True, False, False]] * 2),
                "crowd": np.zeros((2, 3), bool),
            }

    def close(self):
        pass


def match(variables, batch):
    """The first `variables` of four anchors are positive in every image."""
    anchors = Anchors(
        boxes=jnp.zeros((4, 4)),
        cell=jnp.arange(4),
        shape=jnp.zeros(4, jnp.int32),
        valid=jnp.ones(4, bool),
        level_sizes=((1, 3, 1), (1, 1, 1)),
        strides=((8.0, 8.0), (16.0, 16.0)),
    )
    positive = jnp.broadcast_to(jnp.arange(4) < variables, (batch.image.shape[0], 4))
    nothing = jnp.zeros(positive.shape, bool)
    return Assignment(
        gt=jnp.zeros(positive.shape, int), positive=positive, ignored=nothing
    ), anchors


def detector():
    return Detector(init=None, loss=None, score=None, predict=None, match=match)


@pytest.mark.parametrize(("images", "batches"), [(1, 1), (2, 1), (3, 2), (9, 2)])
def test_what_is_seen_and_what_changed(images, batches):
    watch = MatchMonitor(detector(), Loader(), images=images)
    assert len(watch._batches) == batches
    first = watch(2)
    assert first["positives_per_object"] == 2
    assert first["share_on_level_0"] == 1
    assert "changed" not in first
    second = watch(4)
    assert second["share_on_level_1"] == 0.25
    assert second["changed"] == pytest.approx(0.5)


def test_it_can_be_off():
    assert MatchMonitor(detector(), Loader(), images=0)(2) == {}


def test_predicted_anchors_are_compared_with_the_grid():
    """The object [0, 0, 10, 10] meets a quarter-sized box in the grid, itself where predicted."""

    def seen(variables, batch):
        found, anchors = match(variables, batch)
        return found, anchors.replace(boxes=jnp.zeros((4, 4)).at[1].set(jnp.array([0, 0, 5, 5])))

    def place(variables, batch):
        boxes = jnp.zeros((2, 4, 4)).at[:, :2].set(jnp.array([0, 0, 10, 10]))
        valid = jnp.array([[True, False, False, False], [False, True, True, False]])
        return match(variables, batch)[1].replace(boxes=boxes, valid=valid)

    predicting = detector()._replace(match=seen, place=place)
    summary = MatchMonitor(predicting, Loader(), images=2)(2)
    assert summary["best_iou_of_grid"] == pytest.approx(0.25)
    assert summary["best_iou_of_predicted"] == pytest.approx(1.0)
    assert summary["share_of_cells_kept"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert "best_iou_of_grid" not in MatchMonitor(detector(), Loader(), images=2)(2)
