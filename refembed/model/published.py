"""`semantics="original"`: the model as it was published, where llama.cpp computes another one.

refembed gives the vectors that llama.cpp gives of a file. For some architectures those are not what PyTorch gives of
the checkpoint the file was made from, and not by rounding: BERT was trained with GELU itself, llama.cpp computes its
tanh form. PUBLISHED lists what the file is enough to undo; docs/differences.md has every difference with its size, also
those that conversion has made final.

The architecture files stay llama.cpp's. What differs reaches them through the record of sizes (`Hparams`) and
through the operations (`Ops`) that they are given.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refembed.arrays import I64, Float
from refembed.errors import ModelError, RequestError
from refembed.gguf import GGUFFile, Tensor
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.kernels.wrapper import OpsWrapper
from refembed.model import Model
from refembed.model.batch import Batch, pack
from refembed.model.hparams import Hparams

SEMANTICS = ("llama.cpp", "original")


@dataclass(frozen=True)
class Published:
    """How a published model differs from llama.cpp's graph of it."""

    erf: bool = False  # GELU itself, where llama.cpp has the tanh form
    segments: bool = False  # the second text of a pair is segment 1; llama.cpp knows segment 0 alone
    sees_all: bool = False  # every token sees all, though {arch}.attention.causal is silent
    qkv_by_head: bool = False  # rows of attn_qkv are q, k, v of head 0, then of head 1 ..., not all of q first
    up_first: bool = False  # of a model with attn_norm_2: ffn_up's second half is the gate, not the first
    window: bool = False  # {arch}.attention.sliding_window holds
    epsilon: bool = False  # norms have the file's epsilon, not 0
    factors_by_text: bool = False  # long RoPE factors for long texts only, whatever the context


PUBLISHED = {  # general.architecture -> Published; of the others no difference is known that the file could undo
    "bert": Published(erf=True, segments=True),
    "falcon": Published(erf=True),
    "gptneox": Published(erf=True),
    "jina-bert-v2": Published(erf=True, segments=True, up_first=True),
    "jina-bert-v3": Published(erf=True),
    "llama-embed": Published(sees_all=True),
    "mpt": Published(erf=True),
    "minicpm": Published(factors_by_text=True),
    "neo-bert": Published(qkv_by_head=True),
    "nomic-bert-moe": Published(erf=True),
    "phi3": Published(window=True, factors_by_text=True),
    "qwen2vl": Published(epsilon=True),
    "t5encoder": Published(sees_all=True),
}
NO_DIFFERENCE = Published()


