"""Hypotheses about what happens before the model: the text, and its token ids."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

from refembed.arrays import Float
from refembed.errors import RefembedError
from refembed.pooling.poolers import POOLERS
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
    ("stripped-in-front", "strips white space in front of the text", str.lstrip),
    ("stripped-behind", "strips white space behind the text", str.rstrip),
    ("white-space-dropped", "drops all white space", lambda t: "".join(t.split())),
    ("nfkd", "takes compatibility characters apart (NFKD)", partial(unicodedata.normalize, "NFKD")),
    ("nfkc-case-folded", "folds case and compatibility characters (NFKC_Casefold)",
     lambda t: unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", t).casefold())),
    ("capitalized", "capitalizes the first letter", lambda t: t[:1].upper() + t[1:]),
    ("title-case", "capitalizes every word", str.title),
    ("digits-dropped", "drops digits", lambda t: re.sub(r"\d", "", t)),
    ("digits-zeroed", "replaces digits by 0", lambda t: re.sub(r"\d", "0", t)),
    ("emoji-dropped", "drops characters beyond the Basic Multilingual Plane",
     lambda t: "".join(c for c in t if ord(c) < 0x10000)),
    ("controls-dropped", "drops control characters, tabs and newlines among them",
     lambda t: "".join(c for c in t if unicodedata.category(c) != "Cc")),
    ("control-spaces", "replaces control characters by spaces",
     lambda t: "".join(" " if unicodedata.category(c) == "Cc" else c for c in t)),
    ("quotes-straightened", "replaces curly quotes and dashes by ASCII ones",
     lambda t: t.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-"})),
    ("angle-brackets-dropped", "drops what stands in angle brackets, as markup", lambda t: re.sub(r"<[^>]*>", "", t)),
    ("period-behind", "puts a full stop behind the text", lambda t: t + "."),
    ("newline-in-front", "puts a newline before the text", lambda t: "\n" + t),
    ("text-twice", "puts the text behind itself, a space between", lambda t: f"{t} {t}"),
    ("first-sentence", "reads the first sentence only", lambda t: re.split(r"(?<=[.!?])\s", t)[0]),
    ("last-character-lost", "loses the last character", lambda t: t[:-1]),
    ("first-character-lost", "loses the first character", lambda t: t[1:]),
    ("nul-behind", "leaves a zero byte behind the text", lambda t: t + "\0"),
    ("byte-order-mark", "puts a byte order mark before the text", lambda t: "\ufeff" + t),
    ("percent-encoded", "leaves the text as a URL has it", lambda t: quote(t)),
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
)  # fmt: skip


INCLUDES: dict[str, tuple[str, ...]] = {  # a row of TEXT -> simpler ones that it makes too
    "lower-case-accents": ("lower-case", "accents-stripped"),
    "nfkc-case-folded": ("lower-case", "nfkc"),
}


def text_hypotheses(reference: Reference, items: Sequence[Item]) -> list[Hypothesis]:
    """The rows of TEXT that give any of these texts other tokens, and changes of the tokenizer itself."""
    texts = [t for t in items if isinstance(t, str)]
    found = []
    uncased = reference.tokenizer.vocab.kind == "bert" and reference.tokenizer.vocab.lowercase
    for id, says, change in TEXT:
        if id == "title-case" and uncased:  # shows in special tokens alone, as lower-case does
            continue
        if any(change(t) != t for t in texts):
            found.append(Hypothesis(id, "text", says, partial(added, "text", change), id,
                                    includes=INCLUDES.get(id, ())))  # fmt: skip
    return [*vocabulary_hypotheses(reference), *found, *prompt_hypotheses(reference, texts)]


def prompt_hypotheses(reference: Reference, texts: Sequence[str]) -> list[Hypothesis]:
    """Prompts in front of a text, of the model itself and of other model cards; read but not pooled as well."""
    found = []
    for prompt in dict.fromkeys([*own_prompts(reference), *PREFIXES]):
        added_ = partial(added, "text", partial(str.__add__, prompt))
        found.append(Hypothesis(f"prefix {prompt!r}", "text", f"puts {prompt!r} before the text", added_, "prefix"))
        if reference.pooling in ("mean", "cls"):
            says = f"puts {prompt!r} before the text and leaves its tokens out when it pools (include_prompt: false)"
            found.append(
                Hypothesis(f"prefix {prompt!r} not pooled", "text", says, partial(unpooled, prompt, True), "prefix")
            )
    if reference.pooling == "mean" and any(without_prefix(t) != t for t in texts):
        says = "leaves the tokens of a prompt out when it pools (include_prompt: false)"
        found.append(Hypothesis("prompt-not-pooled", "text", says, partial(unpooled, "", False), "prefix"))
    return found


def own_prompts(reference: Reference) -> list[str]:
    """What the model was trained to read before a text."""
    from refembed.hub.prompts import find

    try:
        known = find(reference.file)
    except (RefembedError, OSError):
        return []
    return [p for p in known.prompts.values() if p] if known else []


def unpooled(prompt: str, put: bool, reference: Reference) -> Reference:
    """A prompt that is read, and whose tokens are not pooled; the opening token goes with it.

    put  the engine adds it; False: it finds one of PREFIXES in the text
    """
    own = [(p, ids_before(reference, p)) for p in ([prompt] if put else PREFIXES)]

    def pooler(hidden: Float, ids: list[int]) -> Any:
        n = next((len(front) for _, front in own if ids[: len(front)] == front and len(front) < len(ids)), 0)
        return POOLERS[reference.pooling](hidden[n : len(ids)])

    changed = replace(reference, pooler=pooler)
    return changed.add(text=partial(str.__add__, prompt)) if put else changed


def ids_before(reference: Reference, prompt: str) -> list[int]:
    """Ids of a prompt, without the closing one; a space at its end belongs to the word that follows."""
    ids = reference.encode(reference.tokenizer, prompt.rstrip())
    return ids[:-1] if ids[-1:] == [closing(reference.tokenizer.vocab)] else ids


def added(name: str, function: object, reference: Reference) -> Reference:
    """The reference with one more function in that tuple."""
    return reference.add(**{name: function})


def vocabulary_hypotheses(reference: Reference) -> list[Hypothesis]:
    """Normalizer flags the other way round, and special tokens in a text taken as text."""
    vocab, found = reference.tokenizer.vocab, []
    rows: list[tuple[str, str, Change]] = [
        ("specials-unparsed", "takes special tokens spelled out in a text as text", unparsed)
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
        rows += [
            ("space-behind-specials", "puts no space behind special tokens inside a text", space_in_front_alone),
            ("space-not-doubled", "puts no space in front of a text that begins with one",
             lambda r: r.add(text=lambda t: t.removeprefix(" "))),
        ] if vocab.add_space_prefix else []  # fmt: skip
    for id, says, change in rows:
        found.append(Hypothesis(id, "text", says, change))
    return found


def space_in_front_alone(reference: Reference) -> Reference:
    """A space in front of the whole text, none behind a special token within it, as `legacy: false` has it."""
    old = reference.tokenizer
    bare = type(old)(replace(old.vocab, add_space_prefix=False), old.where)
    own = reference.encode
    specials = {i for i in (old.vocab.bos, old.vocab.eos, old.vocab.unk, old.vocab.pad) if i is not None}

    def encode(_: Any, text: str) -> list[int]:
        front = len(old.front()) if fronts(reference) else 0
        begins = own(bare, text)[front : front + 1]
        return own(bare, text if begins and begins[0] in specials else " " + text)

    return replace(reference, encode=encode)


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
        ("unknown-dropped", "drops unknown tokens", lambda ids: [i for i in ids if i != vocab.unk]),
        ("repeats-dropped", "drops a token that is the same as the one before it",
         lambda ids: [i for k, i in enumerate(ids) if not k or i != ids[k - 1]]),
        ("first-word-lost", "loses the first token behind the opening ones",
         lambda ids: [*ids[: len(opens)], *ids[len(opens) + 1 :]]),
        ("words-backwards", "reads the tokens between the special ones backwards",
         lambda ids: [*ids[: len(opens)], *ids[len(opens) : len(ids) - has_end][::-1], *ids[len(ids) - has_end :]]),
        ("tokens-sorted", "sorts the tokens between the special ones",
         lambda ids: [*ids[: len(opens)], *sorted(ids[len(opens) : len(ids) - has_end]), *ids[len(ids) - has_end :]]),
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
    """Texts filled up with [PAD] that attention looks at: to a length, or to a multiple."""
    pad = reference.tokenizer.vocab.pad
    if pad is None:
        return []
    found = []
    for n in (8, 16, 24, 32, 48, 64, 128, 256, 512):
        if n > reference.info.n_ctx:
            continue
        says = f"fills texts up to {n} tokens with padding and attends to it"
        for more, id, spelled in (
            (False, f"padding-{n}", says), (True, f"padding-{n}-pooled", f"{says}, pooling it too"),
        ):  # fmt: skip
            found.append(Hypothesis(id, "tokens", spelled, partial(padded, pad, partial(up_to, n), more), "padding"))
        if n <= 64:
            says = f"fills texts up to a multiple of {n} tokens with padding and attends to it"
            for more, id, spelled in (
                (False, f"padding-multiple-{n}", says),
                (True, f"padding-multiple-{n}-pooled", f"{says}, pooling it too"),
            ):
                fill = partial(multiple_of, n, reference.info.n_ctx)
                found.append(Hypothesis(id, "tokens", spelled, partial(padded, pad, fill, more), "padding"))
    return found


def up_to(n: int, length: int) -> int:
    """At least n."""
    return max(n, length)


def multiple_of(n: int, most: int, length: int) -> int:
    """The next multiple of n, within the window."""
    return min(-(-length // n) * n, max(most, length))


def padded(pad: int, fill_to: Callable[[int], int], pooled: bool, reference: Reference) -> Reference:
    """Ids filled up. pooled: the padding counts as tokens of the text."""

    def fill(ids: list[int]) -> list[int]:
        return ids + [pad] * (fill_to(len(ids)) - len(ids))

    if pooled:
        return reference.add(tokens=fill)

    def together(texts: list[list[int]]) -> list[list[int]]:
        return [fill(ids) for ids in texts]

    return replace(reference, together=together)
