"""refembed trace: every tensor, in a few numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder, Trace
from tests.cli.conftest import Cli


@pytest.fixture
def trace(cli: Cli, tiny: Path) -> Cli:
    return lambda *args, stdin=b"": cli("trace", "-q", "-m", tiny, "--numerics", "exact", *args, stdin=stdin)


def test_every_tensor_has_a_line(trace: Cli, e: Embedder) -> None:
    r = trace("hello")
    assert (r.code, r.err) == (0, "")
    head, *lines = [line.split() for line in r.out.splitlines()]
    assert head == ["tensor", "shape", "mean", "std", "min", "max", "first", "values"]
    taps = e.trace("hello").tensors
    assert [line[0] for line in lines] == [t.name for t in taps]
    assert [line[1] for line in lines] == ["x".join(map(str, t.array.shape)) for t in taps]
    for line, t in zip(lines, taps, strict=True):
        x = t.array
        shown = [float(v) for v in line[2:]]
        expected = [x.mean(), x.std(), x.min(), x.max(), *x.ravel()[:4]]
        assert shown == pytest.approx(expected, rel=6e-5, abs=1e-12)


def test_json_is_an_object_a_line(trace: Cli, e: Embedder) -> None:
    rows = [json.loads(line) for line in trace("--json", "hello").out.splitlines()]
    taps = e.trace("hello").tensors
    assert [(row["index"], row["name"], row["dtype"]) for row in rows] == [
        (i, t.name, "float64") for i, t in enumerate(taps)
    ]
    assert rows[0]["first"] == taps[0].array.ravel()[:4].tolist()
    assert rows[0]["mean"] == pytest.approx(taps[0].array.mean(), rel=1e-12)
    assert rows[0]["nonfinite"] == 0


def test_filter_shows_names_that_match(trace: Cli) -> None:
    r = trace("--filter", "Qcur-*", "--filter", "result_embd", "hello")
    assert [line.split()[0] for line in r.out.splitlines()[1:]] == [
        "Qcur-0",
        "Qcur-0",
        "Qcur-1",
        "Qcur-1",
        "result_embd",
    ]
    none = trace("--filter", "nosuch*", "hello")
    assert (none.code, none.raw) == (1, b"")
    assert "no tensor's name matches nosuch*" in none.err


def test_save_keeps_the_whole_run(trace: Cli, e: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    assert trace("--save", path, "--filter", "embd", "hello").code == 0
    saved, direct = Trace.load(path), e.trace("hello")
    assert [t.name for t in saved.tensors] == [t.name for t in direct.tensors]
    assert all(np.array_equal(a.array, b.array) for a, b in zip(saved.tensors, direct.tensors, strict=True))
    assert saved.meta["tokens"] == [2, 12, 3]


def test_a_place_that_cannot_be_written_is_an_error(trace: Cli, tmp_path: Path) -> None:
    r = trace("--save", tmp_path / "nosuch" / "run.npz", "hello")
    assert (r.code, r.raw) == (1, b"")
    assert "No such file" in r.err


def test_pooling_decides_the_last_tensor(trace: Cli) -> None:
    rows = [json.loads(line) for line in trace("--json", "--pooling", "none", "hello").out.splitlines()]
    assert (rows[-1]["name"], rows[-1]["shape"]) == ("result_embd_pooled", [3, 32])


def test_stderr_says_model_and_pooling(cli: Cli, tiny: Path) -> None:
    r = cli("trace", "-m", tiny, "--numerics", "exact", "hello")
    assert r.err.splitlines() == [f"model {tiny}: tiny, bert", "pooling mean, numerics exact, 3 tokens"]


def test_values_that_are_not_finite_are_counted(cli: Cli, broken: Path) -> None:
    r = cli("trace", "-q", "-m", broken, "--numerics", "exact", "hello")
    assert r.code == 0
    head, first, *_ = [line.split() for line in r.out.splitlines()]
    assert head[6] == "non-finite"
    assert (first[0], first[6]) == ("embd", "2")
    assert "have values that are not finite" in r.err
    rows = [
        json.loads(x)
        for x in cli("trace", "-q", "-m", broken, "--numerics", "exact", "--json", "hello").out.splitlines()
    ]
    assert rows[0]["nonfinite"] == 2
    assert rows[-1]["nonfinite"] == 32
    assert rows[-1]["mean"] is None
    assert rows[-1]["first"][0] == "nan"


@pytest.mark.parametrize(
    ("args", "stdin", "said"),
    [
        (["hello", "world"], b"", "trace takes one text, not 2"),
        ([], b"hello\nworld\n", "trace takes one text"),
        (["hello " * 80], b"", "82 tokens, but the model reads at most 64"),
    ],
)
def test_errors(trace: Cli, args: list[str], stdin: bytes, said: str) -> None:
    r = trace(*args, stdin=stdin)
    assert (r.code, r.raw) == (1, b"")
    assert said in r.err
