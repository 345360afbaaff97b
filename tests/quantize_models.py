"""Small GGUF files whose tensors meet every rule of llama-quantize: what record_quantize.py has it quantize.

llama-quantize looks at names, types and row lengths, and at a few keys, not at whether the model could run. So a matrix
here has four rows. Numbers are made of integers alone: the same on every machine and with every NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.gguf import GGUFWriter

Shapes = dict[str, tuple[int, ...]]


def numbers(count: int, seed: int) -> F32:
    """Bell-shaped numbers about 0.1 wide, with a far one among 32 or so: the sum of a hash's four bytes."""
    i = np.arange(count, dtype=np.uint64) + np.uint64(seed * 1_000_003)
    h = i * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    total = sum(((h >> np.uint64(8 * k)) & np.uint64(255)).astype(np.float32) for k in range(4)) - np.float32(510)
    far = np.where((h >> np.uint64(40)) % np.uint64(32) == 0, np.float32(4), np.float32(1))
    return np.asarray(total * far / np.float32(1024), np.float32)


def bert() -> tuple[dict[str, Any], Shapes]:
    """17 layers, rows of 256 and 512; the tensors that stay as they are, and rows that few types divide."""
    shapes: Shapes = {
        "token_embd.weight": (7, 256),
        "position_embd.weight": (4, 256),
        "token_types.weight": (2, 256),
        "token_embd_norm.weight": (256,),
        "token_embd_norm.bias": (256,),
        "cls.weight": (4, 256),
        "cls.output.weight": (1, 256),
        "cls.norm.weight": (4, 64),
        "dense_2_out.weight": (3, 96),
        "odd_norm.weight": (4, 256),
        "odd_a.weight": (4, 48),
        "odd_b.weight": (4, 33),
        "odd_c.weight": (5, 1),
        "odd_d.weight": (2, 3, 64),
        "odd.scale": (4, 256),
    }
    for i in range(17):
        shapes |= {f"blk.{i}.attn_{part}.weight": (4, 256) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.attn_q.bias": (256,), f"blk.{i}.attn_output_norm.weight": (256,)}
        shapes |= {f"blk.{i}.ffn_up.weight": (4, 256), f"blk.{i}.ffn_down.weight": (4, 512)}
    return {"block_count": 17, "attention.head_count": 4, "attention.layer_norm_epsilon": 1e-12}, shapes


def llama() -> tuple[dict[str, Any], Shapes]:
    """A decoder of 16 layers, four query heads to a kv head, its output a matrix of its own."""
    shapes: Shapes = {"token_embd.weight": (7, 256), "output.weight": (7, 256), "output_norm.weight": (256,)}
    for i in range(16):
        shapes |= {f"blk.{i}.attn_{part}.weight": (4, 256) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{part}.weight": (4, 256) for part in ("gate", "up", "down")}
    keys = {"block_count": 16, "attention.head_count": 8, "attention.head_count_kv": 2}
    return keys | {"attention.layer_norm_rms_epsilon": 1e-6}, shapes


def modern_bert() -> tuple[dict[str, Any], Shapes]:
    """9 layers with query, key and value in one matrix, and a table for each layer."""
    shapes: Shapes = {"token_embd.weight": (7, 256), "per_layer_token_embd.weight": (7, 256)}
    for i in range(9):
        shapes |= {f"blk.{i}.attn_qkv.weight": (4, 256), f"blk.{i}.attn_output.weight": (4, 256)}
        shapes |= {f"blk.{i}.ffn_up.weight": (4, 256), f"blk.{i}.ffn_down.weight": (4, 128)}
    return {"block_count": 9, "attention.head_count": 4, "attention.layer_norm_epsilon": 1e-5}, shapes


def nomic_bert_moe() -> tuple[dict[str, Any], Shapes]:
    """12 layers, every second of them with eight experts, a ninth that all words share, and a router."""
    shapes: Shapes = {"token_embd.weight": (7, 256)}
    for i in range(12):
        shapes |= {f"blk.{i}.attn_{part}.weight": (4, 256) for part in ("q", "k", "v", "output")}
        if i % 2:
            shapes |= {f"blk.{i}.ffn_{part}_exps.weight": (8, 2, 256) for part in ("up", "down")}
            shapes |= {f"blk.{i}.ffn_gate_inp.weight": (8, 256), f"blk.{i}.ffn_down_shexp.weight": (4, 256)}
        else:
            shapes |= {f"blk.{i}.ffn_{part}.weight": (4, 256) for part in ("up", "down")}
    keys = {"block_count": 12, "attention.head_count": 4, "attention.layer_norm_epsilon": 1e-5}
    return keys | {"expert_count": 8, "expert_used_count": 2, "moe_every_n_layers": 2}, shapes


MODELS: dict[str, tuple[Callable[[], tuple[dict[str, Any], Shapes]], str, str]] = {
    # name -> its tensors, general.architecture, the type of its matrices
    "bert": (bert, "bert", "F32"),
    "bert-f16": (bert, "bert", "F16"),
    "bert-bf16": (bert, "bert", "BF16"),
    "modern-bert-q8_0": (modern_bert, "modern-bert", "Q8_0"),
    "llama": (llama, "llama", "F32"),
    "modern-bert": (modern_bert, "modern-bert", "F32"),
    "nomic-bert-moe": (nomic_bert_moe, "nomic-bert-moe", "F32"),
}


def build(name: str, path: Path) -> Path:
    """Write one of MODELS, its tensors in an order that is not llama.cpp's."""
    make, arch, type_name = MODELS[name]
    keys, shapes = make()
    w = GGUFWriter(arch)
    w.add("general.file_type", 0, "UINT32")
    for key, value in (keys | {"context_length": 64, "embedding_length": 256, "feed_forward_length": 512}).items():
        w.add(f"{arch}.{key}", value, "FLOAT32" if isinstance(value, float) else "UINT32")
    w.add("some.words", ["a", "ß", ""], "ARRAY[STRING]")
    w.add("some.flags", [True, False], "ARRAY[BOOL]")
    w.add("some.numbers", [1, -2, 3], "ARRAY[INT16]")
    w.add("some.word", "naïve", "STRING")
    for i, (tensor, shape) in enumerate(reversed(shapes.items())):
        stored = type_name if len(shape) > 1 and shape[-1] % 32 == 0 else "F32"
        w.add_tensor(tensor, blocks(numbers(int(np.prod(shape)), i), stored), shape, stored)
    return w.write(path)


def blocks(x: F32, type_name: str) -> Any:
    """Numbers as gguf-py stores them."""
    import gguf

    x.reshape(-1)[::97] = 0  # some zeros, and a whole run of them
    x.reshape(-1)[:40] = 0
    if type_name == "F32":
        return x
    return np.frombuffer(gguf.quantize(x, gguf.GGMLQuantizationType[type_name]).tobytes(), np.uint8)
