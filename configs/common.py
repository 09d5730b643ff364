"""Blocks that configs share, and the three scales at which every config runs.

paper  COCO 2017 at 800x1333 with the paper's schedule: needs accelerators and the data
bench  a small network on small images: minutes on a laptop
smoke  seconds, for tests: the numbers mean nothing
"""

import difflib

from ml_collections import ConfigDict, config_dict

from anchors_jax import codecs, losses, nms, optim, quality, selection
from anchors_jax.data import coco, shapes, transforms
from anchors_jax.models import dense_head, fpn, norms, one_stage, resnet
from anchors_jax.objectives import guided_anchoring, guided_locations, terms
from anchors_jax.spec import bind, make

SCALES = ("paper", "bench", "smoke")


def choose(arg: str, known: tuple[str, ...], default: str) -> str:
    """The variant after the colon of --config=FILE.py:VARIANT, checked against what there is."""
    word = arg or default
    if word not in known:
        close = difflib.get_close_matches(word, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"this config has no variant {word!r}; {hint}")
    return word


def base(scale: str) -> ConfigDict:
    """Everything but the detector: name, seed, data, training, evaluation."""
    config = ConfigDict({"name": "", "scale": scale, "seed": 0, "num_classes": 80})
    # Weights to begin with: a file, or "random"; family: recognised; parts of a detector's file.
    config.init_from = config_dict.placeholder(str)
    config.init_from_family = config_dict.placeholder(str)
    config.init_from_parts = "backbone,neck,head"
    config.compute_dtype = "float32"  # or bfloat16; parameters and boxes stay float32
    config.data = {"paper": coco_2017, "bench": shapes_bench, "smoke": shapes_smoke}[scale]()
    config.num_classes = 80 if scale == "paper" else 5
    config.train = schedule_1x() if scale == "paper" else schedule_bench()
    if scale == "smoke":
        config.train.update({"steps": 2, "log_every": 1})
    config.evaluation = ConfigDict(
        {
            "backend": "hotcoco",
            "max_detections": (1, 10, 100),  # per image and class, in the recalls; the last in AP
            "voc": False,
            "match_images": 32,
        }
    )
    return config


def schedule_1x() -> ConfigDict:
    """MMDetection's 1x: 12 epochs of 16 images, SGD 0.01, x0.1 after 8 and 11."""
    return ConfigDict(
        {
            "epochs": 12.0,
            "steps": 0,  # more than 0 overrides epochs
            "learning_rate": 0.01,
            "reference_batch": 16,
            "schedule": bind(optim.step_decay),
            "optimizer": bind(optim.sgd),
            "clip_norm": 35.0,  # None: no clipping
            "accumulate": 1,
            "decay_biases": True,
            "decay_norms": True,
            "ema_decay": 0.0,
            "normaliser_group": config_dict.placeholder(
                int
            ),  # 2: divide per GPU of two images, as MMDetection
            "log_every": 50,
            "checkpoint_every_epochs": 0.25,
            "eval_every_epochs": 1.0,
        }
    )


def schedule_90k() -> ConfigDict:
    """maskrcnn-benchmark's 1x, that of FCOS, ATSS and PAA: 90,000 steps of 16 images, SGD 0.01.

    x0.1 after 60,000 and 80,000 steps; a third of the rate for the first 500; twice the rate and no
    decay for biases (those of norms are decayed here); no clipping.
    """
    config = schedule_1x()
    config.steps = 90_000
    config.schedule = bind(
        optim.step_decay,
        milestones=(60 / 90, 80 / 90),
        warmup_factor=1 / 3,
        warmup="constant",
    )
    config.optimizer = bind(optim.sgd, bias_factor=2.0)
    config.decay_biases = False
    config.clip_norm = None
    return config


