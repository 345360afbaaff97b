"""The tokenizer files of a Hugging Face folder -> the `tokenizer.ggml.*` keys of a WordPiece model.

Mirrors get_vocab_base and BertModel.set_vocab (llama.cpp: conversion/base.py, conversion/bert.py) and SpecialVocab
(gguf-py/gguf/vocab.py), without the `transformers` library. tokenizer.json is read where there is one, vocab.txt else.

One thing is done better. Where a folder leaves a special token unnamed, or has no tokenizer.json, llama.cpp's converter
leaves out keys, and llama.cpp falls back on the ids and the lowercasing of the first BERT; here the defaults of
BertTokenizer are looked up in the vocabulary and written.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refembed.convert.files import check_listed
from refembed.convert.rules import (
    around,
    check_added,
    check_wordpiece,
    check_wordpiece_settings,
    warn,
    warn_added,
    warn_beyond,
    warn_lowercase,
)
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import quote
from refembed.parse_json import parse_json

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type: enum llama_token_type

# BertTokenizer's special tokens, for folders that do not name theirs
DEFAULTS = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
# special token -> what its key is called, in the order of the file. "seperator" is GGUF's spelling; [CLS] goes as bos.
ID_KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}

# tokenizer.ggml.pre of vocabularies that begin so: (pieces, sha256 of them joined by newlines, lowercase). llama.cpp
# reads it for BPE only; its converter finds the name by how one text is cut, and refuses WordPiece it has no name for.
UNCASED = "0f052197aac305fe42f378b5c61554b7bacb34b8be4af83fec2cfdcdffbc9973"  # of bert-base-uncased
PRE = {(30522, UNCASED, True): "jina-v2-en"}
PRE_UNKNOWN = "default"

# What reading JSON of another shape raises
OTHER_SHAPE = (AttributeError, LookupError, TypeError, ValueError, StopIteration, RecursionError)

LARGEST_CARD = 4 << 20  # characters of the YAML in front of a README.md; with a benchmark's results it has a million
ALIAS = re.compile(r"(?:^|[\s\[,:-])\*\w", re.MULTILINE)  # what may be a YAML alias


@dataclass
class Vocab:
    """What the keys say. Tokens are spelled as in GGUF: "▁" begins a word, continuations lose their "##"."""

    tokens: list[str]
    types: list[int]
    pre: str
    ids: dict[str, int]  # "bos", "eos" ... -> id, as far as there are any
    adds: dict[str, bool]  # "bos", "eos", "sep": whether the tokenizer puts them around a text
    lowercase: bool | None
    strip_accents: bool | None


@dataclass
class Pieces:
    """The vocabulary as Hugging Face has it."""

    path: Path  # where it was read
    texts: dict[int, str]  # id -> piece, "##" and all
    added: dict[int, dict[str, Any]]  # id -> {"content", "special", "normalized"}: tokens that are found before cutting

    def id_of(self, text: str | None) -> int | None:
        """The id of a token, an added one first."""
        ids = [i for i, token in self.added.items() if token["content"] == text]
        return next(iter(ids + [i for i, piece in self.texts.items() if piece == text]), None)


def read_vocab(folder: Path, config: dict[str, Any]) -> Vocab:
    """The tokenizer of a folder with this config.json. ModelError where it is no WordPiece tokenizer, or not whole."""
    try:
        return understand(folder, config)
    except OTHER_SHAPE as e:
        found = f"{folder}: tokenizer.json or a file next to it is not as `transformers` writes it: {e!r}"
        raise ModelError(found, hint="save the tokenizer again with save_pretrained") from None


def add_vocab(writer: GGUFWriter, vocab: Vocab) -> None:
    """`tokenizer.ggml.*` of a WordPiece tokenizer, but for the number of segments."""
    writer.add("tokenizer.ggml.model", "bert", "STRING")
    writer.add("tokenizer.ggml.pre", vocab.pre, "STRING")
    writer.add("tokenizer.ggml.tokens", vocab.tokens, "ARRAY[STRING]")
    writer.add("tokenizer.ggml.token_type", vocab.types, "ARRAY[INT32]")
    for name, key in ID_KEYS.items():
        if name in vocab.ids:
            writer.add(f"tokenizer.ggml.{key}_token_id", vocab.ids[name], "UINT32")
    for name, added in vocab.adds.items():
        writer.add(f"tokenizer.ggml.add_{name}_token", added, "BOOL")
    for key, flag in (("lowercase", vocab.lowercase), ("strip_accents", vocab.strip_accents)):
        if flag is not None:
            writer.add(f"tokenizer.ggml.normalizer.{key}", flag, "BOOL")


def is_wordpiece(folder: Path) -> bool:
    """Whether a folder's tokenizer is WordPiece, by its tokenizer.json, or for want of one by its vocab.txt."""
    tokenizer = read_json(folder / "tokenizer.json")
    model = tokenizer.get("model")
    if tokenizer:
        return isinstance(model, dict) and model.get("type") == "WordPiece"
    return (folder / "vocab.txt").is_file()


