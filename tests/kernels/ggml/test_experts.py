"""Products with experts' matrices, and the router's softmax, have the bits of live ggml's single operations.

Interleaved weights are tried in whole models (tests/model/test_encoders_post.py): only a loaded model has them.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from refembed.errors import ModelError
from refembed.gguf import Tensor
from refembed.gguf.quants import BY_NAME
from refembed.kernels.ggml import floats
from refembed.kernels.ggml.experts import mul_mat_id
from refembed.kernels.ggml.ops import Ggml
from refembed.kernels.ggml.profile import load_profile
from refembed.kernels.ggml.quantized import TILED, mul_mat
from tests.kernels.ggml import live
from tests.kernels.ggml.graph_cases import noise
from tests.kernels.ggml.quantized_cases import TYPES, checksum, differing
from tests.kernels.ggml.quantized_cases import Case as Block
from tests.kernels.ggml.quantized_cases import weights as random_blocks

RECORDED = Path(__file__).with_name("experts_avx512.txt")  # checksums of node-llama-cpp 3.22.1's answers, zen4 plug-in
AVX2, AVX512 = load_profile("avx2"), load_profile("avx512")
X = 9  # experts
FLOATS = {"F32": np.float32, "F16": np.float16}


class Case(NamedTuple):
    """T tokens, each through `used` of X matrices (N, C)."""

    type: str
    T: int
    used: int
    N: int
    C: int
    own: bool = False  # each of a token's experts has a row of its own, as after `up`


def cases(type: str) -> list[Case]:
    """One token and many, so that an expert has one row, a few, and eight or more; widths that fill no register too."""
    if type in (*FLOATS, "BF16"):
        return [Case(type, 23, 3, 24, 64), Case(type, 9, 2, 13, 100, True), Case(type, 1, 2, 5, 31)]
    step = BY_NAME[type].weights
    return [Case(type, 23, 3, 24, 512), Case(type, 9, 2, 13, 3 * step, True), Case(type, 1, 2, 16, 256)]


def stored(c: Case) -> Tensor:
    """The experts (X, N, C)."""
    if c.type in FLOATS:
        raw = noise(1, X, c.N, c.C).astype(FLOATS[c.type])
    elif c.type == "BF16":
        raw = (floats.rounded(noise(1, X, c.N, c.C), "BF16").view(np.uint32) >> 16).astype(np.uint16)
    else:
        raw = random_blocks(Block(c.type, 1, X * c.N, c.C))
    return Tensor(f"{c}", (X, c.N, c.C), BY_NAME[c.type], raw.reshape(-1).view(np.uint8), 0, "<")


def chosen(c: Case) -> np.ndarray:
    """(T, used): expert 0 is everybody's first, the rest are anybody's."""
    others = 1 + np.argsort(noise(2, c.T, X - 1), axis=1)[:, : c.used - 1]
    return np.hstack([np.zeros((c.T, 1), np.int64), others])


def rows(c: Case) -> np.ndarray:
    """(T, C), or (T, used, C)."""
    return noise(3, *((c.T, c.used, c.C) if c.own else (c.T, c.C)))


def asked(lib: str = "", cpu: str = "") -> dict[Case, np.ndarray]:
    """What a build makes of every case; the pinned wheel where none is named."""
    some = [c for type in (*FLOATS, "BF16", *TYPES) for c in cases(type)]
    calls = []
    for c in some:
        w, x = stored(c), rows(c)
        x = x if c.own else x[:, None]
        calls.append(("ggml_mul_mat_id", [live.Typed(c.type, w.raw, w.shape), x, chosen(c).astype(np.int32)]))
    return dict(zip(some, live.run(calls, lib, cpu), strict=True))


@pytest.fixture(scope="module")
def answers() -> dict[Case, np.ndarray]:
    """What the wheel makes of every case."""
    return asked()


def described(c: Case) -> str:
    return f"{c.type} T={c.T} used={c.used} N={c.N} C={c.C}{' own' * c.own}"


@pytest.mark.parametrize("type", [*FLOATS, "BF16", *TYPES])
def test_avx512_has_the_recorded_bits(type: str) -> None:
    """The profile avx512: node-llama-cpp's ggml 0.25.1. Recorded by this file itself: <folder of libraries> zen4."""
    recorded = dict(reversed(line.split(" ", 1)) for line in RECORDED.read_text().splitlines()[1:])
    mine = {described(c): checksum(mul_mat_id(rows(c), stored(c), chosen(c), AVX512, {})) for c in cases(type)}
    assert mine == {name: recorded[name] for name in mine}


@pytest.mark.oracle
@pytest.mark.parametrize("type", [*FLOATS, "BF16", *TYPES])
def test_a_product_with_experts_has_the_bits_of_the_wheel(type: str, answers: dict[Case, np.ndarray]) -> None:
    for c in cases(type):
        got = mul_mat_id(rows(c), stored(c), chosen(c), AVX2, {})
        want = answers[c].reshape(got.shape)
        assert np.isfinite(want).all()
        assert differing(got, want) == 0, c


def test_experts_have_few_rows_and_many() -> None:
    """What the cases are for: on both sides of eight rows, where the tiled kernel begins."""
    counts = np.bincount(chosen(cases("Q4_K")[0]).reshape(-1), minlength=X)
    assert counts[0] == 23
    assert (counts < 8).any()
    assert counts.min() >= 1


@pytest.mark.parametrize("type", ["F32", "Q4_K", "IQ4_NL"])
def test_the_dispatch_of_one_matrix_would_give_other_bits(type: str) -> None:
    """tinyBLAS adds in another order, and so does the tiled kernel, which few rows do not reach."""
    c = cases(type)[0]
    w, x = stored(c), rows(c)
    first = Tensor("first", (c.N, c.C), w.type, w.raw[: w.nbytes // X], 0, "<")
    one = np.zeros((c.T, 1), np.int64)
    if type == "F32":
        assert differing(mul_mat_id(x, w, one, AVX2, {})[:, 0], floats.mul_mat(x, first.dequantize(), "F32", AVX2))
    else:
        n = 4 if type in TILED else c.T
        assert differing(mul_mat_id(x[:n], w, one[:n], AVX2, {})[:, 0], mul_mat(x, first, AVX2, {})[:n])


@pytest.mark.oracle
@pytest.mark.parametrize("n", [1, 4, 5, 8, 9, 17, 64, 100])
def test_the_routers_softmax_has_the_bits_of_the_wheel(n: int) -> None:
    """The last n % 8 of a row go through libm's exponential."""
    x = noise(4, 7, n) * np.float32(6)
    x[1] = 0
    (want,) = live.run([("ggml_soft_max", [x])])
    assert differing(Ggml().softmax(x), want) == 0


def test_rows_of_another_length_are_refused() -> None:
    w = stored(Case("Q8_0", 1, 1, 8, 64))
    with pytest.raises(ModelError, match=r"its shape is \(8, 64\); the activations' is \(1, 32\)"):
        mul_mat_id(np.ones((1, 32), np.float32), w, np.zeros((1, 1), np.int64), AVX2, {})


if __name__ == "__main__":
    folder, cpu = sys.argv[1:]
    plugin = Path(folder) / f"libggml-cpu-{cpu}.so"
    head = f"# node-llama-cpp 3.22.1, {plugin.name}, sha256 {hashlib.sha256(plugin.read_bytes()).hexdigest()}\n"
    RECORDED.write_text(head + "".join(f"{checksum(y)} {described(c)}\n" for c, y in asked(folder, cpu).items()))
