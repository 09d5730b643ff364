"""What holds for every assigner: found by walking the package, so a new one is covered as it is.

An assigner is a public `assign(anchors, targets)` or `assign(anchors, targets, log_likelihood)` of
a module in `anchors_jax.assign`; whatever else it takes has a default.
"""

import contracts
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import assign as package
from anchors_jax.types import Assignment

STRIDES = (8, 16, 32)
MAPS = ((32, 40), (16, 20), (8, 10))
CANVAS = (256, 320)
SLOTS = 8
ARGUMENTS = ("anchors", "targets"), ("anchors", "targets", "log_likelihood")
ASSIGNERS = contracts.public(package, "assign") | {"example": contracts.documented("assign")}


def grid():
    """Two shapes per cell. Corners on quarters of a pixel: shifted by a stride they stay exact."""
    shapes = make.relative(scales=(2.0, 3.0), ratios=(0.8,))
    anchors = make.grid(shapes, maps=MAPS, strides=STRIDES)
    return anchors.replace(boxes=jnp.round(anchors.boxes * 4) / 4)


ANCHORS = grid()
COUNT = len(ANCHORS.boxes)


class Assigner:
    """One assigner over N scenes at once: compiled once, used by most tests."""

    def __init__(self, name):
        self.function, self.traces = ASSIGNERS[name], 0
        self.takes_likelihood = contracts.required(self.function) == ARGUMENTS[1]
        self.batched = jax.jit(jax.vmap(self.one))

    def one(self, boxes, valid, targets, likelihood):
        """One image, arrays only."""
        self.traces += 1  # runs only while tracing
        anchors = ANCHORS.replace(boxes=boxes, valid=valid)
        extra = (likelihood,) if self.takes_likelihood else ()
        return self.function(anchors, targets, *extra)

    def __call__(self, scenes, *, boxes=None, valid=None, likelihood=None) -> Assignment:
        """Assignments of N scenes as numpy arrays, checked for what must hold of each."""
        inputs = arguments(scenes, boxes=boxes, valid=valid, likelihood=likelihood)
        result = jax.tree.map(np.asarray, self.batched(*inputs))
        check(result, scenes, inputs[1])
        return result


def arguments(scenes, *, boxes=None, valid=None, likelihood=None):
    """Inputs of `Assigner.one` for N scenes."""
    count = len(scenes.valid)
    boxes = np.asarray(ANCHORS.boxes) if boxes is None else boxes
    valid = np.ones((count, COUNT), bool) if valid is None else valid
    likelihood = random_likelihood(count) if likelihood is None else likelihood
    return np.broadcast_to(boxes, (count, COUNT, 4)), valid, scenes, likelihood


def random_likelihood(count):
    """Negative numbers without ties, [N, G, A]."""
    return -np.random.default_rng(3).exponential(2.0, (count, SLOTS, COUNT)).astype(np.float32)


def check(result, scenes, valid):
    """The definition of an `Assignment`."""
    positive, ignored, gt = result.positive, result.ignored, result.gt
    assert (positive.dtype, ignored.dtype) == (bool, bool)
    assert np.issubdtype(gt.dtype, np.integer)
    assert not (positive & ignored).any(), "positive and ignored are disjoint"
    assert not gt[~positive].any(), "gt is 0 where nothing is assigned"
    assert ((gt >= 0) & (gt < SLOTS)).all()
    assert not (positive & ~valid).any(), "invalid anchors are never positive"
    objects = np.take_along_axis(scenes.valid & ~scenes.crowd, gt, axis=1)
    assert objects[positive].all(), "positives belong to valid slots that are no crowd regions"
    lonely = ~(scenes.valid & ~scenes.crowd).any(axis=1)
    assert not positive[lonely].any(), "an image without objects has no positives"


