"""What forward hooks see in small random decoders: llama.cpp's tensors of those names, and mathematics between them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refembed.convert.folder import convert
from refembed.verify.compare.align import align
from refembed.verify.compare.arrays import compare
from refembed.verify.engines.llamacpp import LlamaCpp
from refembed.verify.engines.sentence_transformers import open_folder

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # PyTorch's warnings are not ours to mend

IDS = [5, 17, 99, 200, 3, 44, 5]
SIZES = {
    "vocab_size": 272, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 257, "eos_token_id": 257,
}  # fmt: skip
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}
MODELS = {"Qwen2": {}, "Qwen3": {"head_dim": 16}, "Llama": {}, "Gemma3Text": GEMMA}
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)  # qwen2's pre-tokenizer, by which a converter knows it


def built(name, folder):
    """A folder with random weights and a vocabulary of bytes."""
    import torch
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **MODELS[name])
    model = getattr(transformers, f"{name}Model")(config).eval()
    for p in model.parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p, 0.9, 0.1)  # weights of norms and biases that do something
    model.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*letters, "he"])}, merges=[("h", "e")]))
    split = pre_tokenizers.Split(Regex(QWEN), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Sequence([split, level]), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    return built(request.param, tmp_path_factory.mktemp(request.param))


def test_the_tensors_fit_together(folder):
    """Residual sums, the gate, and the last norm."""
    trace = open_folder(folder, library="transformers").trace(IDS)
    gemma = "Gemma" in folder.name
    x = trace["inp_scaled" if gemma else "embd"]
    for il in range(2):
        got = lambda name, il=il: trace[f"{name}-{il}"].astype(np.float64)  # noqa: E731
        gate = got("ffn_gate")
        if gemma:
            act = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
            y = x + got("attn_post_norm")
            np.testing.assert_allclose(got("sa_out"), y, atol=1e-5)
            np.testing.assert_allclose(got("ffn_geglu"), act * got("ffn_up"), atol=1e-5)
            x = y + got("ffn_post_norm")
        else:
            y = x + got("attn_out")
            np.testing.assert_allclose(got("ffn_inp"), y, atol=1e-5)
            np.testing.assert_allclose(got("ffn_swiglu"), gate / (1 + np.exp(-gate)) * got("ffn_up"), atol=1e-5)
            x = y + got("ffn_out")
        np.testing.assert_allclose(got("l_out"), x, atol=1e-5)
    assert ("ffn_inp-0" in trace, "sa_out-0" in trace) == (not gemma, gemma)
    assert trace["result_norm"].shape == (7, 64)
    states = open_folder(folder, library="transformers").embed([IDS])[0]
    np.testing.assert_array_equal(trace["result_norm"], states)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["Qwen2", "Qwen3", "Llama"])
def test_every_tensor_is_llama_cpps_of_that_name(name, tmp_path):
    folder = built(name, tmp_path)
    gguf = convert(folder, tmp_path / "model.gguf", outtype="f32")
    with LlamaCpp(gguf, pooling="last", type_kv="f32") as engine:
        ours = engine.trace(IDS)
    theirs = open_folder(folder, library="transformers").trace(IDS)
    named = [pair for pair in align(ours, theirs).pairs if pair.by == "name"]
    nameless = {"attn_out-0", "attn_out-1"} if name != "Llama" else set()  # Qwen's graph names no such node
    assert set(theirs) - {pair.name for pair in named} == nameless
    assert len(theirs) == 2 + 2 * {"Qwen2": 16, "Qwen3": 15, "Llama": 11}[name]
    for pair in named:
        a, b = ours.tensors[pair.ours].array, theirs.tensors[pair.theirs].array
        assert compare(a.reshape(b.shape), b).nmse < 1e-9, pair.name
