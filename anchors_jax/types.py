"""The nouns of the library, and the letters that every shape comment uses.

Axes
    B  images in a batch          K  classes (0..K-1; background is no class)
    G  object slots of an image   L  pyramid levels
    A  anchors of an image        R  regions of interest
    P  cells (locations)          D  detections of an image
    S  prototype shapes per cell

Boxes are `x0, y0, x1, y1` in float32 pixels of the resized and padded network input, with
width = x1 - x0. Original pixels appear only in `evaluation` and `predict`. Sizes are
(height, width). Anchors are ordered level, row, column, prototype (fastest); A = sum of P_l * S_l.

A type is written for one image; a leading B is added by the one `vmap` in `detectors/`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped


@struct.dataclass(kw_only=True)
class Targets:
    """Objects of one image in G slots. `valid` is the only truth about padding.

    Whatever an invalid slot contains must not matter to anything. A crowd slot is valid: it is a
    region whose objects are not told apart, so it never becomes a positive and anchors inside it
    are left out of the loss.
    """

    boxes: Float[Array, "*B G 4"]
    labels: Int[Array, "*B G"]  # 0..K-1
    valid: Bool[Array, "*B G"]
    crowd: Bool[Array, "*B G"]
    masks: Shaped[Array, "*B G H W"] | None = None

    @property
    def objects(self) -> Bool[Array, "*B G"]:
        """Slots that hold one real object: valid and not a crowd region."""
        return self.valid & ~self.crowd


@struct.dataclass(kw_only=True)
class Batch:
    """Images on one canvas with their objects. `image_id` is -1 for a slot that pads a batch."""

    image: Shaped[Array, "B H W 3"]  # RGB, uint8 or float32 in 0..255; beyond image_size: anything
    image_size: Int[Array, "B 2"]  # valid height, width on the canvas
    image_id: Int[Array, "B"]
    scale: Float[Array, "B 2"]  # (x, y): network pixels per original pixel
    targets: Targets


@struct.dataclass(kw_only=True)
class Anchors:
    """All anchors of one canvas, or boxes from somewhere else (`anchors.free`): regions.

    `valid` is False for anchors whose cell lies in the padding of the canvas: such anchors take
    part in no assignment, no loss and no detection. Boxes on no grid are one level without strides.
    """

    boxes: Float[Array, "A 4"]
    cell: Int[Array, "A"]  # index of the location, 0..P-1
    shape: Int[Array, "A"]  # which prototype of which level, 0..(L*S)-1
    valid: Bool[Array, "*B A"]
    level_sizes: tuple[tuple[int, int, int], ...] = struct.field(pytree_node=False)  # rows, cols, S
    strides: tuple[tuple[float, float], ...] = struct.field(pytree_node=False)  # (y, x) pixels

    @property
    def level_counts(self) -> tuple[int, ...]:
        """Number of anchors of each level, A_l."""
        return tuple(rows * columns * shapes for rows, columns, shapes in self.level_sizes)

    def stride_of_anchor(self) -> Float[Array, "A 2"]:
        """(x, y) stride of each anchor's level, in pixels.

        Raises:
            ValueError: the boxes lie on no grid.
        """
        if not self.strides:
            raise ValueError("boxes on no grid have no stride")
        pairs = np.asarray([(x, y) for y, x in self.strides], np.float32)
        return jnp.asarray(np.repeat(pairs, self.level_counts, axis=0))


@struct.dataclass(kw_only=True)
class DensePredictions:
    """Outputs of a dense head for every anchor. `maps` holds each level's (rows, columns)."""

    logits: Float[Array, "*B A K"]
    codes: Float[Array, "*B A 4"]
    quality: Float[Array, "*B A"] | None = None
    maps: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)


