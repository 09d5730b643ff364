"""Objects of whatever class as one class: the data of region proposals."""

from typing import Any

import numpy as np

from anchors_jax.data.records import Example, Source

NAME, CATEGORY = "object", 1


class OneClass:
    """A `Source` like another one, with the label 0 and the category id 1 for every object."""

    classes = (NAME,)
    category_ids = (CATEGORY,)

    def __init__(self, source: Source):
        self._source = source

    def __repr__(self) -> str:
        return f"<{self._source!r} as one class>"

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        return example.replace(labels=np.zeros_like(example.labels))

    @property
    def problems(self) -> Any:
        return self._source.problems

    @property
    def sizes(self) -> Any:
        return self._source.sizes

    @property
    def image_ids(self) -> Any:
        return self._source.image_ids

    @property
    def counts(self) -> Any:
        return self._source.counts

    def ground_truth(self) -> dict[str, Any]:
        """The other source's, with one category."""
        truth = self._source.ground_truth()
        annotations = [row | {"category_id": CATEGORY} for row in truth["annotations"]]
        categories = [{"id": CATEGORY, "name": NAME}]
        return truth | {"annotations": annotations, "categories": categories}
