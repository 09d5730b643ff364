"""COCO's classes: which columns of a 91-class network are the 80 that the data set has.

COCO numbers its categories 1..90 with gaps. torchvision's networks have a column for every number,
0 (background) included; data sets, and all other networks, count the 80 categories from 0.
"""

import numpy as np

from anchors_jax.weights.reading import WeightsError

COCO = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train",
    8: "truck", 9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign",
    14: "parking meter", 15: "bench", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep",
    21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 27: "backpack",
    28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove",
    41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass",
    47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote",
    76: "keyboard", 77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink",
    82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear",
    89: "hair drier", 90: "toothbrush",
}  # fmt: skip
NUMBERS = 91  # 0..90


def sigmoid_columns(count: int) -> list[int]:
    """Columns of a 91-class sigmoid network that a network of `count` classes takes.

    80: COCO's categories; 90: all but the background's; 91: all, as they are. WeightsError
    otherwise.
    """
    columns = {80: list(COCO), 90: list(range(1, NUMBERS)), NUMBERS: list(range(NUMBERS))}
    if count not in columns:
        raise WeightsError(f"its 91 classes can become 80, 90 or 91, not {count}")
    return columns[count]


def softmax_columns(count: int) -> list[int]:
    """The same for a softmax over 91, whose background is first; ours is last, and counted.

    81: COCO's categories and the background; 91: all. WeightsError otherwise.
    """
    columns = {81: [*COCO, 0], NUMBERS: [*range(1, NUMBERS), 0]}
    if count not in columns:
        raise WeightsError(f"its 91 classes can become 80 or 90 and background, not {count - 1}")
    return columns[count]


def choose(values: np.ndarray, columns: list[int]) -> np.ndarray:
    """Columns of each anchor on the last axis, which is anchor-major: channel = anchor * 91 + k."""
    grouped = values.reshape(*values.shape[:-1], -1, NUMBERS)
    return grouped[..., columns].reshape(*values.shape[:-1], -1)
