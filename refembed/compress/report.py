"""What each scheme costs and keeps, measured on vectors at hand: bytes, recall, time.

Vectors are made length 1, and some of them, drawn by the seed, are the queries. The rest is the corpus, from which
ranges and codebooks are learned. What is right is what float32 vectors say: the k rows with the largest dot product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.compress.codec import Codec, as_rows, check_finite
from refembed.compress.floats import Float32
from refembed.compress.pq import default_parts
from refembed.compress.schemes import fit
from refembed.compress.search import MULTIPLIER, Stage, best, recall, search
from refembed.errors import RequestError
from refembed.pooling.normalize import normalize

KS = (1, 10, 100)
QUERIES = 200  # at most; and at most a fifth of the vectors
TIMED_ROWS = 100_000  # the corpus is repeated up to here for the timing, or its searches are all overhead
TIMED_QUERIES = 7  # searches timed


@dataclass(frozen=True)
class Line:
    """One scheme, searched in one way.

    rescore     what the candidates are scored by again: "" not, "itself", or a scheme
    bytes       a vector, read by every search
    more_bytes  a vector, read for candidates only
    ratio       float32's bytes over `bytes`
    recall      k -> mean over the queries; None where the corpus has fewer than k rows
    time        of a search for the best 10 over that of float32's, the fastest of 7 each
    """

    scheme: str
    rescore: str
    bytes: int
    more_bytes: int
    ratio: float
    recall: dict[int, float | None]
    time: float


@dataclass(frozen=True)
class Report:
    """All lines, and what they were measured on."""

    vectors: int
    queries: int
    dimensions: int
    seed: int
    multiplier: int
    timed_rows: int
    float32_ms: float
    lines: tuple[Line, ...]

    def as_object(self) -> dict[str, Any]:
        return asdict(self)


def default_schemes(D: int) -> list[str]:
    """Every scheme, with cuts to a half and a quarter, and product quantization 16 and 32 times smaller."""
    cuts = [f"matryoshka:{D // n}" for n in (2, 4) if n <= D]
    parts = dict.fromkeys((default_parts(D), max(m for m in range(1, max(D // 8, 1) + 1) if D % m == 0)))
    return ["float32", "float16", "int8", "int8-global", "int8-vector", *cuts, *(f"pq:{m}" for m in parts), "ubinary"]


def measure(
    vectors: npt.ArrayLike, schemes: Sequence[str] | None = None, *, seed: int = 0, multiplier: int = MULTIPLIER,
    timed_rows: int = TIMED_ROWS, progress: Callable[[str], None] = lambda scheme: None,
) -> Report:  # fmt: skip
    """Search vectors (N, D) by every scheme, with and without scoring candidates again.

    schemes      names, as of `fit`; None: `default_schemes`
    multiplier   candidates for each result, where they are scored again
    timed_rows   0 times the corpus as it is
    progress     is called with each scheme's name before it is measured
    Raises RequestError for fewer than 12 vectors, and where `fit` or `encode` do.
    """
    rows, _ = as_rows(vectors)
    if len(rows) < 12:
        raise RequestError(f"{len(rows)} vectors: too few to measure recall on", hint="12 at least; thousands say more")
    unit = normalize(check_finite(rows).astype(np.float32), 2)
    if not unit.any(axis=1).all():
        zero = int(np.flatnonzero(~unit.any(axis=1))[0])
        raise RequestError(f"vector {zero} is zero: nothing is near to it", hint="leave it out")
    order = np.random.default_rng(seed).permutation(len(unit))
    count = min(QUERIES, len(unit) // 5)
    queries, corpus = unit[order[:count]], unit[np.sort(order[count:])]
    bench = Bench(queries, corpus, multiplier, timed_rows)
    lines = []
    for scheme in default_schemes(unit.shape[1]) if schemes is None else schemes:
        progress(scheme)
        lines += list(bench.lines(scheme, seed))
    D = unit.shape[1]
    return Report(len(corpus), count, D, seed, multiplier, bench.timed, 1000 * min(bench.float32_times), tuple(lines))


class Bench:
    """The corpus, its queries, and what float32 says of them."""

    def __init__(self, queries: F32, corpus: F32, multiplier: int, timed_rows: int) -> None:
        self.queries, self.corpus, self.multiplier = queries, corpus, multiplier
        self.exact = queries @ corpus.T  # (Q, N)
        self.ks = [k for k in KS if k <= len(corpus)]
        self.copies = max(1, -(-timed_rows // len(corpus)))
        self.timed = self.copies * len(corpus)
        self.floats = Stage(Float32(corpus.shape[1]), corpus)
        self.many_floats = self.repeated(corpus)
        self.float32_times = [seconds(self.floats.codec, self.many_floats, q, None, 1) for q in self.timed_queries()][
            1:
        ]

    def lines(self, scheme: str, seed: int) -> Iterator[Line]:
        """The scheme by itself, then with each way to score candidates again that makes sense for it."""
        codec = fit(scheme, self.corpus, seed=seed)
        stage = Stage(codec, codec.encode(self.corpus))
        yield self.line(stage, "", None)
        if scheme == "float32":
            return
        if scheme in ("binary", "ubinary"):
            yield self.line(stage, "itself", stage)
            bytes_ = fit("int8", self.corpus)
            yield self.line(stage, "int8", Stage(bytes_, bytes_.encode(self.corpus)))
        yield self.line(stage, "float32", self.floats)

    def line(self, stage: Stage, name: str, rescore: Stage | None) -> Line:
        """Recall and time of one way to search."""
        codec = stage.codec
        recalls: dict[int, float | None] = dict.fromkeys(KS)
        for k in self.ks:  # each k is a search of its own: the number of candidates depends on it
            found, _ = search(stage, self.queries, k, rescore=rescore, multiplier=self.multiplier)
            recalls[k] = round(float(recall(self.exact, found, k).mean()), 4)
        more = 0 if rescore is None or rescore is stage else rescore.codec.bytes
        ratio = round(self.floats.codec.bytes / codec.bytes, 2)
        time_ratio = 1.0 if codec.scheme == "float32" else round(self.time_ratio(stage, rescore), 3)
        return Line(codec.scheme, name, codec.bytes, more, ratio, recalls, time_ratio)

    def time_ratio(self, stage: Stage, rescore: Stage | None) -> float:
        """The fastest search over float32's fastest, measured in turns: other load is then in neither, or in both."""
        prepared = stage.codec.prepare(self.repeated(stage.codes))
        again = rescore and Stage(rescore.codec, self.repeated(rescore.codes))
        ours, floats = [], []
        for query in self.timed_queries():
            floats.append(seconds(self.floats.codec, self.many_floats, query, None, self.multiplier))
            ours.append(seconds(stage.codec, prepared, query, again, self.multiplier))
        self.float32_times += floats[1:]
        return float(min(ours[1:]) / min(floats[1:]))

    def timed_queries(self) -> list[F32]:
        """Some queries, the first once more before them: for compiling, and for caches."""
        return [self.queries[0], *self.queries[:TIMED_QUERIES]]

    def repeated(self, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The codes so many times over."""
        return np.concatenate([codes] * self.copies)


def seconds(codec: Codec, prepared: Any, query: F32, rescore: Stage | None, multiplier: int) -> float:
    """How long one search for the best 10 takes."""
    start = time.perf_counter()
    best(codec, prepared, query, 10, rescore, multiplier)
    return time.perf_counter() - start
