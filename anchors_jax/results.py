"""The files that a run leaves behind, and how they are drawn. Every write is atomic."""

import datetime
import os
import pathlib
import resource
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import jax
import numpy as np

from anchors_jax import evaluation, files, visualize
from anchors_jax.data.annotated import AnnotatedImages
from anchors_jax.data.records import Source

EVALUATION, DETECTIONS, RESULT = "eval.json", "detections.json", "result.json"
PICTURE, PRECISION_RECALL, CURVE = "detections.png", "precision_recall.png", "training.png"
WRITTEN = (EVALUATION, DETECTIONS, PICTURE, PRECISION_RECALL)
SAMPLES = 8  # images in the picture
# Keys whose values say where something is kept: readers' keywords, and the weights to start from.
PATHS = ("root", "images", "annotations", "directory", "cache_dir", "init_from")


def write(
    folder: pathlib.Path,
    metrics: dict[str, Any],
    source: Source,
    table: evaluation.DetectionTable,
    *,
    score_threshold: float,
) -> None:
    """Metrics, detections in COCO's format, a picture beside ground truth, the PR plot."""
    files.write_json(folder / EVALUATION, metrics)
    evaluation.write_coco_results(folder / DETECTIONS, table)
    draw_beside_truth(folder / PICTURE, source, table, score_threshold=score_threshold)
    visualize.precision_recall_plot(metrics, folder / PRECISION_RECALL)


def write_result(
    folder: pathlib.Path,
    metrics: dict[str, Any],
    *,
    config: dict[str, Any],
    step: int,
    seconds: float | None,
) -> None:
    """One run as a table needs it: metrics, and what they were measured with.

    Numbers enter the tables of `experiments/` from such files only.
    """
    numbers = {name: value for name, value in metrics.items() if name != "curves"}
    config = without_folders(config)
    files.write_json(
        folder / RESULT,
        conditions(config)
        | {
            "step": step,
            "seconds": seconds,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
            "date": datetime.date.today().isoformat(),
            "metrics": numbers,
            "full_config": config,
        },
    )


def conditions(config: dict[str, Any]) -> dict[str, Any]:
    """With what a number was measured: of a plain config, and of the machine."""
    config = without_folders(config)
    return {
        "config": config["name"],
        "scale": config["scale"],
        "seed": config["seed"],
        "commit": commit(),
        "device": device(jax.device_count()),
        "data": {split: config["data"][split] for split in ("train", "eval")},
    }


def without_folders(node: Any, key: str = "") -> Any:
    """A plain config as result files hold it: names of files and data sets, not where one machine
    keeps them.
    """
    if isinstance(node, dict):
        return {name: without_folders(value, name) for name, value in node.items()}
    if isinstance(node, list):
        return [without_folders(value, key) for value in node]
    return pathlib.Path(node).name if key in PATHS and isinstance(node, str) else node


def device(count: int) -> str:
    """What the first `count` devices are, and the host's cores: what a number was measured on."""
    return f"{count} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"


def commit() -> str:
    """The commit of the code that runs, with "+changes" where files differ from it."""
    root = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    revision = git("rev-parse", "--short=12", "HEAD")
    if not revision:
        return "unknown"
    return revision + "+changes" * bool(git("status", "--porcelain", "--untracked-files=no"))


def training_curve(folder: pathlib.Path) -> None:
    """Losses, learning rate and AP over the steps of the run in `folder`."""
    visualize.training_curve(folder / "metrics.jsonl", folder / CURVE)


def draw_beside_truth(
    path: pathlib.Path,
    source: Source,
    table: evaluation.DetectionTable,
    *,
    score_threshold: float,
    samples: int = SAMPLES,
) -> None:
    """Ground truth and detections of images spread evenly over the data set."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(samples, len(source))).astype(int))
    rows, titles = [], []
    for index in chosen:
        example = source[int(index)]
        truth = visualize.Boxes(example.boxes, example.labels)
        found = of_image(table, example.image_id, source.category_ids)
        rows.append((example.image, found, truth))
        titles.append(pathlib.Path(example.file).name)
    visualize.detections_beside_truth(
        rows, source.classes, path, score_threshold=score_threshold, pairs_per_row=2, titles=titles
    )


def of_image(
    table: evaluation.DetectionTable, image_id: int, category_ids: Sequence[int]
) -> visualize.Boxes:
    """One image's detections with labels instead of category ids."""
    rows = table[table.image_id == image_id]
    label = {category: label for label, category in enumerate(category_ids)}
    labels = np.array([label[int(c)] for c in rows.category_id], np.int64)
    return visualize.Boxes(rows.box, labels, rows.score)


def write_predictions(
    folder: pathlib.Path,
    images: AnnotatedImages,
    table: evaluation.DetectionTable,
    *,
    score_threshold: float,
) -> None:
    """One annotated picture per image, and all detections with their images as COCO JSON.

    predictions.json has COCO's sections images and categories, and the results (every detection,
    also those too weak to be drawn) under annotations, each with its score.
    """
    for name, index in _picture_names(images):
        example = images[index]
        found = of_image(table, example.image_id, images.category_ids)
        strong = found.scores >= score_threshold
        drawn = visualize.draw_boxes(
            example.image,
            found.boxes[strong],
            found.labels[strong],
            found.scores[strong],
            images.classes,
        )
        encoded = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1]
        files.write_bytes(folder / name, encoded.tobytes())
    content = images.ground_truth()
    content["annotations"] = [
        {**row, "id": n} for n, row in enumerate(evaluation.coco_results(table), start=1)
    ]
    files.write_json(folder / "predictions.json", content)


def _picture_names(images: AnnotatedImages) -> Iterator[tuple[str, int]]:
    """A name for each picture; images of the same name from two folders are told apart."""
    taken: set[str] = set()
    for index, file in enumerate(images.table.files):
        name = pathlib.Path(file).stem
        while name in taken:
            name = f"{name}_{images.table.image_ids[index]}"
        taken.add(name)
        yield f"{name}.png", index
