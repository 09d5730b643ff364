"""Tree search over subsets of anchors: remove one more at a time, keep what the front accepts.

Bonnaerens et al., "Anchor pruning for object detection", CVIU 2022, arXiv:2104.00432, with the
details of its code: shortcuts take the *first* child that is free or an improvement, in the order
of the moves, and leave later siblings unevaluated; a node that was accepted is expanded even if it
is beaten later. Open nodes are taken best first (mAP, cost, name), so that two runs agree; the
paper's code takes them in the arbitrary order of a hash set.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from anchors_jax.search.layout import Layout, Removed
from anchors_jax.search.pareto import Front, Metrics, Node, Rule, insert, ordered

# (configuration, the configuration it comes from) -> rounded metrics
Evaluate = Callable[[Removed, Removed | None], Metrics]
Cost = Callable[[Removed], int | float]
Moves = Callable[[Removed], Iterable[Removed]]
Progress = Callable[[Front, int], None]  # the front so far, open nodes


class Found(NamedTuple):
    """The result of a search: the front, best first, and every node that was expanded."""

    front: Front
    visited: frozenset[Removed]


def tree_search(
    evaluate: Evaluate,
    cost: Cost,
    moves: Moves,
    *,
    min_map: float = 0.2,
    rule: Rule = "weak",
    skip_dominated: bool = False,
    progress: Progress | None = None,
) -> Found:
    """Search from the full set of anchors until no open node is left.

    Args:
      evaluate: metrics of a configuration; asked again for configurations it has seen.
      cost: of a configuration, any unit.
      moves: configurations that remove a little more: `single_moves`, `shared_moves`.
      min_map: children below are dropped (the paper's value on COCO).
      rule: of the front, see `pareto.insert`.
      skip_dominated: do not expand nodes that the front has dropped again (the paper does).
      progress: called after each expanded node.
    """
    node_of = _nodes(evaluate, cost)
    root = node_of(frozenset(), None)
    front: Front = (root,)
    heap, visited = [(root.rank, root)], set()
    while heap:
        _, parent = heapq.heappop(heap)
        if parent.removed in visited or (skip_dominated and parent not in front):
            continue
        for child in _children(parent, moves, node_of, min_map, rule):
            front, added = insert(front, child, rule=rule)
            if added:
                heapq.heappush(heap, (child.rank, child))
        visited.add(parent.removed)
        if progress is not None:
            progress(front, len(heap))
    return Found(ordered(front), frozenset(visited))


def _children(
    parent: Node,
    moves: Moves,
    node_of: Callable[[Removed, Removed | None], Node],
    min_map: float,
    rule: Rule,
) -> Front:
    """The best children, or the first that is better than its parent or free."""
    found: Front = ()
    for removed in moves(parent.removed):
        child = node_of(removed, parent.removed)
        if child.map > parent.map or child.metrics == parent.metrics:
            return (child,)
        if child.map >= min_map:
            found, _ = insert(found, child, rule=rule)
    return found


def layer_search(
    evaluate: Evaluate,
    cost: Cost,
    layout: Layout,
    *,
    max_anchors_layer: int = 4,
    min_map: float = 0.2,
    rule: Rule = "weak",
    progress: Progress | None = None,
) -> Found:
    """One level after the other, down to `max_anchors_layer` anchors each: for heads with many.

    A node with no more than that on the level moves on to the next one. A node whose children the
    front rejects does not move on. Only free removals are a shortcut here. At the end nodes with
    more than `max_anchors_layer` anchors on any level are left out of the front.
    """
    node_of = _nodes(evaluate, cost)
    root = node_of(frozenset(), None)
    front: Front = (root,)
    seen: set[Removed] = set()
    start = [root]
    for level in range(len(layout.shapes)):
        heap, visited, passed = [(node.rank, node) for node in start], set(), {}
        heapq.heapify(heap)
        while heap:
            _, parent = heapq.heappop(heap)
            if parent.removed in visited:
                continue
            visited.add(parent.removed)
            if layout.counts(parent.removed)[level] <= max_anchors_layer:
                passed[parent.removed] = parent
                continue
            for child in _level_children(parent, layout.of_level(level), node_of, min_map, rule):
                front, added = insert(front, child, rule=rule)
                if added:
                    heapq.heappush(heap, (child.rank, child))
            if progress is not None:
                progress(front, len(heap))
        seen |= visited
        start = list(passed.values())
    within = tuple(node for node in front if max(layout.counts(node.removed)) <= max_anchors_layer)
    return Found(ordered(within), frozenset(seen))


def _level_children(
    parent: Node,
    ids: Iterable[int],
    node_of: Callable[[Removed, Removed | None], Node],
    min_map: float,
    rule: Rule,
) -> Front:
    """The best children that lack one more anchor of `ids`, or the first that is free."""
    found: Front = ()
    for anchor in ids:
        if anchor in parent.removed:
            continue
        child = node_of(parent.removed | {anchor}, parent.removed)
        if child.map >= min_map:
            found, _ = insert(found, child, rule=rule)
        if child.metrics == parent.metrics:
            return (child,)
    return found


def single_moves(layout: Layout) -> Moves:
    """Remove one anchor of one level, ids ascending; never the last one."""

    def moves(removed: Removed) -> Sequence[Removed]:
        if len(removed) >= layout.size - 1:
            return ()
        return [removed | {anchor} for anchor in range(layout.size) if anchor not in removed]

    return moves


def shared_moves(layout: Layout) -> Moves:
    """For a head shared by all levels: remove a slot from every level, or a level as a whole.

    Removing an anchor of one level alone saves a shared head nothing. Slots that remain are judged
    on the first level that still has anchors. Slots ascending, then levels; moves that change
    nothing or leave nothing are left out.
    """
    level, slot = layout.level, layout.slot
    everything = frozenset(range(layout.size))

    def moves(removed: Removed) -> Sequence[Removed]:
        left = [n for n in range(layout.size) if n not in removed]
        if not left:
            return ()
        first = level[left[0]]
        slots = [slot[n] for n in left if level[n] == first]
        groups = [frozenset(_positions(slot == j)) for j in slots]
        groups += [frozenset(_positions(level == k)) for k in sorted({level[n] for n in left})]
        found = dict.fromkeys(removed | group for group in groups)
        return [child for child in found if child not in (removed, everything)]

    return moves


def _positions(mask: Bool[np.ndarray, "M"]) -> list[int]:
    """Where a mask is true, as Python integers."""
    return np.flatnonzero(mask).tolist()


def _nodes(evaluate: Evaluate, cost: Cost) -> Callable[[Removed, Removed | None], Node]:
    def node_of(removed: Removed, parent: Removed | None) -> Node:
        return Node(removed, evaluate(removed, parent), cost(removed))

    return node_of
