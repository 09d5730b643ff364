"""Drawings on which a question can be decided: overrides of a table at bench scale.

All are 2000 images of 128x128 drawn by `anchors_jax.data.shapes`, five epochs, 1250 steps of 8:
what differs from `configs.common.shapes_bench` is the property that the question is about. A table
has `overrides={"bench": protocol.CROWDED}`.
"""

from typing import Any


def drawn(**style: Any) -> dict[str, Any]:
    """Overrides that draw training and evaluation data with these keywords of `shapes`."""
    return {
        f"data.{split}.{key}": value for split in ("train", "eval") for key, value in style.items()
    }


# A dense detector without its quality branch.
NO_QUALITY = {"detector.model.head.quality": None, "detector.objective.quality": None}

# As every config's bench scale: one to five well-separated objects, sides 20 to 102, ratio up to 2.
EASY: dict[str, Any] = {}
# Do more scales per location help? Sides 8 to 115, almost four octaves, nearly square.
SCALES = drawn(min_size=8.0, max_size=0.9, max_aspect=1.25)
# Do more aspect ratios help? One octave of sides, ratios up to 5.
ASPECTS = drawn(min_size=24.0, max_size=0.4, max_aspect=5.0)
# Both at once: what several anchors per location are for.
VARIED = drawn(min_size=10.0, max_size=0.8, max_aspect=4.0)
# Whose is a place where boxes overlap? Four to ten objects, most of them beside another: a third of
# an object's box lies in that of another one.
CROWDED = drawn(objects=(4, 10), min_size=16.0, max_size=0.5, crowding=0.8, occlusion=0.6)
