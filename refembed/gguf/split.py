"""A model in several files: opening the first opens all.

    PREFIX-00001-of-00003.gguf    every key of the model; split.no 0, split.count 3, split.tensors.count
    PREFIX-00002-of-00003.gguf    split.no 1; like the first it is a whole GGUF file, with tensors of its own
    PREFIX-00003-of-00003.gguf    split.no 2

Mirrors the constructor of llama_model_loader (llama-model-loader.cpp) and its checks. llama-gguf-split writes such
files, and joins them.
"""

from __future__ import annotations

import os
from pathlib import Path

from refembed.errors import GGUFError
from refembed.gguf.cursor import quote
from refembed.gguf.reader import GGUFFile

# The keys, and the one type that llama.cpp takes for each.
COUNT, NUMBER, TENSORS = "split.count", "split.no", "split.tensors.count"
TYPES = {COUNT: "UINT16", NUMBER: "UINT16", TENSORS: "INT32"}
MIXED = "shards of different models were put together, or their names were mixed up; download them again"
NAMED = 3  # missing shards that a message names


def open_gguf(path: str | os.PathLike[str], mmap: bool = True) -> GGUFFile:
    """Open a GGUF file, or with its first shard a split model, and check everything but the weights.

    mmap  the file is mapped; False reads all of it into memory

    GGUFError if a file is not GGUF, if a shard is missing or does not belong here, or if `path` is not the first.

    >>> from refembed.gguf import GGUFWriter
    >>> f = open_gguf(GGUFWriter("bert").write("no-tensors.gguf"))
    >>> f.metadata["general.architecture"], len(f.tensors)
    ('bert', 0)
    >>> open_gguf("absent.gguf")
    Traceback (most recent call last):
        ...
    refembed.errors.GGUFError: absent.gguf: reading magic at byte 0x0: no such file
      hint: check the path
    """
    first = GGUFFile(path, mmap)
    count = read(first, COUNT) if COUNT in first.metadata else 1
    if count > 1:
        shards = [open_shard(p, i, count, mmap) for i, p in enumerate(other_shards(first, count), start=1)]
        check_tensors([first, *shards])
        first.join(shards)
    return first


def read(file: GGUFFile, key: str) -> int:
    """A number of the split. GGUFError where it is absent or of a type that llama.cpp does not take."""
    value, found = file.metadata.integer(key), file.metadata.type_name(key)
    if found != TYPES[key]:
        raise failure(file, key, f"{found} {value}, not {TYPES[key]}", "llama.cpp wants this very type; split it again")
    return value


def failure(file: GGUFFile, key: str, found: str, hint: str) -> GGUFError:
    """The error to raise for a key of the split."""
    return GGUFError(f"reading {key}", path=str(file.path), offset=file.metadata.offset(key), found=found, hint=hint)


def ending(number: int, count: int) -> str:
    """How the name of a shard ends; `number` counts from 0, names count from 1."""
    return f"-{number + 1:05d}-of-{count:05d}.gguf"


def other_shards(first: GGUFFile, count: int) -> list[Path]:
    """Where the shards behind the first are. GGUFError if this is not the first, or if a file is not there."""
    path, number = first.path, read(first, NUMBER)
    if number:
        mine = ending(number, count)
        prefix = path.name.removesuffix(mine) if path.name.endswith(mine) else "..."
        found = f"{number}: this file is shard {number + 1} of {count}, and a split model is opened by its first"
        raise failure(first, NUMBER, found, f"open {path.with_name(prefix + ending(0, count))}")
    if not path.name.endswith(ending(0, count)):
        found = f"{count}, but the file's name does not end in {ending(0, count)}, so the other shards cannot be found"
        raise failure(first, COUNT, found, "give the shards the names they had, all in one folder")
    prefix = path.name.removesuffix(ending(0, count))
    others = [path.with_name(prefix + ending(i, count)) for i in range(1, count)]
    missing = [p for p in others if not p.exists()]
    if missing:
        found = f"{count} shards, but there is no file {missing[0]}"
        names = ", ".join(p.name for p in missing[:NAMED]) + (" ..." if len(missing) > NAMED else "")
        hint = f"a split model is all its files, in one folder; {len(missing)} of {count} are missing: {names}"
        raise failure(first, COUNT, found, hint)
    return others


def open_shard(path: Path, number: int, count: int, mmap: bool = True) -> GGUFFile:
    """Open a shard behind the first. GGUFError if it does not say itself that it has this place."""
    shard = GGUFFile(path, mmap)
    found = read(shard, NUMBER)
    if found != number:
        raise failure(shard, NUMBER, f"{found}, not {number}, as the name of shard {number + 1} of {count} says", MIXED)
    return shard


def check_tensors(shards: list[GGUFFile]) -> None:
    """No tensor twice, and as many as the first shard says. GGUFError otherwise."""
    seen: dict[str, GGUFFile] = {}
    for shard in shards:
        for tensor in shard.tensors.values():
            if tensor.name in seen:
                what, found = f"reading tensor {quote(tensor.name)}", f"{seen[tensor.name].path} has it as well"
                raise GGUFError(what, path=str(shard.path), offset=tensor.offset, found=found, hint=MIXED)
            seen[tensor.name] = shard
    expected = read(shards[0], TENSORS)
    if expected != len(seen):
        raise failure(shards[0], TENSORS, f"{expected:,}, but the {len(shards)} shards hold {len(seen):,}", MIXED)
