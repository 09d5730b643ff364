"""Any anchor-based config with more shapes than it needs, to be pruned: 15 per location.

Paper: M. Bonnaerens, M. Freiberger, J. Dambre, "Anchor pruning for object detection", CVIU 2022,
arXiv:2104.00432. The base is given the same wide menu of shapes on every level and trained as
usual; `prune` then finds those that earn their cost, so that nobody has to pick shapes by hand.
The paper's own menu is not published: here three scales per octave at five ratios, 1/3 to 3.
Read: search/tree.py, search/layout.py, search/surgery.py.
Published: nothing for this menu; no table of this config has a paper's number beside it.
Run: python -m anchors_jax train --config=configs/overanchorized.py:bench --workdir=runs/over
     python -m anchors_jax prune --workdir=runs/over --search=shared --out=runs/over/pruned
Variants: paper (default), bench, smoke: RetinaNet at that scale; ssd_paper, ssd_bench, ssd_smoke:
SSD. `overanchorize` does the same to any config whose anchors are `octaves` or `ssd`.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from anchors_jax import anchors, spec
from anchors_jax.spec import make
from configs import common, retinanet, ssd

RATIOS = (1 / 3, 1 / 2, 1.0, 2.0, 3.0)
VARIANTS = (*common.SCALES, *(f"ssd_{scale}" for scale in common.SCALES))


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale, with ssd_ before it for SSD."""
    variant = common.choose(arg, VARIANTS, "paper")
    base = ssd if variant.startswith("ssd_") else retinanet
    config = base.get_config(variant.removeprefix("ssd_"))
    overanchorize(config)
    config.name = "overanchorized_ssd" if base is ssd else "overanchorized"
    return config


def overanchorize(
    config: ConfigDict, *, scales: int = 3, ratios: Sequence[float] = RATIOS
) -> ConfigDict:
    """Give every level `scales` sizes between its own and the next level's, at all ratios.

    Level l has the sides min_l * (max_l / min_l)^(j / scales), j = 0..scales-1; in RetinaNet, where
    sides double from level to level, that is base * stride * 2^(j / scales). Changes `config` and
    returns it.

    Raises:
      ValueError: the config's anchors are neither `octaves` nor `ssd`.
    """
    before = config.detector.anchors.shapes
    function = spec.resolve(before.make)
    if function is anchors.octaves:
        shapes = make(
            anchors.octaves,
            base_scale=before.base_scale,
            scales_per_octave=scales,
            ratios=tuple(ratios),
        )
    elif function is anchors.ssd:
        sides = [
            tuple(low * (high / low) ** (j / scales) for j in range(scales))
            for low, high in zip(before.min_sizes, before.max_sizes, strict=True)
        ]
        shapes = make(anchors.sizes, sizes=tuple(sides), ratios=tuple(ratios))
    else:
        raise ValueError(f"overanchorize knows octaves and ssd, not {before.make}")
    config.detector.anchors.shapes = shapes
    head, count = config.detector.model.head, scales * len(ratios)
    several = isinstance(head.shapes_per_cell, tuple)  # SSD: a number for each level
    head.shapes_per_cell = (count,) * len(head.shapes_per_cell) if several else count
    return config
