"""What a folder asks for that a GGUF file cannot hold is refused by name; what is left out is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert.folder import convert
from refembed.errors import ModelError
from refembed.gguf import open_gguf
from tests.hf_folders import SIZES, bert_shapes, pooling, small, write_json, write_weights
from tests.hf_heads import RECORDS, C, classifier, headed, modules

LINEAR = {"rope_type": "linear", "factor": 2.0}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 10000.0}  # fmt: skip
GRAPHS: list[tuple[str, dict[str, Any], str]] = [
    ("roberta", {"hidden_act": "relu"}, "hidden_act is relu"),
    ("roberta", {"hidden_act": "quick_gelu"}, "hidden_act is quick_gelu"),
    ("roberta", {"is_decoder": True}, "is_decoder is True"),
    ("roberta", {"position_embedding_type": "relative_key_query"}, "position_embedding_type is relative_key_query"),
    ("roberta", {"pruned_heads": {"0": [1]}}, "pruned_heads is"),
    ("roberta", {"pad_token_id": None}, "pad_token_id is null"),
    ("roberta", {"pad_token_id": -1}, "pad_token_id is -1"),
    ("roberta", {"model_type": "camembert"}, "model_type is camembert"),
    ("qwen2", {"hidden_act": "gelu"}, "hidden_act is gelu"),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2, "layer_types": None},
        "use_sliding_window is True",
    ),
    ("qwen2", {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "layer_types has sliding_attention"),
    ("qwen3", {"hidden_act": "gelu"}, "hidden_act is gelu"),
    ("qwen3", {"attention_bias": True}, "attention_bias is True"),
    ("olmo2", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    ("olmo2", {"hidden_act": "relu"}, "hidden_act is relu"),
    ("seed_oss", {"attention_out_bias": True}, "attention_out_bias is True"),
    ("seed_oss", {"attention_bias": False}, "unexpected tensors: blk.0.attn_k.bias"),
    ("command-r", {"use_qk_norm": True}, "use_qk_norm is True"),
    ("command-r", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    ("ernie4_5", {"use_bias": True}, "use_bias is True"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is gelu"),
    ("llama", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5"),
    ("llama", {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor is 0\.5"),
    ("eurobert", {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is dynamic"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "the weights are quantized"),
    ("gemma-embedding", {"use_bidirectional_attention": False}, "use_bidirectional_attention is False"),
    ("gemma-embedding", {"use_bidirectional_attention": None}, "use_bidirectional_attention is None"),
    ("gemma-embedding", {"hidden_activation": "gelu"}, "hidden_activation is gelu"),
    ("gemma-embedding", {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping is 50\.0"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ("gemma3", {"layer_types": None, "sliding_window_pattern": 2}, "sliding_window_pattern is 2"),
    ("gemma3", {"rope_parameters": {"full_attention": PLAIN, "sliding_attention": LINEAR}}, "rope_type is linear"),
    ("eurobert", {"hidden_act": "gelu"}, "hidden_act is gelu"),
    ("eurobert", {"mlp_bias": True}, "mlp_bias is True"),
    ("eurobert", {"is_causal": True}, "is_causal is True"),
    ("modern-bert", {"hidden_activation": "relu"}, "hidden_activation is relu"),
    ("modern-bert", {"norm_bias": True}, "norm_bias is True"),
    ("modern-bert", {"attention_bias": True}, "attention_bias is True"),
    ("t5encoder", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj is gated-silu"),
    ("t5encoder", {"feed_forward_proj": "gelu"}, "feed_forward_proj is gelu"),
    ("t5encoder", {"relative_attention_max_distance": 64}, "relative_attention_max_distance is 64"),
    ("t5encoder", {"feed_forward_proj": "gated-gelu"}, "missing tensors: enc.blk.0.ffn_gate"),
    ("t5encoder-gated", {"feed_forward_proj": "relu"}, "unexpected tensors: enc.blk.0.ffn_gate"),
    (
        "llama3",
        {"rope_parameters": PLAIN | {"rope_type": "axial", "factor": 2.0}},
        "rope_type is axial\n.*default or linear or yarn or dynamic or llama3",
    ),
    ("llama3", {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor is 4.0, high_freq_factor 4.0"),
    ("llama3", {"rope_parameters": LLAMA3 | {"factor": "x"}}, "factor of rope_type llama3 is 'x'"),
    ("mistral", {"hidden_act": "gelu"}, "hidden_act is gelu"),
    ("smollm3", {"no_rope_layers": [1, 1, 0, 1]}, "no_rope_layers is"),
    ("granite", {"mlp_bias": True}, "mlp_bias is True"),
    ("phi-mini", {"rope_parameters": PLAIN | {"rope_type": "longrope"}}, "long_factor of rope_type longrope has 0"),
    ("phi-mini", {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.4}}, r"partial_rotary_factor is 0\.4"),
    ("chatglm", {"attention_bias": False}, "unexpected tensors: blk.0.attn_k.bias"),
    ("hunyuan-dense", {"rope_parameters": PLAIN | {"rope_type": "dynamic", "factor": 1.0}}, "rope_type is dynamic"),
    ("cohere2", {"layer_types": ["sliding_attention"] * 4}, "layer_types are others than llama.cpp's"),
    ("cohere2", {"layer_types": None, "sliding_window_pattern": 2}, "sliding_window_pattern is 2"),
    ("gemma2", {"query_pre_attn_scalar": 24}, "query_pre_attn_scalar is 24"),
    ("gemma2", {"attn_logit_softcapping": None}, "no attn_logit_softcapping"),
    ("gptneox", {"attention_bias": False}, "attention_bias is False"),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm is True"),
    ("falcon", {"alibi": True}, "alibi is True"),
    ("falcon", {"multi_query": False, "num_kv_heads": 2}, r"is \[64, 48\], config.json says \[80, 48\]"),
    ("mpt", {"attn_config": {"alibi": False}}, "attn_config.alibi is False"),
    ("mpt", {"attn_config": [1]}, "attn_config is"),
    ("phi2", {"qk_layernorm": True}, "qk_layernorm is True"),
    ("stablelm", {"use_parallel_residual": True}, "unexpected tensors: blk.0.ffn_norm"),
    ("stablelm", {"qk_layernorm": True}, "missing tensors: blk.0.attn_k_norm"),
    ("nemotron", {"hidden_act": "relu"}, "hidden_act is relu"),
    ("mamba", {"use_bias": True}, "use_bias is True"),
    ("mamba", {"expand": 4}, "expand is 4"),
    ("mamba2", {"use_conv_bias": False}, "use_conv_bias is False"),
    ("falcon-h1", {"mamba_rms_norm": False}, "unexpected tensors: blk.0.ssm_norm"),
    ("falcon-h1", {"mamba_norm_before_gate": True}, "mamba_norm_before_gate is True"),
    ("falcon-h1", {"ssm_multipliers": [1.0, 2.0]}, r"ssm_multipliers\.2 is none"),
    ("granitehybrid", {"position_embedding_type": "rope"}, "position_embedding_type is rope"),
    ("granitehybrid", {"layer_types": ["mamba"] * 3}, "layer_types has 3 names for 4 layers"),
    ("granitehybrid-dense", {"shared_intermediate_size": 34}, "shared_intermediate_size is 34, intermediate_size 80"),
    ("lfm2", {"conv_bias": True}, "conv_bias is True"),
    ("lfm2", {"layer_types": ["conv"] * 4}, "missing tensors: blk.1.shortconv"),
    ("qwen3next", {"linear_key_head_dim": 6}, "linear_key_head_dim is 6, linear_value_head_dim 8"),
    ("qwen3next", {"norm_topk_prob": False}, "norm_topk_prob is False"),
    ("qwen35", {"layer_types": ["full_attention"] * 4}, "missing tensors: blk.0.attn_k"),
]


@pytest.mark.parametrize(("base", "config", "message"), GRAPHS)
def test_a_config_that_asks_for_another_graph_is_refused(
    base: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = headed(base, tmp_path / "model", config, {})
    with pytest.raises(ModelError, match=message) as caught:
        convert(folder, tmp_path / "out.gguf")
    assert caught.value.hint
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"max_window_layers": 28, "sliding_window": 8},  # of layers that there are not
        {"max_window_layers": 0, "sliding_window": 64},  # as long as the longest text
        {"max_window_layers": 0, "sliding_window": None},
    ],
)
def test_a_window_that_no_text_reaches_is_none(config: dict[str, Any], tmp_path: Path) -> None:
    config |= {"use_sliding_window": True, "layer_types": None}
    convert(headed("qwen2", tmp_path / "model", config, {}), tmp_path / "out.gguf")


@pytest.mark.parametrize("base", [name for name in RECORDS if name != "provenance"])
def test_the_folders_are_sound_without_it(base: str, tmp_path: Path) -> None:
    convert(headed(base, tmp_path / "model", {}, {}), tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"classifier_activation": "relu"}, "classifier_activation is relu"),
        ({"classifier_bias": True}, "classifier_bias is True"),
        ({"classifier_pooling": "late"}, "classifier_pooling is late"),
    ],
)
def test_a_head_that_asks_for_another_graph_is_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    classifier(folder)
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | config)
    with pytest.raises(ModelError, match=message):
        convert(folder, tmp_path / "out.gguf")


def test_a_missing_bias_is_an_error(tmp_path: Path) -> None:
    folder = headed("qwen2", tmp_path / "model", {}, {}, without="layers.1.self_attn.k_proj.bias")
    with pytest.raises(ModelError, match=r"missing tensors: blk\.1\.attn_k\.bias"):
        convert(folder, tmp_path / "out.gguf")


def test_keys_that_config_json_leaves_out_have_the_librarys_defaults(tmp_path: Path) -> None:
    """RoBERTa's first place is pad_token_id + 1 = 2, also where config.json does not say so."""
    keys = ("pad_token_id", "hidden_act", "layer_norm_eps", "is_decoder")
    whole = convert(headed("roberta", tmp_path / "whole", {}, {}), tmp_path / "whole.gguf")
    folder = headed("roberta", tmp_path / "sparse", {}, {})
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {k: v for k, v in config.items() if k not in keys})
    sparse = convert(folder, tmp_path / "sparse.gguf")
    a, b = (Embedder.load(path, numerics="exact").embed([[11, 40, 7]], pooling="mean") for path in (whole, sparse))
    assert np.array_equal(a, b)


