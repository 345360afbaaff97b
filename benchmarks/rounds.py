"""Engines in turns, A B C A B C, and what their times say: ratios are taken within a round, then their median.

A machine that slows down for a while slows the engines of one round alike, so a round's ratio hardly moves where its
seconds do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Seconds = Sequence["float | None"]  # one a round; None: not run in it

PAUSE = 0.02  # seconds between two engines: what spins after its work goes to sleep
SELDOM = 3  # an engine less than half as fast as the first runs in every third round


class Ratio(NamedTuple):
    """The median of the rounds' ratios, the least, the most, and how many rounds had both."""

    median: float
    low: float
    high: float
    rounds: int


def median(seconds: Seconds) -> float:
    """Of the rounds it ran in."""
    return statistics.median([s for s in seconds if s is not None])


def ratio(theirs: Seconds, ours: Seconds) -> Ratio:
    """How many times as fast as theirs ours is: theirs / ours in each round that has both."""
    found = [b / a for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    if not found:
        raise ValueError("no round has both")
    return Ratio(statistics.median(found), min(found), max(found), len(found))


def quickest(seconds: Mapping[str, Seconds], but: Sequence[str] = ()) -> str | None:
    """The name with the least median; None where none is left."""
    left = {name: median(s) for name, s in seconds.items() if name not in but}
    return min(left, key=left.__getitem__) if left else None


def interleaved(
    runs: Mapping[str, Callable[[], float | None]],
    probe: Mapping[str, float],
    *,
    seconds: float,
    least: int = 3,
    most: int = 9,
    pause: float = PAUSE,
) -> dict[str, list[float | None]]:
    """Run each in turn, round after round: {name: seconds of each round}.

    runs     the first is the one that the others are compared with; each answers the seconds it took, or
             None if it could not
    probe    how long each took before: who is slow runs in every third round only
    seconds  no new round begins after so long, once there are `least`; `most` is the end anyhow
    """
    names, taken = list(runs), {name: [] for name in runs}  # type: tuple[list[str], dict[str, list[float | None]]]
    seldom = {n for n in names[1:] if probe[n] > 2 * probe[names[0]]}
    start, done = time.perf_counter(), 0
    while done < least or (done < most and time.perf_counter() - start < seconds):
        for name in names:
            here = name not in seldom or done % SELDOM == 0
            if here:
                time.sleep(pause)
            taken[name].append(runs[name]() if here else None)
        done += 1
    return taken
