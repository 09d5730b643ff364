"""Devices and hosts: the only file that knows how work is spread over them.

Training is data-parallel: `pmap` over the axis "batch", every device holding the whole state and a
slice of the batch. Sums that cross devices are written out where they happen (`psum`, `pmean`).
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

AXIS = "batch"

psum = functools.partial(lax.psum, axis_name=AXIS)
pmean = functools.partial(lax.pmean, axis_name=AXIS)


def initialize() -> None:
    """Join the other hosts, where the environment says that there are any.

    Slurm, Open MPI, TPU pods and GPU clusters are found by JAX itself once ANCHORS_MULTIHOST=1 is
    set; elsewhere (and in tests) set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.
    """
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )
    elif os.environ.get("ANCHORS_MULTIHOST") == "1":
        jax.distributed.initialize()


def device_count() -> int:
    """Devices over all hosts."""
    return jax.device_count()


def process() -> tuple[int, int]:
    """(index of this host, number of hosts)."""
    return jax.process_index(), jax.process_count()


def is_main() -> bool:
    """Whether this host writes the files that all hosts share."""
    return jax.process_index() == 0


def check_batch(batch_size: int, *, what: str) -> int:
    """The same global batch size, if every device can get an equal share.

    Raises:
      ValueError: it does not divide by the number of devices.
    """
    if batch_size % jax.device_count():
        raise ValueError(
            f"{what} = {batch_size} does not divide over {jax.device_count()} devices; "
            f"take a multiple of {jax.device_count()}"
        )
    return batch_size


def pmap(function: Callable, *, donate: tuple[int, ...] = ()) -> Callable:
    """`jax.pmap` over the devices of all hosts under the axis name "batch"."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=donate)


def replicate(tree: Any) -> Any:
    """A copy of every array on every local device, under a leading device axis."""
    count = jax.local_device_count()
    stacked = jax.tree.map(
        lambda x: np.broadcast_to(np.asarray(x)[None], (count, *np.shape(x))), tree
    )
    return pmap(lambda x: x)(stacked)


def unreplicate(tree: Any) -> Any:
    """The first local device's copy, on the host."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)


def shard(tree: Any) -> Any:
    """Split the leading axis of this host's arrays over its devices: [B, ...] -> [n, B/n, ...]."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: np.reshape(x, (count, -1, *np.shape(x)[1:])), tree)


def unshard(tree: Any) -> Any:
    """The inverse of `shard`, on the host."""
    return jax.tree.map(lambda x: np.reshape(x, (-1, *np.shape(x)[2:])), jax.device_get(tree))


def gather_hosts(tree: Any) -> Any:
    """Concatenate equal-shaped numpy arrays of all hosts along their first axis."""
    if jax.process_count() == 1:
        return tree
    gathered = multihost_utils.process_allgather(tree)
    return jax.tree.map(lambda x: np.reshape(np.asarray(x), (-1, *np.shape(x)[2:])), gathered)
