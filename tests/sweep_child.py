"""A worker whose trials only take time.

python sweep_child.py URL STUDY LOG TRIALS SECONDS SPACE
"""

import os
import sys
import time

from experiments.sweeping import space, study, worker

HEARTBEAT = 1


def main(url, name, log, trials, seconds, words):
    """Work on a study; every trial leaves a line at its begin and at its end."""

    def note(*what):
        with open(log, "a") as stream:  # short appends of several processes do not mix
            stream.write(" ".join(map(str, (os.getpid(), *what))) + "\n")

    def objective(params, report):
        key = worker.identity(params).replace(" ", "")
        note("begin", key)
        time.sleep(float(seconds))
        note("end", key)
        return (-sum((float(value) - 0.3) ** 2 for value in params.values()),)

    opened = study.open_study(
        url,
        name,
        directions=("maximize",),
        record={},
        sampler="random",
        trials=int(trials),
        heartbeat=HEARTBEAT,
    )
    ranges = space.parse(words)
    settings = {"trials": int(trials), "heartbeat": HEARTBEAT, "lock": study.lock_of(url)}
    worker.Worker(opened, ranges, objective, **settings).work()


if __name__ == "__main__":
    main(*sys.argv[1:])
