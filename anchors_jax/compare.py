"""Which anchors do different methods take as positives on the same image? The command `assign`.

    python -m anchors_jax assign --config=configs/retinanet.py:bench --config=configs/atss.py:bench
        [--workdir=runs/a --workdir=runs/b] [--image=3] [--out=assign.png] [--predicted]

Methods that look at predictions (PAA, FreeAnchor, Semi-Anchored) want the checkpoint of a run: as
many --workdir as --config, in the same order ("-" for none). Without, weights are random.
--predicted draws something else, of methods that predict their anchors (Guided Anchoring): each
object's best anchor among those and, beside it, among the boxes of the grid; and prints how much
better they are over many images.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax import (
    boxes,
    commands,
    diagnostics,
    experiment,
    inference,
    options,
    visualize,
)
from anchors_jax.data import loader, transforms
from anchors_jax.data.records import Example
from anchors_jax.monitor import MatchMonitor
from anchors_jax.types import Anchors, Assignment, Batch

NAME = "assign"
PREDICTED = "--predicted"
WATCHED = 64  # images, or one more batch than fits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """One method's assignment on one image, as numpy arrays."""

    name: str
    batch: Batch  # of one image
    assignment: Assignment
    anchors: Anchors
    placed: Anchors | None  # the anchors that the network predicts, if it does
    seen: Mapping[str, float]  # what `MatchMonitor` says of more images, if it predicts anchors

    @property
    def cells(self) -> set[tuple[int, int, int]]:
        """(stride, row, column) of every location with a positive: common ground of all methods."""
        found, start = set(), 0
        for (rows, columns, shapes), (stride, _) in zip(
            self.anchors.level_sizes, self.anchors.strides, strict=True
        ):
            stop = start + rows * columns * shapes
            cells = self.assignment.positive[start:stop].reshape(rows, columns, shapes).any(-1)
            found |= {(int(stride), int(y), int(x)) for y, x in np.argwhere(cells)}
            start = stop
        return found


def compare_command(arguments: Sequence[str]) -> None:
    """Draw the positives of several configs side by side and print how far they agree."""
    configs = [word for word in arguments if word.startswith("--config=")]
    workdirs = [w.partition("=")[2] for w in arguments if w.startswith("--workdir=")]
    image, rest = "0", []
    for word in arguments:
        if word.startswith("--image="):
            image = word.partition("=")[2]
        elif word != PREDICTED and not word.startswith(("--config=", "--workdir=")):
            rest.append(word)
    if not configs:
        raise options.UsageError("name at least one --config=FILE.py[:variant] to compare")
    if workdirs and len(workdirs) != len(configs):
        raise options.UsageError(
            f"{len(workdirs)} --workdir for {len(configs)} --config: give one each, '-' for none"
        )
    parsed = [options.parse([config, *rest]) for config in configs]
    out = parsed[0].out or pathlib.Path("assign.png")
    if out.suffix not in (".png", ".pdf", ".jpg"):
        raise options.UsageError(f"--out={out} should name a picture, such as assign.png")
    matches = [
        match_image(one, pathlib.Path(workdir) if workdir != "-" else None, image)
        for one, workdir in zip(parsed, workdirs or ["-"] * len(parsed), strict=True)
    ]
    if PREDICTED in arguments:
        panels = [panel for match in matches for panel in anchor_panels(match)]
        visualize.best_anchors(panels, out)
        for match in matches:
            print(anchor_line(match))
    else:
        visualize.assignments([panel_of(match) for match in matches], out)
        print(agreement_table(matches))
    print(f"written to {out}")


def match_image(parsed: options.Options, workdir: pathlib.Path | None, image: str) -> Match:
    """The assignment of one config on one image of its evaluation set."""
    run = experiment.load(parsed.config)
    source = run.source("eval")
    example = find_example(source, image)
    canvas = run.canvases[transforms.choose_canvas(*example.size, run.canvases)]
    resize = transforms.compose(run.transforms["eval"])
    resized = resize(example.replace(canvas=canvas), np.random.default_rng(0))
    arrays = loader.pack(
        transforms.shrink_to(resized, canvas),
        canvas=canvas,
        max_objects=parsed.config.data.max_objects,
    )
    batch = inference.as_batch({name: np.asarray(value)[None] for name, value in arrays.items()})
    if workdir is None:
        variables, trained = run.detector.init(jax.random.key(run.seed), canvas), "untrained"
    else:
        variables, step = commands.load_variables(run, workdir, parsed.checkpoint)
        trained = f"step {step}"
    device_batch = jax.tree.map(jnp.asarray, batch)
    assignment, anchors = jax.jit(run.detector.match)(variables, device_batch)
    placed, seen = None, {}
    if run.detector.place is not None:
        placed = _first(jax.jit(run.detector.place)(variables, device_batch))
        watch = MatchMonitor(run.detector, run.eval_batches(source), images=WATCHED)
        seen = watch(variables)
    return Match(
        name=f"{parsed.config.name} ({trained})",
        batch=batch,
        assignment=_first(assignment),
        anchors=jax.device_get(anchors),
        placed=placed,
        seen=seen,
    )


