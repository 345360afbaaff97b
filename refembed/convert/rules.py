"""Which tokenizer.json `convert` understands: what llama.cpp cannot follow is refused by name, what it drops is said.

A tokenizer.json can ask for any normalizer, pre-tokenizer and template. A GGUF file has a handful of keys for them;
the rest follows from `tokenizer.ggml.model` and `tokenizer.ggml.pre`. Two cases:

    texts of every kind would get other ids                 ModelError, naming the part that has no key
    only texts that hold a certain token or character would  a warning in the log, naming the token or character
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refembed.errors import ModelError
from refembed.gguf.cursor import quote

log = logging.getLogger("refembed.convert")

WORDPIECE_HINT = "llama.cpp knows one WordPiece tokenizer, BERT's: BertNormalizer, BertPreTokenizer, [CLS] text [SEP]"
MOST_LISTED = 3  # tokens that a warning names


def warn(message: str) -> None:
    """Log that something of the folder is not in the file; the command line prints it as "warning: ..."."""
    log.warning("%s", message)


def refuse(path: Path, part: str, found: Any, hint: str) -> ModelError:
    """The error for a part of a tokenizer that no key of GGUF says."""
    return ModelError(f"{path}: {part} that GGUF has no key for: {quote(str(found)[:200])}", hint=hint)


def steps(node: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer, pre-tokenizer or post-processor as the list of its steps; [] where there is none."""
    if not node:
        return []
    if node.get("type") != "Sequence":
        return [node]
    inner: list[dict[str, Any]] = next(
        (node[k] for k in ("normalizers", "pretokenizers", "processors") if k in node), []
    )
    return [step for part in inner for step in steps(part)]


@dataclass(frozen=True)
class Around:
    """The tokens that a tokenizer puts in front of a text and behind it, each by content and id; None: none."""

    front: tuple[str, int] | None = None
    back: tuple[str, int] | None = None


def around(path: Path, tokenizer: dict[str, Any]) -> Around:
    """What tokenizer.json puts around a text. ModelError for what no flags of GGUF say."""
    found = Around()
    for step in steps(tokenizer.get("post_processor")):
        match step.get("type"):
            case "ByteLevel":  # moves offsets alone
                continue
            case "BertProcessing" | "RobertaProcessing":
                found = Around(tuple(step["cls"]), tuple(step["sep"]))
            case "TemplateProcessing":
                found = template(path, step)
            case kind:
                raise refuse(path, "a post-processor", kind, "refembed converts templates such as [CLS] text [SEP]")
    return found


def template(path: Path, step: dict[str, Any]) -> Around:
    """A template: at most one token in front of the text, at most one behind it."""
    single, tokens = step["single"], step.get("special_tokens") or {}
    at = [i for i, item in enumerate(single) if "Sequence" in item]
    front, back = (single[: at[0]], single[at[0] + 1 :]) if len(at) == 1 else (single, single)

    def token(items: list[dict[str, Any]]) -> tuple[str, int] | None:
        if not items:
            return None
        name = items[0]["SpecialToken"]["id"]
        (number,) = tokens[name]["ids"]
        return name, number

    if len(front) > 1 or len(back) > 1 or any(len(t.get("ids", ())) != 1 for t in tokens.values()):
        raise refuse(path, "a template", words(single), "GGUF has flags for one token before a text and one behind it")
    return Around(token(front), token(back))


def words(single: list[dict[str, Any]]) -> str:
    """A template as one reads it: "[CLS] A [SEP]"."""
    return " ".join(str(entry(item)["id"]) for item in single)


def entry(item: dict[str, Any]) -> dict[str, Any]:
    """What a part of a template holds. KeyError where it is empty."""
    (found,) = [*item.values()][:1] or [None]
    if not isinstance(found, dict):
        raise KeyError("an entry of a template")
    return found


