"""refembed compress: there and back, the report, calibration, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.compress import fit, quantize, read
from tests.cli.conftest import Cli

X = np.random.default_rng(5).standard_normal((150, 16)).astype(np.float32)


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, X)
    return path


@pytest.mark.parametrize("scheme", ["int8", "uint8", "binary", "ubinary", "pq:4", "matryoshka:8", "int8-vector"])
def test_there_and_back(cli: Cli, npy: Path, tmp_path: Path, scheme: str) -> None:
    r = cli("compress", npy, "--to", scheme, "--out", tmp_path / "x.npz")
    assert (r.code, r.out) == (0, "")
    codec = fit(scheme, X)
    assert f"150 vectors, {codec.bytes} bytes each, {64 / codec.bytes:.3g} times smaller than float32" in r.err
    r = cli("compress", tmp_path / "x.npz", "--decode", "--out", tmp_path / "y.npy")
    assert r.code == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), codec.decode(codec.encode(X)))


def test_ranges_come_from_the_calibration_file(cli: Cli, npy: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", X[:3])
    r = cli("compress", tmp_path / "few.npy", "--to", "int8", "--calibrate", npy, "--out", tmp_path / "few.npz")
    assert (r.code, "warning" in r.err) == (0, False)
    assert np.array_equal(read(tmp_path / "few.npz").codes, quantize(X[:3], "int8", calibration_embeddings=X))


def test_ranges_from_few_vectors_are_warned_about_and_from_one_refused(cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", X[:3])
    r = cli("compress", tmp_path / "few.npy", "--to", "int8", "--out", tmp_path / "few.npz")
    assert r.code == 0
    assert "warning: int8 learns from 3 vectors" in r.err
    np.save(tmp_path / "one.npy", X[:1])
    r = cli("compress", tmp_path / "one.npy", "--to", "int8", "--out", tmp_path / "one.npz")
    assert r.code == 1
    assert "error: int8 learns from vectors, and 1 is not enough" in r.err
    assert not (tmp_path / "one.npz").exists()


def test_a_compressed_file_says_what_it_is(cli: Cli, npy: Path, tmp_path: Path) -> None:
    cli("compress", npy, "--to", "pq:4", "--seed", "9", "--out", tmp_path / "x.npz")
    r = cli("compress", tmp_path / "x.npz", "--json")
    about = json.loads(r.out)
    assert (about["scheme"], about["seed"], about["arrays"]) == ("pq:4", 9, {"codebooks": [4, 150, 4]})
    rows = dict(line.split(maxsplit=1) for line in cli("compress", tmp_path / "x.npz").out.splitlines())
    assert rows["scheme"] == "pq:4"
    assert rows["fingerprint"] == about["fingerprint"]


def test_texts_are_embedded(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("hello\nworld\nhello world\n")
    r = cli("compress", tmp_path / "t.txt", "-m", tiny, "--to", "float32", "--out", tmp_path / "t.npz")
    assert r.code == 0
    expected = Embedder.load(tiny).embed(["hello", "world", "hello world"])
    assert np.array_equal(read(tmp_path / "t.npz").decode(), expected)


def test_the_report_is_a_table_or_json(cli: Cli, npy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import refembed.compress.report as module

    monkeypatch.setattr(module.measure, "__kwdefaults__", module.measure.__kwdefaults__ | {"timed_rows": 0})
    r = cli("compress", "--report", npy)
    assert r.code == 0
    lines = r.out.splitlines()
    assert lines[0].split() == [
        "scheme",
        "rescored",
        "by",
        "bytes",
        "ratio",
        "recall@1",
        "recall@10",
        "recall@100",
        "time",
    ]
    assert lines[1].split() == ["float32", "-", "64", "1", "1.000", "1.000", "1.000", "1"]
    assert "30 queries, 120 vectors of 16 numbers, all of length 1, seed 0; 4 candidates a result" in r.err
    r = cli("compress", "--report", npy, "--to", "int8", "--json", "-q")
    assert (r.code, r.err) == (0, "")
    found = json.loads(r.out)
    assert [(line["scheme"], line["rescore"]) for line in found["lines"]] == [("int8", ""), ("int8", "float32")]
    assert set(found["lines"][0]["recall"]) == {"1", "10", "100"}


def test_without_a_file_the_report_makes_sentences(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import refembed.cli.compress as module

    seen = []
    monkeypatch.setattr(module, "embedded", lambda texts, model: seen.append((texts, model)) or X[: len(texts)])
    r = cli("compress", "--report", "--sentences", "40", "--to", "ubinary", "--json")
    assert r.code == 0
    (texts, model), *_ = seen
    assert (len(set(texts)), model) == (40, "minilm")
    assert "40 sentences such as '" in r.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Give a FILE, or --report"),
        (("x.npy",), "not compressed vectors"),
        (("x.npy", "--to", "int8"), "--out FILE says where to write"),
        (("x.npy", "--to", "int9", "--out", "y"), "'int9' is not a scheme"),
        (("x.npy", "--to", "pq:5", "--out", "y"), "do not divide into 5 parts"),
        (("x.npy", "--to", "int8", "--decode", "--out", "y"), "--decode undoes --to"),
        (("x.npy", "--out", "y"), "--to SCHEME says how"),
        (("x.npy", "--report", "--out", "y"), "--report prints its table"),
        (("x.npy", "--report", "--sentences", "20"), "--sentences belongs to --report without FILE"),
        (("x.npy", "--decode", "--out", "y"), "not compressed vectors"),
        (("nothing.npy", "--to", "int8", "--out", "y"), "nothing.npy: No such file"),
        (("broken.npy", "--to", "int8", "--out", "y"), "broken.npy: not an array of numbers"),
        (("cube.npy", "--to", "int8", "--out", "y"), "float64 of shape (2, 2, 2), not vectors (N, D)"),
        (("nan.npy", "--to", "binary", "--out", "y"), "vector 1, number 0 is nan"),
        (("x.npy", "--to", "int8", "--out", "no/such/folder"), "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_error(
    cli: Cli, npy: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(npy.parent)
    Path("broken.npy").write_bytes(npy.read_bytes()[:200])
    np.save("cube.npy", np.zeros((2, 2, 2)))
    np.save("nan.npy", np.array([[1.0], [np.nan]]))
    r = cli("compress", *args)
    assert (r.code, r.out) == (1, "")
    assert r.err.count("error: ") == 1
    assert message in r.err
    assert not Path("y").exists()
