"""Files of weights: formats, nesting, and one sentence for everything that cannot be read."""

import builtins
import pickle
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from anchors_jax.weights.reading import WeightsError, opened


def everything(path):
    with opened(path) as tensors:
        return {name: tensors[name] for name in tensors}


TENSORS = {"a.weight": np.float32([[1, 2], [3, 4]]), "a.bias": np.float32([0.5, 8])}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_safetensors_arrive_as_float32(tmp_path, dtype):
    path = tmp_path / "w.safetensors"
    stored = {name: value.astype(dtype) for name, value in TENSORS.items()}
    safetensors.numpy.save_file({**stored, "count": np.int64([3])}, path)
    found = everything(path)
    assert found.pop("count").dtype == np.int64
    for name, value in TENSORS.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)


def test_npz_and_names_of_data_parallel_training(tmp_path):
    np.savez(tmp_path / "w.npz", **{f"module.{name}": x for name, x in TENSORS.items()})
    found = everything(tmp_path / "w.npz")
    assert found.keys() == TENSORS.keys()
    np.testing.assert_array_equal(found["a.weight"], TENSORS["a.weight"])


class Tensor:
    """What `reading` asks of a PyTorch tensor."""

    def __init__(self, value):
        self.value = value

    detach = cpu = float = lambda self: self

    def is_floating_point(self):
        return self.value.dtype.kind == "f"

    def numpy(self):
        return self.value


def torch_that_loads(monkeypatch, load):
    fake = types.ModuleType("torch")
    fake.load = load
    fake.is_tensor = lambda value: isinstance(value, Tensor)
    monkeypatch.setitem(sys.modules, "torch", fake)


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_pytorch_files_flat_and_nested(tmp_path, monkeypatch, nested):
    tensors = {name: Tensor(value) for name, value in TENSORS.items()}
    content = {nested: tensors, "meta": {"epoch": 12}} if nested else tensors
    asked = {}

    def load(path, **keywords):
        asked.update(keywords)
        return content

    torch_that_loads(monkeypatch, load)
    (tmp_path / "w.pth").touch()
    found = everything(tmp_path / "w.pth")
    assert asked["weights_only"] is True
    assert found.keys() == TENSORS.keys()
    np.testing.assert_array_equal(found["a.bias"], TENSORS["a.bias"])


def test_without_pytorch_one_sentence(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **keywords):
        if name == "torch":
            raise ImportError(name)
        return real(name, *rest, **keywords)

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    (tmp_path / "w.pth").touch()
    with pytest.raises(WeightsError, match=r"w\.pth: reading \.pth files needs PyTorch, .* pip"):
        everything(tmp_path / "w.pth")


def test_objects_that_may_run_code_are_not_read(tmp_path, monkeypatch):
    def load(path, **_):
        raise pickle.UnpicklingError("Weights only load failed\nlong advice")

    torch_that_loads(monkeypatch, load)
    (tmp_path / "w.pth").touch()
    with pytest.raises(WeightsError, match="save its state_dict alone") as caught:
        everything(tmp_path / "w.pth")
    assert "advice" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.npz", None, "there is no such file of weights"),
        ("w.onnx", b"x", r"weights are read from \.safetensors, \.npz"),
        ("w.safetensors", b"no safetensors at all", "is not a safetensors file"),
        ("w.npz", b"no archive", r"is not an \.npz file"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: {message}"):
        everything(tmp_path / name)


def test_a_file_without_tensors(tmp_path):
    safetensors.numpy.save_file({}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="holds no tensors"):
        everything(tmp_path / "w.safetensors")
