"""What each stage makes of a text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import RequestError
from refembed.tokenizer import TOKENIZERS, Tokenizer, load_tokenizer
from refembed.tokenizer.explain import HOOKS, NAMES, Fragment, stages
from tests.tokenizer.bpe_llamacpp import Many
from tests.tokenizer.kinds import KINDS, TEXTS, of_kind, write_kind
from tests.tokenizer.vocabs import flag, write_vocab


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stages")
    found = {kind: write_kind(folder, kind, "all-added") for kind in KINDS}
    tokens, keys = of_kind("t5")
    merging = [flag("remove_extra_whitespaces", True), flag("add_space_prefix", True)]
    return found | {"t5-merging": write_vocab(folder / "merging.gguf", tokens, *keys, *merging)}


@pytest.fixture(scope="module")
def tokenizers(paths: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: load_tokenizer(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def engine() -> Iterator[Many]:
    with Many() as engine:
        yield engine


def parts(tokenizer: Tokenizer, name: str, text: str | bytes, parse_special: bool = True) -> list[Fragment]:
    """One stage's parts, [] where the kind does not have it."""
    found = {s.name: s for s in stages(tokenizer, text, True, parse_special)}
    return list(found[name].parts) if name in found else []


def test_every_kind_that_encodes_has_its_hooks() -> None:
    assert set(HOOKS) == set(TOKENIZERS) - {"none", "no_vocab"}


@pytest.mark.parametrize(
    ("kind", "has"),
    [
        ("bert", ["normalized", "pre-tokens"]),
        ("gpt2", ["normalized", "pre-tokens"]),
        ("llama", ["normalized"]),
        ("t5", ["normalized"]),
        ("rwkv", []),
        ("plamo2", []),
    ],
)
def test_stages_come_in_order_and_only_those_the_kind_has(
    tokenizers: dict[str, Tokenizer], kind: str, has: list[str]
) -> None:
    names = [s.name for s in stages(tokenizers[kind], "hello")]
    assert names == ["text", "special tokens", *has, "pieces", "added", "ids"]
    assert [n for n in NAMES if n in names] == names
    assert [s.name for s in stages(tokenizers[kind], "hello", add_special=False)] == [n for n in names if n != "added"]


def test_bert_by_stages(tokenizers: dict[str, Tokenizer]) -> None:
    t = tokenizers["bert"]
    text = " Hello,\tThe [MASK]  Café!"
    assert parts(t, "text", text) == [text.encode()]
    assert parts(t, "special tokens", text) == [b" Hello,\tThe ", 103, "  Café!".encode()]
    assert parts(t, "normalized", text) == [b"hello , the", 103, b"cafe !"]
    assert parts(t, "pre-tokens", text) == [b"hello", b",", b"the", 103, b"cafe", b"!"]
    assert parts(t, "pieces", text)[:2] == ["▁hello".encode(), "▁,".encode()]
    assert parts(t, "added", text) == [1, 4]


def test_special_tokens_are_cut_by_the_switch(tokenizers: dict[str, Tokenizer]) -> None:
    for kind in KINDS[1:]:
        t = tokenizers[kind]
        user, s = t.vocab.ids[b"<user>"], t.vocab.ids[b"<s>"]
        assert parts(t, "special tokens", "a<user>b<s>c") == [b"a", user, b"b", s, b"c"], kind
        assert parts(t, "special tokens", "a<user>b<s>c", False) == [b"a", user, b"b<s>c"], kind


def test_byte_pairs_by_stages(tokenizers: dict[str, Tokenizer]) -> None:
    t = tokenizers["gpt2"]
    assert parts(t, "normalized", b"a\xffb") == ["a\ufffdb".encode()]
    assert parts(t, "pre-tokens", "don't do  123!<s>x") == [b"don", b"'t", b" do", b" ", b" 123", b"!", 1, b"x"]
    assert spelled(t, parts(t, "pieces", "the é")) == "theĠÃ©".encode()


def test_sentencepiece_gets_its_spaces(tokenizers: dict[str, Tokenizer]) -> None:
    assert parts(tokenizers["llama"], "normalized", " a  b<s> c") == ["▁▁a▁▁b".encode(), 1, "▁▁c".encode()]
    assert parts(tokenizers["t5"], "normalized", " a  b<s> c") == ["▁a▁▁b".encode(), 1, "▁c".encode()]
    assert parts(tokenizers["t5-merging"], "normalized", " a  b<s> c ") == ["▁a▁b".encode(), 1, "▁c".encode()]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_nothing_stays_nothing(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    found = stages(tokenizers[kind], "")
    assert [s.parts for s in found if s.name not in ("added", "ids")] == [()] * (len(found) - 2)
    assert found[-1].parts == found[-2].parts


def test_what_is_no_text_is_an_error(tokenizers: dict[str, Tokenizer]) -> None:
    assert set(tokenizers) >= {"bert", "gpt2", "llama", "t5"}
    for t in tokenizers.values():
        with pytest.raises(RequestError, match="a text is str or bytes"):
            stages(t, 3)  # type: ignore[arg-type]


@given(text=st.one_of(st.text(), st.binary().filter(lambda b: not any(c >= 0xF4 for c in b))))
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5", "rwkv", "plamo2"])
def test_the_last_stage_is_what_encode_says(tokenizers: dict[str, Tokenizer], kind: str, text: str | bytes) -> None:
    found = stages(tokenizers[kind], text, True, True)
    assert list(found[-1].parts) == tokenizers[kind].encode(text, True, True)
    assert all(s.rule for s in found)


# -- against llama.cpp: its ids spell our stages ----------------------------------------------------------------------


def spelled(tokenizer: Tokenizer, fragments: list[Fragment]) -> bytes:
    """Parts put together."""
    return b"".join(f if isinstance(f, bytes) else tokenizer.vocab.tokens[f] for f in fragments)


READABLE: list[str | bytes] = [t for t in TEXTS if isinstance(t, str) and t.isascii() and "</s>" not in t]


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["llama", "t5", "t5-merging"])
def test_llama_cpps_tokens_spell_the_normalized_text(
    paths: dict[str, Path], tokenizers: dict[str, Tokenizer], engine: Many, kind: str
) -> None:
    assert engine.open(paths[kind])
    t = tokenizers[kind]
    asked = 0
    for text, ids in zip(READABLE, engine.ids(READABLE, False, True), strict=True):
        if t.vocab.unk not in ids and not any(t.vocab.tokens[i].startswith(b"<0x") for i in ids):
            assert spelled(t, parts(t, "normalized", text)) == b"".join(t.vocab.tokens[i] for i in ids), text
            asked += 1
    assert asked > 8


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_llama_cpp_has_the_same_ids_for_pre_tokens_alone(
    paths: dict[str, Path], tokenizers: dict[str, Tokenizer], engine: Many, kind: str
) -> None:
    assert engine.open(paths[kind])
    t = tokenizers[kind]
    for text, ids in zip(TEXTS, engine.ids(TEXTS, False, True), strict=True):
        words = parts(t, "pre-tokens", text)
        alone = engine.ids([w for w in words if isinstance(w, bytes)], False, False)
        rest = iter(alone)
        assert [i for w in words for i in ([w] if isinstance(w, int) else next(rest))] == ids, text
