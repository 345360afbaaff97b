"""`semantics="original"` of what `convert` leaves out: the weights of a file in PyTorch's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.gguf import GGUFFile, open_gguf
from refembed.testing.synthetic import synthetic

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

PHI3 = {
    "token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
BERT = {
    "token_embd": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings",
    "position_embd": "embeddings.position_embeddings", "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query", "attn_k": "attention.self.key", "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense", "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm",
}  # fmt: skip


def filled(model: Any, f: GGUFFile, names: dict[str, str], layers: str) -> Any:
    """PyTorch's model with the file's weights, in float64. Every one of its weights must be there."""
    import torch

    state = {}
    for name, t in f.tensors.items():
        parts = name.split(".")
        prefix = f"{layers}{parts[1]}." if parts[0] == "blk" else ""
        stem = parts[-2]
        if stem in names:
            state[f"{prefix}{names[stem]}.{parts[-1]}"] = torch.from_numpy(np.array(t.dequantize()))
    lost = model.load_state_dict(state, strict=False)
    assert not [key for key in lost.missing_keys if "position_ids" not in key]
    assert not lost.unexpected_keys
    return model.double().eval()


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("scaled", [False, True])
def test_phi3_is_that_of_transformers(window: int, scaled: bool, tmp_path: Path) -> None:
    """Texts of 3, 8 and 30 tokens: within the window and beyond, by the short factors and by the long."""
    import torch
    import transformers

    keys: dict[str, Any] = {"attention.sliding_window": (window, "UINT32")} if window else {}
    keys |= {"rope.scaling.original_context_length": (8, "UINT32"), "rope.scaling.type": ("longrope", "STRING")} if scaled else {}  # fmt: skip # noqa: E501
    optional = ("attn_qkv.weight", *(("rope_factors_long.weight", "rope_factors_short.weight") if scaled else ()))
    path = synthetic(tmp_path / "m.gguf", "phi3", P=64, pooling=1, optional=optional, keys=keys, K=2)
    f, rope = open_gguf(path), {"rope_type": "default", "rope_theta": 10000.0}
    if scaled:
        long, short = (f.tensors[f"rope_factors_{which}.weight"].dequantize().tolist() for which in ("long", "short"))
        rope |= {"rope_type": "longrope", "long_factor": long, "short_factor": short, "attention_factor": 1.0}
        rope |= {"original_max_position_embeddings": 8, "factor": 8.0}
    config = transformers.Phi3Config(
        vocab_size=101, hidden_size=36, intermediate_size=50, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=window or None,
        rope_parameters=rope, original_max_position_embeddings=8 if scaled else 64, rms_norm_eps=1e-6, pad_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    e = Embedder.load(path, numerics="exact", semantics="original")
    for n in (3, 8, 30):
        model = filled(transformers.Phi3Model(config), f, PHI3, "layers.")
        ids = [(7 * i) % 90 + 5 for i in range(n)]
        with torch.no_grad():
            wanted = model(torch.tensor([ids]), use_cache=False).last_hidden_state[0].numpy()
        assert np.abs(e.forward([ids]) - wanted).max() < 2e-5, (n, np.abs(e.forward([ids]) - wanted).max())


def test_segments_of_a_reranker_are_those_of_transformers(tmp_path: Path) -> None:
    import torch
    import transformers

    optional = {f"{part}.bias" for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")}
    head = {"token_types.weight", "cls.output.weight"}
    path = synthetic(tmp_path / "m.gguf", "bert", pooling=4, optional=optional | head)
    config = transformers.BertConfig(
        vocab_size=101, hidden_size=36, intermediate_size=50, num_hidden_layers=3, num_attention_heads=6,
        max_position_embeddings=128, layer_norm_eps=1e-6,
    )  # fmt: skip
    model = filled(transformers.BertModel(config, add_pooling_layer=False), open_gguf(path), BERT, "encoder.layer.")
    ids = [2, 9, 10, 3, 11, 12, 13, 3]
    e, llama = (Embedder.load(path, numerics="exact", semantics=s) for s in ("original", "llama.cpp"))
    with torch.no_grad():
        wanted = model(torch.tensor([ids]), token_type_ids=torch.tensor([[0] * 4 + [1] * 4])).last_hidden_state[0]
    assert np.abs(e.forward([ids]) - wanted.numpy()).max() < 1e-8  # float32 holds the epsilon
    assert np.abs(llama.forward([ids]) - wanted.numpy()).max() > 0.1