def draw(seed, count):
    """Objects of many sizes, each near its own corner of the canvas' middle: nothing ties."""
    random = np.random.default_rng(seed)
    corners = np.array([[120, 104], [184, 104], [120, 152], [184, 152], [152, 128]])[:count]
    centre = corners + random.uniform(-14, 14, (count, 2))
    side = random.uniform(12, 72, (count, 2))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    return np.round(boxes * 4) / 4


def draws():
    """Six images: none, one, three, five objects; crowd regions; empty slots in between."""
    order = np.random.default_rng(11).permutation(SLOTS)
    return contracts.stack(
        contracts.targets(draw(0, 0)),
        contracts.targets(draw(1, 1), order=order),
        contracts.targets(draw(2, 3)),
        contracts.targets(draw(3, 5), order=order),
        contracts.targets(draw(4, 5), crowd=(1, 4), order=order),
        contracts.targets(draw(5, 2), crowd=(0, 1)),
    )


SCENES = draws()
HAVE_OBJECTS = (SCENES.valid & ~SCENES.crowd).any(axis=1)


@pytest.fixture(scope="module", params=ASSIGNERS)
def assigner(request):
    takes = contracts.required(ASSIGNERS[request.param])
    if takes not in ARGUMENTS:
        pytest.skip(f"assign/{request.param}.py takes {takes}: not an assigner of one image")
    return Assigner(request.param)


@pytest.fixture(scope="module")
def answer(assigner):
    """What the assigner says about `SCENES`."""
    return assigner(SCENES)


OF_ANCHORS = ("gt", "positive", "ignored")


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_there_are_assigners():
    assert "max_iou" in ASSIGNERS


def test_objects_get_anchors_and_empty_images_none(answer):
    np.testing.assert_array_equal(answer.positive.any(axis=1), HAVE_OBJECTS)


@pytest.mark.parametrize("kind", contracts.RUBBISH)
def test_padding_does_not_matter(assigner, answer, kind):
    # The likelihood of a slot comes from its box: whatever that is, so is the likelihood.
    likelihood = np.where(SCENES.valid[..., None], random_likelihood(len(SCENES.valid)), np.nan)
    assert_same(assigner(contracts.with_rubbish(SCENES, kind), likelihood=likelihood), answer)


def test_permuting_objects_permutes_the_answer(assigner, answer):
    order = np.random.default_rng(7).permutation(SLOTS)
    scenes = jax.tree.map(lambda leaf: leaf[:, order], SCENES)
    likelihood = random_likelihood(len(SCENES.valid))[:, order]
    got = assigner(scenes, likelihood=likelihood)
    np.testing.assert_array_equal(got.ignored, answer.ignored)
    np.testing.assert_array_equal(got.positive, answer.positive)
    np.testing.assert_array_equal(np.where(got.positive, order[got.gt], 0), answer.gt)


def test_moving_everything_changes_nothing(assigner, answer):
    shift = np.float32([64, -32, 64, -32])
    moved = SCENES.replace(boxes=SCENES.boxes + shift)
    assert_same(assigner(moved, boxes=np.asarray(ANCHORS.boxes) + shift), answer)


