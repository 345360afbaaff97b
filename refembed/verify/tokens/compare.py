"""Where two tokenizers part, and which rule does it.

The causes are tried from the last step of tokenizing to the first, by switching that step off on both sides: if the
difference goes with it, that was it. What then remains is looked up in the stages, or, where the other side shows only
ids, read off the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from refembed.tokenizer.base import Tokenizer, as_bytes
from refembed.tokenizer.explain import stages
from refembed.verify.tokens.token_sources import Other, spelling, words

AROUND = 4  # ids shown on either side of a difference

CAUSES = {  # cause -> what it means
    "added": "special tokens around the text",
    "special tokens": "special tokens cut out of the text",
    "normalized": "normalization: the texts that are tokenized are not the same",
    "pre-tokens": "pre-tokens: the same text, cut in other places",
    "pieces": "pieces: the same pre-tokens, but other tokens of them (merges, scores, or tokens that one side lacks)",
    "ids": "numbering: the same tokens under other ids",
}


@dataclass(frozen=True)
class Difference:
    """The first place where two lists of ids differ, and why they do."""

    at: int  # index into both lists
    ours: list[int]
    theirs: list[int]
    our_tokens: list[bytes]
    their_tokens: list[bytes | None]
    before: bytes  # the text up to there
    causes: tuple[Cause, ...]  # one, or two where the sides also add other special tokens


@dataclass(frozen=True)
class Cause:
    """A rule on which two sides do not agree."""

    stage: str  # a key of CAUSES
    detail: str  # what that stage has on either side, where it is known


def compare(
    ours: Tokenizer, other: Other, text: str | bytes, add_special: bool = True, parse_special: bool = True
) -> Difference | None:
    """The first difference between the ids of a text, or None. Errors as in `Tokenizer.encode` and `Other.encode`."""
    raw = as_bytes(text)
    a, b = ours.encode(raw, add_special, parse_special), other.encode(raw, add_special, parse_special)
    if a == b:
        return None
    at = first_difference(a, b)
    bare = ours.encode(raw, False, parse_special), other.encode(raw, False, parse_special)
    around = added(a, bare[0]), added(b, bare[1])
    causes = [Cause("added", f"{around[0]}, not {around[1]}")] if around[0] != around[1] else []
    if bare[0] != bare[1]:
        causes.append(find_cause(ours, other, raw, parse_special, *bare))
    tokens = [ours.vocab.tokens[i] for i in a]
    return Difference(at, a, b, tokens, spelling(other, ours, b), ours.decode_bytes(a[:at]), tuple(causes))


def first_difference(a: Sequence[object], b: Sequence[object]) -> int:
    """The first place where two sequences differ, or where the shorter ends."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def added(ids: Sequence[int], bare: Sequence[int]) -> str:
    """What was put around a text: `[101] ... [102]`. The same text without it is `bare`."""
    for i in range(len(ids) - len(bare) + 1):
        if list(ids[i : i + len(bare)]) == list(bare):
            return f"{list(ids[:i])} ... {list(ids[i + len(bare) :])}"
    return str(list(ids))


def find_cause(
    ours: Tokenizer, other: Other, raw: bytes, parse_special: bool, a: Sequence[int], b: Sequence[int]
) -> Cause:
    """Why the ids a and b of a text differ, special tokens left aside that were put around it."""
    fragments = ours.fragments(raw, parse_special)
    mine, theirs = [ours.vocab.tokens[f] for f in fragments if isinstance(f, int)], other.cuts(raw, parse_special)
    if theirs is None:  # ids alone: those of special tokens say as much
        special = {s.id for s in ours._specials[parse_special]} - {ours.vocab.unk}
        theirs = [ours.vocab.tokens[i] for i in b if i in special]
    if mine != theirs:
        return Cause("special tokens", f"{quote(*mine) or 'none'}, not {quote(*theirs) or 'none'}")
    if parse_special and ours.encode(raw, False, False) == other.encode(raw, False, False):
        return Cause("special tokens", "without parsing special tokens the ids are the same")
    for fragment in fragments:
        if isinstance(fragment, bytes):
            found = words_differ(words(ours, fragment), other.words(fragment))
            if found:
                return found
    return by_pieces(ours, spelling(other, ours, b), a, raw)


def words_differ(ours: Sequence[bytes] | None, theirs: Sequence[bytes] | None) -> Cause | None:
    """Where both sides show what they tokenize, and it is not the same."""
    if ours is None or theirs is None or list(ours) == list(theirs):
        return None
    first, second = (b"".join(side).decode("utf-8", "surrogateescape") for side in (ours, theirs))
    if first != second:
        at = first_difference(first, second)
        parts = (side[max(0, at - 8) : at + 8].encode("utf-8", "surrogateescape") for side in (first, second))
        return Cause("normalized", "{}, not {}".format(*map(quote, parts)))
    if len(ours) == 1:  # this kind has no pre-tokens: where the other side cuts is its own affair
        return None
    return Cause("pre-tokens", split_point(ours, theirs))


def by_pieces(ours: Tokenizer, theirs: Sequence[bytes | None], ids: Sequence[int], raw: bytes) -> Cause:
    """The cause as the pieces show it."""
    vocab = ours.vocab
    mine = [vocab.tokens[i] for i in ids]
    known = [t for t in theirs if t is not None]
    if len(known) < len(theirs):
        return Cause("ids", "the other side has ids beyond this vocabulary")
    if mine == known:
        return Cause("ids", f"{quote(*mine[:5])} on either side")
    unknown = None if vocab.unk is None else vocab.tokens[vocab.unk]
    if b"".join(mine) != b"".join(known) and unknown not in (*mine, *known):
        spelled = f"{quote(b''.join(mine)[:60])}, not {quote(b''.join(known)[:60])}"
        return Cause("normalized", f"in our vocabulary these ids spell {spelled}")
    cuts = set(accumulate(map(len, words_of_pieces(ours, raw))))
    if cuts - set(accumulate(map(len, known))) and unknown not in (*mine, *known):
        return Cause("pre-tokens", f"across two of our pre-tokens: {split_point(mine, known)}")
    return Cause("pieces", split_point(mine, known))


def words_of_pieces(ours: Tokenizer, raw: bytes) -> list[bytes]:
    """Our pre-tokens, spelled as their tokens are; [] where this kind has none."""
    found = {s.name: s for s in stages(ours, raw, False, False)}.get("pre-tokens")
    if found is None:
        return []
    spelled = []
    for part in found.parts:
        text = part if isinstance(part, bytes) else ours.vocab.tokens[part]
        spelled.append(b"".join(ours.vocab.tokens[i] for i in ours.encode(text, False, False)))
    return spelled


def split_point(ours: Sequence[bytes], theirs: Sequence[bytes]) -> str:
    """The first tokens that differ."""
    i = first_difference(ours, theirs)
    return f"{quote(*ours[i : i + 3])}, not {quote(*theirs[i : i + 3])}"


def quote(*parts: bytes) -> str:
    """Bytes for a message."""
    return " ".join(repr(p.decode("utf-8", "backslashreplace")) for p in parts)
