"""Decoding blocks: the definitions and their compiled versions against ggml, gguf-py, each other, and mathematics."""

from __future__ import annotations

import dataclasses
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import gguf
import numpy as np
import pytest

from conformance import types
from conformance.to_float import Ggml
from refembed.errors import ModelError, RequestError
from refembed.gguf import BY_NAME, QUANT_TYPES, GGUFWriter, open_gguf
from refembed.gguf.quants import REMOVED
from refembed.kernels.quant import dequant
from refembed.kernels.quant.dequant import FAMILIES, FAMILY, PLAIN, decode_compiled, decode_defined, dequantize
from refembed.kernels.quant.dequant_legacy import e8m0, ue4m3

NAMES = list(FAMILY)
WITHOUT_GGML = {"Q8_1"}  # types that ggml decodes nowhere: activations, whose dot products read the codes themselves
WITHOUT_GGUF_PY = {"Q8_1", "Q8_K", "Q1_0", "Q2_0"}  # gguf-py 0.19 has no decoder for these
WAYS = {"definition": decode_defined, "compiled": decode_compiled}


def random_blocks(name: str, n: int, seed: int = 0) -> Any:
    """n blocks of random bytes: every scale is met, subnormal, infinite and NaN ones included."""
    return np.random.default_rng(seed).integers(0, 256, n * BY_NAME[name].nbytes, np.uint8)