def rolled(values, dx, dy):
    """[..., A] moved along each level's map by (dx, dy) pixels; A is the last axis."""
    parts, start = [], 0
    for (rows, columns), stride in zip(MAPS, STRIDES, strict=True):
        shapes = ANCHORS.level_sizes[len(parts)][2]
        level = values[..., start : start + rows * columns * shapes]
        level = level.reshape(*values.shape[:-1], rows, columns, shapes)
        level = np.roll(level, (dy // stride, dx // stride), axis=(-3, -2))
        parts.append(level.reshape(*values.shape[:-1], -1))
        start += rows * columns * shapes
    return np.concatenate(parts, axis=-1)


def test_moving_objects_by_a_stride_moves_their_anchors(assigner, answer):
    dx, dy = 32, -32  # a stride of the coarsest level is whole cells of every level
    moved = SCENES.replace(boxes=SCENES.boxes + np.float32([dx, dy, dx, dy]))
    got = assigner(moved, likelihood=rolled(random_likelihood(len(SCENES.valid)), dx, dy))
    of_anchors = {name: rolled(getattr(answer, name), dx, dy) for name in OF_ANCHORS}
    assert_same(got, answer.replace(**of_anchors))


def test_invalid_anchors_are_as_if_they_were_not_there(assigner):
    # The left part of the pyramid; to the right, anchors that would suit every object.
    boxes = np.asarray(ANCHORS.boxes)
    left = boxes[:, ::2].mean(axis=1) < 150
    valid = np.broadcast_to(left, (len(SCENES.valid), COUNT))
    want = assigner(SCENES, valid=valid)
    assert want.positive[HAVE_OBJECTS].any(axis=1).all()
    tempting = np.where(left[:, None], boxes, np.float32([120, 100, 170, 150]))
    likelihood = np.where(left, random_likelihood(len(SCENES.valid)), 0.0)
    assert_same(assigner(SCENES, boxes=tempting, valid=valid, likelihood=likelihood), want)


def test_crowd_regions_get_no_anchors(assigner):
    crowds = SCENES.replace(crowd=SCENES.valid)
    assert not assigner(crowds).positive.any()


DEGENERATE = {
    "zero width": [100, 60, 100, 90],
    "zero height": [30, 60, 90, 60],
    "a point": [128, 128, 128, 128],
    "turned": [90, 90, 60, 60],
    "outside": [-300, -300, -250, -260],
    "beyond": [1e6, 1e6, 1.1e6, 1.1e6],
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_objects_are_harmless(assigner, answer, name):
    # Slot by slot: the first empty slot of every image becomes a valid degenerate object.
    first = np.argmin(SCENES.valid, axis=1)
    here = np.arange(SLOTS) == first[:, None]
    scenes = SCENES.replace(
        boxes=np.where(here[..., None], np.float32(DEGENERATE[name]), SCENES.boxes),
        valid=SCENES.valid | here,
    )
    got = assigner(scenes)  # well-formed
    for image in range(len(first)):
        before = set(answer.gt[image][answer.positive[image]].tolist())
        after = set(got.gt[image][got.positive[image]].tolist())
        assert before <= after, "other objects keep anchors"


def test_same_one_by_one_on_two_devices_and_without_jit(assigner, answer):
    # One image per device, without vmap: two comparisons for one compilation.
    inputs = arguments(SCENES)
    mapped = jax.pmap(assigner.one, devices=jax.local_devices()[:2])
    for pair in range(0, len(SCENES.valid), 2):
        rows = slice(pair, pair + 2)
        assert_same(mapped(*contracts.row(inputs, rows)), contracts.row(answer, rows))
    crowded = jax.tree.map(jnp.asarray, contracts.row(inputs, 4))
    assert_same(assigner.one(*crowded), contracts.row(answer, 4))


def test_the_number_of_objects_never_retraces(assigner):
    inputs = arguments(SCENES)
    fresh = jax.jit(lambda *leaves: assigner.one(*leaves))
    before = assigner.traces
    for image in range(len(SCENES.valid)):
        fresh(*contracts.row(inputs, image))
    assert assigner.traces == before + 1


def test_gradients_around_an_assignment_are_finite(assigner):
    # As an objective does it: predictions choose the anchors, and what is chosen is differentiated.
    rubbish = contracts.with_rubbish(SCENES, "nan")
    boxes, valid, _, likelihood = arguments(rubbish)

    def loss(boxes, likelihood):
        def one(boxes, valid, targets, likelihood):
            inputs = jax.lax.stop_gradient((boxes, valid, targets, likelihood))
            found = jax.lax.stop_gradient(assigner.one(*inputs))
            chosen = jnp.where(found.positive, found.gt, 0)
            taken = jnp.take_along_axis(likelihood, chosen[None], axis=0)[0]
            return jnp.where(found.positive, taken + boxes.sum(axis=-1), 0.0).sum()

        return jax.vmap(one)(boxes, valid, rubbish, likelihood).sum()

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(boxes, likelihood)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in gradients)
