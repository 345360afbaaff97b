"""What the comparison of two engines ends with: one of four words, a sentence, and the numbers for both."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from refembed._version import __version__
from refembed.verify.verdict import plain

Kind = Literal["identical", "valid", "normalize", "re-embed"]
EXIT = {"identical": 0, "valid": 0, "normalize": 3, "re-embed": 3}  # as of `verdict.EXIT`
REACH = 4  # times the largest movement: what it can do to the difference of two distances (neighbors.py)


@dataclass(frozen=True)
class MovedText:
    """One text."""

    text: str
    moved: float  # Euclidean distance of its two vectors, both of length 1
    cosine: float  # 1 - cos of them
    beyond: bool  # whether that can change the nearest neighbor of the median query


@dataclass(frozen=True)
class Arrangement:
    """What became of neighbors in one way to go on with the index."""

    says: str  # "new queries, stored documents"
    changed: int  # queries whose nearest document is another
    overlap: float  # mean share of the k nearest that stayed
    farther: float  # a new nearest document was so much farther away before, at most


@dataclass(frozen=True)
class Search:
    """What neighbors were looked at, and how far apart they are."""

    queries: int
    documents: int
    k: int
    gap: float  # from the nearest document to the next, median query; infinite where all tie
    gap_last: float  # from the k-th to the next
    certain: int  # queries whose nearest document no movement of this size can change
    arrangements: tuple[Arrangement, ...]


@dataclass(frozen=True)
class Upgrade:
    """The answer. Lengths and distances are of vectors; those in `moved` and `gap` are of vectors of length 1."""

    kind: Kind
    cause: str  # one sentence, empty where the vectors are the same
    remedy: str
    count: int  # texts that were compared
    same_tokens: bool | None  # None: not both engines show tokens
    moved: float  # the largest movement
    cosine: float  # the largest 1 - cos
    component: float  # the largest difference of two components
    texts: tuple[MovedText, ...] = ()  # the farthest first
    ids: tuple[tuple[str, list[int], list[int]], ...] = ()  # texts whose tokens changed: text, old, new
    search: Search | None = None
    sides: dict[str, Any] = field(default_factory=dict)  # "old", "new": what each says of itself
    verdicts: dict[str, Any] = field(default_factory=dict)  # "old", "new": of `verify`, where the model is known
    remarks: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 the index stays valid, 3 something is to be done."""
        return EXIT[self.kind]

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON has it; numbers that are not finite as text."""
        found: dict[str, Any] = plain(asdict(self))
        return {"format": "refembed-upgrade-1", "refembed": __version__, **found, "exit_code": self.exit_code}
