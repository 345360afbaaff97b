"""Hypotheses about what happens before the model: the text, and its token ids."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from refembed.tokenizer.vocab import Vocab
from refembed.verify.hypothesis import Change, Hypothesis
from refembed.verify.reference import Item, Reference

PREFIXES = (  # of model cards
    "query: ", "passage: ", "search_query: ", "search_document: ", "clustering: ", "classification: ",
    "task: search result | query: ", "title: none | text: ", "task: sentence similarity | query: ",
    "Represent this sentence for searching relevant passages: ", "Represent the query for retrieval: ",
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
    "Represent this sentence: ", "text: ", "document: ",
)  # fmt: skip


def without_accents(text: str) -> str:
    """é becomes e: decomposed, marks dropped."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def without_prefix(text: str) -> str:
    """One of PREFIXES less."""
    return next((text[len(p) :] for p in PREFIXES if text.startswith(p)), text)


def latin1(text: str) -> str:
    """UTF-8 read as Latin-1: é becomes Ã©."""
    return text.encode("utf-8", "replace").decode("latin-1")


TEXT: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("lower-case", "lower-cases the text", str.lower),
    ("upper-case", "upper-cases the text", str.upper),
    ("accents-stripped", "strips accents from the text", without_accents),
    ("lower-case-accents", "lower-cases the text and strips its accents", lambda t: without_accents(t.lower())),
    ("nfc", "composes characters (NFC)", partial(unicodedata.normalize, "NFC")),
    ("nfd", "decomposes characters (NFD)", partial(unicodedata.normalize, "NFD")),
    ("nfkc", "replaces compatibility characters (NFKC)", partial(unicodedata.normalize, "NFKC")),
    ("stripped", "strips white space at both ends", str.strip),
    ("spaces-collapsed", "collapses white space", lambda t: " ".join(t.split())),
    ("newlines-to-spaces", "replaces newlines by spaces", lambda t: t.replace("\n", " ")),
    ("space-in-front", "puts a space before the text", lambda t: " " + t),
    ("newline-behind", "leaves a newline behind the text", lambda t: t + "\n"),
    ("space-behind", "leaves a space behind the text", lambda t: t + " "),
    ("latin-1", "reads UTF-8 as Latin-1", latin1),
    ("ascii-only", "drops what is not ASCII", lambda t: t.encode("ascii", "ignore").decode()),
    ("ascii-question-marks", "replaces what is not ASCII by ?", lambda t: t.encode("ascii", "replace").decode()),
    ("json-escaped", "escapes the text as JSON twice", lambda t: json.dumps(t)[1:-1]),
    ("quoted", "leaves quotation marks around the text", lambda t: f'"{t}"'),
    ("html-escaped", "escapes the text as HTML", html.escape),
    ("punctuation-dropped", "drops punctuation", lambda t: re.sub(r"[^\w\s]", "", t)),
    ("first-line", "reads the first line only", lambda t: t.split("\n")[0]),
    ("reversed-text", "reads the text backwards", lambda t: t[::-1]),
    ("empty-text", "ignores the text", lambda t: ""),
    ("prefix-removed", "drops a prompt prefix from the text", without_prefix),
    *((f"prefix {p!r}", f"puts {p!r} before the text", partial(str.__add__, p)) for p in PREFIXES),
    *((f"cut-{n}-characters", f"cuts the text after {n} characters", lambda t, n=n: t[:n])
      for n in (64, 100, 128, 200, 255, 256, 500, 512, 1000, 1024, 2000, 2048)),
)  # fmt: skip


def text_hypotheses(reference: Reference, items: Sequence[Item]) -> list[Hypothesis]:
    """The rows of TEXT that give any of these texts other tokens, and changes of the tokenizer itself."""
    texts = [t for t in items if isinstance(t, str)]
    found = []
    for id, says, change in TEXT:
        if any(change(t) != t for t in texts):
            family = "prefix" if id.startswith("prefix") else id
            found.append(Hypothesis(id, "text", says, partial(added, "text", change), family))
    return vocabulary_hypotheses(reference) + found


def added(name: str, function: object, reference: Reference) -> Reference:
    """The reference with one more function in that tuple."""
    return reference.add(**{name: function})


