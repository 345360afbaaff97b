"""refembed/convert/checkpoints_experts.py, checkpoints_gemma.py and mxfp4.py: what they refuse, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refembed import open_gguf
from refembed.convert.folder import convert
from refembed.errors import ModelError
from tests.hf_folders import write_json
from tests.hf_heads import RECORDS, headed
from tests.record_models import build

PLAIN = {"rope_type": "default", "rope_theta": 1e6}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16,
        "mscale": 0.7, "mscale_all_dim": 0.7}  # fmt: skip
GRAPHS: list[tuple[str, dict[str, Any], str]] = [
    ("gpt-oss", {"swiglu_limit": 10.0}, r"swiglu_limit is 10\.0"),
    ("gpt-oss", {"attention_bias": False}, "attention_bias is False"),
    ("gpt-oss", {"layer_types": ["full_attention"] * 4}, "layer_types are others than llama.cpp's"),
    ("gpt-oss", {"sliding_window": None}, "sliding_window is 0, not a size"),
    ("gpt-oss", {"quantization_config": {"quant_method": "gptq"}}, "the weights are quantized"),
    ("gpt-oss-mxfp4", {"quantization_config": {}}, r"the weights are quantized \(tensor model\.layers\.0"),
    ("gpt-oss-mxfp4", {"intermediate_size": 128}, r"is \[5, 64, 3\], config.json says \[5, 64, 4\]"),
    ("gpt-oss-mxfp4", {"intermediate_size": 90}, "rows of 90 numbers"),
    ("qwen35moe", {"linear_key_head_dim": 6}, "linear_key_head_dim is 6, linear_value_head_dim 8"),
    ("qwen35moe", {"moe_intermediate_size": None}, "moe_intermediate_size is 0, not a size"),
    ("mixtral", {"num_local_experts": 4}, "config.json says 4 experts"),
    ("mixtral", {"hidden_act": "gelu"}, "hidden_act is gelu"),
    ("phimoe", {"attention_bias": False}, "attention_bias is False"),
    ("phimoe", {"num_experts_per_tok": 1}, "num_experts_per_tok is 1"),
    ("deepseek2", {"topk_method": "group_limited_greedy"}, "topk_method is group_limited_greedy"),
    ("deepseek2", {"norm_topk_prob": True}, "norm_topk_prob is True"),
    ("deepseek2", {"q_lora_rank": 14}, "q_lora_rank is 14 with 26 layers"),
    ("deepseek3", {"q_lora_rank": None}, "q_lora_rank is None with 4 layers"),
    ("deepseek2", {"first_k_dense_replace": 2}, "missing tensors: blk.1.ffn_down.weight"),
    ("deepseek2", {"first_k_dense_replace": 27}, "first_k_dense_replace is 27 of 26 layers"),
    ("deepseek2", {"kv_lora_rank": 18}, r"is \[20\], config.json says \[18\]"),
    ("deepseek3", {"rope_parameters": YARN | {"mscale": 1.0}}, "mscale and mscale_all_dim of rope_type yarn are"),
    ("deepseek3", {"rope_parameters": YARN | {"truncate": False}}, "truncate of rope_type yarn is False"),
    ("ministral3", {"rope_parameters": YARN | {"beta_fast": 16.0}}, r"beta_fast of rope_type yarn is 16\.0"),
    ("ministral3", {"rope_parameters": YARN | {"beta_fast": {}}}, r"beta_fast of rope_type yarn is \{\}"),
    ("gpt-oss-yarn", {"rope_parameters": YARN | {"rope_type": "spiral", "a": {}}}, "rope_type is spiral"),
    ("gpt-oss-yarn", {"rope_parameters": YARN}, "queries and keys of rope_type yarn grow by 1"),
    ("deepseek3", {"scoring_func": "softmax"}, "scoring_func is softmax"),
    ("deepseek3", {"rope_interleave": False}, "rope_interleave is False"),
    ("lfm2moe", {"use_expert_bias": False}, "use_expert_bias is False"),
    ("lfm2moe", {"num_dense_layers": 0}, "missing tensors: blk.0.exp_probs_b.bias"),
    ("llada-moe", {"moe_layer_freq": [0, 1, 1, 1]}, r"moe_layer_freq is \[0, 1, 1, 1\]"),
    ("llada-moe", {"moe_router_enable_expert_bias": True}, "moe_router_enable_expert_bias is True"),
    ("granite-micro", {"position_embedding_type": "nope"}, "position_embedding_type is nope"),
    ("granite-micro", {"shared_intermediate_size": 34}, "shared_intermediate_size is 34, intermediate_size 80"),
    ("gemma4", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention is all"),
    ("gemma4", {"layer_types": ["full_attention"] + ["sliding_attention"] * 3}, "layer_types ends with sliding"),
    ("gemma4", {"layer_types": ["full_attention"] * 3}, "layer_types has 3 names for 4 layers"),
    ("gemma4", {"rope_parameters": {"full_attention": PLAIN}}, "rope_type of layers that see all is default"),
    ("gemma4", {"num_kv_shared_layers": 4}, "num_kv_shared_layers is 4 of 4 layers"),
    ("gemma4", {"num_kv_shared_layers": 1}, r"is \[48, 160\], config.json says \[48, 80\]"),
    ("gemma4", {"use_double_wide_mlp": False}, r"is \[48, 160\], config.json says \[48, 80\]"),
    ("gemma4-experts", {"attention_k_eq_v": False}, "missing tensors: blk.1.attn_v.weight"),
    ("gemma4-experts", {"enable_moe_block": False}, r"is \[5, 48, 26\], config.json says \[0, 48, 26\]"),
    ("gemma4-experts", {"num_kv_shared_layers": 1}, "unexpected tensors: blk.3.attn_k"),
    ("gemma4", {"vocab_size": 299}, r"is \[300, 48\], config.json says \[299, 48\]"),
    ("gemma3n", {"altup_num_inputs": 3}, "altup_num_inputs is 3"),
    ("gemma3n", {"num_kv_shared_layers": 4}, "num_kv_shared_layers is 4"),
    ("gemma3n", {"laurel_rank": 32}, "laurel_rank is 32"),
    ("gemma3n", {"activation_sparsity_pattern": [0.0] * 25}, "activation_sparsity_pattern is"),
    ("gemma3n", {"layer_types": ["full_attention"] * 25}, "layer_types is"),
    ("gemma3n", {"vocab_size_per_layer_input": 130}, "vocab_size_per_layer_input is 130"),
    ("gemma3n", {"intermediate_size": [80] * 24 + [96]}, r"is \[48, 80\]|intermediate_size is"),
    ("gemma-embedding2", {"text_config": {"sliding_window": 0}}, "sliding_window is 0, not a size"),
]


@pytest.mark.parametrize(("base", "config", "message"), GRAPHS)
def test_a_config_that_asks_for_another_graph_is_refused(
    base: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    text = config.get("text_config")
    if text is not None:
        config = {"text_config": RECORDS[base]["files"]["config.json"]["json"]["text_config"] | text}
    folder = headed(base, tmp_path / "model", config, {})
    with pytest.raises(ModelError, match=message) as caught:
        convert(folder, tmp_path / "out.gguf")
    assert caught.value.hint
    assert not (tmp_path / "out.gguf").exists()


def test_that_gpt_oss_rounds_no_ramp_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    convert(build(RECORDS["gpt-oss-mxfp4"], tmp_path / "m"), tmp_path / "out.gguf", say=notes.append)
    assert [note[:26] for note in notes] == ["truncate of rope_type yarn"]


def test_half_of_a_packed_matrix_is_refused(tmp_path: Path) -> None:
    folder = headed("gpt-oss-mxfp4", tmp_path / "m", {}, {}, without="model.layers.1.mlp.experts.down_proj_scales")
    with pytest.raises(ModelError, match="down_proj_blocks alone"):
        convert(folder, tmp_path / "out.gguf")


def test_layers_that_guess_further_tokens_are_left_out_and_said(tmp_path: Path) -> None:
    shapes = {"model.layers.4.eh_proj.weight": [48, 96], "model.layers.4.enorm.weight": [48]}
    notes: list[str] = []
    folder = headed("deepseek3", tmp_path / "m", {"num_nextn_predict_layers": 1}, shapes)
    with_drafts = open_gguf(convert(folder, tmp_path / "a.gguf", say=notes.append))
    plain = open_gguf(convert(headed("deepseek3", tmp_path / "n", {}, {}), tmp_path / "b.gguf"))
    assert {n: bytes(t.raw) for n, t in with_drafts.tensors.items()} == {
        n: bytes(t.raw) for n, t in plain.tensors.items()
    }
    assert any("model.layers.4.eh_proj" in note for note in notes)


def test_without_a_scoring_function_deepseek_v3_has_its_own(tmp_path: Path) -> None:
    """llama.cpp takes a file without the key for a softmax, which V3 is not."""
    folder = build(RECORDS["deepseek3"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {key: value for key, value in config.items() if key != "scoring_func"})
    assert open_gguf(convert(folder, tmp_path / "a.gguf")).metadata["deepseek2.expert_gating_func"] == 2


def test_experts_that_stand_one_by_one_and_together_are_the_same(tmp_path: Path) -> None:
    """Qwen3.5-MoE is published with the experts of a layer in one tensor; `transformers` saves each."""
    shapes: dict[str, list[int]] = {}
    record = RECORDS["qwen35moe"]
    assert any(".experts.0." in name for name in record["shapes"])
    for name in record["shapes"]:
        if ".experts.0.gate_proj" in name:
            stem = name.split(".experts.0")[0] + ".experts"
            shapes |= {f"{stem}.gate_up_proj": [5, 52, 48], f"{stem}.down_proj": [5, 48, 26]}
    rest = {name: shape for name, shape in record["shapes"].items() if ".mlp.experts." not in name}
    folder = build(record | {"shapes": rest | shapes}, tmp_path / "m")
    found = open_gguf(convert(folder, tmp_path / "a.gguf")).tensors
    wanted = open_gguf(convert(build(record, tmp_path / "n"), tmp_path / "b.gguf")).tensors
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in wanted.items()}


@pytest.mark.parametrize("key", ["global_head_dim", "per_layer_config"])
def test_widths_of_layers_that_see_all_may_be_said_in_two_ways(key: str, tmp_path: Path) -> None:
    record = RECORDS["gemma4-experts"]
    config = record["files"]["config.json"]["json"]
    wanted = convert(build(record, tmp_path / "m"), tmp_path / "a.gguf").read_bytes()
    plain = {k: v for k, v in config.items() if k not in ("per_layer_config", "global_head_dim")}
    plain.pop("num_global_key_value_heads", None)
    full = {"head_dim": 16, "num_key_value_heads": 1}
    said: dict[str, Any] = {"global_head_dim": 16, "num_global_key_value_heads": 1}
    if key == "per_layer_config":
        said = {"per_layer_config": {"1": full, "3": full}}
    (tmp_path / "n").mkdir()  # the folder's own name stands in the file
    folder = build(record, tmp_path / "n" / "m")
    write_json(folder / "config.json", plain | said)
    assert convert(folder, tmp_path / "b.gguf").read_bytes() == wanted
    if key == "per_layer_config":
        write_json(folder / "config.json", plain | {key: {"1": full, "3": full | {"head_dim": 12}}})
        with pytest.raises(ModelError, match="head_dim of per_layer_config"):
            convert(folder, tmp_path / "c.gguf")
