"""VGG16 and SSD300 against torchvision and MMDetection, rebuilt from tensor names."""

import re

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import torch_names

from anchors_jax.models import dense, ssd_head, ssd_neck, vgg

if not (golden_cases.FOLDER / "index_models.json").exists():
    pytest.skip(f"no whole networks in {golden_cases.FOLDER}", allow_module_level=True)

# Positions of the convolutions in torchvision's list of layers.
FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CONVS = [f"conv{b}_{i + 1}" for b, n in enumerate(vgg.CONVOLUTIONS, 1) for i in range(n)]
NAMES = {
    "features": {str(k): name for k, name in zip(FEATURES, CONVS, strict=True)}
    | {"31": "fc6", "33": "fc7"},
    # torchvision's SSD: the fifth block and the two layers after it are the first "extra".
    "extra": {"1": "conv5_1", "3": "conv5_2", "5": "conv5_3", "7.1": "fc6", "7.3": "fc7"},
}


def path(name):
    """Collection and path of a tensor of MMDetection's or torchvision's SSD."""
    if name in ("neck.l2_norm.weight", "backbone.scale_weight"):
        return "params", "neck", "l2_norm", "scale"
    module, leaf = name.rsplit(".", 1)
    rules = {
        r"backbone\.features\.(\d+)": lambda k: ("backbone", NAMES["features"][k]),
        r"backbone\.extra\.0\.([\d.]+)": lambda k: ("backbone", NAMES["extra"][k]),
        r"backbone\.extra\.(\d)\.(\d)": lambda i, j: (
            "neck",
            f"extra{int(i) - 1}_{int(j) // 2 + 1}",
        ),
        r"neck\.extra_layers\.(\d)\.(\d)\.conv": lambda i, j: ("neck", f"extra{i}_{int(j) + 1}"),
        r"bbox_head\.cls_convs\.(\d)\.0": lambda i: ("head", f"class{i}"),
        r"bbox_head\.reg_convs\.(\d)\.0": lambda i: ("head", f"box{i}"),
        r"head\.classification_head\.module_list\.(\d)": lambda i: ("head", f"class{i}"),
        r"head\.regression_head\.module_list\.(\d)": lambda i: ("head", f"box{i}"),
    }
    for pattern, ours in rules.items():
        match = re.fullmatch(pattern, module)
        if match:
            return ("params", *ours(*match.groups()), torch_names.CONV[leaf][1])
    raise KeyError(name)


def ssd300(num_classes):
    return dense.DenseDetector(
        backbone=vgg.VGG16(),
        neck=ssd_neck.SSDNeck(),
        head=ssd_head.SSDHead(num_classes=num_classes),
    )


class Parts(dense.DenseDetector):
    """The detector, showing its intermediate maps."""

    def __call__(self, image):
        maps = self.backbone(image)
        pyramid = self.neck(maps)
        return maps, pyramid, self.head(pyramid)


def run(name, image, num_classes):
    """Maps, pyramid and predictions of a reference network, with its own weights."""
    variables = torch_names.variables(torch_names.state(name), path)
    model = ssd300(num_classes)
    model = Parts(backbone=model.backbone, neck=model.neck, head=model.head)
    expected = jax.eval_shape(model.init, jax.random.key(0), image)
    assert jax.tree.map(jnp.shape, expected) == jax.tree.map(jnp.shape, variables)
    return jax.jit(model.apply)(variables, image)


