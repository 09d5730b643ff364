"""RetinaNet on your own data in COCO layout: COCO 2017 itself, or a small sample of it.

Run: python -m anchors_jax train --config=configs/coco.py --config.data.root=DIR --workdir=runs/coco
Variants: paper (default; DIR has annotations/instances_{train,val}2017.json and {train,val}2017/);
coco128 (the first 128 training images, trained on and evaluated on: a check, not a result);
overfit16 (16 of those); smoke.
For other data: set --config.data.{train,eval}.{annotations,images} and --config.num_classes.
"""

from ml_collections import ConfigDict

from anchors_jax.data import coco
from anchors_jax.spec import make
from configs import common, retinanet

SMALL = ("coco128", "overfit16", "smoke")


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: paper (default), coco128, overfit16 or smoke."""
    variant = common.choose(arg, ("paper", *SMALL), "paper")
    scale = {"coco128": "bench", "overfit16": "bench"}.get(variant, variant)
    config = retinanet.get_config(scale)
    config.name = f"coco_{variant}"
    config.num_classes = 80
    if variant == "paper":
        config.data = common.coco_2017()
    else:
        config.data = common.data_block(
            train=ConfigDict(),
            evaluation=ConfigDict(),
            canvases=((256, 320), (320, 256)),
            batch_size=8 if scale == "bench" else 2,
            eval_batch_size=8,
            short_side=256,
            long_side=320,
        )
    config.data.root = "data/coco"
    root = config.data.get_ref("root")
    for split in ("train", "eval"):
        name = "val2017" if (split, variant) == ("eval", "paper") else "train2017"
        config.data[split] = make(
            coco.coco,
            annotations=root + f"/annotations/instances_{name}.json",
            images=root + f"/{name}",
        )
        if variant == "overfit16":
            config.data[split].limit = 16
    if scale == "bench":
        config.train = common.schedule_bench(epochs=200 if variant == "overfit16" else 50)
        config.train.eval_every_epochs = 50.0 if variant == "overfit16" else 10.0
        config.train.checkpoint_every_epochs = config.train.eval_every_epochs
    if variant == "overfit16":  # the images as they are: this is to be overfit
        config.data.train_transforms = config.data.eval_transforms
    return config
