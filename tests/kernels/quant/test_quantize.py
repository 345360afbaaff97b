"""The quantizers, defined and compiled, against ggml's own, live from the pinned wheel, bit for bit."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType

import gguf
import numpy as np
import pytest

from refembed.arrays import F32, U8
from refembed.errors import RequestError
from refembed.gguf import BY_NAME, QUANT_TYPES, open_gguf
from refembed.kernels.quant.quantize import CHUNK, QUANTIZERS, SEARCHED, fill, quantize
from tests.kernels.quant.ggml_quantize import ONLY_NAMED, ONLY_REF, live

NAMES = [name for name in QUANTIZERS if name != "F32"]
STORED = [name for name in NAMES if name not in ONLY_REF + ONLY_NAMED]  # the types files hold
WIDTH = 512  # two blocks of the largest


def scaled(rng: np.random.Generator, rows: int, low: float, high: float) -> F32:
    """Bell-shaped rows, each of its own magnitude: 10^low ... 10^high."""
    size = 10.0 ** rng.uniform(low, high, (rows, 1))
    return (rng.standard_normal((rows, WIDTH)) * size).astype(np.float32)


def heavy(rng: np.random.Generator, rows: int) -> F32:
    """Student's t of two degrees of freedom: outliers as weights have them, and worse."""
    return rng.standard_t(2, (rows, WIDTH)).astype(np.float32)


