"""Decoders on small random models against live llama.cpp: every tensor, every optional one there and not there.

With float32 weights and a float32 cache only rounding is left. Largest error of one operation on llama.cpp's own
inputs, over the largest value: measured 5.5e-7 (xllamacpp 2026.10.11549, AVX-512 CPU); of a whole run 6.5e-6. Its RoPE
multiplies angles up in float32: 1.5e-6 at place 40. Its GELU comes from a table of float16 numbers, 2^-11 in and 2^-11
out: alone 9.1e-4, in whole runs 6.7e-4 (in a deep one more: rounding grows from layer to layer).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import ModelError
from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.model import load_model
from refembed.model.batch import pack
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.align import align
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import with_keys
from tests.model.bits import some_ids
from tests.model.facts import (
    bits_do_not_depend_on_the_batch,
    differs_by_rounding_alone,
    neither_loads_it_without,
    neither_runs_it,
    places_changed_by_token_20,
)
from tests.model.keys import BASE, EVERY_BIAS, FACTORS, LINEAR, NO_SCALING, PATTERN, QKV_BIAS, SEES_ALL, YARN
from tests.model.live import Both

LOCAL, LOCAL_ROPE, LOCAL_GELU = 1e-6, 3e-6, 1.2e-3
WHOLE, WHOLE_GELU = 1.5e-5, 1.5e-3

LONGROPE = {"rope.scaling.type": ("longrope", "STRING")}
LOCAL_BASE = {"rope.freq_base_swa": (5e2, "FLOAT32")}
STRETCHED = {"rope.scaling.original_context_length": (32, "UINT32")}
FLAGS = {PATTERN: ([False, True, True], "ARRAY[BOOL]")}

# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama":                       ("llama", {"K": 2}),
    "llama, mqa, three heads":     ("llama", {"H": 3, "K": 1, "D": 14, "optional": {"output.weight"}}),
    "llama, one head, one layer":  ("llama", {"H": 1, "n_layer": 1, "D": 8}),
    "llama, fused qkv":            ("llama", {"K": 3, "optional": {"attn_qkv.weight"}}),
    "llama, fused qkv with bias":  ("llama", {"K": 3, "optional": {"attn_qkv.weight", "attn_qkv.bias"}}),
    "llama, every bias":           ("llama", {"optional": EVERY_BIAS}),
    "llama, frequency factors":    ("llama", {"optional": {"rope_freqs.weight"}, "keys": BASE}),
    "llama, linear":               ("llama", {"keys": LINEAR}),
    "llama, old linear key":       ("llama", {"keys": {"rope.scale_linear": (2.0, "FLOAT32")}}),
    "llama, a factor, but none":   ("llama", {"keys": NO_SCALING}),
    "llama, yarn":                 ("llama", {"keys": YARN, "D": 24}),
    "llama, yarn that shrinks":    ("llama", {"keys": YARN | {"rope.scaling.factor": (0.5, "FLOAT32")}}),
    "llama, yarn, magnitude":      ("llama", {"keys": YARN | {"rope.scaling.attn_factor": (1.3, "FLOAT32")},
                                              "optional": {"rope_freqs.weight"}}),
    "llama, long factors":         ("llama", {"keys": LONGROPE | STRETCHED, "P": 256, "optional": FACTORS}),
    "llama, short factors":        ("llama", {"keys": LONGROPE, "P": 256, "optional": FACTORS}),
    "llama, sees all":             ("llama", {"keys": SEES_ALL}),
    "qwen2":                       ("qwen2", {"K": 2, "D": 6, "optional": QKV_BIAS}),
    "qwen2, no biases, linear":    ("qwen2", {"D": 6, "keys": LINEAR | BASE}),
    "qwen2, sees all":             ("qwen2", {"K": 3, "D": 6, "keys": SEES_ALL,
                                              "optional": {*QKV_BIAS, "output.weight", "output.bias"}}),
    "qwen3":                       ("qwen3", {"K": 2, "keys": BASE}),
    "qwen3, fused qkv, odd heads": ("qwen3", {"H": 5, "K": 1, "D": 12, "optional": {"attn_qkv.weight"}}),
    "qwen3, reranker, yarn":       ("qwen3", {"H": 7, "keys": YARN, "optional": {"cls.output.weight", *QKV_BIAS}}),
    "gemma3":                      ("gemma3", {"K": 2, "n_layer": 7, "keys": BASE}),
    "gemma3, mqa, window 1":       ("gemma3", {"H": 3, "K": 1, "window": 1}),
    "gemma3, a window over all":   ("gemma3", {"window": 200, "optional": {"output.weight"}}),
    "gemma3, no window":           ("gemma3", {"window": 0, "keys": BASE}),
    "gemma3, every other layer":   ("gemma3", {"keys": {PATTERN: (2, "UINT32")} | LINEAR | BASE}),
    "gemma3, pattern 0, base":     ("gemma3", {"keys": {PATTERN: (0, "UINT32")} | LOCAL_BASE}),
    "gemma3, flags, yarn":         ("gemma3", {"keys": YARN | FLAGS, "D": 24, "optional": {"attn_qkv.weight"}}),
    "gemma3, heads turn in part":  ("gemma3", {"keys": {"rope.dimension_count": (6, "UINT32")}}),
    "gemma3, sees all":            ("gemma3", {"keys": SEES_ALL}),
    "gemma3, 62 layers":           ("gemma3", {"n_layer": 62, "C": 30, "H": 3, "D": 4, "F": 8}),
}
# fmt: on


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tensor_of_every_variant_is_llama_cpps(variant: str, tmp_path: Path) -> None:
    arch, sizes = VARIANTS[variant]
    path = synthetic(tmp_path / "m.gguf", arch, seed=len(variant), **sizes)
    with Both(path, "last") as both:
        whole = math.inf if "62 layers" in variant else WHOLE_GELU if arch == "gemma3" else WHOLE
        differs_by_rounding_alone(both, lambda d: {"ROPE": LOCAL_ROPE, "GEGLU": LOCAL_GELU}.get(d.op, LOCAL), whole)


@pytest.mark.oracle
@pytest.mark.parametrize("pooling", ["none", "mean", "cls", "last"])
@pytest.mark.parametrize("arch", ["gemma3", "llama", "qwen2", "qwen3"])
def test_pooling_and_names_are_llama_cpps(arch: str, pooling: str, tmp_path: Path) -> None:
    """The file's own pooling through the public path: the vector, and the name of the last tensor."""
    number = {"none": 0, "mean": 1, "cls": 2, "last": 3}[pooling]
    path = synthetic(tmp_path / "m.gguf", arch, K=2, D=6, pooling=number)
    e, ids = Embedder.load(path, numerics="exact"), some_ids(20)
    with LlamaCpp(path, type_kv="f32") as engine:
        (want,), theirs = engine.embed([ids]), engine.trace(ids)
    (got,) = e.embed([ids], normalize=-1)
    assert np.abs(got - want).max() <= (WHOLE_GELU if arch == "gemma3" else WHOLE) * np.abs(want).max()
    ours = e.trace(ids)
    assert ours.tensors[-1].name == "result_embd_pooled"
    found = align(ours, theirs)
    assert (found.ours_only, found.theirs_only, len(found.pairs)) == ((), (), len(ours))
    assert ("result_norm" in ours) == ("result_norm" in theirs) == (pooling != "none")


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("arch", ["gemma3", "llama", "qwen2", "qwen3"])
def test_a_texts_bits_do_not_depend_on_its_batch(arch: str, numerics: str, tmp_path: Path) -> None:
    bits_do_not_depend_on_the_batch(synthetic(tmp_path / "m.gguf", arch, K=2, D=6, n_layer=6), numerics)


