"""Tokenizers of Hugging Face folders that are not WordPiece -> `tokenizer.ggml.*`.

    tokenizer.json, byte-level BPE          -> "gpt2": tokens, kinds, merges
    tokenizer.json, Unigram (XLM-RoBERTa)   -> "t5": tokens, scores, kinds, the map of characters
    tokenizer.model, spiece.model           -> "llama" (BPE by scores) or "t5" (Unigram): SentencePiece's own file

Mirrors conversion/base.py, bert.py and t5.py of llama.cpp; special tokens are gguf-py's SpecialVocab, as there.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refembed.convert_vocab import CONTROL, NORMAL, UNUSED, USER_DEFINED, looks_special, read_json
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import shown

UNKNOWN, BYTE = 2, 6  # tokenizer.ggml.token_type

# What cuts words before byte-pair encoding, as tokenizer.json writes it -> tokenizer.ggml.pre
CUTS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",  # noqa: E501
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",  # noqa: E501
}
GPT2 = "gpt-2"


@dataclass(frozen=True)
class Vocab:
    """A kind of tokenizer: the files it is made from, and what writes its keys."""

    files: tuple[str, ...]
    add: Callable[[GGUFWriter, Path, int, str], None]  # to a file, of a folder, with V tokens, cut as named

    def there(self, folder: Path) -> bool:
        """Whether the folder has one of the files."""
        return any((folder / name).is_file() for name in self.files)


@dataclass
class Pieces:
    """Tokens by id, [PADn] where there is none."""

    tokens: list[str]
    scores: list[float]
    kinds: list[int]
    add_space_prefix: bool = True
    remove_extra_whitespaces: bool = True
    charsmap: bytes = b""
    unigram: bool = True
    where: str = field(default="")

    @classmethod
    def blank(cls, size: int, where: Path) -> Pieces:
        """Nothing but padding."""
        return cls([f"[PAD{i}]" for i in range(size)], [-10000.0] * size, [UNUSED] * size, where=str(where))

    def put(self, i: int, token: str, score: float, kind: int) -> None:
        """Token i."""
        if not 0 <= i < len(self.tokens):
            found = f"{self.where}: token {i}, but config.json has a vocab_size of {len(self.tokens):,}"
            raise ModelError(found, hint="are these files of one model?")
        self.tokens[i], self.scores[i], self.kinds[i] = token, score, kind


def add_bpe(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """Byte-level BPE. pre: what the cut of GPT-2 is called in this architecture."""
    path = folder / "tokenizer.json"
    tokenizer = read_json(path, required=True)
    model = tokenizer.get("model") or {}
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        raise ModelError(f"{path}: not a byte-level BPE tokenizer", hint="refembed converts this architecture's own")
    name = cut_of(path, tokenizer, pre or GPT2)
    pieces = Pieces.blank(size, path)
    for token, i in model["vocab"].items():
        pieces.put(i, token, 0.0, NORMAL)
    for token in tokenizer.get("added_tokens") or []:
        text = token["content"]
        special = token.get("special") or looks_special(text)
        pieces.put(token["id"], text if special else text.replace("▁", " "), 0.0, CONTROL if special else USER_DEFINED)
    writer.add("tokenizer.ggml.model", "gpt2", "STRING")
    writer.add("tokenizer.ggml.pre", name, "STRING")
    writer.add("tokenizer.ggml.tokens", pieces.tokens, "ARRAY[STRING]")
    writer.add("tokenizer.ggml.token_type", pieces.kinds, "ARRAY[INT32]")
    add_special(writer, folder, size, merges=True)


def cut_of(path: Path, tokenizer: dict[str, Any], gpt2: str) -> str:
    """`tokenizer.ggml.pre`, by the pre-tokenizer. ModelError for one that no name is known for."""
    cutter = tokenizer.get("pre_tokenizer") or {}
    parts = cutter.get("pretokenizers") or [cutter]
    patterns = [part.get("pattern", {}).get("Regex") for part in parts if part.get("type") == "Split"]
    bytes_ = [part for part in parts if part.get("type") == "ByteLevel"]
    if len(parts) == len(patterns) + len(bytes_) and len(bytes_) == 1:
        if not patterns and bytes_[0].get("use_regex", True) and not bytes_[0].get("add_prefix_space"):
            return gpt2
        if len(patterns) == 1 and patterns[0] in CUTS and not bytes_[0].get("use_regex", True):
            return CUTS[patterns[0]]
    hint = "refembed knows how GPT-2, Qwen2 and Llama 3 cut words"
    raise ModelError(f"{path}: a pre-tokenizer that has no name here: {shown(str(cutter)[:200])}", hint=hint)


def add_unigram(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """Unigram as XLM-RoBERTa has it, from tokenizer.json. pre: of no meaning here."""
    path = folder / "tokenizer.json"
    tokenizer = read_json(path, required=True)
    model = tokenizer.get("model") or {}
    if model.get("type") != "Unigram":
        found = f"{path}: a tokenizer of type {shown(str(model.get('type')))}, not Unigram"
        raise ModelError(found, hint="refembed converts this architecture's own")
    added = {token["id"]: token for token in tokenizer.get("added_tokens") or []}
    pieces = Pieces.blank(max(size, len(model["vocab"])), path)
    for i, (token, score) in enumerate(model["vocab"]):
        kind = NORMAL if i not in added else CONTROL if added[i].get("special") else USER_DEFINED
        pieces.put(i, token, score, UNKNOWN if i == model.get("unk_id") else kind)
    for part in parts_of(tokenizer.get("normalizer") or {}):
        if part.get("type") == "Precompiled":
            pieces.charsmap = base64.b64decode(part["precompiled_charsmap"])
    spaces = [p for p in parts_of(tokenizer.get("pre_tokenizer") or {}) if p.get("type") == "Metaspace"]
    pieces.add_space_prefix = bool(spaces) and spaces[0].get("prepend_scheme", "always") != "never"
    add_scored(writer, folder, pieces)


def parts_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as the list of its steps."""
    return node.get("normalizers") or node.get("pretokenizers") or [node]


