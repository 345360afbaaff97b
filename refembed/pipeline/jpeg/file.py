"""The segments of a JPEG file (ISO/IEC 10918-1, annex B): sizes, tables, and the bits of each scan."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

I16 = npt.NDArray[np.int16]

SOI, EOI, SOS, DQT, DHT, DRI, DNL = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xDC
READ = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}  # frames; other SOF are refused
APP0, ADOBE, COM = 0xE0, 0xEE, 0xFE
MAX_SCANS = 1000  # of a file: a progressive one of three components has ten
MAX_PASSED = 1 << 26  # blocks that all scans pass over, 0.3 µs each; of the largest picture those ten 20 million
RESTART = 16  # blocks that take as long as the beginning of a restart interval
ZIGZAG = np.array([
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
])  # fmt: skip  # place in a block (row, column) of the k-th coefficient
MARKER = re.compile(rb"\xff([^\x00\xff])")
STUFFED = re.compile(rb"(?<!\xff)\xff+\x00")  # a byte ff among bits
CUT_OFF = "cut off: the file ends within its picture"


class JpegError(ValueError):
    """A JPEG file that cannot be read: damaged, cut off, or of another kind."""


@dataclass
class Component:
    """One plane: brightness, or a color."""

    id: int
    h: int  # samples to the frame's `h_max` in a row, and v to its `v_max` in a column
    v: int
    n_table: int  # of its quantization
    width: int = 0  # samples
    height: int = 0
    first: int = 0  # of its blocks among all
    columns: int = 0  # of blocks, those that fill up the last MCU included
    rows: int = 0
    table: npt.NDArray[np.int32] = field(default_factory=lambda: np.ones(64, np.int32))  # (64) as a block lies


@dataclass
class Frame:
    """A file's picture: sizes, and the coefficients of all blocks."""

    width: int
    height: int
    progressive: bool
    components: list[Component]
    h_max: int = 1
    v_max: int = 1
    coefficients: I16 = field(default_factory=lambda: np.empty((0, 64), np.int16))  # (blocks, 64)
    adobe: int | None = None  # APP14: 0 no transform, 1 YCbCr, 2 YCCK
    jfif: bool = False
    passed: int = 0  # blocks, by all scans so far

    @property
    def is_rgb(self) -> bool:
        """Whether three components are red, green and blue."""
        return bytes(c.id for c in self.components) == b"RGB" or (self.adobe == 0 and not self.jfif)

    def ratio(self, c: Component) -> tuple[int, int]:
        """Pixels to a sample of a component, across and down."""
        return self.h_max // c.h, self.v_max // c.v

    def coefficients_of(self, c: Component) -> I16:
        """Those of one component: (rows, columns, 64)."""
        found = self.coefficients[c.first : c.first + c.rows * c.columns]
        return found.reshape(c.rows, c.columns, 64)


class Scan(NamedTuple):
    """One pass over some components."""

    across: int  # MCUs
    down: int
    units: npt.NDArray[np.int64]  # (n, 9): the blocks of an MCU, as `entropy.decode_interval` has them
    coefficients: tuple[int, int, int, int]  # the first and the last; the bit before, the lowest bit


@dataclass
class Tables:
    """What segments define for those behind them."""

    quantization: dict[int, npt.NDArray[np.int32]] = field(default_factory=dict)
    huffman: dict[tuple[int, int], npt.NDArray[np.uint16]] = field(default_factory=dict)  # (0 DC or 1 AC, number)
    restart: int = 0  # MCUs between two resets; 0: none


