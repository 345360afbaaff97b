"""The noise floor: how far apart sound arithmetics are on this very model and text. Bounds are derived from it.

A text is embedded in every arithmetic of `reference.NUMERICS`: float64 by the textbook, float32, and as llama.cpp
rounds, with and without flash attention, alone and together with others. Their largest distance is what rounding alone
can do to that text. An engine that is nearer to one of them than BOUND times the floor differs by rounding.

Engines that round activations to 8 bits in another way than llama.cpp are as far from it as it is from float32, or half
as far again. So where weights are quantized, `int8` is one more arithmetic that an engine may be near to; the floor
itself is measured without it, and bounds stay what they are.

Distances are of directions, 1 - cos; length is looked at apart (`front`), for it says nothing about similarity.

BUILDS is what llama.cpp differs from itself between builds and settings, by weight type (spread of AVX2, AVX-512 and
SSE builds, flash attention, repacked and tiled weights, alone and batched, over five texts of MiniLM): its worst text.
A text's own floor can be smaller by luck, so no floor is taken for less than a tenth of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from refembed.arrays import F64
from refembed.kernels.quant.codes import has_codes
from refembed.verify.compare.arrays import cosine_distance
from refembed.verify.reference import Item, Reference, Vectors

BOUND = 2.0  # how far beyond the worst of the arithmetics an engine may be
LEAST = 1e-10  # 1 - cos: float32 sums in another order, six layers deep, reach 2e-12
BUILDS = {  # 1 - cos, worst text
    "F32": 1.3e-7, "F16": 2.6e-7, "BF16": 1e-5, "Q8_0": 1.7e-4, "Q4_0": 2.4e-4, "Q4_1": 2.4e-4, "Q5_0": 2.4e-4,
    "Q5_1": 2.4e-4, "Q4_K": 4.5e-4, "Q6_K": 4e-4,
}  # fmt: skip
FEW = 8  # numbers of a vector whose errors may cancel by luck: scores and labels of rerankers
OTHER_TYPES = 4.5e-4  # types without a row: activations are rounded to 8 bits as for Q4_K
SCREEN = "fast"  # the arithmetic that hypotheses are tried in first
EVERYWHERE = ("ggml", "ggml, plain", "fast")
ROUNDED = "int8"  # one more, where weights are quantized
SAMPLE = (
    4  # texts that float64 and batches are measured on too: float32 is 2e-12 away from float64, a batch from alone 8e-9
)


@dataclass(frozen=True)
class Floor:
    """What rounding does to each of N texts."""

    by_numerics: dict[str, Vectors]  # arithmetic -> a vector for each text
    # (N) 1 - cos between the two arithmetics that are furthest apart; where a text's own may be small by luck (few
    # numbers, experts), that of the text that moves most
    spread: F64
    builds: float  # the row of BUILDS of the most sensitive weight type
    length: float  # largest relative difference of lengths between arithmetics

    @property
    def bound(self) -> F64:
        """(N) the distance up to which a text is within rounding."""
        return np.maximum(BOUND * np.maximum(self.spread, self.builds / 10), LEAST)

    @property
    def length_bound(self) -> float:
        """The relative difference of lengths that is within rounding."""
        return max(4 * self.length, 1e-4)

    def distances(self, vectors: Vectors) -> tuple[F64, list[str]]:
        """To the nearest arithmetic, and which that is: (N), N names."""
        each = {
            w: np.array([distance(y, x) for y, x in zip(vectors, xs, strict=True)])
            for w, xs in self.by_numerics.items()
        }
        names = list(each)
        table = np.stack([each[w] for w in names])  # (W, N)
        return table.min(axis=0), [names[i] for i in table.argmin(axis=0)]


def floor_of(
    reference: Reference, items: Sequence[Item], several_numerics: Sequence[str] = EVERYWHERE, sample: bool = False
) -> Floor:
    """Embed N texts in these arithmetics; with `sample` the shortest also in float64, and together in `ggml`.

    Of a model with experts all are embedded together: which token rounding sends to another expert cannot be sampled.
    """
    found = {w: reference.vectors(items, w) for w in several_numerics}
    pairs = list(combinations(found.values(), 2))
    spread = [max((distance(a[i], b[i]) for a, b in pairs), default=0.0) for i in range(len(items))]
    if items and all(v.ndim == 1 and len(v) <= FEW for v in found[several_numerics[0]]):
        spread = shared_spread(spread, found[several_numerics[0]])
    if items and reference.model.hparams.n_expert:
        spread = [max(spread)] * len(items)  # rounding may send a token of any text to another expert: a leap
    lengths = [max((relative_length(a[i], b[i]) for a, b in pairs), default=0.0) for i in range(len(items))]
    more = [0.0]
    if sample:
        few = sorted(range(len(items)), key=lambda i: len(str(items[i])))[:SAMPLE]
        more = apart([found["fast"][i] for i in few], reference.vectors([items[i] for i in few], "exact"))
        batch = range(len(items)) if reference.model.hparams.n_expert else few
        together = replace(reference, together=list).vectors([items[i] for i in batch], "ggml")
        more += apart([found["ggml"][i] for i in batch], together)
    spread = [max(s, *more) for s in spread]
    if tuple(several_numerics) == EVERYWHERE and any(map(has_codes, reference.file.tensors.values())):
        found[ROUNDED] = reference.vectors(items, ROUNDED)
    return Floor(found, np.array(spread, np.float64), build_spread(reference), max(lengths, default=0.0))


def shared_spread(spread: Sequence[float], vectors: Vectors) -> list[float]:
    """The spread of N texts whose vectors have few numbers: what moves one by most may move any as far.

    A vector has hundreds of numbers whose errors are averaged; those of a reranker's score may cancel by luck: of
    twenty texts of a small one, one score moved by 2.4e-5 between arithmetics, the median by 4.2e-4, the most 1.3e-3.
    A vector x moves by |x| sqrt(2 spread), since 1 - cos is half the square of a small angle.
    """
    sizes = np.array([np.linalg.norm(v) for v in vectors])
    most = np.max(sizes * np.sqrt(2 * np.array(spread)))
    angles = np.divide(most, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    return [float(angle**2 / 2) for angle in angles]


def apart(xs: Vectors, ys: Vectors) -> list[float]:
    """Distances of vectors in the same places."""
    return [distance(x, y) for x, y in zip(xs, ys, strict=True)]


def build_spread(reference: Reference) -> float:
    """The row of BUILDS of the most sensitive type among the model's matrices."""
    types = {name for name in reference.info.quant_types if name != "F32"}
    return max((BUILDS.get(name, OTHER_TYPES) for name in types), default=BUILDS["F32"])


