"""Any method from scratch on real photographs in VOC layout: blood cells (BCCD, 3 classes).

Data: BCCD (MIT licence), 364 photographs of 640x480 in Pascal VOC layout: Annotations/,
JPEGImages/, ImageSets/Main/. Trained on trainval, evaluated on test.
Measured, RetinaNet: AP 56.1, AP50 89.6 after 30 epochs, 13 minutes on two CPU cores.
Run: python -m anchors_jax train --config=configs/bccd.py --config.data.root=DIR --workdir=runs/bccd
Variants: those of configs/voc.py: bench (default, RetinaNet), bench_atss, smoke_paa and so on.
"""

from ml_collections import ConfigDict

from configs import voc

CLASSES = ("RBC", "WBC", "Platelets")


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: bench (default) or smoke, alone or with the name of a method."""
    config = voc.get_config(arg)
    config.name = config.name.replace("voc", "bccd")
    config.num_classes = len(CLASSES)
    config.data.canvases = ((240, 320),)  # all photographs are landscape
    config.data.root = "data/bccd"
    for split in ("train", "eval"):
        config.data[split].classes = CLASSES
    return config
