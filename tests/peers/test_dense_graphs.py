"""Dense decoders that `convert` does not write, against `transformers`: their weights, put into a GGUF file by hand.

Tiny random models in float64, as in test_graphs.py. How rows and norms are changed is what llama.cpp's converter does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.gguf import GGUFWriter
from refembed.model.published import PUBLISHED
from refembed.testing.synthetic import add_vocabulary
from tests.peers.folders import SIZES, V, scatter
from tests.peers.test_graphs import TEXTS

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

H, D, L = 6, 8, 4
EPSILONS = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "rms_norm_eps", "norm_eps")
LONG = SIZES | {"max_position_embeddings": 64}
SHORT = {"vocab_size": V, "n_layer": L, "n_head": H}
SEPARATE = {f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"} | {"self_attn.o_proj": "attn_output"}
MLP = {f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
WIDE = {"mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}
TOP = {"embed_tokens": "token_embd", "norm": "output_norm"}
FALCON = {"self_attention.query_key_value": "attn_qkv", "self_attention.dense": "attn_output", **WIDE}
WORDS = {"word_embeddings": "token_embd", "ln_f": "output_norm"}


def regroup(whole: Any, of_each: int) -> Any:
    """(G, n + 2, D, ...): queries of all groups, then keys, then values."""
    rest = whole.shape[3:]
    parts = (whole[:, :of_each], whole[:, of_each : of_each + 1], whole[:, of_each + 1 :])
    return np.concatenate([part.reshape(-1, *rest) for part in parts])


def interleaved(name: str, x: Any) -> Any:
    """GPT-NeoX's and BLOOM's: q, k, v of each head in turn."""
    return regroup(x.reshape(H, 3, D, *x.shape[1:]), 1) if "attn_qkv" in name else x


def grouped(name: str, x: Any) -> Any:
    """Falcon 40B's: three heads of queries and their keys and values in turn."""
    return regroup(x.reshape(2, 5, D, *x.shape[1:]), 3) if "attn_qkv" in name else x


def turned(name: str, x: Any) -> Any:
    """GPT-2's matrices stand columns first."""
    return x.T if x.ndim == 2 and name.startswith("blk.") else x


def plus_one(name: str, x: Any) -> Any:
    """Nemotron's norms."""
    return x + 1 if name.endswith("norm.weight") else x


def same(name: str, x: Any) -> Any:
    """As they are."""
    return x


@dataclass(frozen=True)
class Peer:
    """One architecture of `transformers`, and where its weights go."""

    arch: str
    make: Callable[[Any], Any]
    names: dict[str, str]  # of a layer's parts, and of what is no layer's
    keys: dict[str, tuple[Any, str]] = field(default_factory=dict)
    change: Callable[[str, Any], Any] = same
    more: tuple[str, ...] = ()  # tensors that guess the next token, which a file must have
    F: int = 80
    bounds: tuple[float, float] = (6e-6, 2e-5)  # exact and fast, of numbers up to 5.1: measured 2.0e-6 and 7.2e-6


def kv(n: int) -> dict[str, tuple[Any, str]]:
    """Heads of keys."""
    return {"attention.head_count_kv": (n, "UINT32")}


def rot(n: int) -> dict[str, tuple[Any, str]]:
    """Channels that turn."""
    return {"rope.dimension_count": (n, "UINT32")}


def flag(name: str, value: bool = True) -> dict[str, tuple[Any, str]]:
    return {name: (value, "BOOL")}


def real(name: str, value: float) -> dict[str, tuple[Any, str]]:
    return {name: (value, "FLOAT32")}


def wide(t: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}


