"""A stand-in for `python -m anchors_jax train`: leaves a result after a while, without JAX.

Arguments: WORKDIR CONFIG.json SECONDS STATUS
"""

import json
import pathlib
import sys
import time

workdir, config, seconds, status = sys.argv[1:]
folder = pathlib.Path(workdir)
with open(folder / "started", "a") as file:
    file.write("x")
time.sleep(float(seconds))
if int(status):
    print("some trace\nerror: out of luck")
    sys.exit(int(status))
result = {
    "full_config": json.loads(pathlib.Path(config).read_text()),
    "metrics": {"AP": 0.5},
    "config": "fake",
    "scale": "smoke",
    "seed": 0,
    "data": {},
}
(folder / "result.json").write_text(json.dumps(result))