def check_wordpiece(path: Path, tokenizer: dict[str, Any]) -> None:
    """ModelError for WordPiece that is not BERT's: llama.cpp would cut all texts as BERT does."""
    normalizer = steps(tokenizer.get("normalizer"))
    bert = len(normalizer) == 1 and normalizer[0].get("type") == "BertNormalizer"
    flags = ("clean_text", "handle_chinese_chars")
    if not bert or any(normalizer[0].get(flag, True) is not True for flag in flags):
        raise refuse(path, "a normalizer", tokenizer.get("normalizer"), WORDPIECE_HINT)
    cutter = steps(tokenizer.get("pre_tokenizer"))
    if [step.get("type") for step in cutter] != ["BertPreTokenizer"]:
        raise refuse(path, "a pre-tokenizer", tokenizer.get("pre_tokenizer"), WORDPIECE_HINT)
    ends = around(path, tokenizer)
    if not ends.front or not ends.back:
        found = [token[0] for token in (ends.front, ends.back) if token] or "nothing around a text"
        raise refuse(path, "a template", found, WORDPIECE_HINT)
    for step in steps(tokenizer.get("post_processor")):
        kinds = [entry(item)["type_id"] for item in step.get("single", ())]
        if any(kinds):
            raise refuse(path, "a template", f"segments {kinds}", "llama.cpp computes with segment 0 alone")
    unk, most = tokenizer["model"].get("unk_token"), tokenizer["model"].get("max_input_chars_per_word", 100)
    if unk not in tokenizer["model"]["vocab"]:
        raise refuse(path, "an unknown token", f"{unk}, which is not in the vocabulary", "is the file whole?")
    if most < 100:
        warn(
            f"{path}: words of more than {most} characters are {unk} (max_input_chars_per_word); "
            "llama.cpp has no such limit and cuts them into pieces"
        )


WORDPIECE_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "Funnel", "LayoutLM", "Lxmert")


def check_wordpiece_settings(path: Path, settings: dict[str, Any]) -> None:
    """ModelError where tokenizer_config.json, with a vocab.txt alone, asks for a tokenizer that is not BERT's."""
    kind = settings.get("tokenizer_class")
    if kind is not None and str(kind).removesuffix("Fast").removesuffix("Tokenizer") not in WORDPIECE_CLASSES:
        raise refuse(path, "a tokenizer class", kind, WORDPIECE_HINT)
    for key, wanted in (
        ("do_basic_tokenize", True), ("tokenize_chinese_chars", True), ("do_word_tokenize", True),
        ("do_subword_tokenize", True), ("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece"),
        ("wordpieces_prefix", "##"),
    ):  # fmt: skip
        if settings.get(key) not in (None, wanted):
            raise refuse(path, "a setting", f"{key}: {settings[key]}", WORDPIECE_HINT)
    if settings.get("never_split"):
        listed = ", ".join(map(str, settings["never_split"][:MOST_LISTED]))
        warn(f"{path}: never_split: llama.cpp cuts {listed} like any other word; only texts with them get other ids")


def check_added(path: Path, tokenizer: dict[str, Any], vocab: dict[str, int]) -> None:
    """ModelError where the library numbers an added token otherwise than the file says.

    It takes the id of the vocabulary where the token is in it, else the next number that is free.
    """
    last, count = -1, len(vocab)
    for token in sorted(tokenizer.get("added_tokens") or [], key=lambda t: t["id"]):
        text = token["content"]
        given = vocab.get(text, max(count, last + 1))
        last = max(last, given)
        if given != token["id"]:
            found = (
                f"{path}: added token {quote(text)} has id {token['id']}, where the `tokenizers` library has {given}"
            )
            raise ModelError(found, hint="save the tokenizer again with save_pretrained")


def warn_added(
    path: Path, added: Iterable[dict[str, Any]], *, word_piece: bool = False, lowercase: Any = False
) -> None:
    """Say which added tokens llama.cpp finds otherwise than the library does."""
    odd = []
    for token in added:
        text, why = token["content"], []
        why += ["takes along the spaces before it"] if token.get("lstrip") else []
        why += ["takes along the spaces behind it"] if token.get("rstrip") else []
        why += ["counts as a whole word alone"] if token.get("single_word") else []
        if word_piece and not token.get("special"):
            why.append("is looked for before words are cut")
        elif word_piece and lowercase and token.get("normalized") and text != text.lower():
            why.append("is found in lower case, too")
        if why:
            odd.append(f"{quote(text)} {' and '.join(why)}")
    if odd:
        more = f"; and {len(odd) - MOST_LISTED} more" if len(odd) > MOST_LISTED else ""
        warn(
            f"{path}: added tokens that llama.cpp finds in another way: {'; '.join(odd[:MOST_LISTED])}{more}. "
            "Texts that hold none of them get the same ids; for others, give token ids instead of text"
        )


