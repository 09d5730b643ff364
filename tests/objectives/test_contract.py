"""What holds for every objective, in the setting of every config: a new method is covered as it is.

Objectives come from the configs at smoke scale, with the anchors and the kind of predictions that
their networks have there; configs that agree in these are tried once.
"""

import functools
import importlib
import json
import pathlib

import contracts
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import objectives as package
from anchors_jax import spec

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
CANVAS = (64, 96)
CLASSES = 5
SLOTS = 6


def records():
    """{config name: detector record} without repetitions."""
    found = {}
    for path in sorted(CONFIGS.glob("*.py")):
        module = importlib.import_module(f"configs.{path.stem}")
        if not hasattr(module, "get_config") or path.stem == "parity":
            continue  # released checkpoints come in their own size only
        config = module.get_config("smoke")
        config.num_classes = CLASSES
        detector = spec.plain(config.detector)
        parts = {key: detector.get(key) for key in ("objective", "anchors", "model")}
        if parts not in found.values():
            found[path.stem] = parts
    return found


RECORDS = records()


class Subject:
    """One config's objective over N images at once: compiled once, used by most tests."""

    def __init__(self, record):
        self.objective = spec.build(record["objective"])
        # Hard negatives are taken in proportion to positives (SSD): no objects, no negatives.
        select = record["objective"].get("select", {}).get(spec.BIND, "")
        self.mines = select.endswith(":hard_negatives")
        model = spec.build(record["model"])
        image = jax.ShapeDtypeStruct((1, *CANVAS, 3), jnp.float32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), image)
        self.shapes = jax.eval_shape(functools.partial(model.apply, train=False), shapes, image)
        self.anchors = spec.build(record["anchors"])(maps=self.shapes.maps, canvas=CANVAS)
        self.valid = jax.vmap(functools.partial(make.inside, self.anchors))(jnp.asarray(SIZES))
        self.traces = 0
        self.losses = jax.jit(jax.vmap(self.loss_and_gradient))
        self.candidates = jax.jit(jax.vmap(self.decode))

    def random(self, seed=0, *, scale=1.0):
        """Predictions of N images."""
        random = np.random.default_rng(seed)

        def leaf(shape):
            values = random.normal(size=(len(SIZES), *shape.shape[1:])) * scale
            return values.astype(shape.dtype)

        return jax.tree.map(leaf, self.shapes)

    def loss_and_gradient(self, predictions, valid, targets):
        """(terms, statistics) of one image, and the gradient of the sum of its terms."""
        self.traces += 1  # runs only while tracing

        def total(predictions):
            result = self.objective.loss(predictions, self.anchors.replace(valid=valid), targets)
            return sum(term.total for term in result[0].values()), result

        gradients, result = jax.grad(total, has_aux=True)(predictions)
        return result, gradients

    def decode(self, predictions, valid, size):
        """Candidates of one image."""
        return self.objective.decode(predictions, self.anchors.replace(valid=valid), size)

    def masked(self, predictions, change):
        """Predictions with `change` added where neither anchor nor cell is valid."""

        def leaf(values):
            silent = ~self.members(values.shape[1])
            return np.where(
                np.expand_dims(silent, tuple(range(2, values.ndim))), values + change, values
            )

        return jax.tree.map(leaf, predictions)

    def members(self, count):
        """Validity [N, count] of the anchors, or of the cells they stand on."""
        if count == len(self.anchors.boxes):
            return np.asarray(self.valid)
        cells = np.zeros((len(SIZES), int(self.anchors.cell.max()) + 1), bool)
        for image, valid in enumerate(np.asarray(self.valid)):
            cells[image, np.asarray(self.anchors.cell)[valid]] = True
        assert count == cells.shape[1], "a prediction belongs to an anchor or to a cell"
        return cells


# Whole images, one of half the canvas in each direction, one that pads a batch.
SIZES = np.array([[64, 96], [64, 96], [32, 96], [60, 40], [64, 96], [0, 0]], np.int32)


def scenes():
    """Objects of six images: three, none, two (one without area), crowds, six, none."""
    order = np.random.default_rng(2).permutation(SLOTS)
    targets = functools.partial(contracts.targets, slots=SLOTS)
    # Nothing of equal size or distance: nothing ties.
    many = [[x, y, x + 17 + n, y + 10 + x / 8] for n, x in enumerate((3, 36, 67)) for y in (7, 40)]
    return contracts.stack(
        targets([[4, 6, 30, 40], [50, 10, 90, 50], [20, 30, 52, 60]], order=order),
        targets([]),
        targets([[30, 4, 60, 30], [70, 5, 70, 25]]),
        targets([[0, 0, 40, 30], [5, 30, 30, 58]], crowd=(0,), order=order),
        targets(many),
        targets([]),
    )


SCENES = scenes()
EMPTY = ~(SCENES.valid & ~SCENES.crowd).any(axis=1)


