"""Tensors of a checkpoint file by name: safetensors, NumPy's .npz, or PyTorch's .pth."""

import contextlib
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")
# Where checkpoints keep their tensors: MMDetection and many trainers, timm and detectron2.
_NESTED = ("state_dict", "model", "model_state_dict")
_DATA_PARALLEL = "module."


class WeightsError(ValueError):
    """A file of weights cannot be read, or does not fit the network."""


class Tensors(Mapping[str, np.ndarray]):
    """Tensors by name, each read from the file when it is asked for.

    Floating point numbers arrive as float32, others as they are stored.
    """

    def __init__(self, names: Mapping[str, str], get: Callable[[str], np.ndarray]) -> None:
        self._names, self._get = names, get

    def __getitem__(self, name: str) -> np.ndarray:
        value = self._get(self._names[name])
        # bfloat16 is no NumPy type: its kind is "V".
        return value.astype(np.float32, copy=False) if value.dtype.kind in "fV" else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextlib.contextmanager
def opened(path: str | pathlib.Path) -> Iterator[Tensors]:
    """The tensors of a file while the block runs; a prefix "module." of all names is dropped.

    Raises:
      WeightsError: no such file, an unknown suffix, no tensors in it, or not of the format that its
        suffix says; or a PyTorch file where PyTorch is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file of weights")
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: weights are read from {', '.join(SUFFIXES)} files")
    open_file = {".safetensors": _safetensors, ".npz": _npz}.get(path.suffix, _torch)
    with open_file(path) as (names, get):
        if not names:
            raise WeightsError(f"{path}: holds no tensors")
        wrapped = all(name.startswith(_DATA_PARALLEL) for name in names)
        yield Tensors({n.removeprefix(_DATA_PARALLEL) if wrapped else n: n for n in names}, get)


@contextlib.contextmanager
def _safetensors(path: pathlib.Path) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    try:
        stored = safetensors.safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: is not a safetensors file ({error})") from None
    with stored:
        yield list(stored.keys()), stored.get_tensor


@contextlib.contextmanager
def _npz(path: pathlib.Path) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    try:
        stored = np.load(path, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path}: is not an .npz file ({error})") from None
    with stored:
        yield list(stored.files), stored.__getitem__


@contextlib.contextmanager
def _torch(path: pathlib.Path) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path}: reading {path.suffix} files needs PyTorch, which is not installed; "
            "pip install torch, or convert the file to .safetensors where PyTorch is"
        ) from None
    content = _torch_content(torch, path)
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    tensors = {name: value for name, value in content.items() if torch.is_tensor(value)}

    def get(name: str) -> np.ndarray:
        value = tensors[name].detach()
        return (value.float() if value.is_floating_point() else value).cpu().numpy()

    yield list(tensors), get


def _torch_content(torch: Any, path: pathlib.Path) -> Any:
    """What the file holds; of its objects, only those that cannot run code are read."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before PyTorch 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path}: holds Python objects beside its tensors, which are not read because they "
            f"may run code; save its state_dict alone where you trust it ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: is not a PyTorch file ({reason})") from None
