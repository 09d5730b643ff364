"""A chosen subset of anchors as a smaller network: sliced head weights and a config to match.

Nothing is trained: the sliced network detects what the masked one does, because the channels that
go were masked, and every other one is computed as before. Retraining starts from the same config.

Bonnaerens et al., "Anchor pruning for object detection", CVIU 2022, arXiv:2104.00432.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from flax import traverse_util
from ml_collections import ConfigDict, config_dict

from anchors_jax import anchors, spec
from anchors_jax.models import count
from anchors_jax.models.parts import PrunableHead
from anchors_jax.search.layout import Kept, Layout
from anchors_jax.types import Parts

VARIANTS = ("scratch", "finetune")


def is_prunable(parts: Parts) -> bool:
    """Whether a detector has anchors of chosen shapes, and one head that can do with fewer."""
    heads = parts.heads.values()
    whole = isinstance(parts.anchors, anchors.Grid) and parts.anchors.has_shapes
    return whole and len(heads) == 1 and all(isinstance(head, PrunableHead) for head in heads)


def prunable_head(parts: Parts) -> tuple[str, PrunableHead]:
    """The head whose weights can be sliced, and its name.

    Raises:
      ValueError: there is none, or the anchors are not a grid of shapes.
    """
    if not is_prunable(parts):
        heads = ", ".join(type(head).__name__ for head in parts.heads.values())
        chosen = getattr(parts.anchors, "has_shapes", False)
        raise ValueError(
            "anchors are sliced from a grid of shapes, and from a head that says what it is with "
            f"fewer of them, not from {heads} on {'shapes' if chosen else 'bare locations'}"
        )
    return next(iter(parts.heads.items()))


class Smaller(NamedTuple):
    """What becomes of a detector's parts without some prototypes; attributes are plain data."""

    kept: Kept  # of each level that is left
    head: dict[str, Any]
    neck: dict[str, Any]


def smaller(parts: Parts, kept: Kept, *, drop_dead: bool = True) -> Smaller:
    """The attributes of head and neck that change when the slots `kept` stay on each level.

    `drop_dead` leaves out the neck's layers that no anchor needs any more: the coarsest levels, if
    they are empty, and the L2 normalisation of an empty first level of SSD.
    """
    _, head = prunable_head(parts)
    neck: dict[str, Any] = {}
    shortened = getattr(parts.model.neck, "shortened", None)
    if drop_dead and shortened is not None:  # other necks make all of their maps, whoever reads
        neck, live = shortened([bool(slots) for slots in kept])
        kept = kept[:live]
    return Smaller(kept=kept, head=head.sliced(kept), neck=neck)


def changes(
    parts: Parts, layout: Layout, removed: Iterable[int], *, drop_dead: bool = True
) -> dict[str, Any]:
    """The keys of a config that change without the prototypes `removed`, with their plain values.

    Shapes are in pixels. Arguments and errors as in `sliced_config`.
    """
    name, _ = prunable_head(parts)
    found = smaller(parts, layout.kept(layout.check(removed)), drop_dead=drop_dead)
    grid = parts.anchors
    levels = zip(grid.prototypes, found.kept, strict=False)  # coarser ones are dropped
    sizes = [shapes[list(slots)].tolist() for shapes, slots in levels]
    changed = {"anchors.shapes": spec.plain(spec.make(anchors.explicit, sizes=sizes))}
    if len(found.kept) < len(layout.shapes):
        changed["anchors.strides"] = spec.plain(list(grid.strides[: len(found.kept)]))
    changed |= {f"model.{name}.{key}": spec.plain(value) for key, value in found.head.items()}
    changed |= {f"model.neck.{key}": spec.plain(value) for key, value in found.neck.items()}
    return {f"detector.{key}": value for key, value in changed.items()}


def sliced_config(
    config: ConfigDict,
    parts: Parts,
    layout: Layout,
    removed: Iterable[int],
    *,
    drop_dead: bool = True,
) -> dict[str, Any]:
    """The config without the prototypes `removed`, as plain data; its shapes are in pixels.

    Args:
      config: of the detector whose parts are `parts` and whose anchors are laid out as `layout`.
      removed: ids of prototypes.
      drop_dead: as `smaller`.

    Raises:
      ValueError: as `prunable_head`; or a prototype does not exist, or none remains.
    """
    content = spec.plain(config)
    for key, value in changes(parts, layout, removed, drop_dead=drop_dead).items():
        *path, last = key.split(".")
        node = content
        for part in path:
            node = node[part]
        node[last] = value
    content["name"] = f"{content['name']}_pruned"
    return content


def sliced_variables(
    variables: Mapping[str, Any],
    parts: Parts,
    layout: Layout,
    removed: Iterable[int],
    *,
    canvas: tuple[int, int],
    drop_dead: bool = True,
) -> dict[str, Any]:
    """The variables of the network that `sliced_config` describes; errors as there.

    `canvas`: (height, width) of some images that the network takes.
    """
    name, head = prunable_head(parts)
    found = smaller(parts, layout.kept(layout.check(removed)), drop_dead=drop_dead)
    params = variables["params"]
    params = {**params, name: head.sliced_params(params[name], found.kept)}
    model = parts.model.clone(
        neck=parts.model.neck.clone(**_hashable(found.neck)),
        **{name: head.clone(**_hashable(found.head))},
    )
    needed = set(_paths(count.shapes(model, canvas)))
    whole = traverse_util.flatten_dict({**variables, "params": params})
    # In which collection a value lies is not the model's affair: some may be frozen.
    left = {path: value for path, value in whole.items() if path[1:] in needed}
    return traverse_util.unflatten_dict(left)


def _paths(variables: Any) -> Iterator[tuple[str, ...]]:
    """Where the values of a network lie, without the collection."""
    return (path[1:] for path in traverse_util.flatten_dict(variables))


def _hashable(value: Any) -> Any:
    """Plain data as attributes of a module: tuples instead of lists."""
    if isinstance(value, Mapping):
        return {key: _hashable(item) for key, item in value.items()}
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


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


def _with_placeholders(node: Any) -> Any:
    """Nothing has no type that a command line value could be read by: such keys take any."""
    if isinstance(node, Mapping):
        return {key: _with_placeholders(value) for key, value in node.items()}
    return config_dict.placeholder(object) if node is None else node
