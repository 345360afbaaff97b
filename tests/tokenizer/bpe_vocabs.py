"""Small byte-pair vocabularies whose ids give away how a text was cut into pieces, and texts to cut.

Any two neighbors may merge, in an order drawn at random: where a piece ends decides which of them do. Whole words are
tokens that no merge leads to: they come out only where merges are ignored.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from refembed.testing.texts import CODE, EMOJI, SPACES, SPECIAL, WORDS, random_texts, split
from refembed.tokenizer.bpe import SYMBOL_OF_BYTE as SYMBOLS
from tests.tokenizer.vocabs import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Key, Typed, role, write_vocab

HEAD: list[Typed] = [
    ("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("[SEP]", CONTROL), ("<mask>", USER_DEFINED),
    ("<|im_end|>", CONTROL), ("ab<", USER_DEFINED), ("odd €", NORMAL), ("[PAD]", NORMAL),
]  # fmt: skip
ROLES = [role("unknown", 0), role("bos", 1), role("eos", 2), role("seperator", 3)]
CHARACTERS = sorted(
    {*map(chr, range(1, 128)), *"".join(WORDS), *"▁ \u3000\xa0\u2028\ufffdé中文²½٣①😀👍\u200d\ufe0f\u0301"}
)
ASCII = ("\t", "\n", "\r", *map(chr, range(0x20, 0x7F)))
PER_SYMBOL = 40  # merges that a symbol begins, besides all those of ASCII
PLACEHOLDER = "@pre-tokenizer@"


def pairs(symbols: Sequence[str], dense: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """Pairs that merge, in order: an odd seed has those of the seed before it, backwards.

    Where a cut stops one of two that compete for a symbol, either of them wins in one of the two orders.
    """
    rng = random.Random(seed // 2)
    chosen = [(left, right) for left in dense for right in dense]
    chosen += [(left, right) for left in symbols for right in rng.sample(symbols, PER_SYMBOL)]
    chosen = list(dict.fromkeys(chosen))
    rng.shuffle(chosen)
    return chosen[::-1] if seed % 2 else chosen


@functools.cache
def bpe(seed: int = 0, bytewise: bool = True) -> tuple[tuple[Typed, ...], tuple[str, ...]]:
    """Tokens and merges. bytewise: spelled in GPT-2's alphabet; else in UTF-8 with <0xHH> for odd bytes."""
    symbols = [s.decode() for s in SYMBOLS] if bytewise else [c for c in CHARACTERS if c != " "]
    merges = pairs(symbols, [spelled(c) if bytewise else c.replace(" ", "▁") for c in ASCII], seed)
    words = [w for word in WORDS for w in (word, f" {word}", f"{word}'s")] + ["\n\n", "\n\n\n", "\n", "  ", "12", " 1"]
    words = [spelled(w) if bytewise else w.replace(" ", "▁") for w in words]
    tokens: dict[str | bytes, int] = dict(HEAD)
    tokens |= dict.fromkeys((*symbols, *(left + right for left, right in merges), *words), NORMAL)
    if not bytewise:
        tokens |= {f"<0x{b:02X}>": BYTE for b in range(256) if b != 0x9F}
    return tuple(tokens.items()), tuple(f"{left} {right}" for left, right in merges)


def spelled(text: str) -> str:
    """A text in GPT-2's alphabet."""
    return b"".join(SYMBOLS[b] for b in text.encode()).decode()


UTF8 = ("gemma4", "granite-embed-multi-311m", "mmbert", "sarvam-moe", "whitespace")  # pre-tokenizers without alphabet


def write_bpe(path: Path, pre: str | None, *keys: Key, kind: str = "gpt2", seed: int = 0) -> Path:
    """Write a vocabulary for a pre-tokenizer; None leaves the key out."""
    tokens, merges = bpe(seed, bytewise=not (pre in UTF8 or kind == "gemma4"))
    return write(path, tokens, merges, kind, *keys, *([] if pre is None else [pre_key(pre)]))


def write(path: Path, tokens: Sequence[Typed], merges: Sequence[str], kind: str, *keys: Key) -> Path:
    """Write a byte-pair vocabulary whose first tokens are HEAD."""
    fixed: list[Key] = [("model", kind, "STRING"), ("merges", [m.encode() for m in merges], "ARRAY[STRING]")]
    return write_vocab(path, tokens, *fixed, *ROLES, *keys)


def pre_key(pre: str) -> Key:
    """tokenizer.ggml.pre."""
    return "pre", pre, "STRING"


def renamed(template: bytes, pre: str) -> bytes:
    """A file whose pre-tokenizer is PLACEHOLDER, with another name in its place: quicker than writing it anew."""
    old, new = PLACEHOLDER.encode(), pre.encode()
    return template.replace(struct.pack("<Q", len(old)) + old, struct.pack("<Q", len(new)) + new)