def understand(folder: Path, config: dict[str, Any]) -> Vocab:
    """See read_vocab. Files of another shape raise whatever they raise."""
    settings = read_json(folder / "tokenizer_config.json")
    names = DEFAULTS | special_names(read_json(folder / "special_tokens_map.json")) | special_names(settings)
    tokenizer = read_json(folder / "tokenizer.json")
    if tokenizer:
        path = folder / "tokenizer.json"
        pieces = pieces_of_json(path, tokenizer)
        check_wordpiece(path, tokenizer)
        lowercase, strip_accents = normalizer_flags(tokenizer.get("normalizer") or {})
        warn_lowercase(path, settings, {"lowercase": lowercase, "strip_accents": strip_accents})
        ends = around(path, tokenizer)
        names |= {"unk": tokenizer["model"]["unk_token"]}
        names |= {name: token[0] for name, token in (("cls", ends.front), ("sep", ends.back)) if token}
        adds = template_flags(tokenizer.get("post_processor") or {}, names)
        adds |= {"bos": True, "eos": True}
    else:
        check_wordpiece_settings(folder / "tokenizer_config.json", settings)
        pieces = pieces_of_text(folder, settings, names)
        lowercase, strip_accents = settings.get("do_lower_case", True), settings.get("strip_accents")
        adds = {"bos": True, "eos": True, "sep": False}  # [CLS] text [SEP]
    for name in ("bos", "eos", "sep"):
        if isinstance(settings.get(f"add_{name}_token"), bool):
            adds.setdefault(name, settings[f"add_{name}_token"])
    warn_added(pieces.path, pieces.added.values(), word_piece=True, lowercase=lowercase)
    if tokenizer:  # what its template puts around a text, whatever they are called elsewhere
        names |= {"bos": names["cls"], "eos": names["sep"]}
    names.setdefault("bos", names["cls"])
    names.setdefault("eos", names["sep"])
    tokens, types = spell(pieces, config["vocab_size"])
    ids = {name: pieces.id_of(names[name]) for name in ID_KEYS}
    for name in ("bos", "sep", "unk"):
        if ids[name] is None:
            found = (
                f"{pieces.path}: no token {quote(names[name])}, which goes around each text or stands for the unknown"
            )
            raise ModelError(found, hint="is the file whole? tokenizer_config.json may name another token")
    ids = {name: config.get(f"{name}_token_id") if i is None else i for name, i in ids.items()}
    return Vocab(
        tokens=tokens,
        types=types,
        pre=pre_name(pieces, lowercase),
        ids={name: i for name, i in ids.items() if type(i) is int and 0 <= i < len(tokens)},
        adds=adds,
        lowercase=lowercase if isinstance(lowercase, bool) else None,
        strip_accents=strip_accents if isinstance(strip_accents, bool) else None,
    )


