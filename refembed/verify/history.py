"""Which builds of llama.cpp give the same bits for a model: each is asked for the same texts, in a process of its own.

    rows = compare_builds("model.gguf", [Path("old.whl"), Path("new.whl")], ["some text"])
    rows[0].group, rows[0].moved       # "B", 3.1e-7: other bits than the last build's, and how far off

A build is a package file (wheel, npm tarball), a folder of libraries, one library that has all of llama.cpp, or None:
the installed wheel. What it does is what it does unasked: flash attention and repacked weights as it chooses.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32, F64
from refembed.errors import EngineError, RequestError
from refembed.verify.engines.llamacpp import LlamaCpp

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNASKED = {"flash_attn": "auto", "extra_buffer_types": True}


@dataclass(frozen=True)
class BuildRow:
    """What one build gives, next to the last one's."""

    name: str  # the file or folder; "installed"
    number: int | None  # of llama.cpp's build, where the library or the file's name says it
    group: str  # A: the last build's bits; builds with one letter have the same bits for every text; "": no vectors
    moved: float | None  # the largest difference of a component of unit vectors from the last build's; None: no text's
    distance: float | None  # 1 - cos, the worst text; None: vectors are of another length, or there are none
    tokens: int  # texts whose token ids are not the last build's
    failed: str  # why there are no vectors


@dataclass(frozen=True)
class Answer:
    """What one build says: token ids and vectors of each text, or why not."""

    name: str
    number: int | None
    tokens: Sequence[Sequence[int]] = ()
    vectors: Sequence[F32] = ()
    failed: str = ""


def compare_builds(
    model: str | Path, builds: Sequence[Path | None], texts: Sequence[str], *, pooling: str = "native", cpu: str = ""
) -> list[BuildRow]:
    """A row for each build, in their order; the last one that gives vectors is what the others are compared with.

    cpu  of packages with code for several processors: which ("haswell"); "": what the build chooses here

    EngineError where none gives vectors.
    """
    if not builds or not texts:
        raise RequestError("there must be a build and a text", hint="refembed history MODEL old.whl new.whl")
    return list(rows([ask(model, build, texts, pooling, cpu) for build in builds]))


def ask(model: str | Path, build: Path | None, texts: Sequence[str], pooling: str, cpu: str) -> Answer:
    """One build's answers; a build that cannot be opened, or does not load the model, says why."""
    name = "installed" if build is None else build.name
    known = number_in(name if build else installed_wheel())
    options: dict[str, Any] = {"lib": build, "cpu": (cpu if build else "") or None, "pooling": pooling, **UNASKED}
    try:
        with LlamaCpp(model, **options) as engine:
            number = known or engine.facts["build_number"] or None
            return Answer(name, number, engine.tokenize_many(texts, True, True), engine.embed(texts))
    except EngineError as e:
        return Answer(name, known, failed=" ".join(line.strip(" |") for line in str(e).splitlines()[:3]))


def installed_wheel() -> str:
    """`xllamacpp-2026.10.11549`; "" where the wheel is not installed."""
    try:
        return f"xllamacpp-{importlib.metadata.version('xllamacpp')}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def number_in(name: str) -> int | None:
    """The build number in a package's name: llama_cpp_py_sync-0.11739-..., xllamacpp-2026.10.11549-..."""
    found = re.match(r"\w+-(?:0|\d{4}\.\d+)\.(\d{4,5})(?:[-.]|$)", name)
    return int(found[1]) if found else None


def rows(answers: Sequence[Answer]) -> Iterator[BuildRow]:
    """Each answer next to the last one that has vectors."""
    answered = [a for a in answers if a.vectors]
    if not answered:
        raise EngineError("no build gives vectors:" + "".join(f"\n  {a.name}: {a.failed}" for a in answers))
    last, groups = answered[-1], dict[bytes, str]()
    for answer in reversed(answered):
        groups.setdefault(bits(answer), letters(len(groups)))
    for a in answers:
        if not a.vectors:
            yield BuildRow(a.name, a.number, "", None, None, 0, a.failed)
            continue
        changed = sum(list(x) != list(y) for x, y in zip(a.tokens, last.tokens, strict=True))
        comparable = [(unit(x), unit(y)) for x, y in zip(a.vectors, last.vectors, strict=True) if x.shape == y.shape]
        moved = max((float(np.abs(x - y).max()) for x, y in comparable), default=None)
        distance = max((float(np.max(((x - y) ** 2).sum(-1)) / 2) for x, y in comparable), default=None)
        yield BuildRow(a.name, a.number, groups[bits(a)], moved, distance, changed, "")


def letters(n: int) -> str:
    """The name of set n of bits: A to Z, then AA, AB, as a spreadsheet names its columns.

    >>> letters(0), letters(25), letters(26), letters(52)
    ('A', 'Z', 'AA', 'BA')
    """
    more, last = divmod(n, len(LETTERS))
    return (letters(more - 1) if more else "") + LETTERS[last]


def bits(answer: Answer) -> bytes:
    """All numbers of all texts."""
    return b"".join(np.ascontiguousarray(v).tobytes() for v in answer.vectors)


def unit(x: F32) -> F64:
    """Vectors (..., D) divided by their Euclidean norms, in float64."""
    y = x.astype(np.float64)
    return y / np.maximum(np.linalg.norm(y, axis=-1, keepdims=True), 1e-300)
