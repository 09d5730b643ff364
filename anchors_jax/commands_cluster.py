"""Which anchor shapes suit my data? The command `cluster`: shapes, what they gain, what they cost.

The shapes become a record that every command takes in place of the config's own:
    --config.detector.anchors.shapes=@DIR/shapes.json
"""

import argparse
import dataclasses
import functools
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from anchors_jax import anchors as grids
from anchors_jax import commands_anchors, files, spec
from anchors_jax.models import count
from anchors_jax.search import (
    clustering,
    clustering_levels,
    clustering_plot,
    coverage,
    coverage_report,
)

NAME = "cluster"
RECORD, REPORT, PICTURE = "shapes.json", "cluster.json", "cluster.png"

DESCRIPTION = """\
Anchor shapes from the boxes of the config's data: clusters under the distance 1 - IoU (YOLO9000),
spread over the pyramid's levels, compared with the shapes that the config has now in IoU, recall,
number of anchors and cost of the head. Reads annotations only; nothing is trained.

With --workdir it writes shapes.json (a record that train takes with
--config.detector.anchors.shapes=@DIR/shapes.json), cluster.json and cluster.png.

rules for --levels
  chunks    sorted by area, an equal share for each level (YOLOv3)
  nearest   each shape on the level of its size; levels may stay empty (SSD)
  folded    K shapes per cell, the same on all levels relative to their size
  auto      folded where one head serves all levels (RetinaNet), else nearest (SSD)
"""


def flags() -> commands_anchors.Flags:
    """The command's own flags."""
    parser = commands_anchors.Flags(NAME, DESCRIPTION)
    add = parser.add_argument
    add(
        "-k",
        "--k",
        type=_positive,
        metavar="K",
        help="clusters (default: the shapes there are now)",
    )
    methods, inits = clustering.Method.__args__, clustering.Init.__args__
    add("--method", choices=methods, default="kmeans", help="what a centre is (default: kmeans)")
    add(
        "--restarts",
        type=_positive,
        default=10,
        metavar="N",
        help="runs, of which the best counts (10)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of all random choices (0)")
    add("--init", choices=inits, default="kmeans++", help="first centres (default: kmeans++)")
    add("--levels", choices=("auto", *clustering_levels.RULES), default="auto", help="see above")
    return parser


def cluster_command(words: Sequence[str]) -> None:
    """Cluster, compare and write.

    Raises:
      ValueError: the config's head cannot take other shapes, or not so many.
    """
    own, common = flags().read(words)
    subject = commands_anchors.load(own, common)
    model, grid = subject.parts.model, subject.parts.anchors
    present = present_shapes(subject)
    usual = "nearest" if per_level(model.head) else "folded"
    rule = usual if own.levels == "auto" else own.levels
    folded = rule == "folded"
    k = own.k or (len(present[0]) if folded else sum(map(len, present)))
    sides = level_sides(grid)
    wh = subject.boxes.objects().wh
    found = clustering.cluster(
        clustering_levels.fold(wh, sides) if folded else wh,
        k=k,
        method=own.method,
        init=own.init,
        restarts=own.restarts,
        seed=own.seed,
    )
    shapes = on_levels(rule, found.shapes, sides)
    record = spec.plain(spec.make(grids.explicit, sizes=[level.tolist() for level in shapes]))
    head = head_shapes(subject, shapes)
    settings = {"k": k, "method": own.method, "init": own.init, "restarts": own.restarts}
    content = {
        "config": subject.name,
        "data": subject.source.where,
        "objects": len(wh),
        **settings,
        "seed": own.seed,
        "levels": rule,
        "restart_average_iou": np.round(found.restarts, 5).tolist(),
        "iterations": found.iterations.tolist(),
        "present": measure(subject, present, model),
        "clustered": measure(subject, shapes, with_shapes(model, head)),
        "shapes": [level.tolist() for level in shapes],
    }
    overlaps = {name: content[name].pop("iou") for name in ("present", "clustered")}
    print(text(content))
    if common.workdir is None:
        print("with --workdir=DIR the shapes are written as a record that train takes")
        return
    folder = common.workdir
    override = overrides(folder, head)
    content["overrides"] = override
    files.write_json(folder / RECORD, record)
    files.write_json(folder / REPORT, content)
    clustering_plot.plot(
        wh,
        {"present": present, "clustered": shapes},
        overlaps,
        folder / PICTURE,
        title=f"{content['config']}: {k} clusters of {len(wh):,} boxes ({own.method}, {rule})",
    )
    print(f"\nwritten to {folder}: {RECORD}, {REPORT}, {PICTURE}; train with them:")
    print("  " + train_line(words, override))


def present_shapes(subject: commands_anchors.Subject) -> tuple[np.ndarray, ...]:
    """(width, height) of the config's shapes on each level.

    Raises:
      ValueError: it has locations only, or a head that cannot be given shapes.
    """
    parts = subject.parts
    if not parts.anchors.has_shapes:
        raise ValueError(
            f"{subject.name} has locations instead of anchors: there are no shapes to replace"
        )
    if not hasattr(parts.model.head, "shapes_per_cell"):
        raise ValueError(
            f"{subject.name}: its head has no shapes_per_cell, so shapes cannot be replaced"
        )
    return parts.anchors.prototypes


def per_level(head: nn.Module) -> bool:
    """Whether the head has a number of shapes for each level, not one for all."""
    return not isinstance(head.shapes_per_cell, int)


