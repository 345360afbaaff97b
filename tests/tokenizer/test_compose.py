"""Composed texts: Unicode's rules, what llama.cpp b11739's own function makes of them, and the file's key."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.tokenizer import load_tokenizer
from refembed.tokenizer._composition_data import CLASS_RUNS, LATER_PAIRS
from refembed.tokenizer.compose import characters, compose, numbers, tables
from refembed.tokenizer.unicode import category
from tests.tokenizer.kinds_vocabs import VARIANTS, write_vocab
from tests.tokenizer.vocabs import flag
from tools import generate_composition

# ranges of code points where something composes, decomposes or is ordered
RANGES = (
    (0x41, 0x24F), (0x340, 0x345), (0x370, 0x3FF), (0x430, 0x4FF), (0x900, 0xDFF), (0x1100, 0x11FF), (0x1B00, 0x1B44),
    (0x1E00, 0x1FFF), (0x2126, 0x212B), (0x226D, 0x22ED), (0x3040, 0x30FF), (0xAC00, 0xD7A3), (0xF900, 0xFB4E),
    (0x105C0, 0x105FF), (0x11080, 0x115CF), (0x11930, 0x1193F), (0x16100, 0x16130), (0x16D40, 0x16D70),
    (0x1D150, 0x1D1C0), (0x2F800, 0x2FA1D), (0, 0x10FFFF),
)  # fmt: skip
# sha256 of what unicode_cpts_normalize_nfc of llama-cpp-py-sync 0.11739's libllama makes of `texts(20_000)`, as UTF-32
ANSWERED = "55b14f80655b2f8c223f808bf891b90ce78924c5ea46dbc04e4b6650a3e6901f"


def texts(n: int) -> Iterator[str]:
    """n texts of 1 to 12 characters, two in five of them marks."""
    rng = random.Random(16)
    marks = [cp for first, last, _ in numbers(CLASS_RUNS) for cp in range(first, last + 1)]
    for _ in range(n):
        some = (rng.choice(marks) if rng.random() < 0.4 else rng.randint(*rng.choice(RANGES)) for _ in range(12))
        yield "".join(map(chr, list(some)[: rng.randint(1, 12)]))


def test_20000_texts_are_composed_as_llama_cpp_does_it():
    found = hashlib.sha256()
    for text in texts(20_000):
        found.update(compose(text).encode("utf-32-le", "surrogatepass"))
    assert found.hexdigest() == ANSWERED


def known_to_both(c: str) -> bool:
    """Whether the interpreter, of Unicode 13 or later, has the character as Unicode 16 has it."""
    return unicodedata.category(c) != "Cn" and category(ord(c)) != "U"


@given(st.lists(st.sampled_from([chr(cp) for a, b in RANGES[:-1] for cp in range(a, b + 1) if known_to_both(chr(cp))]
                                + [c for c in sorted(tables().classes) if known_to_both(c)])))  # fmt: skip
def test_texts_are_what_the_interpreter_composes(characters):
    text = "".join(characters)
    assert compose(text) == unicodedata.normalize("NFC", text)


def test_every_character_that_the_interpreter_knows_is_composed_as_it_does():
    known = [c for c in map(chr, range(0x110000)) if known_to_both(c)]
    assert [c for c in known if compose(c) != unicodedata.normalize("NFC", c)] == []


@pytest.mark.parametrize(
    ("text", "composed"),
    [
        ("\U000105d2\u0307", "\U000105c9"),  # UnicodeData.txt 16.0: 105C9;TODHRI LETTER EI;Lo;0;L;105D2 0307
        ("\U0001611e\U0001611e\U0001611f", "\U00016126"),  # 16126 is 16121 1611F, and 16121 1611E 1611E
        ("a\u0897\u0323", "\u1ea1\u0897"),  # 0897 has class 230, the dot below 220 (DerivedCombiningClass.txt 16.0)
        ("a\u0323\u0301", "\u1ea1\u0301"),
        ("a\u0301\u0300", "\u00e1\u0300"),  # both of class 230: the second is blocked
        ("a\u034f\u0301", "a\u034f\u0301"),  # 034F is a starter, and keeps them apart
        ("\u0344", "\u0308\u0301"),  # CompositionExclusions.txt: decompositions that begin with a mark
        ("\u1100\u1161\u11a7", "\uac00\u11a7"),  # 11A7 stands before the trailing consonants
        ("\uac00\u11a8", "\uac01"),
        ("", ""),
    ],
)
def test_examples_of_the_standard(text, composed):
    assert compose(text) == composed
    assert compose(composed) == composed


@pytest.mark.parametrize(
    ("raw", "read"),
    [  # unicode_cpts_from_utf8 of llama-cpp-py-sync 0.11739
        (b"\xc0\xaf", "\ufffd\ufffd"),
        (b"A\xe0\x8f\x8f\xef", "A\ufffd\ufffd\ufffd\ufffd"),
        (b"\xed\xa0\xbf\xc0", "\ud83f\ufffd"),
        (b"\xe0\xa0A", "\ufffd\ufffdA"),
        (b"a\xf7\xbf\xbf\xbfb", "a\ufffd\ufffd\ufffd\ufffdb"),
        (b"\xf4\x90\x80\x80\xef\xbb\xbfx", "\ufffd\ufffd\ufffd\ufffd\ufeffx"),
    ],
)
def test_bytes_are_read_as_the_build_that_composes_reads_them(raw, read):
    assert characters(raw) == read


def test_the_table_is_what_the_generator_writes():
    """From the table's own numbers: its form, and that it is whole. The tool itself asks unicodedata2."""
    classes = [0] * 0x110000
    for first, last, value in numbers(CLASS_RUNS):
        classes[first : last + 1] = [value] * (last + 1 - first)
    pairs = {cp: (a, b) for cp, a, b in numbers(LATER_PAIRS)}
    assert generate_composition.TARGET.read_text(encoding="utf-8") == generate_composition.table(classes, pairs)


def test_the_key_composes_texts_of_unigram_and_of_no_other_kind(tmp_path):
    nfc = flag("normalizer.nfc", True)
    text, composed, matters = "e\u0301t a\u0301\u0300 \u1112\u1161\u11ab", "\u00e9t \u00e1\u0300 \ud55c", set()
    for variant in VARIANTS.values():
        with_key = load_tokenizer(write_vocab(tmp_path / "k.gguf", variant, nfc))
        without = load_tokenizer(write_vocab(tmp_path / "m.gguf", variant))
        assert with_key.encode(text) == without.encode(composed if variant[0] == "t5" else text)
        if without.encode(text) != without.encode(composed):
            matters.add(variant[0])
    assert {"t5", "llama"} <= matters
