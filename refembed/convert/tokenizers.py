"""Tokenizers of Hugging Face folders that are not WordPiece -> `tokenizer.ggml.*`.

    tokenizer.json, byte-level BPE          -> "gpt2": tokens, kinds, merges
    tokenizer.json, BPE with byte fallback  -> "llama": tokens, scores by the order of merges (merges.py)
    tokenizer.json, Unigram (XLM-RoBERTa)   -> "t5": tokens, scores, kinds, the map of characters
    tokenizer.model, spiece.model           -> "llama" (BPE by scores) or "t5" (Unigram): SentencePiece's own file
    sentencepiece.bpe.model                 -> "t5", with XLM-RoBERTa's numbers

Mirrors conversion/base.py, bert.py and t5.py of llama.cpp; special tokens are gguf-py's SpecialVocab, as there. What it
does not write, and ids depend on, is written here: flags and ids that say what tokenizer.json puts around a text, the
unknown token, the space before a text.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from refembed.convert.cuts import cut_of
from refembed.convert.merges import is_merged, scores_of, space_before
from refembed.convert.rules import (
    Around,
    around,
    check_added,
    check_bpe,
    check_unigram,
    refuse,
    steps,
    warn,
    warn_added,
    warn_flags,
)
from refembed.convert.sentencepiece import BYTE, UNKNOWN, Pieces, read_sentencepiece, realign
from refembed.convert.wordpiece import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    add_vocab,
    is_wordpiece,
    looks_special,
    read_json,
    read_vocab,
    special_names,
)
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import quote
from refembed.tokenizer.pretokenize import defaults_of

Keys: TypeAlias = "dict[str, tuple[Any, str]]"  # tokenizer.ggml.*, without these words -> value and GGUF type


@dataclass(frozen=True)
class Vocab:
    """A kind of tokenizer: the files it is made from, and what writes its keys."""

    files: tuple[str, ...]
    add: Callable[[GGUFWriter, Path, int, str], None]  # to a file, of a folder, with V tokens, cut as named

    def there(self, folder: Path) -> bool:
        """Whether the folder has one of the files."""
        return any((folder / name).is_file() for name in self.files)


def add_bpe(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """Byte-level BPE. pre: what its cut is called in this architecture."""
    path = folder / "tokenizer.json"
    tokenizer = read_json(path, required=True)
    if is_merged(tokenizer):
        return add_merged(writer, folder, size, pre)
    model = tokenizer.get("model") or {}
    if model.get("type", "BPE") != "BPE":
        raise ModelError(f"{path}: not a byte-level BPE tokenizer", hint="refembed converts this architecture's own")
    name = cut_of(path, tokenizer, pre)
    ends = around(path, tokenizer)
    check_bpe(path, tokenizer, ignore_merges=defaults_of(name).ignore_merges)
    pieces = Pieces.blank(size, path)
    for token, i in model["vocab"].items():
        pieces.put(i, token, 0.0, NORMAL)
    put_added(pieces, tokenizer, model["vocab"])
    writer.add("tokenizer.ggml.model", "gpt2", "STRING")
    writer.add("tokenizer.ggml.pre", name, "STRING")
    writer.add("tokenizer.ggml.tokens", pieces.tokens, "ARRAY[STRING]")
    writer.add("tokenizer.ggml.token_type", pieces.kinds, "ARRAY[INT32]")
    keys = special_keys(folder, size, merges=True)
    settle(writer, keys, ends, bos=defaults_of(name).add_bos, eos=False)
    if any(step.get("type") == "ByteLevel" for step in steps(tokenizer.get("post_processor"))):
        for flag, token in (("add_bos_token", ends.front), ("add_eos_token", ends.back)):
            keys.setdefault(flag, (bool(token), "BOOL"))
    warn_flags(path, read_json(folder / "tokenizer_config.json"), ends)
    add_keys(writer, keys)
    return None


def add_merged(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece's BPE as a tokenizer.json has it: what merges say becomes scores."""
    path = folder / "tokenizer.json"
    tokenizer = read_json(path, required=True)
    model = tokenizer["model"]
    ends, scores = around(path, tokenizer), scores_of(path, tokenizer)
    prefix = space_before(path, tokenizer)
    pieces = Pieces.blank(size, path)
    pieces.unigram = False
    for token, i in model["vocab"].items():
        kind = BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else NORMAL
        pieces.put(i, token, scores.get(token, -10000.0), kind)
    put_added(pieces, tokenizer, model["vocab"])
    if sum(kind == BYTE for kind in pieces.kinds) != 256:
        raise refuse(path, "a vocabulary", "not every byte has a token", "llama.cpp spells unknown characters as bytes")
    unk = pieces.id_of(model.get("unk_token"))
    if unk is not None:
        pieces.kinds[unk] = UNKNOWN
    add_scored(writer, pieces)
    keys = special_keys(folder, len(pieces.tokens))
    settle(writer, keys, ends, bos=True, eos=False)
    set_unknown(keys, pieces, 0)
    warn_flags(path, read_json(folder / "tokenizer_config.json"), ends)
    keys["add_space_prefix"] = (prefix, "BOOL")
    add_keys(writer, keys)