def constant(rng: np.random.Generator, rows: int) -> F32:
    """Runs of 16 equal numbers, zeros among them; the first rows equal throughout."""
    x = np.repeat(rng.integers(-3, 4, (rows, WIDTH // 16)), 16, axis=1).astype(np.float32)
    x[: rows // 4] = rng.standard_normal((rows // 4, 1))
    return x


def sparse(rng: np.random.Generator, rows: int) -> F32:
    """Zeros, nearly all of them in the first rows."""
    return np.where(rng.random((rows, WIDTH)) < np.linspace(1, 0.5, rows)[:, None], 0, heavy(rng, rows))


def bits(rng: np.random.Generator, rows: int) -> F32:
    """Any float32 there is, NaN and infinity apart."""
    x = rng.integers(0, 2**32, (rows, WIDTH), np.uint32).view(np.float32)
    return np.where(np.isfinite(x), x, np.float32(0))


KINDS: dict[str, Callable[[np.random.Generator, int], F32]] = {
    "normal": lambda rng, rows: scaled(rng, rows, 0, 0),
    "heavy-tailed": heavy,
    "of many sizes": lambda rng, rows: scaled(rng, rows, -12, 3),
    "subnormal": lambda rng, rows: scaled(rng, rows, -45, -12),
    "huge": lambda rng, rows: scaled(rng, rows, 3, 37),
    "positive": lambda rng, rows: np.abs(scaled(rng, rows, 0, 0)) + 1,
    "negative": lambda rng, rows: -np.abs(scaled(rng, rows, 0, 0)) - 3,
    "ties": lambda rng, rows: (rng.integers(-32, 33, (rows, WIDTH)) / 4).astype(np.float32),
    "few values": lambda rng, rows: rng.integers(-2, 3, (rows, WIDTH)).astype(np.float32),
    "constant": constant,
    "sparse": sparse,
    "random bits": bits,
}


def data(seed: int, rows: int) -> F32:
    """`rows` rows of each kind."""
    rng = np.random.default_rng(seed)
    return np.concatenate([kind(rng, rows) for kind in KINDS.values()]).astype(np.float32)


def kind_of(block: int, name: str, rows: int) -> str:
    """Which kind of data a block of data(seed, rows) comes from."""
    return list(KINDS)[block * BY_NAME[name].weights // WIDTH // rows]


def filled(x: F32, name: str, search: ModuleType | None) -> U8:
    """The blocks of x, (blocks, bytes), whatever it holds."""
    t = BY_NAME[name]
    blocks = np.zeros(x.size // t.weights, t.block)
    fill(x.reshape(-1, t.weights), blocks, t, search)
    return blocks.view(np.uint8).reshape(-1, t.nbytes)


def searches(name: str) -> list[ModuleType | None]:
    """The definition and its compiled version, where there are two."""
    if name not in SEARCHED:
        return [None]
    return [importlib.import_module(f"refembed.kernels.quant.quantize_{which}") for which in ("search", "jit")]


def same_as_ggml(x: F32, name: str, found: dict[str, U8], rows: int) -> None:
    """Both of refembed's ways against both of ggml's. IQ4_NL's from_float_ref is a coarser search, of no file."""
    t = BY_NAME[name]
    wanted = {key: found[key].reshape(-1, t.nbytes) for key in (name, f"{name} ref") if key in found}
    if name == "IQ4_NL":
        del wanted["IQ4_NL ref"]
    assert wanted
    for search in searches(name):
        got = filled(x, name, search)
        for key, expected in wanted.items():
            wrong = np.flatnonzero((got != expected).any(axis=1))
            kinds = sorted({kind_of(int(i), name, rows) for i in wrong})
            assert not wrong.size, f"{key} by {search}: {wrong.size} of {len(got)} blocks differ, {kinds}"


@pytest.fixture(scope="module")
def asked() -> tuple[F32, dict[str, U8]]:
    """Numbers, and what ggml makes of them for every type: 2,400 blocks of 256, 19,200 of 32."""
    x = data(1, 100)
    return x, live(x, NAMES)


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_ggmls_bit_for_bit(name: str, asked: tuple[F32, dict[str, U8]]) -> None:
    same_as_ggml(asked[0], name, asked[1], 100)


@pytest.mark.oracle
@pytest.mark.parametrize("search", searches("IQ4_NL"))
def test_scales_of_iq4_without_tries_are_those_of_from_float_ref(
    search: ModuleType, asked: tuple[F32, dict[str, U8]]
) -> None:
    with np.errstate(all="ignore"):
        scales = search.iq4_scales(asked[0].reshape(-1, 32), -1).astype(np.float16)
    assert np.array_equal(
        scales.view(np.uint16), asked[1]["IQ4_NL ref"].view(BY_NAME["IQ4_NL"].block)["d"].view(np.uint16)
    )


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_more_blocks_are_ggmls_bit_for_bit(seed: int) -> None:
    x = data(seed, 300)
    found = live(x, NAMES)
    for name in NAMES:
        same_as_ggml(x, name, found, 300)


@pytest.fixture(scope="module")
def real(minilm) -> F32:  # type: ignore[no-untyped-def]  # a fixture of tests/kernels/conftest.py
    """Real weights whose rows every type divides: 384 rows of 1536."""
    return open_gguf(minilm).tensors["blk.3.ffn_down.weight"].dequantize()


@pytest.mark.oracle
def test_real_weights_are_ggmls_bit_for_bit(real: F32) -> None:
    found = live(real, STORED)
    for name in STORED:
        assert np.array_equal(quantize(real, name).reshape(-1), found[name]), name


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("name", STORED)
def test_every_real_weight_is_ggmls_bit_for_bit(name: str, minilm) -> None:  # type: ignore[no-untyped-def]  # likewise
    """All of the model's matrices, their rows laid end to end where they are not whole blocks."""
    matrices = [t.dequantize().reshape(-1) for t in open_gguf(minilm).tensors.values() if len(t.shape) == 2]
    x = np.concatenate([m[: m.size // 256 * 256] for m in matrices]).reshape(-1, 256)
    assert np.array_equal(quantize(x, name).reshape(-1), live(x, [name])[name])


@pytest.mark.oracle
def test_powers_of_two_and_their_neighbors_get_ggmls_exponent() -> None:
    """MXFP4 takes floor(log2f(x)), and log2f of the float below a power of two may round up to it."""
    powers = np.ldexp(np.float32(1), np.arange(-126, 128)).view(np.int32)[:, None]
    x = np.zeros((powers.size * 129, 32), np.float32)
    x[:, 7] = (powers + np.arange(-64, 65, dtype=np.int32)).reshape(-1).view(np.float32)
    assert np.array_equal(filled(x, "MXFP4", None).reshape(-1), live(x, ["MXFP4"])["MXFP4"])


@pytest.mark.oracle
def test_scales_of_nvfp4_are_ggmls_around_every_value_and_halfway() -> None:
    values = np.array([gguf.quants.NVFP4.ue4m3_to_fp32(np.array([i], np.uint8))[0] for i in range(127)], np.float32)
    marks = np.concatenate([values, (values[1:] + values[:-1]) / 2, [448, 500, 1e4]]) * 12  # 6 x twice the half scale
    near = (marks.astype(np.float32).view(np.int32)[:, None] + np.arange(-8, 9, dtype=np.int32)).view(np.float32)
    x = np.repeat(near.reshape(-1, 1), 64, axis=1) * np.linspace(-1, 1, 64, dtype=np.float32)
    x = np.where(np.isfinite(x), x, np.float32(0))
    assert np.array_equal(filled(x, "NVFP4", None).reshape(-1), live(x, ["NVFP4"])["NVFP4"])


@pytest.mark.parametrize("search", searches("IQ4_NL"))
def test_codes_of_iq4_stand_for_the_nearest_value_and_halfway_for_the_upper_one(search: ModuleType) -> None:
    values = gguf.quants.IQ4_NL.kvalues
    halfway = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    x = np.array([*values, *halfway, -1e30, -np.inf, 1e30, np.inf], np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(-np.inf)), np.nextafter(x, np.float32(np.inf))])
    nearest = [min(range(15, -1, -1), key=lambda i, v=float(v): abs(Fraction(v) - values[i])) if np.isfinite(v)
               else 15 * (v > 0) for v in x]  # fmt: skip
    assert search.best_index_int8(x).tolist() == nearest


@pytest.mark.parametrize("name", ["Q8_0", "Q8_1", "Q8_K"])
def test_halves_round_as_the_type_says(name: str) -> None:
    """Of a block whose step is 1 the codes are known: Q8_0 rounds halves away from zero, Q8_K to even."""
    below = np.nextafter(np.float32(0.5), np.float32(0))  # + 0.5 it would be 1
    x = np.zeros(BY_NAME[name].weights, np.float32)
    x[:8] = (-127 if name == "Q8_K" else 127), below, -below, 0.5, -0.5, 1.5, 2.5, -2.5
    expected = {"Q8_K": [-127, 0, 0, 0, 0, 2, 2, -2]}.get(name, [127, 0, 0, 1, -1, 2, 3, -3])
    codes = quantize(x, name).view(BY_NAME[name].block)["qs"][0]
    assert codes[:8].tolist() == expected
    assert not codes[8:].any()


@pytest.mark.parametrize("name", [n for n in STORED if n not in ("F16", "BF16", "Q1_0", "Q2_0", "NVFP4")])
def test_what_is_stored_comes_back_within_a_step(name: str) -> None:
    """gguf-py decodes it. A step is what the type's bits divide a block's span into; searches may trade ends for it."""
    x = np.random.default_rng(5).uniform(-1, 1, (64, 256)).astype(np.float32)
    steps = {"Q8_0": 127, "Q6_K": 31, "Q5_0": 16, "Q5_1": 15, "Q5_K": 15, "Q2_K": 1.5, "TQ1_0": 1, "TQ2_0": 1}
    step = 1 / steps.get(name, 3 if name in ("Q3_K", "MXFP4") else 7)
    decoded = gguf.quants.dequantize(quantize(x, name), gguf.GGMLQuantizationType[name])
    assert decoded.shape == x.shape
    assert np.abs(decoded - x).max() <= step * 1.3
    assert np.sqrt(np.mean((decoded - x) ** 2)) <= step * 0.45


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_know_their_neighbors(name: str) -> None:
    """Alone, together, in the chunks of several threads, as slices of another array: the same bytes."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((3 * CHUNK // 512 + 5, 1024)).astype(np.float32)
    whole = quantize(x, name)
    assert whole.shape == (len(x), 1024 // BY_NAME[name].weights * BY_NAME[name].nbytes)
    for i in (0, 127, 128, len(x) - 1):
        assert np.array_equal(quantize(x[i], name), whole[i])
    strided = np.repeat(x, 2, axis=0)[::2]
    assert np.array_equal(quantize(strided.reshape(1, *x.shape), name)[0], whole)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_becomes_nothing(name: str) -> None:
    assert quantize(np.zeros((0, 256), np.float32), name).shape == (
        0,
        256 // BY_NAME[name].weights * BY_NAME[name].nbytes,
    )
    assert quantize(np.zeros((3, 0), np.float32), name).shape == (3, 0)


@pytest.mark.parametrize("name", [t.name for t in QUANT_TYPES if t.name not in QUANTIZERS])
def test_a_type_without_quantizer_is_a_request_error(name: str) -> None:
    with pytest.raises(RequestError, match=rf"(?s)no quantizer for {name}.*one of F32, F16, BF16, Q4_0"):
        quantize(np.zeros((1, 256), np.float32), name)


@pytest.mark.parametrize("name", [n for n in NAMES if BY_NAME[n].weights > 1])
def test_rows_that_are_not_whole_blocks_are_a_request_error(name: str) -> None:
    weights = BY_NAME[name].weights
    for n in (1, weights - 1, weights + 1, 3 * weights // 2):
        with pytest.raises(RequestError, match=f"rows of {n} numbers are not whole {name} blocks of {weights}"):
            quantize(np.zeros((4, n), np.float32), name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_request_error(name: str, value: float) -> None:
    x = np.ones((2, 256), np.float32)
    x[1, 255] = value
    with pytest.raises(RequestError, match="NaN or infinity cannot be quantized"):
        quantize(x, name)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("Q8_K", "MXFP4", "NVFP4")])
def test_numbers_beyond_a_type_are_a_request_error(name: str) -> None:
    """Those of its scales: float16 ends at 65504, bfloat16 a little below float32."""
    x = np.ones((2, 256), np.float32)
    for value in [3.4e38] if name == "BF16" else [1e10, -3e19, 3.4e38]:
        x[1, 3] = value
        with pytest.raises(RequestError, match=rf"numbers up to .* are beyond {name}"):
            quantize(x, name)
