"""Pre-tokenizers: every name llama.cpp knows, cut as llama.cpp cuts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import ModelError
from refembed.testing.texts import split
from refembed.tokenizer import Tokenizer, load_tokenizer
from refembed.tokenizer.pretokenize import CASED_LETTERS, TABLE, PreTokenizer, defaults_of
from refembed.tokenizer.pretokenize_split import (
    HAN,
    Expression,
    Text,
    before_threes,
    by_characters,
    by_classes,
    threes_from_the_right,
)
from tests.tokenizer.bpe_llamacpp import Many
from tests.tokenizer.bpe_recorded import N_TEXTS, RECORDED
from tests.tokenizer.bpe_vocabs import (
    NASTY,
    Vocabularies,
    code_points,
    pre_key,
    texts_to_cut,
    write,
    write_probe,
)
from tests.tokenizer.recorded import digest
from tests.tokenizer.vocabs import NORMAL

RULES = {id(rule): name for name, rule in reversed(TABLE.items())}  # each rule by the first of its names
FIRST = sorted(RULES.values())
ALIASES = sorted(set(TABLE) - set(FIRST))
NAMES = split(
    "a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx "
    "deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon "
    "falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling "
    "granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de "
    "jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna "
    "lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5 "
    "minimax-m2 mmbert modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe "
    "seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2 starcoder superbpe talkie tekken tiny_aya trillion "
    "ufakzeka viking whitespace youtu "
)
NO_NAMES = split(
    "jina-v2-zh jina-v2-en chatglm3 GPT-2 gpt2 gpt-3 llama llama2 llama-spm bert-bge qwen qwen3 deepseek deepseek-v2 "
    "gemma gemma3 t5 kimi whitespaces default2 tiny-aya spark hy-v4 mm-bert modernbert roberta falcon2 solar"
)
EXPRESSIONS = [stage for rule in TABLE.values() for stage in rule.stages if isinstance(stage, Expression)]
NAMED = {ord(c) for e in EXPRESSIONS if e.view == "wide" for c in e.pattern if not c.isascii()}
CASED = {int(cp, 16) for run in CASED_LETTERS.split() for cp in run.split("-")}
ENDS = sorted(
    {
        *range(0x80, 0x600),
        *range(0x600, 0x10000, 0x20),
        *(cp + d for cp in (*NAMED, *CASED, *chain(*HAN)) for d in (-1, 0, 1) if cp + d >= 0x80),
    }
)


def ranges(rule: PreTokenizer) -> tuple[str, ...]:
    """Its expressions that name characters beyond ASCII."""
    wide = (s.pattern for s in rule.stages if isinstance(s, Expression) and s.view == "wide")
    return tuple(p for p in wide if not p.isascii() or "\\U" in p)


RANGED = {ranges(TABLE[name]): name for name in FIRST if ranges(TABLE[name])}  # one rule for each set of ranges


@pytest.fixture(scope="module")
def engine() -> Iterator[Many]:
    with Many() as many:
        yield many


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Vocabularies:
    return Vocabularies(tmp_path_factory.mktemp("pre"))


@pytest.fixture(scope="module")
def backwards(tmp_path_factory: pytest.TempPathFactory) -> Vocabularies:
    """The same merges, the last one first."""
    return Vocabularies(tmp_path_factory.mktemp("pre"), seed=1)


def assert_equal_ids(engine: Many, tokenizer: Tokenizer, texts: list[str | bytes], add: bool, parse: bool) -> None:
    """Compare ids; a failure names the first text."""
    theirs = engine.ids(texts, add, parse)
    ours = [tokenizer.encode(t, add, parse) for t in texts]
    differing = [i for i in range(len(texts)) if ours[i] != theirs[i]]
    first = differing[0] if differing else 0
    assert not differing, (tokenizer.vocab.pre, len(differing), texts[first], ours[first], theirs[first])


# -- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_llama_cpp_loads_every_name_and_no_other(engine: Many, tmp_path: Path) -> None:
    def accepts(pre: str) -> bool:
        tokens = [(t, NORMAL) for t in ("a", "b", "c", "d", "ab")]
        return engine.open(write(tmp_path / "vocab.gguf", tokens, ["a b"], "gpt2", pre_key(pre)))

    assert [name for name in NAMES if not accepts(name)] == []
    assert [name for name in NO_NAMES if accepts(name)] == []


def test_the_table_has_every_name() -> None:
    assert sorted(TABLE) == list(NAMES)


@pytest.mark.parametrize("name", NO_NAMES)
def test_another_name_is_an_error(name: str) -> None:
    with pytest.raises(ModelError, match=rf"x\.gguf: tokenizer\.ggml\.pre is '{name}', which llama\.cpp does not know"):
        defaults_of(name, where="x.gguf")


@pytest.mark.parametrize(
    ("wrong", "near"), [("jina-v2-zh", "jina-v2-es"), ("GPT-2", "gpt-2"), ("qwen3", "qwen2"), ("mm-bert", "mmbert")]
)
def test_the_error_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ModelError, match=f"hint: did you mean .*{near}"):
        defaults_of(wrong)


def test_an_empty_name_is_default_and_gemma4_asks_no_name() -> None:
    assert defaults_of("") is defaults_of("default")
    assert defaults_of("no such thing", kind="gemma4") is TABLE["gemma4"]


# -- ids give away how a text was cut --------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("name", FIRST)
def test_each_rule_cuts_as_llama_cpp(engine: Many, files: Vocabularies, backwards: Vocabularies, name: str) -> None:
    for seed, vocabularies in enumerate((files, backwards)):
        path = vocabularies.write(name)
        assert engine.open(path)
        tokenizer = load_tokenizer(path)
        assert_equal_ids(engine, tokenizer, texts_to_cut(2 * FIRST.index(name) + seed, 80), False, False)
        assert_equal_ids(engine, tokenizer, texts_to_cut(1000 + FIRST.index(name), 20), True, True)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ALIASES)
def test_each_other_name_is_its_rule(engine: Many, files: Vocabularies, name: str) -> None:
    path = files.write(name)
    assert engine.open(path)
    assert_equal_ids(engine, load_tokenizer(path), texts_to_cut(2000 + ALIASES.index(name), 25), True, True)


def test_recorded_ids_are_llama_cpps(files: Vocabularies) -> None:
    texts = texts_to_cut(2026, N_TEXTS)
    for name in FIRST:
        tokenizer = load_tokenizer(files.write(name))
        assert digest([tokenizer.encode(t, False, True) for t in texts]) == RECORDED[name], name


@pytest.mark.oracle
@pytest.mark.parametrize("name", FIRST)
def test_the_recorded_digests_are_llama_cpps(engine: Many, files: Vocabularies, name: str) -> None:
    assert engine.open(files.write(name))
    assert digest(engine.ids(texts_to_cut(2026, N_TEXTS), False, True)) == RECORDED[name]


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("name", [*FIRST, *ALIASES])
def test_5000_texts_are_cut_as_llama_cpp_cuts_them(engine: Many, tmp_path: Path, name: str) -> None:
    n = 2500 if name in FIRST else 250
    for seed in (2, 3):
        path = Vocabularies(tmp_path, seed).write(name)
        assert engine.open(path)
        texts = texts_to_cut(10 * sorted(TABLE).index(name) + seed, n)
        assert_equal_ids(engine, load_tokenizer(path), texts, False, False)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["kimi-k2", *RANGED.values()])
def test_ends_of_ranges_go_with_what_llama_cpp_lets_them(engine: Many, tmp_path: Path, name: str) -> None:
    path = write_probe(tmp_path / "probe.gguf", name)
    assert engine.open(path)
    assert_equal_ids(engine, load_tokenizer(path), code_points(ENDS), False, False)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("name", FIRST)
def test_code_points_go_with_what_llama_cpp_lets_them(engine: Many, tmp_path: Path, name: str) -> None:
    """A sixteenth of all, not the same for each rule; the whole basic plane where a rule names ranges."""
    path = write_probe(tmp_path / "probe.gguf", name)
    assert engine.open(path)
    some = [*range(0x80 + FIRST.index(name) % 16, 0x110000, 16)]
    some += range(0x80, 0x10000) if name in RANGED.values() else ()
    assert_equal_ids(engine, load_tokenizer(path), code_points(some), False, False)


# -- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "Hello world's  42!", ["Hello", " world", "'s", " ", " 42", "!"]),
        ("gpt-2", "IT'S", ["IT", "'", "S"]),
        ("llama3", "IT'S 12345 x\n\n y", ["IT", "'S", " ", "123", "45", " x", "\n\n", " y"]),
        ("qwen2", "12 ab", ["1", "2", " ab"]),
        ("qwen2", "e\u0301t", ["e", "\u0301t"]),  # a mark is no letter ...
        ("qwen35", "e\u0301t", ["e\u0301t"]),  # ... but to this one
        ("ufakzeka", "IT'S", ["IT", "'S"]),
        ("gpt-4o", "ABcDe ÉCole", ["ABc", "De", " ÉCole"]),  # case is seen in ASCII only
        ("afmoe", "a1234567b", ["a", "1", "234", "567", "b"]),
        ("superbpe", "x1234567", ["x", "1", "234", "567"]),
        ("kimi-k2", "漢字kana12", ["漢字", "kana", "12"]),
        ("exaone-moe", "so it goes.", ["so it goes", "."]),
        ("default", "a12345", ["a", "123", "45"]),
        ("whitespace", "a b  c", ["a", " ", "b", "  ", "c"]),
        ("gemma4", "a▁b\n\n\nc", ["a▁b", "\n\n\n", "c"]),
        ("mmbert", "a▁b\n\nc▁", ["▁a", "▁b", "\n\n", "▁c", "▁"]),
    ],
)
def test_rules_by_example(pre: str, text: str, pieces: list[str]) -> None:
    assert TABLE[pre].split(text) == pieces


def test_numbers_are_cut_from_the_right() -> None:
    assert threes_from_the_right(Text("ab1234c567"), [10]) == [3, 6, 10]
    assert threes_from_the_right(Text("123456"), [4, 6]) == [1, 4, 6]
    assert before_threes(Text("x1234567"), [8]) == [2, 5, 8]


def test_white_space_beyond_ascii_is_a_vertical_tab() -> None:
    text = Text("a\u3000é\u0378\u0301½。€\x85")
    assert text.classes == b"a\x0b\xd2\xd0\xd4\xd1\xd3\xd5\x0b"
    assert text.wide == "a\x0bé\u0378\u0301½。€\x0b"


def test_what_no_alternative_matches_stays_a_piece() -> None:
    assert by_classes("b+")(Text("aabbcab"), [3, 7]) == [2, 3, 4, 6, 7]
    assert by_characters("x")(Text("abc"), [3]) == [3]


# -- properties ------------------------------------------------------------------------------------------------------

PARTS = st.lists(st.one_of(st.text(), st.sampled_from(NASTY)), max_size=5).map("".join)


@given(text=PARTS, rule=st.sampled_from([TABLE[name] for name in FIRST]))
def test_pieces_joined_are_the_text(text: str, rule: PreTokenizer) -> None:
    pieces = rule.split(text)
    assert all(pieces)
    if not rule.word_starts:
        assert "".join(pieces) == text


@given(text=PARTS, rule=st.sampled_from([TABLE[name] for name in FIRST]))
def test_cut_step_by_step_they_are_the_same(text: str, rule: PreTokenizer) -> None:
    pieces = [text] if text else []
    for cut in rule.cutters():
        pieces = [finer for piece in pieces for finer in cut(piece)]
    assert pieces == rule.split(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_long_runs_of_anything_take_linear_time(name: str) -> None:
    """A rule that tried a run again from each of its 50,000 characters would take minutes."""
    began = time.process_time()
    for unit in ("a", "É", " ", "\n", "1", "!", "\u0301", "中", "\u3000", "a ", "'s", "Aa", " .", "\r ", *NASTY[::7]):
        assert TABLE[name].split((unit * 50_000)[:50_000])
    assert time.process_time() - began < 20
