"""What files of Gemma, Gemma 2, Phi-3 and T5 are refused, and that llama.cpp does not run them either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.errors import EngineError, ModelError
from refembed.gguf import open_gguf
from refembed.model import load_model
from refembed.testing.synthetic import synthetic
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied, with_keys, without
from tests.model.facts import neither_loads_it_without, neither_runs_it
from tests.model.keys import HEADS_OF_8

WINDOW = "attention.sliding_window"


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("gemma", "blk.1.attn_norm.weight"),
        ("gemma2", "blk.0.post_attention_norm.weight"),
        ("gemma2", "blk.2.post_ffw_norm.weight"),
        ("phi3", "blk.0.ffn_up.weight"),
        ("t5encoder", "enc.blk.1.attn_o.weight"),
        ("t5encoder", "enc.output_norm.weight"),
    ],
)
def test_llama_cpp_refuses_what_we_refuse(arch: str, name: str, tmp_path: Path) -> None:
    neither_loads_it_without(synthetic(tmp_path / "m.gguf", arch), name)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("arch", "name"), [("gemma", "output.weight"), ("gemma2", "output.weight"), ("phi3", "rope_freqs.weight")]
)
def test_llama_cpp_refuses_a_tensor_that_neither_reads(arch: str, name: str, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", arch)
    more = copied(path, tmp_path / "more.gguf", tensors={name: np.zeros((101, 36), np.float32)})
    with pytest.raises(EngineError):
        LlamaCpp(more)
    with pytest.raises(ModelError, match=f"unexpected {name}"):
        load_model(open_gguf(more))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("arch", "keys", "message"),
    [
        ("phi3", HEADS_OF_8, "6 heads of 8 channels do not make up 36"),
        ("t5encoder", {"attention.head_count_kv": (2, "UINT32")}, "2 heads of keys for 6 query heads"),
        (
            "t5encoder",
            {"attention.relative_buckets_count": (3, "UINT32")},
            "buckets_count is 3\n  hint: 4 to 511",
        ),
    ],
)
def test_llama_cpp_does_not_run_what_we_refuse(arch: str, keys: Any, message: str, tmp_path: Path) -> None:
    n_buckets = 3 if "buckets" in message else 32
    path = with_keys(synthetic(tmp_path / "m.gguf", arch, n_buckets=n_buckets), tmp_path / "odd.gguf", keys)
    neither_runs_it(path, message)


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


@pytest.mark.parametrize(
    ("arch", "keys", "message"),
    [
        ("gemma", {"expert_count": (8, "UINT32")}, "a mixture of experts"),
        ("gemma2", {"attention.key_length_swa": (8, "UINT32")}, "layers with a window whose heads differ"),
        ("phi3", {"rope.dimension_count": (8, "UINT32")}, "an even number, at most the 6 of a head"),
        ("phi3", {"expert_count": (8, "UINT32")}, "a mixture of experts"),
        ("t5encoder", {"attention.value_length": (12, "UINT32")}, "heads of keys and of values that differ in width"),
        ("t5encoder", {"attention.relative_buckets_count": (512, "UINT32")}, "relative_buckets_count is 512"),
    ],
)
def test_impossible_metadata_of_gemma_phi_and_t5_is_refused_by_name(
    arch: str, keys: Any, message: str, tmp_path: Path
) -> None:
    path = with_keys(synthetic(tmp_path / "m.gguf", arch), tmp_path / "odd.gguf", keys)
    with pytest.raises(ModelError, match=message):
        load_model(open_gguf(path))
