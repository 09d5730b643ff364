"""Start the library in processes of its own, bounded in time, never left behind."""

import contextlib
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
QUICKSTART = f"--config={REPOSITORY}/configs/quickstart.py:smoke"


def environment(*, devices=1, **more):
    """CPU devices, and compiled programs shared with the tests."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "PYTHONPATH": str(REPOSITORY),
        **more,
    }


@dataclasses.dataclass
class Child:
    """A running process; what it says goes to a file, so that it never waits for a reader."""

    process: subprocess.Popen
    log: IO[bytes]

    def output(self):
        """What it has said so far, on both streams."""
        return pathlib.Path(self.log.name).read_text("utf-8", errors="replace")


@contextlib.contextmanager
def started(*arguments, env):
    """`python ARGUMENTS` as a `Child`, killed when the block ends."""
    with tempfile.NamedTemporaryFile(prefix="child-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=env,
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Child(process, log)
        finally:
            process.kill()
            process.wait()


def on_hosts(count, *arguments, timeout):
    """Run `python ARGUMENTS` as `count` processes that know each other; returns their outputs.

    When one fails, the others are killed instead of waiting for it.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        children = []
        for index in range(count):
            env = environment(
                JAX_COORDINATOR_ADDRESS=address,
                JAX_NUM_PROCESSES=str(count),
                JAX_PROCESS_ID=str(index),
            )
            children.append(stack.enter_context(started(*arguments, env=env)))
        deadline = time.monotonic() + timeout
        while any(child.process.poll() is None for child in children):
            late = time.monotonic() > deadline
            if late or any(child.process.poll() for child in children):
                time.sleep(1.0)  # the first to fail may not be the only one with something to say
                break
            time.sleep(0.05)
        codes = [child.process.poll() for child in children]  # None: still running
        outputs = [child.output() for child in children]
    for index, (code, output) in enumerate(zip(codes, outputs, strict=True)):
        assert code in (0, None), f"host {index} failed:\n{output[-3000:]}"
    assert None not in codes, f"hosts not done after {timeout} s:\n{outputs}"
    return outputs


def output_of(*arguments, env, timeout):
    """What `python ARGUMENTS` says, once it has ended well."""
    with started(*arguments, env=env) as child:
        code = child.process.wait(timeout)
        output = child.output()
    assert code == 0, output[-3000:]
    return output
