"""JPEG files with random coefficients: any ratio of components, and every kind of scan of baseline and progressive.

Written from ISO/IEC 10918-1: annex B for segments, F and G for codes. Every code has the same length, which is
allowed, and needs no statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

AC = [run << 4 | size for run in range(16) for size in range(1, 11)] + [0x00, 0xF0] + [run << 4 for run in range(1, 8)]
Bits = list[tuple[int, int]]  # (value, how many bits)


def jpeg(
    width: int,
    height: int,
    ratios: Sequence[tuple[int, int]] = ((2, 2), (1, 1), (1, 1)),
    *,
    seed: int = 0,
    progressive: bool = False,
    apart: bool = False,
    restart: int = 0,
    wide: bool = False,
    jfif: bool = True,
    adobe: int | None = None,
    ids: bytes = b"\1\2\3\4",
) -> bytes:
    """The bytes of a file.

    ratios   of each component, across and down
    apart    a scan for each component
    restart  MCUs between two restart markers
    wide     quantization tables of 16 bits
    adobe    the transform that Adobe's marker names
    """
    rng = np.random.default_rng([seed, width, height])
    h_max, v_max = (max(r[i] for r in ratios) for i in (0, 1))
    across, down = -(-width // (8 * h_max)), -(-height // (8 * v_max))
    planes = [blocks_of(rng, down * v, across * h) for h, v in ratios]
    out = b"\xff\xd8"
    out += segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0") if jfif else b""
    out += segment(0xEE, b"Adobe\0d\0\0\0\0" + bytes([adobe])) if adobe is not None else b""
    out += segment(0xFE, b"a comment with \xff\xd9 in it")
    table = rng.integers(1, 24, 64)
    out += segment(0xDB, bytes([16 * wide]) + table.astype(">u2" if wide else "u1").tobytes())
    frame = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([len(ratios)])
    frame += b"".join(bytes([id, h << 4 | v, 0]) for id, (h, v) in zip(ids, ratios, strict=False))
    out += segment(0xC2 if progressive else 0xC0, frame)
    out += segment(0xC4, b"\x00" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12)))
    out += segment(0xC4, b"\x10" + bytes([0] * 7 + [len(AC)] + [0] * 8) + bytes(AC))
    out += segment(0xDD, restart.to_bytes(2, "big")) if restart else b""
    sizes = [(-(-width * h // (8 * h_max)), -(-height * v // (8 * v_max))) for h, v in ratios]
    every = range(len(ratios))
    for chosen, *which in scans(every, progressive, apart):
        head = bytes([len(chosen)]) + b"".join(bytes([ids[c], 0]) for c in chosen)
        begin, end, high, low = which
        out += segment(0xDA, head + bytes([begin, end, high << 4 | low]))
        order = mcus(chosen, ratios, sizes, across, down)
        out += entropy(planes, order, progressive, which, restart)
    return out + b"\xff\xd9"


def scans(every: Sequence[int], progressive: bool, apart: bool) -> Iterator[tuple[Any, ...]]:
    """Components, the first and the last coefficient, the bit before and the lowest bit."""
    groups = [[c] for c in every] if apart else [list(every)]
    if not progressive:
        yield from ((group, 0, 63, 0, 0) for group in groups)
        return
    yield from ((group, 0, 0, 0, 1) for group in groups)
    for c in every:
        yield [c], 1, 5, 0, 2
        yield [c], 6, 63, 0, 2
    yield from (([c], 1, 63, 2, 1) for c in every)
    yield from ((group, 0, 0, 1, 0) for group in groups)
    yield from (([c], 1, 63, 1, 0) for c in every)


def blocks_of(rng: np.random.Generator, rows: int, columns: int) -> Any:
    """Random coefficients (rows, columns, 64) in the order of the file, fewer and smaller toward the end."""
    x = rng.laplace(0, 1, (rows, columns, 64)) * 30 / (1 + np.arange(64)) ** 0.8
    x[..., 0] = rng.integers(-90, 90, (rows, columns))
    x[rng.random((rows, columns)) < 0.2, 1:] = 0
    return np.trunc(x).astype(int)


def mcus(
    chosen: Sequence[int], ratios: Sequence[tuple[int, int]], sizes: Any, across: int, down: int
) -> list[list[tuple[int, int, int]]]:
    """Of each MCU of a scan its blocks: component, row, column."""
    if len(chosen) == 1:
        (c,) = chosen
        columns, rows = sizes[c]
        return [[(c, y, x)] for y in range(rows) for x in range(columns)]
    return [
        [(c, my * ratios[c][1] + y, mx * ratios[c][0] + x)
         for c in chosen for y in range(ratios[c][1]) for x in range(ratios[c][0])]
        for my in range(down) for mx in range(across)
    ]  # fmt: skip


def entropy(planes: Any, order: Any, progressive: bool, which: Sequence[int], restart: int) -> bytes:
    """The bits of a scan, with restart markers."""
    out, bits, before, n, empty = b"", Bits(), dict[int, int](), 0, 0
    for i, mcu in enumerate(order):
        if restart and i and i % restart == 0:
            out += packed([*bits, *ends(empty)]) + bytes([0xFF, 0xD0 + n % 8])
            bits, before, n, empty = Bits(), dict[int, int](), n + 1, 0
        for c, y, x in mcu:
            block = planes[c][y, x]
            begin, end, high, low = which
            if not progressive or (begin == 0 and not high):
                dc = int(block[0]) >> low
                bits += dc_of(dc - before.get(c, 0))
                before[c] = dc
            elif begin == 0:
                bits.append((int(block[0]) >> low & 1, 1))
            if not progressive or (begin and not high):
                own, ended = ac_of([shifted(int(v), low) for v in block[max(begin, 1) : end + 1]])
                if own or empty == 200 or not progressive:
                    bits, empty = [*bits, *ends(empty), *own], 0
                empty += ended
                if not progressive:
                    bits, empty = bits + [code(0)] * empty, 0
            elif begin:
                bits += refined([abs(int(v)) >> low for v in block[begin : end + 1]], block[begin : end + 1])
    return out + packed([*bits, *ends(empty)])


def ends(blocks: int) -> Bits:
    """So many blocks of a progressive scan that have nothing more."""
    if not blocks:
        return []
    n = blocks.bit_length() - 1
    return [code(n << 4), (blocks - (1 << n), n)]


def shifted(v: int, low: int) -> int:
    """Toward zero."""
    return v >> low if v >= 0 else -(-v >> low)


def magnitude(v: int) -> tuple[int, tuple[int, int]]:
    """How many bits a number has, and these."""
    size = abs(v).bit_length()
    return size, (v if v > 0 else v + (1 << size) - 1, size)


def dc_of(difference: int) -> Bits:
    size, bits = magnitude(difference)
    return [(size, 4), bits]


def code(symbol: int) -> tuple[int, int]:
    return AC.index(symbol), 8


def ac_of(numbers: Sequence[int]) -> tuple[Bits, bool]:
    """The bits of a block's numbers, and whether zeros follow that have none."""
    out, run = Bits(), 0
    last = max((i for i, v in enumerate(numbers) if v), default=-1)
    for v in numbers[: last + 1]:
        if not v:
            run += 1
            continue
        out += [code(0xF0)] * (run // 16)
        size, bits = magnitude(v)
        out += [code(run % 16 << 4 | size), bits]
        run = 0
    return out, last + 1 < len(numbers)


def refined(sizes: Sequence[int], signs: Any) -> Bits:
    """One bit more: sizes down to it; those that are 1 are new."""
    out, run, waiting = Bits(), 0, Bits()
    last = max((i for i, a in enumerate(sizes) if a == 1), default=-1)
    for i, a in enumerate(sizes):
        if not a:
            run += 1
            continue
        while run > 15 and i <= last:
            out += [code(0xF0), *waiting]
            run, waiting = run - 16, Bits()
        if a > 1:
            waiting.append((a & 1, 1))
            continue
        out += [code(run << 4 | 1), (int(signs[i] > 0), 1), *waiting]
        run, waiting = 0, Bits()
    return [*out, code(0), *waiting] if run or waiting else out


def packed(bits: Bits) -> bytes:
    """Bits as bytes, ones behind them; 0 behind each ff."""
    text = "".join(format(v, f"0{n}b") for v, n in bits if n)
    text += "1" * (-len(text) % 8)
    whole = int(text, 2).to_bytes(len(text) // 8, "big") if text else b""
    return whole.replace(b"\xff", b"\xff\0")


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
