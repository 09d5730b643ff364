"""SSD's training augmentation: colours, a larger canvas, and crops that show enough of objects.

    W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325v5,
    section 2.2 (data augmentation) and 3.6 (expansion, the "*" models).

The whole chain, in MMDetection's order (the original code changes colours first):

    config.data.canvases = ((300, 300),)
    config.data.train_transforms = [
        make(augment.expand),
        make(augment.min_iou_crop),
        make(transforms.fit, keep_ratio=False),  # warped to the canvas
        make(transforms.horizontal_flip),
        make(augment.photometric_distortion),
    ]
    config.data.eval_transforms = [make(transforms.fit, keep_ratio=False)]

and `config.data.keep_empty = False`, if images without objects are to be left out as there.

`Example.scale` stays the true ratio of present to original pixels on both axes, but `expand` and
`min_iou_crop` move the origin: like a flip, they are for training only.

Differs from the references
- Images are uint8 between transforms, so `photometric_distortion` rounds and saturates at its end
  (the original code after every step); MMDetection leaves floats outside 0..255. Negative values,
  which have no saturation and turn into speckles there, are 0 here before HSV.
- A crowd region has no say in which patch is taken, and what the patch shows of it is kept: its
  pixels must stay out of the loss. MMDetection treats it as an object.
- The search for a patch ends: after 50 modes without one the image stays whole.
"""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int64

from anchors_jax.data.records import Example
from anchors_jax.data.transforms import Transform, box_sizes, shrink_to

_ROUNDS = 50
_RULES = ("all", "any")


def photometric_distortion(
    *,
    p: float = 0.5,
    brightness: float = 32.0,
    contrast: tuple[float, float] = (0.5, 1.5),
    saturation: tuple[float, float] = (0.5, 1.5),
    hue: float = 18.0,
    swap_p: float = 0.5,
) -> Transform:
    """Change brightness, contrast, saturation and hue, each with probability p; swap channels.

    In this order, with contrast moved behind hue in half of the cases.

    Args:
      p: probability of each of the four.
      brightness: at most so many of 255 are added or subtracted.
      contrast: range (low, high) of the factor on all values.
      saturation: range of the factor on HSV's saturation, which ends at 1.
      hue: at most so many of 360 degrees are added or subtracted. The original code moves an
        8-bit hue by 18 units, which are 36 degrees.
      swap_p: probability of a random order of the channels; 0 in the original code.

    Raises:
      ValueError: a probability outside 0..1, a negative change, a range that is none.

    Source: A. G. Howard, arXiv:1312.5402, and SSD's code; MMDetection's numbers.
    """
    _check_probability("p", p)
    _check_probability("swap_p", swap_p)
    factors = {"contrast": contrast, "saturation": saturation}
    for name, value in factors.items():
        _check_range(name, value)
    if brightness < 0 or hue < 0:
        raise ValueError(f"brightness {brightness} and hue {hue} must not be negative")
    return functools.partial(
        _photometric_distortion, p=p, swap_p=swap_p, brightness=brightness, hue=hue, **factors
    )


def expand(
    *,
    p: float = 0.5,
    ratios: tuple[float, float] = (1.0, 4.0),
    fill: tuple[int, int, int] = (124, 116, 104),
    max_side: int = 4096,
) -> Transform:
    """With probability p, put the image somewhere on a canvas r times as high and as wide.

    Objects become small against the image; it is worth 2 to 3 points of mAP to SSD.

    Args:
      p: probability.
      ratios: range (low, high) of r, uniform; low is 1 at least.
      fill: colour of the canvas, RGB: the mean that the network subtracts, rounded.
      max_side: longest side of a canvas in pixels: a larger image is reduced first (12 million
        pixels would become half a gigabyte otherwise).

    Raises:
      ValueError: a probability outside 0..1, a range that is none, a colour outside 0..255.

    Source: SSD section 3.6.
    """
    _check_probability("p", p)
    _check_range("ratios", ratios)
    if ratios[0] < 1:
        raise ValueError(f"ratios {ratios} must not be below 1: the image would not fit")
    if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
        raise ValueError(f"fill must be three values in 0..255, not {fill}")
    if max_side < ratios[1]:
        raise ValueError(f"max_side {max_side} leaves no room for ratios {ratios}")
    return functools.partial(_expand, p=p, ratios=ratios, fill=tuple(fill), max_side=max_side)


