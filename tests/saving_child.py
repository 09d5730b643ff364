"""Writes one checkpoint after the other until it is killed: python saving_child.py FOLDER."""

import itertools
import sys

import numpy as np

from anchors_jax.checkpoints import Checkpoints

SIDE = 1500  # 9 MB per array: writing takes long enough to be caught at it


def state(step):
    """Arrays that say which step they belong to."""
    return {f"w{i}": np.full((SIDE, SIDE), step, np.float32) for i in range(3)}


def main():
    """Save for ever."""
    stored = Checkpoints(sys.argv[1])
    begin = stored.latest() or 0
    for step in itertools.count(begin + 1):
        stored.save(
            step, variables=state(step), training={"step": np.int32(step)}, loader={"step": step}
        )


if __name__ == "__main__":
    main()