def spell(pieces: Pieces, size: int) -> tuple[list[str], list[int]]:
    """Tokens and their types, spelled as llama.cpp's WordPiece looks them up; ids without a piece become [PADn]."""
    last = max([*pieces.texts, *(i for i in pieces.added if not drop_added(pieces, i, size))], default=-1)
    if last >= size:
        found = f"{pieces.path}: token {last}, but config.json has a vocab_size of {size:,}"
        raise ModelError(found, hint="are these files of one model?")
    tokens: dict[str, int] = {}
    types = []
    for i in range(size):
        token, kind = pieces.texts.get(i) or None, NORMAL  # a blank line is no token: no word is empty
        if i in pieces.added:
            token = pieces.added[i]["content"]
            kind = CONTROL if pieces.added[i]["special"] or looks_special(token) else USER_DEFINED
        elif token is None:
            token, kind = f"[PAD{i}]", UNUSED
        if kind == USER_DEFINED:
            token = token.replace("▁", " ")
        if kind != CONTROL:
            token = token[2:] if token.startswith("##") else "▁" + token
        if tokens.setdefault(token, i) != i:
            found = f"{pieces.path}: tokens {tokens[token]} and {i} are both spelled {quote(token)} in GGUF"
            raise ModelError(found, hint="llama.cpp takes no vocabulary with a token twice")
        types.append(kind)
    return list(tokens), types


def drop_added(pieces: Pieces, i: int, size: int) -> bool:
    """Whether added token i has no row in the table of embeddings: then it is left out, and that is said."""
    if i < size or i in pieces.texts:
        return False
    warn_beyond(pieces.path.parent, pieces.added[i]["content"], i, size)
    return True


def looks_special(token: str) -> bool:
    """Whether an added token is one a text must not contain, though its file does not say so."""
    brackets = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        token.startswith(a) and token.endswith(b) for a, b in brackets
    )


def pieces_of_json(path: Path, tokenizer: dict[str, Any]) -> Pieces:
    """The vocabulary in a tokenizer.json, the file of the `tokenizers` library."""
    model = tokenizer["model"]
    if model["type"] != "WordPiece" or model["continuing_subword_prefix"] != "##":
        found = f"{path}: a tokenizer of type {quote(str(model['type']))}"
        raise ModelError(found, hint='refembed converts WordPiece with "##"')
    texts = {id_number(i): text for text, i in model["vocab"].items()}
    if len(texts) != len(model["vocab"]):
        raise ModelError(f"{path}: two tokens have the same id", hint="is the file whole?")
    check_added(path, tokenizer, model["vocab"])
    return Pieces(path, texts, {id_number(t["id"]): added_token(t) for t in tokenizer.get("added_tokens") or []})


