"""A first run: RetinaNet with a small network on drawn shapes, minutes on two CPU cores.

The shapes are an easy draw of the built-in data (larger, brighter and less crowded than its
default), so that a few thousand steps are enough to see a detector work.
Read: configs/retinanet.py, then CONTRIBUTING.md.
Run: make train
"""

from ml_collections import ConfigDict

from configs import common, retinanet

EASY = {
    "objects": (1, 5),
    "min_size": 20.0,
    "max_aspect": 2.0,
    "crowding": 0.1,
    "occlusion": 0.2,
    "distractors": (0, 2),
    "low_contrast": 0.05,
    "blur": 0.5,
    "noise": 4.0,
}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: bench (default) or smoke."""
    config = retinanet.get_config(common.choose(arg, ("bench", "smoke"), "bench"))
    config.name = "quickstart"
    if config.scale == "bench":
        config.data = common.shapes_data(
            num_train=2000, num_validation=300, side=128, batch_size=8, **EASY
        )
        config.train.epochs = 4.5
        config.train.eval_every_epochs = 1.5
        config.train.ema_decay = 0.99
    return config
