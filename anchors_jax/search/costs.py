"""What a set of anchors costs: boxes to decode and suppress, and multiply-adds of a head.

Bonnaerens et al., "Anchor pruning for object detection", CVIU 2022, arXiv:2104.00432. Multiply-adds
are those of the head's convolutions (the paper's FLOPs): no bias, no backbone, nothing after the
head. Heads that exist here say themselves what they cost (`models.parts.PrunableHead`). Each
function takes the number of prototypes A_l that remain on every level.
"""

from collections.abc import Sequence


def boxes(cells: Sequence[int], kept: Sequence[int]) -> int:
    """Boxes that leave the head: sum of H_l W_l A_l."""
    return sum(area * count for area, count in zip(cells, kept, strict=True))


def ssdlite_macs(
    cells: Sequence[int], kept: Sequence[int], *, channels: Sequence[int], outputs: int
) -> int:
    """Head of SSDLite: scores and offsets each by a 3x3 depthwise and a 1x1 convolution.

    A level without anchors runs nothing.

    Args:
      cells: H_l W_l of every level.
      kept: A_l.
      channels: C_l of the feature maps.
      outputs: numbers per anchor: scores (with SSD's background) and 4 offsets.
    """
    return sum(
        area * (2 * 9 * width + width * count * outputs)
        for area, width, count in zip(cells, channels, kept, strict=True)
        if count
    )
