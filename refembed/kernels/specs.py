"""How a layer attends and rotates: numbers that `Ops.attention` and `Ops.rope` take as one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refembed.gguf import Tensor


@dataclass(frozen=True)
class AttentionMask:
    """Which keys of its own text a query sees, and what distance costs. Positions count from 0 in each text."""

    causal: bool = False  # query i sees keys j <= i
    window: int = 0  # 0: no window; else as `kind` says
    kind: Literal["standard", "chunked", "symmetric"] = "standard"  # enum llama_swa_type
    spans: tuple[tuple[int, int], ...] = ()  # rows of images (begin, end): each query in one sees all its keys too
    max_bias: float = 0.0  # ALiBi (Press et al. 2022): slope(head) * -|i - j| is added to a score; 0 for none


BIDIRECTIONAL = AttentionMask()


@dataclass(frozen=True)
class AttentionSpec:
    """How one layer attends: everything about its attention but the numbers. An architecture makes one per layer."""

    n_head: int  # H heads of queries
    n_head_kv: int  # K heads of keys and values, each shared by H/K heads of queries; H where none is shared
    scale: float  # of the scores: 1/sqrt(D), or 1 where queries are scaled already
    mask: AttentionMask = BIDIRECTIONAL
    soft_cap: float = 0.0  # a score s becomes c tanh(s / c) (Gemma 2); 0 for none
    cached: bool = False  # llama.cpp keeps keys and values in a KV cache, which rounds them: `ggml` does, others do not

    @property
    def group(self) -> int:
        """Heads of queries that share a head of keys."""
        return self.n_head // self.n_head_kv


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021) with llama.cpp's extensions (ggml_rope_ext)."""

    n_dims: int  # leading channels of a head that turn; the rest stay
    pairs: Literal["norm", "neox"]  # channel 2i with 2i+1, or i with i + n_dims/2
    freq_base: float  # theta_i = pos * freq_base^(-2i/n_dims)
    freq_scale: float = 1.0  # linear scaling: 1 / factor
    n_ctx_orig: int = 0  # context of the original training, for YaRN
    ext_factor: float = 0.0  # YaRN (Peng et al. 2023): how far to mix; 0 is off
    attn_factor: float = 1.0  # magnitude of the turned vector
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    factors: Tensor | None = None  # (n_dims/2) `rope_freqs.weight` and similar models: theta_i is divided by them
