"""One setting for all tests: strict shapes, strict ranks, warnings are errors, two CPU devices."""

import os
import pathlib
import pkgutil

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
).strip()

import jax
import jaxtyping
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SAMPLE_DATA = pathlib.Path(
    os.environ.get("ANCHORS_SAMPLE_DATA", REPOSITORY.parent / "shared" / "data")
)

# types.py is left out: its dataclasses also carry non-arrays (axis specifications, placeholders)
# while JAX maps over them. linen modules are left out for the same reason.
_CHECKED = [
    module.name
    for module in pkgutil.walk_packages([str(REPOSITORY / "anchors_jax")], "anchors_jax.")
    if not module.name.startswith(("anchors_jax.types", "anchors_jax.models", "anchors_jax.__"))
]
jaxtyping.install_import_hook(_CHECKED, "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(REPOSITORY / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _sample(name: str) -> pathlib.Path:
    folder = SAMPLE_DATA / name
    if not folder.is_dir():
        pytest.skip(f"sample data {name} is not at {folder} (set ANCHORS_SAMPLE_DATA)")
    return folder


@pytest.fixture(scope="session")
def bccd() -> pathlib.Path:
    """Folder of the BCCD images in Pascal VOC layout."""
    return _sample("bccd")


@pytest.fixture(scope="session")
def coco128() -> pathlib.Path:
    """Folder of 128 COCO images in COCO layout."""
    return _sample("coco128")