@pytest.fixture(scope="module", params=RECORDS)
def subject(request):
    if None in RECORDS[request.param].values():
        pytest.skip(f"configs/{request.param}.py has no objective over a grid of anchors")
    return Subject(RECORDS[request.param])


@pytest.fixture(scope="module")
def answer(subject):
    """((terms, statistics), gradients) of random predictions."""
    return subject.losses(subject.random(), subject.valid, SCENES)


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def assert_close(got, want, rtol=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max()),
        got,
        want,
    )


def assert_finite(tree):
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def test_every_objective_has_a_config():
    named = json.dumps(RECORDS)
    missing = [m for m in contracts.public(package, "objective") if f"objectives.{m}:" not in named]
    assert not missing, f"no config uses objectives/{missing}: nothing tests their contract"


def test_terms_and_gradients_are_finite(subject, answer):
    assert_finite(answer)
    (terms, statistics), gradients = answer
    assert terms
    for name, term in terms.items():
        assert term.total.shape == term.count.shape == (len(SIZES),), name
        assert term.total.dtype == term.count.dtype == jnp.float32, name
        assert (np.asarray(term.count) >= 0).all(), name
    assert all(value.shape == (len(SIZES),) for value in statistics.values())
    # Everything that the network says is trained somewhere.
    assert all(np.abs(leaf[~EMPTY]).max() > 0 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("scale", [0.0, 30.0])
def test_indifferent_and_extreme_predictions_are_finite(subject, scale):
    assert_finite(subject.losses(subject.random(1, scale=scale), subject.valid, SCENES))


@pytest.mark.parametrize("kind", contracts.RUBBISH)
def test_padding_does_not_matter(subject, answer, kind):
    rubbish = contracts.with_rubbish(SCENES, kind)
    assert_same(subject.losses(subject.random(), subject.valid, rubbish), answer)


def test_the_order_of_objects_does_not_matter(subject, answer):
    order = np.random.default_rng(5).permutation(SLOTS)
    scenes = jax.tree.map(lambda leaf: leaf[:, order], SCENES)
    assert_close(subject.losses(subject.random(), subject.valid, scenes), answer)


def test_images_without_objects_teach_no_boxes(subject, answer):
    (terms, _), gradients = answer
    background = sum(np.asarray(term.total)[1] for term in terms.values())
    assert (background == 0) if subject.mines else (background > 0)
    for name in ("codes", "shape_codes"):
        if hasattr(gradients, name):
            assert not np.asarray(getattr(gradients, name))[EMPTY].any()


def test_an_image_of_no_size_teaches_nothing(answer):
    (terms, _), gradients = answer
    assert not any(np.asarray(term.total)[-1] for term in terms.values())
    assert not any(np.asarray(leaf)[-1].any() for leaf in jax.tree.leaves(gradients))


def test_invalid_anchors_have_no_say(subject, answer):
    (result, gradients), predictions = answer, subject.random()
    for leaf in jax.tree.leaves(gradients):
        assert not np.asarray(leaf)[~subject.members(leaf.shape[1])].any()
    changed = subject.masked(predictions, 7.0)
    assert any(
        (a != b).any()
        for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(predictions), strict=True)
    )
    assert_same(subject.losses(changed, subject.valid, SCENES)[0], result)


def test_same_one_by_one_and_on_two_devices(subject, answer):
    # One image per device, without vmap: two comparisons for one compilation.
    mapped = jax.pmap(subject.loss_and_gradient, devices=jax.local_devices()[:2])
    inputs = (subject.random(), subject.valid, SCENES)
    for pair in range(0, len(SIZES), 2):
        rows = slice(pair, pair + 2)
        got = mapped(*contracts.row(inputs, rows))
        assert_close(got, contracts.row(answer, rows))


def test_the_number_of_objects_never_retraces(subject, answer):
    del answer  # compiled by now
    before = subject.traces
    emptied = SCENES.replace(valid=np.zeros_like(SCENES.valid))
    subject.losses(subject.random(2), subject.valid, emptied)
    subject.losses(subject.random(2), subject.valid, SCENES.replace(crowd=SCENES.valid))
    assert subject.traces == before


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_candidates_are_boxes_in_the_image(subject, scale):
    found = subject.candidates(subject.random(3, scale=scale), subject.valid, SIZES)
    count = found.boxes.shape[1]
    assert found.boxes.dtype == jnp.float32
    assert found.boxes.shape == (len(SIZES), count, 4)
    assert found.scores.shape == (len(SIZES), count, CLASSES)
    assert found.shape.shape == (len(SIZES), count)
    assert sum(found.level_counts) == count
    assert_finite(found)
    boxes, scores = np.asarray(found.boxes), np.asarray(found.scores)
    limits = np.tile(SIZES[:, ::-1], 2)[:, None]
    assert ((boxes >= 0) & (boxes <= limits)).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    if count == len(subject.anchors.boxes):
        assert not scores[~np.asarray(subject.valid)].any()
    assert not scores[-1].any(), "an image of no size has no detections"
