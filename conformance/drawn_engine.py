"""A second engine, in plain NumPy, that faults are built into: BERT and Qwen3 by the textbook.

It reads weights and hyperparameters from the GGUF file and nothing else of refembed but the tokenizer. Everything that
a fault may change is a field of `Settings` or an edit of the dictionary of weights, so a drawn fault is a drawn number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refembed.gguf import open_gguf

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]


def gelu(x: Array) -> Array:
    """The tanh form, which llama.cpp has."""
    y: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    y: Array = x / (1 + np.exp(-x))
    return y


@dataclass(frozen=True)
class Settings:
    """What may be otherwise. None: as the model has it."""

    eps: float | None = None
    activation: Callable[[Array], Array] | None = None
    score_factor: float = 1.0
    cap: float = 0.0
    causal: bool | None = None
    window: int = 0  # a token sees those less than so many places away
    rope_base: float | None = None
    rope_scale: float = 1.0
    rope_dims: int | None = None
    rope_neighbors: bool = False  # channels 2i and 2i+1 turn together
    first_position: int = 0
    segment: int = 0
    token_scale: float = 1.0
    lost_head: int | None = None
    layers: tuple[int, ...] | None = None
    swap_queries: bool = False
    unbiased_variance: bool = False
    norm_kind: str = ""  # "rms", "layer"
    gate_first: bool = True
    tile_heads: bool = False
    edit: Callable[[Weights], Weights] | None = None
    half: bool = False  # queries, keys and values in float16, as llama.cpp's flash attention reads them
    broken: Callable[[Any], Any] | None = None  # an Embedder made wrong: of the models of drawn_families.py alone


class NumpyModel:
    """Weights and numbers of a file, and the forward pass."""

    def __init__(self, path: Path | str) -> None:
        with open_gguf(path) as f:
            self.arch = f.metadata.string("general.architecture")

            def get(key: str, default: Any = None) -> Any:
                return f.metadata.get(f"{self.arch}.{key}", default)

            self.n_layer, self.H = int(get("block_count")), int(get("attention.head_count"))
            self.K = int(get("attention.head_count_kv", self.H) or self.H)
            eps = get("attention.layer_norm_epsilon") or get("attention.layer_norm_rms_epsilon")
            self.eps = float(eps)
            self.base = float(get("rope.freq_base", 10000.0))
            self.weights: Weights = {
                n: t.dequantize().reshape(t.shape).astype(np.float64) for n, t in f.tensors.items()
            }

    def hidden(self, texts: Sequence[list[int]], s: Settings) -> list[Array]:
        """States (T, C) of the last layer, of each text alone."""
        w = s.edit(dict(self.weights)) if s.edit else self.weights
        run = self.bert if self.arch == "bert" else self.qwen3
        return [run(np.asarray(ids), w, s) for ids in texts]

    def norm(self, x: Array, w: Mapping[str, Array], name: str, s: Settings, kind: str) -> Array:
        """LayerNorm or RMSNorm."""
        eps = self.eps if s.eps is None else s.eps
        kind = s.norm_kind or kind
        center = x - x.mean(-1, keepdims=True) if kind == "layer" else x
        over = x.shape[-1] - 1 if s.unbiased_variance else x.shape[-1]
        y = center / np.sqrt((center**2).sum(-1, keepdims=True) / over + eps) * w[f"{name}.weight"]
        found: Array = y + w.get(f"{name}.bias", 0.0)
        return found

    def attend(self, q: Array, k: Array, v: Array, s: Settings, causal: bool) -> Array:
        """q (T, H, D), k and v (T, K, D) -> (T, H D)."""
        T, H, D = q.shape
        if s.half:
            q, k, v = (x.astype(np.float16).astype(np.float64) for x in (q, k, v))
        share = H // k.shape[1]
        wide = [np.tile(x, (1, share, 1)) if s.tile_heads else np.repeat(x, share, axis=1) for x in (k, v)]
        scores = np.einsum("qhd,khd->hqk", q, wide[0]) / math.sqrt(D) * s.score_factor
        if s.cap:
            scores = s.cap * np.tanh(scores / s.cap)
        apart = np.arange(T)[:, None] - np.arange(T)
        seen = np.ones((T, T), bool)
        if causal if s.causal is None else s.causal:
            seen &= apart >= 0
        if s.window:
            seen &= np.abs(apart) < s.window
        scores = np.where(seen, scores, -np.inf)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        y = np.einsum("hqk,khd->qhd", e / e.sum(-1, keepdims=True), wide[1])
        if s.lost_head is not None:
            y[:, s.lost_head] = 0
        return y.reshape(T, -1)

    def linear(self, x: Array, w: Mapping[str, Array], name: str) -> Array:
        """x Wᵀ + b."""
        y: Array = x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)
        return y

    def bert(self, ids: Array, w: Mapping[str, Array], s: Settings) -> Array:
        """Embeddings, then per layer attention and feed-forward, normalized after each sum."""
        positions = np.minimum(np.arange(len(ids)) + s.first_position, len(w["position_embd.weight"]) - 1)
        x = w["token_embd.weight"][ids] * s.token_scale + w["position_embd.weight"][positions]
        if "token_types.weight" in w:
            x = x + w["token_types.weight"].reshape(-1, x.shape[-1])[s.segment]
        x = self.norm(x, w, "token_embd_norm", s, "layer")
        act = s.activation or gelu
        for i in s.layers or range(self.n_layer):
            b = f"blk.{i}."
            q, k, v = (self.linear(x, w, b + n).reshape(len(x), self.H, -1) for n in ("attn_q", "attn_k", "attn_v"))
            q, k = (k, q) if s.swap_queries else (q, k)
            a = self.linear(self.attend(q, k, v, s, False), w, b + "attn_output")
            x = self.norm(a + x, w, b + "attn_output_norm", s, "layer")
            h = self.linear(act(self.linear(x, w, b + "ffn_up")), w, b + "ffn_down")
            x = self.norm(h + x, w, b + "layer_output_norm", s, "layer")
        return x

    def turn(self, x: Array, s: Settings) -> Array:
        """RoPE: (T, H, D)."""
        n = s.rope_dims or x.shape[-1]
        pos = (np.arange(len(x)) + 0.0) * s.rope_scale
        angle = pos[:, None] * (s.rope_base or self.base) ** (-2.0 * np.arange(n // 2) / n)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        y = x.copy()
        first, second = (slice(0, n, 2), slice(1, n, 2)) if s.rope_neighbors else (slice(0, n // 2), slice(n // 2, n))
        y[..., first] = x[..., first] * cos - x[..., second] * sin
        y[..., second] = x[..., second] * cos + x[..., first] * sin
        return y

    def qwen3(self, ids: Array, w: Mapping[str, Array], s: Settings) -> Array:
        """Normalized before each part; queries and keys once more, head by head."""
        x = w["token_embd.weight"][ids] * s.token_scale
        act = s.activation or silu
        for i in s.layers or range(self.n_layer):
            b = f"blk.{i}."
            y = self.norm(x, w, b + "attn_norm", s, "rms")
            q = self.linear(y, w, b + "attn_q").reshape(len(x), self.H, -1)
            k, v = (self.linear(y, w, b + n).reshape(len(x), self.K, -1) for n in ("attn_k", "attn_v"))
            q, k = (self.turn(self.norm(z, w, b + n, s, "rms"), s) for z, n in ((q, "attn_q_norm"), (k, "attn_k_norm")))
            x = x + self.linear(self.attend(q, k, v, s, True), w, b + "attn_output")
            y = self.norm(x, w, b + "ffn_norm", s, "rms")
            gate, up = self.linear(y, w, b + "ffn_gate"), self.linear(y, w, b + "ffn_up")
            x = x + self.linear(act(gate) * up if s.gate_first else act(up) * gate, w, b + "ffn_down")
        return self.norm(x, w, "output_norm", s, "rms")
