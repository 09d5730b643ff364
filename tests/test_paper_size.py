"""RetinaNet's loss and gradient at paper size: compiled, not run, to see what memory it takes.

Two images of 800 x 1344, 201,600 anchors, 80 classes, 100 slots for objects.
"""

import jax
import numpy as np

from benchmarks import dense as benchmark
from configs import retinanet


def test_memory_stays_below_one_overlap_matrix_per_image():
    function = benchmark.loss_and_gradient(retinanet.get_config("paper").detector)
    arguments = jax.eval_shape(lambda: benchmark.problem(100))
    anchors = arguments[0].logits.shape[1]
    assert anchors == 201_600
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    overlaps = benchmark.IMAGES * anchors * benchmark.SLOTS * np.dtype(np.float32).itemsize
    logits = benchmark.IMAGES * anchors * benchmark.CLASSES * np.dtype(np.float32).itemsize
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert total < overlaps + 2 * logits
    assert memory.temp_size_in_bytes < overlaps / 4  # no [A, G] matrix, and no second [A, K]