def vocabulary_hypotheses(reference: Reference) -> list[Hypothesis]:
    """Normaliser flags the other way round, and special tokens in a text taken as text."""
    vocab, found = reference.tokenizer.vocab, []
    rows: list[tuple[str, str, Change]] = [
        ("specials-unparsed", "takes special tokens spelt out in a text as text", unparsed)
    ]
    if vocab.kind == "bert":
        lower, strip = vocab.lowercase, vocab.strip_accents
        case = "does not lower-case" if lower else "lower-cases"
        accents = "keeps accents" if strip else "strips accents"
        rows += [
            ("tokenizer-case", f"{case} in its tokenizer", other_vocab(lowercase=not lower)),
            ("tokenizer-accents", f"{accents} in its tokenizer", other_vocab(strip_accents=not strip)),
            ("tokenizer-case-accents", f"{case} and {accents} in its tokenizer",
             other_vocab(lowercase=not lower, strip_accents=not strip)),
        ]  # fmt: skip
    if vocab.kind == "llama":
        rows.append(("space-prefix", "treats the space before the first word the other way",
                     other_vocab(add_space_prefix=not vocab.add_space_prefix)))  # fmt: skip
    for id, says, change in rows:
        found.append(Hypothesis(id, "text", says, change))
    return found


def unparsed(reference: Reference) -> Reference:
    """`[SEP]` in a text is text."""
    return replace(reference, encode=lambda t, text: t.encode(text, add_special=True, parse_special=False))


def other_vocab(**flags: Any) -> Change:
    """The tokenizer made anew with other flags."""

    def change(reference: Reference) -> Reference:
        old = reference.tokenizer
        new = type(old)(replace(old.vocab, **flags), old.where)
        return replace(reference, tokenizer=new)

    return change


# -- token ids -----------------------------------------------------------------------------------------------------


def closing(vocab: Vocab) -> int | None:
    """The token that ends a text."""
    return vocab.sep if vocab.kind == "bert" else vocab.eos


def token_hypotheses(reference: Reference, items: Sequence[Item]) -> list[Hypothesis]:
    """Special tokens absent, doubled or others; padding; ids shifted."""
    vocab = reference.tokenizer.vocab
    opens, ends = reference.tokenizer.front() if fronts(reference) else [], closing(vocab)
    has_end = any(ids[-1:] == [ends] for ids in map(reference.ids_of, items))
    open_name, end_name = ("[CLS]", "[SEP]") if vocab.kind == "bert" else ("BOS", "EOS")
    rows: list[tuple[str, str, Callable[[list[int]], list[int]]]] = []
    if opens:
        n = len(opens)
        rows.append(("no-bos", f"leaves out {open_name} in front", lambda ids: ids[n:] if ids[:n] == opens else ids))
        rows.append(("two-bos", f"puts {open_name} in front twice", lambda ids: opens + ids))
    elif vocab.bos is not None:
        rows.append(("extra-bos", f"puts {open_name} in front", lambda ids: [vocab.bos or 0, *ids]))
    if has_end and ends is not None:
        rows.append(
            ("no-eos", f"leaves out {end_name} at the end", lambda ids: ids[:-1] if ids[-1:] == [ends] else ids)
        )
        rows.append(("two-eos", f"puts {end_name} at the end twice", lambda ids: [*ids, ends]))
    elif ends is not None:
        rows.append(("extra-eos", f"puts {end_name} at the end", lambda ids: [*ids, ends]))
    if opens and has_end:
        n = len(opens)
        rows.append(("no-specials", f"leaves out {open_name} and {end_name}", lambda ids: ids[n:-1] or ids))
    for role in ("eot", "eom", "pad", "unk", "mask", "bos", "sep", "eos"):
        other = getattr(vocab, role, None)
        if other is None or other == ends:
            continue
        name = role.upper()
        if has_end:
            says = f"ends a text with {name} in place of {end_name}"
            rows.append((f"{role}-for-eos", says, partial(ended, other, 1)))
        elif role in ("eot", "eom", "sep"):
            rows.append((f"extra-{role}", f"puts {name} at the end", partial(ended, other, 0)))
        if opens and role in ("pad", "unk", "eos"):
            says = f"begins a text with {name} in place of {open_name}"
            rows.append((f"{role}-for-bos", says, partial(begun, other)))
    rows += [
        ("reversed-tokens", "reads the tokens backwards", lambda ids: ids[::-1]),
        ("ids-plus-one", "counts token ids from 1", lambda ids: [min(i + 1, len(vocab) - 1) for i in ids]),
        ("ids-minus-one", "counts token ids one too low", lambda ids: [max(i - 1, 0) for i in ids]),
        ("last-token-lost", "loses the last token before the closing one",
         lambda ids: ids[:-2] + ids[-1:] if has_end else ids[:-1] or ids),
        ("doubled-text", "reads the text twice", lambda ids: [*ids, *ids]),
    ]  # fmt: skip
    found = [Hypothesis(id, "tokens", says, partial(added, "tokens", f)) for id, says, f in rows]
    return found + padding_hypotheses(reference)


