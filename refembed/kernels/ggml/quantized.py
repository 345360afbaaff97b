"""x Wᵀ for quantized weights, equal to llama.cpp's CPU backend to the last bit: on x86 all types, on ARM Q8_0.

Three things decide how llama.cpp adds: the weight's type, how many rows of activations come at once, and whether the
weights were interleaved at load. `RECIPES` is that decision as a table (ggml_compute_forward_mul_mat in ggml-cpu.c,
tiled/tiled.cpp, llamafile/sgemm.cpp, ggml_repack_get_optimal_repack_type in repack.cpp); `blocks` and `codes` turn both
sides into whole numbers, `chains` says in which order the rest is added.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.errors import ModelError
from refembed.gguf import Tensor
from refembed.kernels.ggml import blocks as unpack
from refembed.kernels.ggml import blocks_iquants as iquants
from refembed.kernels.ggml import chains_jit as jit
from refembed.kernels.ggml.blocks import Blocks, Ints
from refembed.kernels.ggml.codes import BLOCK_LENGTHS
from refembed.kernels.ggml.profile import Profile
from refembed.kernels.threads import parallel_for

TILE, QUAD = jit.TILE, jit.QUAD
FUSED = False  # vmlaq_n_f32 of GCC 10: product and sum, each rounded
PART = 1 << 22  # weights that are unpacked at a time: the whole numbers of a large tensor need several times its bytes


@dataclass(frozen=True, eq=False)
class Weights:
    """`Blocks` in the order kernels read them, sixteen rows side by side (chains_jit)."""

    v: Ints  # (T, nb, 8, E, 16)
    d: F32  # (T, nb, H, 16)
    mins: Ints  # (T, nb, 0 or 16, 16)
    dmin: F32  # (T, nb, 0 or 1, 16)
    deltas: Ints  # (T, nb, 8, 0 or E, 16)


@dataclass(frozen=True, eq=False)
class Rows:
    """`Codes` in the order kernels read them, four rows side by side."""

    codes: F32  # (Q, nb, 8, E, 4)
    d: F32  # (Q, nb, 4)
    sums: F32  # (Q, nb, S, 4)


Chain = Callable[[Rows, Weights], F32]
Recipe = tuple[Callable[[Any], Blocks], Chain]
Kept = MutableMapping[Tensor, dict[Any, Any]]  # weights as products read them, as long as their tensor is in use


def side_by_side(x: Any) -> Any:
    """(m, nb, c) -> (T, nb, c, 16), rows of zeros at the end."""
    m, nb, c = x.shape
    tiles = -(-m // TILE)
    padded = np.zeros((tiles * TILE, nb, c), x.dtype)
    padded[:m] = x
    return np.ascontiguousarray(padded.reshape(tiles, TILE, nb, c).transpose(0, 2, 3, 1))


def lane_by_lane(q: Any) -> Any:
    """(m, nb, B) -> (T, nb, 8, B/8, 16): lane l has the columns 32 g + 4 l .. 4 l + 3 of every group g of 32."""
    m, nb, B = q.shape
    in_lanes = q.reshape(m, nb, B // 32, 8, 4).transpose(0, 1, 3, 2, 4).reshape(m, nb, B)
    return side_by_side(in_lanes).reshape(-(-m // TILE), nb, 8, B // 8, TILE)


def pack(w: Blocks) -> Weights:
    """Blocks as the kernels read them."""
    return Weights(
        lane_by_lane(w.q), side_by_side(w.d), side_by_side(w.mins), side_by_side(w.dmin), lane_by_lane(w.deltas)
    )


def stored(w: Tensor) -> Any:
    """The blocks of a tensor (m, nb) as its bytes lie there."""
    return w.raw.view(w.type.block.newbyteorder(w.byteorder)).reshape(w.shape[0], -1)


def unpacked(w: Tensor, how: Callable[[Any], Blocks]) -> Weights:
    """A tensor (m, k) unpacked, some rows at a time."""
    raw = stored(w)
    step = max(TILE, PART // w.shape[1] // TILE * TILE)
    parts = [pack(unpack.unpack(raw[i : i + step], how)) for i in range(0, len(raw), step)]
    if len(parts) == 1:
        return parts[0]
    names = ("v", "d", "mins", "dmin", "deltas")
    return Weights(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def quantized(x: F32, kind: str, by_scale: bool = False) -> Rows:
    """x (n, k) as codes of that kind. by_scale: as `codes.q8` has it."""
    (n, k), B, S = x.shape, BLOCK_LENGTHS[kind], {"Q8_0": 0, "Q8_1": 1, "Q8_K": 16}[kind]
    Q, nb = -(-n // QUAD), k // B
    shapes = (Q, nb, 8, B // 8, QUAD), (Q, nb, QUAD), (Q, nb, S, QUAD)
    codes, d, sums = (np.zeros(s, np.float32) for s in shapes)
    if kind == "Q8_K":
        parallel_for(jit.quantize_q8_k, x, codes, d, sums, rows=n, size=x.size)
    else:
        parallel_for(jit.quantize_q8, x, by_scale, codes, d, sums, rows=n, size=x.size)
    return Rows(codes, d, sums)


def run(kernel: Callable[..., None], x: Rows, w: Weights, *arguments: Any) -> F32:
    """A kernel over all tiles of w, shared among the cores: (4 Q, 16 T)."""
    Q, nb, _, E, _ = x.codes.shape
    T = len(w.v)
    out = np.empty((Q * QUAD, T * TILE), np.float32)
    flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments]
    parallel_for(kernel, (Q, nb, E, T * TILE), *flat, out.reshape(-1), rows=T, size=out.size * nb * E // 8)
    return out


# what a type does with its accumulators: the chains of `chains`, put together


def lanes(x: Rows, w: Weights) -> F32:
    """Eight lanes."""
    return run(jit.lanes, x, w, w.v, w.d, w.d.shape[2], x.codes, x.d)


def lanes_by_turns(x: Rows, w: Weights) -> F32:
    """Two sets of lanes."""
    return run(jit.lanes_by_turns, x, w, w.v, w.d, x.codes, x.d)


def quarters_by_turns(x: Rows, w: Weights) -> F32:
    """Two sets of four lanes."""
    return run(jit.quarters_by_turns, x, w, w.v, w.d, x.codes, x.d, FUSED)


def lanes_nested(x: Rows, w: Weights) -> F32:
    return run(jit.lanes_nested, x, w, w.v, w.d, x.d.shape[1] // w.d.shape[1], x.codes, x.d)


def one_nested(x: Rows, w: Weights) -> F32:
    """One sum inside one sum."""
    return run(jit.one_nested, x, w, w.v, w.d, x.d.shape[1] // w.d.shape[1], x.codes, x.d)


def lanes_offsets(x: Rows, w: Weights) -> F32:
    """Eight lanes, and the offsets apart."""
    return lanes(x, w) + run(jit.offsets, x, w, w.dmin, x.sums)


def mins_apart(x: Rows, w: Weights, parts: int) -> F32:
    """The mins, in so many accumulators."""
    return run(jit.mins_apart, x, w, w.mins, w.dmin, x.d, x.sums, parts)


def lanes_four_mins(x: Rows, w: Weights) -> F32:
    """Eight lanes, and the mins apart in four."""
    return lanes(x, w) + mins_apart(x, w, 4)


def lanes_one_min(x: Rows, w: Weights) -> F32:
    """Eight lanes, and the mins apart in one."""
    return lanes(x, w) + mins_apart(x, w, 1)


def lanes_one_delta(x: Rows, w: Weights) -> F32:
    """Eight lanes, and the deltas apart in one, times 1/8 at the end."""
    return lanes(x, w) + np.float32(0.125) * mins_apart(x, w, 1)


def lanes_deltas(x: Rows, w: Weights) -> F32:
    """Eight lanes, and eight for the deltas, times 1/8 at the end."""
    return lanes(x, w) + np.float32(0.125) * run(jit.lanes, x, w, w.deltas, w.d, 1, x.codes, x.d)


def lanes_and_mins(x: Rows, w: Weights) -> F32:
    """Eight lanes that take the mins too."""
    return run(jit.lanes_and_mins, x, w, w.v, w.d, w.mins, w.dmin, x.codes, x.d, x.sums)


def lanes_less_mins(x: Rows, w: Weights) -> F32:
    """Eight lanes, mins taken off as whole numbers."""
    return run(jit.lanes_less_mins, x, w, w.v, w.d, w.mins, x.codes, x.d, x.sums)


def times(fraction: float, chain: Chain) -> Chain:
    """A chain whose result is multiplied by 1/8 or 1/4."""
    return lambda x, w: chain(x, w) * np.float32(fraction)


def folded(fraction: float, chain: Chain) -> Chain:
    """A chain whose weights have the fraction in d."""
    return lambda x, w: chain(x, replace(w, d=w.d * np.float32(fraction)))


def tiled(x: Rows, w: Weights) -> F32:
    """One accumulator, the scale of x last."""
    return run(jit.tiled, x, w, w.v, w.d, w.mins, w.dmin, x.codes, x.d, x.sums)


def one(x: Rows, w: Weights) -> F32:
    """One accumulator, a step a block."""
    return run(jit.one, x, w, w.v, w.d, x.codes, x.d, 1)


def one_less_mins(parts: int) -> Chain:
    """One accumulator, and one for the mins, with so many steps a block."""

    def chain(x: Rows, w: Weights) -> F32:
        mins = run(jit.one_of_mins, x, w, w.mins, w.dmin, x.d, x.sums, parts)
        return run(jit.one, x, w, w.v, w.d, x.codes, x.d, parts) - mins

    return chain


EIGHTH, QUARTER = 0.125, 0.25

# what a type's blocks become, and how vec_dot adds
RECIPES: dict[str, Recipe] = {
    "Q4_0": (unpack.q4_0, lanes),
    "Q4_1": (unpack.q4_1, lanes_offsets),
    "Q5_0": (unpack.q5_0, lanes),
    "Q5_1": (unpack.q5_1, lanes_offsets),
    "Q8_0": (unpack.q8_0, lanes),
    "Q1_0": (unpack.q1_0, lanes_nested),
    "Q2_0": (unpack.q2_0, one_nested),
    "IQ4_NL": (unpack.iq4_nl, lanes_by_turns),
    "MXFP4": (unpack.mxfp4, lanes_by_turns),
    "NVFP4": (unpack.nvfp4, lanes),
    "Q2_K": (unpack.q2_k, lanes_and_mins),
    "Q3_K": (unpack.q3_k, lanes),
    "Q4_K": (unpack.q4_k, lanes_four_mins),
    "Q5_K": (unpack.q5_k, lanes_one_min),
    "Q6_K": (unpack.q6_k_apart, lanes_less_mins),
    "IQ4_XS": (unpack.iq4_xs, lanes),
    "TQ1_0": (unpack.tq1_0, lanes_less_mins),
    "TQ2_0": (unpack.tq2_0, lanes_less_mins),
    "IQ2_XXS": (iquants.iq2_xxs, times(EIGHTH, lanes)),
    "IQ2_XS": (iquants.iq2_xs, times(EIGHTH, lanes)),
    "IQ2_S": (iquants.iq2_s, times(EIGHTH, lanes)),
    "IQ3_XXS": (iquants.iq3_xxs, times(QUARTER, lanes)),
    "IQ3_S": (iquants.iq3_s, lanes),
    "IQ1_S": (iquants.iq1_s, lanes_one_delta),
    "IQ1_M": (iquants.iq1_m, lanes_deltas),
}

# two rows of activations and more: tinyBLAS, where it adds in another order than vec_dot (llamafile/sgemm.cpp)
TINYBLAS: dict[str, Recipe] = {"IQ4_NL": (unpack.iq4_nl, lanes)}

# builds for ARM, whatever the number of rows (arch/arm/quants.c)
NEON: dict[str, Recipe] = {"Q8_0": (unpack.q8_0, quarters_by_turns)}

# eight rows and more: the tiled kernel
TILED: dict[str, Recipe] = {
    "Q2_K": (unpack.q2_k, tiled),
    "Q3_K": (unpack.q3_k, tiled),
    "Q4_K": (unpack.q4_k, tiled),
    "Q5_K": (unpack.q5_k, tiled),
    "Q6_K": (unpack.q6_k, tiled),
    "IQ4_XS": (unpack.iq4_xs, tiled),
    "IQ2_XXS": (iquants.iq2_xxs, folded(EIGHTH, tiled)),
    "IQ2_XS": (iquants.iq2_xs, folded(EIGHTH, tiled)),
    "IQ2_S": (iquants.iq2_s, folded(EIGHTH, tiled)),
    "IQ3_XXS": (iquants.iq3_xxs, folded(QUARTER, tiled)),
    "IQ3_S": (iquants.iq3_s, tiled),
    "IQ1_S": (iquants.iq1_s_tiled, folded(EIGHTH, tiled)),
    "IQ1_M": (iquants.iq1_m_tiled, folded(EIGHTH, tiled)),
}

# eight rows and more, where rows of W come in eights, in ggml 0.25.1, which has no tiled kernel
CODEBOOK: dict[str, Recipe] = {
    "IQ4_XS": (unpack.iq4_xs, one),
    "IQ2_XXS": (iquants.iq2_xxs, folded(EIGHTH, one)),
    "IQ2_XS": (iquants.iq2_xs, folded(EIGHTH, one)),
    "IQ2_S": (iquants.iq2_s, folded(EIGHTH, one)),
    "IQ3_XXS": (iquants.iq3_xxs, folded(QUARTER, one)),
    "IQ3_S": (iquants.iq3_s, one),
    "IQ1_S": (iquants.iq1_s_tiled, folded(EIGHTH, one)),
    "IQ1_M": (iquants.iq1_m_tiled, folded(EIGHTH, one)),
}

# interleaved weights, where rows of W come in eights: for rows of x in fours (GEMM), and for the rest (GEMV)
REPACKED: dict[str, tuple[Recipe, Recipe]] = {
    "Q4_0": ((unpack.q4_0, one), (unpack.q4_0, one)),
    "IQ4_NL": ((unpack.iq4_nl, one), (unpack.iq4_nl, one)),
    "MXFP4": ((unpack.mxfp4, one), (unpack.mxfp4, one)),
    "Q4_K": ((unpack.q4_k, one_less_mins(4)), (unpack.q4_k, one_less_mins(1))),
    "Q2_K": ((unpack.q2_k, one_less_mins(2)), (unpack.q2_k, one_less_mins(1))),  # AVX-512 only
}


def repacked(w: Tensor, profile: Profile) -> bool:
    """Whether llama.cpp interleaves this weight at load; Q2_K only with AVX-512."""
    known = w.type.name in REPACKED and (w.type.name != "Q2_K" or profile.lanes == 16)
    return profile.repack and known and w.shape[0] % 8 == 0 and profile.lanes > 4


def recipe(type: str, n: int, m: int, profile: Profile) -> Recipe:
    """What n rows of activations do with m rows of weights of a type that are not interleaved."""
    if profile.lanes == 4:
        if type not in NEON:
            hint = f"it has {', '.join(NEON)}, F32, F16 and BF16; every type has products in the profiles of x86"
            raise ModelError(f"the profile {profile.name} has no products with {type} weights", hint=hint)
        return NEON[type]
    if n >= 8 and profile.tiled and type in TILED:
        return TILED[type]
    if n >= 8 and not profile.tiled and m % 8 == 0 and type in CODEBOOK:
        return CODEBOOK[type]
    if n >= 2 and type in TINYBLAS:
        return TINYBLAS[type]
    return RECIPES[type]


def product(x: F32, w: Tensor, how: Recipe, kept: Kept, by_scale: bool = False) -> F32:
    """x Wᵀ by one recipe; `kept` has the weights unpacked."""
    unpacker, chain = how
    ready = kept.setdefault(w, {})
    if unpacker not in ready:
        ready[unpacker] = unpacked(w, unpacker)
    return chain(quantized(x, w.type.dot, by_scale), ready[unpacker])[: len(x), : w.shape[0]]


def check(x: F32, w: Tensor) -> None:
    """Refuse what llama.cpp has no product for."""
    if w.type.name not in RECIPES:
        raise ModelError(f"{w.name}: llama.cpp cannot multiply by {w.type.name} weights")
    if len(w.shape) != 2 or x.shape[1] != w.shape[1]:
        raise ModelError(f"{w.name}: its shape is {w.shape}; the activations' is {x.shape}")


def mul_mat(x: F32, w: Tensor, profile: Profile, kept: Kept) -> F32:
    """x Wᵀ as llama.cpp's CPU backend computes it.

    x        (n, k) float32: all rows that llama.cpp would have in this call, since it chooses its kernel by n
    w        (m, k) of a quantized type
    profile  the build to equal; `repack` interleaves the types that llama.cpp would
    kept     unpacked weights by tensor, for the next call; the caller's to clear
    returns  (n, m) float32
    Raises ModelError for a type that has no dot product in llama.cpp, and for rows of another length.
    """
    check(x, w)
    x = np.ascontiguousarray(x, np.float32)
    n, m = len(x), w.shape[0]
    if not n or not m:
        return np.zeros((n, m), np.float32)
    if not repacked(w, profile):
        how = recipe(w.type.name, n, m, profile)
        return np.ascontiguousarray(product(x, w, how, kept, profile.q8_by_scale))
    out, fours = np.empty((n, m), np.float32), n // 4 * 4
    gemm, gemv = REPACKED[w.type.name]
    for rows, how in ((slice(0, fours), gemm), (slice(fours, n), gemv)):
        if len(x[rows]):
            out[rows] = product(x[rows], w, how, kept)
    return out
