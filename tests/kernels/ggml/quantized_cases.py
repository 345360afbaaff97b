"""Products of quantized weights to try: inputs that are the same everywhere, llama.cpp's answer, and ours.

    python -m tests.kernels.ggml.quantized_cases <folder of node-llama-cpp's libraries> zen4

writes RECORDED, the checksums of a build that the tests do not have at hand.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refembed.gguf import Tensor
from refembed.gguf.quants import BY_NAME
from refembed.kernels.ggml.quantized import RECIPES, mul_mat
from tests.kernels.ggml.oracle_mul_mat import products

RECORDED = Path(__file__).with_name(
    "quantized_avx512.txt"
)  # checksums of node-llama-cpp 3.22.1's answers, zen4 plug-in
TYPES = sorted(RECIPES)
REPACKED = ("Q4_0", "IQ4_NL", "MXFP4", "Q4_K")  # on AVX2; Q2_K too on AVX-512

# rows of x, rows of W, blocks of 256: llama.cpp changes its kernel at n = 2 and 8 and where m or n % 4 or 8 is not 0
SHAPES = ((1, 24, 3), (1, 13, 1), (2, 24, 3), (3, 13, 2), (5, 16, 3), (7, 40, 1))
SHAPES += ((8, 24, 3), (9, 13, 4), (8, 12, 2), (33, 16, 3), (64, 17, 2))
SHORT = ((1, 9, 3), (2, 8, 1), (3, 9, 5), (8, 4, 7))  # blocks of the type itself: odd numbers of 32, 64 or 128


@dataclass(frozen=True)
class Case:
    """x (n, k) times W (m, k) of a type.

    fill  "flat": every field of a block repeats one byte, and x is of one size; "full": nearly every bit is set, and x
          is nearly one number, so that sums grow beyond what float32 counts; "": anything
    """

    type: str
    n: int
    m: int
    k: int
    fill: str = ""

    @property
    def seed(self) -> str:
        return f"{self.type} {self.n} {self.m} {self.k} {self.fill}"


def cases(type):
    """What is tried of a type."""
    step = BY_NAME[type].weights
    found = [Case(type, n, m, 256 * c) for n, m, c in SHAPES]
    found += [Case(type, n, m, step * c) for n, m, c in SHORT if step < 256]
    return found + [Case(type, n, 16, 512, fill) for n in (1, 2, 8) for fill in ("flat", "full")]


def noise(seed, count, dtype="u1"):
    """Numbers that no library's generator decides."""
    return np.frombuffer(hashlib.shake_256(seed.encode()).digest(count * np.dtype(dtype).itemsize), dtype).copy()


def weights(case):
    """Random blocks of W (m, nb), scales of a sane size: between -2 and 2, or subnormal now and then."""
    t = BY_NAME[case.type]
    nb = case.k // t.weights
    raw = noise(case.seed + "w", case.m * nb * t.nbytes).view(t.block).reshape(case.m, nb)
    scale = noise(case.seed + "d", 2 * case.m * nb, "<u2").reshape(2, case.m, nb) & 0xBFFF  # below 2.0
    if case.fill:
        scale |= 0x3800  # at least 0.5
        pick = noise(case.seed + "f", raw.nbytes).reshape(case.m, nb, -1) % 4
        for name in t.block.names:
            first = t.block.fields[name][1]
            if case.fill == "flat":
                field = np.array([0x00, 0x7F, 0x80, 0xFF], np.uint8)[pick[..., first : first + 1]]
            else:
                field = np.array([0xFF, 0xFF, 0xFE, 0xEF], np.uint8)[pick[..., first : first + t.block[name].itemsize]]
                field = field & 0x7F if t.block[name].base == np.int8 and name == "scales" else field
            part = raw.view(np.uint8).reshape(case.m, nb, -1)
            part[..., first : first + t.block[name].itemsize] = field
    for i, name in enumerate(n for n in ("d", "m", "dmin") if n in t.block.names and t.block[n] == np.dtype("<f2")):
        raw[name] = scale[i].view("<f2")
    if case.type == "MXFP4":
        raw["e"] = raw["e"] % 140  # up to 2^11; from 2^-128, subnormal
    if case.type == "IQ1_M":  # d lies in the top digits of the scales
        word = raw["scales"].copy().view("<u2") & 0x0FFF
        for i in range(4):
            word[..., i] |= (scale[0] >> 4 * i & 15) << 12
        raw["scales"] = word.view("u1")
    return raw


def activations(case):
    """x (n, k): blocks of very different size, blocks and rows of zeros, ties."""
    n, k = case.n, case.k
    if case.fill == "flat":
        sign = np.where(noise(case.seed + "s", n * k // 32).reshape(n, -1) % 4 == 0, -1, 1)
        return (np.repeat(sign, 32, axis=1) * np.linspace(1, 1.003, k)).astype(np.float32)
    if case.fill == "full":
        return 1 - noise(case.seed + "x", n * k).reshape(n, k).astype(np.float32) / np.float32(2**14)
    x = noise(case.seed + "x", n * k, "<i2").reshape(n, k).astype(np.float32) / np.float32(4096)
    size = noise(case.seed + "e", n * k // 32).reshape(n, -1).astype(np.int32) % 24 - 16  # 2^-16 to 2^7
    x = np.ldexp(x, np.repeat(size, 32, axis=1)).astype(np.float32)
    x[0, :32] = 0
    x[n // 2] = np.round(x[n // 2] * 4) / 4
    x[n // 2, ::32] = 31.75  # 127 quarters: each other quarter is a code and a half
    if n > 2:
        x[2] = 0
    return x


def answers(some, *, repack=False, lib=None, cpu=None):
    """llama.cpp's products."""
    jobs = [(BY_NAME[c.type].id, weights(c).reshape(-1).view(np.uint8), c.m, activations(c)) for c in some]
    return products(jobs, repack=repack, lib=lib, cpu=cpu)


def tensor(case):
    return Tensor("w", (case.m, case.k), BY_NAME[case.type], weights(case).reshape(-1).view(np.uint8), 0, "<")


def ours(case, profile):
    return mul_mat(activations(case), tensor(case), profile, {})


def differing(a, b):
    """How many bit patterns differ; shapes must not."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return int((a.view(np.uint32) != b.view(np.uint32)).sum())


def checksum(x):
    """CRC-32 of an array's bytes."""
    return f"{zlib.crc32(np.ascontiguousarray(x, '<f4').tobytes()):08x}"


def recorded_cases():
    """What is recorded of the AVX-512 build: (case, repacked)."""
    plain = [(c, False) for t in TYPES for c in cases(t) if c.n in (1, 5, 8, 9, 33)]
    return plain + [(c, True) for t in (*REPACKED, "Q2_K") for c in cases(t) if c.m % 8 == 0 and c.n in (1, 5, 8, 33)]


def described(case, repack):
    return f"{case.type} n={case.n} m={case.m} k={case.k}{' ' * bool(case.fill)}{case.fill}{' repacked' * repack}"


def record(folder, cpu):
    """The file RECORDED, from live llama.cpp."""
    some, lines = recorded_cases(), []
    for repack in (False, True):
        part = [c for c, r in some if r == repack]
        live = answers(part, repack=repack, lib=folder, cpu=cpu)
        lines += [f"{checksum(y)} {described(c, repack)}" for c, y in zip(part, live, strict=True)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    RECORDED.write_text(record(*sys.argv[1:]))
