"""Live llama.cpp and refembed on the same vocabularies and texts: not one id, byte or bit may differ."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refembed.errors import EngineError, ModelError, RequestError
from refembed.testing.texts import TOO_HIGH, random_texts
from refembed.tokenizer import Tokenizer, load_tokenizer
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.tokenizer.llamacpp import FLAGS, vocab_facts
from tests.tokenizer.recorded import N_TEXTS, RECORDED, digest, recorded_texts
from tests.tokenizer.vocabs import HEAD, NEUTRAL, NORMAL, REVEALED, VARIANTS, role, write_vocab

pytestmark = pytest.mark.oracle

BOTH = (False, True)
SWITCHES = [(a, b) for a in BOTH for b in BOTH]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every variant as a file."""
    folder = tmp_path_factory.mktemp("vocabs")
    return {name: write_vocab(folder / f"{name}.gguf", tokens, *keys) for name, (tokens, keys) in VARIANTS.items()}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Iterator[tuple[LlamaCpp, Tokenizer, str]]:
    """llama.cpp and refembed with one variant, and its name."""
    with LlamaCpp(paths[request.param], vocab_only=True) as engine:
        yield engine, load_tokenizer(paths[request.param]), request.param


@pytest.fixture(scope="module")
def real(minilm: Path) -> Iterator[tuple[LlamaCpp, Tokenizer]]:
    """llama.cpp and refembed with the default model's vocabulary."""
    with LlamaCpp(minilm, vocab_only=True) as engine:
        yield engine, load_tokenizer(minilm)


def assert_equal_ids(
    engine: LlamaCpp, tokenizer: Tokenizer, texts: list[str | bytes], switches: Any = SWITCHES
) -> None:
    """Compare ids; a failure names the first text."""
    for add, parse in switches:
        theirs = engine.tokenize_many(texts, add, parse)
        ours = [tokenizer.encode(t, add, parse) for t in texts]
        differing = [i for i in range(len(texts)) if ours[i] != theirs[i]]
        first = differing[0] if differing else 0
        assert not differing, (len(differing), add, parse, texts[first], ours[first], theirs[first])


def salted(texts: list[str | bytes], tokenizer: Tokenizer, seed: int) -> list[str | bytes]:
    """Texts with special tokens of this vocabulary put into them at random, and odd white space around those."""
    rng = random.Random(seed)
    special = [s.text for s in tokenizer._specials[True]] + [b"</s>", b"unused"]
    result: list[str | bytes] = []
    for text in texts:
        raw = text.encode() if isinstance(text, str) else text
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(raw) + 1)
            salt = rng.choice((b"", b" ", b" \t", b"\xc2\xa0")) + rng.choice(special) + rng.choice((b"", b"  ", b"\n "))
            raw = raw[:at] + salt + raw[at:]
        result.append(raw)
    return result


def every_code_point() -> list[str | bytes]:
    """`a` + code point + `b` for all of them, 1024 to a text, in bytes as surrogates are among them."""
    words = [f"a{chr(cp)}b".encode("utf-8", "surrogatepass") for cp in range(0x110000)]
    return [b" ".join(words[i : i + 1024]) for i in range(0, len(words), 1024)]


# -- what the vocabulary is ------------------------------------------------------------------------------------------


def test_tokens_bits_and_roles_are_llama_cpps(paths: dict[str, Path]) -> None:
    for (name, path), theirs in zip(paths.items(), vocab_facts(list(paths.values())), strict=True):
        ours = load_tokenizer(path).vocab
        assert isinstance(theirs, dict), name
        assert [t.hex() for t in ours.tokens] == theirs["texts"], name
        assert ours.attributes.tolist() == theirs["attributes"], name
        for wanted in ("bos", "eos", "sep", "pad", "mask"):
            assert getattr(ours, wanted) == theirs["roles"][wanted], (name, wanted)
        for flag in FLAGS:
            assert getattr(ours, flag) == theirs[flag], (name, flag)


def test_each_text_that_reveals_a_special_token_is_one_to_llama_cpp(tmp_path: Path) -> None:
    paths = [write_vocab(tmp_path / f"{i}.gguf", [*NEUTRAL, (t, NORMAL)]) for i, t in enumerate(REVEALED)]
    found = [facts["attributes"][-1] for facts in vocab_facts(paths) if isinstance(facts, dict)]
    assert dict(zip(REVEALED, found, strict=True)) == REVEALED


@pytest.mark.parametrize(
    ("tokens", "keys"),
    [
        ([*HEAD, ("x", 1), ("x", 1)], []),
        ([*HEAD, ("x", 1), (b"x\0y", 1)], []),
        ([*HEAD, ("<0x41>", 6)], []),
        (HEAD, [("general.name", "phi3", "STRING")]),
        (HEAD, [("token_type", [1, 1], "ARRAY[INT32]")]),
        (HEAD, [("scores", [1.0], "ARRAY[FLOAT32]")]),
        (HEAD, [("model", "berth", "STRING")]),
    ],
    ids=["twice", "twice-behind-nul", "byte", "phi-without-tokens", "few-types", "few-scores", "unknown-kind"],
)
def test_what_llama_cpp_refuses_is_one_error(tmp_path: Path, tokens: Any, keys: Any) -> None:
    path = write_vocab(tmp_path / "bad.gguf", tokens, *keys, typed=not any(k[0] == "token_type" for k in keys))
    assert vocab_facts([path])[0] in (None, "crash")
    with pytest.raises(ModelError, match=r"bad\.gguf: "):
        load_tokenizer(path)


