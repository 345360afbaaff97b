"""refembed explain: the walkthrough in a terminal, as JSON, as a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from tests.cli.conftest import Cli


@pytest.fixture
def explain(cli: Cli, tiny: Path) -> Cli:
    return lambda *args, stdin=b"": cli("explain", "-q", "-m", tiny, "--numerics", "exact", *args, stdin=stdin)


def test_each_part_of_the_walkthrough_is_there(explain: Cli) -> None:
    r = explain("hello world")
    assert (r.code, r.err) == (0, "")
    parts = [line[3:] for line in r.out.splitlines() if line[:3] in {f"{n}. " for n in range(1, 8)}]
    assert parts == [
        "From characters to token ids", "From ids to vectors", "Layer 0 of 2, step by step", "Through all layers",
        "Pooling: mean of the tokens", "Normalization",
    ]  # fmt: skip
    for words in (
        "A = softmax(S / sqrt(D)), row by row",
        "Vaswani et al. 2017",
        "blk.0.attn_q.weight",
        "bert.pooling_type = 1",
    ):
        assert words in r.out


def test_json_holds_the_vector_and_every_step(explain: Cli, e: Embedder) -> None:
    found = json.loads(explain("--json", "--layer", "-1", "hello world", "a cat").out)
    assert (found["layer"], found["ids"]) == (1, e.tokenize("hello world"))
    np.testing.assert_array_equal(np.array(found["vector"], np.float32), e.embed("hello world"))
    np.testing.assert_array_equal(np.array(found["vectors"], np.float32), e.embed(["hello world", "a cat"]))
    names = [
        s["name"] for part in ("before", "layer", "behind") for s in found["steps"][part] if " + " not in s["name"]
    ]
    first = [t.name for t in e.trace("hello world").tensors]
    embeddings, last = first[: first.index("inp_norm-0") + 1], first[first.index("l_out-0") + 1 :]
    assert names == embeddings + last
    assert sum(found["shares"]) == pytest.approx(1, abs=1e-12)


def test_a_page_is_written_instead_of_the_text(explain: Cli, tmp_path: Path) -> None:
    r = explain("hello", "world", "--html", tmp_path / "page.html", "--head", "1")
    assert (r.code, r.out) == (0, "")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert explain("hello", "--html", tmp_path / "no" / "page.html").code == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--layer", "2"), "layer 2: the model has layers 0 to 1"),
        (("--token", "9"), "token 9: the text has tokens 0 to 2"),
        (("--head", "99"), "--head 99: the model has heads 0 to"),
        (("--pooling", "rank"), "classifier head"),
        (("--pooling", "nosuch"), "there is no such pooling"),
    ],
)
def test_what_is_not_there_is_one_sentence(explain: Cli, options: tuple[str, ...], words: str) -> None:
    r = explain("hello", *options)
    assert (r.code, r.raw) == (1, b"")
    assert words in r.err


def test_every_pooling_is_explained(explain: Cli) -> None:
    for how in ("none", "mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean"):
        r = explain("hello world", "--pooling", how)
        assert (r.code, r.err) == (0, ""), how
        assert ("6. Normalization" in r.out) is (how != "none")


def test_text_is_read_from_standard_input_and_may_be_odd(explain: Cli) -> None:
    assert explain(stdin=b"hello\nworld\n").code == 0
    assert explain("\x1b[31m red \u202e").code == 0
    assert "\x1b[31m" not in explain("\x1b[31m red \u202e").out
    assert explain("").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--serve", "--html", "page.html"), "--html does not go with --serve"),
        (("--serve", "--layer", "1"), "--layer does not go with --serve"),
        (("--serve", "--json"), "--json does not go with --serve"),
        (("--port", "0", "hello"), "--port goes with --serve"),
        (("--serve", "--port", "70000"), "70000"),
        (("--serve", "--pooling", "nosuch"), "there is no such pooling"),
        (("--serve", "--pooling", "none"), "pooling none has none"),
        (("--serve", "--pooling", "rank"), "classifier head"),
        (("--serve", "--host", "nosuch.invalid"), "cannot listen on nosuch.invalid"),
    ],
)
def test_options_of_the_page_are_checked(explain: Cli, options: tuple[str, ...], words: str) -> None:
    r = explain(*options)
    assert (r.code, r.raw) == (1, b"")
    assert words in r.err


def test_without_the_server_extra_the_page_says_what_to_install(explain: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("refembed.playground", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    r = explain("--serve")
    assert (r.code, r.raw) == (1, b"")
    assert "`refembed explain --serve` needs uvicorn" in r.err
    assert "pip install starlette uvicorn httptools" in r.err
