"""llama_model_params and llama_context_params as include/llama.h has had them, build by build.

A layout is the newer one with fields put in or taken out; the tables go backwards from the newest. Each is named after
the oldest build of conformance/builds.toml that has it, and serves up to the next layout's. Where only a default
changed, there is no layout of its own: a field may have several defaults.

The first that fits serves: no newer layout takes an older one's defaults for its own, unless all that it has more is a
bool where the older structure had padding (kv_unified, no_host, no_alloc, load_mtp), which its library never reads.
"""

from __future__ import annotations

import ctypes as ct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from refembed.verify.engines.llamacpp_abi import ANY, Field, rows, structure

Fields: TypeAlias = "Sequence[Field]"

MODEL_NEWEST: Fields = [
    *rows(ct.c_void_p, devices=None, tensor_buft_overrides=None),
    *rows(ct.c_int32, n_gpu_layers=(-1, 0, 99, 999), split_mode=1, load_mode=(-1, 1), lazy_mode=1, main_gpu=0),
    *rows(ct.c_void_p, tensor_split=None, progress_callback=None, progress_user_data=None, kv_overrides=None),
    *rows(ct.c_uint8, vocab_only=0, check_tensors=0, use_extra_bufts=1, no_host=0, no_alloc=0, load_mtp=0),
]
CONTEXT_NEWEST: Fields = [
    *rows(ct.c_uint32, n_ctx=512, n_batch=2048, n_ubatch=512, n_seq_max=1, n_rs_seq=0, n_outputs_max=0),
    *rows(ct.c_uint32, n_outputs_max_per_seq=1),
    *rows(ct.c_int32, n_threads=ANY, n_threads_batch=ANY),
    *rows(ct.c_int32, ctx_type=0, rope_scaling_type=-1, pooling_type=-1, attention_type=-1, flash_attn_type=-1),
    *rows(ct.c_float, rope_freq_base=0, rope_freq_scale=0, yarn_ext_factor=-1, yarn_attn_factor=(-1, 1)),
    *rows(ct.c_float, yarn_beta_fast=(-1, 32), yarn_beta_slow=(-1, 1)),
    *rows(ct.c_uint32, yarn_orig_ctx=0),
    *rows(ct.c_float, defrag_thold=(-1, 0)),
    *rows(ct.c_void_p, cb_eval=None, cb_eval_user_data=None),
    *rows(ct.c_int32, type_k=1, type_v=1),
    *rows(ct.c_size_t, moe_cache_size=0),
    *rows(ct.c_void_p, abort_callback=None, abort_callback_data=None),
    *rows(ct.c_uint8, embeddings=0, offload_kqv=1, no_perf=1, op_offload=1, swa_full=1, kv_unified=0),
    *rows(ct.c_void_p, samplers=None),
    *rows(ct.c_size_t, n_samplers=0),
    *rows(ct.c_void_p, ctx_other=None),
]


def changed(fields: Fields, out: str = "", put: Mapping[str, Fields] | None = None) -> Fields:
    """A layout without the fields named in `out`, and with others put in, each list behind the field that it names."""
    names, put = out.split(), dict(put or {})
    missing = {*names, *put} - {name for name, _, _ in fields}
    if missing:
        raise ValueError(f"no such field: {', '.join(sorted(missing))}")
    made: list[Field] = []
    for field in fields:
        made += [field] if field[0] not in names else []
        made += put.get(field[0], ())
    return made


def places(fields: Fields) -> dict[str, int]:
    """Where each field is, in bytes."""
    made = structure("made", fields)
    return {name: getattr(made, name).offset for name, _, _ in fields}


def u8(**defaults: Any) -> Fields:
    """Fields of one byte: C's bool."""
    return rows(ct.c_uint8, **defaults)


def history(newest: str, fields: Fields, *older: tuple[str, str, Mapping[str, Fields]]) -> dict[str, Fields]:
    """Layouts by their first build, newest first. older: first build, fields that it lacks, fields that it has more."""
    layouts = {newest: fields}
    for build, out, put in older:
        fields = changed(fields, out, put)
        layouts[build] = fields
    return layouts


MODEL_LAYOUTS: dict[str, Fields] = history(
    "b10809",
    MODEL_NEWEST,
    ("b10335", "lazy_mode", {}),
    ("b10133", "load_mtp", {}),
    ("b7827", "load_mode", {"vocab_only": u8(use_mmap=1, use_direct_io=(0, 1), use_mlock=0)}),
    ("b7551", "use_direct_io", {}),
    ("b6845", "no_alloc", {}),
    ("b6123", "no_host", {}),
    ("b5129", "use_extra_bufts", {}),
    ("b4600", "tensor_buft_overrides", {}),
    ("b4291", "", {"tensor_split": rows(ct.c_void_p, rpc_servers=None)}),
)
CONTEXT_LAYOUTS: dict[str, Fields] = history(
    "b11520",
    CONTEXT_NEWEST,
    ("b10361", "moe_cache_size", {}),
    ("b9642", "n_outputs_max_per_seq", {}),
    ("b9538", "ctx_other", {}),
    ("b9209", "n_outputs_max", {}),
    ("b7827", "n_rs_seq ctx_type", {}),
    ("b6431", "samplers n_samplers", {}),
    ("b6123", "flash_attn_type", {"offload_kqv": u8(flash_attn=0)}),
    ("b5456", "kv_unified", {}),
    (
        "b4291",
        "embeddings offload_kqv flash_attn no_perf op_offload swa_full",
        {"type_v": u8(logits_all=0, embeddings=0, offload_kqv=1, flash_attn=0, no_perf=1)},
    ),
)