def warn_beyond(folder: Path, token: str, i: int, size: int) -> None:
    """Say that an added token has no row in the table of embeddings."""
    warn(
        f"{folder}: added token {quote(token)} has id {i}, but the model has {size:,} tokens: it is left out; a text "
        "that holds it is cut like any other"
    )


def warn_flags(path: Path, settings: dict[str, Any], ends: Around) -> None:
    """Say where tokenizer_config.json contradicts what tokenizer.json puts around a text, which counts."""
    for name, token in (("bos", ends.front), ("eos", ends.back)):
        said = settings.get(f"add_{name}_token")
        if isinstance(said, bool) and said != bool(token):
            does = f"puts {quote(token[0])} there" if token else "puts none there"
            warn(
                f"{path}: tokenizer_config.json says add_{name}_token {str(said).lower()}, but the post-processor "
                f"{does}, and that is what the file says; correct the one that is wrong and convert again"
            )


def warn_lowercase(path: Path, settings: dict[str, Any], flags: dict[str, Any]) -> None:
    """Say where tokenizer_config.json contradicts BertNormalizer, which counts."""
    for key, name in (("do_lower_case", "lowercase"), ("strip_accents", "strip_accents")):
        said, does = settings.get(key), flags.get(name)
        if isinstance(said, bool) and isinstance(does, bool) and said != does:
            warn(
                f"{path}: tokenizer_config.json says {key} {str(said).lower()}, but the normalizer says {name} "
                f"{str(does).lower()}, and that is what the file says; correct the one that is wrong and convert again"
            )


def check_bpe(path: Path, tokenizer: dict[str, Any], *, ignore_merges: bool) -> None:
    """ModelError for byte-level BPE that llama.cpp's is not. ignore_merges: as tokenizer.ggml.pre implies it."""
    model = tokenizer["model"]
    added = {token["content"] for token in tokenizer.get("added_tokens") or []}
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise refuse(path, "a setting", f"{key} {model[key]}", "refembed converts byte-level BPE as GPT-2 has it")
    normalizer = steps(tokenizer.get("normalizer"))
    if [step.get("type") for step in normalizer] == ["NFC"]:
        warn(
            f"{path}: the normalizer NFC composes characters, llama.cpp takes them as they are: texts in another form "
            "than NFC get other ids; compose them beforehand"
        )
    elif normalizer:
        raise refuse(path, "a normalizer", tokenizer["normalizer"], "llama.cpp's byte-pair encoding has none")
    if bool(model.get("ignore_merges")) != ignore_merges and (odd := unmerged(model, added)):
        found = f"ignore_merges {bool(model.get('ignore_merges'))}".lower()
        hint = f"the name of this cut implies the opposite, and {quote(odd)} is no result of merges"
        raise refuse(path, "a setting", found, hint)
    if model.get("unk_token") is not None and len(set(model["vocab"]) & set(BYTES)) < len(BYTES):
        hint = "bytes without a token become the unknown token there, and nothing in llama.cpp"
        raise refuse(path, "an unknown token", model["unk_token"], hint)


# The characters that stand for bytes in a byte-level vocabulary
BYTES = "".join(map(chr, (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))))


def unmerged(model: dict[str, Any], added: set[str]) -> str | None:
    """A token of the vocabulary, none of the added, that merges do not lead to; None where they lead to all."""
    pairs = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    ranks = {pair: rank for rank, pair in reversed([*enumerate(pairs)])}
    for token in model["vocab"].keys() - added:
        parts = list(token)
        while len(parts) > 1:
            found = [ranks.get(pair, len(ranks)) for pair in itertools.pairwise(parts)]
            best = min(found)
            if best == len(ranks):
                return str(token)
            i = found.index(best)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return None


