"""Search problems made of tables; run as a program, one that is slow enough to be killed."""

import pathlib
import sys
import time

import numpy as np

from anchors_jax.search.layout import Layout
from anchors_jax.search.store import Store
from anchors_jax.search.tree import single_moves, tree_search

LAYOUT = Layout((16, 4, 1), (3, 2, 2))


class Recorder:
    """An evaluator from a function, which remembers what it was asked."""

    def __init__(self, metrics):
        self._metrics = metrics
        self.asked = {}

    def __call__(self, removed, parent):
        assert parent is None or parent < removed
        value = self._metrics(removed)
        return self.asked.setdefault(removed, value if isinstance(value, tuple) else (value,))


def random_problem(seed, layout):
    """A drop that grows with every removal, rounded, and often 0."""
    rng = np.random.default_rng(seed)
    drops = np.round(rng.exponential(0.02, layout.size) * (rng.random(layout.size) < 0.7), 3)
    pairs = np.round(rng.exponential(0.01, (layout.size, layout.size)), 3)

    def metrics(removed):
        ids = sorted(removed)
        value = 0.5 - drops[ids].sum() - pairs[np.ix_(ids, ids)].sum() / 2
        return (round(float(max(value, 0)), 3),) if len(ids) < layout.size else (0.0,)

    def cost(removed):
        return sum(layout.cells[layout.level[n]] for n in range(layout.size) if n not in removed)

    return metrics, cost


def search(store, *, pause=0.0):
    """A search whose evaluations go through the store; returns it and what was computed."""
    metrics, cost = random_problem(1, LAYOUT)
    computed = Recorder(lambda removed: time.sleep(pause) or metrics(removed))

    def evaluate(removed, parent):
        return tuple(store.get(removed, lambda: computed(removed, parent)))

    return tree_search(evaluate, cost, single_moves(LAYOUT)), computed.asked


if __name__ == "__main__":
    search(Store(pathlib.Path(sys.argv[1]), {}), pause=0.02)