def test_a_width_that_llama_cpp_does_not_scale_by_is_made_up_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Scores are q k / sqrt(D) in llama.cpp and q k / sqrt(s) as published: q's norm, 1 + w, carries sqrt(D / s)."""
    plain = convert(headed("gemma-embedding", tmp_path / "a", {}, {}), tmp_path / "a.gguf")
    other = headed("gemma-embedding", tmp_path / "b", {"query_pre_attn_scalar": 40}, {})
    ours = convert(other, tmp_path / "b.gguf")
    a, b = (open_gguf(path).tensors["blk.3.attn_q_norm.weight"].dequantize() for path in (plain, ours))
    assert np.allclose(b, a * 0.5, rtol=1e-6)  # D = 10
    assert "query_pre_attn_scalar is 40" in caplog.text


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, notes = small(tmp_path / "model"), []
    convert(folder, tmp_path / "out.gguf", say=notes.append)
    assert notes == ["left out, as llama.cpp has no place for them: pooler.dense"]
    assert caplog.messages == []
    convert(folder, tmp_path / "out.gguf")
    assert caplog.messages == notes


def test_that_a_bert_scores_otherwise_than_published_is_said(tmp_path: Path) -> None:
    folder, notes = small(tmp_path / "model", architectures=["BertForSequenceClassification"]), []
    shapes: dict[str, tuple[int, ...]] = {"classifier.weight": (2, 32), "classifier.bias": (2,)}
    write_weights(folder, bert_shapes(*SIZES) | shapes, "F32")
    convert(folder, tmp_path / "out.gguf", say=notes.append)
    assert any(note.startswith("scores are not those of `transformers`") for note in notes)


