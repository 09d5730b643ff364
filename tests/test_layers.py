"""The import layers of CONTRIBUTING.md, read off the source files."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "anchors_jax"

# A module may import those in its own row's set and in every row above it.
LAYERS = [
    {"types", "spec", "files", "hooks"},
    {"boxes"},
    {"codecs", "anchors", "losses", "nms", "images", "deform"},
    {"likelihoods", "mixture", "bags", "quality", "mining"},
    {"assign"},
    {"objectives"},
    {"models"},
    {"detectors"},
    {"data", "evaluation", "visualize", "diagnostics", "parallel"},
    {"optim", "checkpoints", "logs", "results", "inference", "monitor", "weights"},
    {"train", "search"},
    {"experiment", "speed"},
    {
        "commands",
        "options",
        "compare",
        "commands_anchors",
        "commands_coverage",
        "commands_cluster",
        "commands_prune",
        "commands_speed",
        "commands_weights",
        "commands_prune_run",
        "commands_surgery",
    },
    {"__main__"},
]
ONLY = {"models": {"types", "deform", "models"}, "data": {"files", "data"}}
MODULES = sorted(PACKAGE.rglob("*.py"))


def top(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path):
    """Top-level names within the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("anchors_jax"):
            rest = node.module.split(".")[1:]
            yield from [rest[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("anchors_jax."):
                    yield alias.name.split(".")[1]
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] != "configs", f"{path} imports configs"
            assert not node.level, f"{path} imports relatively"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = top(path)
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for name in imported(path):
        if here == "__init__" or name == "__version__":
            continue
        assert level[name] <= level[here], f"{here} must not import {name}"
        if here in ONLY:
            assert name in ONLY[here], f"{here} may import only {ONLY[here]}, not {name}"


def test_assigners_do_not_import_each_other():
    for path in (PACKAGE / "assign").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "anchors_jax.assign":
                assert {alias.name for alias in node.names} <= {"primitives"}, path


def test_only_one_file_knows_devices():
    for path in MODULES:
        if top(path) in ("parallel", "models"):  # a synchronised norm averages over the axis
            continue
        names = {
            n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)
        }
        found = names & {"device_put_replicated", "all_gather", "axis_index", "local_device_count"}
        assert not found, f"{path} uses {found}: that belongs to parallel.py"
