"""Do these anchors reach my objects? The command `coverage`, before anything is trained."""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

from anchors_jax import commands_anchors, files, hooks
from anchors_jax.assign import atss, fcos, frame, max_iou
from anchors_jax.search import coverage, coverage_plot, coverage_positives, coverage_report
from anchors_jax.types import Objective

NAME = "coverage"
REPORT, PICTURE = "coverage.json", "coverage.png"
_COLUMNS = (0.5, 0.6, 0.7, 0.8, 0.9)
_ROWS = 10  # classes on the screen; the report has all

DESCRIPTION = """\
How well the config's anchors cover the boxes of its data: recall by IoU (overall, by class, size,
aspect ratio and level), positives per object under several assigners, the objects that no anchor
reaches. Reads annotations only: no image is decoded, nothing is trained.

With --workdir it writes coverage.json (everything) and coverage.png. Sizes of boxes are network
pixels after the config's resize; small, medium and large are COCO's, of the annotated area.
"""


def flags() -> commands_anchors.Flags:
    """The command's own flags."""
    parser = commands_anchors.Flags(NAME, DESCRIPTION)
    parser.add_argument(
        "--min-recall",
        "--min_recall",
        type=_share,
        metavar="R",
        help="exit with status 1 if the recall at the positive threshold is lower (for CI)",
    )
    parser.add_argument(
        "--assign-images",
        "--assign_images",
        type=int,
        default=128,
        metavar="N",
        help="images on which assigners are run, spread over the set (default: 128; 0: none)",
    )
    return parser


def coverage_command(words: Sequence[str]) -> None:
    """Print and write the coverage of the config's data by its anchors.

    Raises:
      ValueError: the recall is below --min-recall.
    """
    own, common = flags().read(words)
    subject = commands_anchors.load(own, common)
    parts = subject.parts
    grids = functools.cache(subject.run.anchors)
    found = coverage_report.cover(subject.boxes, grids, divisor=parts.pad_divisor)
    threshold = positive_threshold(parts.objective)
    given = coverage_positives.positives(
        subject.boxes,
        assigners(subject),
        images=max(own.assign_images, 0),
        divisor=parts.pad_divisor,
    )
    content = {"config": subject.name, "data": subject.source.where}
    content |= {"transforms": own.transforms, "canvases": [list(c) for c in subject.run.canvases]}
    content |= coverage_report.report(found, subject.source, threshold=threshold, given=given)
    print(text(content))
    if not parts.anchors.has_shapes:
        print("note: this config has locations, not anchors: the IoUs are those of one stride")
    if common.workdir is not None:
        files.write_json(common.workdir / REPORT, content)
        coverage_plot.plot(
            found,
            subject.source.classes,
            common.workdir / PICTURE,
            threshold=threshold,
            given=given,
            title=f"{content['config']} on {content['images']:,} images",
        )
        print(f"written to {common.workdir}: {REPORT}, {PICTURE}")
    reached = coverage.recall(found.best.iou, (threshold,))[0]
    if own.min_recall is not None and reached < own.min_recall:
        raise ValueError(
            f"recall at IoU {threshold:g} is {reached:.4f}, below --min-recall={own.min_recall:g}"
        )


def positive_threshold(objective: Objective) -> float:
    """The IoU from which the config's assigner takes an anchor as positive; 0.5 if it has none."""
    found = None if objective.assign is None else hooks.keyword(objective.assign, "positive_iou")
    return 0.5 if found is None else float(found)


def assigners(subject: commands_anchors.Subject) -> dict[str, tuple[Callable, Callable]]:
    """The config's own assigner, if it needs no predictions, and three others as published.

    FCOS's looks at bare locations; the others at the config's anchors.
    """
    run, grid = subject.run, functools.cache(subject.run.anchors)
    bare = functools.partial(run.anchors, grid=subject.parts.anchors.points())
    points = functools.cache(bare)
    found: dict[str, tuple[Callable, Callable]] = {}
    objective, own = subject.parts.objective, None
    framed = functools.partial(functools.partial, frame.assigned)
    if objective.assign is not None and not hooks.asks(objective.assign, "predicted"):
        own = getattr(objective.assign, "func", objective.assign)
        run_as = framed(objective.assign, ignore_iof=objective.ignore_iof)
        found[f"{_name(own)} (this config)"] = (run_as, grid)
    for assign in (max_iou.assign, atss.assign, fcos.assign):
        if assign is not own:
            found[_name(assign)] = (framed(assign), points if assign is fcos.assign else grid)
    return found


