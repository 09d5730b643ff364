"""Released networks rebuilt from tensor names alone (see golden/MODELS.md)."""

import json
import zlib
from typing import Any

import golden_cases
import numpy as np


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


def normal_input(name: str) -> np.ndarray:
    """The input of MMDetection's and of the classification networks, [1, H, W, 3]."""
    entry = index(name)
    rng = np.random.default_rng(7 + entry["seed"])
    return rng.standard_normal((*entry["input_hw"], 3)).astype(np.float32)[None]


def uniform_input(name: str) -> np.ndarray:
    """The input of torchvision's detectors in 0..1, [H, W, 3]."""
    entry = index(name)
    rng = np.random.default_rng(7 + entry["seed"])
    return rng.uniform(0, 1, (*entry["input_hw"], 3)).astype(np.float32)