def read_jpeg(data: bytes, check: Callable[[int, int], None]) -> Frame:
    """A file's frame with all coefficients."""
    frame: Frame | None = None
    adobe: int | None = None
    tables, jfif, scans = Tables(), False, 0
    marker, at = next_marker(data, 0)
    if marker != SOI:
        raise JpegError("damaged: no JPEG begins like that")
    marker, at = next_marker(data, at)
    while marker != EOI:
        body, end = segment(data, at)
        if marker == DQT:
            define_quantization(tables, body)
        elif marker == DHT:
            define_huffman(tables, body)
        elif marker == DRI:
            tables.restart = number(body, 0)
        elif marker == APP0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == SOS:
            scans += 1
            if frame is None or scans > MAX_SCANS:
                raise JpegError("damaged: a scan before the frame" if frame is None else f"more than {MAX_SCANS} scans")
            end = read_scan(frame, tables, body, data, end)
        elif 0xC0 <= marker <= 0xCF:
            if marker not in READ:
                raise JpegError("a JPEG with arithmetic coding, 12 bits or without loss is not read")
            if frame is not None:
                raise JpegError("damaged: two frames")
            frame = read_frame(body, marker, check)
        elif not (0xE0 <= marker <= 0xEF or marker in (COM, DNL)):
            raise JpegError(f"damaged: marker {marker:#x} where a segment begins")
        marker, at = next_marker(data, end, whole=bool(scans))
    if frame is None or not scans:
        raise JpegError("damaged: no picture in it")
    frame.adobe, frame.jfif = adobe, jfif
    return frame


def next_marker(data: bytes, at: int, whole: bool = False) -> tuple[int, int]:
    """The marker at a place, or behind bytes that belong to nothing, and what follows it.

    whole  a picture is there: the end of the file is as good as EOI
    """
    found = MARKER.search(data, at)
    if found is None:
        if whole:
            return EOI, len(data)
        raise JpegError("damaged: the file ends before its picture")
    return found[1][0], found.end()


def segment(data: bytes, at: int) -> tuple[bytes, int]:
    """The bytes of a segment, and its end."""
    length = number(data, at)
    if length < 2 or at + length > len(data):
        raise JpegError("damaged: the file ends within a segment")
    return data[at + 2 : at + length], at + length


def number(data: bytes, at: int) -> int:
    """Two bytes, the higher first."""
    if at + 2 > len(data):
        raise JpegError("damaged: a segment ends early")
    return data[at] << 8 | data[at + 1]


def define_quantization(tables: Tables, body: bytes) -> None:
    """DQT: what coefficients are multiplied with."""
    at = 0
    while at < len(body):
        wide, n = divmod(body[at], 16)
        numbers = np.frombuffer(body[at + 1 : at + 1 + 64 * (1 + wide)], ">u2" if wide else "u1")
        if wide > 1 or n > 3 or len(numbers) != 64:
            raise JpegError("damaged: a quantization table is wrong")
        table = np.empty(64, np.int32)
        table[ZIGZAG] = numbers
        tables.quantization[n] = table
        at += 1 + 64 * (1 + wide)


def define_huffman(tables: Tables, body: bytes) -> None:
    """DHT, as tables of all 16-bit numbers: what code one begins with, length << 8 | symbol; 0 where none does."""
    at = 0
    while at < len(body):
        kind, n = divmod(body[at], 16)
        counts = body[at + 1 : at + 17]
        symbols = body[at + 17 : at + 17 + sum(counts)]
        if kind > 1 or n > 3 or len(counts) < 16 or len(symbols) < sum(counts):
            raise JpegError("damaged: a Huffman table is wrong")
        table, code, k = np.zeros(1 << 16, np.uint16), 0, 0
        for length, count in enumerate(counts, 1):
            room = 16 - length
            if code + count > 1 << length:
                raise JpegError("damaged: a Huffman table has too many codes")
            for symbol in symbols[k : k + count]:
                table[code << room : (code + 1) << room] = length << 8 | symbol
                code += 1
            k, code = k + count, code << 1
        tables.huffman[kind, n] = table
        at += 17 + len(symbols)