def put_added(pieces: Pieces, tokenizer: dict[str, Any], vocab: dict[str, int]) -> None:
    """The tokens that tokenizer.json adds to its vocabulary."""
    added = tokenizer.get("added_tokens") or []
    check_added(pieces.path, tokenizer, vocab)
    for token in added:
        text = token["content"]
        special = token.get("special") or looks_special(text)
        kind = CONTROL if special else USER_DEFINED
        i = token["id"]
        score = pieces.scores[i] if i < len(pieces.tokens) and pieces.kinds[i] != UNUSED else 0.0
        pieces.put_added(i, text if special else text.replace("▁", " "), score, kind)
    warn_added(pieces.path, added)


def add_unigram(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """Unigram as XLM-RoBERTa has it, from tokenizer.json. pre: of no meaning here."""
    path = folder / "tokenizer.json"
    tokenizer = read_json(path, required=True)
    model = tokenizer.get("model") or {}
    if model.get("type") != "Unigram":
        found = f"{path}: a tokenizer of type {quote(str(model.get('type')))}, not Unigram"
        raise ModelError(found, hint="refembed converts this architecture's own")
    ends = around(path, tokenizer)
    pieces = Pieces.blank(max(size, len(model["vocab"])), path)
    for i, (token, score) in enumerate(model["vocab"]):
        pieces.put(i, token, score, NORMAL)
    put_added(pieces, tokenizer, {token: i for i, (token, _) in reversed([*enumerate(model["vocab"])])})
    for part in steps(tokenizer.get("normalizer")):
        if part.get("type") == "Precompiled":
            pieces.charsmap = base64.b64decode(part["precompiled_charsmap"])
    rules = check_unigram(path, tokenizer, pieces.charsmap)
    pieces.add_space_prefix, pieces.remove_extra_whitespaces = rules
    pieces.kinds[model["unk_id"]] = UNKNOWN
    add_scored(writer, pieces)
    keys = special_keys(folder, len(pieces.tokens))
    settle(writer, keys, ends, bos=False, eos=True)
    set_unknown(keys, pieces, 2)
    warn_flags(path, read_json(folder / "tokenizer_config.json"), ends)
    add_keys(writer, keys)


def add_xlm_roberta(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece's file of XLM-RoBERTa, alone: what its tokenizer's class adds to it is written down."""
    pieces = read_sentencepiece(folder / "sentencepiece.bpe.model", 0)
    if not pieces.unigram:
        raise refuse(pieces.path, "a vocabulary", "BPE", "XLM-RoBERTa has Unigram")
    wider = read_sentencepiece(folder / "sentencepiece.bpe.model", max(size, pieces.count + 1))
    pieces = realign(wider)
    check_prefix(pieces)
    for text, i in read_json(folder / "added_tokens.json").items():
        pieces.put_added(i, text, 0.0, USER_DEFINED)
    add_scored(writer, pieces)
    keys = special_keys(folder, len(pieces.tokens))
    for name, key in IDS.items():
        i = pieces.id_of(pieces.roles[name])
        if i is not None:
            keys[f"{key}_token_id"] = (i, "UINT32")
    keys |= {f"add_{name}_token": (True, "BOOL") for name in ("bos", "eos", "sep")}  # <s> A </s></s> B </s>
    add_keys(writer, keys)


def add_sentencepiece(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece's own file of a decoder, as llama.cpp has it: pieces are merged by score, Unigram's too."""
    settings = read_json(folder / "tokenizer_config.json")
    pieces = read_sentencepiece(folder / "tokenizer.model", size)
    pieces.unigram, unigram = False, pieces.unigram
    if unigram:
        warn(
            f"{pieces.path}: a Unigram vocabulary; llama.cpp merges its pieces by score, where SentencePiece looks for "
            "the best path: some words get other ids. To be sure, give token ids instead of text"
        )
    if pieces.charsmap or pieces.remove_extra_whitespaces:
        does = "replaces characters (precompiled_charsmap)" if pieces.charsmap else "makes one space of several"
        warn(f"{pieces.path}: SentencePiece {does}, llama.cpp takes texts as they are; normalize them beforehand")
    warn_of_two(pieces, folder)
    put_settings(pieces, folder, settings)
    add_scored(writer, pieces)
    keys = special_keys(folder, len(pieces.tokens))
    set_roles(keys, pieces, settings, {"bos": 1, "eos": 2})
    set_unknown(keys, pieces, 0)
    add_keys(writer, keys)


def warn_of_two(pieces: Pieces, folder: Path) -> None:
    """Say where a tokenizer.json next to SentencePiece's own file has another vocabulary."""
    vocab = (read_json(folder / "tokenizer.json").get("model") or {}).get("vocab") or {}
    theirs = {i: token for i, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else {
        i: token for token, i in vocab.items()}  # fmt: skip
    ours = [token.replace(" ", "▁") for token in pieces.tokens[: pieces.count]]
    differ = [i for i, token in enumerate(ours) if theirs.get(i, token) != token]
    if differ:
        i = differ[0]
        warn(
            f"{pieces.path}: token {i} is {quote(ours[i])}, in the tokenizer.json next to it {quote(theirs[i])} "
            f"({len(differ)} differ); the file has {pieces.path.name}, as llama.cpp's converter; `transformers` "
            "reads tokenizer.json: remove the one that is wrong"
        )


def put_settings(pieces: Pieces, folder: Path, settings: dict[str, Any]) -> None:
    """The tokens that the files next to tokenizer.model add to it."""
    for text, i in read_json(folder / "added_tokens.json").items():
        pieces.put_added(i, text, -1000.0, USER_DEFINED)
    for i, token in settings.get("added_tokens_decoder", {}).items():
        text = token["content"]
        special = token.get("special") or looks_special(text)
        kind = CONTROL if special else USER_DEFINED
        if int(i) < len(pieces.tokens) and pieces.kinds[int(i)] == UNKNOWN and pieces.tokens[int(i)] == text:
            kind = CONTROL
        pieces.put_added(int(i), text if special else text.replace("▁", " "), -1000.0, kind)


def add_llama(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece of Llama: whether a space goes in front of a text is said where it is known."""
    said = read_json(folder / "tokenizer_config.json").get("add_prefix_space")
    model = read_sentencepiece(folder / "tokenizer.model", 0).add_space_prefix
    if isinstance(said, bool):
        writer.add("tokenizer.ggml.add_space_prefix", said, "BOOL")
    elif not model:
        writer.add("tokenizer.ggml.add_space_prefix", False, "BOOL")
    add_sentencepiece(writer, folder, size, pre)


def add_gemma1(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """The same of the first Gemma, whose turns end with token 107."""
    add_sentencepiece(writer, folder, size, pre)
    writer.add("tokenizer.ggml.eot_token_id", 107, "UINT32", replace=True)
    writer.add("tokenizer.ggml.add_space_prefix", False, "BOOL")


def add_nemotron(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece, with Nemotron's numbers of the padding and the unknown token."""
    add_sentencepiece(writer, folder, size, pre)
    for name, i in (("padding", 0), ("unknown", 1)):
        writer.add(f"tokenizer.ggml.{name}_token_id", i, "UINT32", replace=True)


def add_glm(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """Byte-level BPE, with GLM's special tokens where no file names others."""
    add_bpe(writer, folder, size, pre)
    path = folder / "tokenizer.json"
    added = {token["content"]: token["id"] for token in read_json(path, required=True).get("added_tokens") or []}
    roles = {"eos": "<|endoftext|>", "eot": "<|user|>", "unknown": "<|endoftext|>"}
    for name, text in (roles | ({"bos": "<|endoftext|>"} if pre == "glm4" else {})).items():
        if text not in added:
            raise refuse(path, "a vocabulary", f"no token {text}", "GLM's tokenizers have it")
        if f"tokenizer.ggml.{name}_token_id" not in writer:
            writer.add(f"tokenizer.ggml.{name}_token_id", added[text], "UINT32")


def add_hunyuan(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """Byte-level BPE; the token that ends a document ends a text, and another one a turn."""
    add_bpe(writer, folder, size, pre)
    end = read_json(folder / "config.json").get("eod_token_id", 3)
    turns = read_json(folder / "generation_config.json").get("eos_token_id")
    if type(end) is int:
        writer.add("tokenizer.ggml.eos_token_id", end, "UINT32", replace=True)
    if isinstance(turns, list) and len(turns) > 1 and type(turns[0]) is int:
        writer.add("tokenizer.ggml.eot_token_id", turns[0], "UINT32", replace=True)


def add_gemma(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece without a space before the text."""
    add_sentencepiece(writer, folder, size, pre)
    writer.add("tokenizer.ggml.add_space_prefix", False, "BOOL")


def add_gemma4(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece's BPE of Gemma 4, with its merges: llama.cpp does without scores here. pre: of no meaning."""
    path = folder / "tokenizer.json"
    tokenizer, settings = read_json(path, required=True), read_json(folder / "tokenizer_config.json")
    if not is_merged(tokenizer) or space_before(path, tokenizer):
        raise refuse(path, "a tokenizer", "not Gemma's", "refembed converts BPE with bytes and no space before a text")
    model, ends = tokenizer["model"], around(path, tokenizer)
    pieces, specials = Pieces.blank(size, path), special_texts(settings)
    for token, i in model["vocab"].items():
        byte = re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token)
        pieces.put(i, token, -1000.0, BYTE if byte else CONTROL if token in specials else NORMAL)
    check_added(path, tokenizer, model["vocab"])
    for token in tokenizer.get("added_tokens") or []:
        if token["content"] not in model["vocab"]:
            kind = CONTROL if token["content"] in specials else USER_DEFINED
            pieces.put(token["id"], token["content"], -1000.0, kind)
    if UNUSED in pieces.kinds:
        found = f"no token {pieces.kinds.index(UNUSED)}"
        raise refuse(path, "a vocabulary", found, f"config.json says {size:,} tokens, and llama.cpp wants as many")
    for token in VISIBLE:
        if (known := pieces.id_of(token)) is not None:
            pieces.kinds[known] = USER_DEFINED
    warn_added(path, tokenizer.get("added_tokens") or [])
    plain = [t["content"] for t in tokenizer.get("added_tokens") or [] if pieces.kinds[t["id"]] == NORMAL]
    if plain:
        warn(
            f"{path}: added tokens such as {quote(plain[0])} are none in the file, as in llama.cpp's: merges make them"
        )
    writer.add("tokenizer.ggml.model", "gemma4", "STRING")
    writer.add("tokenizer.ggml.tokens", pieces.tokens, "ARRAY[STRING]")
    writer.add("tokenizer.ggml.scores", pieces.scores, "ARRAY[FLOAT32]")
    writer.add("tokenizer.ggml.token_type", pieces.kinds, "ARRAY[INT32]")
    keys = special_keys(folder, size, merges=True)
    keys |= {"add_space_prefix": (False, "BOOL"), "add_bos_token": (True, "BOOL")}
    settle(writer, keys, ends, bos=True, eos=False)
    warn_flags(path, settings, ends)
    add_keys(writer, keys)


# Of Gemma 4: what begins and ends a call of a tool is always shown
VISIBLE = (
    "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>',
)  # fmt: skip


def special_texts(settings: dict[str, Any]) -> set[str]:
    """Every token that tokenizer_config.json gives a role, as `transformers` lists them (all_special_tokens)."""
    found = [value for key, value in settings.items() if key.endswith("_token") and not key.startswith("add_")]
    for key in ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"):
        more = settings.get(key) or []
        found += more.values() if isinstance(more, dict) else more
    texts = [one.get("content") if isinstance(one, dict) else one for one in found]
    return {text for text in texts if isinstance(text, str)}


def add_spiece(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """SentencePiece's own file of T5: Unigram, or BPE in a tokenizer.model."""
    path = next(folder / name for name in ("tokenizer.model", "spiece.model") if (folder / name).is_file())
    pieces = read_sentencepiece(path, size)
    if not pieces.unigram:
        if path.name != "tokenizer.model":
            raise refuse(path, "a vocabulary", "BPE in a spiece.model", "T5 has Unigram; name it tokenizer.model")
        return add_sentencepiece(writer, folder, size, pre)
    check_prefix(pieces)
    warn_of_two(pieces, folder)
    for text, i in read_json(folder / "added_tokens.json").items():
        pieces.put_added(i, text, -1000.0, USER_DEFINED)
    add_scored(writer, pieces)
    keys = special_keys(folder, len(pieces.tokens))
    set_roles(keys, pieces, read_json(folder / "tokenizer_config.json"), {"eos": 1})
    set_unknown(keys, pieces, 2)
    add_keys(writer, keys)
    return None


def check_prefix(pieces: Pieces) -> None:
    """ModelError for Unigram that merges spaces but puts none before a text."""
    if pieces.remove_extra_whitespaces and not pieces.add_space_prefix:
        hint = "where llama.cpp's Unigram merges spaces it puts one before each text"
        raise refuse(pieces.path, "a setting", "add_dummy_prefix false", hint)


def add_scored(writer: GGUFWriter, pieces: Pieces) -> None:
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


def special_keys(folder: Path, size: int, *, merges: bool = False) -> Keys:
    """Merges, ids of special tokens, which of them go around a text: as gguf-py finds them."""
    import gguf

    notes = gguf.GGUFWriter(None, "none")  # never writes: it is the list that SpecialVocab adds to
    log = logging.getLogger("gguf.vocab")
    log.addFilter(worth_saying)
    try:
        gguf.SpecialVocab(folder, load_merges=merges, n_vocab=size).add_to_gguf(notes, quiet=True)
    except Exception as e:  # gguf-py checks nothing
        hint = "save the tokenizer again with save_pretrained"
        raise ModelError(f"{folder}: the tokenizer's files: {e!r}", hint=hint) from None
    finally:
        log.removeFilter(worth_saying)
    keys: Keys = {}
    for key, item in notes.kv_data[0].items():
        if key.startswith("tokenizer.") and "chat_template" not in key:
            kind = item.type.name if item.sub_type is None else f"ARRAY[{item.sub_type.name}]"
            kind = "ARRAY[STRING]" if isinstance(item.value, list) else kind
            keys[key.removeprefix("tokenizer.ggml.")] = (item.value, kind)
    return keys


def worth_saying(record: logging.LogRecord) -> bool:
    """Whether a remark of gguf-py is one: [CLS] is BOS in GGUF, and that flags differ is said by `warn_flags`."""
    return not record.getMessage().startswith(("No handler for special token type cls", "Mismatch between"))


def settle(writer: GGUFWriter, keys: Keys, ends: Around, *, bos: bool, eos: bool) -> None:
    """Make the keys say what tokenizer.json puts around a text. bos, eos: what llama.cpp takes for granted."""
    for name, token, default in (("bos", ends.front, bos), ("eos", ends.back, eos)):
        flag = f"add_{name}_token"
        if flag in keys or f"tokenizer.ggml.{flag}" in writer or default != bool(token):
            keys[flag] = (bool(token), "BOOL")
        if token:
            keys[f"{name}_token_id"] = (token[1], "UINT32")


def set_roles(keys: Keys, pieces: Pieces, settings: dict[str, Any], defaults: dict[str, int]) -> None:
    """Ids of BOS and EOS by the pieces' texts, where config.json is silent. defaults: what llama.cpp takes for granted.

    Where config.json says others it counts, as in llama.cpp's converter.
    """
    names = pieces.roles | special_names(settings)
    for name in ("bos", "eos"):
        i, key = pieces.id_of(names.get(name)), f"{name}_token_id"
        if i is not None and key in keys and keys[key][0] != i:
            warn(
                f"{pieces.path.parent}: config.json says {key} {keys[key][0]}, and so does the file, but "
                f"{quote(names[name])} is token {i} of {pieces.path.name}; if config.json is wrong, correct it"
            )
        elif i is not None and key not in keys and i != defaults.get(name, i):
            keys[key] = (i, "UINT32")


def set_unknown(keys: Keys, pieces: Pieces, default: int) -> None:
    """The id of the unknown token, where it is another one than llama.cpp takes for granted."""
    unknown = [i for i, kind in enumerate(pieces.kinds) if kind == UNKNOWN]
    if unknown and keys.get("unknown_token_id", (default, ""))[0] != unknown[0]:
        keys["unknown_token_id"] = (unknown[0], "UINT32")


def add_keys(writer: GGUFWriter, keys: Keys) -> None:
    """Write the keys; one that an architecture's recipe wrote keeps its place and gets this value."""
    for key, (value, kind) in keys.items():
        writer.add(f"tokenizer.ggml.{key}", value, kind, replace=True)


IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}


def add_encoder(writer: GGUFWriter, folder: Path, size: int, pre: str) -> None:
    """The tokenizer of an encoder that has one of several kinds: WordPiece, Unigram, byte-level BPE."""
    if is_wordpiece(folder):
        return add_vocab(writer, read_vocab(folder, {**read_json(folder / "config.json"), "vocab_size": size}))
    kind = (read_json(folder / "tokenizer.json").get("model") or {}).get("type")
    add = add_xlm_roberta if kind is None else add_unigram if kind == "Unigram" else add_bpe
    return add(writer, folder, size, pre)


VOCABS = {
    "encoder": Vocab(("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model"), add_encoder),
    "bpe": Vocab(("tokenizer.json",), add_bpe),
    "unigram": Vocab(("tokenizer.json",), add_unigram),
    "xlm-roberta": Vocab(("sentencepiece.bpe.model",), add_xlm_roberta),
    "spm": Vocab(("tokenizer.model",), add_llama),
    "spiece": Vocab(("tokenizer.model", "spiece.model"), add_spiece),
    "gemma": Vocab(("tokenizer.model",), add_gemma),
    "gemma4": Vocab(("tokenizer.json",), add_gemma4),
    "gemma1": Vocab(("tokenizer.model",), add_gemma1),
    "sentencepiece": Vocab(("tokenizer.model",), add_sentencepiece),
    "nemotron": Vocab(("tokenizer.model",), add_nemotron),
    "glm": Vocab(("tokenizer.json",), add_glm),
    "hunyuan": Vocab(("tokenizer.json",), add_hunyuan),
}
