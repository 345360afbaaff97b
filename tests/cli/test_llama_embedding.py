"""`refembed embed` as llama-embedding: the bytes that the program itself printed (tests/record_llama_embedding.py)."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refembed.cli.llama_embedding import unescaped
from tests import libm
from tests.cli.conftest import Cli, program
from tests.llama_embedding_cases import CASES, FOUR, prepare
from tests.record_llama_embedding import FILE

pytestmark = pytest.mark.system

NUMBER = rb"-?\d+\.\d+"
RECORDED: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and files of the recording; the same bytes."""
    path = tmp_path_factory.mktemp("llama-embedding")
    assert prepare(path) == RECORDED["models"]
    return path


# The recorded program is the wheel's profile but for a sum in flash attention that its compiler fused
GGML = ("--numerics", "ggml", "--profile", "avx2-gcc12")


def ours(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any], *more: str) -> Any:
    monkeypatch.chdir(folder)
    numerics = () if "--numerics" in more else GGML
    return cli("embed", "-m", f"{case['model']}.gguf", *numerics, *case["args"], *more)


def test_every_case_is_recorded() -> None:
    assert [(c["model"], c["args"]) for c in RECORDED["cases"]] == [(model, args) for model, args in CASES]


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda c: " ".join([c["model"], *c["args"]])[:90])
def test_bytes_and_exit_code_are_llama_embeddings(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    r = ours(cli, folder, monkeypatch, case)
    assert r.code == case["code"], r.err
    theirs = case["stdout"].encode("latin-1")
    if libm.others("expf", "tanhf"):  # llama-embedding on this machine would have other last bits too
        (text, x), (their_text, y) = (apart(out) for out in (r.raw, theirs))
        assert (text, x) == (their_text, pytest.approx(y, rel=1e-5, abs=2e-6))
        return
    assert r.raw == theirs


def apart(out: bytes) -> tuple[bytes, list[float]]:
    """The text around numbers, and the numbers."""
    text = re.sub(NUMBER, b"x", re.sub(rb" +", b" ", out))
    return text, [float(v) for v in re.findall(NUMBER, out)]


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("form", ["", "array", "json", "json+", "raw"])
def test_other_numerics_differ_in_late_digits_alone(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, numerics: str, form: str
) -> None:
    """Numbers aside, the bytes are the same; numbers agree to what llama.cpp itself rounds away (docs/numerics.md)."""
    case = next(c for c in RECORDED["cases"] if c["model"] == "bert" and c["args"] == ["-p", FOUR, *asked(form)])
    r = ours(cli, folder, monkeypatch, case, "--numerics", numerics)
    (text, x), (their_text, y) = (apart(out) for out in (r.raw, case["stdout"].encode("latin-1")))
    assert text == their_text
    assert max(abs(a - b) for a, b in zip(x, y, strict=True)) < 1e-3
    assert x != y


def asked(form: str) -> list[str]:
    return ["--embd-output-format", form]


def test_what_differs_on_purpose(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The left side is llama-embedding's, as recorded; docs/embed.md lists these."""
    unknown, disabled, negative, rank = RECORDED["different"]
    assert (unknown["code"], unknown["stdout"]) == (0, "\n")
    r = ours(cli, folder, monkeypatch, unknown)
    assert (r.code, r.raw) == (1, b"")
    assert "'array', 'json', 'json+', 'raw'" in r.err
    assert (disabled["code"], disabled["stdout"]) == (0, "")
    r = ours(cli, folder, monkeypatch, disabled)
    assert (r.code, r.err) == (0, "")
    assert r.raw == cli("embed", "-m", "bert.gguf", *GGML, "-p", "a").raw != b""
    assert negative["code"] == 0
    r = ours(cli, folder, monkeypatch, negative)
    assert (r.code, r.raw) == (1, b"")
    scores = json.loads(rank["stdout"])[0]
    r = ours(cli, folder, monkeypatch, rank)
    assert json.loads(r.raw)[0] == scores[:1]
    assert len(scores) == 36


def test_rank_scores_are_never_normalized_unasked(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = {"model": "reranker", "args": ["-p", r"a\tb"]}
    plain = ours(cli, folder, monkeypatch, case)
    assert plain.raw == ours(cli, folder, monkeypatch, case, "--embd-normalize", "-1").raw
    assert plain.raw.startswith(b"\nrerank score 0: ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-p", "a", "-f", "lines.txt"], "Give one of --prompt, --file and --binary-file"),
        (["-p", "a", "b"], "not both"),
        (["-p", "a", "--embd-separator", ""], "at least one character"),
        (["-p", "a", "--embd-output-format", "raw", "--format", "csv"], "goes with neither --format"),
        (["-bf", "nosuch.bin"], "nosuch.bin: no such file"),
        (["-mu", "https://x/m.gguf", "-p", "a"], "-mu: nothing is fetched from there"),
        (["-p", "hello " * 70], "prompt 0: 72 tokens, but the model reads at most 64"),
        (
            ["-p", "a\nthe cat sat on", "-b", "5"],
            "prompt 1: 6 tokens, but --batch-size and --ctx-size let in at most 5",
        ),
        (["--override-kv", "a=b", "-p", "a"], "No such option"),
    ],
)
def test_one_clear_error(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str) -> None:
    r = ours(cli, folder, monkeypatch, {"model": "bert", "args": args})
    assert (r.code, r.raw) == (1, b"")
    assert said in r.err
    assert r.err.count("error: ") == 1


