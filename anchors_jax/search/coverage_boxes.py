"""The objects of a data set as the network sees them: boxes after the resize, without any image.

The config's transforms run on blank pictures of the annotated sizes. What a transform does to a box
depends on the size of its image alone unless it draws random numbers, so that all images of one
size are resized in one go, and 118,000 images take seconds; a transform that does draw random
numbers sees every image by itself, once.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from anchors_jax.data import transforms as T
from anchors_jax.data.annotated import AnnotatedImages
from anchors_jax.data.records import Example
from anchors_jax.data.table import Table

Canvases = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkBoxes:
    """n objects of N images, crowd regions among them, in network pixels."""

    boxes: Float32[np.ndarray, "n 4"]
    row: Int64[np.ndarray, " n"]  # of the data set's table of annotations
    image: Int64[np.ndarray, " n"]  # position in the data set, ascending
    labels: Int32[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]
    area: Float64[np.ndarray, " n"]  # as annotated, in original pixels: what COCO's APs go by
    canvas: Int64[np.ndarray, " N"]  # of every image, an index
    sizes: Int32[np.ndarray, "N 2"]  # of every image, (height, width) on its canvas

    @property
    def wh(self) -> Float32[np.ndarray, "n 2"]:
        """Width and height of every box."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    def take(self, chosen: np.ndarray) -> "NetworkBoxes":
        """The chosen boxes (mask or indices); all images stay."""
        columns = ("boxes", "row", "image", "labels", "crowd", "area")
        return dataclasses.replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    def objects(self) -> "NetworkBoxes":
        """The same without crowd regions."""
        return self.take(~self.crowd)


def network_boxes(
    source: AnnotatedImages,
    *,
    canvases: Canvases,
    transforms: Sequence[T.Transform],
    seed: int = 0,
) -> NetworkBoxes:
    """Every annotated box of a data set in pixels of the network's input.

    Images go to the canvas, and are reduced to fit it, as in the loader; boxes that a transform
    drops are missing. Where an image has another size than its annotation says, the annotation is
    believed, since no image is read.

    Args:
      source: a data set with a table of annotations, as all readers return.
      canvases: (height, width) of the network's inputs.
      transforms: of training or evaluation. They see blank images.
      seed: of transforms that draw random numbers.
    """
    table = source.table
    run = T.compose(transforms)
    canvases = [(int(height), int(width)) for height, width in canvases]
    sizes = np.zeros((len(source), 2), np.int32)
    chosen = np.zeros(len(source), np.int64)
    parts = []
    for images in _by_size(table.sizes):
        canvas = T.choose_canvas(*table.sizes[images[0]].tolist(), canvases)
        chosen[images] = canvas
        for group, example in _resized(table, images, run, canvases[canvas], seed):
            sizes[group] = example.size
            parts.append((example.annotation_ids, example.boxes))
    row = np.concatenate([ids for ids, _ in parts]) if parts else np.zeros(0, np.int64)
    boxes = np.concatenate([b for _, b in parts]) if parts else np.zeros((0, 4), np.float32)
    order = np.argsort(row)  # rows of the table lie image by image
    row, objects = row[order], table.objects
    return NetworkBoxes(
        boxes=boxes[order].astype(np.float32),
        row=row,
        image=objects.image[row],
        labels=objects.labels[row],
        crowd=objects.crowd[row],
        area=objects.area[row],
        canvas=chosen,
        sizes=sizes,
    )


def _by_size(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of the images of each size (height, width)."""
    _, inverse = np.unique(sizes, axis=0, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(inverse.reshape(-1)))
    return iter(np.split(order, ends[:-1])) if len(sizes) else iter(())


def _resized(
    table: Table, images: np.ndarray, run: T.Transform, canvas: tuple[int, int], seed: int
) -> Iterator[tuple[np.ndarray, Example]]:
    """Images of one size through the transforms: all at once, or each by itself if they are random.

    Annotation ids of the results are rows of the table.
    """
    rng = np.random.default_rng((seed, int(images[0])))
    before = rng.bit_generator.state
    example = _transformed(_blank(table, images), run, canvas, rng)
    if rng.bit_generator.state == before:
        yield images, example
        return
    for image in images:
        rng = np.random.default_rng((seed, int(image)))
        yield image[None], _transformed(_blank(table, image[None]), run, canvas, rng)


def _transformed(example: Example, run: Any, canvas: tuple[int, int], rng: Any) -> Example:
    return T.shrink_to(run(example.replace(canvas=canvas), rng), canvas)


def _blank(table: Table, images: np.ndarray) -> Example:
    """The objects of images of one size on one black picture."""
    spans = [np.arange(*table.starts[image : image + 2]) for image in images]
    rows = np.concatenate(spans).astype(np.int64)
    objects = table.objects.take(rows)
    corner, extent = objects.xywh[:, :2], objects.xywh[:, 2:]
    return Example(
        image=np.zeros((*table.sizes[images[0]].tolist(), 3), np.uint8),
        image_id=int(table.image_ids[images[0]]),
        file=table.files[images[0]],
        boxes=np.concatenate([corner, corner + extent], 1).astype(np.float32),
        labels=objects.labels,
        crowd=objects.crowd,
        area=objects.area.astype(np.float32),
        annotation_ids=rows,
    )
