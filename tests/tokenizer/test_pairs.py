"""Queries with documents. What llama-server makes of a pair shows in its score (`tests.llama_server`).

llama-embedding is not in the wheel: its pairs are held against live llama_tokenize of the text its source composes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refembed.errors import ModelError, RequestError
from refembed.tokenizer import Tokenizer, load_tokenizer
from refembed.tokenizer.pairs import encode_pair
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.llama_server import server_scores
from tests.tiny import tiny_bert
from tests.tokenizer.vocabs import Key, flag, role, with_keys

TEMPLATE = "[CLS]{query} [SEP]{document} a {query}[MASK]"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # tests/tiny.py begins so


def template(text: str) -> Key:
    """tokenizer.chat_template.rerank."""
    return "tokenizer.chat_template.rerank", text, "STRING"


def adds(bos: bool, eos: bool, sep: bool) -> list[Key]:
    """The three flags."""
    return [flag(f"add_{r}_token", on) for r, on in (("bos", bos), ("eos", eos), ("sep", sep))]


def unigram() -> list[Key]:
    """The same tokens as Unigram, as XLM-RoBERTa has it: <s> is 2, </s> and SEP 3."""
    scores: Key = ("scores", [-0.01 * i for i in range(88)], "ARRAY[FLOAT32]")
    return [
        ("model", "t5", "STRING"),
        scores,
        role("bos", 2),
        role("eos", 3),
        role("unknown", 1),
        *adds(True, True, True),
    ]


INSTRUCT = "\n<Query>: {query}\n<Document>: {document} [SEP]"  # behind an instruction, as Qwen3-Reranker has it
FILES: dict[str, list[Key]] = {
    "old-bert": [],
    "new-bert": [*adds(True, True, False), role("eos", 3)],
    "all-added": [*adds(True, True, True), role("eos", 4)],
    "nothing-added": adds(False, False, False),
    "sep-for-eos": [flag("add_eos_token", True)],
    "template": [template(TEMPLATE), *adds(True, True, True), role("eos", 4)],
    "template-of-nothing": [template("hello world")],
    "instruct": [template(f"<Instruct>: the cat{INSTRUCT}")],
    "instruct-other": [template(f"<Instruct>: on the mat {{query}}{INSTRUCT}")],
    "unigram": unigram(),
    "unigram-template": [*unigram(), template("{query}<{document}>")],
}
PAIRS = [
    ("the cat", "a dog"),
    ("hello", "{query} [SEP] x"),
    ("", "hello"),
    ("{document} s", "mat"),
    ("a [MASK] b", "[CLS]"),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A reranker with random weights, its file saying this or that."""
    folder = tmp_path_factory.mktemp("rerankers")
    model = tiny_bert(folder / "model.gguf", pooling=4)
    return {name: with_keys(model, folder / f"{name}.gguf", *keys) for name, keys in FILES.items()}


@pytest.fixture(scope="module")
def tokenizers(paths: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: load_tokenizer(path) for name, path in paths.items()}


