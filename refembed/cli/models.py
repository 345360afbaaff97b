"""From `-m` to a model. Kernels are imported when a model is opened."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refembed.cli.show import escape, note

if TYPE_CHECKING:
    from refembed.embedder import Embedder
    from refembed.model.info import Info


def open_embedder(
    model: str, numerics: dict[str, Any], lora: Sequence[str] = (), mmap: bool = True, mmproj: str | None = None
) -> Embedder:
    """Everything that embedding needs; `numerics`, `lora`, `mmap` and `mmproj` as Embedder.load takes them."""
    from refembed.embedder import Embedder

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        embedder = Embedder.load(model, **numerics, lora=lora, mmap=mmap, mmproj=mmproj)
    for warning in found:
        note(f"warning: {warning.message}")
    return embedder


def note_adapters(embedder: Embedder, quiet: bool) -> None:
    """Say on stderr which LoRA adapters are at work, and what of them is not."""
    for a in embedder.adapters:
        task = f", task {escape(a.task)}" if a.task else ""
        note(f"lora {a.path} * {a.scale:g}: {len(a.pairs)} matrices{task}", quiet=quiet)
        if a.prompt_prefix:
            note(f"note: its texts are to begin with {escape(a.prompt_prefix, 80)!r}; nothing adds that", quiet=quiet)
        if a.idle:
            note(f"warning: {a.path}: llama.cpp, and so refembed, never applies {', '.join(map(escape, a.idle))}")


def spell_model(model: str, info: Info) -> str:
    """What was asked for, and what that is: a line for stderr."""
    where = f", {info.path}" if model != str(info.path) else ""
    return f"model {model}: {escape(info.name)}, {info.architecture}{where}"
