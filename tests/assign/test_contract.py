"""What holds for every assigner: found by walking the package, so a new one is covered as it is.

An assigner is a public `assign(anchors, targets)` of a module in `anchors_jax.assign`; it may ask
for `predicted` and `step`, and whatever else it takes has a default. It is run as objectives run
it: through the frame.
"""

import functools

import contracts
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import assign as package
from anchors_jax.assign import frame
from anchors_jax.types import Assignment, Predicted

STRIDES = (8, 16, 32)
MAPS = ((32, 40), (16, 20), (8, 10))
CANVAS = (256, 320)
SLOTS = 8
CLASSES = 3
GIVEN = {"anchors", "targets", "predicted", "step"}  # what the frame hands over
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
        self.batched = jax.jit(jax.vmap(self.one))

    def one(self, boxes, valid, targets, moves, logits):
        """One image, arrays only; predicted boxes are the anchors, moved."""
        self.traces += 1  # runs only while tracing
        anchors = ANCHORS.replace(boxes=boxes, valid=valid)
        predicted = Predicted(boxes=boxes + moves, logits=logits)
        return frame.assigned(self.function, anchors, targets, predicted)

    def __call__(self, scenes, *, boxes=None, valid=None, predictions=None) -> Assignment:
        """Assignments of N scenes as numpy arrays, checked for what must hold of each."""
        inputs = arguments(scenes, boxes=boxes, valid=valid, predictions=predictions)
        result = jax.tree.map(np.asarray, self.batched(*inputs))
        check(result, scenes, inputs[1])
        return result


def arguments(scenes, *, boxes=None, valid=None, predictions=None):
    """Inputs of `Assigner.one` for N scenes."""
    count = len(scenes.valid)
    boxes = np.asarray(ANCHORS.boxes) if boxes is None else boxes
    valid = np.ones((count, COUNT), bool) if valid is None else valid
    predictions = random_predictions(count) if predictions is None else predictions
    return np.broadcast_to(boxes, (count, COUNT, 4)), valid, scenes, *predictions


@functools.cache
def random_predictions(count):
    """Moves [N, A, 4] on quarters of a pixel, and logits [N, A, K]."""
    random = np.random.default_rng(3)
    moves = np.round(random.uniform(-3, 3, (count, COUNT, 4)) * 4) / 4
    logits = random.normal(-2.0, 2.0, (count, COUNT, CLASSES))
    return moves.astype(np.float32), logits.astype(np.float32)


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


@pytest.mark.parametrize("name", ASSIGNERS)
def test_an_assigner_asks_for_what_there_is(name):
    asked = contracts.required(ASSIGNERS[name])
    assert asked[:2] == ("anchors", "targets")
    assert set(asked) <= GIVEN, f"assign/{name}.py asks for {set(asked) - GIVEN}"


def test_objects_get_anchors_and_empty_images_none(answer):
    np.testing.assert_array_equal(answer.positive.any(axis=1), HAVE_OBJECTS)


@pytest.mark.parametrize("kind", contracts.RUBBISH)
def test_padding_does_not_matter(assigner, answer, kind):
    assert_same(assigner(contracts.with_rubbish(SCENES, kind)), answer)


def test_permuting_objects_permutes_the_answer(assigner, answer):
    order = np.random.default_rng(7).permutation(SLOTS)
    scenes = jax.tree.map(lambda leaf: leaf[:, order], SCENES)
    got = assigner(scenes)
    np.testing.assert_array_equal(got.ignored, answer.ignored)
    np.testing.assert_array_equal(got.positive, answer.positive)
    np.testing.assert_array_equal(np.where(got.positive, order[got.gt], 0), answer.gt)


def test_moving_everything_changes_nothing(assigner, answer):
    shift = np.float32([64, -32, 64, -32])
    moved = SCENES.replace(boxes=SCENES.boxes + shift)
    assert_same(assigner(moved, boxes=np.asarray(ANCHORS.boxes) + shift), answer)


def rolled(values, dx, dy):
    """[N, A, ...] moved along each level's map by (dx, dy) pixels."""
    parts, start = [], 0
    for (rows, columns), stride in zip(MAPS, STRIDES, strict=True):
        shapes = ANCHORS.level_sizes[len(parts)][2]
        level = values[:, start : start + rows * columns * shapes]
        level = level.reshape(len(values), rows, columns, shapes, *values.shape[2:])
        level = np.roll(level, (dy // stride, dx // stride), axis=(1, 2))
        parts.append(level.reshape(len(values), -1, *values.shape[2:]))
        start += rows * columns * shapes
    return np.concatenate(parts, axis=1)


def test_moving_objects_by_a_stride_moves_their_anchors(assigner, answer):
    dx, dy = 32, -32  # a stride of the coarsest level is whole cells of every level
    moved = SCENES.replace(boxes=SCENES.boxes + np.float32([dx, dy, dx, dy]))
    predictions = random_predictions(len(SCENES.valid))
    got = assigner(moved, predictions=[rolled(values, dx, dy) for values in predictions])
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
    moves, logits = random_predictions(len(SCENES.valid))
    sure = np.where(left[:, None], logits, 9.0)
    got = assigner(SCENES, boxes=tempting, valid=valid, predictions=(moves, sure))
    assert_same(got, want)


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
    boxes, valid, _, moves, logits = arguments(rubbish)

    def loss(moves, logits):
        def one(boxes, valid, targets, moves, logits):
            found = assigner.one(boxes, valid, targets, moves, logits)
            return jnp.where(found.positive, moves.sum(axis=-1) + logits.sum(axis=-1), 0.0).sum()

        return jax.vmap(one)(boxes, valid, rubbish, moves, logits).sum()

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(moves, logits)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in gradients)
