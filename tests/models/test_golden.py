"""Whole networks against torchvision and MMDetection, rebuilt from tensor names."""

import re

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import torch_names

from anchors_jax.models import dense, dense_head, fpn, norms, resnet

if not (golden_cases.FOLDER / "index_models.json").exists():
    pytest.skip(f"no whole networks in {golden_cases.FOLDER}", allow_module_level=True)

CLASSIFIERS = {
    "torchvision_resnet50": {"depth": 50},
    "torchvision_resnet101": {"depth": 101},
    "torchvision_resnext50_32x4d": {"depth": 50, "groups": 32, "base_width": 4},
    "torchvision_resnext101_64x4d": {"depth": 101, "groups": 64, "base_width": 4},
}
GROUP_HEAD = {"shapes_per_cell": 1, "norm": norms.GroupNorm, "quality": "box", "level_scale": True}
X101 = {"depth": 101, "groups": 32, "base_width": 4}
P5 = {"extra_source": "P5"}
# name: backbone, neck, head
DETECTORS = {
    "mmdet_retinanet_r50": ({}, {}, {}),
    "mmdet_freeanchor_r50": ({}, {}, {}),
    "mmdet_freeanchor_x101": (X101, {}, {}),
    "mmdet_atss_r50": ({}, P5, GROUP_HEAD),
    "mmdet_paa_r50": ({}, P5, GROUP_HEAD),
}
QUICK = ("torchvision_resnet50", "mmdet_retinanet_r50")


def _marked(names):
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in names]


def _normal_input(entry):
    height, width = entry["input_hw"]
    rng = np.random.default_rng(7 + entry["seed"])
    return jnp.asarray(rng.standard_normal((height, width, 3)).astype(np.float32))[None]


def _check_tree(model, image, variables):
    """Every tensor has a place, every place a tensor, and the shapes agree."""
    expected = jax.eval_shape(model.init, jax.random.key(0), image)
    assert jax.tree.map(jnp.shape, expected) == jax.tree.map(jnp.shape, variables)


def _close(actual, expected, name, tolerance=1e-4):
    """Within `tolerance` of the map's own magnitude."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("name", _marked(CLASSIFIERS))
def test_backbone_gives_torchvision_logits(name):
    entry, tensors = torch_names.index(name), torch_names.state(name)
    weight, bias = tensors.pop("fc.weight"), tensors.pop("fc.bias")
    model = resnet.ResNet(**CLASSIFIERS[name])
    variables = torch_names.variables(tensors, torch_names.resnet_path)
    image = _normal_input(entry)
    _check_tree(model, image, variables)
    features = jax.jit(model.apply)(variables, image)[-1]
    logits = np.asarray(features).mean((1, 2)) @ weight.T + bias
    _close(logits, torch_names.arrays(name)["logits"], name)


def _detector(name):
    backbone, neck, head = DETECTORS[name]
    return dense.DenseDetector(
        backbone=resnet.ResNet(**backbone, outputs=(2, 3, 4, 5)),
        neck=fpn.FPN(**neck),
        head=dense_head.DenseHead(num_classes=80, **head),
    )


class _Parts(dense.DenseDetector):
    """The detector, showing its intermediate maps; C2 is looked at and not used."""

    def __call__(self, image):
        maps = self.backbone(image)
        pyramid = self.neck(maps[1:])
        return maps, pyramid, self.head(pyramid)


def _level_maps(values, maps, shapes_per_cell):
    """Anchor-major values [1, A, N] back to maps [1, H, W, S * N]."""
    values = values if values.ndim == 3 else values[..., None]
    ends = np.cumsum([rows * columns * shapes_per_cell for rows, columns in maps])
    levels = np.split(np.asarray(values), ends[:-1], axis=1)
    return [v.reshape(1, *size, -1) for v, size in zip(levels, maps, strict=True)]


@pytest.mark.parametrize("name", _marked(DETECTORS))
def test_detector_gives_mmdet_features_and_raw_outputs(name):
    entry, tensors = torch_names.index(name), torch_names.state(name)
    scales = [tensors.pop(k) for k in list(tensors) if k.startswith("bbox_head.scales.")]
    model = _detector(name)
    model = _Parts(backbone=model.backbone, neck=model.neck, head=model.head)
    path = torch_names.detector_path(torch_names.MMDET, "backbone.")
    variables = torch_names.variables(tensors, path)
    if scales:
        variables["params"]["head"]["level_scale"] = np.stack(scales)
    image = _normal_input(entry)
    _check_tree(model, image, variables)
    maps, pyramid, out = jax.jit(model.apply)(variables, image)
    outputs = [
        _level_maps(values, out.maps, model.head.shapes_per_cell)
        for values in (out.logits, out.codes, out.quality)
        if values is not None
    ]
    compared = 0
    for key, expected in torch_names.arrays(name).items():
        match = re.fullmatch(r"(backbone|neck|head_out(\d)_level)_?(\d)_every_(\d+)", key)
        if not match:
            continue  # final detections
        part, output, level, step = match[1], match[2], int(match[3]), int(match[4])
        sources = {"backbone": maps, "neck": pyramid}
        actual = (sources[part] if output is None else outputs[int(output)])[level]
        _close(np.asarray(actual)[:, ::step, ::step], expected, key)
        compared += 1
    assert compared == len(maps) + len(pyramid) + len(outputs) * len(pyramid)