NEOX = {
    "input_layernorm": "attn_norm", "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm", **WIDE, "embed_in": "token_embd", "final_layer_norm": "output_norm",
}  # fmt: skip
GLM = {"input_layernorm": "attn_norm", **SEPARATE, "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down", **TOP}
GQA: dict[str, Any] = {"num_key_value_heads": 2}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
NO_WINDOW: dict[str, Any] = {"sliding_window": None, "layer_types": ["full_attention"] * L}
PEERS = {
    "gpt2": Peer(
        "gpt2", lambda t: t.GPT2Model(t.GPT2Config(**SHORT, n_embd=48, n_inner=80, n_positions=64)),
        {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
         "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "wte": "token_embd", "wpe": "position_embd",
         "ln_f": "output_norm"},
        change=turned,
    ),
    "gptneox": Peer(
        "gptneox", lambda t: t.GPTNeoXModel(t.GPTNeoXConfig(**LONG, **wide(t))), NEOX,
        rot(4) | flag("use_parallel_residual"), interleaved, ("output.weight",),
    ),
    "gptneox, one after the other": Peer(
        "gptneox", lambda t: t.GPTNeoXModel(t.GPTNeoXConfig(**LONG, **wide(t), use_parallel_residual=False)), NEOX,
        rot(4) | flag("use_parallel_residual", False), interleaved, ("output.weight",),
    ),
    "falcon": Peer(
        "falcon", lambda t: t.FalconModel(t.FalconConfig(**LONG, multi_query=True, parallel_attn=True, bias=False)),
        {"input_layernorm": "attn_norm", **FALCON, **WORDS}, kv(1), F=192,
    ),
    "falcon, two norms": Peer(
        "falcon", lambda t: t.FalconModel(t.FalconConfig(**LONG, new_decoder_architecture=True, num_kv_heads=2)),
        {"ln_attn": "attn_norm_2", "ln_mlp": "attn_norm", **FALCON, **WORDS}, kv(2), grouped, F=192,
    ),
    "bloom": Peer(
        "bloom", lambda t: t.BloomModel(t.BloomConfig(**SHORT, hidden_size=48)),
        {**NORMS, **FALCON, **WORDS, "word_embeddings_layernorm": "token_embd_norm"}, {}, interleaved, F=192,
    ),
    "mpt": Peer(
        "mpt", lambda t: t.MptModel(t.MptConfig(vocab_size=V, d_model=48, n_heads=H, n_layers=L, max_seq_len=64)),
        {"norm_1": "attn_norm", "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output", "norm_2": "ffn_norm",
         "ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down", "wte": "token_embd", "norm_f": "output_norm"},
        real("attention.max_alibi_bias", 8.0), F=192,
    ),
    "phi2": Peer(
        "phi2", lambda t: t.PhiModel(t.PhiConfig(**LONG, **wide(t))),
        {"input_layernorm": "attn_norm", **SEPARATE, "self_attn.dense": "attn_output", "mlp.fc1": "ffn_up",
         "mlp.fc2": "ffn_down", "embed_tokens": "token_embd", "final_layernorm": "output_norm"},
        rot(4), more=("output.weight", "output.bias"),
    ),
    "stablelm": Peer(
        "stablelm", lambda t: t.StableLmModel(t.StableLmConfig(**LONG, **GQA, **wide(t), use_qkv_bias=True)),
        NORMS | SEPARATE | MLP | TOP, kv(2) | rot(4), more=("output.weight",),
    ),
    "starcoder2": Peer(
        "starcoder2", lambda t: t.Starcoder2Model(t.Starcoder2Config(**LONG, **GQA)),
        NORMS | SEPARATE | {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"} | TOP, kv(2),
    ),
    "nemotron": Peer(
        "nemotron", lambda t: t.NemotronModel(t.NemotronConfig(**LONG, **GQA, **wide(t))),
        NORMS | SEPARATE | MLP | TOP, kv(2) | rot(4), plus_one, ("output.weight",),
        bounds=(2e-5, 9e-5),  # of numbers up to 6.6, ReLU squared: measured 5.4e-6 and 2.9e-5
    ),
    "cohere2": Peer(
        "cohere2", lambda t: t.Cohere2Model(t.Cohere2Config(**LONG, **GQA, **ROPE, sliding_window=8)),
        {"input_layernorm": "attn_norm", **SEPARATE, **MLP, **TOP},
        kv(2) | real("logit_scale", 1.0) | {"attention.sliding_window": (8, "UINT32")},
    ),
    "exaone4": Peer(
        "exaone4", lambda t: t.Exaone4Model(t.Exaone4Config(**LONG, **GQA, **ROPE, **NO_WINDOW)),
        {**SEPARATE, **MLP, **TOP, "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}, kv(2),
    ),
    "chatglm": Peer(
        "chatglm", lambda t: t.GlmModel(t.GlmConfig(**LONG, **GQA, head_dim=8, pad_token_id=0)),
        GLM | {"post_attention_layernorm": "ffn_norm"}, kv(2) | rot(4),
    ),
    "glm4": Peer(
        "glm4", lambda t: t.Glm4Model(t.Glm4Config(**LONG, **GQA, head_dim=8, pad_token_id=0)),
        GLM | {"post_self_attn_layernorm": "post_attention_norm", "post_attention_layernorm": "ffn_norm",
               "post_mlp_layernorm": "post_ffw_norm"}, kv(2) | rot(4),
    ),
    "hunyuan-dense": Peer(
        "hunyuan-dense", lambda t: t.HunYuanDenseV1Model(t.HunYuanDenseV1Config(**LONG, **GQA, **ROPE, head_dim=8)),
        NORMS | SEPARATE | MLP | TOP
        | {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"}, kv(2),
    ),
}  # fmt: skip


def renamed(peer: Peer, weights: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """GGUF's names and arrays of a checkpoint's."""
    for name, x in weights.items():
        layer = re.match(r"(?:h|layers|blocks)\.(\d+)\.(.+)\.(weight|bias)$", name)
        part, kind = (layer[2], layer[3]) if layer else name.rsplit(".", 1)
        new = f"blk.{layer[1]}.{peer.names[part]}.{kind}" if layer else f"{peer.names[part]}.{kind}"
        yield new, np.ascontiguousarray(peer.change(new, x.numpy()), np.float32)
    for name in peer.more:
        yield name, np.zeros((V, 48) if name.endswith("weight") else V, np.float32)


def write(peer: Peer, model: Any, path: Path) -> Path:
    """The GGUF file."""
    w = GGUFWriter(peer.arch)
    eps = next(getattr(model.config, key) for key in EPSILONS if hasattr(model.config, key))
    norms = {f"attention.layer_norm_{rms}epsilon": (eps, "FLOAT32") for rms in ("", "rms_")}
    sizes = {"block_count": L, "context_length": 64, "embedding_length": 48, "feed_forward_length": peer.F}
    sizes["attention.head_count"] = H
    for key, (value, kind) in ({k: (n, "UINT32") for k, n in sizes.items()} | norms | peer.keys).items():
        w.add(f"{peer.arch}.{key}", value, kind)
    add_vocabulary(w, V)
    for name, x in renamed(peer, {k: v for k, v in model.state_dict().items() if "inv_freq" not in k}):
        w.add_tensor(name, x, x.shape, "F32")
    return w.write(path)


@pytest.mark.parametrize("name", PEERS)
def test_hidden_states_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    import torch
    import transformers

    peer = PEERS[name]
    model = scatter(peer.make(transformers))
    path, model = write(peer, model, tmp_path / "m.gguf"), model.double()
    exact, fast = (Embedder.load(path, numerics=numerics, semantics="original") for numerics in ("exact", "fast"))
    graph, far = Embedder.load(path, numerics="exact"), 0.0
    for ids in TEXTS:
        with torch.no_grad():
            wanted: Any = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        for e, bound in zip((exact, fast), peer.bounds, strict=True):
            error = np.abs(e.forward([ids]) - wanted).max()
            assert error < bound, (e.info.numerics, len(ids), error)
        far = max(far, np.abs(graph.forward([ids]) - wanted).max())
    assert (far > 1e-4) == (peer.arch in PUBLISHED), far  # GELU itself: docs/differences.md
