"""What all kinds share: refembed against live llama.cpp on a small vocabulary of each: not one id or bit may differ."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from refembed.errors import EngineError, GGUFError, ModelError, RequestError
from refembed.gguf import GGUFWriter
from refembed.tokenizer import TOKENIZERS, Tokenizer, class_of, load_tokenizer
from refembed.tokenizer.base import DOUBLED
from refembed.tokenizer.explain import stages
from refembed.tokenizer.pairs import encode_pair
from refembed.tokenizer.vocab import DEFAULTS, Vocab
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.child import answer_to_code
from tests.tokenizer.bpe_llamacpp import Many
from tests.tokenizer.kinds import KINDS, MARKS, SAID, TEXTS, model, of_kind, write_kind
from tests.tokenizer.llamacpp import FLAGS, vocab_facts
from tests.tokenizer.vocabs import NORMAL, Key, flag, role, write_vocab

BOTH = (False, True)
SWITCHES = [(a, b) for a in BOTH for b in BOTH]
ROLES = ("bos", "eos", "sep", "pad", "mask")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every kind with everything that a file can say around it."""
    folder = tmp_path_factory.mktemp("kinds")
    return {(kind, said): write_kind(folder, kind, said) for kind in KINDS for said in SAID}


@pytest.fixture(scope="module")
def engine() -> Iterator[Many]:
    with Many() as engine:
        yield engine


def where_it_ends(tokenizer: Tokenizer) -> bool:
    """Whether adding special tokens is beyond this file: llama.cpp ends the process there."""
    try:
        tokenizer.encode("")
    except ModelError:
        return True
    return False


# -- registration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_kind_has_a_class_and_defaults(kind: str) -> None:
    assert issubclass(class_of(kind), Tokenizer)
    assert kind in DEFAULTS


def test_a_kind_is_imported_when_a_file_is_of_that_kind(tmp_path: Path) -> None:
    path = write_kind(tmp_path, "bert", "nothing")
    program = f"import sys; from refembed import load_tokenizer; load_tokenizer({str(path)!r}); print(*sys.modules)"
    loaded = answer_to_code(program).split()
    others = {f"refembed.tokenizer.{module}" for module, _ in TOKENIZERS.values()} - {"refembed.tokenizer.wordpiece"}
    assert "refembed.tokenizer.wordpiece" in loaded
    assert not others & set(loaded)
    assert not {"numba", "urllib.request", "refembed.tokenizer.explain", "refembed.tokenizer.pairs"} & set(loaded)


def test_modules_of_kinds_exist() -> None:
    for module, name in TOKENIZERS.values():
        assert hasattr(importlib.import_module(f"refembed.tokenizer.{module}"), name)


# -- a model without vocabulary --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no_vocab", "none"])
def test_without_a_vocabulary_there_are_ids_and_no_texts(tmp_path: Path, kind: str) -> None:
    w = GGUFWriter("bert")
    w.add("tokenizer.ggml.model", kind, "STRING")
    w.add("bert.vocab_size", 7, "UINT32")
    w.write(tmp_path / "ids.gguf")
    tokenizer = load_tokenizer(tmp_path / "ids.gguf")
    assert len(tokenizer.vocab) == 7
    assert tokenizer.decode([0, 6]) == ""
    for ask in (
        tokenizer.encode,
        lambda text: stages(tokenizer, text),
        lambda text: encode_pair(tokenizer, text, text),
    ):
        with pytest.raises(
            RequestError, match=rf"ids\.gguf: tokenizer\.ggml\.model is '{kind}': .*\n  hint: give token"
        ):
            ask("hello")


# -- what the vocabulary is ------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_tokens_bits_roles_and_flags_are_llama_cpps(paths: dict[tuple[str, str], Path]) -> None:
    for name, theirs in zip(paths, vocab_facts(list(paths.values())), strict=True):
        ours = load_tokenizer(paths[name]).vocab
        assert isinstance(theirs, dict), name
        assert [t.hex() for t in ours.tokens] == theirs["texts"], name
        assert ours.attributes.tolist() == theirs["attributes"], name
        assert {r: getattr(ours, r) for r in ROLES} == {r: theirs["roles"][r] for r in ROLES}, name
        assert {f: getattr(ours, f) for f in FLAGS} == {f: theirs[f] for f in FLAGS}, name