def schedule_bench(*, epochs: float = 5.0, learning_rate: float = 2e-3) -> ConfigDict:
    """AdamW and a cosine: small networks from scratch learn fastest with it."""
    config = schedule_1x()
    config.epochs = epochs
    config.learning_rate = learning_rate
    config.reference_batch = 8
    config.schedule = bind(optim.cosine, warmup_steps=100, warmup_factor=0.01)
    config.optimizer = bind(optim.adamw, weight_decay=0.05)
    config.decay_biases = False
    config.decay_norms = False
    config.clip_norm = 5.0
    config.ema_decay = 0.99
    config.log_every = 10
    config.checkpoint_every_epochs = 1.0
    config.eval_every_epochs = 1.0
    return config


def data_block(
    *,
    train: ConfigDict,
    evaluation: ConfigDict,
    canvases: tuple[tuple[int, int], ...],
    batch_size: int,
    eval_batch_size: int,
    max_objects: int = 100,
    workers: int = 0,
    keep_empty: bool = True,
    min_side: int = 0,
    short_side: int,
    long_side: int,
    jitter: tuple[float, float] | None = None,
) -> ConfigDict:
    """The data of a config. `jitter` shrinks training images at random to a share of the canvas."""
    resize = make(transforms.resize, short=short_side, long=long_side)
    first = resize
    if jitter is not None:
        first = make(transforms.scale_jitter, low=jitter[0], high=jitter[1])
    train_transforms = [first, make(transforms.horizontal_flip, p=0.5)]
    return ConfigDict(
        {
            "train": train,
            "eval": evaluation,
            "canvases": canvases,
            "train_transforms": train_transforms,
            "eval_transforms": [resize],
            "max_objects": max_objects,
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "workers": workers,
            "keep_empty": keep_empty,  # whether training takes images without objects
            "min_side": min_side,  # and those with a shorter side than this
            "class_agnostic": False,  # True: all objects are of one class
        }
    )


def coco_2017(root: str = "data/coco") -> ConfigDict:
    """COCO 2017 at short side 800, long side at most 1333, on two canvases."""

    def split(name: str) -> ConfigDict:
        return make(
            coco.coco,
            annotations=f"{root}/annotations/instances_{name}.json",
            images=f"{root}/{name}",
        )

    return data_block(
        train=split("train2017"),
        evaluation=split("val2017"),
        canvases=((800, 1344), (1344, 800)),
        batch_size=16,
        eval_batch_size=16,
        workers=8,
        keep_empty=False,  # MMDetection's rules: 117,266 of train2017's 118,287 images
        min_side=32,
        short_side=800,
        long_side=1333,
    )


def shapes_bench() -> ConfigDict:
    """Drawn objects at 128x128: larger, brighter and less crowded than the data's default.

    A few thousand steps then show what a method does; the default (AP50 below 0.4 after 10,000
    images at 160x160) is there to ask for more.
    """
    return shapes_data(
        num_train=2000,
        num_validation=300,
        side=128,
        batch_size=8,
        objects=(1, 5),
        min_size=20.0,
        max_aspect=2.0,
        crowding=0.1,
        occlusion=0.2,
        distractors=(0, 2),
        low_contrast=0.05,
        blur=0.5,
        noise=4.0,
    )


def shapes_smoke() -> ConfigDict:
    """A few tiny drawings."""
    return shapes_data(num_train=8, num_validation=3, side=64, batch_size=2)


def shapes_data(
    *, num_train: int, num_validation: int, side: int, batch_size: int, **style: object
) -> ConfigDict:
    """The data set `shapes`, drawn on first use; `style` are further keywords of it."""

    def split(name: str) -> ConfigDict:
        return make(
            shapes.shapes,
            split=name,
            num_train=num_train,
            num_validation=num_validation,
            image_size=side,
            **style,
        )

    return data_block(
        train=split("train"),
        evaluation=split("validation"),
        canvases=((side, side),),
        batch_size=batch_size,
        eval_batch_size=2 * batch_size,
        max_objects=20,
        short_side=side,
        long_side=side,
    )