def decoded(way: str, name: str, raw: Any) -> Any:
    """raw by the definition or by the compiled version."""
    type = BY_NAME[name]
    out = np.empty(raw.size // type.nbytes * type.weights, np.float32)
    with np.errstate(all="ignore"):
        WAYS[way](raw.view(type.block), type, out)
    return out


def differ(a: Any, b: Any) -> int:
    """How many numbers differ in any bit. Any NaN is any other."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.float32
    return int(np.count_nonzero((a.view(np.int32) != b.view(np.int32)) & ~(np.isnan(a) & np.isnan(b))))


def swapped(raw: Any, name: str) -> Any:
    """The same blocks with each field's bytes in the other order, as a big-endian file has them."""
    t = BY_NAME[name].block
    out = np.zeros(raw.size // t.itemsize, t.newbyteorder(">"))
    out[:] = raw.view(t)
    return out.view(np.uint8)


# Against ggml


@pytest.fixture(scope="module")
def ggml() -> Iterator[Ggml]:
    with Ggml() as process:
        yield process


@pytest.mark.oracle
@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITHOUT_GGML])
def test_definition_and_twin_are_ggmls_own_bits(name: str, ggml: Ggml) -> None:
    raw = random_blocks(name, 2_000 * 16 if BY_NAME[name].weights == 1 else 2_000)
    expected = ggml.decode(BY_NAME[name].id, raw)
    if name not in ("MXFP4", "NVFP4"):  # their scales are one byte, and always finite
        assert 0 < np.isnan(expected).mean() < 0.1
    assert {way: differ(decoded(way, name, raw), expected) for way in WAYS} == {"definition": 0, "compiled": 0}


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITHOUT_GGML])
def test_five_million_weights_are_ggmls_own_bits(name: str, seed: int, ggml: Ggml) -> None:
    raw = random_blocks(name, 5_000_000 // BY_NAME[name].weights, seed)
    expected = ggml.decode(BY_NAME[name].id, raw)
    assert {way: differ(decoded(way, name, raw), expected) for way in WAYS} == {"definition": 0, "compiled": 0}


@pytest.mark.oracle
def test_every_type_that_the_pinned_build_knows_is_decoded(ggml: Ggml) -> None:
    """Each id is decoded, plain numbers, or removed; blocks have ggml's sizes."""
    assert len(ggml.types) >= len(QUANT_TYPES)
    for id, theirs in ggml.types.items():
        if id in REMOVED:
            assert theirs.weights == 0
            continue
        ours = next(t for t in QUANT_TYPES if t.id == id)
        assert (ours.name.upper(), ours.weights, ours.nbytes) == (theirs.name.upper(), theirs.weights, theirs.nbytes)
        assert theirs.decodes == (ours.name in FAMILY and ours.name not in WITHOUT_GGML)
        assert (ours.name in FAMILY) != (ours.name in PLAIN)


@pytest.mark.oracle
def test_q8_1_decodes_as_q8_0(ggml: Ggml) -> None:
    """ggml has no decoder of Q8_1; its d and qs mean what those of Q8_0 do (ggml-common.h)."""
    raw = random_blocks("Q8_1", 2_000)
    q8_0 = np.empty(2_000, BY_NAME["Q8_0"].block)
    for field in ("d", "qs"):
        q8_0[field] = raw.view(BY_NAME["Q8_1"].block)[field]
    expected = ggml.decode(BY_NAME["Q8_0"].id, q8_0.view(np.uint8))
    assert {way: differ(decoded(way, "Q8_1", raw), expected) for way in WAYS} == {"definition": 0, "compiled": 0}


@pytest.mark.oracle
def test_the_report_counts_what_differs(ggml: Ggml, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m conformance report types`: nothing now, and every number that a broken one gets wrong."""
    row = types.examine(BY_NAME["Q4_K"], ggml, rounds=1, weights=2560)
    assert (row.nbytes, row.ggml, row.gguf_py) == (1440, 0, 0)
    assert min(row.speed.values()) > 0
    table = types.table_of([row, types.examine(BY_NAME["Q8_1"], ggml, rounds=1, weights=2560)])
    assert table.row_count == 2

    def broken(blocks: Any, type: Any, out: Any, threads: int | None = None) -> None:
        decode_compiled(blocks, type, out, threads)
        out[:5] += 1

    monkeypatch.setattr(types, "decode_compiled", broken)
    row = types.examine(BY_NAME["Q4_0"], ggml, rounds=1, weights=320)
    assert row.mismatches == 10  # five, to ggml and to gguf-py


# Against gguf-py and each other


@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITHOUT_GGUF_PY])
def test_the_definition_is_gguf_pys_own_bits(name: str) -> None:
    raw = random_blocks(name, 500, seed=1)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name]).reshape(-1)
    assert differ(decoded("definition", name, raw), expected) == 0


@pytest.mark.parametrize("name", NAMES)
def test_twins_have_the_definitions_bits_and_touch_no_others_blocks(name: str) -> None:
    """Blocks 3:n-5 of n, an odd number: nothing is written before or behind them."""
    type, n = BY_NAME[name], 61
    raw = random_blocks(name, n, seed=2)
    raw.flags.writeable = False
    expected = decoded("definition", name, raw)
    out = np.full(n * type.weights, -7, np.float32)
    kernel, codebook = dequant.compiled(name)
    kernel(raw, *codebook, out, 3, n - 5)
    inside = slice(3 * type.weights, (n - 5) * type.weights)
    assert differ(out[inside], expected[inside]) == 0
    assert (np.delete(out, np.r_[inside]) == -7).all()


@pytest.mark.parametrize("name", ["F16", "Q4_K", "IQ3_S"])
def test_threads_change_no_bits(name: str) -> None:
    type = BY_NAME[name]
    raw = random_blocks(name, (dequant.SHARE + 4096) // type.weights, seed=3)
    one, all_ = (np.empty(raw.size // type.nbytes * type.weights, np.float32) for _ in range(2))
    decode_compiled(raw.view(type.block), type, one, threads=1)
    decode_compiled(raw.view(type.block), type, all_)
    assert differ(one, all_) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_a_big_endian_file_decodes_to_the_same_numbers(name: str, way: str) -> None:
    raw = random_blocks(name, 7, seed=4)
    type = BY_NAME[name]
    out = np.empty(7 * type.weights, np.float32)
    with np.errstate(all="ignore"):
        WAYS[way](swapped(raw, name).view(type.block.newbyteorder(">")), type, out)
    assert differ(out, decoded("definition", name, raw)) == 0


# Against mathematics


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64", "Q8_0", "Q4_0", "Q5_1"])
def test_numbers_that_a_type_holds_come_back(name: str) -> None:
    """Small whole numbers are exact in every float type; blocks of -127 to 127 step 1 are exact in Q8_0 alone."""
    x = np.tile(np.arange(-8, 8, dtype=np.float32), 8)  # 128 = 4 blocks of 32
    if name == "F64":
        raw = x.astype("<f8").view(np.uint8)
    else:
        raw = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name]).view(np.uint8).reshape(-1)
    got = dequantize(raw, BY_NAME[name])
    assert got.dtype == np.float32
    step = {"Q8_0": 8 / 127, "Q4_0": 1.0, "Q5_1": 15 / 31}.get(name, 0)
    assert np.abs(got - x).max() <= step / 2 + 1e-3 * bool(step)


@pytest.mark.parametrize("way", WAYS)
def test_every_float_of_two_bytes_is_its_value(way: str) -> None:
    """All 65,536 patterns: float16 as Python's struct reads it, bfloat16 as the upper half of a float32."""
    raw = np.arange(65_536, dtype="<u2").view(np.uint8)
    halves = np.array(struct.unpack("<65536e", raw.tobytes()), np.float32)
    uppers = np.array(struct.unpack("<65536f", np.arange(65_536, dtype="<u4").__lshift__(16).tobytes()), np.float32)
    assert differ(decoded(way, "F16", raw), halves) == 0
    assert differ(decoded(way, "BF16", raw), uppers) == 0


def test_scales_of_one_byte_are_their_values() -> None:
    """In exact fractions. E8M0: 2^(e - 127), here halved. UE4M3: 4 bits of exponent, bias 7, 3 of mantissa, halved."""
    for e in range(256):
        assert Fraction(float(e8m0(e))) == Fraction(2) ** (e - 127) / 2 if e < 255 else float(e8m0(e)) == 2.0**127
        exponent, mantissa = e >> 3 & 15, e & 7
        normal = Fraction(2) ** (exponent - 7) * (1 + Fraction(mantissa, 8))
        value = normal if exponent else Fraction(2) ** -6 * Fraction(mantissa, 8)
        assert Fraction(float(ue4m3(e))) == (0 if e == 127 else value / 2)


@pytest.mark.parametrize(
    ("name", "numbers", "rounded"),
    [
        ("I8", [-128, 127], [-128, 127]),
        ("I16", [-32768, 32767], [-32768, 32767]),
        ("I32", [2**24 + 1, 2**24 + 3, -(2**31)], [2**24, 2**24 + 4, -(2**31)]),
        ("I64", [2**40 + 2**16 + 1, 2**63 - 1], [2**40 + 2**17, 2**63]),
        ("F64", [1 + 2**-24, 1e39, -1e-50], [1, np.inf, -0.0]),
    ],
)
def test_plain_numbers_are_rounded_to_the_nearest_float32(name: str, numbers: Any, rounded: Any) -> None:
    raw = np.array(numbers, BY_NAME[name].block["x"]).view(np.uint8)
    expected = np.array(rounded, np.float32)
    assert differ(dequantize(raw, BY_NAME[name]), expected) == 0
    out = np.empty_like(expected)
    assert dequantize(raw, BY_NAME[name], out=out) is out
    assert differ(out, expected) == 0


OTHER_CPU = """
import numpy as np
from refembed.gguf import BY_NAME
from refembed.kernels.quant.dequant import FAMILY, decode_compiled, decode_defined
np.seterr(all="ignore")
for name in FAMILY:
    type = BY_NAME[name]
    raw = np.random.default_rng(7).integers(0, 256, 200 * type.nbytes, np.uint8)
    a, b = (np.empty(200 * type.weights, np.float32) for _ in range(2))
    decode_defined(raw.view(type.block), type, a)
    decode_compiled(raw.view(type.block), type, b)
    assert not ((a.view(np.int32) != b.view(np.int32)) & ~(np.isnan(a) & np.isnan(b))).any(), name
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of x86-64")
@pytest.mark.parametrize(("cpu", "features"), [("generic", ""), ("haswell", "+avx2,+fma,+f16c,+bmi2")])
def test_twins_have_the_same_bits_on_other_processors(cpu: str, features: str, tmp_path: Any) -> None:
    """Compiled for plain x86-64 and for AVX2, where 16 lanes are four registers, or two."""
    env = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", OTHER_CPU], check=True, timeout=300, env=env)


# The public entry


def test_float32_is_a_view_of_the_file() -> None:
    raw = np.arange(4, dtype="<f4").view(np.uint8)
    assert np.shares_memory(dequantize(raw, BY_NAME["F32"]), raw)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_decoded_alone(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows of a thousand: the decoder sees the bytes of ten."""
    type = BY_NAME[name]
    raw = random_blocks(name, 1000, seed=5)
    w = GGUFWriter("x")
    w.add_tensor("t", raw, (1000, type.weights), name)
    tensor = open_gguf(w.write(tmp_path / "x.gguf")).tensors["t"]
    whole, seen, original = tensor.dequantize(), [], dequant.dequantize

    def spy(raw: Any, *rest: Any) -> Any:
        seen.append(raw.size)
        return original(raw, *rest)

    monkeypatch.setattr(dequant, "dequantize", spy)
    ids = [0, 999, 5, 5, 17, 998, 3, 2, 1, 500]
    assert differ(tensor.rows(ids), whole[ids]) == 0
    assert seen == [10 * type.nbytes]


def test_a_buffer_can_be_given() -> None:
    raw, out = random_blocks("Q4_K", 3), np.empty(768, np.float32)
    assert dequantize(raw, BY_NAME["Q4_K"], out=out) is out
    assert differ(out, decoded("definition", "Q4_K", raw)) == 0


@pytest.mark.parametrize("bad", [np.empty(767, np.float32), np.empty(768, np.float64), np.empty(1536, np.float32)[::2]])
def test_a_buffer_that_does_not_fit_is_refused(bad: Any) -> None:
    with pytest.raises(RequestError, match="768 numbers of float32"):
        dequantize(random_blocks("Q4_K", 3), BY_NAME["Q4_K"], out=bad)


def test_part_of_a_block_is_refused() -> None:
    with pytest.raises(RequestError, match="143 bytes are not whole Q4_K blocks of 144 bytes"):
        dequantize(np.zeros(143, np.uint8), BY_NAME["Q4_K"])


def test_a_type_without_a_decoder_is_named() -> None:
    with pytest.raises(ModelError, match=r"tensor type Q9_9 \(id 99\) has no decoder"):
        dequantize(np.zeros(18, np.uint8), dataclasses.replace(BY_NAME["Q4_0"], name="Q9_9", id=99))


def test_every_type_has_one_definition_and_one_twin() -> None:
    assert sorted([*FAMILY, *PLAIN]) == sorted(BY_NAME)
    assert sum(map(len, FAMILIES.values())) == len(FAMILY)


SMALL_READS = """
import sys
import numpy as np
from refembed.gguf import BY_NAME
from refembed.kernels.quant import dequant
type = BY_NAME["Q4_0"]
block = np.zeros(18, np.uint8)
for _ in range(100):
    dequant.dequantize(block, type)
assert not {"numba", "gguf"} & set(sys.modules)
dequant.WORTH_IMPORTING = 3300
dequant.dequantize(block, type)
assert "numba" not in sys.modules
x = dequant.dequantize(np.zeros(180, np.uint8), type)
assert "numba" in sys.modules and not x.any()
"""


def test_small_reads_do_not_pay_for_numba() -> None:
    """Definitions decode until a compiled version would have paid for itself."""
    subprocess.run([sys.executable, "-c", SMALL_READS], check=True, timeout=120)


def test_a_loaded_kernel_is_used_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequant, "in_use", {})
    monkeypatch.setattr(dequant, "decoded_weights", type(dequant.decoded_weights)())
    import refembed.kernels.llvm.jit  # noqa: F401

    assert not dequant.compiling_pays("Q4_0", dequant.WORTH_LOADING)
    assert not dequant.compiling_pays("Q5_0", dequant.WORTH_LOADING)
    assert dequant.compiling_pays("Q4_0", 1)
    dequant.compiled("Q5_0")
    assert dequant.compiling_pays("Q5_0", 1)
