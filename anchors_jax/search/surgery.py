"""A chosen subset of anchors as a smaller network: sliced head weights and a config to match.

Nothing is trained: the sliced network detects what the masked one does, because the channels that
go were masked, and every other one is computed as before. Retraining starts from the same config.

Bonnaerens et al., "Anchor pruning for object detection", CVIU 2022, arXiv:2104.00432.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict, config_dict

from anchors_jax import anchors, spec
from anchors_jax.models import count, dense_head, fpn, ssd_head, ssd_neck
from anchors_jax.search.layout import Kept, Layout

VARIANTS = ("scratch", "finetune")
SHARED = f"{dense_head.__name__}:DenseHead"
PER_LEVEL = f"{ssd_head.__name__}:SSDHead"
PYRAMID, EXTRAS = f"{fpn.__name__}:FPN", f"{ssd_neck.__name__}:SSDNeck"


def head_of(config: ConfigDict) -> str:
    """The head that a config names, if its weights can be sliced.

    Raises:
      ValueError: it is another one, or the anchors are not a grid of shapes.
    """
    head = config.detector.model.head.get("make", "none")
    if head not in (SHARED, PER_LEVEL):
        raise ValueError(f"anchors are sliced from {SHARED} and {PER_LEVEL}, not from {head}")
    grid = config.detector.anchors.get("bind", "none")
    if grid != f"{anchors.__name__}:grid":
        raise ValueError(f"anchors are sliced from anchors.grid, not from {grid}")
    return head


def sliced_config(
    config: ConfigDict, layout: Layout, removed: Iterable[int], *, drop_dead: bool = True
) -> dict[str, Any]:
    """The config without the prototypes `removed`, as plain data; its shapes are in pixels.

    `drop_dead` leaves out the neck's layers that no anchor needs any more: the coarsest levels, if
    they are empty, and the L2 normalisation of an empty first level of SSD.

    Raises:
      ValueError: as `head_of`; or a prototype does not exist, or none remains.
    """
    head, kept = head_of(config), layout.kept(layout.check(removed))
    content = spec.plain(config)
    strides = spec.build(config.detector.anchors.strides)
    pairs = tuple((s, s) if np.ndim(s) == 0 else tuple(s) for s in strides)
    shapes = spec.build(config.detector.anchors.shapes)(pairs)
    sizes = [level[list(slots)].tolist() for level, slots in zip(shapes, kept, strict=True)]
    content["detector"]["anchors"]["shapes"] = spec.plain(
        ConfigDict({"shapes": spec.make(anchors.explicit, sizes=sizes)})
    )["shapes"]
    record = content["detector"]["model"]["head"]
    if head == PER_LEVEL:
        record["shapes_per_cell"] = [len(slots) for slots in kept]
    else:
        slots, union = _shared_slots(config, kept)
        record["shapes_per_cell"] = len(union)
        record["slots"] = [[union.index(slot) for slot in level] for level in slots]
    if drop_dead:
        _drop_dead(content["detector"], kept)
    if head == SHARED and all(len(s) == record["shapes_per_cell"] for s in record["slots"]):
        record["slots"] = None  # every level that is left has all of them
    content["name"] = f"{content['name']}_pruned"
    return content


def sliced_variables(
    variables: Mapping[str, Any],
    config: ConfigDict,
    layout: Layout,
    removed: Iterable[int],
    *,
    drop_dead: bool = True,
) -> dict[str, Any]:
    """The variables of the network that `sliced_config` describes; errors as there."""
    head, kept = head_of(config), layout.kept(layout.check(removed))
    classes = int(config.detector.model.head.num_classes)
    flat = traverse_util.flatten_dict(dict(variables["params"]["head"]), sep="/")
    result = dict(flat)
    if head == PER_LEVEL:
        for level, slots in enumerate(kept):
            for name, size in ((f"class{level}", classes + 1), (f"box{level}", 4)):
                _slice(result, name, size, slots)
    else:
        _, union = _shared_slots(config, kept)
        for name, size in (("class_output", classes), ("box_output", 4), ("quality_output", 1)):
            _slice(result, name, size, union)
    params = {**variables["params"], "head": traverse_util.unflatten_dict(result, sep="/")}
    whole = {**variables, "params": params}
    if not drop_dead:
        return whole
    after = variant(sliced_config(config, layout, removed))
    needed = count.shapes(spec.build(after.detector.model), tuple(after.data.canvases[0]))
    if "level_scale" in params["head"]:
        live = needed["params"]["head"]["level_scale"].shape[0]
        params["head"]["level_scale"] = params["head"]["level_scale"][:live]
    return _present_in(whole, needed)


def variant(content: Mapping[str, Any], arg: str = "") -> ConfigDict:
    """What `get_config` of a sliced run's config.py returns.

    Args:
      content: a config as plain data.
      arg: "scratch" (default) trains by the recipe of the network that was pruned, which is what
        the paper does; "finetune" goes on from the sliced weights, at a tenth of the learning rate
        for a third of the time.

    Raises:
      ValueError: for another variant.
    """
    chosen = arg or VARIANTS[0]
    if chosen not in VARIANTS:
        hint = spec.nearest(chosen, VARIANTS)
        raise ValueError(f"this config has no variant {chosen!r}{hint}")
    config = ConfigDict(_with_placeholders(content))
    if chosen == "finetune":
        config.train.learning_rate = config.train.learning_rate / 10
        config.train.epochs = config.train.epochs / 3
        config.train.steps = config.train.steps // 3
    return config


def _drop_dead(detector: dict[str, Any], kept: Kept) -> None:
    """Shorten a plain detector config to the levels that its anchors need."""
    neck, head, grid = detector["model"]["neck"], detector["model"]["head"], detector["anchors"]
    live = max(level for level, slots in enumerate(kept) if slots) + 1
    if neck["make"] == PYRAMID:
        neck["levels"] = live
    elif neck["make"] == EXTRAS:
        maps = len(kept) - len(neck["extras"])
        live = max(live, maps)
        neck["extras"] = neck["extras"][: live - maps]
        if not kept[0]:
            neck["l2_scale"] = None
    else:  # it makes all of its maps, whoever reads them
        return
    for record, name in (
        (grid, "strides"),
        (grid["shapes"], "sizes"),
        (head, "shapes_per_cell"),
        (head, "slots"),
    ):
        if isinstance(record.get(name), list | tuple):
            record[name] = record[name][:live]


def _present_in(tree: Any, pattern: Any) -> Any:
    """The part of a tree of dictionaries whose keys `pattern` has, too."""
    if not isinstance(tree, Mapping):
        return tree
    return {key: _present_in(value, pattern[key]) for key, value in tree.items() if key in pattern}


def _shared_slots(config: ConfigDict, kept: Kept) -> tuple[Kept, list[int]]:
    """Of every level the head's own slots that stay, and all of them together."""
    before = config.detector.model.head.get("slots", None)
    if before is not None:
        kept = tuple(
            tuple(int(own[slot]) for slot in level) for own, level in zip(before, kept, strict=True)
        )
    return kept, sorted({slot for level in kept for slot in level})


def _slice(params: dict[str, Any], name: str, size: int, slots: Iterable[int]) -> None:
    """Keep the channels of `slots`, `size` each, of a convolution; without any, nothing of it."""
    for leaf in ("kernel", "bias"):
        value = params.pop(f"{name}/{leaf}", None)
        chosen = list(slots)
        if value is not None and chosen:
            value = np.asarray(value)
            grouped = value.reshape(*value.shape[:-1], -1, size)
            params[f"{name}/{leaf}"] = grouped[..., chosen, :].reshape(*value.shape[:-1], -1)


def _with_placeholders(node: Any) -> Any:
    """Nothing has no type that a command line value could be read by: such keys take any."""
    if isinstance(node, Mapping):
        return {key: _with_placeholders(value) for key, value in node.items()}
    return config_dict.placeholder(object) if node is None else node
