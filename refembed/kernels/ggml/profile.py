"""Which llama.cpp the `ggml` numerics equals: what differs between its builds, as rows of a table.

Thread count, OpenMP, mmap and batch splitting change nothing; the order of a sum does, and it follows the width of the
registers a build uses and a few choices of its compiler and version (docs/numerics.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from refembed.errors import RequestError


@dataclass(frozen=True)
class Profile:
    """One build of llama.cpp's CPU backend, and the two switches a caller has."""

    name: str
    lanes: int  # floats in a register: 4 (NEON), 8 (AVX2) or 16 (AVX-512)
    expf: Literal["avx2", "avx512"]  # which form of ggml_v_expf
    tail: int  # GCC's way with what a dot product leaves over: chunks of so many products, the rest by FMA
    fa_sum_fma: bool  # flash attention: S = S*ms + vs in one rounding
    fa_tail: bool  # flash attention tiles heads of any width; else only whole registers, and takes others key by key
    pad_k: bool  # tinyBLAS takes float rows of any length, the last lanes padded; else it leaves them to vec_dot
    tiled: bool  # the tiled K-quant kernel, for 8 rows and more
    bf16: Literal["avx2", "avx512f", "vdpbf16", "double"]  # how a BF16 dot product runs
    pad_keys: bool  # keys and values of encoders are padded to whole blocks of 256, as those of a KV cache are
    rope_in_twos: bool = False  # RoPE turns neighboring channels two pairs at a time, one left over without FMA
    blas_rows: int = 2  # float products of so many rows and more are tinyBLAS's
    blas_f16: bool = True  # which takes activations rounded to F16, where weights are; else as they are
    q8_by_scale: bool = False  # codes of 8 bits are x times 1/d, else x times 127/max |x|
    flash_attn: bool = True  # llama.cpp's own default on a CPU (AUTO)
    repack: bool = False  # weights interleaved at load: use_extra_bufts, llama.cpp's default unless asked otherwise


# fmt: off
PROFILES = {p.name: p for p in (
    # lanes, expf, tail, fa_sum_fma, fa_tail, pad_k, tiled, bf16, pad_keys, rope_in_twos
    Profile("avx2",             8, "avx2", 4, False, True, True,  True,  "avx2", False),  # xllamacpp b11549, GCC 10
    Profile("avx2-gcc13",       8, "avx2", 4, True,  True, True,  True,  "avx2", False, True),  # py-sync 0.11548
    Profile("avx2-gcc12",       8, "avx2", 4, True,  True, True,  True,  "avx2", False),  # b11434, Release, GCC 12.2
    Profile("avx2-b11739",      8, "avx2", 4, True,  True, True,  True,  "avx2", True,  True),  # py-sync 0.11739
    Profile("avx2-b9093",       8, "avx2", 4, False, False, False, False, "avx2", False),  # xllamacpp to b10809
    Profile("avx2-gcc13-b9014", 8, "avx2", 4, True, False, False, False, "avx2", False, True),  # py-sync to b11067
    Profile("avx512", 16, "avx512", 8, False, False, False, False, "vdpbf16", False),  # node-llama-cpp 3.22.1, zen4
    Profile("neon", 4, "avx2", 4, False, False, False, False, "double", False,  # xllamacpp b11549 for aarch64, GCC 10
            blas_rows=4, blas_f16=False, q8_by_scale=True),
)}
# fmt: on


def load_profile(name: str = "avx2", *, flash_attn: bool = True, repack: bool = False) -> Profile:
    """The row of that name, with the caller's switches. RequestError for an unknown name."""
    if name not in PROFILES:
        raise RequestError(f"profile {name!r}: there is no such profile", hint=f"one of {', '.join(PROFILES)}")
    return replace(PROFILES[name], flash_attn=flash_attn, repack=repack)
