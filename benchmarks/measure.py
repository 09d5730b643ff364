"""How a number is measured: warm-up, repetition, the median; compiled memory from XLA itself."""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def seconds(function: Callable[[], Any], *, repeats: int = 7, warmup: int = 2) -> dict[str, float]:
    """Median and best wall time of one call; JAX results are waited for."""
    for _ in range(warmup):
        jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times), "best_seconds": min(times), "repeats": repeats}


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], dict]:
    """The compiled program as a call without arguments, and its memory in MB (1e6 bytes)."""
    program = jax.jit(function).lower(*arguments).compile()
    memory = program.memory_analysis()
    sizes = {
        "temporaries_mb": memory.temp_size_in_bytes / 1e6,
        "arguments_mb": memory.argument_size_in_bytes / 1e6,
        "outputs_mb": memory.output_size_in_bytes / 1e6,
    }
    return lambda: program(*arguments), sizes


def peak_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
