"""A scheme by its name: `fit("pq:96", corpus)`, and the codec again from what a file kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refembed.compress.binary import Binary
from refembed.compress.codec import Codec, Codes, as_rows, ranges_of
from refembed.compress.floats import Float16, Float32, Matryoshka
from refembed.compress.pq import ProductQuantizer
from refembed.compress.scalar import PerVector, Ranged
from refembed.errors import RequestError


class Scheme(NamedTuple):
    """How a codec is made.

    about    a line for a list
    fit      (D, number behind the colon or None, vectors, seed) -> codec
    load     (D, number, arrays of the file) -> codec
    learns   its codec depends on the vectors
    number   what the number behind the colon is, where there is one
    """

    about: str
    fit: Callable[[int, int | None, Any, int], Codec]
    load: Callable[[int, int | None, Mapping[str, Any]], Codec]
    learns: bool = False
    number: str = ""


def plain(about: str, make: Callable[[int], Codec]) -> Scheme:
    """A scheme that needs to know nothing but D."""
    return Scheme(about, lambda D, n, x, seed: make(D), lambda D, n, arrays: make(D))


def ranged(about: str, name: str) -> Scheme:
    """A scheme of ranges, one a dimension."""
    return Scheme(
        about, lambda D, n, x, seed: Ranged(ranges_of(x), name),
        lambda D, n, arrays: Ranged(arrays["ranges"], name), learns=True,
    )  # fmt: skip


def widest(x: npt.ArrayLike) -> npt.NDArray[Any]:
    """One range for all dimensions: (2, D)."""
    ranges = ranges_of(x)
    return np.stack([np.full_like(ranges[0], ranges[0].min()), np.full_like(ranges[1], ranges[1].max())])


SCHEMES = {
    "float32": plain("as it is", Float32),
    "float16": plain("half precision", Float16),
    "int8": ranged("a byte a number, each dimension with its own range; sentence-transformers' int8", "int8"),
    "uint8": ranged("the same, counted from 0", "uint8"),
    "int8-global": Scheme(
        "a byte a number, one range for all dimensions", lambda D, n, x, seed: Ranged(widest(x), "int8-global"),
        lambda D, n, arrays: Ranged(arrays["ranges"], "int8-global"), learns=True,
    ),
    "int8-vector": plain("a byte a number, each vector with its own scale", PerVector),
    "matryoshka": Scheme(
        "the first K numbers, length 1 again", lambda D, n, x, seed: Matryoshka(D, n or 0),
        lambda D, n, arrays: Matryoshka(D, n or 0), number="K",
    ),
    "pq": Scheme(
        "product quantization into M bytes", lambda D, n, x, seed: ProductQuantizer.fit(x, n, seed=seed),
        lambda D, n, arrays: ProductQuantizer(arrays["codebooks"]), learns=True, number="M, or nothing",
    ),
    "binary": plain("a bit a number, bytes less 128; sentence-transformers' binary", lambda D: Binary(D, "binary")),
    "ubinary": plain("a bit a number", Binary),
}  # fmt: skip

MAX_DIMENSIONS = 1 << 16  # of vectors in a file; a few codes that claim more would take gigabytes to decode
MIN_TRAINING_VECTORS = 100  # vectors; below this sentence-transformers warns that ranges mean little


def parse(scheme: str) -> tuple[Scheme, int | None]:
    """`pq:96` as its row of SCHEMES and 96, or RequestError."""
    name, colon, number = scheme.partition(":")
    hint = "one of " + ", ".join(f"{n}:{s.number.split(',')[0]}" if s.number else n for n, s in SCHEMES.items())
    if name not in SCHEMES:
        raise RequestError(f"{scheme!r} is not a scheme", hint=hint)
    row = SCHEMES[name]
    if colon and not row.number:
        raise RequestError(f"{scheme!r}: {name} takes no number", hint=hint)
    if colon and not (number.isascii() and number.isdigit() and len(number) < 10):
        raise RequestError(f"{scheme!r}: {number!r} is not a whole number", hint=hint)
    if row.number and not colon and name != "pq":
        raise RequestError(f"{scheme!r}: how many?", hint=f"{name}:128")
    return row, int(number) if colon else None


def fit(scheme: str, vectors: npt.ArrayLike, *, seed: int = 0) -> Codec:
    """A codec for vectors like these.

    scheme    a name of SCHEMES: "int8", "pq", "pq:96", "matryoshka:128" ...
    vectors   (N, D) what ranges and codebooks are learned from; for the other schemes only D is looked at
    seed      of product quantization
    Raises RequestError for no such scheme, vectors that are not, and ranges from fewer than two vectors.
    """
    row, number = parse(scheme)
    rows, _ = as_rows(vectors)
    if row.learns and len(rows) < 2:
        hint = "give more vectors to learn from, or take int8-vector, which learns nothing"
        raise RequestError(f"{scheme} learns from vectors, and {len(rows)} is not enough", hint=hint)
    return row.fit(rows.shape[1], number, rows, seed)


def load(scheme: str, dimensions: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Codec:
    """The codec that `scheme`, `dimensions` and `arrays()` describe, or RequestError."""
    row, number = parse(scheme)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise RequestError(f"{scheme} of {dimensions} dimensions", hint=f"1 to {MAX_DIMENSIONS}, as models have")
    try:
        codec = row.load(dimensions, number, arrays)
    except KeyError as e:
        raise RequestError(f"{scheme}: its array {e} is missing") from None
    if (codec.scheme, codec.dimensions) != (scheme, dimensions):
        raise RequestError(
            f"{scheme} of {dimensions} dimensions, but its arrays are {codec.scheme} of {codec.dimensions}"
        )
    return codec


def quantize(
    embeddings: npt.ArrayLike, precision: str, ranges: npt.ArrayLike | None = None,
    calibration_embeddings: npt.ArrayLike | None = None,
) -> Codes:  # fmt: skip
    """The bytes that sentence-transformers' quantize_embeddings gives (util/quantization.py).

    embeddings               (N, D), or (D)
    precision                float32, int8, uint8, binary, ubinary
    ranges                   (2, D) for int8 and uint8; else taken from
    calibration_embeddings   (N', D); else from the embeddings themselves, which must be two at least
    returns                  (N, D) float32, int8, uint8, or (N, ceil(D/8)) int8, uint8
    Raises RequestError; NaN and infinity, which sentence-transformers turns into some byte, are refused.
    """
    if precision not in ("float32", "int8", "uint8", "binary", "ubinary"):
        raise RequestError(f"precision {precision!r}", hint="float32, int8, uint8, binary or ubinary")
    rows, _ = as_rows(embeddings)
    if precision in ("int8", "uint8") and ranges is not None:
        return Ranged(ranges, precision).encode(embeddings)
    return fit(precision, rows if calibration_embeddings is None else calibration_embeddings).encode(embeddings)
