"""Run the benchmarks: python -m benchmarks.run [NAME ...] [--out=FILE.json]

Each benchmark runs in a process of its own, so that its peak memory is its own. Results of the
names given replace their rows in the file; the others stay.
"""

import argparse
import datetime
import importlib
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

from anchors_jax import files

BENCHMARKS = {
    "assignment": "dense:assignment",
    "retinanet": "dense:retinanet",
    "atss": "dense:atss",
    "fcos": "dense:fcos",
    "freeanchor": "dense:freeanchor",
    "paa": "dense:paa",
    "ssd": "ssd:ssd",
    "semi_anchored": "dense:semi_anchored",
    "semi_anchored_network": "dense:semi_anchored_network",
    "guided_anchoring": "guided:guided_anchoring",
    "deform": "deform:deform",
    "convolution": "convolution:convolution",
    "suppression": "dense:suppression",
    "pruning": "pruning:pruning",
    "weights": "weights:importing",
    "loading": "pipeline:loading",
    "training": "pipeline:training",
    "evaluating": "pipeline:evaluating",
    "covering": "search:covering",
    "clusters": "search:clusters",
}
FOLDER = pathlib.Path(__file__).parent / "results"


def run_one(name: str) -> list[dict[str, Any]]:
    """The rows of one benchmark, measured in this process."""
    from benchmarks import measure

    module, _, function = BENCHMARKS[name].partition(":")
    rows = list(getattr(importlib.import_module(f"benchmarks.{module}"), function)())
    for row in rows:
        row["benchmark"] = name
        row["process_peak_mb"] = measure.peak_mb()
    return rows


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import jax

    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    device = jax.devices()[0]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "device": f"{jax.device_count()} x {device.device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "commit": commit or "unknown",
        "date": datetime.date.today().isoformat(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| what | seconds | per second | temporaries MB | process peak MB | compared |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        compared = ""
        if "times_faster" in row:
            compared = f"{row['times_faster']:.1f}x faster than {row['reference']}"
        cells = (
            row["name"],
            f"{row['seconds']:.4f}",
            next(
                (
                    f"{value:.1f} {key.split('_')[0]}"
                    for key, value in row.items()
                    if key.endswith("_per_second")
                ),
                "",
            ),
            f"{row['temporaries_mb']:.0f}" if "temporaries_mb" in row else "",
            f"{row['process_peak_mb']:.0f}",
            compared,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Parse, run each benchmark in a child process, write JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--out", type=pathlib.Path, help="default: benchmarks/results/DEVICE.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run_one(options.child)))
        return 0
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}")
    where = machine()
    out = options.out or FOLDER / f"{where['device'].split(' x ')[1].replace(' ', '_')}.json"
    kept = json.loads(out.read_text())["rows"] if out.exists() else []
    for name in options.names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.run", "--child", name],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if child.returncode:
            print(f"error: benchmark {name} failed (see above)", file=sys.stderr)
            return 1
        rows = json.loads(child.stdout.strip().splitlines()[-1])
        kept = [row for row in kept if row["benchmark"] != name] + rows
        kept.sort(key=lambda row: list(BENCHMARKS).index(row["benchmark"]))
        files.write_json(out, {"machine": where, "rows": kept})
    print(table(kept))
    print(f"\n{where['cores']} cores of {where['cpu']}; written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