def check_unigram(path: Path, tokenizer: dict[str, Any], charsmap: bytes) -> tuple[bool, bool]:
    """`add_space_prefix`, `remove_extra_whitespaces` of a Unigram tokenizer. ModelError for what these do not say."""
    model = tokenizer["model"]
    pieces = [token for token, _ in model["vocab"]]
    if model.get("byte_fallback"):
        raise refuse(path, "a setting", "byte_fallback", "llama.cpp's Unigram has an unknown token, and no bytes")
    if type(model.get("unk_id")) is not int or not 0 <= model["unk_id"] < len(pieces):
        raise refuse(path, "an unknown token", model.get("unk_id"), "unk_id is to be the id of a piece")
    unk, added = pieces[model["unk_id"]], {token["content"] for token in tokenizer.get("added_tokens") or []}
    if unk not in added:
        raise refuse(path, "an unknown token", f"{unk}, no added token", "llama.cpp does not look for it in a text")
    collapse, stripped = spaces_of(path, tokenizer)
    cutter = steps(tokenizer.get("pre_tokenizer"))
    kinds = [step.get("type") for step in cutter]
    if kinds not in (["WhitespaceSplit", "Metaspace"], ["Metaspace"]) or cutter[-1].get("replacement") != "▁":
        hint = "refembed converts Metaspace, with or without WhitespaceSplit before it"
        raise refuse(path, "a pre-tokenizer", tokenizer.get("pre_tokenizer"), hint)
    words, metaspace = len(kinds) == 2, cutter[-1]
    scheme = metaspace.get("prepend_scheme", "always" if metaspace.get("add_prefix_space", True) else "never")
    if scheme == "never" and (words or collapse):
        hint = "where llama.cpp merges spaces it puts one before each text"
        raise refuse(path, "a pre-tokenizer", "prepend_scheme never, with spaces that are merged", hint)
    split = words or metaspace.get("split", True)
    across = [p for p in pieces if "▁" in p[1:] and p not in added and not (words and set(p) == {"▁"})]
    if split and across:
        hint = f"llama.cpp finds pieces across words, {quote(across[0])} for one, and the `tokenizers` library does not"
        raise refuse(path, "a pre-tokenizer", "a cut before each U+2581", hint)
    if "▁" not in pieces:
        raise refuse(path, "a vocabulary", "no piece U+2581", "a space before an unknown character has to have one")
    marked = any(step.get("content") == "▁" for step in steps(tokenizer.get("normalizer")))
    warn_spaces(
        path, words=words, collapse=collapse, marked=marked, stripped=stripped, scheme=scheme, charsmap=charsmap
    )
    return scheme != "never", words or collapse


def spaces_of(path: Path, tokenizer: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the normalizer makes one space of several, and whether it strips the end."""
    collapse = stripped = False
    for i, step in enumerate(steps(tokenizer.get("normalizer"))):
        pattern = step.get("pattern", {}).get("Regex")
        if step.get("type") == "Precompiled" and i == 0:
            continue
        if step.get("type") == "Replace" and pattern == " {2,}" and step.get("content") in (" ", "▁"):
            collapse = True
        elif step.get("type") == "Strip" and step.get("strip_right"):
            stripped = True
        else:
            hint = "refembed converts Precompiled, Strip on the right, and Replace of several spaces by one"
            raise refuse(path, "a normalizer", step, hint)
    return collapse, stripped


def warn_spaces(
    path: Path, *, words: bool, collapse: bool, marked: bool, stripped: bool, scheme: str, charsmap: bytes
) -> None:
    """Say which spaces llama.cpp takes otherwise."""
    if words and not charsmap:
        warn(
            f"{path}: words end at every white space, in llama.cpp at U+0020 alone, and no character map makes one of "
            "the other: texts with line feeds or tabs get other ids; replace these by spaces beforehand"
        )
    if (marked or not words) and collapse and not stripped:
        warn(
            f"{path}: white space at the end of a text is a token there, but none in llama.cpp: only such texts get "
            "other ids; strip them beforehand"
        )
    if not words and not collapse and scheme != "never":
        warn(
            f"{path}: where a text, or what follows a special token in it, begins with white space, llama.cpp puts one "
            "more: only such texts get other ids; strip them beforehand"
        )
    if not words and not collapse and charsmap:
        warn(
            f"{path}: CR LF is one space there, in llama.cpp two: only texts with such line ends get other ids; "
            "end lines with LF"
        )
    if scheme == "first":
        warn(
            f"{path}: a space is put before the text alone (prepend_scheme first), in llama.cpp after each special "
            "token, too: only texts that hold special tokens get other ids"
        )
