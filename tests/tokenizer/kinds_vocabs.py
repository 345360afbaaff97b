"""Vocabularies of the kinds "llama", "t5", "rwkv" and "plamo2": random from a seed, and made to be awkward."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from refembed.testing.texts import CODE, EMOJI, SPECIAL, WORDS, below, pick
from tests.tokenizer.kinds_charsmap import BROKEN_PAIRS, nfkc_pairs, write_charsmap
from tests.tokenizer.vocabs import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Key, Typed, flag, role
from tests.tokenizer.vocabs import write_vocab as write

Variant = tuple[str, list[Typed], list[Key]]  # tokenizer.ggml.model, tokens, keys

BYTES: list[Typed] = [(f"<0x{b:02X}>", BYTE) for b in range(256)]
HEAD: list[Typed] = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
MARKED: list[Typed] = [("<user>", USER_DEFINED), ("ab<", USER_DEFINED), (" x", USER_DEFINED), ("<pad>", CONTROL)]
MARKED += [("gone", UNUSED), ("▁of", UNUSED), ("typeless", 0), ("<other>", UNKNOWN), ("of", CONTROL)]
BROKEN: list[Typed] = [(t, NORMAL) for t in (b"\xe2", b"\xe2A", b"\xff\xfe", b"a\xcc", b"\x81e", b"\xed\xa0\x80")]


def pieces(seed: int, n: int, joint: str = "▁") -> list[Typed]:
    """Up to n parts of texts, of 1 to 6 characters, some with spaces (as `joint`) in the middle; single ones first."""
    rng = random.Random(seed)
    text = joint.join((*WORDS, *CODE, *EMOJI, *SPECIAL, "xxxxxxxx", "a\u0301\u0300", "  ", "...", "12345")) * 2
    text = text.replace(" ", joint)
    singles = sorted(set(text))
    found = dict.fromkeys(c for c in singles if rng.random() < 0.8)
    for _ in range(n):
        at = below(rng, len(text))
        found[text[at : at + pick(rng, (2, 2, 2, 3, 3, 4, 5, 6))]] = None
    return [(t, NORMAL) for t in found if t.strip("\0")]


def distinct(*groups: Iterable[Typed]) -> list[Typed]:
    """Groups in a row, each text once: the first."""
    seen: dict[bytes, Typed] = {}
    for token in (t for group in groups for t in group):
        seen.setdefault(token[0].encode() if isinstance(token[0], str) else token[0], token)
    return list(seen.values())


def scores(values: Sequence[float]) -> Key:
    """The scores of all tokens."""
    return "scores", list(values), "ARRAY[FLOAT32]"


def charsmap(blob: bytes, kind: str = "UINT8") -> Key:
    """A charsmap; as INT8 bytes above 127 are negative."""
    values = [b - 256 if b > 127 and kind == "INT8" else b for b in blob]
    return "precompiled_charsmap", values, f"ARRAY[{kind}]"


# -- SPM ------------------------------------------------------------------------------------------------------------


def spm() -> dict[str, Variant]:
    """Random scores, so that merges come in an order that no training gives."""
    rng = random.Random(1)
    tokens = distinct(HEAD, BYTES, MARKED, pieces(2, 3000))
    random_scores = scores([rng.uniform(-9, 3) for _ in tokens])
    some = scores([below(rng, 6) - 3 for _ in tokens])
    bare = distinct(HEAD, MARKED, BROKEN, ((bytes([b]), NORMAL) for b in range(1, 256)), pieces(3, 2000), BYTES[:1])
    merges = distinct(HEAD, BYTES, pieces(4, 6000, joint=" "))  # no ▁ at all
    return {
        "random": ("llama", tokens, [random_scores]),
        "ties": ("llama", tokens, [some, flag("add_space_prefix", False), flag("add_eos_token", True)]),
        "no-scores": ("llama", tokens, [flag("add_bos_token", False)]),
        "bare-bytes": ("llama", bare, [scores([rng.random() for _ in bare])]),
        "no-word-starts": ("llama", merges, [scores([rng.random() for _ in merges])]),
    }


# -- Unigram --------------------------------------------------------------------------------------------------------

T5_HEAD: list[Typed] = [("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN), ("▁", NORMAL)]
ODD: list[Typed] = [("Ａz", USER_DEFINED), ("<é", USER_DEFINED), ("typeless", 0), ("<0x41>", BYTE), ("<0xff>", BYTE)]
ODD += [("e▁a", USER_DEFINED), ("▁the", USER_DEFINED)]  # found only after normalization


def unigram() -> dict[str, Variant]:
    """All four white-space rules, with and without a charsmap; scores that tie, round, and are no log-probabilities."""
    rng = random.Random(5)
    tokens = distinct(T5_HEAD, MARKED, ODD, pieces(6, 4000))
    broken = distinct(T5_HEAD, ODD, BROKEN, pieces(7, 1500))
    usual = scores([-rng.uniform(2, 14) for _ in tokens])
    ties = scores([-2 - below(rng, 4) for _ in tokens])
    round_off = scores([-rng.uniform(2, 14) * 10 ** rng.uniform(-30, 12) for _ in tokens])
    strange = scores([pick(rng, (float("nan"), float("-inf"), -1e38, 0.0, 2.5)) for _ in tokens])
    both = [flag("add_space_prefix", True), flag("remove_extra_whitespaces", True)]
    nfkc = write_charsmap(nfkc_pairs())
    return {
        "both": ("t5", tokens, [usual, charsmap(nfkc), *both, role("bos", 0), flag("add_bos_token", True)]),
        "prefix": ("t5", tokens, [ties, charsmap(nfkc, "INT8"), both[0]]),
        "merge": ("t5", tokens, [round_off, charsmap(nfkc), both[1]]),
        "neither": ("t5", tokens, [usual, flag("add_eos_token", False)]),
        "no-map": ("t5", tokens, [ties, *both]),
        "broken": ("t5", broken, [charsmap(write_charsmap(nfkc_pairs() | BROKEN_PAIRS)), both[0]]),
        "strange": ("t5", tokens, [strange, both[1]]),
        "no-normal": ("t5", [t for t in tokens if t[1] != NORMAL], [both[0]]),
    }


# -- RWKV -----------------------------------------------------------------------------------------------------------


def escaped(token: bytes) -> bytes:
    """As GGUF keeps it, mostly: some bytes that need no escape have one."""
    special = {9: b"\\t", 10: b"\\n", 13: b"\\r", 92: b"\\\\", 39: b"\\'"}
    return b"".join(special.get(b, bytes([b]) if 32 <= b < 127 else b"\\x%02x" % b) for b in token)


def rwkv() -> dict[str, Variant]:
    """All bytes and parts of texts; then some bytes not, and tokens whose escapes are not what any writer makes."""
    singles: list[Typed] = [(escaped(bytes([b])), NORMAL) for b in range(256)]
    parts: list[Typed] = [(escaped(str(t).encode()), kind) for t, kind in pieces(8, 3000, joint=" ")]
    odd: list[Typed] = [
        (t, NORMAL) for t in (b"\\x", b"\\xAB", b"\\xzz", b"a\\x4", b"b\\", b"\\q\\x", b"\\x9\xff", b"\\\xff")
    ]
    raw: list[Typed] = [("日本", NORMAL), ("é", NORMAL), ("\\n\\n", USER_DEFINED), ("\\t\\t", CONTROL)]
    head: list[Typed] = [("<s>", CONTROL)]
    missing = [t for b, t in enumerate(singles) if b not in (0, 10, 0x41, 0xC3, 0xFF)]
    fewer = distinct(head, missing, odd, ((t, NORMAL) for t in ("the", "th", "ing", "12", "123", "12345")))
    return {
        "rwkv": ("rwkv", distinct(head, singles, MARKED, parts, raw), []),
        "sparse": ("rwkv", fewer, [role("unknown", 0), role("bos", 1), flag("add_bos_token", True)]),
    }


# -- PLaMo-2 --------------------------------------------------------------------------------------------------------


def plamo2() -> dict[str, Variant]:
    """Ties, padding tokens of score -1000 (which stop the search for shorter ones), scores that are never chosen."""
    rng = random.Random(9)
    head: list[Typed] = [("<|plamo:unk|>", UNKNOWN), ("<|plamo:bos|>", CONTROL), ("<|plamo:eos|>", CONTROL)]
    padding: list[Typed] = [(f"[PAD{i}]", UNUSED) for i in range(1, 12)]
    tokens = distinct(head, BYTES, padding, MARKED, pieces(10, 3000, joint=" "))
    usual = [-1000.0 if t in padding else -rng.uniform(1, 15) for t in tokens]
    broken = distinct(head, BYTES, BROKEN, pieces(10, 300, joint=" "))
    choices = (-1.0, -2.0, -3.0, -1000.0, -2000.0, -1999.9999, 5.0, float("nan"), float("-inf"), 0.00005, -0.00015, 3e5)
    return {
        "plamo2": ("plamo2", tokens, [scores(usual)]),
        "ties": ("plamo2", tokens, [scores([pick(rng, choices) for _ in tokens]), flag("add_bos_token", True)]),
        "broken": ("plamo2", broken, [scores([-1.0 for _ in broken])]),
        "adds": ("plamo2", tokens, [flag("add_eos_token", True), flag("add_space_prefix", True)]),
    }


VARIANTS: dict[str, Variant] = {
    f"{kind.__name__}-{name}": v for kind in (spm, unigram, rwkv, plamo2) for name, v in kind().items()
}


def write_vocab(path: Path, variant: Variant, *more: Key) -> Path:
    """Write a variant and return its path. `more` keys go over its own."""
    model, tokens, keys = variant
    everything: dict[str, Any] = {key[0]: key for key in (("model", model, "STRING"), *keys, *more)}
    return write(path, tokens, *everything.values())