def network(config: ConfigDict, *, shapes_per_cell: int = 9, **head: object) -> ConfigDict:
    """ResNet-FPN with a dense head, at the config's scale.

    paper: ResNet-50 with frozen batch norm, FPN and head of 256 channels. bench: ResNet-18 at half
    width, 64 channels, two convolutions per tower, group norm, trained from scratch.
    """
    dtype = config.get_ref("compute_dtype")
    classes = config.get_ref("num_classes")
    if config.scale == "paper":
        backbone = make(resnet.ResNet, depth=50, frozen_stages=1, dtype=dtype)
        neck = make(fpn.FPN, width=256, dtype=dtype)
        head = {"depth": 4, "width": 256, **head}
    else:
        norm = bind(norms.GroupNorm, group_size=8)
        width = 8 if config.scale == "smoke" else 32
        backbone = make(resnet.ResNet, depth=18, width=width, norm=norm, dtype=dtype)
        neck = make(fpn.FPN, width=2 * width, norm=norm, dtype=dtype)
        head = {"depth": 2, "width": 2 * width, "norm": norm, **head}
    return make(
        one_stage.OneStageNetwork,
        backbone=backbone,
        neck=neck,
        head=make(
            dense_head.DenseHead,
            num_classes=classes,
            shapes_per_cell=shapes_per_cell,
            dtype=dtype,
            **head,
        ),
    )


def detection(scale: str) -> ConfigDict:
    """From candidates to final boxes: score above 0.05, 1000 per level, NMS at 0.5, 100 kept."""
    return make(nms.Rule, top_k=1000 if scale == "paper" else 200)


def quality_branch() -> ConfigDict:
    """A branch that learns the centerness of each box, which weighs the box loss (FCOS, ATSS)."""
    return make(
        terms.branch,
        target=bind(quality.centerness),
        loss=bind(losses.bce),
        weighs_boxes=True,
    )


def guided_branches(config: ConfigDict, *, assign: ConfigDict, std: float) -> dict[str, ConfigDict]:
    """The location and the shape branch of Guided Anchoring: an assigner of shapes, their codec."""
    return {
        "locations": make(
            guided_anchoring.locations,
            find=bind(guided_locations.find),
            loss=bind(losses.binary_focal, alpha=0.25, gamma=2.0),
            # The term is divided by cells. COCO has an object in 3000 of them, the small scales
            # one in 140: without this it would weigh twenty times as much, and classes come late.
            weight=1.0 if config.scale == "paper" else 0.05,
        ),
        "shapes": make(
            guided_anchoring.shapes,
            codec=make(codecs.shapes, std=std),
            assign=assign,
            loss=bind(losses.bounded_iou),
            select=bind(selection.expected),
        ),
    }


def extra_levels_from_p5(neck: ConfigDict) -> None:
    """P6 from P5 instead of C5, and a ReLU before P7 (maskrcnn-benchmark, FCOS)."""
    neck.extra_source = "P5"
    neck.relu_before_p7 = True


def single_shape(config: ConfigDict, *, quality_tower: str = "box") -> None:
    """What FCOS, ATSS and PAA share beside their method, in place of RetinaNet's.

    One prediction per location with a quality logit from that tower, group norm and biases in the
    towers, a learned scale per level; P6 from P5; all cells of the canvas; NMS at 0.6; at paper
    scale the 90k schedule.
    """
    paper = config.scale == "paper"
    config.detector.model = network(
        config,
        shapes_per_cell=1,
        norm=bind(norms.GroupNorm, group_size=None if paper else 8),
        tower_bias=True,
        quality=quality_tower,
        level_scale=True,
    )
    extra_levels_from_p5(config.detector.model.neck)
    config.detector.model.neck.kernel_init = make(fpn.caffe2_xavier)
    config.detector.pad_divisor = None
    config.detector.detect.iou_threshold = 0.6
    if paper:
        config.train = schedule_90k()
