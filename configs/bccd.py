"""RetinaNet from scratch on real photographs in VOC layout: blood cells (BCCD, 3 classes).

Data: BCCD (MIT licence), 364 photographs of 640x480 in Pascal VOC layout: Annotations/,
JPEGImages/, ImageSets/Main/. Trained on trainval, evaluated on test.
Run: python -m anchors_jax train --config=configs/bccd.py --config.data.root=DIR --workdir=runs/bccd
"""

from ml_collections import ConfigDict

from anchors_jax.data import voc
from anchors_jax.spec import make
from configs import common, retinanet

CLASSES = ("RBC", "WBC", "Platelets")


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: bench (default) or smoke."""
    config = retinanet.get_config(common.choose(arg, ("bench", "smoke"), "bench"))
    config.name = "bccd"
    config.num_classes = len(CLASSES)
    data = common.data_block(
        train=ConfigDict(),
        evaluation=ConfigDict(),
        canvases=((240, 320),),
        batch_size=8,
        eval_batch_size=8,
        max_objects=40,
        short_side=240,
        long_side=320,
        jitter=(0.6, 1.0),
    )
    data.root = "data/bccd"
    for name, split in (("train", "trainval"), ("eval", "test")):
        data[name] = make(voc.voc, root=data.get_ref("root"), split=split, classes=CLASSES)
    config.data = data
    if config.scale == "bench":
        config.train = common.schedule_bench(epochs=30)
        config.train.eval_every_epochs = 5.0
    config.evaluation.voc = True
    return config
