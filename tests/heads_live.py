"""A model with its head, and with LoRA adapters, in any numerics and in live llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refembed.arrays import Float
from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import NO_TAP, Tap
from refembed.model.batch import pack
from refembed.model.lora import adapted, load_adapter
from refembed.model.trace import Recorder, Trace
from refembed.pipeline.vectors import forward_and_pool
from refembed.verify.compare.align import COPIES, LOGITS, VIEWS, align, without_lora
from refembed.verify.compare.replay import LocalDifference, replay
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.model.bits import Bits


@dataclass
class Headed(Bits):
    """As Bits, through the model's head; lora is (file, scale) each, lora_order the order of addition."""

    lora: tuple[tuple[Path, float], ...] = ()
    lora_order: tuple[int, ...] | None = None
    numerics: str = "ggml"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.numerics != "ggml":
            self.ops = load_ops(self.numerics)
        f = open_gguf(self.path)
        adapters = [load_adapter(f"{file}:{scale}", f, i) for i, (file, scale) in enumerate(self.lora)]
        self.ops = adapted(self.ops, load_ops(self.numerics, repack=False), adapters, self.lora_order)

    def adding_as(self, engine: LlamaCpp) -> Headed:
        """The same, its adapters added in the order that is this engine's by chance."""
        return replace(self, lora_order=engine.lora_order)

    def engine(self, **options: object) -> LlamaCpp:
        """The live side."""
        return super().engine(lora=self.lora, **options)

    def vectors(self, texts: Sequence[Sequence[int]], tap: Tap = NO_TAP) -> list[Float]:
        """What comes out of the head for texts that run together."""
        return list(forward_and_pool(self.model, self.ops, pack(texts), self.pooling, tap))

    def local(self, theirs: Trace) -> list[LocalDifference]:
        """Each operation on llama.cpp's own inputs; what an adapter adds is part of the product it is added to."""
        return replay(lambda tap: self.vectors([theirs.meta["tokens"]], tap), without_lora(theirs))

    def wrong(self, theirs: Trace) -> list[str]:
        """As Bits has it."""
        return super().wrong(without_lora(theirs))

    def unpaired(self, theirs: Trace) -> list[str]:
        """Tensors without a partner: named ones of the whole run, and behind the hidden states all that is computed."""
        theirs, record = without_lora(theirs), Recorder()
        self.vectors([theirs.meta["tokens"]], record)
        ours, found = record.trace, align(record.trace, theirs)
        last = (self.model.output, "result_embd_pooled")[self.pooling == "none"]
        begin = min(i for i, t in enumerate(theirs.tensors) if t.name == last)
        paired = {p.theirs for p in found.pairs}
        nodes = [
            (i, t)
            for i, t in enumerate(theirs.tensors)
            if i > begin and t.op not in VIEWS | COPIES and t.name not in LOGITS
        ]
        head = [f"{t.name} {t.op}" for i, t in nodes if i not in paired]
        named = [theirs.tensors[i].name for i in found.theirs_only if i <= begin]
        return [ours.tensors[i].name for i in found.ours_only] + named + head
