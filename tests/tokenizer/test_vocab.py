"""The vocabulary: defaults, keys over them, and what the tokens' texts reveal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.errors import GGUFError, ModelError
from refembed.gguf import GGUFWriter, open_gguf
from refembed.tokenizer import Tokenizer, Vocab, load_tokenizer
from refembed.tokenizer.attributes import ALWAYS_USER_DEFINED, CANDIDATES, EOG, Attribute
from tests.tokenizer.conftest import Make
from tests.tokenizer.vocabs import (
    BYTE,
    CONTROL,
    HEAD,
    NEUTRAL,
    NORMAL,
    PHI,
    REVEALED,
    USER_DEFINED,
    VARIANTS,
    Key,
    bert,
    flag,
    role,
    write_vocab,
)


def bits(vocab: Vocab, token: str) -> Attribute:
    """What a token is."""
    return Attribute(int(vocab.attributes[vocab.ids[token.encode()]]))


def test_without_keys_berts_defaults_hold(plain: Tokenizer) -> None:
    v = plain.vocab
    assert (v.kind, v.pre) == ("bert", "")
    assert (v.bos, v.eos, v.unk, v.sep, v.pad, v.mask) == (101, None, 100, 102, 0, 103)
    assert (v.add_bos, v.add_eos, v.add_sep, v.add_space_prefix) == (True, False, True, False)
    assert (v.clean_spaces, v.lowercase, v.strip_accents) == (True, True, True)
    assert len(v) == len(v.tokens) == len(bert())


def test_keys_go_over_defaults(make: Make) -> None:
    v = make(VARIANTS["roles"][0], *VARIANTS["roles"][1]).vocab
    assert (v.bos, v.eos, v.unk, v.sep, v.pad, v.mask) == (7, 101, 103, 9, 0, 103)
    assert (v.add_bos, v.add_eos, v.add_sep, v.add_space_prefix) == (False, True, False, True)


def test_a_default_beyond_the_vocabulary_is_void(make: Make) -> None:
    v = make([(f"t{i}", NORMAL) for i in range(26)], role("cls", 3)).vocab
    assert (v.bos, v.unk, v.sep, v.pad, v.mask) == (None, None, None, 0, None)


def test_a_key_beyond_the_vocabulary_leaves_the_default_and_a_warning(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        v = make(None, role("bos", 1 << 20), role("seperator", len(bert()) - 1)).vocab
    assert (v.bos, v.sep) == (101, len(bert()) - 1)
    assert "tokenizer.ggml.bos_token_id is 1048576" in caplog.text


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([flag("normalizer.lowercase", False)], (False, False)),
        ([flag("normalizer.strip_accents", False)], (True, False)),
        ([flag("normalizer.lowercase", False), flag("normalizer.strip_accents", True)], (False, True)),
    ],
)
def test_strip_accents_follows_lowercase_where_the_key_is_absent(
    make: Make, keys: list[Key], expected: tuple[bool, bool]
) -> None:
    v = make(None, *keys).vocab
    assert (v.lowercase, v.strip_accents) == expected


def test_a_type_becomes_its_bit(make: Make) -> None:
    v = make([(f"t{i}", kind) for i, kind in enumerate((1, 2, 3, 4, 5, 0, -1, 7))]).vocab
    assert v.attributes.tolist() == [
        Attribute.NORMAL,
        Attribute.UNKNOWN,
        Attribute.CONTROL,
        Attribute.USER_DEFINED,
        Attribute.UNUSED,
        0,
        0,
        0,
    ]
    assert v.types.tolist() == [1, 2, 3, 4, 5, 0, -1, 7]


def test_without_types_all_tokens_are_normal(make: Make) -> None:
    v = make([("a", CONTROL), ("b", CONTROL)], typed=False).vocab
    assert v.attributes.tolist() == [Attribute.NORMAL, Attribute.NORMAL]


def test_an_end_of_text_is_control_whatever_the_file_says(make: Make) -> None:
    v = make(bert("<eos>")).vocab
    assert bits(v, "</s>") == Attribute.NORMAL | Attribute.CONTROL
    assert bits(v, "<eos>") == Attribute.USER_DEFINED | Attribute.CONTROL


def test_each_text_reveals_what_it_does_to_llama_cpp(make: Make) -> None:
    found = {t: int(make([*NEUTRAL, (t, NORMAL)]).vocab.attributes[-1]) for t in REVEALED}
    assert found == REVEALED


def test_every_text_that_reveals_something_is_held_against_llama_cpp() -> None:
    assert {*EOG, *ALWAYS_USER_DEFINED, *(t for row in CANDIDATES.values() for t in row)} <= set(REVEALED)


@pytest.mark.parametrize(
    ("others", "bit"),
    [
        (("<|return|>", "<|call|>"), Attribute.USER_DEFINED),
        (("<|calls|>", "<|flush|>"), Attribute.USER_DEFINED),
        (("<|call|>", "<|calls|>"), Attribute.CONTROL),
        (("<|return|>", "<|flush|>"), Attribute.CONTROL),
    ],
)
def test_among_harmonys_tokens_the_end_is_no_end(make: Make, others: tuple[str, ...], bit: Attribute) -> None:
    assert bits(make(bert("<|end|>", *others, kind=CONTROL)).vocab, "<|end|>") == bit


def test_with_a_tool_response_token_the_end_of_text_is_ordinary(make: Make) -> None:
    assert bits(make(bert("<|tool_response>")).vocab, "</s>") == Attribute.NORMAL


def test_padding_is_control_unless_the_file_names_another(make: Make) -> None:
    tokens = [("[PAD]", NORMAL), ("x", NORMAL)]
    assert bits(make(tokens).vocab, "[PAD]") == Attribute.NORMAL | Attribute.CONTROL
    assert bits(make(tokens, role("fim_pad", 1)).vocab, "[PAD]") == Attribute.NORMAL


def test_the_mask_strips_by_the_models_name(make: Make) -> None:
    for name, strips in (("a modern-bert", True), ("Modern-BERT", True), ("ModernBERT", False)):
        v = make(None, ("general.name", name, "STRING")).vocab
        assert bool(bits(v, "[MASK]") & Attribute.LSTRIP) == strips


@pytest.mark.parametrize(
    ("key", "value", "strips"),
    [
        ("pre", "jina-v2-de", True),
        ("pre", "jina-v2-es", True),
        ("pre", "x-jina-v2-code-x", True),
        ("pre", "jina-de", False),
        ("general.architecture", "nomic-bert-moe", True),
        ("general.architecture", "jina-bert-v3", True),
        ("general.architecture", "bert", False),
    ],
)
def test_the_other_mask_strips_by_architecture_or_pre_tokenizer(make: Make, key: str, value: str, strips: bool) -> None:
    v = make(bert("<mask>"), (key, value, "STRING")).vocab
    assert bool(bits(v, "<mask>") & Attribute.LSTRIP) == strips


def test_control_tokens_called_unused_are(make: Make) -> None:
    assert bits(make(bert("[unused7]", kind=CONTROL)).vocab, "[unused7]") == Attribute.CONTROL | Attribute.UNUSED


def test_phi_strips_on_the_right_but_for_three(make: Make) -> None:
    v = make(bert(*PHI), ("general.name", "PHI3", "STRING")).vocab
    stripping = {t.decode() for t, b in zip(v.tokens, v.attributes, strict=True) if b & Attribute.RSTRIP}
    assert {"</s>", "<|user|>", "[MASK]", "<other>"} <= stripping
    assert not {"<unk>", "<s>", "<|endoftext|>", "gone"} & stripping


def test_an_empty_text_is_named_after_its_id(make: Make) -> None:
    v = make([("a", NORMAL), ("", NORMAL), (b"\0", NORMAL), (b"b\0c", NORMAL)]).vocab
    assert v.tokens == [b"a", b"[EMPTY_1]", b"[EMPTY_2]", b"b"]


def test_tokens_that_are_no_utf8_stay_as_they_are(make: Make) -> None:
    assert make([(b"\xff", NORMAL)]).vocab.ids == {b"\xff": 0}


def test_bits_cannot_be_changed(plain: Tokenizer) -> None:
    with pytest.raises(ValueError, match="read-only"):
        plain.vocab.attributes[0] = 1


# -- files that contradict themselves --------------------------------------------------------------------------------


def test_two_tokens_of_one_text_are_an_error(make: Make) -> None:
    with pytest.raises(ModelError, match=r"vocab\.gguf: tokenizer\.ggml\.tokens: 104 and 106 are both 'é'"):
        make([*HEAD, ("é", NORMAL), ("x", NORMAL), ("é", NORMAL)])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("token_type", [1, 1, 1], "ARRAY[INT32]"), "token_type: 3 entries for 104 tokens"),
        (("scores", [1.0], "ARRAY[FLOAT32]"), "scores: 1 entries for 104 tokens"),
        (("scores", [1], "ARRAY[INT32]"), "scores: 1 entries for 104 tokens"),
    ],
)
def test_too_few_numbers_are_an_error(make: Make, key: Key, message: str) -> None:
    with pytest.raises(ModelError, match=rf"vocab\.gguf: tokenizer\.ggml\.{message}"):
        make(HEAD, key, typed=False)


def test_more_numbers_than_tokens_are_none(make: Make) -> None:
    v = make([("a", NORMAL)], ("token_type", [3, 1, 1], "ARRAY[INT32]"), typed=False).vocab
    assert v.attributes.tolist() == [Attribute.CONTROL]


def test_a_byte_token_is_an_error(make: Make) -> None:
    with pytest.raises(ModelError, match="token 104, '<0x41>', is a byte"):
        make([*HEAD, ("<0x41>", BYTE)])
    assert make([*HEAD, ("</s>", BYTE)])  # control by its text


def test_a_phi_without_its_tokens_is_an_error(make: Make) -> None:
    with pytest.raises(ModelError, match="no token </s>"):
        make(HEAD, ("general.name", "phi-3", "STRING"))


@pytest.mark.parametrize(
    "key",
    [
        ("bos_token_id", "101", "STRING"),
        ("add_bos_token", 1, "UINT32"),
        ("normalizer.lowercase", 1, "UINT8"),
        ("token_type", ["1"], "ARRAY[STRING]"),
        ("model", 3, "UINT32"),
    ],
)
def test_a_key_of_the_wrong_type_is_an_error_that_names_it(make: Make, key: Key) -> None:
    with pytest.raises(GGUFError, match=rf"vocab\.gguf: .*{key[0]}"):
        make(HEAD, key, typed=False)


# -- load_tokenizer --------------------------------------------------------------------------------------------------


def test_a_path_an_open_file_and_its_metadata_will_all_do(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "v.gguf")
    with open_gguf(path) as file:
        sources: list[Any] = [path, str(path), file, file.metadata]
        assert len({tuple(load_tokenizer(s).encode("hello, world")) for s in sources}) == 1


def test_a_tokenizer_outlives_its_file(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "v.gguf")
    tokenizer = load_tokenizer(path)
    path.unlink()
    assert tokenizer.decode(tokenizer.encode("hello")) == "[CLS] hello[SEP]"


@pytest.mark.parametrize("kind", ["gpt3", "llama-spm", "test", ""])
def test_another_kind_is_an_error_that_names_it_and_what_there_is(make: Make, kind: str) -> None:
    with pytest.raises(ModelError, match=rf"vocab\.gguf: tokenizer\.ggml\.model is '{kind}'\n  hint: .*bert"):
        make(None, ("model", kind, "STRING"))


def test_a_file_without_vocabulary_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    GGUFWriter("bert").write(tmp_path / "none.gguf")
    with pytest.raises(GGUFError, match=r"none\.gguf: .*tokenizer\.ggml\.model"):
        load_tokenizer(tmp_path / "none.gguf")


def test_token_types_stay_next_to_attribute_bits(plain: Tokenizer) -> None:
    assert plain.vocab.types[plain.vocab.ids[b"<user>"]] == USER_DEFINED
    assert plain.vocab.types.dtype == plain.vocab.attributes.dtype == np.int32
