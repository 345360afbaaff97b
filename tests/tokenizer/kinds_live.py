"""Texts for, and comparisons with, live llama.cpp that every kind of tokenizer takes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from refembed.testing.texts import random_texts
from refembed.tokenizer import Tokenizer
from refembed.tokenizer.attributes import Attribute
from refembed.verify.engines.llamacpp import LlamaCpp

BOTH = (False, True)
SWITCHES = [(a, b) for a in BOTH for b in BOTH]

NASTY: list[str | bytes] = [
    "", " ", "  ", "▁", "▁▁ ▁", " ▁ ", "\0", "a\0b", "\0\0", "\n", "\n\n\n", "\t \n", "\u3000\xa0\u2003", "a  b", " a",
    "a ", "▁a▁b", "a▁ b", "xxxxxxxxxxxxxxxxxxxxxxx", "a\u0301\u0300\u0323", "\u0301", "\u0323\u0301e", "ｅ\u0301",
    "e\u0301\u0323",
    "👨‍👩‍👧‍👦", "🏳️‍🌈👍🏽", "한국어", "\u1112\u1161\u11ab", "ﬁne ①½", "ＡＢＣ Ａz ａ", "<é<", "<0x41><0xFF>",
    "<s>", "</s></s>", "<unk> <pad>", "abcdabcab", "abcd", "ab<ab<", "x x", "gone▁of of", "[PAD1][PAD11]", "x[PAD2",
    "[[PAD3]]", "\ufeffx", "x\ufeff", "\ufeff\ufeff", "\ufffd", "def f(x):\n    return x\n", "1234567890 1e-5",
    "«Σίσυφος» и\u0306", "z▁z ▁", b"\xff", b"\x80\x80", b"\xe2", b"\xe2A", b"a\xe2", b"\xe2 \x81", b"\xc3", b"\xc3(",
    b"\xe2\x96\x81\xe2\x96", b"a\xffb", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
    b"a\xf7\xbf\xbf\xbfb", b"\xf8\x88a b", b"\xe2<s>\x96\x81", b"\xe2\x96<user>", b"\xef\xbb\xbfx", b"\xef\xbb",
    b"\xef\xbf\xbd", b"\xef\xbc\xa1", b"\xef\xbc", b"w\xe2\x82\xacq q", b"qx\x81", b"\xe2\x82q", b"\xcc\x81a\xcc",
    b"\xf4\x90\x80\x80\xef\xbb\xbfx", b"\xe1\x84\x92",
]  # fmt: skip


def texts(tokenizer: Tokenizer, n: int, seed: int) -> list[str | bytes]:
    """The nasty texts and n random ones; two in five have special tokens of this vocabulary put in, and odd spaces."""
    rng = random.Random(seed)
    special = [s.text for s in tokenizer._specials[True]][:500]
    result: list[str | bytes] = []
    for text in random_texts(seed, n):
        raw = text.encode() if isinstance(text, str) else text
        for _ in range(rng.randrange(1, 4) if special and rng.random() < 0.4 else 0):
            at = rng.randrange(len(raw) + 1)
            around = rng.choice((b"", b" ", b" \t", b"\xc2\xa0")), rng.choice((b"", b"  ", b"\n "))
            raw = raw[:at] + rng.choice(special).join(around) + raw[at:]
        result.append(raw)
    return NASTY + result


def assert_equal_ids(engine: LlamaCpp, tokenizer: Tokenizer, texts: Sequence[str | bytes]) -> None:
    """Compare ids, special tokens added or not, parsed or not; a failure names the first text."""
    for add, parse in SWITCHES:
        theirs = engine.tokenize_many(texts, add, parse)
        ours = [tokenizer.encode(t, add, parse) for t in texts]
        differing = [i for i in range(len(texts)) if ours[i] != theirs[i]]
        first = differing[0] if differing else 0
        assert not differing, (len(differing), add, parse, texts[first], ours[first], theirs[first])


def assert_equal_pieces(engine: LlamaCpp, tokenizer: Tokenizer, n: int, seed: int) -> None:
    """Compare what n ids stand for, and texts of sequences of them; ids of no ordinary token come first."""
    rng = random.Random(seed)
    odd = [i for i, bits in enumerate(tokenizer.vocab.attributes.tolist()) if bits != Attribute.NORMAL]
    ids = rng.sample(odd, min(n // 2, len(odd))) + rng.choices(range(len(tokenizer.vocab)), k=n // 2)
    for i in ids:
        for special in BOTH:
            assert tokenizer.piece(i, special) == engine.piece(i, special), (i, special)
    roles = [i for i in (tokenizer.vocab.bos, tokenizer.vocab.eos, tokenizer.vocab.unk) if i is not None]
    for _ in range(40):
        sequence = [
            rng.choice(roles) if roles and rng.random() < 0.3 else rng.choice(ids) for _ in range(rng.randrange(9))
        ]
        for remove, unparse in SWITCHES:
            theirs = engine.detokenize_bytes(sequence, remove, unparse)
            assert tokenizer.decode_bytes(sequence, remove, unparse) == theirs, (sequence, remove, unparse)