def test_code_that_a_folder_brings_along_is_said_not_to_be_read(tmp_path: Path) -> None:
    notes: list[str] = []
    more = {"auto_map": {"AutoModel": "modeling_x.Qwen2Model"}, "is_causal": False}
    path = convert(headed("qwen2", tmp_path / "model", more, {}), tmp_path / "out.gguf", say=notes.append)
    assert open_gguf(path).metadata["qwen2.attention.causal"] is False
    assert [note[:20] for note in notes] == ["config.json names co", "is_causal is false: "]


POOLINGS: list[tuple[dict[str, Any], int | str]] = [
    ({"pooling_mode": "mean"}, 1),
    ({"pooling_mode": ["cls"]}, 2),
    ({"pooling_mode": ["cls", "mean"]}, "pooling_mode is cls, mean"),
    ({"pooling_mode": []}, r"pooling_mode is \[\]"),
    ({"pooling_mode": 3}, "pooling_mode is 3"),
    ({"pooling_mode": "max"}, "no pooling that GGUF knows: max"),
    ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "pooling_mode is cls, mean"),
    ({"pooling_mode_weightedmean_tokens": True}, "no pooling that GGUF knows: weightedmean"),
    ({"pooling_mode_mean_sqrt_len_tokens": True}, "no pooling that GGUF knows: mean_sqrt_len_tokens"),
    ({"pooling_mode_cls_token": False}, 1),  # the library's default
    ({"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": True}, 3),  # the newer key counts
]


