"""Byte-pair encoding with byte fallback in a tokenizer.json: SentencePiece's BPE, as `transformers` 5 saves it alone.

llama.cpp's "llama" tokenizer merges the two neighbors whose union has the highest score, a tokenizer.json those of the
lowest rank. A score of -rank makes them the same, if each token has all its pairs, one rank after the other:

    merges "t h", "th e", "t he"   ->   th -1, the -2      the file says
    merges "t h", "t he"                                   "th" + "e" would be merged, too: refused
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refembed.convert.rules import refuse, steps, warn
from refembed.gguf.cursor import quote

HINT = "refembed converts SentencePiece's merges; put the tokenizer.model next to it"


def is_merged(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is of this kind."""
    model = tokenizer.get("model") or {}
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def scores_of(path: Path, tokenizer: dict[str, Any]) -> dict[str, float]:
    """The score of each token that merges make. ModelError where no scores lead to the same merges."""
    model = tokenizer["model"]
    pairs = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    known, made = set(pairs), dict[str, float]()
    for rank, (left, right) in enumerate(pairs):
        union = left + right
        if union in made and pairs[rank - 1][0] + pairs[rank - 1][1] != union:
            raise refuse(path, "merges", f"{union} is made before and after another token", HINT)
        made.setdefault(union, -1.0 - rank)
    vocab = model["vocab"].keys()
    added = {token["content"] for token in tokenizer.get("added_tokens") or []}
    for token in vocab - added:
        for i in range(1, len(token)):
            left, right = token[:i], token[i:]
            if (left in vocab or i == 1) and (right in vocab or len(right) == 1) and (left, right) not in known:
                if token.startswith("<0x"):
                    continue
                raise refuse(path, "merges", f"none of {left} and {right}, though {token} is a token", HINT)
    return made


def space_before(path: Path, tokenizer: dict[str, Any]) -> bool:
    """Whether a space goes in front of a text. ModelError for what SentencePiece does not do before it merges."""
    model = tokenizer["model"]
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "ignore_merges"):
        if model.get(key):
            raise refuse(path, "a setting", f"{key} {model[key]}", HINT)
    spaced = prepended = False
    for step in steps(tokenizer.get("normalizer")):
        if step.get("type") == "Prepend" and step.get("prepend") == "▁" and not spaced:
            prepended = True
        elif step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == "▁":
            spaced = True
        else:
            raise refuse(path, "a normalizer", step, HINT)
    for step in steps(tokenizer.get("pre_tokenizer")):
        if step.get("type") == "Split" and step.get("pattern") == {"String": " "} and spaced:
            continue  # Gemma's: there are no spaces any more
        if step.get("type") != "Metaspace" or step.get("replacement") != "▁" or step.get("split", True) or spaced:
            raise refuse(path, "a pre-tokenizer", step, HINT)
        scheme, spaced = step.get("prepend_scheme", "always"), True
        prepended = scheme != "never"
        if prepended:
            warn(
                f"{path}: before a text that begins with a space, and behind special tokens, llama.cpp puts one more "
                "space than Metaspace does; only such texts get other ids"
            )
    normalized = [t["content"] for t in tokenizer.get("added_tokens") or [] if t.get("normalized")]
    if prepended and normalized:
        warn(
            f"{path}: behind added tokens that are normalized, {quote(normalized[0])} for one, llama.cpp puts a space; "
            "only texts that hold one of them get other ids"
        )
    if not spaced:
        raise refuse(path, "a pre-tokenizer", "none that replaces spaces by U+2581", HINT)
    return prepended
