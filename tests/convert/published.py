"""Encoders as their authors publish them, in plain NumPy and float64: from a checkpoint's tensors to hidden states.

Written after the code that tests/hf_encoders.py names, which is not in `transformers`. Only what one text needs: no
padding, no dropout, no training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Tensors = Mapping[str, Array]
HEADS = 6


def linear(w: Tensors, name: str, x: Array) -> Array:
    """x Wᵀ + b, with b where the checkpoint has one."""
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def layer_norm(w: Tensors, name: str, x: Array, eps: float) -> Array:
    x = x - x.mean(1, keepdims=True)
    return x / np.sqrt((x * x).mean(1, keepdims=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(w: Tensors, name: str, x: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(1, keepdims=True) + eps) * w[f"{name}.weight"]


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def turned(x: Array, base: float, *, neighbors: bool) -> Array:
    """RoPE of (T, H, D): channels i and i + D/2 turn together, or neighbors."""
    T, _, D = x.shape
    angles = np.arange(T)[:, None, None] * base ** (-np.arange(0, D, 2) / D)
    a, b = (x[..., 0::2], x[..., 1::2]) if neighbors else (x[..., : D // 2], x[..., D // 2 :])
    turned = a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)
    if neighbors:
        return np.stack(turned, -1).reshape(x.shape)
    return np.concatenate(turned, -1)


def attention(q: Array, k: Array, v: Array, bias: Array | float = 0.0) -> Array:
    """Of (T, H, D); bias: (H, T, T), added to the scores."""
    scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[2]) + bias
    return np.einsum("hij,jhd->ihd", softmax(scores), v).reshape(len(q), -1)


def heads(x: Array) -> Array:
    return x.reshape(len(x), HEADS, -1)


def embedded(w: Tensors, ids: list[int]) -> Array:
    return w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]


def flash(
    w: Tensors, c: dict[str, Any], ids: list[int], mixer: str, mlp: Callable[[int, str, Array], Array]
) -> Array:  # fmt: skip
    """Nomic BERT and Jina BERT 3: norms behind each part, RoPE, one matrix for queries, keys and values."""
    eps = c.get("layer_norm_epsilon", c.get("layer_norm_eps"))
    x = layer_norm(w, "emb_ln", embedded(w, ids), eps)
    for i in range(4):
        at = f"encoder.layers.{i}"
        q, k, v = (heads(part) for part in np.split(linear(w, f"{at}.{mixer}.Wqkv", x), 3, axis=1))
        q, k = (turned(part, float(c["rotary_emb_base"]), neighbors=False) for part in (q, k))
        x = layer_norm(w, f"{at}.norm1", x + linear(w, f"{at}.{mixer}.out_proj", attention(q, k, v)), eps)
        x = layer_norm(w, f"{at}.norm2", x + mlp(i, f"{at}.mlp", x), eps)
    return x


def nomic(w: Tensors, c: dict[str, Any], ids: list[int]) -> Array:
    def mlp(_: int, at: str, x: Array) -> Array:
        return linear(w, f"{at}.fc2", linear(w, f"{at}.fc11", x) * silu(linear(w, f"{at}.fc12", x)))

    return flash(w, c, ids, "attn", mlp)


def nomic_moe(w: Tensors, c: dict[str, Any], ids: list[int]) -> Array:
    """The bias of all experts is left out, for which llama.cpp has no place."""

    def mlp(i: int, at: str, x: Array) -> Array:
        if i % c["moe_every_n_layers"] != 1:
            return linear(w, f"{at}.fc2", gelu(linear(w, f"{at}.fc1", x)))
        up, down = (w[f"{at}.experts.mlp.w{n}"].reshape(c["num_experts"], c["n_inner"], -1) for n in (1, 2))
        routed = softmax(linear(w, f"{at}.router.layer", x))
        out = np.zeros_like(x)
        for t, shares in enumerate(routed):
            for e in np.argsort(-shares)[: c["moe_top_k"]]:
                out[t] += shares[e] * (gelu(x[t : t + 1] @ up[e].T) @ down[e])[0]
        return out

    return flash(w, c, ids, "attn", mlp)


def jina3(w: Tensors, c: dict[str, Any], ids: list[int], task: int | None = None) -> Array:
    """task: the adapter, None: the base weights."""
    plain = {}
    for name, x in w.items():
        name = name.removeprefix("roberta.").replace(".parametrizations.", ".")
        if name.endswith(".original"):
            plain[name.removesuffix(".original")] = x
        elif not name.endswith((".lora_A", ".lora_B")):
            plain[name] = x
    for name, x in w.items():
        if task is not None and name.endswith(".lora_A"):
            a, b = x[task], w[name[:-1] + "B"][task]
            added = a @ b if "_embeddings." in name else b @ a
            matrix = name.removeprefix("roberta.").replace(".parametrizations.", ".")[: -len(".0.lora_A")]
            plain[matrix] = plain[matrix] + added * c["lora_alpha"] / c["lora_rank"]

    def mlp(_: int, at: str, x: Array) -> Array:
        return linear(plain, f"{at}.fc2", gelu(linear(plain, f"{at}.fc1", x)))

    return flash(plain, c, ids, "mixer", mlp)


def jina2(w: Tensors, c: dict[str, Any], ids: list[int]) -> Array:
    """ALiBi, and a feed-forward part whose gate is the first half in the text models, the second in the code model."""
    eps = c["layer_norm_eps"]
    slopes = [2 ** (-8 / 4 * (h + 1)) for h in range(4)] + [2 ** (-8 / 8 * (2 * h + 1)) for h in range(HEADS - 4)]
    places = np.arange(len(ids))
    alibi = -np.array(slopes)[:, None, None] * np.abs(places[:, None] - places)
    x = layer_norm(w, "embeddings.LayerNorm", embedded(w, ids), eps)
    for i in range(4):
        at = f"encoder.layer.{i}"
        q, k, v = (linear(w, f"{at}.attention.self.{part}", x) for part in ("query", "key", "value"))
        code = f"{at}.layer_norm_1.weight" in w
        if code:
            q = layer_norm(w, f"{at}.attention.self.layer_norm_q", q, eps)
            k = layer_norm(w, f"{at}.attention.self.layer_norm_k", k, eps)
        a = linear(w, f"{at}.attention.output.dense", attention(heads(q), heads(k), heads(v), alibi))
        y = layer_norm(w, f"{at}.attention.output.LayerNorm", a + x, eps)
        if code:
            y = layer_norm(w, f"{at}.layer_norm_1", x + y, eps)
            up, gate = np.split(linear(w, f"{at}.mlp.up_gated_layer", y), 2, axis=1)
            x = layer_norm(w, f"{at}.layer_norm_2", y + linear(w, f"{at}.mlp.down_layer", up * gelu(gate)), eps)
        else:
            gate, up = np.split(linear(w, f"{at}.mlp.gated_layers", y), 2, axis=1)
            x = layer_norm(w, f"{at}.mlp.layernorm", y + linear(w, f"{at}.mlp.wo", gelu(gate) * up), eps)
    return x


def neo(w: Tensors, c: dict[str, Any], ids: list[int]) -> Array:
    """Norms before each part; queries, keys and values stand head by head; neighbors turn together."""
    w = {name.removeprefix("model."): x for name, x in w.items()}
    eps, x = c["norm_eps"], w["encoder.weight"][ids]
    for i in range(4):
        at = f"transformer_encoder.{i}"
        qkv = heads(linear(w, f"{at}.qkv", rms_norm(w, f"{at}.attention_norm", x, eps)))
        q, k, v = np.split(qkv, 3, axis=2)
        q, k = (turned(part, 10000.0, neighbors=True) for part in (q, k))
        x = x + linear(w, f"{at}.wo", attention(q, k, v))
        gate, up = np.split(linear(w, f"{at}.ffn.w12", rms_norm(w, f"{at}.ffn_norm", x, eps)), 2, axis=1)
        x = x + linear(w, f"{at}.ffn.w3", silu(gate) * up)
    return rms_norm(w, "layer_norm", x, eps)


FORWARD: dict[str, Callable[[Tensors, dict[str, Any], list[int]], Array]] = {
    "nomic-bert": nomic, "nomic-bert-moe": nomic_moe, "jina-bert-v2": jina2, "jina-bert-v2-code": jina2,
    "jina-bert-v3": jina3, "neo-bert": neo,
}  # fmt: skip
