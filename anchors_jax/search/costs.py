"""What a set of anchors costs: boxes to decode and suppress, and multiply-adds of the head.

Bonnaerens et al., "Anchor pruning for object detection", CVIU 2022, arXiv:2104.00432. Multiply-adds
are those of the head's convolutions (the paper's FLOPs): no bias, no backbone, nothing after the
head. Each function takes the number of prototypes A_l that remain on every level.
"""

from collections.abc import Sequence


def boxes(cells: Sequence[int], kept: Sequence[int]) -> int:
    """Boxes that leave the head: sum of H_l W_l A_l."""
    return sum(area * count for area, count in zip(cells, kept, strict=True))


def ssd_macs(
    cells: Sequence[int], kept: Sequence[int], *, channels: Sequence[int], outputs: int
) -> int:
    """Head of SSD: one 3x3 convolution per level to the scores and offsets of its anchors.

    Args:
      cells: H_l W_l of every level.
      kept: A_l.
      channels: C_l of the feature maps.
      outputs: numbers per anchor: scores (with SSD's background) and 4 offsets.
    """
    return sum(
        area * 9 * width * count * outputs
        for area, width, count in zip(cells, channels, kept, strict=True)
    )


def ssdlite_macs(
    cells: Sequence[int], kept: Sequence[int], *, channels: Sequence[int], outputs: int
) -> int:
    """Head of SSDLite: scores and offsets each by a 3x3 depthwise and a 1x1 convolution.

    A level without anchors runs nothing. Arguments as in `ssd_macs`.
    """
    return sum(
        area * (2 * 9 * width + width * count * outputs)
        for area, width, count in zip(cells, channels, kept, strict=True)
        if count
    )


def shared_head_macs(
    cells: Sequence[int],
    kept: Sequence[int],
    *,
    outputs: int,
    depth: int = 4,
    width: int = 256,
    channels: int | None = None,
) -> int:
    """Head of RetinaNet: two towers and an output convolution, the same on every level.

    Args:
      cells: H_l W_l of every level.
      kept: A_l; a level without anchors runs nothing, every other one predicts max A_l anchors.
      outputs: numbers per anchor: scores, 4 codes, 1 more for a quality branch.
      depth, width: convolutions of a tower and their channels.
      channels: of the feature maps; None: `width`.
    """
    channels = width if channels is None else channels
    largest = max(kept, default=0)
    tower = 2 * 9 * (channels * width + (depth - 1) * width * width) if depth else 0
    into = width if depth else channels
    return sum(
        area * (tower + 9 * into * largest * outputs)
        for area, count in zip(cells, kept, strict=True)
        if count
    )
