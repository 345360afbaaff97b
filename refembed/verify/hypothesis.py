"""What a hypothesis is: one named thing that an engine may do otherwise, as a reversible change of the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from refembed.errors import RefembedError
from refembed.verify.reference import Reference

Stage: TypeAlias = Literal["text", "tokens", "batch", "model", "weights", "pooling", "vector"]
Change: TypeAlias = Callable[[Reference], Reference]

# what a change may raise where it has no meaning: for this model, or for a text of one token
FAILURES = (RefembedError, IndexError, ValueError, AttributeError, TypeError, ZeroDivisionError, OverflowError)


@dataclass(frozen=True)
class Hypothesis:
    """One row of the tables in `hypotheses/`."""

    id: str  # "gelu-erf"
    stage: Stage
    says: str  # what the engine does, to be read after "the engine": "computes GELU in its erf form"
    change: Change
    family: str = ""  # hypotheses of one family exclude each other: no pair is made of them
    advice: str = ""  # what to do about it
    includes: tuple[str, ...] = ()  # ids of simpler changes that this one makes too: where they do as well, they do
    halves: tuple[Hypothesis, ...] = ()  # of two changes, each by itself

    def __post_init__(self) -> None:
        object.__setattr__(self, "change", memoized(self.change))


def both(first: Change, second: Change) -> Change:
    """One change after the other."""
    return lambda reference: second(first(reference))


def memoized(change: Change) -> Change:
    """A change that gives one reference the same answer twice, so that what was computed under it is found again."""
    last: list[Reference] = []  # what was changed, and what became of it

    def again(reference: Reference) -> Reference:
        if not last or last[0] is not reference:
            last[:] = reference, change(reference)
        return last[1]

    return again