def _first(tree: Any) -> Any:
    """The first image of a batch, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree)


def find_example(source: Any, image: str) -> Example:
    """By position or by file name (with or without suffix).

    Raises:
      ValueError: there is no such image, naming the nearest.
    """
    if image.isdigit() and int(image) < len(source):
        return source[int(image)]
    names = [pathlib.Path(entry["file_name"]) for entry in source.ground_truth()["images"]]
    for index, name in enumerate(names):
        if image in (str(name), name.name, name.stem):
            return source[index]
    hint = options.nearest(image, [name.name for name in names[:200]])
    raise ValueError(f"--image={image}: no such position or file among {len(names)} images{hint}")


def panel_of(match: Match) -> visualize.Panel:
    """The picture's share of a match."""
    rows, columns = match.batch.image_size[0]
    return visualize.Panel(
        title=match.name,
        image=match.batch.image[0, :rows, :columns],
        objects=match.batch.targets.boxes[0],
        anchors=np.asarray(match.anchors.boxes),
        stride=np.asarray(match.anchors.stride_of_anchor())[:, 0],
        gt=match.assignment.gt,
        positive=match.assignment.positive,
        visible=np.asarray(match.batch.targets.objects[0]),
    )


def anchor_panels(match: Match) -> list[visualize.AnchorPanel]:
    """The best anchors of the objects, of the grid and of those that the network predicts.

    Raises:
      ValueError: it predicts none.
    """
    if match.placed is None:
        raise ValueError(f"{match.name} does not predict its anchors: leave out {PREDICTED}")
    rows, columns = match.batch.image_size[0]
    targets = match.batch.targets

    def panel(title: str, placed: Anchors, valid: np.ndarray) -> visualize.AnchorPanel:
        candidates = np.asarray(placed.boxes)
        overlap = boxes.pairwise(boxes.iou, jnp.asarray(targets.boxes[0]), jnp.asarray(candidates))
        overlap = np.where(valid[None], overlap, 0.0)
        return visualize.AnchorPanel(
            title=title,
            image=match.batch.image[0, :rows, :columns],
            objects=targets.boxes[0],
            visible=np.asarray(targets.objects[0]),
            best=candidates[overlap.argmax(axis=1)],
            iou=overlap.max(axis=1),
            centres=(candidates[valid, :2] + candidates[valid, 2:]) / 2,
        )

    everywhere = np.ones(len(match.placed.boxes), bool)
    return [
        panel("Grid", match.anchors, everywhere),
        panel(match.name, match.placed, match.placed.valid),
    ]


def anchor_line(match: Match) -> str:
    """How much better predicted anchors are than the grid, over images of the evaluation set."""
    seen = match.seen
    return (
        f"{match.name}: best IoU of an object with an anchor, mean over the first {WATCHED} "
        f"images: grid {seen['best_iou_of_grid']:.3f}, predicted "
        f"{seen['best_iou_of_predicted']:.3f}; {100 * seen['share_of_cells_kept']:.1f} % of the "
        "locations have an anchor"
    )


def agreement_table(matches: Sequence[Match]) -> str:
    """Positives per object of each method, and IoU of the sets of locations with a positive."""
    width = max(len(match.name) for match in matches)
    lines = [f"{'':<{width}}  positives  per object  without  " + "overlap of locations"]
    for match in matches:
        counts = diagnostics.count_positives(
            match.assignment.gt,
            match.assignment.positive,
            match.batch.targets.boxes[0],
            np.asarray(match.batch.targets.objects[0]),
            match.anchors.level_counts,
        )
        summary = diagnostics.summarise(counts)
        shares = "  ".join(f"{_jaccard(match.cells, other.cells):.2f}" for other in matches)
        lines.append(
            f"{match.name:<{width}}  {counts['positives']:>9.0f}  "
            f"{summary['positives_per_object']:>10.1f}  {counts['objects_without']:>7.0f}  {shares}"
        )
    return "\n".join(lines)


def _jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0
