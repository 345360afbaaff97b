"""Texts that are cut: at how many tokens, characters, bytes or words is solved for, from which texts differ.

A text that is not longer than the limit agrees, a longer one differs; so the limit lies between the longest that agrees
and the shortest that differs. On that one each limit between the two is tried, usual ones first, then coarse to fine,
then all of them; the others that differ decide between limits that give it the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from refembed.arrays import F64
from refembed.pipeline.truncate import truncate
from refembed.verify.compare.floor import SCREEN, distance
from refembed.verify.hypotheses.front import added, closing, fronts
from refembed.verify.hypothesis import FAILURES, Hypothesis, Stage
from refembed.verify.reference import Item, Reference, Vectors

USUAL = frozenset((
    8, 16, 20, 25, 30, 32, 40, 50, 64, 80, 96, 100, 120, 126, 127, 128, 140, 150, 160, 192, 200, 250, 254, 255, 256,
    280, 300, 384, 400, 448, 500, 510, 511, 512, 600, 700, 800, 1000, 1024, 2000, 2048,
))  # fmt: skip
FOUND = 1e-3  # of the difference: the limit that leaves less is the one
COARSE = 8  # limits tried between two before it is looked closer
TOKENS = 40_000  # that may be read in search of one limit
OTHERS = 8  # further texts that decide between limits


@dataclass(frozen=True)
class Cut:
    """One way to cut, at any limit."""

    id: str  # with {}: "cut-{}-closed"
    stage: Stage
    says: str
    measure: Callable[[Any], int]  # how long a text, or a list of ids, is
    apply: Callable[[int, Any], Any]  # limit, text or ids

    def at(self, n: int) -> Hypothesis:
        """The hypothesis of that limit."""
        name = "tokens" if self.stage == "tokens" else "text"
        return Hypothesis(
            self.id.format(n), self.stage, self.says.format(n), partial(added, name, partial(self.apply, n)), "cut"
        )


def cuts_of(reference: Reference) -> list[Cut]:
    end = closing(reference.tokenizer.vocab)
    opens = reference.tokenizer.front() if fronts(reference) else []
    found = [
        Cut("cut-{}", "tokens", "cuts texts after {} tokens", len, lambda n, ids: ids[:n]),
        Cut("cut-front-{}", "tokens", "keeps only the last {} tokens of a text", len, lambda n, ids: ids[-n:]),
        Cut("cut-middle-{}", "tokens", "keeps the first and the last half of {} tokens", len,
            lambda n, ids: ids if len(ids) <= n else [*ids[: n - n // 2], *ids[len(ids) - n // 2 :]]),
        Cut("cut-{}-characters", "text", "cuts the text after {} characters", len, lambda n, t: t[:n]),
        Cut("cut-front-{}-characters", "text", "keeps only the last {} characters", len, lambda n, t: t[-n:]),
        Cut("cut-{}-bytes", "text", "cuts the text after {} bytes of UTF-8",
            lambda t: len(t.encode("utf-8", "replace")),
            lambda n, t: t.encode("utf-8", "replace")[:n].decode("utf-8", "ignore")),
        Cut("cut-{}-words", "text", "cuts the text after {} words", lambda t: len(t.split()), first_words),
    ]  # fmt: skip
    if end is not None:
        says = "cuts texts to {} tokens, the closing one among them"
        found.insert(1, Cut("cut-{}-closed", "tokens", says, len, partial(closed, end)))
    if opens:
        says = "keeps the opening token and the last of a text, {} tokens in all"
        found.append(Cut("cut-front-{}-opened", "tokens", says, len, partial(opened, opens)))
    return found


def closed(end: int, n: int, ids: list[int]) -> list[int]:
    """The first n ids; the closing one is the last of them."""
    return truncate(ids, n, keep_last=ids[-1:] == [end])


def opened(opens: list[int], n: int, ids: list[int]) -> list[int]:
    """n ids: what stands in front, and the last."""
    keep = n - len(opens)
    return ids if len(ids) <= n else [*opens, *ids[len(ids) - keep :]] if keep > 0 else ids[:n]


def first_words(n: int, text: str) -> str:
    """n words and what lies between them."""
    words = text.split()
    return text if len(words) <= n else " ".join(words[:n])


def solve_cuts(
    reference: Reference, items: Sequence[Item], vectors: Vectors, differs: Sequence[bool], distances: F64
) -> Iterator[tuple[Hypothesis, float]]:
    """Limits that fit, and the share that each leaves of the difference.

    differs    which texts do
    distances  1 - cos of each
    """
    search = Search(reference, items, vectors, differs, distances)
    for cut in cuts_of(reference):
        yield from search.of(cut) if search.found is None else search.same(cut, *search.found)


class Search:
    """The texts, and what was computed of them."""

    def __init__(
        self, reference: Reference, items: Sequence[Item], vectors: Vectors, differs: Sequence[bool], distances: F64
    ) -> None:
        self.reference, self.items, self.vectors, self.distances = reference, items, vectors, distances
        self.bad = [i for i, d in enumerate(differs) if d]
        self.good = [i for i, d in enumerate(differs) if not d]
        self.left: dict[tuple[int, tuple[int, ...]], float] = {}  # place, ids -> the share that is left
        self.found: tuple[Cut, int, float] | None = None  # a limit that leaves nothing

    def inputs(self, cut: Cut, places: Sequence[int]) -> dict[int, Any]:
        """What is measured and cut: ids, or text."""
        if cut.stage == "tokens":
            return {i: self.reference.ids_of(self.items[i]) for i in places}
        texts = {i: self.items[i] for i in places}
        for change in self.reference.text:
            texts = {i: change(t) for i, t in texts.items() if isinstance(t, str)}
        return texts

    def of(self, cut: Cut) -> Iterator[tuple[Hypothesis, float]]:
        """The best limits of one way to cut."""
        good, bad = self.inputs(cut, self.good), self.inputs(cut, self.bad)
        if len(bad) < len(self.bad) or not bad or not all(isinstance(x, (str, list)) for x in bad.values()):
            return
        order = sorted(bad, key=lambda i: cut.measure(bad[i]))
        high = cut.measure(bad[order[0]])
        low = max((self.needed(cut, i, x) for i, x in good.items()), default=1)
        if low >= high:
            return
        scores = self.scan(cut, order[0], list(range(low, high)))
        best = min(scores.values(), default=1.0)
        near = [n for n in scores if scores[n] <= max(2 * best, FOUND)][:24]
        whole = {n: max(scores[n], *(self.share(cut, n, i) for i in order[1 : 1 + OTHERS]), 0.0) for n in near}
        for n in sorted(whole, key=lambda n: (whole[n], n not in USUAL))[:3]:
            yield cut.at(n), whole[n]
            if self.found is None and whole[n] <= FOUND / 100:
                self.found = cut, n, whole[n]

    def same(self, cut: Cut, other: Cut, limit: int, share: float) -> Iterator[tuple[Hypothesis, float]]:
        """Limits of another way that leave every text the same tokens as the one that was found.

        Two ways to cut tokens that do so are one and the same for these texts; a limit of characters is worth knowing.
        """
        if cut.stage == other.stage == "tokens":
            return
        bad = self.inputs(cut, self.bad)
        if len(bad) < len(self.bad):
            return
        order = sorted(bad, key=lambda i: cut.measure(bad[i]))
        wanted = {i: self.ids(other, limit, i) for i in order}
        low = max((self.needed(cut, i, x) for i, x in self.inputs(cut, self.good).items()), default=1)
        fits = (
            n for n in range(low, cut.measure(bad[order[0]])) if all(self.ids(cut, n, i) == wanted[i] for i in order)
        )
        for n in islice(fits, 2):
            yield cut.at(n), share

    def needed(self, cut: Cut, place: int, x: Any) -> int:
        """The smallest limit that leaves a text its tokens: white space at an end may be cut unseen."""
        n, ids = cut.measure(x), self.reference.ids_of(self.items[place])
        while n > 1 and self.ids(cut, n - 1, place) == ids:
            n -= 1
        return n

    def ids(self, cut: Cut, n: int, place: int) -> list[int]:
        """Tokens of a text that is cut."""
        return cut.at(n).change(self.reference).ids_of(self.items[place])

    def share(self, cut: Cut, n: int, place: int) -> float:
        """What a limit leaves of one text's difference: all of it where the cut text cannot be run."""
        key = place, tuple(self.ids(cut, n, place))
        if not key[1]:
            return 1.0
        if key not in self.left:
            try:
                found = cut.at(n).change(self.reference).vectors([self.items[place]], SCREEN)[0]
            except FAILURES:
                return 1.0
            self.left[key] = distance(self.vectors[place], found) / float(self.distances[place])
        return self.left[key]

    def scan(self, cut: Cut, place: int, limits: list[int]) -> dict[int, float]:
        """Share left of one text for many limits: usual ones, then coarse to fine, then all as far as TOKENS go."""
        scores: dict[int, float] = {}
        spent = 0
        step = max(1, len(limits) // COARSE)
        for n in [*[n for n in limits if n in USUAL], *limits[::step], *limits[-1:]]:
            scores[n] = self.share(cut, n, place)
            spent += n if cut.stage == "tokens" else n // 4
        while min(scores.values()) > FOUND and len(scores) < len(limits):
            best = min(scores, key=lambda n: scores[n])
            tried = sorted(scores)
            at = tried.index(best)
            around = range(tried[max(at - 1, 0)], tried[min(at + 1, len(tried) - 1)] + 1)
            fresh = [n for n in around if n not in scores] or [n for n in limits if n not in scores]
            for n in fresh:
                scores[n] = self.share(cut, n, place)
                spent += n if cut.stage == "tokens" else n // 4
                if spent > TOKENS or scores[n] <= FOUND:
                    break
            if spent > TOKENS:
                break
        found = min(scores, key=lambda n: scores[n])
        return scores | {n: self.share(cut, n, place) for n in range(found - 3, found + 4) if n in limits}
