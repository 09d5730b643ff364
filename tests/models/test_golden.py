"""Whole networks against torchvision and MMDetection, rebuilt from tensor names.

Through the importers and the parity configs that a user would use. Differences are recorded as
properties of the test, for the table of docs/parity.md.
"""

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import released, torch_names

from anchors_jax.models import layers, resnet, vgg
from anchors_jax.weights import families, fitting

if not (golden_cases.FOLDER / "index_models.json").exists():
    pytest.skip(f"no whole networks in {golden_cases.FOLDER}", allow_module_level=True)

CLASSIFIERS = {
    "torchvision_resnet50": {"depth": 50},
    "torchvision_resnet101": {"depth": 101},
    "torchvision_resnext50_32x4d": {"depth": 50, "groups": 32, "base_width": 4},
    "torchvision_resnext101_64x4d": {"depth": 101, "groups": 64, "base_width": 4},
}
QUICK = ("torchvision_resnet50", "mmdet_retinanet_r50")
TOLERANCE = 1e-4  # of each map's own magnitude
BOX, SCORE, UNMATCHED = 0.05, 1e-4, 0.01  # pixels; score; share of detections (near-ties swap)
TIED = 1e-6


def _marked(names):
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in names]


def _compare(pairs):
    """Largest difference over all (key, ours, reference), relative to each map's magnitude."""
    worst = 0.0
    for key, actual, expected in pairs:
        scale = np.abs(expected).max()
        assert actual.shape == expected.shape, key
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * scale, err_msg=key)
        worst = max(worst, float(np.abs(actual - expected).max() / scale))
    return worst


def _backbone(model, tensors, image):
    """Variables of a backbone from an ImageNet checkpoint."""
    start = jax.jit(model.init)(jax.random.key(0), image)
    nested = {kind: {"backbone": tree} for kind, tree in start.items()}
    fitted, _ = fitting.fit(tensors, families.recognise(tensors), nested)
    return {kind: tree["backbone"] for kind, tree in fitted.items()}


@pytest.mark.parametrize("network", _marked(CLASSIFIERS))
def test_backbone_gives_torchvision_logits(network, record_property):
    tensors, image = torch_names.state(network), torch_names.normal_input(network)
    model = resnet.ResNet(**CLASSIFIERS[network])
    variables = _backbone(model, tensors, image)
    features = jax.jit(model.apply)(variables, jnp.asarray(image))[-1]
    logits = np.asarray(features).mean((1, 2)) @ tensors["fc.weight"].T + tensors["fc.bias"]
    expected = torch_names.arrays(network)["logits"]
    record_property("outputs", _compare([(network, logits, expected)]))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["torchvision_vgg16"])
def test_vgg16_gives_torchvision_logits(network, record_property):
    """The thirteen convolutions; the last pooling and the classifier are computed here."""
    tensors, image = torch_names.state(network), torch_names.normal_input(network)
    model = vgg.VGG16()
    variables = _backbone(model, tensors, image)
    np.testing.assert_array_equal(  # fc6: every third tap of every fourth unit
        variables["params"]["fc6"]["kernel"][1, 2],
        tensors["classifier.0.weight"].reshape(4096, 512, 7, 7)[::4, :, 3, 6].T,
    )
    _, state = jax.jit(
        lambda v, x: model.apply(
            v, x, capture_intermediates=lambda m, _: m.name == "conv5_3", mutable=["intermediates"]
        )
    )(variables, jnp.asarray(image))
    (x,) = state["intermediates"]["conv5_3"]["__call__"]
    x = np.asarray(layers.max_pool(jax.nn.relu(x), size=2, stride=2))[0]
    # Adaptive average to 7 x 7: window i covers rows floor(i H / 7) .. ceil((i + 1) H / 7).
    bounds = [[(i * n // 7, -(-(i + 1) * n // 7)) for i in range(7)] for n in x.shape[:2]]
    x = np.array([[x[a:b, c:d].mean((0, 1)) for c, d in bounds[1]] for a, b in bounds[0]])
    x = x.transpose(2, 0, 1).reshape(-1)
    for layer in (0, 3, 6):
        x = tensors[f"classifier.{layer}.weight"] @ x + tensors[f"classifier.{layer}.bias"]
        x = np.maximum(x, 0) if layer < 6 else x
    expected = torch_names.arrays(network)["logits"]
    record_property("outputs", _compare([(network, x[None], expected)]))


@pytest.mark.parametrize("network", _marked(released.CONFIGS))
def test_detector_gives_the_reference(network, record_property):
    """Every feature map and raw output, and the detections as a set."""
    (image, inside, candidates, found), model, arrays = released.run(network)
    if network.startswith("mmdet"):
        pairs = released.mmdet_pairs(network, inside, model, arrays)
    else:
        pairs = released.torchvision_pairs(network, image, inside, arrays)
    heads = [pair for pair in pairs if pair[0].startswith("head")]
    record_property("features", _compare([p for p in pairs if not p[0].startswith("head")]))
    record_property("outputs", _compare(heads))
    if "boxes" not in arrays:  # MMDetection 3.3.0 cannot run SSD's inference
        return
    theirs = [arrays[k] for k in ("boxes", "scores", "labels")]
    if np.ptp(theirs[1]) < TIED:  # all at 1: which of the many are kept, and suppress, is chance
        record_property("tied", True)
        ours = _candidates(candidates, theirs[1].min() - SCORE)
        unmatched, box, score = _as_sets(ours, theirs, subset=True)
    else:
        unmatched, box, score = _as_sets(_detections(network, found), theirs)
    record_property("boxes", box)
    record_property("scores", score)
    record_property("unmatched", unmatched)
    assert unmatched <= UNMATCHED


def _candidates(candidates, least):
    """Boxes, scores and labels of all that could have been detected."""
    scores = np.asarray(candidates.scores[0])
    anchor, label = np.nonzero(scores >= least)
    return np.asarray(candidates.boxes[0])[anchor], scores[anchor, label], label


def _detections(network, found):
    """Boxes, scores and labels as the reference gives them: original pixels, its class numbers."""
    used = np.asarray(found.valid[0])
    boxes, labels = np.asarray(found.boxes[0])[used], np.asarray(found.labels[0])[used]
    if network.startswith("torchvision"):
        height, width = torch_names.index(network)["input_hw"]
        rows, columns = released.resized_size(network, (height, width))
        boxes = boxes * np.tile(np.float32([width / columns, height / rows]), 2)
        labels = labels + (network == "torchvision_ssd300")
    return boxes, np.asarray(found.scores[0])[used], labels


def _as_sets(ours, theirs, *, subset=False):
    """Share of detections without a counterpart; largest difference of boxes and scores in pairs.

    A counterpart has the same class, and box and score within the tolerances. `subset`: ours may
    be more.
    """
    boxes, scores, labels = ours
    free = np.ones(len(scores), bool)
    box_worst, score_worst, missed = 0.0, 0.0, 0
    for box, score, label in zip(*theirs, strict=True):
        distance = np.abs(boxes - box).max(axis=1)
        fits = free & (labels == label) & (distance <= BOX) & (np.abs(scores - score) <= SCORE)
        if not fits.any():
            missed += 1
            continue
        best = np.flatnonzero(fits)[np.argmin(distance[fits])]
        free[best] = False
        box_worst = max(box_worst, float(distance[best]))
        score_worst = max(score_worst, float(abs(scores[best] - score)))
    count = max(len(theirs[1]), 1)
    extra = 0 if subset else int(free.sum())
    return max(missed, extra) / count, box_worst, score_worst