def close(actual, expected, name, tolerance=1e-4):
    """Within `tolerance` of the map's own magnitude."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=name)


def test_ssd300_gives_mmdet_features_and_raw_outputs():
    name = "mmdet_ssd300_coco"
    entry = torch_names.index(name)
    rng = np.random.default_rng(7 + entry["seed"])
    size = (*entry["input_hw"], 3)
    image = jnp.asarray(rng.standard_normal(size).astype(np.float32))[None]
    maps, pyramid, out = run(name, image, 80)
    sources = {"backbone": maps, "neck": pyramid, "head_out0": [], "head_out1": []}
    ends = np.cumsum([n * r * c for n, (r, c) in zip((4, 6, 6, 6, 4, 4), out.maps, strict=True)])
    for key, values in (("head_out0", out.logits), ("head_out1", out.codes)):
        levels = np.split(np.asarray(values), ends[:-1], axis=1)
        sources[key] = [v.reshape(1, *m, -1) for v, m in zip(levels, out.maps, strict=True)]
    compared = 0
    for key, expected in torch_names.arrays(name).items():
        match = re.fullmatch(r"(backbone|neck|head_out\d)_(?:level)?(\d)_every_(\d+)", key)
        if match:
            level, step = int(match[2]), int(match[3])
            close(np.asarray(sources[match[1]][level])[:, ::step, ::step], expected, key)
            compared += 1
    assert compared == sum(map(len, sources.values()))


@pytest.mark.slow
def test_ssd300_gives_torchvision_features_and_raw_outputs():
    name = "torchvision_ssd300"
    entry, arrays = torch_names.index(name), torch_names.arrays(name)
    image = np.random.default_rng(7 + entry["seed"]).uniform(0, 1, (*entry["input_hw"], 3))
    # Its transform warps to 300 x 300 and multiplies by 255 less the mean.
    side = [int(n) for n in arrays["network_input_shape"][-2:]]
    mean = np.float32([0.48235, 0.45882, 0.40784])
    image = (image.astype(np.float32) - mean) / np.float32(1 / 255)
    image = jax.image.resize(jnp.asarray(image), (*side, 3), "linear", antialias=False)[None]
    for key, expected in arrays.items():
        if key.startswith("network_input_every_"):
            step = int(key.rsplit("_", 1)[1])
            close(image[:, ::step, ::step], expected, key)
    _, pyramid, out = run(name, image, 90)
    compared = 0
    for key, expected in arrays.items():
        match = re.fullmatch(r"feature_(\d)_every_(\d+)", key)
        if match:
            step = int(match[2])
            close(np.asarray(pyramid[int(match[1])])[:, ::step, ::step], expected, key)
        elif key.startswith("head_bbox_regression_every_"):
            close(out.codes[:, :: int(key.rsplit("_", 1)[1])], expected, key)
        elif key.startswith("head_cls_logits_every_"):
            # The same weights mean another class here: columns are taken as they are.
            close(out.logits[:, :: int(key.rsplit("_", 1)[1])], expected, key)
        else:
            continue
        compared += 1
    assert compared == len(pyramid) + 2


def test_vgg16_gives_torchvision_logits():
    """The thirteen convolutions; the last pooling and the classifier are computed here."""
    name = "torchvision_vgg16"
    entry, tensors = torch_names.index(name), torch_names.state(name)
    classifier = {k: tensors.pop(k) for k in list(tensors) if k.startswith("classifier.")}
    dense_shapes = {"fc6": (3, 3, 512, 1024), "fc7": (1, 1, 1024, 1024)}
    variables = torch_names.variables({f"backbone.{k}": v for k, v in tensors.items()}, path)
    for layer, shape in dense_shapes.items():
        zeros = {"kernel": np.zeros(shape, np.float32), "bias": np.zeros(shape[-1], np.float32)}
        variables["params"]["backbone"][layer] = zeros
    rng = np.random.default_rng(7 + entry["seed"])
    size = (*entry["input_hw"], 3)
    image = jnp.asarray(rng.standard_normal(size).astype(np.float32))[None]
    model = vgg.VGG16()
    _, state = jax.jit(
        lambda v, x: model.apply(
            v, x, capture_intermediates=lambda m, _: m.name == "conv5_3", mutable=["intermediates"]
        )
    )({"params": variables["params"]["backbone"]}, image)
    (x,) = state["intermediates"]["conv5_3"]["__call__"]
    x = np.asarray(vgg.max_pool(jax.nn.relu(x), size=2, stride=2))[0]
    # Adaptive average to 7 x 7: window i covers rows floor(i H / 7) .. ceil((i + 1) H / 7).
    bounds = [[(i * n // 7, -(-(i + 1) * n // 7)) for i in range(7)] for n in x.shape[:2]]
    x = np.array([[x[a:b, c:d].mean((0, 1)) for c, d in bounds[1]] for a, b in bounds[0]])
    x = x.transpose(2, 0, 1).reshape(-1)
    for layer in (0, 3, 6):
        x = classifier[f"classifier.{layer}.weight"] @ x + classifier[f"classifier.{layer}.bias"]
        x = np.maximum(x, 0) if layer < 6 else x
    close(x[None], torch_names.arrays(name)["logits"], name)
