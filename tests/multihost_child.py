"""One of several processes of a test: writes what it sees to FOLDER/INDEX.npz.

python multihost_child.py FOLDER, with the environment of `parallel.initialize`.
"""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax import inference, parallel
from anchors_jax.checkpoints import Checkpoints
from anchors_jax.data import loader, shapes
from anchors_jax.types import Detections


def arithmetic(index):
    """Sums over devices, the way there and back, and one number of each device."""
    state = parallel.replicate({"a": np.arange(3, dtype=np.float32), "n": np.int32(7)})
    rows = np.full((2, 3), 1.0 + index, np.float32)

    def step(state, rows):
        key = jax.random.fold_in(jax.random.key(0), jax.lax.axis_index(parallel.AXIS))
        return parallel.psum(rows.sum()), rows * state["a"][None], jax.random.bits(key)

    total, product, bits = parallel.pmap(step)(state, parallel.shard(rows))
    back = parallel.unreplicate(state)
    return {
        "process": np.array([*parallel.process(), parallel.device_count(), parallel.is_main()]),
        "back": back["a"],
        "total": parallel.unreplicate(total),
        "product": parallel.unshard(product),
        "bits": parallel.gather_hosts(np.asarray(bits)),
        "flags": parallel.gather_hosts({"b": np.array([True, index > 0])})["b"],
    }


def perfect(boxes, batch):
    """Detects the objects of the batch, with their area as the order."""
    targets = batch.targets
    scores = jnp.where(targets.valid, 0.5, 0.0) + boxes
    return Detections(
        boxes=targets.boxes, scores=scores, labels=targets.labels, valid=targets.valid
    )


def detections(index, count):
    """The table of five images in batches of four: the last batch is mostly padding."""
    source = shapes.shapes(split="validation", num_validation=5, image_size=48)
    batches = loader.eval_loader(
        source,
        batch_size=4,
        canvases=((48, 48),),
        max_objects=20,
        process_index=index,
        process_count=count,
    )
    table = inference.detect(
        parallel.pmap(perfect), np.float32(0.25), batches, category_ids=source.category_ids
    )
    return {f"table_{name}": getattr(table, name) for name in ("image_id", "box", "score")}


def checkpoint(folder):
    """Save together, read back alone."""
    state = {"w": np.arange(4, dtype=np.float32)}
    stored = Checkpoints(folder)
    for step in (1, 2, 3):
        scaled = jax.tree.map(functools.partial(np.multiply, np.float32(step)), state)
        stored.save(
            step, variables=scaled, training=state, loader={"step": step}, metrics={"AP": -step}
        )
    stored.close()
    reader = Checkpoints(folder, read_only=True)
    restored = reader.restore_variables(reader.latest(), variables=state)["w"]
    best = reader.best()
    reader.close()
    return {"restored": restored, "best": np.array(best)}


def main():
    """What every process does."""
    folder = pathlib.Path(sys.argv[1])
    parallel.initialize()
    index, count = parallel.process()
    seen = {**arithmetic(index), **detections(index, count), **checkpoint(folder)}
    np.savez(folder / f"{index}.npz", **seen)


main()
