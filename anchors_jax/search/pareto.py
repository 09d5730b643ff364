"""Configurations of anchors, and the front of those that nothing beats in accuracy and cost.

Bonnaerens et al., "Anchor pruning for object detection", CVIU 2022, arXiv:2104.00432.

Metrics are compared after rounding to a quantum (0.001): "better" means better by at least one
quantum, and the front holds at most one node per step of mAP. The search depends on it: without
rounding no removal is ever free.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from anchors_jax.search.layout import Removed

Metrics = tuple[int | float, ...]  # mAP first, then AP50, AP75, APs, APm, APl; rounded
Rule = Literal["weak", "strict"]


@dataclasses.dataclass(frozen=True)
class Node:
    """A configuration that was evaluated: the prototypes it lacks, its metrics and its cost."""

    removed: Removed
    metrics: Metrics
    cost: int | float

    @property
    def map(self) -> int | float:
        """The rounded mAP."""
        return self.metrics[0]

    @property
    def key(self) -> tuple[int, ...]:
        """The removed ids in order: the node's name."""
        return tuple(sorted(self.removed))

    @property
    def rank(self) -> tuple[int | float, int | float, tuple[int, ...]]:
        """Sorts the most accurate first, then the cheapest, then by name."""
        return -self.map, self.cost, self.key


Front = tuple[Node, ...]


def quantize(values: Sequence[float], quantum: float = 1e-3) -> Metrics:
    """Metrics rounded to multiples of `quantum`, equal floats for equal multiples; 0: as they are.

    MMDetection v2 reports COCO metrics with three decimals, which the published search sees.
    """
    if not quantum:
        return tuple(float(value) for value in values)
    # The second rounding makes 0.256 of 256 * 0.001, so that results read as they were meant.
    return tuple(round(round(value / quantum) * quantum, 9) for value in values)


def insert(front: Front, node: Node, *, rule: Rule = "weak") -> tuple[Front, bool]:
    """The front with `node`, and whether it was taken in.

    Nodes that `node` beats are dropped first, whether or not it is then itself rejected by what
    remains; a node that is already there changes nothing.

    Args:
      rule: what a node must be to be dropped. "weak" (the code behind the published front): no
        more accurate and no cheaper. "strict" (the later code): less accurate and no cheaper, or
        equal in all metrics and more expensive; it can leave two nodes of equal mAP. On a full tie
        of mAP and cost, weak keeps the newcomer and strict the incumbent.
    """
    if any(node.removed == other.removed for other in front):
        return front, False
    beaten = _weakly_beaten if rule == "weak" else _strictly_beaten
    rest = tuple(other for other in front if not beaten(other, node))
    if any(other.map >= node.map and other.cost <= node.cost for other in rest):
        return rest, False
    return (*rest, node), True


def _weakly_beaten(old: Node, new: Node) -> bool:
    return old.map <= new.map and old.cost >= new.cost


def _strictly_beaten(old: Node, new: Node) -> bool:
    worse = old.map < new.map and old.cost >= new.cost
    return worse or (old.metrics == new.metrics and old.cost > new.cost)


def ordered(front: Front) -> Front:
    """The front from the most accurate to the cheapest."""
    return tuple(sorted(front, key=lambda node: node.rank))