@dataclass(frozen=True)
class OriginalModel(Model):
    """A model with the forward pass that was published."""

    published: Published
    sep: int | None  # the token between the texts of a pair, where what follows it is segment 1

    def forward(self, batch: Batch, ops: Ops, taps: Tap = NO_TAP) -> Float:
        """Token ids (T) of S texts -> hidden states (T, C), in the dtype of `ops`."""
        hp = self.hparams
        if not self.published.factors_by_text or hp.n_ctx <= hp.n_ctx_orig:
            return self.run(batch, hp, ops, taps)
        short = replace(hp, n_ctx=hp.n_ctx_orig)
        texts = [batch.ids[a:b].tolist() for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
        parts = [self.run(pack([ids]), hp if len(ids) > hp.n_ctx_orig else short, ops, taps) for ids in texts]
        return np.concatenate(parts)

    def run(self, batch: Batch, hp: Hparams, ops: Ops, tap: Tap) -> Float:
        """llama.cpp's graph with the published operations."""
        hidden: Float = self.module.forward(self.weights, hp, batch, OriginalOps(ops, self, batch), tap)
        return hidden


class OriginalOps(OpsWrapper):
    """Operations as the published model has them."""

    def __init__(self, base: Ops, model: OriginalModel, batch: Batch) -> None:
        super().__init__(base)
        self.model, self.batch, self.published = model, batch, model.published

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows of w (T, C); of kinds of token, where llama.cpp asks for row 0, those that the texts ask for."""
        if w.name == "token_types.weight" and self.model.sep is not None:
            ids = segments(self.batch, self.model.sep)
        return self.base.get_rows(w, ids)

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        """y = x Wᵀ + b, its columns q, k, v as llama.cpp's graph expects them."""
        y = self.base.linear(x, w, b, tap, product)
        if not self.published.qkv_by_head or not w.name.endswith("attn_qkv.weight"):
            return y
        T, H = len(y), self.model.hparams.n_head
        return np.ascontiguousarray(y.reshape(T, H, 3, -1).transpose(0, 2, 1, 3)).reshape(T, -1)

    def add_layer_norm(
        self, x: Float, residual: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP
    ) -> Float:
        """As in llama.cpp: no norm differs."""
        return self.base.add_layer_norm(x, residual, w, b, eps, tap)

    def gelu(self, x: Float) -> Float:
        """GELU in the form the model was trained with."""
        return self.base.gelu_erf(x) if self.published.erf else self.base.gelu(x)

    def geglu(self, gate: Float, up: Float) -> Float:
        """gelu(gate) * up, likewise; where the published model has them the other way round, gate * gelu(up)."""
        if self.published.up_first and self.model.weights.blk[0].attn_norm_2 is not None:
            gate, up = up, gate
        return self.base.gelu_erf(gate) * up if self.published.erf else self.base.geglu(gate, up)


def check_semantics(semantics: str, numerics: str) -> None:
    """RequestError for a name that is none of SEMANTICS, and for what cannot be had together."""
    if semantics not in SEMANTICS:
        near = difflib.get_close_matches(str(semantics).lower(), SEMANTICS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(SEMANTICS)}"
        raise RequestError(f"semantics {semantics!r}: there is none of that name", hint=hint)
    if semantics == "original" and numerics == "ggml":
        hint = "numerics exact, fast, int8 or bf16; ggml rounds as llama.cpp does, which has no such graph"
        raise RequestError("semantics 'original' cannot be had in numerics 'ggml'", hint=hint)


def original(model: Model, f: GGUFFile, sep: int | None) -> OriginalModel:
    """The model with the forward pass that was published.

    f    its file
    sep  tokenizer.ggml.seperator_token_id

    Segments are for pairs, so for models with a reranker's head, and only for WordPiece: models like RoBERTa have none.
    Raises ModelError where the published graph does not fit the file.
    """
    hp, md, w = model.hparams, f.metadata, model.weights
    published = PUBLISHED.get(hp.arch, NO_DIFFERENCE)
    if published.qkv_by_head and hp.n_head_kv != hp.n_head:
        key = f"{hp.arch}.attention.head_count_kv"
        hint = "the published model has as many heads of keys as of queries; semantics 'llama.cpp' computes this file"
        raise ModelError(f"{f.path}: {key} is {hp.n_head_kv} for {hp.n_head} heads of queries", hint=hint)
    window = md.uint(f"{hp.arch}.attention.sliding_window", 0) if published.window else 0
    if window:
        factor = hp.rope_factor if hp.rope_scaling != "none" else 1.0
        alike: dict[str, Any] = {"rope_freq_base_swa": hp.rope_freq_base, "rope_factor_swa": factor}
        hp = replace(hp, n_swa=window, swa_layers=(True,) * hp.n_layer, **alike)
    if published.sees_all and f"{hp.arch}.attention.causal" not in md:
        hp = replace(hp, causal=False)
    if published.epsilon:
        hp = replace(hp, norm_eps=md.float(f"{hp.arch}.attention.layer_norm_rms_epsilon"))
    ranks = getattr(w, "cls", None) or getattr(w, "cls_output", None)
    types = getattr(w, "token_types", None)
    pairs = published.segments and ranks and types and types.shape[0] > 1
    wordpiece = md.string("tokenizer.ggml.model", "") == "bert"
    return OriginalModel(hp, w, model.module, published, sep if pairs and wordpiece else None)


def segments(batch: Batch, sep: int) -> I64:
    """The segment of each token (T): 1 behind the first separator of its text, else 0 (BertTokenizer)."""
    found = np.zeros(len(batch.ids), np.int64)
    for begin, end in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        places = np.flatnonzero(batch.ids[begin:end] == sep)
        if len(places):
            found[begin + places[0] + 1 : end] = 1
    return found
