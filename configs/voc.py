"""Any method from scratch on your own photographs in Pascal VOC layout.

Data: a folder with Annotations/*.xml, JPEGImages/ and ImageSets/Main/<split>.txt. Its classes are
those found in it, sorted; set --config.num_classes to their number, or choose and order them:
--config.data.train.classes="('cat','dog')" and the same for data.eval.
Run: python -m anchors_jax train --config=configs/voc.py --config.data.root=DIR
  --config.num_classes=K --workdir=runs/mine [--config.data.train.split=train] [...eval.split=val]
Variants: bench (default, RetinaNet), smoke; either with a method: bench_atss, smoke_fcos_improved.
"""

from ml_collections import ConfigDict

from anchors_jax.data import voc
from anchors_jax.spec import make
from configs import (
    atss,
    common,
    fcos,
    freeanchor,
    guided_anchoring,
    overanchorized,
    paa,
    retinanet,
    semi_anchored,
    semi_anchored_ssd,
    ssd,
)

# What builds each method's detector, and that config's own suffix.
METHODS = {
    "retinanet": (retinanet, ""),
    "fcos": (fcos, ""),
    "fcos_improved": (fcos, "_improved"),
    "atss": (atss, ""),
    "paa": (paa, ""),
    "freeanchor": (freeanchor, ""),
    "semi_anchored": (semi_anchored, ""),
    "guided_anchoring": (guided_anchoring, ""),
    "ssd": (ssd, ""),
    "semi_anchored_ssd": (semi_anchored_ssd, ""),
    "overanchorized": (overanchorized, ""),
}
VARIANTS = {
    f"{scale}_{name}": (scale, name) for scale in ("bench", "smoke") for name in METHODS
} | {scale: (scale, "retinanet") for scale in ("bench", "smoke")}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: bench (default) or smoke, alone or with the name of a method."""
    scale, method = VARIANTS[common.choose(arg, tuple(VARIANTS), "bench")]
    file, suffix = METHODS[method]
    config = file.get_config(scale + suffix)
    config.name = "voc" if method == "retinanet" else f"voc_{method}"
    config.num_classes = 20
    if file in (ssd, semi_anchored_ssd):
        ssd.for_photographs(config, side=280)
    config.data = common.data_block(
        train=ConfigDict(),
        evaluation=ConfigDict(),
        canvases=((240, 320), (320, 240)),
        batch_size=8,
        eval_batch_size=8,
        max_objects=40,
        short_side=240,
        long_side=320,
        jitter=(0.6, 1.0),
    )
    config.data.root = "data/voc"
    for name, split in (("train", "trainval"), ("eval", "test")):
        config.data[name] = make(voc.voc, root=config.data.get_ref("root"), split=split)
    if config.scale == "bench":
        config.train = common.schedule_bench(epochs=30)
        config.train.eval_every_epochs = 5.0
    config.evaluation.voc = True
    return config