def read_frame(body: bytes, marker: int, check: Callable[[int, int], None]) -> Frame:
    """SOF: sizes of the picture and of its components."""
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise JpegError("damaged: the frame's segment is wrong")
    height, width = number(body, 1), number(body, 3)
    if body[0] != 8 or body[5] not in (1, 3, 4) or not height:
        raise JpegError(f"a JPEG of {body[0]} bits and {body[5]} components, {width} x {height}, is not read")
    parts = [body[i : i + 3] for i in range(6, len(body), 3)]
    components = [Component(id, ratio >> 4, ratio & 15, n) for id, ratio, n in parts]
    if not width or any(not (1 <= c.h <= 4 and 1 <= c.v <= 4) or c.n_table > 3 for c in components):
        raise JpegError("damaged: sizes of the frame are wrong")
    check(width, height)
    frame = Frame(width, height, READ[marker] == "progressive", components)
    frame.h_max, frame.v_max = max(c.h for c in components), max(c.v for c in components)
    blocks = 0
    for c in components:
        if frame.h_max % c.h or frame.v_max % c.v:
            raise JpegError(f"a JPEG with components of {c.h} x {c.v} in {frame.h_max} x {frame.v_max} is not read")
        c.width, c.height = -(-width * c.h // frame.h_max), -(-height * c.v // frame.v_max)
        c.columns, c.rows = -(-width // (8 * frame.h_max)) * c.h, -(-height // (8 * frame.v_max)) * c.v
        c.first, blocks = blocks, blocks + c.columns * c.rows
    frame.coefficients = np.zeros((blocks, 64), np.int16)
    return frame


def read_scan(frame: Frame, tables: Tables, body: bytes, data: bytes, at: int) -> int:
    """SOS and the bits behind it: coefficients of some components, or some bits of them. Where they end."""
    from refembed.pipeline.jpeg.entropy import BAD_CODE, DONE, decode_interval  # Numba

    scan = read_scan_header(frame, tables, body)
    intervals, end, whole = intervals_of(data, at)
    n_mcu = scan.across * scan.down
    step = tables.restart or n_mcu
    if -(-n_mcu // step) > len(intervals):
        raise JpegError("damaged: restart intervals are missing" if whole else CUT_OFF)
    frame.passed += n_mcu * len(scan.units) + RESTART * len(intervals)
    if frame.passed > MAX_PASSED:
        raise JpegError(f"its scans pass over more than {MAX_PASSED:,} blocks of 8 x 8 in all")
    huffman = np.zeros((2, 4, 1 << 16), np.uint16)
    for which, table in tables.huffman.items():
        huffman[which] = table
    for i, mcu in enumerate(range(0, n_mcu, step)):
        bits = np.frombuffer(STUFFED.sub(b"\xff", intervals[i]) + bytes(512), np.uint8)
        state = decode_interval(
            bits, frame.coefficients, scan.units, scan.across, mcu, min(mcu + step, n_mcu), huffman[0], huffman[1],
            *scan.coefficients, frame.progressive, not whole and i + 1 == len(intervals),
        )  # fmt: skip
        if state != DONE:
            raise JpegError("damaged: bits that are no code" if state == BAD_CODE else CUT_OFF)
    return end


def read_scan_header(frame: Frame, tables: Tables, body: bytes) -> Scan:
    """SOS: which components, and which bits of which coefficients."""
    count = body[0] if body else 0
    if not 1 <= count <= len(frame.components) or len(body) != 4 + 2 * count:
        raise JpegError("damaged: a scan's segment is wrong")
    begin, end, high, low = 0, 63, 0, 0
    if frame.progressive:
        begin, end, high, low = body[-3], body[-2], body[-1] >> 4, body[-1] & 15
    of_ac = begin > 0
    if (
        not begin <= end <= 63
        or max(high, low) > 13
        or of_ac != (end > 0 and frame.progressive)
        or (of_ac and count > 1)
    ):
        raise JpegError("damaged: a scan of coefficients that cannot be")
    units, chosen = [], []
    for n in range(count):
        id, which = body[1 + 2 * n], body[2 + 2 * n]
        c = next((c for c in frame.components if c.id == id), None)
        if c is None or which >> 4 > 3 or which & 15 > 3 or c.n_table not in tables.quantization:
            raise JpegError("damaged: a scan of components or tables that are not there")
        c.table = tables.quantization[c.n_table]
        chosen.append(c)
        h, v = (1, 1) if count == 1 else (c.h, c.v)
        units += [(n, c.first, c.columns, h, v, x, y, which >> 4, which & 15) for y in range(v) for x in range(h)]
    c = chosen[0]
    across, down = (-(-c.width // 8), -(-c.height // 8)) if count == 1 else (c.columns // c.h, c.rows // c.v)
    return Scan(across, down, np.array(units), (begin, end, high, low))


def intervals_of(data: bytes, at: int) -> tuple[list[bytes], int, bool]:
    """The bits of a scan between restart markers, where the next segment begins, and whether there is one."""
    found = []
    for m in MARKER.finditer(data, at):
        found.append(data[at : m.start()])
        if not 0xD0 <= m[1][0] <= 0xD7:
            return found, m.start(), True
        at = m.end()
    return [*found, data[at:]], len(data), False