def text(content: dict[str, Any]) -> str:
    """The report as it appears on the screen."""
    sides = ", ".join(f"{h}x{w}" for h, w in content["canvases"])
    lines = [
        f"{content['config']}: {content['objects']:,} objects in {content['images']:,} images "
        f"of {content['data']}, on {sides}",
        "",
        "stride    cells  shapes (width x height in network pixels)",
        *(_level(level) for level in content["anchors"]),
        "",
        f"{'':<24}{'objects':>9}{'mean IoU':>10}" + "".join(f"{f'IoU>{t:g}':>9}" for t in _COLUMNS),
        _row("all", content["all"]),
        *(_row(n, r) for key in ("size", "aspect", "level") for n, r in _rows(content, key)),
    ]
    classes = _rows(content, "class")
    if len(classes) > 1:
        at = coverage.IOUS.index(0.5)
        classes.sort(key=lambda item: item[1]["recall"][at])
        lines.append(f"classes, the worst first ({min(_ROWS, len(classes))} of {len(classes)})")
        lines += [_row(name, row) for name, row in classes[:_ROWS]]
    bare = content["bare_anchors"]
    lines += [
        "",
        f"bare anchors as detections, perfectly classified: AP {100 * bare['AP']:.1f}, AP50 "
        f"{100 * bare['AP50']:.1f}, AP75 {100 * bare['AP75']:.1f}; {bare['shared']:,} objects "
        "share their best anchor with another of their class",
        *_positives(content.get("positives")),
        *_unreached(content["unreached"]),
    ]
    return "\n".join(lines)


def _level(level: dict[str, Any]) -> str:
    shapes = "  ".join(
        f"{w:g}x{h:g}" for w, h in ((round(w), round(h)) for w, h in level["shapes"])
    )
    cells = f"{level['rows']}x{level['columns']}"
    return f"{level['stride']:>6g}{cells:>9}  {shapes or 'none'}"


def _rows(content: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, row) for name, row in content[f"by_{key}"].items() if row["objects"]]


def _row(name: str, row: dict[str, Any]) -> str:
    shares = dict(zip(coverage.IOUS, row["recall"], strict=True))
    cells = "".join(f"{100 * shares[t]:>8.1f}%" for t in _COLUMNS)
    return f"{name[:23]:<24}{row['objects']:>9,}{row['mean_iou']:>10.3f}{cells}"


def _positives(given: dict[str, Any] | None) -> list[str]:
    if not given or not given["images"]:
        return []
    lines = [
        "",
        f"positives per object, {given['objects']:,} objects of {given['images']:,} images"
        f"{'':<4}mean   quartiles  without   small  medium   large",
    ]
    for name, row in given["assigners"].items():
        quartiles = " ".join(f"{q:.0f}" for q in row["quartiles"])
        sizes = "".join(
            f"{'-' if mean is None else f'{mean:.1f}':>8}" for mean in row["mean_by_size"].values()
        )
        width = len(lines[1]) - len("mean   quartiles  without   small  medium   large")
        lines.append(
            f"  {name:<{width - 2}}{row['mean']:>4.1f}{quartiles:>12}"
            f"{100 * row['share_without']:>8.1f}%{sizes}"
        )
    return lines


def _unreached(missed: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"{missed['count']:,} objects ({100 * missed['share']:.2f}%) have no anchor with IoU >= "
        f"{missed['threshold']:g}" + (", the worst of them:" if missed["count"] else ""),
    ]
    for row in missed["listed"][:5]:
        width, height = row["network_wh"]
        lines.append(
            f"  {row['best_iou']:.3f}  {row['class']} of {width:.0f}x{height:.0f} in {row['file']} "
            f"(annotation {row['annotation_id']})"
        )
    return lines


def _name(assign: Callable) -> str:
    return assign.__module__.rpartition(".")[2]


def _share(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number between 0 and 1")
    return value
