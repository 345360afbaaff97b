"""From the bits of a scan to coefficients: Huffman codes (ISO/IEC 10918-1, annex F) and successive approximation (G).

A code says how many coefficients are 0, and how many bits the next one has; those bits follow it. Blocks of a
progressive file come in several scans: first the upper bits of some coefficients, then one bit more in each scan.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-defs=False, disallow-untyped-calls=False
# (as in refembed/kernels/llvm/jit.py: numba.njit has no types, and Numba infers those of kernels)

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.jit import njit
from refembed.pipeline.jpeg.file import ZIGZAG

DONE, BAD_CODE, ENDED = 0, 1, 2


@njit()
def decode_interval(
    bits, coefficients, units, across, first, last, dc, ac, begin, end, high, low, progressive, cut_off
):  # fmt: skip
    """The MCUs first:last of a scan, from the bits between two restart markers: DONE, BAD_CODE or ENDED.

    bits          bytes, and 512 of 0 behind them: where bits run out, zeros are read
    coefficients  (blocks, 64): of the file, as they lie in a block
    units         (n, 9), a row for each block of an MCU: number of its component; that one's first block, blocks in a
                  row, blocks to an MCU across and down; column and row in the MCU; numbers of its tables
    across        MCUs in a row
    dc, ac        (4, 65536): Huffman tables (`file.define_huffman`)
    begin, end    the first and the last of the coefficients that the scan is about
    high, low     the bit that came last, 0 for none yet, and the one that comes now
    cut_off       the file ends here: running out of bits is ENDED
    """
    predicted, run, at, limit = np.zeros(4, np.int64), 0, 0, 8 * (len(bits) - 512)
    for mcu in range(first, last):
        my, mx = mcu // across, mcu % across
        for u in range(len(units)):
            n, start, columns, h, v = units[u, 0], units[u, 1], units[u, 2], units[u, 3], units[u, 4]
            row, column = my * v + units[u, 6], mx * h + units[u, 5]
            block = coefficients[start + row * columns + column]
            if not progressive:
                at = baseline(bits, at, block, predicted, n, dc[units[u, 7]], ac[units[u, 8]])
            elif begin == 0:
                at = first_or_next_dc(bits, at, block, predicted, n, dc[units[u, 7]], high, low)
            elif high == 0:
                at, run = first_ac(bits, at, block, ac[units[u, 8]], begin, end, low, run)
            else:
                at, run = next_ac(bits, at, block, ac[units[u, 8]], begin, end, low, run)
            if at < 0:
                return BAD_CODE
            if at > limit:
                if cut_off:
                    return ENDED
                at = limit
    return DONE


@njit()
def peek(bits, at):
    """The 16 bits from a bit on."""
    i = at >> 3
    three = np.int64(bits[i]) << 16 | np.int64(bits[i + 1]) << 8 | np.int64(bits[i + 2])
    return three >> (8 - (at & 7)) & 0xFFFF


@njit()
def signed(bits, at, n):
    """A number of n bits: those that begin with 0 are negative (F.12)."""
    value = peek(bits, at) >> (16 - n)
    return value if value >> (n - 1) else value - (1 << n) + 1


@njit()
def next_dc(bits, at, predicted, n, dc):
    """The mean of a block, which is stored as a difference to the one before; the place of what follows, -1: bad."""
    entry = np.int64(dc[peek(bits, at)])
    size = entry & 255
    if entry == 0 or size > 15:
        return -1
    at += entry >> 8
    if size:
        predicted[n] += signed(bits, at, size)
    return at + size


@njit()
def baseline(bits, at, block, predicted, n, dc, ac):
    """All coefficients of a block."""
    at = next_dc(bits, at, predicted, n, dc)
    if at < 0:
        return at
    block[0] = predicted[n]
    k = np.int64(1)
    while k < 64:
        entry = np.int64(ac[peek(bits, at)])
        if entry == 0:
            return -1
        at += entry >> 8
        zeros, size = entry >> 4 & 15, entry & 15
        if size == 0:
            if zeros < 15:
                break
            k += 16
            continue
        k += zeros
        if k > 63:
            return -1
        block[ZIGZAG[k]] = signed(bits, at, size)
        at += size
        k += 1
    return at


@njit()
def first_or_next_dc(bits, at, block, predicted, n, dc, high, low):
    """The mean of a block, but for its lowest bits; or one of these bits."""
    if high == 0:
        at = next_dc(bits, at, predicted, n, dc)
        block[0] = predicted[n] << low
        return at
    if peek(bits, at) >> 15:
        block[0] += 1 << low
    return at + 1


@njit()
def first_ac(bits, at, block, ac, begin, end, low, run):
    """Coefficients begin to end, but for their lowest bits. run: blocks that are still to have none."""
    if run:
        return at, run - 1
    k = begin
    while k <= end:
        entry = np.int64(ac[peek(bits, at)])
        if entry == 0:
            return -1, 0
        at += entry >> 8
        zeros, size = entry >> 4 & 15, entry & 15
        if size == 0:
            if zeros < 15:
                return at + zeros, (1 << zeros) - 1 + (peek(bits, at) >> (16 - zeros))
            k += 16
            continue
        k += zeros
        if k > 63:
            return -1, 0
        block[ZIGZAG[k]] = signed(bits, at, size) << low
        at += size
        k += 1
    return at, 0


@njit()
def next_ac(bits, at, block, ac, begin, end, low, run):
    """One bit more of those that are not 0, and among them coefficients that so far were, and now are 1 or -1."""
    k, bit = begin, 1 << low
    if run == 0:
        while k <= end:
            entry = np.int64(ac[peek(bits, at)])
            if entry == 0:
                return -1, 0
            at += entry >> 8
            zeros, size, new = entry >> 4 & 15, entry & 15, 0
            if size:
                new = bit if peek(bits, at) >> 15 else -bit
                at += 1
            elif zeros < 15:
                run = (1 << zeros) + (peek(bits, at) >> (16 - zeros))
                at += zeros
                break
            while k <= end:
                place = ZIGZAG[k]
                k += 1
                if block[place] != 0:
                    at = refine(bits, at, block, place, bit)
                elif zeros:
                    zeros -= 1
                else:
                    block[place] = new
                    break
    if run:
        for i in range(k, end + 1):
            if block[ZIGZAG[i]] != 0:
                at = refine(bits, at, block, ZIGZAG[i], bit)
        run -= 1
    return at, run


@njit()
def refine(bits, at, block, place, bit):
    """The next bit of one coefficient."""
    if peek(bits, at) >> 15 and (block[place] & bit) == 0:
        block[place] += bit if block[place] > 0 else -bit
    return at + 1