def test_llama_cpp_dies_where_a_missing_special_token_is_an_error(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "short.gguf", [("a", 1), ("▁a", 1), ("[UNK]", 2)], role("unknown", 2))
    tokenizer = load_tokenizer(path)
    with LlamaCpp(path, vocab_only=True) as engine:
        assert engine.tokenize("a aa", add_special=False) == tokenizer.encode("a aa", add_special=False) == [1, 1, 0]
        with pytest.raises(EngineError):
            engine.tokenize("a", add_special=True)
    with pytest.raises(ModelError, match=r"short\.gguf: the tokenizer needs its bos token"):
        tokenizer.encode("a")


# -- text to ids -----------------------------------------------------------------------------------------------------


def test_20000_texts_have_llama_cpps_ids(real: tuple[LlamaCpp, Tokenizer]) -> None:
    assert_equal_ids(*real, random_texts(0, 20_000))


def test_special_tokens_within_texts_have_llama_cpps_ids(real: tuple[LlamaCpp, Tokenizer]) -> None:
    assert_equal_ids(*real, salted(random_texts(1, 3_000), real[1], 1))


@pytest.mark.slow
def test_every_code_point_has_llama_cpps_ids(real: tuple[LlamaCpp, Tokenizer]) -> None:
    assert_equal_ids(*real, every_code_point(), [(False, False)])


def test_each_variant_has_llama_cpps_ids(pair: tuple[LlamaCpp, Tokenizer, str]) -> None:
    engine, tokenizer, _ = pair
    assert_equal_ids(engine, tokenizer, salted(random_texts(2, 500), tokenizer, 2))


BYTEWISE = [pytest.param(n, marks=[] if n == "bytewise" else pytest.mark.slow) for n in VARIANTS if "bytewise" in n]


@pytest.mark.parametrize("name", BYTEWISE)
def test_every_code_point_is_normalized_as_llama_cpp_does(paths: dict[str, Path], name: str) -> None:
    with LlamaCpp(paths[name], vocab_only=True) as engine:  # the ids of this vocabulary spell every byte out
        assert_equal_ids(engine, load_tokenizer(paths[name]), every_code_point(), [(False, False)])


def test_the_recorded_digests_are_llama_cpps(pair: tuple[LlamaCpp, Tokenizer, str]) -> None:
    engine, _, name = pair
    texts = recorded_texts()
    assert len(texts) == N_TEXTS
    assert digest(engine.tokenize_many(texts, False, True)) == RECORDED.get(name)


@pytest.mark.parametrize("raw", TOO_HIGH)
def test_a_code_point_above_10ffff_ends_llama_cpp(minilm: Path, raw: bytes) -> None:
    with LlamaCpp(minilm, vocab_only=True) as engine, pytest.raises(EngineError):
        engine.tokenize(raw)
    with pytest.raises(RequestError, match="above 10FFFF"):
        load_tokenizer(minilm).encode(raw)


# -- ids to text -----------------------------------------------------------------------------------------------------


def test_pieces_are_llama_cpps(pair: tuple[LlamaCpp, Tokenizer, str]) -> None:
    engine, tokenizer, _ = pair
    for special in BOTH:
        theirs = [engine.piece(i, special) for i in range(len(tokenizer.vocab))]
        assert [tokenizer.piece(i, special) for i in range(len(tokenizer.vocab))] == theirs


def assert_equal_texts(engine: LlamaCpp, tokenizer: Tokenizer, sequences: list[list[int]]) -> None:
    """Compare what ids are detokenized to, under every combination of switches."""
    for ids in sequences:
        for remove, unparse in SWITCHES:
            theirs = engine.detokenize_bytes(ids, remove, unparse)
            assert tokenizer.decode_bytes(ids, remove, unparse) == theirs, (ids, remove, unparse)


def test_detokenized_texts_are_llama_cpps(pair: tuple[LlamaCpp, Tokenizer, str]) -> None:
    engine, tokenizer, _ = pair
    assert_equal_texts(engine, tokenizer, random_ids(tokenizer, 150, seed=4))


def test_detokenized_texts_of_the_default_model_are_llama_cpps(real: tuple[LlamaCpp, Tokenizer]) -> None:
    texts = random_texts(5, 700)
    assert_equal_texts(*real, [real[1].encode(t, True, True) for t in texts] + random_ids(real[1], 300, seed=6))


def random_ids(tokenizer: Tokenizer, n: int, seed: int) -> list[list[int]]:
    """Sequences of ids: anything, with what the clean-up rules look for well represented."""
    rng = random.Random(seed)
    vocab = tokenizer.vocab
    marks = [
        f"{start}{t}".encode() for t in ("'", "?", "!", ".", ",", "s", "m", "re", "ve", "t") for start in ("", "▁")
    ]
    likely = [vocab.ids[t] for t in marks if t in vocab.ids]
    likely += [i for i in (vocab.bos, vocab.eos, vocab.sep, vocab.unk) if i is not None]

    def one() -> int:
        return rng.choice(likely) if rng.random() < 0.7 else rng.randrange(len(vocab))

    return [[one() for _ in range(rng.randrange(1, 12))] for _ in range(n)]
