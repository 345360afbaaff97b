"""What `Embedder.load` may add to a plain model: LoRA adapters, the published semantics, a vision tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from refembed.embedder.base import Parts
from refembed.gguf import GGUFFile, open_gguf
from refembed.kernels.ops import Ops
from refembed.model.lora import adapted, load_adapters
from refembed.model.published import original
from refembed.model.vision import load_tower
from refembed.model.vision.published import original_tower
from refembed.pipeline.multimodal import check_tower


def with_additions(
    plain: Parts, f: GGUFFile, sep: int | None, side: Callable[[], Ops], *, lora: Sequence[str | Path],
    mmproj: str | Path | None, semantics: str, mmap: bool,
) -> Parts:  # fmt: skip
    """The parts of a model with what was asked for; options as `Embedder.load` takes them.

    f     the model's file
    sep   the vocabulary's separator, for the published models that read pairs by it
    side  makes the operations that adapters' own products are computed with
    Raises RequestError, GGUFError or ModelError for what does not fit the model.
    """
    model, ops, published = plain.model, plain.ops, semantics == "original"
    adapters = load_adapters(lora, f)
    if adapters:
        ops = adapted(ops, side(), adapters)
    if published:
        model = original(model, f, sep)
    if mmproj is None:
        return Parts(model, ops, adapters)
    tower = load_tower(open_gguf(mmproj, mmap=mmap))
    check_tower(model, tower, str(f.path))
    return Parts(model, ops, adapters, original_tower(tower) if published else tower)
