"""refembed/convert/cuts.py: how tokenizer.json says that words are cut, and the name that GGUF has for it.

The parts are those of the models' own tokenizer.json; the names are those that llama.cpp's converter gives these models
(conversion/base.py, get_vocab_base_pre). tests/peers/test_cuts.py compares the pieces with those of `tokenizers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refembed.convert.cuts import CUTS, cut_of
from refembed.errors import ModelError
from refembed.tokenizer.pretokenize import TABLE

BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2: dict[str, Any] = BYTES | {"use_regex": True}
FALCON: list[dict[str, Any]] = [
    {"type": "Punctuation", "behavior": "Contiguous"},
    GPT2,
    {"type": "Digits", "individual_digits": False},
    {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False},
]


def split(regex: str) -> list[dict[str, Any]]:
    """A cut by a regular expression, and bytes."""
    return [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, BYTES]


def regex_of(name: str) -> str:
    """The expression of a name in CUTS."""
    return next(parts[0] for parts, known in CUTS.items() if known == name)


THREE: list[str] = [x for parts, known in CUTS.items() if known == "deepseek-v3" for x in parts[:3]]
DEEPSEEK: list[dict[str, Any]] = [*(split(regex)[0] for regex in THREE), BYTES]


def tokenizer(parts: list[dict[str, Any]], *, ignore_merges: bool = False) -> dict[str, Any]:
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}, "model": {"ignore_merges": ignore_merges}}


DIGITS = {"type": "Digits", "individual_digits": True}
NAMES: list[tuple[list[dict[str, Any]], bool, str, str]] = [
    ([GPT2], False, "", "gpt-2"),
    ([GPT2], False, "mpt", "mpt"),
    ([GPT2], False, "bloom", "gpt-2"),  # which cuts otherwise, whatever the architecture
    ([DIGITS, GPT2], False, "", "starcoder"),
    ([DIGITS, GPT2], False, "command-r", "command-r"),
    (FALCON, False, "falcon", "falcon"),
    (split(regex_of("qwen2")), False, "", "qwen2"),
    (split(regex_of("qwen2")), False, "stablelm2", "stablelm2"),
    (split(regex_of("llama-bpe")), True, "", "llama-bpe"),
    (split(regex_of("llama-bpe")), True, "lfm2", "lfm2"),
    (split(regex_of("llama-bpe")), False, "", "smaug-bpe"),
    (split(regex_of("llama-bpe")), False, "lfm2", "smaug-bpe"),  # whose merges count
    (split(regex_of("qwen35")), False, "", "qwen35"),
    (split(regex_of("bloom")), False, "", "bloom"),
    (split(regex_of("gpt-4o")), False, "", "gpt-4o"),
    (split(regex_of("tekken")), True, "", "tekken"),
    (DEEPSEEK, False, "", "deepseek-v3"),
]


@pytest.mark.parametrize(("parts", "ignore", "wanted", "expected"), NAMES)
def test_a_cut_has_the_name_that_llamacpp_knows_it_by(
    parts: list[dict[str, Any]], ignore: bool, wanted: str, expected: str
) -> None:
    assert cut_of(Path("tokenizer.json"), tokenizer(parts, ignore_merges=ignore), wanted) == expected


def test_every_name_is_one_of_llamacpps() -> None:
    assert set(CUTS.values()) < set(TABLE)


UNKNOWN: list[list[dict[str, Any]]] = [
    [],
    [BYTES],
    [GPT2 | {"add_prefix_space": True}],
    [{"type": "Digits", "individual_digits": False}, GPT2],
    [{"type": "Punctuation", "behavior": "Isolated"}, *FALCON[1:]],
    split(r"\d"),
    [split(regex_of("qwen2"))[0] | {"behavior": "Removed"}, BYTES],
    [split(regex_of("qwen2"))[0], GPT2],
]


@pytest.mark.parametrize("parts", UNKNOWN)
def test_a_cut_without_a_name_is_refused(parts: list[dict[str, Any]]) -> None:
    with pytest.raises(ModelError, match="no name here"):
        cut_of(Path("tokenizer.json"), tokenizer(parts), "")


def test_letters_that_llamacpp_cuts_otherwise_are_said(caplog: pytest.LogCaptureFixture) -> None:
    cut_of(Path("tokenizer.json"), tokenizer(split(regex_of("gpt-4o"))), "")
    assert "beyond ASCII" in caplog.text