def test_either_sides_texts_and_formats_go_together(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(*args: str) -> Any:
        return ours(cli, folder, monkeypatch, {"model": "bert", "args": list(args)})

    assert [json.loads(line)["text"] for line in say("-p", r"a\n\nb c", "--format", "jsonl").out.splitlines()] == [
        "a", "", "b c",
    ]  # fmt: skip
    assert say("a b", "c", "--embd-output-format", "array").raw == say("-p", "a b\nc", *asked("array")).raw
    assert say("a", "--format", "array").raw == say("-p", "a", *asked("array")).raw
    assert say("a", "--format", "json+").raw == say("-p", "a", *asked("json+")).raw
    assert "cosine" in say("-p", r"a\nb", "--compare").out
    assert say("-f", "lines.txt", "--compat", "llama.cpp").raw == say("-f", "lines.txt", *asked("")).raw
    assert say("-f", "lines.txt").raw != say("-f", "lines.txt", *asked("")).raw


def test_standard_input_is_a_file(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    args = ["embed", "-m", "bert.gguf", *GGML, *asked("raw")]
    assert cli(*args, stdin=(folder / "lines.txt").read_bytes()).raw == cli(*args, "-f", "lines.txt").raw
    assert cli(*args).raw == cli(*args, "-p", "").raw


def test_an_output_file_appears_whole(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = {"model": "bert", "args": ["-p", "a", *asked("json")]}
    assert ours(cli, folder, monkeypatch, case, "--output", str(tmp_path / "o")).raw == b""
    assert (tmp_path / "o").read_bytes() == ours(cli, folder, monkeypatch, case).raw


def test_flags_without_meaning_are_noted_and_texts_that_look_like_them_are_texts(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"model": "bert", "args": ["-ngl", "99", "--no-warmup", "--seed=1", "-p", "-v", "--log-file", "x"]}
    r = ours(cli, folder, monkeypatch, case)
    assert "note: no meaning here, ignored: -ngl --no-warmup --seed --log-file\n" in r.err
    assert r.raw == ours(cli, folder, monkeypatch, {"model": "bert", "args": ["-p", "-v"]}).raw
    assert r.raw != ours(cli, folder, monkeypatch, {"model": "bert", "args": ["-p", "-x"]}).raw


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (rb"a\nb\tc\rd", b"a\nb\tc\rd"),
        (rb"\\n \' \"", rb"\n ' " + b'"'),
        (rb"\x41\x4\xzz\x4G \xfF", rb"A\x4\xzz\x4G " + b"\xff"),
        (b"\\q \\", b"\\q \\"),
        (b"", b""),
    ],
)
def test_escapes(raw: bytes, plain: bytes) -> None:
    assert unescaped(raw) == plain


@pytest.mark.oracle
@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_what_live_llama_cpp_computes(folder: Path, causal: bool) -> None:
    """Next to the recording: the wheel, bit for bit."""
    from refembed.verify.engines.llamacpp import LlamaCpp

    text = "the cat sat on the mat"
    with LlamaCpp(
        folder / "decoder.gguf", pooling="mean", causal=causal, flash_attn="auto", extra_buffer_types=True
    ) as x:
        theirs = x.embed([text])[0]
    args = ["--numerics", "ggml", "--attention", "causal" if causal else "non-causal", "--pooling", "mean"]
    r = program("embed", "-m", folder / "decoder.gguf", *args, "--normalize", "-1", "--format", "json", text)
    assert json.loads(r.stdout)["embeddings"][0] == [float(str(v)) for v in theirs]


# -- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numerics", ["exact", "fast", "ggml"])
def test_threads_change_no_bits(minilm: Path, numerics: str) -> None:
    args = ["embed", "-q", "-m", minilm, "--numerics", numerics, "--format", "jsonl", "a", "how do I cook pasta? " * 20]
    one, three = (program(*args, "-t", n) for n in ("1", "3"))
    assert one.returncode == 0, one.stderr
    assert one.stdout == three.stdout


def test_threads_reach_blas_and_the_kernels(tiny: Path) -> None:
    """NumPy is imported after the option is read, or its BLAS would never know."""
    script = (
        "import os, sys\n"
        "from refembed.cli import run\n"
        "import refembed.kernels.threads as t\n"
        "assert 'numpy' not in sys.modules\n"
        "before = []\n"
        "t_use = t.use\n"
        "t.use = lambda n: (before.append('numpy' in sys.modules), t_use(n))\n"
        "code = run(sys.argv[1:])\n"
        "print(code, before, t.cores(), os.environ['OPENBLAS_NUM_THREADS'], file=sys.stderr)\n"
    )
    for verb in (["embed", "-m", str(tiny), "-q", "a"], ["rerank", "-q", "-m", str(tiny), "a", "b"]):
        command = [sys.executable, "-c", script, *verb, "--threads", "3"]
        r = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert r.stderr.splitlines()[-1] == f"{int(verb[0] == 'rerank')} [False] 3 3"


@pytest.mark.parametrize("n", ["0", "-1"])
def test_no_threads_are_all_threads(embed: Cli, n: str) -> None:
    assert embed("-t", n, "hello").raw == embed("hello").raw
