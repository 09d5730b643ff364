"""Released detectors as this project runs them: importer, parity config, detector."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from models import torch_names

from anchors_jax import images, spec
from anchors_jax.data import transforms
from anchors_jax.data.records import Example
from anchors_jax.detectors.one_stage import join_frozen
from anchors_jax.models import one_stage, resnet
from anchors_jax.spec import bind
from anchors_jax.types import Batch, Targets
from anchors_jax.weights import families, fitting
from configs import parity

# Reference network: the parity config for its checkpoint.
CONFIGS = {
    "mmdet_retinanet_r50": "mmdet_retinanet_r50",
    "mmdet_freeanchor_r50": "mmdet_freeanchor_r50",
    "mmdet_freeanchor_x101": "mmdet_freeanchor_x101_32x4d",
    "mmdet_atss_r50": "mmdet_atss_r50",
    "mmdet_paa_r50": "mmdet_paa_r50",
    "mmdet_fcos_r50": "mmdet_fcos_r50_caffe",
    "mmdet_ga_retinanet_r50": "mmdet_ga_retinanet_r50_caffe",
    "mmdet_ssd300_coco": "mmdet_ssd300",
    "torchvision_retinanet": "torchvision_retinanet",
    "torchvision_fcos": "torchvision_fcos",
    "torchvision_ssd300": "torchvision_ssd300",
}


class Parts(one_stage.OneStageNetwork):
    """The detector, showing its intermediate maps; a ResNet's C2 is looked at and not used."""

    def __call__(self, image, *, train=False):
        maps = self.backbone(image)
        used = maps[-3:] if isinstance(self.backbone, resnet.ResNet) else maps
        pyramid = self.neck(used)
        return maps, pyramid, self.head(pyramid)


def config_of(name):
    """The parity config; inputs and classes as the reference network was run."""
    config = parity.get_config(CONFIGS[name])
    if name.startswith("mmdet"):  # its input is normalised already
        std = (1.0, 1.0, 1.0)
        config.detector.preprocess = bind(images.normalize, mean=(0.0, 0.0, 0.0), std=std)
    else:
        config.num_classes = 90 if name == "torchvision_ssd300" else 91
    if name == "torchvision_retinanet":  # without weights, it is built with this epsilon
        config.detector.model.backbone.norm.eps = 1e-5
    return config


def batch_of(name, arrays):
    """The reference input as a batch of one, resized and padded as torchvision does."""
    if name.startswith("mmdet"):
        image = torch_names.normal_input(name)
        size = image.shape[1:3]
    else:
        image = 255 * torch_names.uniform_input(name)
        canvas = [int(n) for n in arrays["network_input_shape"][-2:]]
        size = resized_size(name, image.shape[:2])
        image = jax.image.resize(jnp.asarray(image), (*size, 3), "linear", antialias=False)
        image = jnp.pad(image, ((0, canvas[0] - size[0]), (0, canvas[1] - size[1]), (0, 0)))[None]
    targets = Targets(
        boxes=jnp.zeros((1, 1, 4)),
        labels=jnp.zeros((1, 1), jnp.int32),
        valid=jnp.zeros((1, 1), bool),
        crowd=jnp.zeros((1, 1), bool),
    )
    return Batch(
        image=jnp.asarray(image),
        image_size=jnp.asarray([size], jnp.int32),
        image_id=jnp.zeros(1, jnp.int32),
        scale=jnp.ones((1, 2)),
        targets=targets,
    )


def resized_size(name, size):
    """(height, width) after the parity config's resize, at the reference's smaller scale."""
    (record,) = config_of(name).data.eval_transforms
    if "short" not in record:  # a square
        return tuple(config_of(name).data.canvases[0])
    kwargs = torch_names.index(name)["kwargs"]
    resize = transforms.resize(
        short=kwargs["min_size"], long=kwargs["max_size"], truncate=record.truncate
    )
    blank = Example(
        image=np.zeros((*size, 3), np.uint8),
        image_id=0,
        file=name,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        crowd=np.zeros(0, bool),
        area=np.zeros(0, np.float32),
        annotation_ids=np.zeros(0, np.int64),
    )
    return resize(blank, np.random.default_rng(0)).size