def test_a_token_changes_nothing_before_it_and_nothing_beyond_the_windows(tmp_path: Path) -> None:
    """Three layers with windows of 4 carry a token's influence 9 places, no further; none of it goes back."""
    path = synthetic(tmp_path / "m.gguf", "gemma3", window=4)
    assert places_changed_by_token_20(path) == list(range(20, 30))


def test_the_table_of_tokens_is_never_decoded_whole(tmp_path: Path) -> None:
    """262,144 rows of Gemma 3 would take 670 MB: rows are decoded when a token asks for them."""
    for arch in ("gemma3", "llama", "qwen2", "qwen3"):
        model = load_model(open_gguf(synthetic(tmp_path / f"{arch}.gguf", arch, D=6, optional={"output.weight"})))
        for ops in (load_ops("exact"), load_ops("fast")):
            model.forward(pack([[5, 6]]), ops)
            assert not {"token_embd.weight", "output.weight"} & set(ops.decoded)  # type: ignore[attr-defined]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("gemma3", "blk.0.post_ffw_norm.weight"),
        ("gemma3", "blk.1.attn_k_norm.weight"),
        ("llama", "output_norm.weight"),
        ("qwen2", "blk.2.attn_v.weight"),
        ("qwen3", "blk.0.attn_q_norm.weight"),
    ],
)
def test_llama_cpp_refuses_what_we_refuse(arch: str, name: str, tmp_path: Path) -> None:
    neither_loads_it_without(synthetic(tmp_path / "m.gguf", arch, D=6), name)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"attention.head_count_kv": (4, "UINT32")}, "6 query heads cannot share 4 heads of keys evenly"),
        ({"attention.head_count_kv": ([6, 3, 6], "ARRAY[UINT32]")}, r"head_count_kv is \[3, 6\]: layers that differ"),
        ({"attention.value_length": (12, "UINT32")}, "heads of keys and of values that differ in width"),
        (
            {"rope.dimension_count": (12, "UINT32")},
            "rope.dimension_count is 12\n  hint: an even number, at most the 10",
        ),
        ({"rope.dimension_count": (7, "UINT32")}, "rope.dimension_count is 7"),
        ({"rope.scaling.type": ("su", "STRING")}, "rope.scaling.type is 'su'\n  hint: one of none, linear, yarn"),
        ({"rope.freq_base": (0.0, "FLOAT32")}, "rope.freq_base is 0.0"),
        ({"expert_count": (8, "UINT32")}, "a mixture of experts"),
        ({"attention.sliding_window_pattern": ([True], "ARRAY[BOOL]")}, "has 1 flags for 3 layers"),
        ({"block_count": (0, "UINT32")}, "block_count is 0"),
        ({"block_count": (513, "UINT32")}, "block_count is 513\n  hint: 1 to 512"),  # LLAMA_MAX_LAYERS
        ({"block_count": (2**32 - 1, "UINT32")}, "block_count is 4294967295"),
        ({"attention.head_count": (0, "UINT32")}, "head_count is 0"),
        ({"attention.layer_norm_rms_epsilon": (float("nan"), "FLOAT32")}, "layer_norm_rms_epsilon is nan"),
    ],
)
def test_impossible_sizes_are_named(keys: dict[str, tuple[Any, str]], message: str, tmp_path: Path) -> None:
    path = with_keys(synthetic(tmp_path / "m.gguf", "gemma3"), tmp_path / "odd.gguf", keys)
    with pytest.raises(ModelError, match=message):
        load_model(open_gguf(path))


@pytest.mark.oracle
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_only_gemma_turns_heads_in_part(arch: str, tmp_path: Path) -> None:
    """llama.cpp refuses, or aborts on, a rope.dimension_count that is not the width of a head."""
    path = synthetic(tmp_path / "m.gguf", arch, D=6, keys={"rope.dimension_count": (4, "UINT32")})
    neither_runs_it(path, f"{arch}.rope.dimension_count is 4\n  hint: this architecture turns whole")
