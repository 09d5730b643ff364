"""Our variables as a plain file: one tensor per array, named by its path in the network.

`backbone.layer1_0.conv1.kernel`, in our layouts (HWIO), float32. Any of our training set-ups reads
such a file: which values are trained, frozen or constant is not part of it.
"""

import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

from anchors_jax import files
from anchors_jax.weights.reading import WeightsError


def tensors(variables: Any) -> dict[str, np.ndarray]:
    """Every array by its path without the collection."""
    flat = traverse_util.flatten_dict(variables)
    return {".".join(path[1:]): np.ascontiguousarray(value) for path, value in flat.items()}


def write(path: str | pathlib.Path, variables: Any, *, metadata: dict[str, str]) -> int:
    """Write `path` (.safetensors or .npz), atomically; returns the number of tensors.

    `metadata` (name of the config and the like) is kept in safetensors files.

    Raises:
      WeightsError: for another suffix.
    """
    path = pathlib.Path(path)
    found = tensors(variables)
    if path.suffix not in (".safetensors", ".npz"):
        raise WeightsError(f"{path}: weights are written to .safetensors or .npz files")
    with files.atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            safetensors.numpy.save_file(found, temporary, metadata=metadata)
        else:
            np.savez(temporary, **found)
    return len(found)