PRE: dict[str, list[Key]] = {
    "absent": [("pre", "", "STRING")],
    **{pre: [("pre", pre, "STRING")] for pre in ("llama-bpe", "roberta-bpe", "glm4", "chameleon", "qwen2", "gemma4")},
    "gemma4-without": [("pre", "gemma4", "STRING"), flag("add_bos_token", False), role("bos", 1)],
    "llama-bpe-without": [("pre", "llama-bpe", "STRING"), flag("add_bos_token", False)],
    "kind-gemma4": [model("gemma4"), role("bos", 1), flag("add_bos_token", False)],
    "kind-gemma4-other": [model("gemma4"), ("pre", "qwen2", "STRING")],
    "kind-whitespace": [model("whitespace"), ("pre", "whitespace", "STRING")],
    "kind-hybriddna": [model("hybriddna")],
}


@pytest.mark.oracle
@pytest.mark.parametrize("pre", PRE)
def test_what_the_pre_tokenizer_changes_of_the_defaults_is_llama_cpps(tmp_path: Path, pre: str) -> None:
    tokens, keys = of_kind("gpt2")
    given = {k[0]: k for k in (*keys, *PRE[pre])}
    path = write_vocab(tmp_path / "pre.gguf", tokens, *given.values())
    [theirs] = vocab_facts([path])
    ours = load_tokenizer(path).vocab
    assert isinstance(theirs, dict)
    assert {r: getattr(ours, r) for r in ROLES} == {r: theirs["roles"][r] for r in ROLES}
    assert {f: getattr(ours, f) for f in FLAGS} == {f: theirs[f] for f in FLAGS}


@pytest.mark.oracle
def test_markers_of_dna_are_for_look_up_only(tmp_path: Path) -> None:
    tokens, keys = of_kind("gpt2")
    tokens += [(t, NORMAL) for t in ("xx\ue000", "<dna>", "</dna>", "<oov>", "ACGTAC\ue000", "\ue000", "CCCCCC\ue000")]
    path = write_vocab(tmp_path / "dna.gguf", tokens, *keys[1:], model("hybriddna"))
    [theirs] = vocab_facts([path])
    assert isinstance(theirs, dict)
    assert [t.hex() for t in load_tokenizer(path).vocab.tokens] == theirs["texts"]


