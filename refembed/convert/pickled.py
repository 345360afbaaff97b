"""Tensors of a small PyTorch file (`torch.save`), read without PyTorch and without running anything in it.

The file is a zip: data.pkl, a pickle of a dictionary, and the numbers of each tensor in data/0, data/1 ... A pickle can
call any function; here it may name a dictionary, a tensor and the types of numbers, and anything else is an error.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.atomic_write import opened_zip
from refembed.errors import ModelError

Array = npt.NDArray[Any]
TYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "BFloat16Storage": "<u2"}
BFLOAT16 = "BFloat16Storage"
HINT = "fetch the file again; only dictionaries of tensors are read"


def read_tensors(path: Path) -> dict[str, Array]:
    """The tensors of a file, as float32. ModelError where it is damaged, or anything but a dictionary of tensors."""
    try:
        with opened_zip(path) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise ModelError(f"{path}: no file of PyTorch's", hint=HINT)
            with archive.open(pickled) as stream:
                found = Reader(stream, archive, pickled.removesuffix("data.pkl")).load()
    except OSError as e:
        raise ModelError(f"{path}: {e.strerror or e}", hint=HINT) from None
    except ModelError:
        raise
    except Exception as e:  # a damaged zip or pickle raises nearly anything
        raise ModelError(f"{path}: damaged, or no dictionary of tensors: {type(e).__name__}: {e}", hint=HINT) from None
    if not isinstance(found, dict) or not all(isinstance(x, np.ndarray) for x in found.values()):
        raise ModelError(f"{path}: no dictionary of tensors", hint=HINT)
    return {str(name): np.ascontiguousarray(x, np.float32) for name, x in found.items()}


class Reader(pickle.Unpickler):
    """A pickle that may hold tensors, and nothing that runs."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for, of the few that are allowed."""
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): tensor,
            **{("torch", kind): kind for kind in TYPES},
        }  # fmt: skip
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Array:
        """The numbers behind ("storage", type, key, place, count)."""
        _, kind, key, _, count = pid
        data = np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), TYPES[kind])
        if len(data) != count:
            raise pickle.UnpicklingError(f"data/{key} has {len(data)} numbers, not {count}")
        return (data.astype(np.uint32) << 16).view(np.float32) if kind == BFLOAT16 else data


def tensor(numbers: Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Array:
    """A tensor's numbers in order. ValueError where they are not all there."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((*size, *stride, offset + 1)) < 1 or last >= len(numbers):
        raise ValueError(f"a tensor {size} of {len(numbers)} numbers")
    steps = tuple(step * numbers.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False).copy()