def distance(y: F64, x: F64) -> float:
    """1 - cos of two vectors, over the shorter's numbers; of rows (T, D) the worst row. 1 where they cannot compare.

    Numbers that are not finite make any distance 1.
    """
    if y.ndim != x.ndim or (y.ndim == 2 and len(y) != len(x)):
        return 1.0
    width = min(y.shape[-1], x.shape[-1])
    a, b = (np.asarray(v[..., :width], np.float64) for v in (y, x))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 1.0
    if width == 1:  # a score: there is no direction
        return float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-9), initial=0.0)) ** 2 / 2
    if a.ndim == 1:
        return cosine_distance(*scaled(a, b))
    return max((cosine_distance(*scaled(p, q)) for p, q in zip(a, b, strict=True)), default=0.0)


def scaled(a: F64, b: F64) -> tuple[F64, F64]:
    """Both over their largest magnitude, so that squares neither overflow nor vanish."""
    return a / (np.abs(a).max(initial=0) or 1), b / (np.abs(b).max(initial=0) or 1)


def relative_length(y: F64, x: F64) -> float:
    """| |y| / |x| - 1 | of whole arrays."""
    if y.shape != x.shape:
        return np.inf
    length = float(np.linalg.norm(x))
    return abs(float(np.linalg.norm(y)) / length - 1) if length else 0.0