class Vocabularies:
    """Files and tokenizers of many pre-tokenizers."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed, self.templates = folder, seed, dict[bool, bytes]()
        for bytewise in (True, False):
            tokens, merges = bpe(seed, bytewise)
            path = write(folder / "template.gguf", tokens, merges, "gpt2", pre_key(PLACEHOLDER))
            self.templates[bytewise] = path.read_bytes()

    def write(self, pre: str) -> Path:
        """A file, gone when the next one is written. "whitespace" is of that kind: llama.cpp ends with any other."""
        path = self.folder / "vocab.gguf"
        if pre == "whitespace":
            return write_bpe(path, pre, kind=pre, seed=self.seed)
        path.write_bytes(renamed(self.templates[pre not in UTF8], pre))
        return path


# -- texts -----------------------------------------------------------------------------------------------------------

CONTRACTIONS = split(
    "don't DON'T it's IT'S we'll WE'LL you've YOU'Ve they'rE I'm I'M he'd 's 'S 'ſ 're'll ''s 'l 'v 'r 'ts x's's "
    "l'école l’eau rock'n'roll 's. '\u212a"
)
NUMBERS = split(
    "1 12 123 1234 12345 123456 1234567 12345678901234 1,234.56 1_000 3.14e-10 0xFF 2nd ٣٤٥٦ ९८७६ １２３４ ½¾ ①②③④ ⅷ "
    "x1y22z333 12abc 9²³ 𝟏𝟐𝟑𝟒 一二三四 1٢3４5 v1.2.3 2024-10-31 〇 Ⅻ 123٤٥٦ a1234567b"
)
MIXED = split(
    "ÉcoleÉcole éCOLE CamelCaseWords HTTPServer iPhone ÀÉÎõü ΑΒΓαβγ ПриветМИР ǅǆ ªº İstanbul ẞß "
    "日本語テキスト中文 ひらがなカタカナ 한국어조선말 ภาษาไทย ລາວ ខ្មែរ မြန်မာ ༀམ ㄅㄆㄇ ㄱㄴㄷ 漢字かな交じり文 "
    "“引用”，。！？：；、…— 《书》 ！（） ｱｲｳ ⼀⺀ \U0002a6de \U0002b73a \ufa6e\ufa70 豈\ufaff\uf8ff "
    "\ud7ff\ud7b0 \u0800 \u4dff e\u0301te\u0301 a\u0300\u0301b \u0301a A\u0301 \u0301A हिन्दी தமிழ் עִבְרִית العَرَبِيَّة "
    "x\u200dy \u200d \ufeffa \u00ad soft\u00adhyphen \U000e0041 \ue000 \u0378 ℝℕ ℓ Ⅷ ☺️ ﬁ"
)
SENTINELS = (
    "<sentinel:12>",
    "IMGIMGABCZ",
    "IMGIMGABCDEZ",
    "IMGIMGJZ",
    "    x",
    "<dna>ACGTACGTacg</dna>",
    "( a|b )",
    "a / b//\n/",
)
BLANKS = (
    "\n\n",
    "\r\n\r\n",
    " \n ",
    "   ",
    "\t\t ",
    "\xa0\xa0",
    "\u3000 \u3000",
    "\n \n\n",
    " " * 40,
    "\x1c\x1d",
    "\x85",
    "\v\f",
)
NASTY = (*CONTRACTIONS, *NUMBERS, *MIXED, *SENTINELS, *BLANKS, *EMOJI, *CODE, *SPECIAL, "\0", "a\0b")


def texts_to_cut(seed: int, n: int) -> list[str | bytes]:
    """n texts: half are what every tokenizer is tried on, half put together from what pre-tokenizers distinguish."""
    rng = random.Random(seed)
    nasty: list[str | bytes] = []
    for _ in range(n // 2):
        glue = rng.choice(("", "", " ", " ", "\n", rng.choice(SPACES)))
        nasty.append(glue.join(rng.choice(NASTY) for _ in range(rng.randrange(1, 9))))
    return [*random_texts(seed, n - n // 2), *nasty]


# -- one code point at a time ----------------------------------------------------------------------------------------

NEIGHBORS = "a 1!\n"


def write_probe(path: Path, pre: str) -> Path:
    """A vocabulary in which every character joins these neighbors, unless a cut is between them, and nothing else."""
    if pre in UTF8:
        return write_bpe(path, pre, kind="whitespace" if pre == "whitespace" else "gpt2")
    leads = [SYMBOLS[b].decode() for b in range(0xC2, 0xF5)]
    tails = [SYMBOLS[b].decode() for b in range(0x80, 0xC0)]
    spellings = [spelled(c) for c in NEIGHBORS]
    merges = [(n, lead) for n in spellings for lead in leads] + [(tail, n) for n in spellings for tail in tails]
    merges += [(tail, lead) for tail in tails for lead in leads]
    tokens: dict[str | bytes, int] = dict(HEAD)
    tokens |= dict.fromkeys((*(s.decode() for s in SYMBOLS), *(left + right for left, right in merges)), NORMAL)
    return write(path, list(tokens.items()), [f"{left} {right}" for left, right in merges], "gpt2", pre_key(pre))


def code_points(some: Iterable[int]) -> list[str | bytes]:
    """Each code point between NEIGHBORS, letters and itself, 256 to a text; surrogates as well."""
    probes = [f"a{c}a {c} 1{c}1!{c}!\n{c}{c}é{c}é中{c}中\n" for c in map(chr, some)]
    return ["".join(probes[i : i + 256]).encode("utf-8", "surrogatepass") for i in range(0, len(probes), 256)]