@struct.dataclass(kw_only=True)
class GuidedPredictions(DensePredictions):
    """Outputs of a head that also predicts its anchors: their locations and shapes.

    One anchor per cell, so A = P.
    """

    cell_logits: Float[Array, "*B P"]  # whether the cell is the centre of an object
    shape_codes: Float[Array, "*B P 2"]  # width and height of its anchor


@struct.dataclass(kw_only=True)
class SemiAnchoredPredictions:
    """Outputs of a head that classifies cells and regresses S anchors per cell.

    `anchor_logits` say which of its anchors is a cell's object; None: the head does not say. On
    levels with fewer than S anchors per cell the rows end in padding, which must not matter.
    """

    logits: Float[Array, "*B P K"]
    anchor_logits: Float[Array, "*B P S"] | None = None
    codes: Float[Array, "*B P S 4"]
    maps: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)


@struct.dataclass(kw_only=True)
class Predicted:
    """What the network predicts for each anchor, as assigners see it: no gradient passes."""

    boxes: Float[Array, "*B A 4"]  # decoded, not clipped
    logits: Float[Array, "*B A K"]  # the head's class outputs: with softmax, K + 1 columns
    quality: Float[Array, "*B A"] | None = None  # logits of the quality branch, if there is one


@struct.dataclass(kw_only=True)
class Assignment:
    """Which object each anchor is responsible for. Negative = neither positive nor ignored.

    `gt` is meaningful only where `positive`; elsewhere it is 0, so that gathering with it is safe.
    `score` is the target of a positive anchor's own class, in 0..1; None: 1. `weight` multiplies
    the losses of an anchor, and a positive one counts as much in the divisor; None: 1. `signals`:
    scalars of the image that the method logs.
    """

    gt: Int[Array, "*B A"]
    positive: Bool[Array, "*B A"]
    ignored: Bool[Array, "*B A"]
    score: Float[Array, "*B A"] | None = None
    weight: Float[Array, "*B A"] | None = None
    signals: dict[str, Float[Array, "*B"]] = struct.field(default_factory=dict)


@struct.dataclass(kw_only=True)
class Selection:
    """The anchors of an assignment to train, and what they count.

    `count` is the image's share of the divisor of its terms. `weight` multiplies the losses of an
    anchor; None: 1. `signals`: scalars of the image that the selection logs.
    """

    trained: Bool[Array, "*B A"]
    count: Float[Array, "*B"]
    weight: Float[Array, "*B A"] | None = None
    signals: dict[str, Float[Array, "*B"]] = struct.field(default_factory=dict)


@struct.dataclass(kw_only=True)
class LocationAssignment:
    """The class of each cell, and the objects that its anchors regress to."""

    label: Int[Array, "*B P"]  # 0..K-1; meaningful only where positive, elsewhere 0
    positive: Bool[Array, "*B P"]
    ignored: Bool[Array, "*B P"]
    gt: Int[Array, "*B P S"]  # meaningful only where regressed, elsewhere 0
    regressed: Bool[Array, "*B P S"]
    prior: Bool[Array, "*B P S"]  # anchors that had the label of their positive cell from the start


@struct.dataclass(kw_only=True)
class Term:
    """One loss term before division: the sum over the image, and its share of the divisor."""

    total: Float[Array, "*B"]
    count: Float[Array, "*B"]


Terms = dict[str, Term]


class Moment(NamedTuple):
    """When and by which draw a loss is computed."""

    step: Int[Array, ""] | int  # batches trained before this one
    key: Any = None  # of this image in this step; None: nothing may be drawn


# A fresh network, and a trained one: past all that changes at the beginning of a training.
START, END = Moment(0), Moment(2**31 - 1)