@pytest.mark.parametrize(("settings", "outcome"), POOLINGS)
def test_each_shape_of_a_pooling_is_kept_or_refused(
    settings: dict[str, Any], outcome: int | str, tmp_path: Path
) -> None:
    folder = small(tmp_path / "model")
    pooling(folder, **settings)
    if isinstance(outcome, int):
        assert open_gguf(convert(folder, tmp_path / "out.gguf")).metadata["bert.pooling_type"] == outcome
        return
    with pytest.raises(ModelError, match=outcome) as caught:
        convert(folder, tmp_path / "out.gguf")
    assert caught.value.hint


FOREIGN = (
    "models.LSTM", "models.CNN", "models.Asym", "models.Router", "models.StaticEmbedding", "models.LayerNorm",
    "models.WeightedLayerPooling", "models.MLMTransformer", "sparse_encoder.models.SpladePooling", "models.WordWeights",
)  # fmt: skip


@pytest.mark.parametrize("kind", [*(f"sentence_transformers.{name}" for name in FOREIGN), "custom_st.Transformer"])
def test_a_module_that_is_not_known_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    folder = small(tmp_path / "model")
    modules(folder)
    listed = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [*listed, {"path": "9", "type": kind}])
    with pytest.raises(ModelError, match=f"a module of type {kind}"):
        convert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize("order", [["Pooling", "Transformer"], ["Transformer", "Pooling", "Pooling"], ["Pooling"]])
def test_modules_in_another_order_are_refused(order: list[str], tmp_path: Path) -> None:
    folder = small(tmp_path / "model")
    pooling(folder, pooling_mode="mean")
    listed = [{"path": "1_Pooling" * (k == "Pooling"), "type": f"sentence_transformers.models.{k}"} for k in order]
    write_json(folder / "modules.json", listed)
    with pytest.raises(ModelError, match="the modules are " + ", ".join(order)):
        convert(folder, tmp_path / "out.gguf")


def test_a_normalize_module_changes_nothing(tmp_path: Path) -> None:
    folder = small(tmp_path / "model")
    pooling(folder, pooling_mode="mean")
    first = convert(folder, tmp_path / "a.gguf").read_bytes()
    listed = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", listed[:-1])
    assert convert(folder, tmp_path / "b.gguf").read_bytes() == first


