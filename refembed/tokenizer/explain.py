"""What each stage makes of a text on its way to ids: to see where two tokenizers differ.

    text            Hello, [SEP] Welt!
    special tokens  Hello,␣ [SEP] ␣Welt!        cut out first, from the bytes as they are
    normalized      hello , [SEP] welt !
    pre-tokens      hello , [SEP] welt !        what is tokenized on its own
    pieces          ▁hello ▁, [SEP] ▁we lt ▁!   tokens of the vocabulary
    added           [CLS] ... [SEP]
    ids             101 7592 1010 102 ...

A stage that a kind does not have is left out: byte-pair encoding does not normalize, SentencePiece has no pre-tokens.
The steps are the encoders' own: `fragments` and `surround` of every `Tokenizer`, and what its `encode_text` calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from refembed.tokenizer.base import Tokenizer, as_bytes
from refembed.tokenizer.special import Fragment
from refembed.tokenizer.unicode import decode


@dataclass(frozen=True)
class Stage:
    """What a text has become. A special token is its id; all else is bytes, as the vocabulary spells them."""

    name: str  # one of NAMES
    parts: tuple[Fragment, ...]
    rule: str  # what made it so, with the GGUF keys that decide


NAMES = ("text", "special tokens", "normalized", "pre-tokens", "pieces", "added", "ids")


@dataclass(frozen=True)
class Hooks:
    """The steps of one kind, and rules, in which `{pre}` is `Vocab.pre`. None: the kind does not have that stage."""

    pieces: str  # how pieces come about
    normalize: Callable[[Any, bytes], bytes] | None = None  # tokenizer, fragment
    normalized: str = ""
    split: Callable[[Any, bytes], Iterable[bytes]] | None = None  # likewise
    pre_tokens: str = ""


def stages(
    tokenizer: Tokenizer, text: str | bytes, add_special: bool = True, parse_special: bool = False
) -> list[Stage]:
    """What each stage makes of a text. Arguments and errors as in `Tokenizer.encode`."""
    raw, vocab = as_bytes(text), tokenizer.vocab
    hooks = HOOKS.get(vocab.kind, Hooks("tokenizer.ggml.model"))
    fragments = tokenizer.fragments(raw, parse_special)
    found = [Stage("text", (raw,) if raw else (), "as UTF-8"), cuts(fragments, parse_special)]
    if normalize := hooks.normalize:
        parts = each(fragments, lambda f: [normalize(tokenizer, f)])
        found.append(Stage("normalized", parts, hooks.normalized.format(**vars(vocab))))
    if split := hooks.split:
        parts = each(fragments, lambda f: split(tokenizer, f))
        found.append(Stage("pre-tokens", parts, hooks.pre_tokens.format(**vars(vocab))))
    ids = tokenizer.encode_fragments(fragments)
    found.append(Stage("pieces", tuple(vocab.tokens[i] for i in ids), hooks.pieces))
    if add_special:
        found.append(Stage("added", (*tokenizer.front(), *tokenizer.back()), added(tokenizer)))
        ids = tokenizer.surround(ids)
    return [*found, Stage("ids", tuple(ids), f"{len(ids)} of the {len(vocab)} tokens' ids")]


def each(fragments: Iterable[Fragment], step: Callable[[bytes], Iterable[bytes]]) -> tuple[Fragment, ...]:
    """What a step makes of each raw fragment; special tokens as they are, empty parts left out."""
    parts = (part for f in fragments for part in ([f] if isinstance(f, int) else step(f)))
    return tuple(part for part in parts if part != b"")


def cuts(fragments: Iterable[Fragment], parse_special: bool) -> Stage:
    """The stage behind cutting out special tokens."""
    which = (
        "control, unknown and user-defined tokens" if parse_special else "user-defined tokens (parse_special is off)"
    )
    return Stage("special tokens", tuple(fragments), f"{which}, by tokenizer.ggml.token_type, the longest first")


def added(tokenizer: Tokenizer) -> str:
    """Why these special tokens are added."""
    vocab = tokenizer.vocab
    if vocab.kind == "bert":
        return "BOS, which is [CLS], and SEP: always"
    wanted = [name for name, on in (("add_bos_token", vocab.add_bos), ("add_eos_token", vocab.add_eos)) if on]
    return f"tokenizer.ggml.{', tokenizer.ggml.'.join(wanted)}" if wanted else "neither add_bos_token nor add_eos_token"


# -- the kinds -------------------------------------------------------------------------------------------------------


# fmt: off
BYTE_PAIR = Hooks(
    "neighbors merge in the order of tokenizer.ggml.merges",
    lambda t, text: as_bytes(decode(t.spell(text))), "bytes that are no UTF-8 are U+FFFD",
    lambda t, text: map(as_bytes, t.pre.split(decode(t.spell(text)))), "tokenizer.ggml.pre = {pre!r}",
)
HOOKS = {
    "bert": Hooks(
        "the longest token from the left, or [UNK] for the whole word",
        lambda t, text: b" ".join(map(as_bytes, t.split(text))),
        "tokenizer.ggml.normalizer.lowercase = {lowercase}, strip_accents = {strip_accents}",
        lambda t, text: map(as_bytes, t.split(text)), "white space, punctuation and ideographs",
    ),
    "gpt2": BYTE_PAIR,
    "gemma4": BYTE_PAIR,
    "whitespace": Hooks(
        BYTE_PAIR.pieces,
        lambda t, text: as_bytes(t.fold(text)), "tokenizer.ggml.normalizer.lowercase = {lowercase}",
        lambda t, text: map(as_bytes, t.fold(text).split(" ")), "white space, which is lost",
    ),
    "hybriddna": Hooks("as gpt2; six bases to a token between <dna> and </dna>"),
    "llama": Hooks(
        "neighbors merge by tokenizer.ggml.scores, the highest first",
        lambda t, text: t.spell(text, t.vocab.add_space_prefix),  # each begins a text, or follows a special token
        "a space is U+2581; tokenizer.ggml.add_space_prefix = {add_space_prefix}",
    ),
    "t5": Hooks(
        "the highest sum of tokenizer.ggml.scores",
        lambda t, text: t.normalizer(text),
        "tokenizer.ggml.precompiled_charsmap, remove_extra_whitespaces, add_space_prefix = {add_space_prefix}",
    ),
    "rwkv": Hooks("the longest token from the left"),
    "plamo2": Hooks("the highest sum of tokenizer.ggml.scores, from the end"),
}
# fmt: on