@struct.dataclass(kw_only=True)
class Candidates:
    """Every decoded box before NMS. Scores are 0 where the anchor does not take part.

    `quality` is what a head with a quality branch says about each box (centerness, IoU). It stays
    apart from the scores, because thresholds and rankings differ in which of the two they look at:
    `nms.Rule` combines them.
    """

    boxes: Float[Array, "*B A 4"] | Float[Array, "*B A K 4"]  # one per anchor, or one per class
    scores: Float[Array, "*B A K"]  # class scores in 0..1
    quality: Float[Array, "*B A"] | None = None  # in 0..1
    shape: Int[Array, "*B A"]  # prototype of each anchor, as in Anchors
    level_counts: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass(kw_only=True)
class Detections:
    """Final boxes of one image, best first, in D slots."""

    boxes: Float[Array, "*B D 4"]
    scores: Float[Array, "*B D"]
    labels: Int[Array, "*B D"]
    valid: Bool[Array, "*B D"]
    masks: Shaped[Array, "*B D H W"] | None = None


class Codec(NamedTuple):
    """A pair of inverse maps between boxes and what the network regresses.

    `encode(boxes [..., 4], anchors [..., 4]) -> codes [..., 4]`;
    `decode(codes [..., 4], anchors [..., 4]) -> boxes [..., 4]`.
    Codes of shapes alone are [..., 2].
    """

    encode: Callable[..., Array]
    decode: Callable[..., Array]


class Objective(NamedTuple):
    """The two readings of one head's output, each for one image, and a look at the first.

    `loss(predictions, anchors, targets, moment) -> (Terms, dict of scalar statistics)`;
    `decode(predictions, anchors, image_size) -> Candidates`;
    `match(predictions, anchors, targets, moment) -> Assignment`: which anchors learn to find an
    object, for logs and pictures. Soft methods say what they mean by it; the loss does not depend
    on it. A `moment` may be left out: it is then `START` for the loss and `END` for a match.
    `place(predictions, anchors) -> Anchors`: the boxes that the next stage starts from, valid where
    detections may come from (Guided Anchoring's anchors); None: the anchors stay as they are.
    `assign`: the assigner that classes and boxes are learned by, for tools that run it without a
    network (`assign.frame.assigned`, with `ignore_iof`); None: the method has none.
    """

    loss: Callable[..., tuple[Terms, dict[str, Array]]]
    decode: Callable[..., Candidates]
    match: Callable[..., Assignment]
    place: Callable[..., Anchors] | None = None
    assign: Callable[..., Assignment] | None = None
    ignore_iof: float | None = 0.5


class Parts(NamedTuple):
    """What a detector is made of, for tools that look inside.

    `model`: the network; its `parts` are the names under which its parameters lie;
    `heads`: by name, the parts of it that predict for anchors;
    `maps(canvas) -> ((rows, columns), ...)` of the feature maps that they read, on a canvas;
    `anchors(maps=, canvas=) -> Anchors`, such as `anchors.Grid`;
    `objective`: loss and decoding; `detect(candidates) -> Detections`, such as `nms.Rule`;
    `pad_divisor`: as `anchors.inside`.
    """

    model: Any
    heads: dict[str, Any]
    maps: Callable[[tuple[int, int]], tuple[tuple[int, int], ...]]
    anchors: Callable[..., Anchors]
    objective: Objective
    detect: Callable[[Candidates], Detections]
    pad_divisor: int | None


class Detector(NamedTuple):
    """Pure functions; the training loop knows nothing else about a method.

    `init(key, canvas) -> variables`;
    `loss(variables, batch, key, step) -> (Terms with a leading B, statistics with a leading B,
    updates to the variables' non-parameter collections)`; `key` is the same on all devices;
    `score(variables, batch) -> Candidates` and `predict(variables, batch) -> Detections`, both
    with a leading B;
    `match(variables, batch) -> (Assignment with a leading B, Anchors)`, for logs and pictures.
    `place(variables, batch) -> Anchors` with a leading B, where the objective has a `place`.
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    score: Callable[..., Candidates]
    predict: Callable[..., Detections]
    match: Callable[..., tuple[Assignment, Anchors]]
    place: Callable[..., Anchors] | None = None
    parts: Parts | None = None