def test_a_prompt_that_is_not_pooled_is_said(tmp_path: Path) -> None:
    folder, notes = small(tmp_path / "model"), []
    pooling(folder, pooling_mode="mean", include_prompt=False)
    convert(folder, tmp_path / "out.gguf", say=notes.append)
    assert any("include_prompt is false" in note for note in notes)


def single(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def rename(*names: str) -> Callable[[Path], None]:
    """model.safetensors becomes a file of each of these names."""

    def do(folder: Path) -> None:
        content = single(folder)
        (folder / "model.safetensors").unlink()
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)

    return do


def shard(*, index: bool, drop: str = "") -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write_weights(folder, bert_shapes(*SIZES), "F32", shards=2)
        if not index:
            (folder / "model.safetensors.index.json").unlink()
        if drop:
            (folder / drop).unlink()

    return do


def with_config(place: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        rename(f"{place}/model.safetensors")(folder)
        write_json(folder / place / "config.json", {})

    return do


LAYOUTS: dict[str, tuple[Callable[[Path], Any], str]] = {  # what is done to a sound folder, and the error; "": none
    "a variant next to it": (lambda f: (f / "model.fp16.safetensors").write_bytes(b"?"), ""),
    "a stale index": (lambda f: write_json(f / "model.safetensors.index.json", {"weight_map": {"x": "y"}}), ""),
    "shards": (shard(index=True), ""),
    "shards without an index": (shard(index=False), ""),
    "a variant alone": (rename("model.fp16.safetensors"), ""),
    "two variants": (rename("model.fp16.safetensors", "model.bf16.safetensors"), "(?s)no model.safetensors.*variants"),
    "a shard missing": (shard(index=True, drop="model-00002-of-00002.safetensors"), "names model-00002.*no such file"),
    "shards without one": (shard(index=False, drop="model-00001-of-00002.safetensors"), "1 of 2 shards"),
    "pickled": (rename("pytorch_model.bin"), "(?s)no model.safetensors.*save_pretrained"),
    "ONNX": (rename("onnx/model.onnx"), "(?s)no model.safetensors.*ONNX only"),
    "in a folder": (with_config("0_Transformer"), "(?s)no model.safetensors.*there is one in .*0_Transformer"),
    "an adapter": (
        lambda f: write_json(f / "adapter_config.json", {"base_model_name_or_path": "org/base"}),
        "(?s)a LoRA adapter, not a model.*org/base",
    ),
    "whole numbers": (
        lambda f: write_weights(f, {n: s for n, s in bert_shapes(*SIZES).items() if n != "embeddings.LayerNorm.bias"},
                                "F32", extra={"embeddings.LayerNorm.bias": np.zeros(32, np.int64)}),
        "tensor embeddings.LayerNorm.bias is stored as I64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_read_from_the_files_that_transformers_reads(layout: str, tmp_path: Path) -> None:
    folder = small(tmp_path / "model")
    wanted = convert(folder, tmp_path / "plain.gguf").read_bytes()
    damage, message = LAYOUTS[layout]
    damage(folder)
    if message:
        with pytest.raises(ModelError, match=message) as caught:
            convert(folder, tmp_path / "out.gguf")
        assert caught.value.hint
        return
    found = open_gguf(convert(folder, tmp_path / "out.gguf"))
    plain = open_gguf(tmp_path / "plain.gguf")
    assert {n: bytes(t.raw) for n, t in found.tensors.items()} == {n: bytes(t.raw) for n, t in plain.tensors.items()}
    assert wanted


def test_older_tables_of_frequencies_are_left_out(tmp_path: Path) -> None:
    notes: list[str] = []
    folder = headed("llama", tmp_path / "model", {}, {"layers.0.self_attn.rotary_emb.inv_freq": [C // 12]})
    convert(folder, tmp_path / "out.gguf", say=notes.append)
    assert notes == ["left out, as llama.cpp has no place for them: layers.0.self_attn.rotary_emb.inv_freq"]
