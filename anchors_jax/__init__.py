"""anchors_jax: research on anchors in object detection, in JAX.

The layout is by mechanism; the papers live in `configs/` and `experiments/`. `CONTRIBUTING.md`
shows the layers and how a new method plugs in.
"""

__version__ = "0.1.0"