def spelled(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Ids as tokens."""
    return " ".join(tokenizer.vocab.tokens[i].decode() for i in ids)


# -- by definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "server", "cli"),
    [
        ("old-bert", "[CLS] ▁the ▁cat [SEP] ▁a ▁dog", "[CLS] ▁the ▁cat [SEP] ▁a ▁dog [SEP]"),
        ("new-bert", "[CLS] ▁the ▁cat [SEP] ▁a ▁dog [SEP]", "[CLS] ▁the ▁cat [SEP] ▁a ▁dog [SEP]"),
        ("all-added", "[CLS] ▁the ▁cat [MASK] [SEP] ▁a ▁dog [MASK]", "[CLS] ▁the ▁cat [MASK] [SEP] ▁a ▁dog [SEP]"),
        ("nothing-added", "▁the ▁cat ▁a ▁dog", "[CLS] ▁the ▁cat a ▁dog [SEP]"),
        (
            "template",
            "[CLS] ▁the ▁cat [SEP] ▁a ▁dog ▁a ▁the ▁cat [MASK]",
            "[CLS] [CLS] ▁the ▁cat [SEP] ▁a ▁dog ▁a ▁the ▁cat [MASK] [SEP]",
        ),
    ],
)
def test_a_pair_as_either_caller_builds_it(tokenizers: dict[str, Tokenizer], name: str, server: str, cli: str) -> None:
    tokenizer = tokenizers[name]
    assert spelled(tokenizer, encode_pair(tokenizer, "the cat", "a dog")) == server
    assert spelled(tokenizer, encode_pair(tokenizer, "the cat", "a dog", "cli")) == cli


def test_the_server_parses_no_special_tokens_but_a_templates(tokenizers: dict[str, Tokenizer]) -> None:
    pair = ("a [MASK] b", "[SEP]")
    assert 4 not in encode_pair(tokenizers["old-bert"], *pair)
    assert 4 in encode_pair(tokenizers["old-bert"], *pair, "cli")
    assert 4 in encode_pair(tokenizers["template"], *pair)


def test_a_query_that_spells_a_place_gets_the_document(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["template"]
    assert encode_pair(tokenizer, "{document}", "cat") == encode_pair(tokenizer, "cat", "cat")
    assert encode_pair(tokenizer, "cat", "{query}") != encode_pair(tokenizer, "cat", "cat")


def test_an_instruction_stands_where_the_templates_own_does(tokenizers: dict[str, Tokenizer]) -> None:
    """As if the file said so; but braces in it are its own, where a template's are places."""
    tokenizer, pair = tokenizers["instruct"], ("a dog", "mat")
    for caller in ("server", "cli"):
        own, other = (encode_pair(tokenizers[name], *pair, caller) for name in ("instruct", "instruct-other"))
        assert encode_pair(tokenizer, *pair, caller) == encode_pair(tokenizer, *pair, caller, "the cat") == own
        assert encode_pair(tokenizer, *pair, caller, "on the mat a dog") == other
        assert encode_pair(tokenizer, *pair, caller, b"on the mat {query}") not in (own, other)


def test_an_instruction_without_a_place_is_an_error(tokenizers: dict[str, Tokenizer]) -> None:
    for name in ("old-bert", "template"):
        with pytest.raises(RequestError, match="takes no instruction"):
            encode_pair(tokenizers[name], "a", "b", instruction="look for cats")


def test_texts_may_be_bytes(tokenizers: dict[str, Tokenizer]) -> None:
    assert "old-bert" in tokenizers
    for tokenizer in tokenizers.values():
        assert encode_pair(tokenizer, b"the cat", b"a dog") == encode_pair(tokenizer, "the cat", "a dog")


def test_another_caller_is_an_error(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(RequestError, match="caller='http': must be one of 'server', 'cli'"):
        encode_pair(tokenizers["old-bert"], "a", "b", "http")


def test_a_text_that_is_none_is_an_error(tokenizers: dict[str, Tokenizer]) -> None:
    wrong: Any = 3
    with pytest.raises(RequestError, match="a text is str or bytes, not int"):
        encode_pair(tokenizers["old-bert"], "a", wrong)


def test_a_token_to_add_that_is_none_is_an_error(paths: dict[str, Path], tmp_path: Path) -> None:
    keys = [*adds(True, True, True), role("seperator", 1 << 20)]  # of a default beyond 88 tokens nothing is left
    tokenizer = load_tokenizer(with_keys(paths["old-bert"], tmp_path / "none.gguf", *keys))
    with pytest.raises(ModelError, match=r"none\.gguf: the file wants a special token added that it does not name"):
        encode_pair(tokenizer, "a", "b")
    with pytest.raises(ModelError, match=r"none\.gguf: the tokenizer needs its eos token"):
        encode_pair(tokenizer, "a", "b", "cli")


def test_a_template_of_another_type_is_no_template(paths: dict[str, Path], tmp_path: Path) -> None:
    key: Key = ("tokenizer.chat_template.rerank", [b"{query}"], "ARRAY[STRING]")
    tokenizer = load_tokenizer(with_keys(paths["old-bert"], tmp_path / "array.gguf", key))
    assert encode_pair(tokenizer, "cat", "dog") == encode_pair(load_tokenizer(paths["old-bert"]), "cat", "dog")


def test_an_empty_template_leaves_what_is_added(paths: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(with_keys(paths["old-bert"], tmp_path / "empty.gguf", template("")))
    assert encode_pair(tokenizer, "a", "b") == []  # here llama-server aborts
    assert encode_pair(tokenizer, "a", "b", "cli") == [2, 3]


# -- against llama.cpp ------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("name", FILES)
def test_llama_server_scores_these_ids(paths: dict[str, Path], tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer, scores = tokenizers[name], server_scores(paths[name], PAIRS)
    with LlamaCpp(paths[name], pooling="rank", n_ctx=64) as engine:
        for (query, document), theirs in zip(PAIRS, scores, strict=True):
            ids = encode_pair(tokenizer, query, document)
            if not ids:
                assert theirs is None
                continue
            [[ours]] = engine.embed([ids])
            assert theirs == pytest.approx(ours, abs=1e-5), (query, document)
            for other in ([*ids, 3], ids[:-1] or [3], [*ids[:-1], (ids[-1] + 1) % 88]):  # the score does differ
                assert abs(engine.embed([other])[0][0] - ours) > 1e-4


@pytest.mark.oracle
def test_llama_server_refuses_where_a_token_to_add_is_none(paths: dict[str, Path], tmp_path: Path) -> None:
    path = with_keys(
        paths["old-bert"], tmp_path / "no-sep.gguf", ("seperator_token_id", None, ""), *adds(True, False, True)
    )
    assert server_scores(path, PAIRS[:1]) == [None]
    with pytest.raises(ModelError, match="special token added that it does not name"):
        encode_pair(load_tokenizer(path), *PAIRS[0])


@pytest.mark.oracle
@pytest.mark.parametrize("name", FILES)
def test_llama_embedding_has_these_ids(paths: dict[str, Path], tokenizers: dict[str, Tokenizer], name: str) -> None:
    keys = {key: value for key, value, _ in FILES[name]}
    eos = ""
    if keys.get("add_eos_token") and "tokenizer.chat_template.rerank" not in keys:
        if "eos_token_id" not in keys:
            with pytest.raises(ModelError, match="needs its eos token"):
                encode_pair(tokenizers[name], "a", "b", "cli")
            return
        eos = VOCAB[keys["eos_token_id"]]
    sep = "[SEP]" if keys.get("add_sep_token", True) else ""
    with LlamaCpp(paths[name], vocab_only=True) as engine:
        for query, document in PAIRS:
            if "tokenizer.chat_template.rerank" in keys:
                filled = (
                    keys["tokenizer.chat_template.rerank"].replace("{query}", query).replace("{document}", document)
                )
            else:
                filled = f"{query}{eos}{sep}{document}"
            assert encode_pair(tokenizers[name], query, document, "cli") == engine.tokenize(filled, True, True)