def run(name):
    """Everything that a reference network says about its input, through importer and config."""
    config, arrays, tensors = config_of(name), torch_names.arrays(name), torch_names.state(name)
    detector = spec.build(config.detector)
    batch = batch_of(name, arrays)
    canvas = batch.image.shape[1:3]
    shapes = jax.eval_shape(lambda key: detector.init(key, canvas), jax.random.key(0))
    variables, dropped = fitting.fit(tensors, families.recognise(tensors), shapes)
    assert not dropped
    model = spec.build(config.detector.model)
    backbone = model.backbone
    if isinstance(backbone, resnet.ResNet):
        backbone = backbone.clone(outputs=(2, 3, 4, 5))
    parts = Parts(backbone=backbone, neck=model.neck, head=model.head)
    preprocess = spec.build(config.detector.preprocess)

    @jax.jit
    def forward(variables, batch):
        image = preprocess(batch.image, batch.image_size)
        inside = parts.apply(join_frozen(variables), image)
        candidates = detector.score(variables, batch)
        return image, inside, candidates, detector.predict(variables, batch)

    return forward(variables, batch), model, arrays


def level_maps(values, maps, shapes_per_cell):
    """Anchor-major values [1, A, N] back to maps [1, H, W, S * N]."""
    values = values if values.ndim == 3 else values[..., None]
    counts = np.broadcast_to(shapes_per_cell, len(maps))
    ends = np.cumsum([r * c * n for (r, c), n in zip(maps, counts, strict=True)])
    levels = np.split(np.asarray(values), ends[:-1], axis=1)
    return [v.reshape(1, *size, -1) for v, size in zip(levels, maps, strict=True)]


def mmdet_pairs(name, inside, model, arrays):
    """(key, ours, reference) of every map of an MMDetection network."""
    maps, pyramid, out = inside
    codes = jnp.exp(out.codes) if name == "mmdet_fcos_r50" else out.codes  # its head's last step
    fields = (out.logits, codes, out.quality)
    if hasattr(out, "shape_codes"):
        fields = (out.logits, out.codes, out.shape_codes, out.cell_logits)
    shapes = getattr(model.head, "shapes_per_cell", 1)
    outputs = [level_maps(x, out.maps, shapes) for x in fields if x is not None]
    sources = {"backbone": maps, "neck": pyramid}
    sources |= {f"head_out{i}_level": levels for i, levels in enumerate(outputs)}
    pairs = []
    for key, expected in arrays.items():
        match = re.fullmatch(r"(backbone|neck|head_out\d_level)_?(\d)_every_(\d+)", key)
        if match:
            actual = np.asarray(sources[match[1]][int(match[2])])
            step = int(match[3])
            pairs.append((key, actual[:, ::step, ::step], expected))
    assert len(pairs) == sum(len(levels) for levels in sources.values())
    return pairs


def torchvision_pairs(name, image, inside, arrays):
    """(key, ours, reference) of a torchvision detector's input, pyramid and head."""
    _, pyramid, out = inside
    logits = np.asarray(out.logits)
    if name == "torchvision_ssd300":  # its background is first, ours last
        logits = np.roll(logits, 1, axis=-1)
    codes = jax.nn.relu(out.codes) if name == "torchvision_fcos" else out.codes  # its last step
    heads = {
        "head_cls_logits": logits,
        "head_bbox_regression": codes,
        "head_bbox_ctrness": None if out.quality is None else out.quality[..., None],
    }
    pairs = []
    for key, expected in arrays.items():
        match = re.fullmatch(r"(network_input|head_\w+?|feature_\w+)_every_(\d+)", key)
        if not match:
            continue
        step = int(match[2])
        if match[1] == "network_input":
            pairs.append((key, np.asarray(image)[:, ::step, ::step], expected))
        elif match[1].startswith("feature_"):
            level = match[1].removeprefix("feature_").removeprefix("p")
            level = int(level) - (3 if "_p" in match[1] else 0)
            pairs.append((key, np.asarray(pyramid[level])[:, ::step, ::step], expected))
        else:
            pairs.append((key, np.asarray(heads[match[1]])[:, ::step], expected))
    assert len(pairs) == 1 + len(pyramid) + sum(x is not None for x in heads.values())
    return pairs