BAD: dict[str, list[Key]] = {
    "float64-scores": [("scores", [0.0] * 4000, "ARRAY[FLOAT64]")],
    "wide-types": [("token_type", [1] * 4000, "ARRAY[INT64]")],
    "unsigned-types": [("token_type", [1] * 4000, "ARRAY[UINT32]")],
    "unknown-pre": [("pre", "gpt-2000", "STRING")],
    "no-merges": [("merges", None, "STRING")],
    "merges-are-numbers": [("merges", [1, 2], "ARRAY[INT32]")],
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", BAD)
def test_what_llama_cpp_refuses_of_any_kind_is_an_error(tmp_path: Path, name: str) -> None:
    tokens, keys = of_kind("gpt2")
    given = {k[0]: k for k in (*keys, *BAD[name])}
    typed = not any(k[0] == "token_type" for k in BAD[name])
    path = write_vocab(tmp_path / "bad.gguf", tokens, *(k for k in given.values() if k[1] is not None), typed=typed)
    assert vocab_facts([path])[0] in (None, "crash")
    with pytest.raises((ModelError, GGUFError), match=r"bad\.gguf"):
        load_tokenizer(path)


# -- text to ids and back --------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", SAID)
def test_cuts_and_what_is_added_are_llama_cpps(
    paths: dict[tuple[str, str], Path], engine: Many, kind: str, said: str
) -> None:
    assert engine.open(paths[kind, said])
    tokenizer = load_tokenizer(paths[kind, said])
    for add, parse in SWITCHES:
        if add and where_it_ends(tokenizer):
            continue
        theirs = engine.ids(TEXTS, add, parse)
        assert {t: tokenizer.encode(t, add, parse) for t in TEXTS} == dict(zip(TEXTS, theirs, strict=True)), (
            add,
            parse,
        )


@pytest.mark.oracle
def test_scores_may_be_whole_numbers_and_more_than_the_tokens(tmp_path: Path, engine: Many) -> None:
    tokens, _ = of_kind("llama")
    scores: Key = ("scores", [len(t) % 7 - i for i, (t, _) in enumerate(tokens)] + [5], "ARRAY[INT32]")
    path = write_vocab(tmp_path / "whole.gguf", tokens, model("llama"), scores)
    assert engine.open(path)
    assert [load_tokenizer(path).encode(t, False) for t in TEXTS] == engine.ids(TEXTS, False, False)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", SAID)
def test_pieces_and_texts_of_ids_are_llama_cpps(
    paths: dict[tuple[str, str], Path], engine: Many, kind: str, said: str
) -> None:
    assert engine.open(paths[kind, said])
    tokenizer, rng = load_tokenizer(paths[kind, said]), random.Random(3)
    n = len(tokenizer.vocab)
    for special in BOTH:
        assert [tokenizer.piece(i, special) for i in range(n)] == engine.pieces(special)
    spelled = [(start + mark).encode() for mark in MARKS for start in ("", "▁", "Ġ")]
    likely = [tokenizer.vocab.ids[t] for t in spelled if t in tokenizer.vocab.ids]
    kinds_of_id = (lambda: rng.randrange(n), lambda: rng.randrange(18), *[lambda: rng.choice(likely)] * 3)
    sequences = [[rng.choice(kinds_of_id)() for _ in range(rng.randrange(9))] for _ in range(40)]
    for remove, unparse in SWITCHES:
        theirs = engine.texts(sequences, remove, unparse)
        assert [tokenizer.decode_bytes(s, remove, unparse) for s in sequences] == theirs


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("kind", "keys"),
    [("llama", [flag("add_bos_token", True), role("bos", 1)]), ("gpt2", [flag("add_eos_token", True)]), ("t5", [])],
)
def test_llama_cpp_dies_where_a_token_to_add_is_none(tmp_path: Path, kind: str, keys: list[Key]) -> None:
    tokens, own = of_kind(kind)
    few = [("\n", NORMAL)] if kind != "gpt2" else tokens[:11]  # the default id is beyond
    own = [k for k in own if k[0] != "scores"]
    path = write_vocab(tmp_path / "few.gguf", few, *own, *(k for k in keys if k[0] != "bos_token_id"))
    with pytest.raises(ModelError, match=r"few\.gguf: the tokenizer needs its (bos|eos) token"):
        load_tokenizer(path).encode("")
    with LlamaCpp(path, vocab_only=True) as alive, pytest.raises(EngineError):
        alive.tokenize("")


# -- a special token that is there already ---------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_warns_of_the_same_doubled_tokens(
    paths: dict[tuple[str, str], Path], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(paths[kind, "all-added"])
    with LlamaCpp(paths[kind, "all-added"], vocab_only=True) as alive:
        for text, token in (("<s>hello", "BOS"), ("hello</s>", "EOS"), ("hello", "")):
            caplog.clear()
            begin = alive.log.seek(0, 2)
            assert tokenizer.encode(text, True, True) == alive.tokenize(text, True, True)
            theirs, ours = alive.log_lines(begin), caplog.text
            assert ("BOS token" in theirs, "EOS token" in theirs) == ("BOS was added" in ours, "EOS was added" in ours)
            assert ("was added" in ours) == (token.lower() in DOUBLED.get(kind, ()))


def test_a_doubled_special_token_warns_once(
    paths: dict[tuple[str, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(paths["llama", "all-added"])
    ids = [tokenizer.encode("<s>hello", True, True) for _ in range(3)]
    assert ids[0][:2] == [1, 1]
    assert caplog.text.count("BOS was added to a text that has it already") == 1


# -- many special tokens ---------------------------------------------------------------------------------------------


def test_beginnings_find_every_special_token(tmp_path: Path) -> None:
    many = [(f"<unused{i}>", 4) for i in range(3000)]
    path = write_vocab(
        tmp_path / "many.gguf", [("[UNK]", 3), *many, ("\n\n", 4), ("<", 4), ("é", 4)], role("unknown", 0)
    )
    tokenizer = load_tokenizer(path)
    vocab: Vocab = tokenizer.vocab
    text = "".join(t.decode() for t in vocab.tokens[1:])
    assert tokenizer.encode(text, add_special=False) == list(range(1, len(vocab)))
