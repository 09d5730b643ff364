"""RetinaNet on any detection data set that TFDS has prepared (ArrayRecord), yours or COCO's.

Data: a folder with dataset_info.json and the splits train and validation; `python -m anchors_jax
prepare` writes one from COCO or VOC data. Set --config.num_classes to its number of classes.
Run: python -m anchors_jax train --config=configs/prepared.py:bench --config.data.root=DIR
  --config.num_classes=K --workdir=runs/mine
Variants: paper (default), bench, smoke.
"""

from ml_collections import ConfigDict

from anchors_jax.data import prepared
from anchors_jax.spec import make
from configs import common, retinanet


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale."""
    config = retinanet.get_config(arg)
    config.name = "prepared"
    if config.scale == "paper":
        config.data = common.coco_2017()
    else:
        config.data = common.data_block(
            train=ConfigDict(),
            evaluation=ConfigDict(),
            canvases=((256, 320), (320, 256)),
            batch_size=8 if config.scale == "bench" else 2,
            eval_batch_size=8,
            short_side=256,
            long_side=320,
        )
    config.data.root = "data/prepared"
    root = config.data.get_ref("root")
    config.data.train = make(prepared.prepared, directory=root, split="train")
    config.data.eval = make(prepared.prepared, directory=root, split="validation")
    return config
