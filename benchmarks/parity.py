"""How far this code is from the references, as measured: python -m benchmarks.parity [WHAT ...]

    WHAT: networks, primitives (default: both); the rows of the other keep their last values.

Runs the tests that compare with reference values (`tests/golden`, or the folder in the environment
variable ANCHORS_GOLDEN_DIR), the slow ones too, and records every difference that they look at.
Writes benchmarks/results/parity.json and, from it, docs/parity.md.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from typing import Any

from anchors_jax import files, results
from benchmarks import parity_table

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "parity.json"
TABLE = ROOT / "docs" / "parity.md"
WHAT = ("networks", "primitives")


def measure(what: list[str]) -> dict[str, Any]:
    """The rows of the named kinds, by running their tests."""
    # Only files that know of reference cases are worth importing.
    paths = sorted(
        str(path)
        for path in (ROOT / "tests").rglob("test_*.py")
        if "golden" in path.read_text() or "from models import" in path.read_text()
    )
    options = ["-q", "-m", "slow or not slow", "-o", "addopts=", "--import-mode=importlib"]
    options += ["--continue-on-collection-errors", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    with tempfile.TemporaryDirectory() as folder:
        found = pathlib.Path(folder) / "found.json"
        # A process of its own: the tests decide how the package is imported.
        words = [sys.executable, "-m", "pytest", "-p", "benchmarks.parity_recorder", *options]
        told = {"PARITY_KINDS": ",".join(what), "PARITY_FILE": str(found)}
        subprocess.run([*words, *paths], cwd=ROOT, env=os.environ | told, check=False)
        return json.loads(found.read_text())


def main(words: list[str]) -> int:
    """The command; the exit status is 1 where a comparison failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(WHAT)}")
    asked = parser.parse_args(words).what or list(WHAT)
    if unknown := set(asked) - set(WHAT):
        parser.error(f"{sorted(unknown)[0]!r} is neither networks nor primitives")
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    content |= measure(asked)
    content["commit"] = results.commit()
    content["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    folder = os.environ.get("ANCHORS_GOLDEN_DIR")
    content["cases"] = os.path.basename(folder) if folder else "tests/golden"
    files.write_json(RESULTS, content)
    files.write_text(TABLE, parity_table.text(content))
    print(f"written to {RESULTS.relative_to(ROOT)} and {TABLE.relative_to(ROOT)}")
    rows = [row for kind in WHAT for row in content.get(kind, {}).values()]
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
