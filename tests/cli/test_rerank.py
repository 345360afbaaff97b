"""`refembed rerank`, and `--lora` wherever a model runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_lora import synthetic_lora
from tests.cli.conftest import Cli

HEAD = {"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"}
QUERY, DOCUMENTS = "the cat", ["a dog", "the cat sat on the mat", "", "it is"]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small reranker with one label."""
    return synthetic(tmp_path_factory.mktemp("rerank") / "one.gguf", "bert", pooling=4, optional=HEAD)


@pytest.fixture(scope="module")
def yes_no(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one with two, whose scores are shares of 1."""
    keys = {"classifier.output_labels": (["yes", "no"], "ARRAY[STRING]")}
    path = tmp_path_factory.mktemp("rerank") / "two.gguf"
    return synthetic(path, "qwen3", pooling=4, optional={"cls.output.weight"}, keys=keys)


@pytest.fixture(scope="module")
def scores(reranker: Path) -> list[float]:
    """The library's own way to the scores."""
    return Embedder.load(reranker, numerics="exact").rerank(QUERY, DOCUMENTS).tolist()


def ranked(scores: list[float]) -> list[int]:
    """Places, best first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def test_a_table_has_the_best_document_first(cli: Cli, reranker: Path, scores: list[float]) -> None:
    run = cli("rerank", "-m", reranker, "--numerics", "exact", QUERY, *DOCUMENTS)
    assert run.code == 0
    lines = run.out.splitlines()
    assert lines[0].split() == ["score", "index", "document"]
    assert [int(line.split()[1]) for line in lines[1:]] == ranked(scores)
    assert [float(line.split()[0]) for line in lines[1:]] == pytest.approx(
        [scores[i] for i in ranked(scores)], rel=1e-6
    )
    assert "head on cls, one label, raw outputs, shown raw, numerics exact" in run.err


def test_json_holds_the_scores_bit_for_bit(cli: Cli, reranker: Path, scores: list[float]) -> None:
    run = cli("rerank", "-q", "-m", reranker, "--numerics", "exact", "--json", QUERY, *DOCUMENTS)
    assert (run.code, run.err) == (0, "")
    answer = json.loads(run.out)
    assert (answer["model"], answer["score"]) == (str(reranker), "raw")
    assert [r["index"] for r in answer["results"]] == ranked(scores)
    assert [np.float32(r["relevance_score"]) for r in answer["results"]] == [scores[i] for i in ranked(scores)]
    assert [r["document"] for r in answer["results"]] == [DOCUMENTS[i] for i in ranked(scores)]
    assert "scores" not in answer["results"][0]


def test_the_best_few(cli: Cli, reranker: Path, scores: list[float]) -> None:
    for n in (1, 3, 99):
        run = cli("rerank", "-q", "-m", reranker, "--json", "--top-n", n, QUERY, *DOCUMENTS)
        assert [r["index"] for r in json.loads(run.out)["results"]] == ranked(scores)[:n]
    assert cli("rerank", "-m", reranker, "--top-n", 0, QUERY, "a").code == 1


def test_scores_are_rescaled_only_where_it_is_asked_for(cli: Cli, reranker: Path, scores: list[float]) -> None:
    args = ("rerank", "-q", "-m", reranker, "--numerics", "exact", "--json", "--score", "sigmoid")
    answer = json.loads(cli(*args, QUERY, *DOCUMENTS).out)
    assert answer["score"] == "sigmoid"
    for r in answer["results"]:
        assert r["relevance_score"] == pytest.approx(1 / (1 + math.exp(-scores[r["index"]])), rel=1e-6)


def test_documents_come_from_a_file_or_standard_input_too(cli: Cli, reranker: Path, tmp_path: Path) -> None:
    want = cli("rerank", "-q", "-m", reranker, QUERY, *DOCUMENTS).out
    text = "\n".join(DOCUMENTS).encode() + b"\n"
    (tmp_path / "d.txt").write_bytes(text)
    assert cli("rerank", "-q", "-m", reranker, QUERY, "--file", tmp_path / "d.txt").out == want
    assert cli("rerank", "-q", "-m", reranker, QUERY, stdin=text).out == want
    assert cli("rerank", "-m", reranker, QUERY, "a", "--file", tmp_path / "d.txt").code == 1


def test_several_labels(cli: Cli, yes_no: Path) -> None:
    run = cli("rerank", "-m", yes_no, QUERY, *DOCUMENTS)
    assert "head on last, 2 labels, shares of 1" in run.err
    assert "of 2 outputs the first is the score (yes); --all-labels shows all" in run.err
    both = cli("rerank", "-q", "-m", yes_no, "--all-labels", QUERY, *DOCUMENTS).out.splitlines()
    assert both[0].split() == ["yes", "no", "index", "document"]
    assert all(sum(map(float, line.split()[:2])) == pytest.approx(1) for line in both[1:])
    answer = json.loads(cli("rerank", "-q", "-m", yes_no, "--all-labels", "--json", QUERY, *DOCUMENTS).out)
    assert [r["scores"]["yes"] for r in answer["results"]] == [r["relevance_score"] for r in answer["results"]]
    squeezed = cli("rerank", "-m", yes_no, "--score", "sigmoid", QUERY, "a")
    assert "warning: these scores are probabilities already" in squeezed.err


def test_either_form_of_a_pair(cli: Cli, reranker: Path) -> None:
    """A file without add_eos_token: llama-server sets no [SEP] behind the document."""
    server, default, other = (
        cli("rerank", "-q", "-m", reranker, *pair, QUERY, *DOCUMENTS).out
        for pair in (("--pair", "server"), (), ("--pair", "cli"))
    )
    assert server == default != other


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["-m", "{}"], 1, "Missing argument 'QUERY'"),
        (["q", "d"], 1, "Missing option '-m'"),
        (["-m", "{}", "q", "the cat " * 80], 1, "document 0 and the query: "),
        (["-m", "{}", "--score", "percent", "q", "d"], 1, "is not one of"),
        (["-m", "none.gguf", "q", "d"], 1, "none.gguf"),
        (["-m", "{}", "--lora", "none.gguf:2", "q", "d"], 1, "lora none.gguf: no such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_message(
    cli: Cli, reranker: Path, args: list[str], code: int, message: str
) -> None:
    run = cli("rerank", *(a.format(reranker) for a in args))
    assert message in run.err
    assert run.err.count("error: ") == 1
    assert run.code in (code, 2)
    assert run.out == ""


def test_a_model_without_a_head_is_refused(cli: Cli, tiny: Path) -> None:
    run = cli("rerank", "-m", tiny, "q", "d")
    assert run.code == 1
    assert "needs a classifier head, cls.weight or cls.output.weight, and this model has none" in run.err


def test_info_says_whether_a_reranker_has_its_head(cli: Cli, reranker: Path, tmp_path: Path) -> None:
    def runs(path: Path) -> str:
        return str(json.loads(cli("info", path, "--json").out)["runs"])

    assert runs(reranker) == "yes"
    assert runs(synthetic(tmp_path / "a.gguf", "bert", pooling=4)).startswith("no: pooling 'rank' needs a classifier")
    keys = {"embedding_length_out": (13, "UINT32")}
    assert runs(synthetic(tmp_path / "b.gguf", "bert", pooling=1, keys=keys)) == "no: vectors have 36 numbers, not 13"


def test_embed_gives_a_rerankers_outputs_as_they_are(cli: Cli, reranker: Path, yes_no: Path) -> None:
    want = Embedder.load(yes_no, numerics="exact").embed("the cat")
    run = cli("embed", "-m", yes_no, "--numerics", "exact", "--json", "the cat")
    answer = json.loads(run.out)
    assert np.array_equal(np.array(answer["embeddings"][0], np.float32), want)
    assert (answer["pooling"], answer["normalize"], answer["dimension"]) == ("rank", -1, 2)
    assert "normalize -1 (none), 2 dimensions" in run.err
    again = json.loads(cli("embed", "-q", "-m", yes_no, "--normalize", "2", "--json", "the cat").out)
    assert np.linalg.norm(again["embeddings"][0]) == pytest.approx(1)  # where it is asked for
    assert cli("embed", "-m", reranker, "--dimensions", "2", "the cat").code == 1


def test_adapters_are_added_wherever_a_model_runs(cli: Cli, reranker: Path, tmp_path: Path) -> None:
    keys = {"adapter.lora.task_name": ("search", "STRING"), "adapter.lora.prompt_prefix": ("query: ", "STRING")}
    names = {"blk.0.attn_q.weight", "blk.1.ffn_up.weight", "cls.weight"}
    file = synthetic_lora(tmp_path / "a.gguf", reranker, keys=keys, names=names)
    spec = f"{file}:0.5"
    e = Embedder.load(reranker, numerics="exact", lora=[spec])
    run = cli("rerank", "-m", reranker, "--numerics", "exact", "--lora", spec, "--json", QUERY, *DOCUMENTS)
    found = {r["index"]: np.float32(r["relevance_score"]) for r in json.loads(run.out)["results"]}
    assert [found[i] for i in range(4)] == e.rerank(QUERY, DOCUMENTS).tolist()
    assert f"lora {file} * 0.5: 2 matrices, task search" in run.err
    assert "its texts are to begin with 'query: '; nothing adds that" in run.err
    assert f"warning: {file}: llama.cpp, and so refembed, never applies cls.weight" in run.err
    args = ("-m", reranker, "--numerics", "exact", "--pooling", "mean", "--lora", spec)
    vector = json.loads(cli("embed", "-q", *args, "--json", "the cat").out)["embeddings"][0]
    assert np.array_equal(np.array(vector, np.float32), e.embed("the cat", pooling="mean"))
    saved = tmp_path / "t.npz"
    assert cli("trace", "-q", *args, "--save", saved, "the cat").code == 0
    assert cli("embed", *args[:-1], f"{file}:much", "the cat").err.count("is no number") == 1
