"""Is the `ggml` numerics a build, bit for bit? Vectors alone and in a batch, and each operation on the build's inputs.

`python -m conformance builds equal b11548 b11739` holds refembed, in the profile of the build's row, against the build
itself: MiniLM in five types, and variants of architectures.json, in each of which flash attention and repacked weights
are once off and once on. 0 is asked of every number. Where something differs, the first tensor is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.architectures import Row, Variant, ask, to_the_bit
from conformance.builds import Build, package_path
from conformance.models import model_path
from refembed.errors import RefembedError


def equal(build: Build, models: Sequence[str], variants: Sequence[Variant], profile: str = "") -> Iterator[Row]:
    """A row for each MiniLM file, then for each variant. profile: another than the row's."""
    for model in models:
        minilm = Variant("bert", model, {}, rank=False)
        yield hold(build, minilm, model_path(model), profile)
    for variant in variants:
        with TemporaryDirectory(prefix="refembed-") as folder:
            yield hold(build, variant, variant.write(Path(folder) / "m.gguf"), profile)


def hold(build: Build, v: Variant, path: Path, profile: str) -> Row:
    """One file; where the build does not load it, the row says so."""
    where: dict[str, Any] = {"lib": package_path(build), "cpu": build.cpu or None}
    try:
        off = ask(path, v, v.traced, flash_attn=False, **where)
        on = ask(path, v, v.traced, flash_attn=True, extra_buffer_types=True, **where)
        return to_the_bit(v, path, off, on, profile or build.profile or "avx2")
    except RefembedError as e:
        return Row(v.arch, v.name, v.group, "ggml", broke=" ".join(str(e).split())[:200])


def line(row: Row) -> str:
    """`bert/minilm-f32: 0 numbers of vectors, 0 in a batch, 0 of 312 tensors`, or what is wrong."""
    name = f"{row.arch}/{row.variant}"
    if row.broke:
        return f"{name}: not asked: {row.broke}"
    counts = f"{row.vectors} numbers of vectors, {row.batch} in a batch, {len(row.wrong)} of {row.tensors} tensors"
    first = f"; first {row.wrong[0]}" if row.wrong else ""
    lonely = f"; without a partner: {', '.join(row.unaligned[:4])}" if row.unaligned else ""
    return f"{name}: {counts}{first}{lonely}"


def is_equal(row: Row) -> bool:
    """Whether no bit differs."""
    return not (row.broke or row.wrong or row.vectors or row.batch or row.unaligned)
