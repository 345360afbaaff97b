"""What a verification found, as plain data: what `refembed.verify.report.html.write_report` turns into a page.

Every field but the first three may stay empty; the page leaves out what is not there. Errors are NMSE,
sum (a - b)^2 / sum a^2, distances 1 - cos, as in `refembed.verify.compare.arrays`. Ours is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from refembed.html.patches import Cut

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TextResult:
    """One text, end to end."""

    text: str
    n_tokens: int
    distance: float  # 1 - cos of the two vectors; NaN where they could not be compared
    bound: float  # what rounding alone may do to this text: its noise floor, with its margin
    agrees: bool
    note: str = ""


@dataclass(frozen=True)
class TensorError:
    """One tensor of the traced text, in the order of the run."""

    name: str  # llama.cpp's name, "kqv_out-3"
    k: int  # the occurrence index of the of that name, from 0
    layer: int | None  # None for what lies before the first layer or behind the last
    propagated: float | None  # NMSE of the two runs side by side
    local: float | None  # NMSE of this operation alone, ours run on the engine's own inputs
    bound: float | None = None  # of `local`
    op: str = ""  # the engine's operation: "MUL_MAT"
    note: str = ""


@dataclass(frozen=True)
class WorstTensor:
    """The tensor that is furthest off: both sides as arrays (..., rows, channels), of the same shape."""

    name: str
    ours: Array
    theirs: Array
    rows: Sequence[str] = ()  # what its rows stand for: the tokens, if they are tokens
    unit: str = "token"  # what a row is: "token", or "patch"


@dataclass(frozen=True)
class BothTokens:
    """The tokens of one text on both sides; `theirs` is empty where the engine does not say."""

    text: str
    ours: Sequence[tuple[int, str]]  # (id, piece)
    theirs: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Attention:
    """Attention of one layer: (H, T, T), each row sums to 1: where token `row` looks."""

    layer: int
    ours: Array
    theirs: Array | None = None


@dataclass(frozen=True)
class Picture:
    """One image: what the reference's tower reads of it, and where the engine's tower is off. Ours is the reference."""

    name: str
    sizes: str  # a sentence: pixels, patches, tokens
    ours: Cut
    theirs: Cut | None = None  # what the engine's tower reads, where it shows that
    rows: Array | None = None  # (rows, columns) of tokens: |engine's - ours| / |ours|, where it shows rows


@dataclass(frozen=True)
class ReportData:
    """A whole report."""

    model: str  # what was checked against: file and name
    engine: str  # what was checked: "llama.cpp", "http://..."
    verdict: str  # "identical", "within rounding", "differs", "unexplained"
    cause: str = ""  # one sentence; empty where nothing differs
    advice: str = ""  # what to do about it
    evidence: Sequence[str] = ()  # sentences with numbers
    first_wrong_tensor: str | None = None
    texts: Sequence[TextResult] = ()
    tensors: Sequence[TensorError] = ()
    worst: WorstTensor | None = None
    tokens: Sequence[BothTokens] = ()
    traced: Sequence[str] = ()  # pieces (T) of the text that `tensors`, `attention` and `contributions` are about
    attention: Sequence[Attention] = ()
    # (T) share of each token in the pooled vector, `refembed.verify.compare.contributions`
    contributions: Sequence[float] = ()
    their_contributions: Sequence[float] = ()
    hypotheses: Sequence[tuple[str, float, bool]] = ()  # (what was tried, 1 - cos that it left, whether that explains)
    pictures: Sequence[Picture] = ()  # of a verification of images
    unit: str = "text"  # what is compared: "text", or "input"
    environment: dict[str, Any] = field(default_factory=dict)  # builds, versions, CPU, sha256, options: label -> value
