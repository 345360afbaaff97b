"""Small vocabularies for tests, written as GGUF files without tensors; and models under other keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refembed.gguf import GGUFWriter
from tests.copies import copied

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

Typed = tuple["str | bytes", int]  # a token's text and its type
Key = tuple[str, Any, str]  # key, value, type; keys without a dot are tokenizer.ggml.*

# BERT's own layout: [PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103; so the defaults fit and no key is needed.
HEAD: list[Typed] = [("[PAD]", CONTROL), *((f"▁[unused{i}]", NORMAL) for i in range(99))]
HEAD += [("[UNK]", CONTROL), ("[CLS]", CONTROL), ("[SEP]", CONTROL), ("[MASK]", CONTROL)]

WORDS = (
    "hello world un the of and a is that embed em dont naive cafe strasse istanbul οδος привет мир 日 中 ᄒ ᄀ ᄋ ᄂ"
)
PARTS = "aff able ing bed ding s ed est tion é ο ς σ и в р ᅡ ᅵ x xx xxxx unused mask 000 00 ▁the"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789ßſıæøμαβγабгд가かなカナกไทयदहन!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
PHI = ("</s>", "<unk>", "<s>", "<|endoftext|>", "<|user|>")


# What llama.cpp makes of a token typed NORMAL that has such a text; `test_live` asks it.
BECOME_CONTROL = """
    <|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|>
    <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> [e~[ <|ifm|im_end|>
    <｜end▁of▁sentence｜>
    <|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>
    <|plamo:fim_prefix|>
    <|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>
    <|plamo:fim_suffix|>
    <|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>
    <|plamo:fim_middle|>
    <|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>
    <|plamo:file_separator|>
"""
BECOME_USER_DEFINED = "<|channel|> <|message|> <|start|> <|constrain|>"
STAY_NORMAL = (
    "<pad> <|eot|> <eot> [EOM] <|im_sep|> <fim_sep> <REP> ▁<EOT> <|plamo:eos|> <bos> <|im_start|> [unused1] <s>"
)
REVEALED = {  # text -> bits: NORMAL 4, CONTROL 8, USER_DEFINED 16
    **dict.fromkeys(BECOME_CONTROL.split(), 4 | 8),
    **dict.fromkeys(BECOME_USER_DEFINED.split(), 16),
    **dict.fromkeys(STAY_NORMAL.split(), 4),
}
NEUTRAL: list[Typed] = [(f"x{i}", NORMAL) for i in range(110)]  # reveal nothing


def bert(*more: str, kind: int = USER_DEFINED) -> list[Typed]:
    """Some 300 tokens: words, continuations, single characters, every type but BYTE, which WordPiece does not have."""
    tokens: dict[str | bytes, int] = dict(HEAD)
    tokens |= {"▁" + t: NORMAL for t in (*WORDS.split(), *CHARACTERS, "€", "→", "😀", "。", "、", "„")}
    tokens |= dict.fromkeys((*PARTS.split(), *CHARACTERS, "😀", "▁"), NORMAL)
    tokens |= {"<user>": USER_DEFINED, "ab<": USER_DEFINED, "b<cd": USER_DEFINED, "<Ünïcode  >": USER_DEFINED}
    tokens |= {"gone": UNUSED, "▁gone": UNUSED, "typeless": 0, "strange": 99, "<other>": UNKNOWN, "</s>": NORMAL}
    return list((tokens | dict.fromkeys(more, kind)).items())


def bytewise() -> list[Typed]:
    """Every byte a token, and the word start: ids spell out what the text was normalized to. NUL cannot be a token."""
    head: list[Typed] = [("[UNK]", CONTROL), ("[CLS]", CONTROL), ("[SEP]", CONTROL)]  # BYTEWISE_ROLES
    return [*head, ("▁", NORMAL), *((bytes([b]), NORMAL) for b in range(1, 256))]


def flag(key: str, value: bool) -> Key:
    """A BOOL."""
    return key, value, "BOOL"


def role(key: str, id: int) -> Key:
    """The id of a role."""
    return f"{key}_token_id", id, "UINT32"


BYTEWISE_ROLES = [role("unknown", 0), role("bos", 1), role("seperator", 2)]

# Name -> tokens, keys. Together they take every path of loading and encoding.
VARIANTS: dict[str, tuple[list[Typed], list[Key]]] = {
    "plain": (bert(), []),
    "bytewise": (bytewise(), BYTEWISE_ROLES),
    "bytewise-accents": (bytewise(), [*BYTEWISE_ROLES, flag("normalizer.strip_accents", False)]),
    "bytewise-cased": (bytewise(), [*BYTEWISE_ROLES, flag("normalizer.lowercase", False)]),
    "bytewise-cased-stripped": (
        bytewise(),
        [*BYTEWISE_ROLES, flag("normalizer.lowercase", False), flag("normalizer.strip_accents", True)],
    ),
    "roles": (
        bert(),
        [
            *(role(k, i) for k, i in (("bos", 7), ("eos", 101), ("seperator", 9), ("unknown", 103), ("cls", 3))),
            *(flag(f"add_{k}_token", on) for k, on in (("bos", False), ("eos", True), ("sep", False))),
            flag("add_space_prefix", True),
        ],
    ),
    "prefix": (bert(), [flag("add_space_prefix", True)]),
    "beyond": (bert(), [role("bos", 1 << 20), role("seperator", 4), role("mask", 0xFFFFFFFF), role("padding", 5)]),
    "modern-bert": (bert(), [("general.name", "A Modern-BERT of ours", "STRING")]),
    "modernbert": (bert(), [("general.name", "ModernBERT Base", "STRING")]),
    "jina": (bert("<mask>"), [("pre", "jina-v2-de", "STRING"), ("general.name", "modern-bert", "STRING")]),
    "jina-no-mask": (bert(), [("pre", "xjina-v2-code", "STRING"), ("general.name", "phi-3 modern-bert", "STRING")]),
    "nomic-moe": (bert("<mask>", kind=CONTROL), [("general.architecture", "nomic-bert-moe", "STRING")]),
    "phi": (bert(*PHI, " x"), [("general.name", "Phi-3 mini", "STRING")]),
    "tool-response": (bert("<|tool_response>"), []),
    "plamo": (bert("<|plamo:eos|>"), [role("eos", len(bert()))]),
    "harmony": (bert("<|return|>", "<|call|>", "<|end|>", "<|channel|>", "<|start|>", kind=CONTROL), []),
    "calls-only": (bert("<|call|>", "<|end|>", kind=CONTROL), []),
    "solar": (bert("<|calls|>", "<|flush|>", "<|end|>", "<|message|>"), []),
    "no-end": (bert("<|return|>", "<|flush|>", "<|end|>", "<|constrain|>", kind=NORMAL), []),
    "named-pad": (bert("<|fim_pad|>", kind=NORMAL), [role("fim_pad", 104)]),
    "unused": (bert("[unused7]", "<|unused_9|>", kind=CONTROL), []),
    "empty-and-nul": (
        [*bert(), ("", NORMAL), (b"nul\0nul", NORMAL), (b"\0", USER_DEFINED), (b"\xff\xfe", CONTROL)],
        [],
    ),
}


def write_vocab(path: Path, tokens: Sequence[Typed] | None = None, *keys: Key, typed: bool = True) -> Path:
    """Write a vocabulary and return its path: bert() unless given; typed=False leaves token_type out."""
    tokens = bert() if tokens is None else tokens
    given = {full(key): (value, kind) for key, value, kind in keys}
    w = GGUFWriter(given.pop("general.architecture", ("bert", ""))[0])
    w.add("tokenizer.ggml.model", *given.pop("tokenizer.ggml.model", ("bert", "STRING")))
    w.add("tokenizer.ggml.tokens", [t.encode() if isinstance(t, str) else t for t, _ in tokens], "ARRAY[STRING]")
    if typed:
        w.add("tokenizer.ggml.token_type", [kind for _, kind in tokens], "ARRAY[INT32]")
    for key, (value, kind) in given.items():
        w.add(key, value, kind)
    w.write(path)
    return path


def full(key: str) -> str:
    """The whole key."""
    return key if "." in key and not key.startswith("normalizer.") else f"tokenizer.ggml.{key}"


def with_keys(model: Path, to: Path, *keys: Key) -> Path:
    """A copy of a model with other keys; a value None takes the key away."""
    return copied(model, to, {full(key): None if value is None else (value, kind) for key, value, kind in keys})
