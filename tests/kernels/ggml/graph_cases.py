"""Attention and rotary embedding to try: inputs that are the same everywhere, ggml's answer, ours, and what differs."""

from __future__ import annotations

import hashlib
import itertools
import sys
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from refembed.kernels.ggml.attention import attention
from refembed.kernels.ops import BIDIRECTIONAL, AttentionMask, AttentionSpec, Rope
from tests.kernels.ggml.graph_ops import Graphs

RECORDED = Path(__file__).with_name(
    "graph_avx512.txt"
)  # checksums of node-llama-cpp 3.22.1's answers, its zen4 plug-in

LENGTHS = (1, 3, 15, 16, 32, 63, 64, 65, 100, 200, 300)
WIDTHS = (32, 48, 64, 80, 96, 128, 256)
MASKS = {
    "bidirectional": AttentionMask(),
    "causal": AttentionMask(causal=True),
    "window": AttentionMask(causal=True, window=20),
    "symmetric": AttentionMask(window=11, kind="symmetric"),
    "chunked": AttentionMask(causal=True, window=7, kind="chunked"),
    "alibi": AttentionMask(max_bias=8.0),
    "causal alibi": AttentionMask(causal=True, max_bias=5.0),
}
ROPES = {
    "neox": Rope(64, "neox", 1e4),
    "norm": Rope(64, "norm", 1e4),
    "base 1e6": Rope(256, "neox", 1e6),
    "a part, neox": Rope(32, "neox", 1e4),
    "a part, norm": Rope(20, "norm", 5e5),
    "linear": Rope(64, "norm", 1e4, freq_scale=0.25),
    "yarn": Rope(64, "neox", 1e4, freq_scale=0.25, n_ctx_orig=2048, ext_factor=1.0),
    "yarn, base 1e6": Rope(96, "norm", 1e6, freq_scale=1 / 40, n_ctx_orig=4096, ext_factor=1.0, attn_factor=0.7),
    "yarn, other turns": Rope(  # 1/13: the magnitude shows that its sum is fused
        96, "neox", 1e4, freq_scale=1 / 13, n_ctx_orig=4096, ext_factor=0.6, beta_fast=20.0, beta_slow=2.0
    ),
    "magnitude": Rope(64, "norm", 1e4, attn_factor=1.19),
}


@dataclass(frozen=True)
class Case:
    """One ubatch of T tokens in `texts` texts; q is H D wide, k and v K D."""

    T: int
    D: int
    H: int = 2
    K: int = 1
    mask: AttentionMask = BIDIRECTIONAL
    soft_cap: float = 0.0
    cached: bool = False
    texts: int = 1
    size: float = 2.0  # of queries: large ones make sharp softmaxes


