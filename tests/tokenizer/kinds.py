"""A small vocabulary of each kind, and what files say around it: for what all kinds share.

Rules of one kind have tests of their own. These are about roles, flags, bits, cuts and the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refembed.testing.texts import CODE, WORDS
from refembed.tokenizer.bpe import SYMBOL_OF_BYTE
from tests.tokenizer.vocabs import (
    BYTE,
    CONTROL,
    NORMAL,
    PHI,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Key,
    Typed,
    bert,
    flag,
    role,
    write_vocab,
)

# Every type, at the places of every kind's defaults: BOS 1, EOS 2, unknown 0, padding 0 or 3, and 11 for gpt2.
HEAD: list[Typed] = [
    ("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<pad>", CONTROL), ("[SEP]", CONTROL),
    ("<mask>", CONTROL), ("<user>", USER_DEFINED), ("ab<", USER_DEFINED), ("b<cd", USER_DEFINED),
    ("<Ünïcode  >", USER_DEFINED), ("gone", UNUSED), ("<|endoftext|>", CONTROL), ("<|im_end|>", NORMAL),
    ("typeless", 0), ("strange", 99), ("<|user|>", CONTROL), ("<other>", UNKNOWN),
    ("<PRE>", NORMAL), ("<SUF>", NORMAL), ("<MID>", NORMAL),  # special unless the file names others
]  # fmt: skip
BYTES: list[Typed] = [(f"<0x{b:02X}>", BYTE) for b in range(256)]
MARKS = ("'", "?", "!", ".", ",", "s", "m", "re", "ve")  # what tidying of spaces looks for
PIECES = sorted(
    {
        w[a:b]
        for w in (*WORDS[:24], "hello", "world", "1234", *MARKS)
        for a in range(len(w))
        for b in range(a + 1, len(w) + 1)
    }
)


def pieces(*starts: str) -> list[Typed]:
    """Parts of words, each also with what a word may start with."""
    return [(start + p, NORMAL) for p in PIECES for start in ("", *starts)]


def scores(tokens: Sequence[Typed]) -> Key:
    """Longer tokens have higher scores; no two have the same."""
    return "scores", [len(t) - 30 - i / 1e4 for i, (t, _) in enumerate(tokens)], "ARRAY[FLOAT32]"


def merges() -> list[bytes]:
    """Merges that lead from letters to the pieces, shortest first."""
    spelled = ([SYMBOL_OF_BYTE[b] for b in p.encode()] for p in sorted(PIECES, key=len))
    return list({b"".join(s[:-1]) + b" " + s[-1]: None for s in spelled if len(s) > 1})


def unique(tokens: Sequence[Typed]) -> list[Typed]:
    """Each text once."""
    return list({text: (text, kind) for text, kind in reversed(tokens)}.values())[::-1]


def model(name: str) -> Key:
    """tokenizer.ggml.model."""
    return "model", name, "STRING"


def of_kind(kind: str) -> tuple[list[Typed], list[Key]]:
    """Tokens and keys of a vocabulary of a kind."""
    if kind == "bert":
        return bert("<mask>", "<s>", "<|im_end|>", "<|endoftext|>", "<unk>", "<|user|>"), []
    if kind == "gpt2":
        joined = [(m.replace(b" ", b""), NORMAL) for m in merges()]
        tokens = unique([*HEAD, *((s, NORMAL) for s in SYMBOL_OF_BYTE), *joined])
        return tokens, [model(kind), ("pre", "gpt-2", "STRING"), ("merges", merges(), "ARRAY[STRING]")]
    if kind == "rwkv":
        raw = [(f"\\x{b:02x}", NORMAL) for b in range(256)]
        words = [(p, NORMAL) for p in PIECES if p.isascii() and "\\" not in p and len(p) > 1]
        return unique([*HEAD, *raw, *words]), [model(kind)]
    tokens = unique([*HEAD, *BYTES, ("▁", NORMAL), *pieces("▁")])
    return tokens, [model(kind), scores(tokens)]


KINDS = ("bert", "gpt2", "llama", "t5", "rwkv", "plamo2")
ADDED = ("bos", "eos", "sep")
NAMED = [role("bos", 1), role("eos", 2), role("seperator", 4)]

# Name -> keys: what a file can say around its tokens, whatever the kind.
SAID: dict[str, list[Key]] = {
    "nothing": [],
    "nothing-added": [flag(f"add_{r}_token", False) for r in ADDED],
    "all-added": [*NAMED, *(flag(f"add_{r}_token", True) for r in ADDED)],
    "eos-alone": [*NAMED, flag("add_bos_token", False), flag("add_eos_token", True), flag("add_space_prefix", False)],
    "one-role": [role(r, 5) for r in ("bos", "eos", "seperator", "unknown", "padding", "mask", "eot", "eom")],
    "beyond": [role("bos", 1 << 20), role("eos", 0xFFFFFFFF), role("seperator", 4), role("cls", 3), role("mask", 5)],
    "old-fim": [role("fim_pre", 7), role("prefix", 8), role("suffix", 9), role("middle", 1 << 20), role("fim_mid", 10)],
    "older-fim": [role("prefix", 8), role("middle", 1 << 20)],
    "prefix": [flag("add_space_prefix", True), flag("remove_extra_whitespaces", True)],
    "phi": [("general.name", "Phi-3 of ours", "STRING")],
    "mask-strips": [("general.architecture", "nomic-bert-moe", "STRING")],
}

TEXTS: list[str | bytes] = [
    "", " ", "hello world", " hello  world ", "<s>hello</s>", "<s> hello", "a<s>", "</s>", "hello</s> world", "<s><s>x",
    "hello <mask> world", "\t<mask>\n", "a\u00a0<mask>\u00a0b", "ab<cd ab<", "<user> x<user>y", "<Ünïcode  >",
    "<other>", "<|im_end|> \n the", "<|endoftext|> \n the", "<|user|>  the</s>  of", "<unk>the<unk>",
    "gone typeless strange", "<0x41>", "[SEP]the[SEP] of", "the of and", "ΟΔΟΣ unaffable", "don't , naïve !",
    b"ab\xffcd", b"\xc3", "日本", *CODE,
]  # fmt: skip


def write_kind(folder: Path, kind: str, said: str) -> Path:
    """A vocabulary of a kind in a file that says so much around it."""
    tokens, keys = of_kind(kind)
    assert said != "phi" or set(PHI) <= {t for t, _ in tokens}
    return write_vocab(folder / f"{kind}-{said}.gguf", tokens, *keys, *SAID[said])