def ended(other: int, drop: int, ids: list[int]) -> list[int]:
    """Another token at the end, in place of so many."""
    return [*ids[: len(ids) - drop], other]


def begun(other: int, ids: list[int]) -> list[int]:
    """Another token in place of the first."""
    return [other, *ids[1:]]


def fronts(reference: Reference) -> bool:
    """Whether the tokenizer puts anything in front: not all kinds know their BOS."""
    try:
        return bool(reference.tokenizer.front())
    except Exception:
        return False


def padding_hypotheses(reference: Reference) -> list[Hypothesis]:
    """Texts filled up with [PAD] that attention looks at."""
    pad = reference.tokenizer.vocab.pad
    if pad is None:
        return []
    found = []
    for n in (8, 16, 32, 64, 128, 256, 512):
        if n > reference.info.n_ctx:
            continue
        says = f"fills texts up to {n} tokens with padding and attends to it"
        found.append(Hypothesis(f"padding-{n}", "tokens", says, partial(padded, pad, n, False), "padding"))
        pooled = f"{says}, pooling it too"
        found.append(Hypothesis(f"padding-{n}-pooled", "tokens", pooled, partial(padded, pad, n, True), "padding"))
    return found


def padded(pad: int, n: int, pooled: bool, reference: Reference) -> Reference:
    """Ids filled up to a multiple of... n; pooled: the padding counts as tokens of the text."""

    def fill(ids: list[int]) -> list[int]:
        return ids + [pad] * (n - len(ids))

    if pooled:
        return reference.add(tokens=fill)

    def together(texts: list[list[int]]) -> list[list[int]]:
        return [fill(ids) for ids in texts]

    return replace(reference, together=together)


def truncations(reference: Reference, items: Sequence[Item], differs: Sequence[bool]) -> list[Hypothesis]:
    """Cuts that fit the texts that differ: all of them longer, in tokens, than all that agree.

    The usual lengths between the longest that agrees and the shortest that differs, and some between them.
    """
    lengths = [len(reference.ids_of(item)) for item in items]
    bad = [n for n, d in zip(lengths, differs, strict=True) if d]
    good = [n for n, d in zip(lengths, differs, strict=True) if not d]
    low, high = max(good, default=1), min(bad, default=0)
    if low >= high:
        return []
    usual = [n for n in (8, 16, 32, 50, 64, 100, 128, 192, 200, 256, 300, 384, 400, 510, 511, 512) if low <= n < high]
    between = range(low, high, max(1, (high - low) // 8))
    return [h for n in dict.fromkeys([*usual, *between, high - 1]) for h in cuts(reference, n)]


def cuts(reference: Reference, n: int) -> list[Hypothesis]:
    """The ways to cut at n tokens."""
    end = closing(reference.tokenizer.vocab)
    rows: list[tuple[str, str, Callable[[list[int]], list[int]]]] = [
        (f"cut-{n}", f"cuts texts after {n} tokens", partial(cut, n, None)),
        (f"cut-front-{n}", f"keeps only the last {n} tokens of a text", lambda ids: ids[-n:]),
    ]
    if end is not None:
        says = f"cuts texts to {n} tokens, the closing one among them"
        rows.append((f"cut-{n}-closed", says, partial(cut, n, end)))
    return [Hypothesis(id, "tokens", says, partial(added, "tokens", f), "cut") for id, says, f in rows]


def cut_of(reference: Reference, best: Hypothesis, scores: Mapping[Hypothesis, float]) -> list[Hypothesis]:
    """Cuts of the kind of `best`, at every length between its two neighbours among those that were tried."""
    kind = re.sub(r"\d+", "#", best.id)
    tried = sorted({number(h.id) for h in scores if re.sub(r"\d+", "#", h.id) == kind})
    at = tried.index(number(best.id))
    low, high = tried[max(0, at - 1)], tried[min(len(tried) - 1, at + 1)]
    found = [h for n in range(low, high + 1) if n not in tried for h in cuts(reference, n)]
    return [h for h in found if re.sub(r"\d+", "#", h.id) == kind]


def number(id: str) -> int:
    """The number in a name."""
    return int(re.findall(r"\d+", id)[0])


def cut(n: int, end: int | None, ids: list[int]) -> list[int]:
    """The first n ids; with an end, that is the last of them."""
    if len(ids) <= n:
        return ids
    return [*ids[: n - 1], end] if end is not None and ids[-1] == end else ids[:n]
