"""How a tokenizer.json of byte-pair encoding cuts words, and what `tokenizer.ggml.pre` calls it.

    Sequence(Digits(individual), ByteLevel) -> ("each digit", "gpt2") -> "starcoder"

The expressions are the models' own, as their tokenizer.json has them; llama.cpp's src/llama-vocab.cpp quotes most.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refembed.convert.rules import steps, warn
from refembed.errors import ModelError
from refembed.gguf.cursor import quote
from refembed.tokenizer.pretokenize import defaults_of

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = GPT4O.replace(f"{CONTRACTIONS}?", "").replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CASED = (  # letters that have a case, in DeepSeek's own words
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ"
    "-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰"
    "-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
CUTS: dict[tuple[str, ...], str] = {  # signature -> tokenizer.ggml.pre
    ("gpt2",): "gpt-2",
    ("each digit", "gpt2"): "starcoder",
    ("marks", "gpt2", "digits", "[0-9][0-9][0-9]"): "falcon",
    (rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}", "bytes"): "qwen2",
    (rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}", "bytes"): "llama-bpe",
    (
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        "bytes",
    ): "qwen35",
    (r" ?[^(\s|[.,!?…。，、।۔،])]+", "bytes"): "bloom",
    (GPT4O, "bytes"): "gpt-4o",
    (TEKKEN, "bytes"): "tekken",
    (
        r"[\r\n]",
        rf"\s?[{CASED}]+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        "each digit",
        "bytes",
    ): "deepseek-llm",
    (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK, "bytes"): "deepseek-v3",
}


def signature(tokenizer: dict[str, Any]) -> tuple[str, ...] | None:
    """The steps that cut, each by a word or its regular expression; None where one is of another kind."""
    parts = []
    for part in steps(tokenizer.get("pre_tokenizer")):
        kind = part.get("type")
        if kind == "ByteLevel" and not part.get("add_prefix_space"):
            parts.append("gpt2" if part.get("use_regex", True) else "bytes")
        elif kind == "Digits":
            parts.append("each digit" if part.get("individual_digits") else "digits")
        elif kind == "Punctuation" and part.get("behavior") == "Contiguous":
            parts.append("marks")
        elif kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
            regex = str(part.get("pattern", {}).get("Regex"))
            parts.append(regex.replace("\r", r"\r").replace("\n", r"\n"))  # some files hold the characters themselves
        else:
            return None
    return tuple(parts)


def cut_of(path: Path, tokenizer: dict[str, Any], wanted: str) -> str:
    """`tokenizer.ggml.pre`, by the pre-tokenizer. ModelError for one that no name is known for.

    wanted  what the cut is called in this architecture; "": any name will do. One that cuts otherwise is not taken.
    """
    found = signature(tokenizer)
    name = CUTS.get(found or ())
    if name is None:
        hint = (
            "refembed knows how GPT-2, Qwen2, Qwen3.5, Llama 3, GPT-4o, Mistral's Tekken, DeepSeek LLM and V3, "
            "StarCoder, Falcon and BLOOM cut words"
        )
        cutter = str(tokenizer.get("pre_tokenizer"))
        raise ModelError(f"{path}: a pre-tokenizer that has no name here: {quote(cutter[:200])}", hint=hint)
    if name in ("gpt-4o", "tekken"):
        warn(
            f"{path}: upper and lower case beyond ASCII, and marks that combine, start words there and not in "
            "llama.cpp: only texts that hold such letters may get other ids"
        )
    if name == "llama-bpe" and not tokenizer["model"].get("ignore_merges"):
        name = "smaug-bpe"
    same = wanted and defaults_of(wanted).stages == defaults_of(name).stages
    if same and defaults_of(wanted).ignore_merges == defaults_of(name).ignore_merges:
        return wanted
    return name