def noise(seed: int, *shape: int) -> np.ndarray:
    """Float32 between -1 and 1, from splitmix64: NumPy may change its own generators."""
    z = (np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape)


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """q (T, H D), k, v (T, K D), offsets."""
    q = noise(1, case.T, case.H * case.D) * np.float32(case.size)
    k, v = (noise(seed, case.T, case.K * case.D) for seed in (2, 3))
    edges = {case.T * i // case.texts for i in range(case.texts + 1)}
    return q, k, v, np.array(sorted(edges))


@lru_cache(8)
def mask_matrix(mask: AttentionMask, offsets: tuple[int, ...], n: int) -> np.ndarray:
    """Cell by cell, as llama-hparams.h words it: p0 is the key's position, p1 the query's."""
    T = offsets[-1]
    out = np.full((T, n), -np.inf, np.float32)
    for begin, end in itertools.pairwise(offsets):
        for p1, p0 in itertools.product(range(end - begin), repeat=2):
            if mask.causal and p0 > p1:
                continue
            if mask.window and mask.kind == "standard" and p1 - p0 >= mask.window:
                continue
            if mask.window and mask.kind == "chunked" and p0 < (p1 // mask.window) * mask.window:
                continue
            if mask.window and mask.kind == "symmetric" and abs(p1 - p0) > mask.window // 2:
                continue
            out[begin + p1, begin + p0] = -abs(p0 - p1) if mask.max_bias else 0
    return out


def asked(ggml: Graphs, case: Case, flash: bool) -> dict[str, np.ndarray]:
    """ggml's tensors by name; kqv_out (T, H D) is the result. A cache has 256 cells or a multiple of it."""
    q, k, v, offsets = inputs(case)
    T, H, K, D = case.T, case.H, case.K, case.D
    n = -(-T // 256) * 256 if case.cached else T
    kv = np.zeros((2, n, K, D), np.float32)
    kv[:, :T] = k.reshape(T, K, D), v.reshape(T, K, D)
    kv = kv.astype(np.float16) if case.cached or flash else kv
    mask, scale = mask_matrix(case.mask, tuple(offsets.tolist()), n), float(np.float32(1) / np.sqrt(np.float32(D)))
    args = (q.reshape(T, H, D), *kv, mask, scale, case.mask.max_bias, case.soft_cap)
    shown = {"kqv_out": ggml.flash(*args)} if flash else ggml.classic(*args)
    return {**used(shown, T), "kqv_out": shown["kqv_out"].reshape(T, H * D)}


def used(shown: dict[str, np.ndarray], T: int) -> dict[str, np.ndarray]:
    """Scores of the T cells in use, where ggml shows those of the whole cache."""
    return {n: x[..., :T] if n.startswith("kq") and not n.startswith("kqv") else x for n, x in shown.items()}


class Shown(dict):
    """A listener that keeps what it is shown."""

    active = True

    def __call__(self, name, x):
        self[name] = np.array(x)
        return x


def ours(case: Case, profile) -> dict[str, np.ndarray]:
    """refembed's tensors by the same names."""
    q, k, v, offsets = inputs(case)
    shown = Shown()
    spec = AttentionSpec(case.H, case.K, 1 / case.D**0.5, case.mask, case.soft_cap, case.cached)
    out = attention(q, k, v, spec, offsets, shown, profile=profile)
    return {**shown, "kqv_out": out}


def rope_inputs(how: Rope) -> tuple[np.ndarray, np.ndarray]:
    """x (T, 3, D), positions to 8192: D is 64 and more, n_dims may be less."""
    pos = np.concatenate([np.arange(40), np.arange(40, 8192, 163)])
    return noise(4, len(pos), 3, max(how.n_dims, 64)), pos


def different(a: np.ndarray, b: np.ndarray) -> int:
    """How many bit patterns differ; shapes must not."""
    a, b = (np.ascontiguousarray(x, np.float32) for x in (a, b))
    assert a.shape == b.shape, (a.shape, b.shape)
    return int((a.view(np.uint32) != b.view(np.uint32)).sum())


def checksum(x: np.ndarray) -> str:
    """CRC-32 of an array's bytes."""
    return f"{zlib.crc32(np.ascontiguousarray(x, '<f4').tobytes()):08x}"


def recorded_cases() -> dict[str, tuple[Case, bool]]:
    """What is recorded of the AVX-512 build: name -> case, flash attention or not. 72 fills no register of 16."""
    found = {}
    for T, D, flash, cached in itertools.product((1, 15, 63, 64, 100), (32, 64, 72, 96), (False, True), (False, True)):
        mask = list(MASKS)[(T + D) % len(MASKS)]
        name = f"T={T} D={D} {mask}{' flash' * flash}{' cached' * cached}"
        found[name] = Case(T, D, 4, 2, MASKS[mask], 20.0 if D == 96 else 0.0, cached, texts=1 + (T > 60)), flash
    return found


def recorded() -> dict[str, str]:
    """name -> checksum."""
    return {line[9:]: line[:8] for line in RECORDED.read_text().splitlines()[1:]}


def record(folder: str, cpu: str, build: str) -> str:
    """The file RECORDED, from live llama.cpp: python -m tests.kernels.ggml.graph_cases <folder> zen4 <which build>."""
    plugin = Path(folder) / f"libggml-cpu-{cpu}.so"
    lines = [f"# {build}, {plugin.name}, sha256 {hashlib.sha256(plugin.read_bytes()).hexdigest()}"]
    with Graphs(folder, cpu) as ggml:
        lines += [f"{checksum(ggml.rope(*rope_inputs(how), how))} rope {name}" for name, how in ROPES.items()]
        for name, (case, flash) in recorded_cases().items():
            lines.append(f"{checksum(asked(ggml, case, flash)['kqv_out'])} {name}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    RECORDED.write_text(record(*sys.argv[1:]))