def level_sides(grid: grids.Grid) -> np.ndarray:
    """The size in pixels that each level is for."""
    sides = getattr(grid.shapes, "sides", None)  # the ladder that SSD's shapes are made from
    return clustering_levels.sides_of(grid.prototypes) if sides is None else sides


def on_levels(rule: str, shapes: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, ...]:
    """The shapes of each level by one of the rules, rounded to 1/100 pixel."""
    if rule == "chunks":
        levels = clustering_levels.chunks(shapes, len(sides))
    elif rule == "nearest":
        levels = clustering_levels.nearest(shapes, sides)
    else:
        levels = clustering_levels.unfold(shapes, sides)
    return tuple(np.round(level.astype(np.float64), 2) for level in levels)


def head_shapes(
    subject: commands_anchors.Subject, shapes: Sequence[np.ndarray]
) -> int | tuple[int, ...]:
    """What the head's shapes_per_cell becomes.

    Raises:
      ValueError: the levels need different numbers, but share one head.
    """
    counts = tuple(len(level) for level in shapes)
    if per_level(subject.parts.model.head):
        return counts
    if len(set(counts)) > 1:
        levels = len(counts)
        raise ValueError(
            f"{subject.name} has one head for all {levels} levels, which would get "
            f"{', '.join(map(str, counts))} shapes: use --levels=folded, or --levels=chunks with "
            f"K a multiple of {levels}"
        )
    return counts[0]


def with_shapes(model: nn.Module, shapes_per_cell: int | tuple[int, ...]) -> nn.Module:
    """The network with another number of shapes per cell."""
    return model.clone(head=model.head.clone(shapes_per_cell=shapes_per_cell))


def measure(
    subject: commands_anchors.Subject, shapes: Sequence[np.ndarray], model: nn.Module
) -> dict[str, Any]:
    """How well shapes fit, centred and on the grid, and what they cost on the first canvas.

    `iou` is an array: the best IoU of every object on the grid.
    """
    run, parts = subject.run, subject.parts
    at_hand = grids.explicit(sizes=[level.tolist() for level in shapes])
    other = dataclasses.replace(parts.anchors, shapes=at_hand)
    grid = functools.cache(functools.partial(run.anchors, grid=other))
    found = coverage_report.cover(subject.boxes, grid, divisor=parts.pad_divisor)
    wh = found.boxes.wh
    centred, _ = clustering.best_overlap(wh, np.concatenate(shapes))
    return {
        "shapes": sum(map(len, shapes)),
        "anchors": sum(grid(0).level_counts),
        "average_iou": float(centred.mean(dtype=np.float64)),
        "recall_50": float((centred >= 0.5).mean()),
        "grid": coverage_report.row(found.best.iou),
        "head_multiply_adds": count.head_multiply_adds(model, run.canvases[0]),
        "iou": found.best.iou,
    }


def overrides(folder: pathlib.Path, shapes_per_cell: int | tuple[int, ...]) -> list[str]:
    """The words that make any command use the shapes."""
    return [
        f"--config.detector.anchors.shapes=@{folder / RECORD}",
        f"--config.detector.model.head.shapes_per_cell={shapes_per_cell}".replace(" ", ""),
    ]


def train_line(words: Sequence[str], override: Sequence[str]) -> str:
    """The command that trains the same config with the shapes."""
    kept = [word for word in words if word.startswith("--config")]
    run = ["python", "-m", "anchors_jax", "train", *kept, *override, "--workdir=runs/clustered"]
    return shlex.join(run)


def text(content: dict[str, Any]) -> str:
    """The report as it appears on the screen."""
    before, after = content["present"], content["clustered"]
    rows = [
        ("average IoU, centred", "{average_iou:.4f}"),
        ("recall at IoU 0.5, centred", "{recall_50:.1%}"),
        ("mean IoU on the grid", "{mean:.4f}"),
        *((f"recall at IoU 0.{t} on the grid", f"{{at_{t}0:.1%}}") for t in (5, 6, 7, 8)),
        ("shapes", "{shapes:,}"),
        ("anchors per image", "{anchors:,}"),
        ("head, million multiply-adds", "{macs:,.1f}"),
    ]
    sides = []
    for side in (before, after):
        recall = dict(zip(coverage.IOUS, side["grid"]["recall"], strict=True))
        values = side | {"mean": side["grid"]["mean_iou"], "macs": side["head_multiply_adds"] / 1e6}
        sides.append(values | {f"at_{round(100 * t)}": value for t, value in recall.items()})
    lines = [
        f"{content['config']}: {content['objects']:,} boxes of {content['data']}; {content['k']} "
        f"clusters ({content['method']}, {content['init']}, best of {content['restarts']} runs), "
        f"levels: {content['levels']}",
        "",
        "level  shapes (width x height in network pixels)",
    ]
    for number, level in enumerate(content["shapes"]):
        lines.append(f"{number:>5}  " + ("  ".join(f"{w:g}x{h:g}" for w, h in level) or "none"))
    lines += ["", f"{'':<32}{'present':>14}{'clustered':>14}"]
    lines += [
        f"{name:<32}" + "".join(f"{form.format(**s):>14}" for s in sides) for name, form in rows
    ]
    return "\n".join(lines)


def _positive(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a positive number")
    return int(word)
