"""Rebuild a released network's variables from its tensor names alone (see golden/MODELS.md).

`names_X.json` lists a state dict's names and shapes; `tensor` gives the agreed values; the two name
maps turn a PyTorch name into the collection and path of our modules.
"""

import json
import re
import zlib
from collections.abc import Callable
from typing import Any

import golden_cases
import numpy as np

NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("constants", "mean"),
    "running_var": ("constants", "var"),
}
CONV = {"weight": ("params", "kernel"), "bias": ("params", "bias")}

# mmdet's names of necks and heads; "{}" is a number that stays.
MMDET = {
    r"neck\.lateral_convs\.(\d)\.conv": "neck.lateral{}",
    r"neck\.fpn_convs\.([012])\.conv": "neck.output{}",
    r"neck\.fpn_convs\.3\.conv": "neck.extra0",
    r"neck\.fpn_convs\.4\.conv": "neck.extra1",
    r"bbox_head\.cls_convs\.(\d)\.conv": "head.class_tower.conv{}",
    r"bbox_head\.reg_convs\.(\d)\.conv": "head.box_tower.conv{}",
    r"bbox_head\.cls_convs\.(\d)\.gn": "head.class_tower.norm{}",
    r"bbox_head\.reg_convs\.(\d)\.gn": "head.box_tower.norm{}",
    r"bbox_head\.\w+_cls": "head.class_output",
    r"bbox_head\.\w+_reg": "head.box_output",
    r"bbox_head\.\w+_centerness": "head.quality_output",
}
TORCHVISION = {
    r"backbone\.fpn\.inner_blocks\.(\d)\.0": "neck.lateral{}",
    r"backbone\.fpn\.layer_blocks\.(\d)\.0": "neck.output{}",
    r"backbone\.fpn\.extra_blocks\.p6": "neck.extra0",
    r"backbone\.fpn\.extra_blocks\.p7": "neck.extra1",
    r"head\.classification_head\.conv\.(\d)\.0": "head.class_tower.conv{}",
    r"head\.regression_head\.conv\.(\d)\.0": "head.box_tower.conv{}",
    r"head\.classification_head\.cls_logits": "head.class_output",
    r"head\.regression_head\.bbox_reg": "head.box_output",
}


def index(name: str) -> dict[str, Any]:
    """The entry of a whole network in index_models.json."""
    return json.loads((golden_cases.FOLDER / "index_models.json").read_text())[name]


def arrays(name: str) -> dict[str, np.ndarray]:
    """The reference outputs of a whole network."""
    with np.load(golden_cases.FOLDER / f"model_{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def state(name: str) -> dict[str, np.ndarray]:
    """The state dict of a whole network."""
    names = json.loads((golden_cases.FOLDER / f"names_{name}.json").read_text())
    seed = index(name)["seed"]
    return {key: tensor(key, tuple(shape), seed) for key, shape in names.items()}


def tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The value agreed for a tensor of this name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + seed)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf in ("running_mean", "bias"):
        value = 0.1 * rng.standard_normal(shape)
    elif leaf == "weight" and len(shape) >= 2:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    else:
        value = rng.uniform(0.8, 1.2, shape)
    return np.asarray(value, np.float32)


def resnet_path(name: str) -> tuple[str, ...]:
    """Collection and path of a torchvision ResNet tensor, such as layer1.0.downsample.1.bias."""
    module, leaf = name.rsplit(".", 1)
    module = re.sub(r"^layer(\d)\.(\d+)\.", r"layer\1_\2.", module)
    module = module.replace("downsample.0", "downsample_conv")
    module = module.replace("downsample.1", "downsample_norm")
    module = re.sub(r"bn(\d)$", r"norm\1", module)
    collection, ours = (NORM if "norm" in module else CONV)[leaf]
    return (collection, *module.split("."), ours)


def detector_path(rules: dict[str, str], backbone: str) -> Callable[[str], tuple[str, ...]]:
    """The name map of a detector whose ResNet tensors start with `backbone`."""

    def path(name: str) -> tuple[str, ...]:
        module, leaf = name.rsplit(".", 1)
        for pattern, ours in rules.items():
            match = re.fullmatch(pattern, module)
            if match:
                parts = ours.format(*match.groups()).split(".")
                collection, last = (NORM if "norm" in parts[-1] else CONV)[leaf]
                return (collection, *parts, last)
        collection, *rest = resnet_path(name.removeprefix(backbone))
        return (collection, "backbone", *rest)

    return path


def variables(tensors: dict[str, np.ndarray], path: Callable[[str], tuple[str, ...]]) -> Any:
    """Nested variables with every tensor in its place, kernels as HWIO."""
    tree: dict[str, Any] = {}
    for name, value in tensors.items():
        *folders, leaf = path(name)
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        if leaf in node:
            raise ValueError(f"{name}: two tensors for {[*folders, leaf]}")
        node[leaf] = value.transpose(2, 3, 1, 0) if leaf == "kernel" else value
    return tree