def pieces_of_text(folder: Path, settings: dict[str, Any], names: dict[str, str]) -> Pieces:
    """The vocabulary in vocab.txt, a piece a line; what is special is said elsewhere."""
    path = folder / "vocab.txt"
    try:
        lines = check_listed(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise ModelError(f"{folder}: no tokenizer.json and no vocab.txt", hint="refembed converts WordPiece") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(f"{path} cannot be read: {e}", hint="is the file whole?") from None
    ids = {line: i for i, line in enumerate(lines)}  # of equal lines the last counts, as in BertTokenizer
    special = [names[name] for name in DEFAULTS]
    added = {ids[text]: added_token({"content": text, "special": True}) for text in special if text in ids}
    more = read_json(folder / "added_tokens.json")
    added |= {id_number(i): added_token({"content": text}) for text, i in more.items()}
    more = settings.get("added_tokens_decoder", {})
    added |= {id_number(int(i)): added_token(token) for i, token in more.items()}
    return Pieces(path, {i: line for line, i in ids.items()}, added)


def id_number(value: Any) -> int:
    """A token id. ValueError for anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no id")
    return value


def added_token(token: dict[str, Any]) -> dict[str, Any]:
    """The parts of an added token that matter here. KeyError or ValueError where it is none."""
    if not isinstance(token["content"], str):
        raise ValueError(f"{token['content']!r} is no token")
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return {"content": token["content"]} | {flag: bool(token.get(flag)) for flag in flags}


def special_names(settings: dict[str, Any]) -> dict[str, str]:
    """The special tokens a settings file names: "cls_token": "[CLS]" or {"content": "[CLS]", ...}."""
    names = {}
    for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        entry = settings.get(f"{name}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if text and isinstance(text, str):
            names[name] = text
    return names


def normalizer_flags(normalizer: dict[str, Any]) -> tuple[bool | None, bool | None]:
    """`normalizer.lowercase` and `normalizer.strip_accents`, None where tokenizer.json is silent."""
    kind = normalizer.get("type")
    if kind == "Sequence":
        parts = [normalizer_flags(part) for part in normalizer.get("normalizers", [])]
        lower = [a for a, _ in parts if a is not None]
        strip = [b for _, b in parts if b is not None]
        return (lower[-1] if lower else None), (strip[-1] if strip else None)
    if kind == "BertNormalizer":
        return normalizer.get("lowercase"), normalizer.get("strip_accents")
    return (True if kind == "Lowercase" else None), (True if kind == "StripAccents" else None)


def template_flags(processor: dict[str, Any], names: dict[str, str]) -> dict[str, bool]:
    """Which tokens tokenizer.json puts around a text. Adds to `names` what only its template knows."""
    adds: dict[str, bool] = {}
    for part in processor.get("processors", [processor]):
        if part.get("type") == "RobertaProcessing":
            adds |= {"bos": True, "eos": True, "sep": True}
        if part.get("type") != "TemplateProcessing":
            continue
        single, pair = ([special_or_none(item) for item in part.get(key) or []] for key in ("single", "pair"))
        first, last = (single[0], single[-1]) if len(single) > 1 else (None, None)
        if first:
            adds["bos"] = first in (names.setdefault("bos", names["cls"]), names["cls"])
        if last:
            names["eos"], adds["eos"] = last, True
        begin = 1 if first and pair[:1] == [first] else 0
        end = len(pair) - (1 if last and pair[-1:] == [last] else 0)
        between = pair[begin + 1 : end - 1]  # between the sequences A and B
        if between:
            ends = (names["sep"], names.get("eos"))
            adds["sep"] = (len(between) == 2 and between[1] in ends) or (between[0] in ends and not last)
    return adds


def special_or_none(item: dict[str, Any]) -> str | None:
    """The special token at a place of a template; None for a sequence."""
    name = item.get("SpecialToken", {}).get("id")
    return name if isinstance(name, str) else None


def pre_name(pieces: Pieces, lowercase: Any) -> str:
    """`tokenizer.ggml.pre`."""
    for (count, digest, lower), name in PRE.items():
        text = "\n".join(pieces.texts.get(i, "") for i in range(count))
        if lower == lowercase and hashlib.sha256(text.encode()).hexdigest() == digest:
            return name
    return PRE_UNKNOWN


def warn_lowered(folder: Path) -> None:
    """Say where sentence-transformers lowers the case of a text before a tokenizer that does not."""
    settings = (folder / "sentence_bert_config.json", folder / "0_Transformer" / "sentence_bert_config.json")
    asking = next((path for path in settings if read_json(path).get("do_lower_case")), None)
    if asking is None:
        return
    tokenizer = read_json(folder / "tokenizer.json")
    lowers = (
        normalizer_flags(tokenizer.get("normalizer") or {})[0]
        if tokenizer
        else (folder / "vocab.txt").is_file() and read_json(folder / "tokenizer_config.json").get("do_lower_case", True)
    )
    if not lowers:
        warn(
            f"{asking}: do_lower_case true: sentence-transformers lowers the case of each text, which no file of GGUF "
            "says; give texts in lower case"
        )


def load_json(path: Path) -> Any:
    """What a JSON file holds; None where there is no such file. ModelError where it holds no JSON."""
    try:
        return parse_json(check_listed(path).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read: {e}", hint="is the file whole?") from None


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """A JSON object from a file, {} where there is none. ModelError where it is required, or holds something else."""
    value = load_json(path)
    if value is None and not path.exists():
        if required:
            raise ModelError(f"{path.parent}: no {path.name}", hint="name a folder as Hugging Face publishes them")
        return {}
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {quote(str(value))}, not a JSON object", hint="is this the right file?")
    return value


def check_card(folder: Path) -> None:
    """Refuse a model card whose YAML refers to itself: a few hundred bytes of aliases may stand for gigabytes."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    card = text[3:].partition("\n---")[0] if text.startswith("---") else ""
    where = f"{folder}: README.md: the model card in front"
    if len(card) > LARGEST_CARD:
        raise ModelError(f"{where} has {len(card)} characters", hint=f"at most {LARGEST_CARD} are read; shorten it")
    if not ALIAS.search(card):
        return
    import yaml

    try:
        aliases = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(card))
    except yaml.YAMLError:
        return  # gguf-py says what is wrong
    if aliases:
        raise ModelError(f"{where} has YAML aliases (*name)", hint="write the values out, or remove the card")
