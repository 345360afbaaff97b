"""Encoders, text parts of Qwen-VL and stretched RoPE as `transformers` has them: hidden states in float64.

Converted by refembed, computed by refembed as published, and by PyTorch. The folders are those of hf_encoders.py and
hf_scaled.py. `transformers` has classes of its own for Nomic BERT and Jina BERT 3, which name everything otherwise:
tensors are renamed here as its conversion_mapping.py says. What is left in `exact` is what PyTorch keeps in float32:
RoPE's angles, RMS norms.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert.folder import convert
from tests import hf_encoders, hf_scaled
from tests.hf_encoders import C, F, H, L, V
from tests.hf_folders import weights

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

SIZES = {
    "vocab_size": V, "hidden_size": C, "intermediate_size": F, "num_hidden_layers": L, "num_attention_heads": H,
}  # fmt: skip
NAMES = (  # a checkpoint's name -> that of `transformers`
    (r"^roberta\.", ""), (r"\.parametrizations\.weight\.original$", ".weight"), (r"^encoder\.layers", "layers"),
    (r"^emb_ln", "embeddings.LayerNorm"), (r"(attn|mixer)\.out_proj", "self_attn.o_proj"), (r"fc11", "up_proj"),
    (r"fc12", "gate_proj"), (r"norm1", "post_attention_layernorm"), (r"norm2", "post_mlp_layernorm"),
)  # fmt: skip


def fill(model: Any, name: str, *, gated: bool) -> Any:
    """A model with the weights of a folder."""
    import torch

    state: dict[str, Any] = {}
    for key, shape in hf_encoders.FOLDERS[name][1]().items():
        values = torch.tensor(weights(key, tuple(shape)))
        for pattern, new in NAMES:
            key = re.sub(pattern, new, key)
        key = key.replace("fc2", "down_proj") if gated else key
        if "lora" in key or key.startswith("pooler"):
            continue
        if fused := re.fullmatch(r"(.*)\.(?:attn|mixer)\.Wqkv\.(.*)", key):
            for part, one in zip("qkv", values.chunk(3), strict=True):
                state[f"{fused[1]}.self_attn.{part}_proj.{fused[2]}"] = one
        else:
            state[key] = values
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("pooler") for name in missing)
    return model.double().eval()


def nomic(t: Any) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1000.0}
    config = t.NomicBertConfig(**SIZES, rope_parameters=rope, layer_norm_eps=1e-12)
    return fill(t.NomicBertModel(config), "nomic-bert", gated=True)


def jina3(t: Any) -> Any:
    rope = {"rope_type": "default", "rope_theta": 20000.0}
    config = t.JinaEmbeddingsV3Config(**SIZES, rope_parameters=rope, layer_norm_eps=1e-5)
    return fill(t.JinaEmbeddingsV3Model(config), "jina-bert-v3", gated=False)


def text_part(t: Any, kind: str, name: str) -> Any:
    """The text model of a Qwen-VL."""
    import torch

    whole = getattr(t, f"{kind}Config")(**hf_encoders.FOLDERS[name][0])
    model = getattr(t, f"{kind}TextModel")(whole.text_config)
    shapes = {k: s for k, s in hf_encoders.FOLDERS[name][1]().items() if not k.startswith("visual.")}
    state = {k.removeprefix("model."): torch.tensor(weights(k, tuple(s))) for k, s in shapes.items()}
    model.load_state_dict(state, strict=True)
    return model.double().eval()


MODELS = {
    "nomic-bert": nomic,
    "jina-bert-v3": jina3,
    "qwen2vl": lambda t: text_part(t, "Qwen2_5_VL", "qwen2vl"),
    "qwen3vl": lambda t: text_part(t, "Qwen3VL", "qwen3vl"),
}
# Largest error of numbers up to 4.5, exact and fast: about three times what was measured on an AMD EPYC
BOUNDS = {
    "nomic-bert": (2e-10, 2.1e-6),
    "jina-bert-v3": (1e-12, 1.1e-6),
    "qwen2vl": (4e-7, 8e-7),
    "qwen3vl": (4e-7, 1.2e-6),
    "qwen2-yarn": (4e-7, 9e-7),
    "qwen3-yarn": (4e-7, 9e-7),
    "smollm3-yarn": (5e-7, 3e-6),
    "llama-linear": (6e-7, 5e-6),
    "qwen3-older-yarn": (5e-7, 9e-7),
    "gemma3-linear": (3e-6, 8e-6),
    "gemma-embedding-linear": (1.5e-6, 7e-6),
    "exaone4-llama3": (5e-7, 7e-6),
    "mistral-llama3": (9e-7, 3e-6),
    "mistral-dynamic": (5e-7, 1.5e-6),
    "longrope": (3e-6, 5e-6),
    "hunyuan-alpha": (6e-7, 1.5e-6),
    "camembert": (6e-15, 2.4e-6),
}
TEXTS = [[5], [7, 12], list(range(4, 24)), [11, 11, 3, 4, 5, 6, 3], [3 + i % 20 for i in range(60)]]


def check(name: str, model: Any, path: Path) -> None:
    """Both numerics give the model's hidden states."""
    import torch

    for numerics, bound in zip(("exact", "fast"), BOUNDS[name], strict=True):
        e = Embedder.load(path, numerics=numerics, semantics="original")
        for ids in TEXTS:
            with torch.no_grad():
                wanted: Any = model(torch.tensor([ids])).last_hidden_state[0].double().numpy()
            error = np.abs(e.forward([ids]) - wanted).max()
            assert error < bound, (name, numerics, len(ids), error)


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    path = convert(hf_encoders.build(name, tmp_path), tmp_path / "model.gguf")
    check(name, MODELS[name](transformers), path)


@pytest.mark.parametrize("name", hf_scaled.TABLES)
def test_texts_beyond_the_original_context_are_turned_as_in_transformers(name: str, tmp_path: Path) -> None:
    """The original context has 16 tokens, the longest text 60."""
    import torch
    import transformers

    folder = hf_scaled.build(name, tmp_path)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    check(name, model, convert(folder, tmp_path / "model.gguf"))


def camembert(folder: Path) -> Any:
    """CamemBERT as `transformers` saves it: RoBERTa's graph, with a Unigram vocabulary."""
    import torch
    import transformers

    config = transformers.CamembertConfig(**SIZES, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1)
    torch.manual_seed(0)
    model = transformers.CamembertModel(config).eval()
    model.save_pretrained(folder)
    hf_encoders.unigram(folder)
    return model.double()


def test_camembert_counts_places_as_roberta_does(tmp_path: Path) -> None:
    model = camembert(tmp_path)
    check("camembert", model, convert(tmp_path, tmp_path / "model.gguf"))