def min_iou_crop(
    *,
    modes: Sequence[float] = (1.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0),
    min_scale: float = 0.3,
    aspects: tuple[float, float] = (0.5, 2.0),
    trials: int = 50,
    rule: str = "all",
) -> Transform:
    """Crop a random patch whose IoU with the objects is at least a random bound.

    An object is kept if its centre lies strictly inside the patch, which holds one at least; its
    box is clipped. In an image without objects any patch will do.

    Args:
      modes: bounds on IoU, one of which is drawn; 1.0 is the whole image, 0.0 any patch.
      min_scale: a patch has at least this share of the image's height and width; both uniform.
      aspects: range of a patch's height / width.
      trials: patches tried before another mode is drawn.
      rule: whether "all" objects must reach the bound (MMDetection, and the results reproduced
        with it), or "any" of them (the original code, torchvision).

    Raises:
      ValueError: a mode outside 0..1, a scale outside (0, 1], a range that is none, another rule.

    Source: SSD section 2.2. It says patches of 0.1 to 1 of the image; all code has 0.3 per side.
    """
    modes = tuple(modes)
    if not modes or not all(0 <= mode <= 1 for mode in modes):
        raise ValueError(f"modes must be bounds on IoU in 0..1, not {modes}")
    if not 0 < min_scale <= 1:
        raise ValueError(f"min_scale must be in (0, 1], not {min_scale}")
    _check_range("aspects", aspects)
    if trials < 1:
        raise ValueError(f"trials must be 1 or more, not {trials}")
    if rule not in _RULES:
        raise ValueError(f"rule must be one of {_RULES}, not {rule!r}")
    options = {"modes": modes, "min_scale": min_scale, "aspects": aspects}
    return functools.partial(_min_iou_crop, trials=trials, rule=rule, **options)


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability, not {value}")


def _check_range(name: str, value: tuple[float, float]) -> None:
    if len(value) != 2 or not 0 <= value[0] <= value[1] < np.inf:
        raise ValueError(f"{name} must be a range 0 <= low <= high, not {value}")


def _photometric_distortion(
    example: Example,
    rng: np.random.Generator,
    *,
    p: float,
    swap_p: float,
    brightness: float,
    contrast: tuple[float, float],
    saturation: tuple[float, float],
    hue: float,
) -> Example:
    brighter, contrasted, saturated, turned = rng.random(4) < p
    swapped, contrast_first = rng.random() < swap_p, rng.random() < 0.5
    shift = rng.uniform(-brightness, brightness) if brighter else 0.0
    gain = rng.uniform(*contrast) if contrasted else 1.0
    factor = rng.uniform(*saturation) if saturated else 1.0
    degrees = rng.uniform(-hue, hue) if turned else 0.0
    order = rng.permutation(3)
    image = example.image
    if brighter or contrasted or saturated or turned:
        first, last = (gain, 1.0) if contrast_first else (1.0, gain)
        values = image * np.float32(first) + np.float32(first * shift)
        if saturated or turned:
            values = _recoloured(values, factor, degrees)
        image = cv2.convertScaleAbs(np.maximum(values, 0), alpha=last)  # rounds and saturates
    if swapped:
        channels = cv2.split(image)
        image = cv2.merge([channels[i] for i in order])
    return example if image is example.image else example.replace(image=image)


def _recoloured(
    image: Float32[np.ndarray, "h w 3"], factor: float, degrees: float
) -> Float32[np.ndarray, "h w 3"]:
    """RGB with its saturation multiplied and its hue turned; the largest channel may exceed 255."""
    hue, saturation, value = cv2.split(cv2.cvtColor(np.maximum(image, 0), cv2.COLOR_RGB2HSV))
    saturation = np.minimum(saturation * np.float32(factor), 1)
    hue += np.float32(degrees % 360)
    hue -= np.float32(360) * (hue >= 360)
    return cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB)


