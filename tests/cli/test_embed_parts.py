"""refembed embed --sparse and --multi-vector: what is written, and what does not go together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert import convert
from tests.cli.conftest import Cli
from tests.colbert_folders import build, records
from tests.embedder.test_sparse import with_bge_heads

TEXTS = ("the cat the dog", "hello world")


@pytest.fixture(scope="module")
def m3(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both heads of bge-m3."""
    return with_bge_heads(tiny, tmp_path_factory.mktemp("m3") / "m.gguf", 9.0)[0]


@pytest.fixture(scope="module")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ColBERT model."""
    folder = tmp_path_factory.mktemp("colbert")
    return convert(build(records()["bert"], folder / "hf"), folder / "m.gguf", heads=True, say=lambda _: None)


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_sparse_vectors_are_token_ids_and_weights(cli: Cli, m3: Path, tmp_path: Path) -> None:
    wanted = Embedder.load(m3).embed_sparse(TEXTS)
    out = tmp_path / "s.jsonl"
    r = cli("embed", "-m", m3, "--sparse", "--output", out, *TEXTS)
    assert r.code == 0
    assert "sparse, token weights of" in r.err
    found = rows(out.read_text())
    assert [list(row) for row in found] == [["index", "text", "tokens", "indices", "values"]] * 2
    assert [(row["index"], row["text"], row["tokens"]) for row in found] == [(0, TEXTS[0], 6), (1, TEXTS[1], 4)]
    whole = json.loads(cli("embed", "-q", "-m", m3, "--sparse", "--json", *TEXTS).out)
    assert whole["tokens"] == [6, 4]
    for row, one, vector in zip(found, whole["embeddings"], wanted, strict=True):
        assert row["indices"] == one["indices"] == vector.ids.tolist()
        assert np.array_equal(np.array(row["values"], np.float32), vector.weights)
        assert row["values"] == one["values"]


def test_for_people_the_largest_weight_comes_first(cli: Cli, m3: Path) -> None:
    e = Embedder.load(m3)
    vector = e.embed_sparse(TEXTS[0])
    r = cli("embed", "-q", "-m", m3, "--sparse", TEXTS[0])
    head, *lines = r.out.splitlines()
    assert head == f"[0] {TEXTS[0]}"
    weights = [float(line.split()[0]) for line in lines]
    assert weights == sorted(weights, reverse=True)
    assert weights == pytest.approx(sorted(vector.weights.tolist(), reverse=True), rel=1e-6)
    best = int(vector.ids[vector.weights.argmax()])
    assert lines[0].endswith(f"{e.tokenizer.vocab.tokens[best].decode()} ({best})")


def test_queries_and_documents_have_vectors_of_their_own(cli: Cli, colbert: Path) -> None:
    e = Embedder.load(colbert)
    for flags, is_query in (((), False), (("--query",), True)):
        r = cli("embed", "-m", colbert, "--multi-vector", *flags, "--format", "jsonl", "the cat sat .")
        assert f"a vector for each token of {'queries' if is_query else 'documents'}, 12 dimensions" in r.err
        wanted = e.embed_multi_vector("the cat sat .", is_query=is_query)
        [row] = rows(r.out)
        assert row["tokens"] == len(wanted) == (14 if is_query else 6)
        assert np.array_equal(np.array(row["embedding"], np.float32), wanted)


def test_many_vectors_for_people_are_named_by_their_tokens(cli: Cli, colbert: Path) -> None:
    r = cli("embed", "-q", "-m", colbert, "--multi-vector", "the cat .")
    names = [line.split(" ")[1] for line in r.out.splitlines() if line.startswith("[")]
    assert names == ["[CLS]", "▁[D]", "▁the", "▁cat", "[SEP]"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--query",), "--query goes with --multi-vector"),
        (("--sparse", "--multi-vector"), "--sparse or --multi-vector, not both"),
        (("--sparse", "--pooling", "cls"), "--pooling: does not go with --sparse"),
        (("--sparse", "--dimensions", "8"), "--dimensions: does not go with --sparse"),
        (("--multi-vector", "--normalize", "1"), "--normalize: does not go with --multi-vector"),
        (("--multi-vector", "--compare", "b"), "--compare: does not go with --multi-vector"),
        (("--sparse", "--processes", "2"), "--processes: does not go with --sparse"),
        (("--sparse", "--cache"), "--cache: does not go with --sparse"),
        (("--sparse", "--output", "a.parquet"), ".parquet: does not go with --sparse"),
        (("--sparse", "--format", "csv"), "--sparse prints text, json, jsonl, not csv"),
    ],
)
def test_what_does_not_go_together_is_refused(cli: Cli, m3: Path, args: tuple[str, ...], said: str) -> None:
    r = cli("embed", "-m", m3, *args, "--", "the cat")
    assert (r.code, r.raw) == (1, b"")
    assert said in r.err


def test_a_model_without_such_a_head_is_refused(cli: Cli, tiny: Path) -> None:
    for flag, said in (("--sparse", "no sparse head"), ("--multi-vector", "no head of many vectors")):
        r = cli("embed", "-m", tiny, flag, "the cat")
        assert (r.code, r.raw) == (2, b"")
        assert said in r.err


def test_a_text_that_is_too_long_is_named(cli: Cli, m3: Path, colbert: Path) -> None:
    for args in ((m3, "--sparse"), (colbert, "--multi-vector", "--query")):
        r = cli("embed", "-q", "-m", *args, stdin=b"a\n" + b"the cat " * 40 + b"\n")
        assert r.code == 1
        assert "standard input, line 2: 82 tokens" in r.err
        assert cli("embed", "-q", "-m", *args, "--truncate", stdin=b"the cat " * 40).code == 0


def test_info_says_which_heads_a_file_has(cli: Cli, m3: Path, colbert: Path, tiny: Path) -> None:
    for path, said in ((m3, "sparse (token), multi-vector (token)"), (colbert, "multi-vector (colbert)"), (tiny, None)):
        assert json.loads(cli("info", path, "--json").out)["own_heads"] == said
