"""A first run: RetinaNet with a small network on drawn shapes, minutes on two CPU cores.

It is `configs/retinanet.py:bench` under a name of its own.
Read: configs/retinanet.py, then CONTRIBUTING.md.
Run: make train
"""

from ml_collections import ConfigDict

from configs import common, retinanet


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: bench (default) or smoke."""
    config = retinanet.get_config(common.choose(arg, ("bench", "smoke"), "bench"))
    config.name = "quickstart"
    return config