def _expand(
    example: Example,
    rng: np.random.Generator,
    *,
    p: float,
    ratios: tuple[float, float],
    fill: tuple[int, int, int],
    max_side: int,
) -> Example:
    if rng.random() >= p:
        return example
    ratio = rng.uniform(*ratios)
    limit = int(max_side / ratio)
    example = shrink_to(example, (limit, limit))
    height, width = example.size
    room = np.array([int(ratio * height) - height, int(ratio * width) - width])
    drawn = rng.uniform(0, (ratio - 1) * np.array([height, width]))
    top, left = before = np.minimum(drawn.astype(int), room).tolist()
    bottom, right = (room - before).tolist()
    canvas = cv2.copyMakeBorder(
        example.image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=fill
    )
    return example.replace(image=canvas, boxes=example.boxes + np.float32([left, top, left, top]))


def _min_iou_crop(
    example: Example,
    rng: np.random.Generator,
    *,
    modes: tuple[float, ...],
    min_scale: float,
    aspects: tuple[float, float],
    trials: int,
    rule: str,
) -> Example:
    objects = example.boxes[~example.crowd]
    for _ in range(_ROUNDS):
        mode = modes[rng.integers(len(modes))]
        if mode == 1:
            return example
        patches = _patches(rng, example.size, min_scale, aspects, trials)
        good = _accepted(patches, objects, mode, rule)
        if good.any():
            return _cropped(example, patches[good.argmax()])
    return example


def _patches(
    rng: np.random.Generator,
    size: tuple[int, int],
    min_scale: float,
    aspects: tuple[float, float],
    trials: int,
) -> Int64[np.ndarray, "t 4"]:
    """Of so many random boxes in whole pixels, those with an allowed aspect and some area."""
    full = np.array(size[::-1])
    random = rng.random((trials, 4))
    side = (min_scale + (1 - min_scale) * random[:, :2]) * full
    corner = random[:, 2:] * (full - side)
    patches = np.concatenate([corner, corner + side], 1).astype(np.int64)
    aspect = side[:, 1] / side[:, 0]
    allowed = (aspects[0] <= aspect) & (aspect <= aspects[1])
    return patches[allowed & (patches[:, 2:] > patches[:, :2]).all(1)]


def _accepted(
    patches: Int64[np.ndarray, "t 4"],
    objects: Float32[np.ndarray, "n 4"],
    mode: float,
    rule: str,
) -> Bool[np.ndarray, " t"]:
    if not len(objects):
        return np.ones(len(patches), bool)
    reached = _iou(patches, objects) >= mode
    enough = reached.all(1) if rule == "all" else reached.any(1)
    return enough & _holds_centre(patches, objects).any(1)


def _iou(
    patches: Int64[np.ndarray, "t 4"], boxes: Float32[np.ndarray, "n 4"]
) -> Float32[np.ndarray, "t n"]:
    """IoU of every patch with every box. Patches have an area."""
    patches = patches.astype(np.float32)
    low = np.maximum(patches[:, None, :2], boxes[:, :2])
    high = np.minimum(patches[:, None, 2:], boxes[:, 2:])
    common = np.maximum(high - low, 0).prod(2)
    areas = box_sizes(patches).prod(1)[:, None] + box_sizes(boxes).prod(1)
    return common / (areas - common)


def _holds_centre(
    patches: Int64[np.ndarray, "t 4"], boxes: Float32[np.ndarray, "n 4"]
) -> Bool[np.ndarray, "t n"]:
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    above = patches[:, None, :2] < centre
    return (above & (centre < patches[:, None, 2:])).all(2)


def _cropped(example: Example, patch: Int64[np.ndarray, "4"]) -> Example:
    """The patch of the image, objects centred in it, and all it shows of crowd regions."""
    left, top, right, bottom = patch.tolist()
    limit = np.float32([right - left, bottom - top])
    boxes = np.clip(example.boxes - np.float32([left, top, left, top]), 0, np.tile(limit, 2))
    shown = (box_sizes(boxes) > 0).all(1)
    kept = np.where(example.crowd, shown, _holds_centre(patch[None], example.boxes)[0])
    image = np.ascontiguousarray(example.image[top:bottom, left:right])
    return example.replace(image=image, boxes=boxes).keep(kept)
