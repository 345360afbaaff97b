"""refembed embed: the command writes the vectors that the library computes."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.cli import run
from refembed.pipeline.progress import Bar
from refembed.pooling.poolers import unnamed_pooling
from refembed.testing.synthetic import synthetic
from tests.cli.conftest import ENVIRONMENT, Cli, program
from tests.tiny import tiny_bert

LONG = "hello " * 80  # 82 tokens; the model reads 64


def vectors(content: str) -> Any:
    return np.array(json.loads(content)["embeddings"], np.float32)


def test_one_text_prints_its_whole_vector(embed: Cli, e: Embedder) -> None:
    r = embed("hello world")
    assert r.code == 0
    np.testing.assert_allclose(np.array(r.out.split(), np.float64), e.embed("hello world"), rtol=1e-6)


def test_int8_says_that_attention_alone_is_rounded_where_no_weight_is_quantized(cli: Cli, tiny: Path) -> None:
    r = cli("embed", "-q", "-m", tiny, "--numerics", "int8", "hello")
    assert (
        r.err == f"warning: {tiny}: no weight is quantized, so that numerics int8 is fast with attention in bfloat16\n"
    )
    ours, fast = (
        np.array(out.split(), np.float64)
        for out in (r.out, cli("embed", "-q", "-m", tiny, "--numerics", "fast", "hello").out)
    )
    assert 1e-9 < 1 - ours @ fast < 1e-4  # queries, keys, shares and values have 8 bits of mantissa


def test_stderr_says_model_pooling_and_norm(cli: Cli, tiny: Path) -> None:
    lines = cli("embed", "-m", tiny, "--numerics", "exact", "hello").err.splitlines()
    assert lines == [
        f"model {tiny}: tiny, bert",
        "pooling mean (the model's own), normalize 2 (Euclid), 32 dimensions, numerics exact",
    ]


def test_auto_is_fast(cli: Cli, tiny: Path) -> None:
    r = cli("embed", "-m", tiny, "--format", "raw", "hello")
    assert "numerics fast\n" in r.err  # where kernels are compiled, a line about that follows
    assert math.isclose(sum(float(v) ** 2 for v in r.out.split()), 1, rel_tol=1e-5)


@pytest.mark.parametrize("source", ["arguments", "file", "stdin", "dash"])
def test_texts_come_from_anywhere(embed: Cli, e: Embedder, tmp_path: Path, source: str) -> None:
    texts = ["hello", "the cat", "", "a dog."]
    content = "\n".join(texts).encode()
    (tmp_path / "texts.txt").write_bytes(content)
    args: dict[str, list[str]] = {
        "arguments": texts,
        "file": ["--file", str(tmp_path / "texts.txt")],
        "stdin": [],
        "dash": ["-f", "-"],
    }
    r = embed("--json", *args[source], stdin=content)
    assert (r.code, r.err) == (0, "")
    assert vectors(r.out).tobytes() == np.asarray(e.embed(texts)).tobytes()


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--pooling", "cls"], {"pooling": "cls"}),
        (["--pooling", "first"], {"pooling": "cls"}),
        (["--pooling", "max"], {"pooling": "max"}),
        (["--normalize", "-1"], {"normalize": -1}),
        (["--normalize", "0"], {"normalize": 0}),
        (["--normalize", "taxicab"], {"normalize": 1}),
        (["--embd-normalize", "3"], {"normalize": 3}),
        (["--normalize"], {"normalize": 2}),
        (["--dimensions", "5"], {"dimensions": 5}),
        (["--dimensions", "32"], {}),
        (["--batch-tokens", "1"], {}),
    ],
)
def test_flags_are_the_options_of_the_library(
    embed: Cli, e: Embedder, flags: list[str], options: dict[str, Any]
) -> None:
    r = embed("--json", "the cat sat", "a dog", *flags)
    assert r.code == 0, r.err
    assert vectors(r.out).tobytes() == np.asarray(e.embed(["the cat sat", "a dog"], **options)).tobytes()


@pytest.mark.parametrize("pooling", ["native", "none"])
def test_fewer_dimensions_are_in_every_head(embed: Cli, e: Embedder, pooling: str) -> None:
    flags = ["--dimensions", "5", "--pooling", pooling, "hello"]
    expected = e.embed("hello", dimensions=5, pooling=pooling)
    assert json.loads(embed("--json", *flags).out)["dimension"] == 5
    back = np.load(io.BytesIO(embed("--format", "npy", *flags).raw))
    assert back.shape == np.atleast_2d(expected).shape
    assert back.tobytes() == expected.tobytes()
    assert embed("--format", "csv", *flags).out.splitlines()[0].endswith(",e3,e4")


def test_another_pooling_than_the_models_is_a_warning(embed: Cli) -> None:
    assert "warning: pooling cls, but the model was made for mean" in embed("--pooling", "cls", "a").err


def test_a_model_that_names_no_pooling_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "m.gguf", pooling=None)
    r = cli("embed", "-m", path, "--numerics", "exact", "a")
    assert "warning: the file names no pooling, so each token has a vector; --pooling mean gives each text one" in r.err
    assert r.out.startswith("[0.0] [CLS] (2)\n")
    r = cli("embed", "-m", path, "--numerics", "exact", "--compare", "a", "b")
    assert (r.code, r.raw) == (1, b"")
    assert "--compare needs one vector a text" in r.err


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv", "raw"])
def test_token_vectors_in_every_format(embed: Cli, e: Embedder, form: str) -> None:
    r = embed("--pooling", "none", "--format", form, "hello world", "a")
    assert r.code == 0
    expected = e.embed(["hello world", "a"], pooling="none")
    last = expected[-1][-1, -1]
    shown = {"text": f"{last:.7g}", "raw": f"{last:.7f}"}.get(form, str(last))
    assert shown in r.out.rstrip().splitlines()[-2 if form == "json" else -1]
    assert sum(len(v) for v in expected) == 7


def test_a_name_decides_the_format(embed: Cli, e: Embedder, tmp_path: Path) -> None:
    for name in ("a.npy", "a.jsonl", "a.csv", "a.json", "a.txt"):
        assert embed("hello", "--output", tmp_path / name)[:2] == (0, b"")
    assert np.load(tmp_path / "a.npy").tobytes() == np.asarray(e.embed(["hello"])).tobytes()
    assert (tmp_path / "a.csv").read_text().startswith("index,text,e0,")
    assert json.loads((tmp_path / "a.jsonl").read_text())["index"] == 0
    assert json.loads((tmp_path / "a.json").read_text())["dimension"] == 32
    assert len((tmp_path / "a.txt").read_text().split()) == 32
    assert embed("hello", "--output", tmp_path / "a.npy", "--format", "raw").code == 0
    assert len((tmp_path / "a.npy").read_text().split()) == 32


def test_npy_can_go_to_a_pipe(embed: Cli, e: Embedder) -> None:
    r = embed("hello", "a", "--format", "npy")
    assert np.load(io.BytesIO(r.raw)).tobytes() == np.asarray(e.embed(["hello", "a"])).tobytes()


def test_npy_does_not_go_to_a_terminal(embed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refembed.cli.embedding.is_terminal", lambda stream: True)
    r = embed("hello", "--format", "npy")
    assert (r.code, r.raw) == (1, b"")
    assert "--output FILE" in r.err


@pytest.mark.parametrize(("args", "where"), [(["a", LONG], "text 2"), ([], "standard input, line 2")])
def test_too_long_a_text_is_an_error(embed: Cli, args: list[str], where: str) -> None:
    r = embed(*args, stdin=b"a\n" + LONG.encode())
    assert (r.code, r.raw) == (1, b"")
    assert r.err.startswith(f"error: {where}: 82 tokens, but the model reads at most 64\n")
    assert "--truncate keeps its first 64 tokens" in r.err


def test_after_an_error_there_is_no_file(embed: Cli, tmp_path: Path) -> None:
    r = embed("a", LONG, "--batch-tokens", "1", "--output", tmp_path / "out.jsonl")
    assert r.code == 1
    assert not list(tmp_path.iterdir())


def test_truncate_cuts_and_says_so(embed: Cli, e: Embedder) -> None:
    r = embed("--json", "--truncate", LONG, "a")
    assert r.code == 0
    assert r.err == "warning: 1 of the texts had more than 64 tokens; the rest of them was cut off\n"
    assert json.loads(r.out)["tokens"] == [64, 3]
    assert vectors(r.out)[0].tobytes() == e.embed("hello " * 62).tobytes()


def test_compare_prints_four_measures(embed: Cli, e: Embedder) -> None:
    a, b = np.asarray(e.embed(["hello world", "the cat"], normalize=-1), np.float64)
    expected = {
        "cosine": a @ b / math.sqrt((a @ a) * (b @ b)),
        "dot": a @ b,
        "euclidean": np.linalg.norm(a - b),
        "manhattan": np.linalg.norm(a - b, 1),
    }
    for order in (["--compare", "hello world", "the cat"], ["hello world", "the cat", "--compare"]):
        lines = embed("--normalize", "-1", *order).out.splitlines()
        assert [line.split()[0] for line in lines] == ["measure", *expected]
        for line, value in zip(lines[1:], expected.values(), strict=True):
            assert float(line.split()[1]) == pytest.approx(value, rel=1e-6, abs=1e-7)
    about = json.loads(embed("--normalize", "-1", "--compare", "hello world", "the cat", "--json").out)
    assert {k: about[k] for k in expected} == pytest.approx(expected, rel=1e-6)
    assert (about["n_tokens"], about["pooling"], about["normalize"]) == ([4, 4], "mean", -1)


def test_compare_reads_lines_too(embed: Cli) -> None:
    assert embed("--compare", stdin=b"hello\nhello\n").out.split()[2:4] == ["cosine", "1.0000000"]


@pytest.mark.parametrize("texts", [["a"], ["a", "b", "c"]])
def test_compare_takes_two_texts(embed: Cli, texts: list[str]) -> None:
    r = embed("--compare", *texts)
    assert (r.code, r.raw) == (1, b"")
    assert "--compare takes two texts" in r.err


@pytest.mark.parametrize(
    ("flags", "said"), [(["--format", "csv"], "text or json"), (["--pooling", "none"], "one vector a text")]
)
def test_compare_refuses_what_it_cannot_print(embed: Cli, flags: list[str], said: str) -> None:
    r = embed("--compare", "a", "b", *flags)
    assert (r.code, r.raw) == (1, b"")
    assert said in r.err


def test_compare_into_a_file(embed: Cli, tmp_path: Path) -> None:
    assert embed("--compare", "a", "b", "--output", tmp_path / "c.txt")[:2] == (0, b"")
    assert (tmp_path / "c.txt").read_text().split()[::2] == ["cosine", "dot", "euclidean", "manhattan"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--pooling", "sum", "a"], 1, "there is no such pooling"),
        (["--pooling", "rank", "a"], 1, "classifier head"),
        (["--dimensions", "33", "a"], 1, "vectors have 32 numbers"),
        (["--dimensions", "0", "a"], 1, "--dimensions"),
        (["--output", "nosuch/folder/x.csv", "a"], 1, "cannot be written"),
        (["--file", "nosuch.txt"], 1, "nosuch.txt: no such file"),
        ([], 1, "there are no texts in it"),
    ],
)
def test_errors(embed: Cli, args: list[str], code: int, said: str) -> None:
    r = embed(*args)
    assert (r.code, r.raw) == (code, b"")
    assert said in r.err


def test_a_bad_model_file_ends_with_2(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF\x03")
    r = cli("embed", "-m", bad, "a")
    assert (r.code, r.raw) == (2, b"")
    assert r.err.startswith(f"error: {bad}: reading")


@pytest.mark.parametrize(("arch", "usual", "other"), [("llama", "last", "mean"), ("bert", "mean", "cls")])
def test_embed_and_doctor_give_one_advice_where_a_file_names_no_pooling(
    cli: Cli, tmp_path: Path, arch: str, usual: str, other: str
) -> None:
    path = synthetic(tmp_path / "m.gguf", arch, pooling=None)
    advice = unnamed_pooling(arch == "llama")
    assert f"--pooling {usual} " in advice

    def said(*args: str) -> str:
        return cli("embed", "-m", path, "--numerics", "exact", "hello", *args).err

    assert f"warning: the file names no pooling, so each token has a vector; {advice}" in said()
    assert f"note: the file names no pooling; {advice}" in said("--pooling", other)
    assert "no pooling" not in said("--pooling", usual)
    assert "made for" not in said("--pooling", other)
    assert advice in cli("doctor", path).out


def test_a_dash_among_the_texts_is_noted(cli: Cli, tiny: Path) -> None:
    assert "`--file -` reads standard input" in cli("embed", "-m", tiny, "--numerics", "exact", "-").err


def test_a_corpus_streams(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> None:
    """Lines of the output are there before the last line of the input is read."""
    seen: list[int] = []

    class Endless(io.RawIOBase):
        count = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            seen.append(len(capsysbinary.readouterr().out))
            self.count += 1
            line = b"hello\n" if self.count < 9 else b""
            buffer[: len(line)] = line
            return len(line)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless(), 6)))
    assert run(["embed", "-q", "-m", str(tiny), "--numerics", "exact", "--format", "raw", "--batch-tokens", "1"]) == 0
    assert [n > 0 for n in seen] == [False] + [True] * 8


def test_output_is_flushed_after_each_batch(tiny: Path) -> None:
    """A line goes in, its vector comes out, and only then the next line goes in."""
    options = ["-q", "-m", str(tiny), "--numerics", "exact", "--format", "jsonl", "--batch-tokens", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-m", "refembed", "embed", *options], stdin=pipe, stdout=pipe, env=ENVIRONMENT
    ) as p:
        assert p.stdin
        assert p.stdout
        timer = threading.Timer(30, p.kill)  # instead of waiting for ever for a line that does not come
        timer.start()
        for i, text in enumerate(("hello", "world")):
            p.stdin.write(text.encode() + b"\n")
            p.stdin.flush()
            line = p.stdout.readline()
            assert line.startswith(f'{{"index": {i}, "text": "{text}"'.encode())
        p.stdin.close()
        assert (p.stdout.read(), p.wait(timeout=60)) == (b"", 0)
        timer.cancel()


@pytest.mark.parametrize("terminal", [True, False])
def test_no_bar_goes_across_vectors_on_the_screen(
    embed: Cli, monkeypatch: pytest.MonkeyPatch, terminal: bool, tmp_path: Path
) -> None:
    wanted: list[bool] = []

    def bar(total: int | None, **options: bool) -> Bar:
        wanted.append(options["wanted"])
        return Bar(total, wanted=False)

    monkeypatch.setattr("refembed.cli.embedding.is_terminal", lambda stream: terminal)
    monkeypatch.setattr("refembed.cli.embedding.Bar", bar)
    embed("hello")
    embed("hello", "--output", tmp_path / "out.txt")
    assert wanted == [not terminal, True]


def test_stray_bytes_in_arguments_and_files_agree(tiny: Path) -> None:
    if os.name != "posix":
        pytest.skip("arguments are bytes on POSIX only")
    options: list[str | Path] = ["embed", "-q", "-m", tiny, "--numerics", "exact", "--format", "jsonl"]
    from_file = program(*options, input=b"caf\xe9\n")
    as_argument = program(*options, os.fsdecode(b"caf\xe9"))
    assert from_file.stdout == as_argument.stdout
    assert json.loads(from_file.stdout)["text"] == "caf\ufffd"
