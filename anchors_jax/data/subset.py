"""A part of a data set: the first images of it, or those with objects."""

import dataclasses
import functools

import numpy as np

from anchors_jax.data.annotated import AnnotatedImages


def first(*, source: AnnotatedImages, count: int, with_objects: bool = True) -> AnnotatedImages:
    """The first `count` images of a source, by default of those that hold objects.

    Raises:
      ValueError: the source has fewer such images.
    """
    chosen = np.arange(len(source))
    if with_objects:
        chosen = np.flatnonzero(source.counts[:, 0] > 0)
    if len(chosen) < count:
        raise ValueError(f"{source!r} has {len(chosen)} images to choose from, not {count}")
    chosen = chosen[:count]
    table = source.table
    lengths = np.diff(table.starts)[chosen]
    rows = np.concatenate([np.arange(*table.starts[i : i + 2]) for i in chosen])
    objects = table.objects.take(rows.astype(np.int64))
    part = dataclasses.replace(
        table,
        image_ids=table.image_ids[chosen],
        files=tuple(table.files[i] for i in chosen),
        sizes=table.sizes[chosen],
        objects=dataclasses.replace(objects, image=np.repeat(np.arange(count), lengths)),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )
    return AnnotatedImages(
        part,
        functools.partial(_encoded, source, chosen),
        where=f"{source.where}, first {count}",
        problems=source.problems,
    )


def _encoded(source: AnnotatedImages, chosen: np.ndarray, index: int) -> bytes:
    return source.encoded(int(chosen[index]))
