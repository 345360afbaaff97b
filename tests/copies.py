"""Copies of GGUF files, with some keys and tensors changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refembed.gguf import GGUFWriter, open_gguf


def copied(
    path: Path,
    target: Path,
    keys: Mapping[str, tuple[Any, str] | None] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Path:
    """Write a copy and return its path.

    keys     name -> (value, type), instead of the file's or besides; None leaves the key out
    tensors  name -> float32 array, likewise; None leaves the tensor out
    """
    f, keys, tensors = open_gguf(path), keys or {}, dict(tensors or {})
    w = GGUFWriter(None)
    w.copy_keys(f.metadata, keys)
    for key, given in keys.items():
        if given is not None:
            w.add(key, *given)
    for t in f.tensors.values():
        if t.name not in tensors:
            w.add_tensor(t.name, t.raw, t.shape, t.type.name)
        elif (x := tensors.pop(t.name)) is not None:
            w.add_tensor(t.name, x, x.shape, "F32")
    for name, x in tensors.items():
        if x is not None:
            w.add_tensor(name, x, x.shape, "F32")
    return w.write(target)


def with_keys(path: Path, target: Path, keys: Mapping[str, tuple[Any, str]]) -> Path:
    """A copy with other keys of its architecture: `block_count` is {arch}.block_count."""
    arch = open_gguf(path).metadata.string("general.architecture")
    return copied(path, target, {f"{arch}.{key}": given for key, given in keys.items()})


def without(path: Path, target: Path, *names: str) -> Path:
    """A copy that lacks these tensors."""
    return copied(path, target, tensors=dict.fromkeys(names))
