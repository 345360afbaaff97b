"""Encoders whose code is their own, text parts of Qwen-VL, and stretched RoPE: `convert` against what llama.cpp's
converter wrote (tests/data/converter-encoders.json), against the published formulas, and on what it cannot take.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert.folder import convert
from refembed.errors import ModelError
from refembed.gguf import open_gguf
from tests import hf_encoders, hf_scaled
from tests.convert.published import FORWARD, jina3
from tests.hf_folders import weights
from tests.record_converter import describe, inputs, unfold
from tests.record_encoders import BUILDERS, DATA, FILE, OUTTYPES

RECORDS = json.loads((DATA / FILE).read_text(encoding="utf-8"))
# Where the file has a name for how words are cut, which the recorder took from the converter
PRE = dict.fromkeys(
    ("qwen2vl", "qwen3vl", "qwen2-yarn", "qwen3-yarn", "qwen3-older-yarn", "smollm3-yarn", "exaone4-llama3",
     "hunyuan-alpha"), "qwen2",
) | {"jina-bert-v2-code": "jina-v2-de"}  # fmt: skip
# A key that stands elsewhere in the file
MOVED = dict.fromkeys(("nomic-bert-moe", "jina-bert-v3"), "tokenizer.ggml.token_type_count")
MOVED |= {"longrope": "phi3.rope.scaling.attn_factor"}
# AutoTokenizer gives any folder of this architecture tokens of Qwen's own
OTHER_TOKENS = {"qwen2-yarn": {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}}


@pytest.mark.parametrize(("name", "outtype"), [(name, outtype) for name in BUILDERS for outtype in OUTTYPES[name]])
def test_the_file_is_what_llama_cpps_converter_makes_of_the_folder(name: str, outtype: str, tmp_path: Path) -> None:
    folder = BUILDERS[name](name, tmp_path)
    recorded = RECORDS[name]
    assert inputs(folder) == recorded["inputs"], "another folder was recorded"
    written = convert(folder, tmp_path / "out.gguf", outtype=outtype, adapters=True)
    expected = unfold(recorded, outtype)
    found = json.loads(json.dumps(describe(written)))
    assert found["tensors"] == expected["tensors"]
    assert set(found["keys"]) == set(expected["keys"])
    moved = MOVED.get(name)
    order, wanted = ([k for k in keys if k != moved] for keys in (found["keys"], expected["keys"]))
    assert order == wanted
    differ = {key for key, value in expected["keys"].items() if found["keys"][key] != value}
    assert differ == ({"tokenizer.ggml.pre"} if name in PRE else set()) | OTHER_TOKENS.get(name, set())
    if name in PRE:
        assert found["keys"]["tokenizer.ggml.pre"] == ["STRING", PRE[name]]
    if not (name in PRE or moved):
        assert hashlib.sha256(written.read_bytes()).hexdigest() == expected["sha256"]
    adapters = {path.name: json.loads(json.dumps(describe(path))) for path in sorted(tmp_path.glob("lora-*"))}
    assert adapters == recorded["adapters"]


@pytest.mark.oracle
@pytest.mark.parametrize("name", BUILDERS)
def test_llama_cpp_computes_the_file_to_the_same_bits(name: str, tmp_path: Path) -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    path = convert(BUILDERS[name](name, tmp_path), tmp_path / "out.gguf")
    ids = [3 + i % 20 for i in range(30)]  # more than the original context
    ours = Embedder.load(path, numerics="ggml").forward([ids])
    with LlamaCpp(path, pooling="none", n_ctx=64, flash_attn=True) as engine:
        assert np.array_equal(engine.embed([ids])[0].reshape(ours.shape), ours)


TEXTS = [[5], [7, 12], list(range(4, 24)), [11, 11, 3, 4, 5, 6, 3]]
# Largest error of numbers up to 1.6: about three times what was measured on an AMD EPYC
BOUNDS = {
    "nomic-bert": 4e-15,
    "nomic-bert-moe": 2e-14,
    "jina-bert-v2": 4e-15,
    "jina-bert-v2-code": 4e-15,
    "jina-bert-v3": 3e-13,
    "neo-bert": 2e-11,
}


def tensors_of(name: str) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """The checkpoint that `build` writes."""
    _, shapes, *_ = hf_encoders.FOLDERS[name]
    return {n: weights(n, tuple(s)).astype(np.float64) for n, s in shapes().items()}


@pytest.mark.parametrize("name", FORWARD)
def test_hidden_states_are_those_of_the_published_formulas(name: str, tmp_path: Path) -> None:
    path = convert(hf_encoders.build(name, tmp_path), tmp_path / "model.gguf")
    w, c = tensors_of(name), hf_encoders.FOLDERS[name][0]
    e = Embedder.load(path, numerics="exact", semantics="original")
    for ids in TEXTS:
        error = np.abs(e.forward([ids]) - FORWARD[name](w, c, ids)).max()
        assert error < BOUNDS[name], (len(ids), error)


def test_an_adapter_makes_of_the_base_what_its_task_was_trained_for(tmp_path: Path) -> None:
    notes: list[str] = []
    path = convert(
        hf_encoders.build("jina-bert-v3", tmp_path), tmp_path / "model.gguf", adapters=True, say=notes.append
    )
    w, c = tensors_of("jina-bert-v3"), hf_encoders.FOLDERS["jina-bert-v3"][0]
    files = [tmp_path / f"lora-{task}-model.gguf" for task in hf_encoders.TASKS]
    assert notes[-1] == f"LoRA adapters, next to the model: {files[0].name}, {files[1].name}"
    base = Embedder.load(path, numerics="exact", semantics="original").forward([TEXTS[2]])
    for i, file in enumerate(files):
        found = Embedder.load(path, numerics="exact", semantics="original", lora=[file]).forward([TEXTS[2]])
        assert np.abs(found - jina3(w, c, TEXTS[2], i)).max() < 1.2e-6  # 3.9e-7 was measured
        assert np.abs(found - base).max() > 0.1
    assert open_gguf(files[0]).metadata["adapter.lora.prompt_prefix"] == "Represent the query: "


def test_adapters_of_a_quantized_model_are_written_next_to_it(tmp_path: Path) -> None:
    folder = hf_encoders.build("jina-bert-v3", tmp_path)
    convert(folder, tmp_path / "a.gguf", adapters=True)
    convert(folder, tmp_path / "b.gguf", outtype="q8_0", adapters=True)
    notes: list[str] = []
    convert(folder, tmp_path / "c.gguf", outtype="q5_0", adapters=True, say=notes.append)
    assert notes[-1].endswith(f"lora-{hf_encoders.TASKS[-1]}-c.gguf")
    assert "/" not in notes[-1]  # the folder in which it is quantized
    for task in hf_encoders.TASKS:
        one, *others = (tmp_path / f"lora-{task}-{model}.gguf" for model in "abc")
        assert all(path.read_bytes() == one.read_bytes() for path in others)
    assert sorted(path.name for path in tmp_path.glob("*c.gguf")) == ["c.gguf", *(
        f"lora-{task}-c.gguf" for task in hf_encoders.TASKS)]  # fmt: skip


def test_adapters_that_are_not_asked_for_are_said_to_be_left_out(tmp_path: Path) -> None:
    notes: list[str] = []
    convert(hf_encoders.build("jina-bert-v3", tmp_path), tmp_path / "model.gguf", say=notes.append)
    assert notes[-1].startswith("left out: LoRA adapters for retrieval.query, separation")
    assert not list(tmp_path.glob("lora-*"))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("nomic-bert", {"activation_function": "gelu"}, "activation_function is gelu"),
        ("nomic-bert", {"activation_function": None}, "no activation_function"),
        ("nomic-bert", {"rotary_scaling_factor": 2}, "rotary_scaling_factor is 2"),
        ("nomic-bert", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction is 0.5"),
        ("nomic-bert", {"n_positions": 4096}, "n_positions is 4096"),
        ("nomic-bert", {"prenorm": True}, "prenorm is True"),
        ("nomic-bert", {"qkv_proj_bias": True}, "qkv_proj_bias is True"),
        ("nomic-bert", {"n_inner": 64}, r"is \[80, 48\], config.json says \[64, 48\]"),
        ("nomic-bert-moe", {"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights is True"),
        ("nomic-bert-moe", {"moe_every_n_layers": 4}, "unexpected tensors|missing tensors"),
        ("nomic-bert-moe", {"num_experts": 4}, r"is \[400, 48\], config.json says \[320, 48\]"),
        ("nomic-bert-moe", {"num_shared_experts": 1}, "num_shared_experts is 1"),
        ("jina-bert-v2", {"feed_forward_type": "reglu"}, "feed_forward_type is reglu"),
        ("jina-bert-v2", {"position_embedding_type": "absolute"}, "position_embedding_type is absolute"),
        ("jina-bert-v2", {"position_embedding_type": None}, "position_embedding_type is None"),
        ("jina-bert-v3", {"lora_rank": 8}, r"is \[2, 1, 4\], config.json says \[2, 1, 8\]"),
        ("jina-bert-v3", {"lora_adaptations": ["a", "b", "c"]}, r"config.json says \[3, "),
        ("jina-bert-v3", {"lora_adaptations": ["../a", "b"]}, "lora_adaptations is"),
        ("jina-bert-v3", {"task_instructions": {"separation": ""}}, "task_instructions has none for retrieval.query"),
        ("jina-bert-v3", {"load_trained_adapters": False}, "load_trained_adapters is False"),
        ("neo-bert", {"ngpt": True}, "ngpt is True"),
        ("neo-bert", {"intermediate_size": 100}, r"is \[160, 48\], config.json says \[132, 48\]"),
        ("qwen2vl", {"hidden_act": "gelu"}, "hidden_act is gelu"),
        ("qwen2vl", {"rope_scaling": {"type": "mrope"}}, "no mrope_section"),
        ("qwen3vl", {"vision_config": {"deepstack_visual_indexes": 3}}, "deepstack_visual_indexes is 3"),
        ("qwen2vl", {"model_type": "qwen2"}, "model_type is qwen2"),
    ],
)  # fmt: skip
def test_an_encoder_that_asks_for_another_graph_is_refused(
    name: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = hf_encoders.build(name, tmp_path, **config)
    with pytest.raises(ModelError, match=message) as caught:
        convert(folder, tmp_path / "out.gguf", adapters=True)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "rope", "message"),
    [
        ("qwen2-yarn", {"beta_fast": 16}, "beta_fast of rope_type yarn is 16"),
        ("qwen2-yarn", {"truncate": False}, "truncate of rope_type yarn is False"),
        ("qwen2-yarn", {"attention_factor": 1.0}, r"grow by 1\.0"),
        ("qwen2-yarn", {"mscale": 0.5, "mscale_all_dim": 1.0}, r"grow by 0\.9"),
        ("qwen2-yarn", {"factor": 0.5}, "its factor 0.5"),
        ("qwen2-yarn", {"factor": None}, "its factor None"),
        ("qwen2-yarn", {"original_max_position_embeddings": "x"}, "original_max_position_embeddings is x"),
        ("llama-linear", {"factor": "x"}, "its factor x"),
        ("gemma3-linear", {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}, "rope_type is linear"),
        ("gemma3-linear", {"full_attention": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is yarn"),
        ("longrope", {"long_factor": [1.0]}, "long_factor of rope_type longrope has 1 numbers"),
        ("longrope", {"short_factor": ["x", 1.0]}, "short_factor of rope_type longrope"),
        ("longrope", {"attention_factor": 2.0}, r"attention_factor of rope_type longrope is 2\.0"),
        ("longrope", {"factor": 3.0}, r"factor of rope_type longrope is 3\.0"),
        ("longrope", {"rope_type": "yarn"}, "rope_type is yarn"),
        ("hunyuan-alpha", {"alpha": None}, "its alpha None"),
        ("hunyuan-alpha", {"rope_theta": 20000.0}, r"rope_theta 20000\.0 and 32768 positions"),
    ],
)  # fmt: skip
def test_a_stretch_that_llama_cpp_does_not_compute_is_refused(
    name: str, rope: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = hf_scaled.build(name, tmp_path, **rope)
    with pytest.raises(ModelError, match=message) as caught:
        convert(folder, tmp_path / "out.gguf")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "said"),
    [("mistral-dynamic", "rope_type is dynamic"), ("longrope", "rope_type is longrope"), ("qwen2-yarn", "")],
)  # fmt: skip
def test_what_llama_cpp_turns_otherwise_is_said(name: str, said: str, tmp_path: Path) -> None:
    notes: list[str] = []
    convert(hf_scaled.build(name, tmp_path), tmp_path / "out.gguf", say=notes.append)
    assert [note.startswith(said) for note in notes if "rope_type" in note] == [True] * bool(said)


def test_an_expert_bias_that_is_left_out_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    convert(hf_encoders.build("nomic-bert-moe", tmp_path), tmp_path / "out.gguf", say=notes.append)
    assert any("encoder.layers.1.mlp.experts" in note for note in notes)


def test_a_norm_of_some_layers_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code model of Jina BERT 2 norms queries in every layer, the others in none."""
    config, shapes, *rest = hf_encoders.FOLDERS["jina-bert-v2-code"]
    without = {n: s for n, s in shapes().items() if not n.startswith("encoder.layer.2.attention.self.layer_norm_q")}
    monkeypatch.setitem(hf_encoders.FOLDERS, "bad", (config, lambda: without, *rest))
    with pytest.raises(ModelError, match=r"missing tensors: blk\.2\.attn_q_norm"):
        convert(hf_encoders.build("bad", tmp_path), tmp_path / "out.gguf")
