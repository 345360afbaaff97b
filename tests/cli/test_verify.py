"""`refembed verify`: words, exit codes, JSON, errors in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refembed import Embedder
from refembed.testing.synthetic_lora import synthetic_lora


@pytest.fixture
def recorded(tiny, tmp_path):
    """Vectors of three texts in a file, as `change` leaves them."""

    def record(change=lambda v: v, texts=("hello world", "the cat sat", "Hello, mat!")):
        vectors = change(Embedder.load(tiny, numerics="fast").embed(list(texts)))
        rows = [{"text": t, "embedding": v.tolist()} for t, v in zip(texts, vectors, strict=True)]
        path = tmp_path / "run.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return record


def test_an_engine_that_agrees_ends_with_0(cli, tiny, recorded):
    result = cli("verify", tiny, "--against", recorded())
    assert result.code == 0
    assert result.out.startswith(("IDENTICAL: recorded", "WITHIN ROUNDING: recorded"))
    assert "noise floor:" in result.out


def test_an_engine_that_differs_ends_with_3_and_names_the_cause(cli, tiny, recorded):
    result = cli("verify", tiny, "--against", recorded(lambda v: -v))
    assert result.code == 3
    assert result.out.startswith("DIFFERS: recorded on")
    assert "The engine gives the vector with its sign turned." in " ".join(result.out.split())


def test_json_is_one_object(cli, tiny, recorded):
    result = cli("verify", tiny, "--against", recorded(lambda v: v[::-1]), "--json")
    data = json.loads(result.out)
    assert (data["kind"], data["causes"][0]["id"], data["exit_code"]) == ("differs", "order-reversed", 3)
    assert len(data["evidence"]["texts"]) == 3
    assert result.err == ""


def test_texts_come_from_a_file(cli, tiny, recorded, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat sat\nhello world\n")
    result = cli("verify", "-q", tiny, "--against", recorded(), "--texts", texts, "--json")
    assert result.code == 0
    assert [t["text"] for t in json.loads(result.out)["evidence"]["texts"]] == ["the cat sat", "hello world"]


def test_html_is_one_file_without_network(cli, tiny, recorded, tmp_path):
    page = tmp_path / "report.html"
    assert cli("verify", tiny, "--against", recorded(), "--html", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") or text.startswith("<!DOCTYPE html>")
    assert 'src="http' not in text


@pytest.mark.parametrize(
    ("against", "code", "says"),
    [
        ("http://localhost:1", 1, "cannot be reached"),
        ("nothing", 1, "stands for no engine"),
        ("missing.npz", 1, "No such file"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(cli, tiny, against, code, says):
    result = cli("verify", "-q", tiny, "--against", against)
    assert (result.code, result.raw) == (code, b"")
    assert says in result.err
    assert "Traceback" not in result.err


def test_vectors_that_are_not_finite_are_one_sentence(cli, tiny, recorded, tmp_path):
    path = tmp_path / "nan.npz"
    np.savez(path, embeddings=np.full((1, 32), np.nan, np.float32), texts=np.array(["hello"]))
    result = cli("verify", "-q", tiny, "--against", path)
    assert result.code == 1
    assert "not finite" in result.err


def test_a_model_that_is_none_ends_with_2(cli, tmp_path, recorded):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    assert cli("verify", "-q", bad, "--against", recorded()).code == 2


def test_a_file_without_texts_is_refused(cli, tiny, recorded, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    result = cli("verify", "-q", tiny, "--against", recorded(), "--texts", empty)
    assert result.code == 1
    assert "no texts" in result.err


@pytest.mark.oracle
def test_adapters_are_added_on_both_sides_and_their_order_is_said(cli, tiny, tmp_path):
    lora = [
        word for i in range(2) for word in ("--lora", f"{synthetic_lora(tmp_path / f'{i}.gguf', tiny, seed=i)}:0.5")
    ]
    result = cli("verify", tiny, "--against", "llamacpp", *lora, "--html", tmp_path / "report.html")
    assert result.code == 0
    assert result.out.startswith("IDENTICAL")
    for report in (result.out, (tmp_path / "report.html").read_text()):
        assert "LoRA adapters: llama.cpp adds them in an order that depends on addresses" in " ".join(report.split())