def add_sentencepiece(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece's own file, of either kind. pre: of no meaning here."""
    path = next(folder / name for name in ("tokenizer.model", "spiece.model") if (folder / name).is_file())
    try:
        pieces = read_sentencepiece(path, size)
    except (IndexError, ValueError, struct.error, UnicodeDecodeError) as e:
        raise ModelError(f"{path}: not a SentencePiece model: {e}", hint="is the file whole?") from None
    settings = read_json(folder / "tokenizer_config.json")
    for text, i in read_json(folder / "added_tokens.json").items():
        pieces.put(i, text, -1000.0, USER_DEFINED)
    for i, token in settings.get("added_tokens_decoder", {}).items() if not pieces.unigram else ():
        text = token["content"]
        special = token.get("special") or looks_special(text)
        score = -1000.0 if pieces.kinds[int(i)] == UNUSED else pieces.scores[int(i)]
        pieces.put(int(i), text if special else text.replace("▁", " "), score, CONTROL if special else USER_DEFINED)
    add_scored(writer, folder, pieces)


def add_gemma(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece without a space before the text."""
    add_sentencepiece(writer, folder, size, pre)
    writer.add("tokenizer.ggml.add_space_prefix", False, "BOOL")


def add_scored(writer: GGUFWriter, folder: Path, pieces: Pieces) -> None:
    """The keys of a vocabulary with scores."""
    writer.add("tokenizer.ggml.model", "t5" if pieces.unigram else "llama", "STRING")
    writer.add("tokenizer.ggml.pre", "default", "STRING")
    writer.add("tokenizer.ggml.tokens", pieces.tokens, "ARRAY[STRING]")
    writer.add("tokenizer.ggml.scores", pieces.scores, "ARRAY[FLOAT32]")
    writer.add("tokenizer.ggml.token_type", pieces.kinds, "ARRAY[INT32]")
    if pieces.unigram:
        writer.add("tokenizer.ggml.add_space_prefix", pieces.add_space_prefix, "BOOL")
        writer.add("tokenizer.ggml.remove_extra_whitespaces", pieces.remove_extra_whitespaces, "BOOL")
        if pieces.charsmap:
            writer.add("tokenizer.ggml.precompiled_charsmap", list(pieces.charsmap), "ARRAY[UINT8]")
    add_special(writer, folder, len(pieces.tokens), merges=False)


def add_special(writer: GGUFWriter, folder: Path, size: int, *, merges: bool) -> None:
    """Merges, ids of special tokens, which of them go around a text: as gguf-py finds them."""
    import gguf

    notes = gguf.GGUFWriter(None, "none")  # never writes: it is the list that SpecialVocab adds to
    try:
        gguf.SpecialVocab(folder, load_merges=merges, n_vocab=size).add_to_gguf(notes, quiet=True)
    except Exception as e:  # gguf-py checks nothing
        hint = "save the tokenizer again with save_pretrained"
        raise ModelError(f"{folder}: the tokenizer's files: {e!r}", hint=hint) from None
    for key, item in notes.kv_data[0].items():
        if key.startswith("tokenizer.") and "chat_template" not in key:
            kind = item.type.name if item.sub_type is None else f"ARRAY[{item.sub_type.name}]"
            writer.add(key, item.value, "ARRAY[STRING]" if isinstance(item.value, list) else kind)


def read_sentencepiece(path: Path, size: int) -> Pieces:
    """The parts of a ModelProto (sentencepiece_model.proto) that matter here. ValueError where it is none."""
    pieces, count = Pieces.blank(size, path), 0
    for number, value in fields(path.read_bytes()):
        if number == 1:  # SentencePiece
            facts: dict[int, Any] = {1: b"", 2: 0.0, 3: NORMAL} | dict(fields(value))
            pieces.put(count, facts[1].decode(), float(facts[2]), facts[3])
            count += 1
        elif number == 2:  # TrainerSpec
            pieces.unigram = dict(fields(value)).get(3, 1) == 1
        elif number == 3:  # NormalizerSpec
            facts = dict(fields(value))
            pieces.charsmap = facts.get(2, b"")
            pieces.add_space_prefix, pieces.remove_extra_whitespaces = bool(facts.get(3, 1)), bool(facts.get(4, 1))
    if not count:
        raise ValueError("no pieces in it")
    return pieces


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a protocol buffer: number and value, in order. ValueError or IndexError where there are none."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        match tag & 7:
            case 0:
                value, at = varint(data, at)
                yield tag >> 3, value
            case 2:
                length, at = varint(data, at)
                if at + length > len(data):
                    raise ValueError("it ends in the middle of a field")
                yield tag >> 3, data[at : at + length]
                at += length
            case 1 | 5 as kind:
                form = "<d" if kind == 1 else "<f"
                yield tag >> 3, struct.unpack_from(form, data, at)[0]
                at += struct.calcsize(form)
            case kind:
                raise ValueError(f"a field of kind {kind}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without end")


VOCABS = {
    "bpe": Vocab(("tokenizer.json",), add_bpe),
    "unigram": Vocab(("tokenizer.json",), add_unigram),
    "spm": Vocab(("tokenizer.model",), add_sentencepiece),
    "spiece": Vocab(("tokenizer.model", "spiece.model"), add_sentencepiece),
    "gemma": Vocab(("tokenizer.model",), add_gemma),
}
