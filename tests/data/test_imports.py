"""Workers must not pay for JAX, and prepared data must be readable without TensorFlow."""

import subprocess
import sys

import anchors_jax

SCRIPT = """
import pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import anchors_jax.data
for module in pkgutil.iter_modules(anchors_jax.data.__path__, "anchors_jax.data."):
    __import__(module.name)
from anchors_jax.data import loader, shapes, transforms
source = shapes.shapes(cache_dir=sys.argv[1], num_train=4, num_validation=1, image_size=64)
batches = loader.train_loader(
    source, batch_size=2, canvases=((64, 64),), transforms=[transforms.horizontal_flip()]
)
assert next(batches)["image"].shape == (2, 64, 64, 3)
assert not {"anchors_jax.types", "tensorflow", "torch"} & set(sys.modules)
print("done")
"""


def test_data_works_without_jax_and_tensorflow(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=anchors_jax.__path__[0] + "/..",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.endswith("done\n"), result.stderr
