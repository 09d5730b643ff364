"""Reading a released detector: RetinaNet, ResNet-50, full size, random values (152 MB)."""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors.numpy

from anchors_jax import experiment
from anchors_jax.weights import export, load
from benchmarks import measure
from configs import parity

NAMES = pathlib.Path(__file__).parent.parent / "tests/golden/names_mmdet_retinanet_r50.json"


def importing() -> Iterator[dict[str, Any]]:
    """File to variables, and back to a file; `growth_mb` is what it adds to the process."""
    run = experiment.load(parity.get_config("mmdet_retinanet_r50"))
    shapes, parts = run.variable_shapes(), run.detector.parts.model.parts
    with tempfile.TemporaryDirectory() as folder:
        source, target = (pathlib.Path(folder) / f"{name}.safetensors" for name in ("in", "out"))
        # In a process of its own, or its arrays would count as memory of the reading.
        subprocess.run([sys.executable, "-m", "benchmarks.weights", source], check=True)
        before = measure.peak_mb()

        def read_it() -> Any:
            return load.load(source, shapes, parts=parts).variables

        read = measure.seconds(read_it, repeats=3, warmup=1)
        size = source.stat().st_size / 1e6
        growth = measure.peak_mb() - before
        yield {"name": "released RetinaNet R50 read", **read, "file_mb": size, "growth_mb": growth}
        variables = read_it()
        write = measure.seconds(
            lambda: export.write(target, variables, metadata={}), repeats=3, warmup=1
        )
        yield {"name": "RetinaNet R50 written", **write, "file_mb": size}


def write_checkpoint(path: str) -> None:
    """Random values under the names of MMDetection's file."""
    rng = np.random.default_rng(0)
    shapes = json.loads(NAMES.read_text())
    tensors = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, path)


if __name__ == "__main__":
    write_checkpoint(sys.argv[1])
