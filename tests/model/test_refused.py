"""Files that refembed refuses by the name of a tensor or a key, and that llama.cpp does not run either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from refembed.errors import EngineError, ModelError
from refembed.gguf import GGUFWriter, open_gguf
from refembed.model import ARCHITECTURES, load_model
from refembed.model.unsupported import UNSUPPORTED
from refembed.testing.synthetic import synthetic
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied, with_keys, without
from tests.model import test_dense_decoders, test_mla
from tests.model.facts import neither_loads_it_without, neither_runs_it
from tests.model.keys import (
    FUSED,
    HEADS_OF_8,
    IN_PART,
    PATTERN,
    SEES_ALL,
    activation,
    every,
    floats,
    heads_kv,
    kv,
    sections,
)

WINDOW, DENSE = "attention.sliding_window", "dense_2_feat_in"
NO_EXPERTS = {f"expert_{count}": (0, "UINT32") for count in ("count", "used_count")}
SHARED_KV = "attention.shared_kv_layers"
LONGROPE = {"rope.scaling.type": ("longrope", "STRING"), "rope.scaling.original_context_length": (32, "UINT32")}
GATE = {"ffn_gate.weight"}
QK_NORM = {f"attn_{x}_norm.{part}" for x in "qk" for part in ("weight", "bias")}
VALUES_SWA = {"attention.key_length_swa": (10, "UINT32"), "attention.value_length_swa": (8, "UINT32")}
NEXT = ("gemma-embedding3", "qwen4", "llama-embed2", "bert-moe", "nomic-ber", "smollm")  # near to names, and others
NEWEST = (
    "beam",
    "kolibri1",
    "maion-coder",
    "muse-spark",
)  # b11739 knows them, b11548 says "unknown model architecture"
NARROW = {"feed_forward_length": (40, "UINT32")}
WIDER_HEADS = {f"attention.{x}_length": (8, "UINT32") for x in ("key", "value")}
BOTH_GATES = {"wide": True, "optional": GATE}


def recurrent(*flags: bool) -> dict[str, Any]:
    """Which layers keep a state."""
    return {"attention.recurrent_layers": (list(flags), "ARRAY[BOOL]")}


FEW_KEYS = {"K": 2, "keys": kv(2), "optional": {"attn_k_norm.weight"}}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("gemma3", "blk.0.post_ffw_norm.weight"),
        ("gemma3", "blk.1.attn_k_norm.weight"),
        ("llama", "output_norm.weight"),
        ("qwen2", "blk.2.attn_v.weight"),
        ("qwen3", "blk.0.attn_q_norm.weight"),
        ("modern-bert", "blk.1.attn_norm.weight"),
        ("modern-bert", "token_embd_norm.weight"),
        ("neo-bert", "enc.output_norm.weight"),
        ("eurobert", "blk.0.attn_k.weight"),
        ("gemma-embedding", "blk.2.post_ffw_norm.weight"),
        ("gemma-embedding2", "blk.1.layer_output_scale.weight"),
        ("gemma-embedding2", "per_layer_model_proj.weight"),
        ("gemma-embedding2", "output.weight"),
        ("llama-embed", "output_norm.weight"),
        ("nomic-bert", "blk.0.ffn_gate.weight"),
        ("nomic-bert", "token_embd_norm.bias"),
        ("nomic-bert-moe", "blk.1.ffn_gate_inp.weight"),
        ("nomic-bert-moe", "blk.1.ffn_down_exps.weight"),
        ("nomic-bert-moe", "blk.2.ffn_up.weight"),
        ("jina-bert-v2", "blk.1.attn_output.bias"),
        ("jina-bert-v2", "token_types.weight"),
        ("jina-bert-v3", "blk.2.layer_output_norm.bias"),
        ("gemma", "blk.1.attn_norm.weight"),
        ("gemma2", "blk.0.post_attention_norm.weight"),
        ("gemma2", "blk.2.post_ffw_norm.weight"),
        ("phi3", "blk.0.ffn_up.weight"),
        ("t5encoder", "enc.blk.1.attn_o.weight"),
        ("t5encoder", "enc.output_norm.weight"),
        ("granite", "blk.1.ffn_norm.weight"),
        ("granitemoe", "blk.0.ffn_gate_inp.weight"),
        ("lfm2", "blk.0.shortconv.conv.weight"),
        ("lfm2", "blk.1.attn_q_norm.weight"),
        ("lfm2", "token_embd_norm.weight"),
        ("llama", "blk.2.ffn_down_exps.weight"),
        ("minicpm", "output_norm.weight"),
        ("mistral3", "blk.0.attn_k.weight"),
        ("qwen3vl", "blk.2.attn_k_norm.weight"),
        ("smollm3", "blk.1.ffn_gate.weight"),
        *test_dense_decoders.TOO_FEW,
        *test_mla.TOO_FEW,
        ("gemma3n", "blk.1.altup_router.weight"),
        ("gemma3n", "per_layer_token_embd.weight"),
        ("gemma4", "blk.0.attn_k.weight"),
        ("gemma4", "rope_freqs.weight"),
        ("gemma4", "per_layer_token_embd.weight"),
        ("gpt-oss", "blk.1.attn_sinks.weight"),
        ("gpt-oss", "blk.2.ffn_gate_inp.bias"),
        ("gpt-oss", "blk.0.ffn_down_exps.bias"),
        ("gpt-oss", "blk.0.attn_output.bias"),
        ("llada-moe", "output.weight"),
        ("olmoe", "blk.1.attn_q_norm.weight"),
        ("phimoe", "blk.1.attn_norm.bias"),
        ("qwen2moe", "blk.2.ffn_gate_inp_shexp.weight"),
        ("qwen2vl", "blk.0.attn_v.weight"),
        ("qwen3moe", "blk.1.ffn_gate_exps.weight"),
        ("qwen35", "blk.0.ssm_a"),
        ("qwen35", "blk.1.ssm_dt.bias"),
        ("qwen35", "blk.2.attn_q_norm.weight"),
        ("mamba", "blk.0.ssm_d"),
        ("mamba2", "blk.1.ssm_norm.weight"),
        ("falcon-h1", "blk.0.ffn_norm"),
        ("granitehybrid", "blk.1.attn_k.weight"),
        ("granitehybrid", "blk.2.ssm_in.weight"),
        ("rwkv7", "blk.0.time_mix_v1.weight"),
        ("rwkv7", "output.weight"),
        ("qwen35moe", "blk.1.ffn_gate_inp_shexp.weight"),
        ("qwen3next", "blk.0.ssm_ba.weight"),
        ("lfm2moe", "blk.1.exp_probs_b.bias"),
    ],
)
def test_neither_engine_loads_a_file_with_a_tensor_too_few(arch: str, name: str, tmp_path: Path) -> None:
    experts: dict[str, Any] = {"X": 4} if "moe" in arch or "exps" in name else {}
    neither_loads_it_without(synthetic(tmp_path / "m.gguf", arch, D=6, **experts), name)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("arch", "sizes", "message"),
    [
        ("modern-bert", {"keys": activation("relu")}, "hidden_activation is 'relu', which gates nothing"),
        ("modern-bert", {"keys": HEADS_OF_8}, "6 heads of 8 channels do not make up 36"),
        ("neo-bert", {"keys": HEADS_OF_8}, "6 heads of 8 channels do not make up 36"),
        ("eurobert", {"keys": HEADS_OF_8}, "6 heads of 8 channels do not make up 36"),
        ("gemma-embedding", {"keys": {DENSE: (30, "UINT32")}}, f"{DENSE} is 30, but the model has 36 channels"),
        ("gemma-embedding", {"optional": {"dense_2.weight"}, "keys": {"dense_2_feat_out": (9, "UINT32")}}, "dense_2"),
        ("gemma-embedding2", {"keys": VALUES_SWA}, "heads of keys of 10 channels, of values of 8, with a window"),
        ("gemma-embedding2", {"odd": heads_kv(2, 2)}, "head_count_kv has 2 numbers for 3 layers"),
        ("gemma-embedding2", {"odd": heads_kv(6, 6, 3)}, r"mis-shaped blk.2.attn_k.weight: \(60, 36\)"),
        (
            "gemma-embedding2",
            {"odd": {"embedding_length_out": (40, "UINT32")}},
            r"mis-shaped output.weight: \(36, 36\)",
        ),
        ("llama-embed", {"keys": IN_PART}, "rope.dimension_count is 4\n  hint: this architecture turns whole heads"),
        ("llama-embed", {"optional": {"rope_factors_long.weight"}}, "unexpected rope_factors_long.weight"),
        ("llama-embed", {"optional": {"rope_freqs.weight"}, "keys": LONGROPE}, "unexpected rope_freqs.weight"),
        ("nomic-bert", {"keys": WIDER_HEADS}, "6 heads of 8 channels do not make up 36"),
        ("nomic-bert-moe", {"X": 4, "n_used": 5}, "5 experts of 4 for a token"),
        ("nomic-bert-moe", {"X": 4, "n_used": 0}, "0 experts of 4 for a token"),
        ("nomic-bert-moe", {"X": 4, "odd": every(1)}, "missing    blk.1.ffn_up.weight"),
        ("nomic-bert-moe", {"keys": every(2)}, "0 experts of 0 for a token"),
        ("qwen3moe", {"odd": NO_EXPERTS}, "0 experts of 0 for a token"),
        ("qwen2moe", {"odd": {"expert_used_count": (0, "UINT32")}}, "0 experts of 4 for a token"),
        ("olmoe", {"odd": kv(3)}, "3 heads of keys for 6 query heads"),
        ("gemma4", {"odd": {SHARED_KV: (2, "UINT32")}}, "shared_kv_layers is 2\n  hint: llama.cpp aborts"),
        ("gemma4", {"odd": {PATTERN: (2, "UINT32")}}, "sliding_window_pattern must have a flag for each of 3 layers"),
        (
            "gemma4",
            {"n_layer": 4, "odd": {"feed_forward_length": ([50, 50], "ARRAY[UINT32]")}},
            "a number for each of 4",
        ),
        ("jina-bert-v2", BOTH_GATES, "blk.0.ffn_up.weight holds a gate, and blk.0.ffn_gate.weight is one"),
        ("jina-bert-v2", FEW_KEYS, "blk.0.attn_k_norm.weight is for as many heads of keys as there are of queries"),
        ("jina-bert-v2", {"optional": FUSED | QK_NORM}, "blk.0.attn_q_norm.weight cannot norm a part"),
        ("jina-bert-v2", {"odd": NARROW}, r"mis-shaped blk.0.ffn_up.weight: \(50, 36\), .* \(40, 36\) or \(80, 36\)"),
        ("jina-bert-v3", {"keys": kv(4)}, "6 query heads cannot share 4 heads of keys evenly"),
        ("phi3", {"odd": HEADS_OF_8}, "6 heads of 8 channels do not make up 36"),
        ("t5encoder", {"odd": kv(2)}, "2 heads of keys for 6 query heads"),
        (
            "t5encoder",
            {"n_buckets": 3, "odd": {"attention.relative_buckets_count": (3, "UINT32")}},
            "buckets_count is 3\n  hint: 4 to 511",
        ),
        ("granite", {"keys": {"rope.dimension_count": (4, "UINT32")}}, "rope.dimension_count is 4\n  hint: this arch"),
        *((arch, {"odd": {"rope.dimension_count": (0, "UINT32")}}, "nothing turns") for arch in ("llama", "qwen3")),
        ("smollm3", {"optional": {"attn_output.bias"}}, None),
        ("qwen3vl", {"keys": sections(6, 5, 0, 0)}, r"dimension_sections is \[6, 5, 0, 0\]\n  hint: llama.cpp aborts"),
        ("qwen3vl", {"keys": sections(0, 0, 0, 5)}, r"dimension_sections is \[0, 0, 0, 5\]\n  hint: four streams"),
        ("qwen3vl", {"keys": sections(2, 2, 1)}, r"dimension_sections is \[2, 2, 1\]\n  hint: four streams"),
        ("lfm2", {"keys": HEADS_OF_8}, "6 heads of 8 channels do not make up 36"),
        ("lfm2", {"conv": 4, "keys": SEES_ALL}, "shortconv.l_cache is 4\n  hint: llama.cpp aborts"),
        ("lfm2", {"conv": 1}, "shortconv.l_cache is 1\n  hint: 2 to"),
        ("lfm2", {"keys": heads_kv(0, 3)}, "head_count_kv has 2 numbers for 3 layers"),
        ("lfm2", {"keys": heads_kv(0, 0, 0)}, r"head_count_kv is \[0\]\n  hint: 0 for a layer with a state"),
        ("lfm2", {"K": 3, "keys": heads_kv(3, 3, 3)}, r"head_count_kv is \[3\]\n  hint: 0 for a layer with a state"),
        ("llama", {"X": 2, "n_used": 3}, "3 experts of 2 for a token"),
        ("qwen35", {"odd": {"ssm.inner_size": (30, "UINT32")}}, "30 channels, 4 heads, 2 groups"),
        ("qwen35", {"odd": {"ssm.inner_size": (32, "UINT32")}}, "32 channels, but 4 heads of 10"),
        ("qwen35", {"G": 3, "dt": 4}, "40 channels, 4 heads, 3 groups"),
        ("qwen35", {"odd": recurrent(False, True)}, "recurrent_layers has 2 flags for 3 layers"),
        ("qwen35", {"keys": {"nextn_predict_layers": (3, "UINT32")}}, "nextn_predict_layers is 3 of 3 layers"),
        ("lfm2moe", {"odd": {"expert_gating_func": (0, "UINT32")}}, "expert_gating_func is 0\n  hint: 1 to 2"),
        ("mamba", {"odd": {"ssm.inner_size": (70, "UINT32")}}, "inner_size is 70\n  hint: llama.cpp refuses it too"),
        ("mamba2", {"G": 5, "dt": 6}, "72 channels, 6 heads, 5 groups"),
        ("granitehybrid", {"keys": heads_kv(0, 0, 0)}, r"head_count_kv is \[0\]\n  hint: 0 for a layer with a state"),
        ("granitehybrid", {"K": 3, "keys": heads_kv(3, 3, 3)}, r"is \[3\]\n  hint: 0 for a layer with a state"),
        ("rwkv7", {"keys": {"token_shift_count": (1, "UINT32")}}, "token_shift_count is 1\n  hint: llama.cpp wants 2"),
        ("llama", {"D": 6, "keys": IN_PART}, "llama.rope.dimension_count is 4\n  hint: this architecture turns whole"),
        ("qwen2", {"D": 6, "keys": IN_PART}, "qwen2.rope.dimension_count is 4\n  hint: this architecture turns whole"),
        ("qwen3", {"D": 6, "keys": IN_PART}, "qwen3.rope.dimension_count is 4\n  hint: this architecture turns whole"),
        *test_dense_decoders.IMPOSSIBLE,
        *test_mla.IMPOSSIBLE,
    ],
)
def test_neither_engine_runs_a_file_of_impossible_sizes(
    arch: str, sizes: Any, message: str | None, tmp_path: Path
) -> None:
    odd = sizes.get("odd", {})  # keys that the tensors do not follow
    path = synthetic(tmp_path / "m.gguf", arch, **{key: size for key, size in sizes.items() if key != "odd"})
    if message is None:  # a tensor that this architecture does not read
        path = copied(path, tmp_path / "more.gguf", tensors={"blk.0.attn_output.bias": np.zeros(36, np.float32)})
        message = "unexpected blk.0.attn_output.bias"
    if message == "dense_2":  # a matrix whose size is in no key
        odd = {"dense_2_feat_out": (0, "UINT32")}
    neither_runs_it(with_keys(path, tmp_path / "odd.gguf", odd) if odd else path, message)


@pytest.mark.parametrize(
    ("arch", "keys", "message"),
    [
        ("gemma3", {"attention.head_count_kv": (4, "UINT32")}, "6 query heads cannot share 4 heads of keys evenly"),
        (
            "gemma3",
            {"attention.head_count_kv": ([6, 3, 6], "ARRAY[UINT32]")},
            r"head_count_kv is \[3, 6\]: layers that differ",
        ),
        ("gemma3", {"attention.value_length": (12, "UINT32")}, "heads of keys and of values that differ in width"),
        (
            "gemma3",
            {"rope.dimension_count": (12, "UINT32")},
            "rope.dimension_count is 12\n  hint: an even number, at most the 10",
        ),
        ("gemma3", {"rope.dimension_count": (7, "UINT32")}, "rope.dimension_count is 7"),
        (
            "gemma3",
            {"rope.scaling.type": ("su", "STRING")},
            "rope.scaling.type is 'su'\n  hint: one of none, linear, yarn",
        ),
        ("gemma3", {"rope.freq_base": (0.0, "FLOAT32")}, "rope.freq_base is 0.0"),
        ("gemma3", {"expert_count": (8, "UINT32")}, "a mixture of experts"),
        ("gemma3", {"attention.sliding_window_pattern": ([True], "ARRAY[BOOL]")}, "has 1 flags for 3 layers"),
        ("gemma3", {"block_count": (0, "UINT32")}, "block_count is 0"),
        ("gemma3", {"block_count": (513, "UINT32")}, "block_count is 513\n  hint: 1 to 512"),  # LLAMA_MAX_LAYERS
        ("gemma3", {"block_count": (2**32 - 1, "UINT32")}, "block_count is 4294967295"),
        ("gemma3", {"attention.head_count": (0, "UINT32")}, "head_count is 0"),
        ("gemma3", {"attention.layer_norm_rms_epsilon": (float("nan"), "FLOAT32")}, "layer_norm_rms_epsilon is nan"),
        ("modern-bert", {"attention.head_count_kv": (2, "UINT32")}, "2 heads of keys for 6 query heads"),
        ("modern-bert", {"decision.block_count": (1, "UINT32")}, "a decision model"),
        ("gemma-embedding", {"attention.sliding_window": (0, "UINT32")}, "sliding_window is 0"),
        ("gemma-embedding", {"attention.key_length_swa": (8, "UINT32")}, "layers with a window whose heads differ"),
        ("gemma-embedding2", heads_kv(4, 6, 6), "6 query heads cannot share 4 heads of keys evenly"),
        ("gemma-embedding2", heads_kv(0, 6, 6), r"head_count_kv is \[0, 6\]\n  hint: 1 to"),
        (
            "gemma-embedding2",
            {"rope.dimension_count_swa": (12, "UINT32")},
            "dimension_count_swa is 12\n  hint: an even",
        ),
        ("gemma-embedding2", {"embedding_length_per_layer_input": (0, "UINT32")}, "per_layer_input is 0\n  hint: 1 to"),
        ("eurobert", {"rope.dimension_count_swa": (4, "UINT32")}, "layers with a window whose heads differ"),
        ("eurobert", {"rope.dimension_count": (0, "UINT32")}, "nothing turns\n  hint: llama.cpp refuses it, aborts or"),
        ("eurobert", {"rope.dimension_count": (8, "UINT32")}, "an even number, at most the 6 of a head"),
        ("gemma", {"expert_count": (8, "UINT32")}, "a mixture of experts"),
        ("gemma2", {"attention.key_length_swa": (8, "UINT32")}, "layers with a window whose heads differ"),
        ("phi3", {"rope.dimension_count": (8, "UINT32")}, "an even number, at most the 6 of a head"),
        ("phi3", {"expert_count": (8, "UINT32")}, "a mixture of experts"),
        ("t5encoder", {"attention.value_length": (12, "UINT32")}, "heads of keys and of values that differ in width"),
        ("t5encoder", {"attention.relative_buckets_count": (512, "UINT32")}, "relative_buckets_count is 512"),
        ("gpt-oss", {WINDOW: (0, "UINT32")}, "sliding_window is 0"),
        ("lfm2", heads_kv(3, 0, 6), r"head_count_kv is \[0, 3, 6\]\n  hint: 0 for a layer with a state"),
        ("smollm3", heads_kv(3, 0, 3), r"head_count_kv is \[0, 3\]: layers that differ"),
        ("granite", {"deepstack_mapping": ([0, -1, 1], "ARRAY[INT32]")}, "pictures that enter behind several layers"),
        ("granite", floats(residual_scale=float("nan")), "residual_scale is nan"),
        ("mistral3", floats(rope__scaling__yarn_beta_fast=0.0), "yarn_beta_fast is 0.0"),
        *test_dense_decoders.ODD_KEYS,
    ],
)
def test_impossible_metadata_is_refused_by_name(arch: str, keys: Any, message: str, tmp_path: Path) -> None:
    path = with_keys(synthetic(tmp_path / "m.gguf", arch), tmp_path / "odd.gguf", keys)
    with pytest.raises(ModelError, match=message):
        load_model(open_gguf(path))


@pytest.mark.oracle
@pytest.mark.parametrize("arch", ["jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe"])
def test_a_model_without_kinds_of_token_is_refused(arch: str, tmp_path: Path) -> None:
    none = {"tokenizer.ggml.token_type_count": (0, "UINT32")}
    path = copied(synthetic(tmp_path / "m.gguf", arch), tmp_path / "none.gguf", none)
    message = r"mis-shaped token_types.weight: \(2, 36\)" if arch == "jina-bert-v2" else "count is missing or 0"
    with pytest.raises(ModelError, match=message):
        load_model(open_gguf(path))
    with pytest.raises(EngineError):
        LlamaCpp(path)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("gemma", "output.weight"),
        ("gemma2", "output.weight"),
        ("phi3", "rope_freqs.weight"),
        *test_dense_decoders.UNREAD,
    ],
)
def test_llama_cpp_refuses_a_tensor_that_neither_reads(arch: str, name: str, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", arch)
    more = copied(path, tmp_path / "more.gguf", tensors={name: np.zeros((101, 36), np.float32)})
    with pytest.raises(EngineError):
        LlamaCpp(more)
    with pytest.raises(ModelError, match=f"unexpected {name}"):
        load_model(open_gguf(more))


@pytest.mark.oracle
@pytest.mark.parametrize("key", [WINDOW, "attn_logit_softcapping"])
def test_llama_cpp_makes_nothing_of_zeros_that_we_refuse(key: str, tmp_path: Path) -> None:
    """A window of no tokens hides all keys; a cap of 0 divides by it."""
    keys = {key: (0, "UINT32") if key == WINDOW else (0.0, "FLOAT32")}
    path = synthetic(tmp_path / "m.gguf", "gemma2", keys=keys)
    with LlamaCpp(path, pooling="last") as engine:
        assert np.isnan(engine.embed([[1, 2, 3]])[0]).all()
    with pytest.raises(ModelError, match=f"gemma2.{key} is 0"):
        load_model(open_gguf(path))


@pytest.mark.oracle
def test_a_model_whose_layer_0_has_no_bias_is_refused(tmp_path: Path) -> None:
    """llama.cpp loads it, and ends when it is to embed."""
    path = without(synthetic(tmp_path / "m.gguf", "t5encoder"), tmp_path / "less.gguf", "enc.blk.0.attn_rel_b.weight")
    neither_runs_it(path, r"missing    enc\.blk\.0\.attn_rel_b")


def test_every_architecture_is_computed_or_refused_by_what_it_is() -> None:
    """Those that gguf-py knows; and none is in two places."""
    refused = [name for names in UNSUPPORTED.values() for name in names.split()]
    assert len(refused) == len(set(refused))
    assert set(refused) & set(ARCHITECTURES) == set()
    assert set(gguf.MODEL_ARCH_NAMES.values()) <= {*refused, *ARCHITECTURES}


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("rwkv6", "does not compute architecture 'rwkv6'\n  hint: llama.cpp knows it: its layers keep a state"),
        ("t5", "its encoder alone, t5encoder, is computed"),
        ("clip", "a model of pictures or of sound"),
        ("smolm3", "does not compute architecture 'smolm3'\n  hint: it computes bert, .*; is it 'smollm3'?"),
        ("plm", "llama.cpp knows it: its layers or experts are of a kind that is not computed"),
        *((name, "llama.cpp knows it: its layers or experts are of a kind") for name in NEWEST),
        ("vllm-decision2", "llama.cpp knows it: it decides between answers"),
        *((other, "t5encoder; this one is unknown here") for other in NEXT),
    ],
)
def test_a_file_of_another_architecture_is_refused(arch: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(open_gguf(GGUFWriter(arch).write(tmp_path / "m.gguf")))


def test_matrices_that_are_stored_turned_are_refused(tmp_path: Path) -> None:
    """llama.cpp of b11739 turns what they multiply; the pinned build passes the key over, and gets other numbers."""
    path = copied(
        synthetic(tmp_path / "m.gguf", "qwen3"), tmp_path / "k.gguf", {"prism.hadamard.version": (1, "UINT32")}
    )
    with pytest.raises(ModelError, match=r"turned by a Hadamard transform \(prism\.hadamard\.version\)"):
        load_model(open_gguf(path))
