"""Corpora in files: what other libraries read is what the embedder gives; a kill at any moment changes no byte."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.cli.formats import Item, JsonlWriter, Run
from refembed.corpus.journal import MAGIC, Journal, Row, digest_of, framed
from refembed.corpus.vector_cache import Cache
from refembed.corpus.writer import FIRST_TOKENS, SUFFIXES, embed_corpus
from refembed.errors import RequestError
from tests.tiny import tiny_bert

TEXTS = ["hello world", "the cat sat", "", "a dog.", "hello world", "naïve café", b"\xff raw", "\udc80", "a\nb\u2028c"]
PYARROW = importlib.util.find_spec("pyarrow") is not None
FORMATS = [s for s in SUFFIXES if s != ".parquet" or PYARROW]  # .parquet: the extra `parquet`


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are cached in a folder of the test's own."""
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def e(tiny: Path) -> Embedder:
    return Embedder.load(tiny, numerics="exact")


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def decoded(text: str | bytes) -> str:
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return raw.decode("utf-8", "replace")


def test_npy_is_what_numpy_reads(e: Embedder, tmp_path: Path) -> None:
    corpus = embed_corpus(e, TEXTS, tmp_path / "x.npy")
    assert (corpus.count, corpus.resumed, corpus.dimension) == (len(TEXTS), 0, 32)
    assert np.array_equal(np.load(tmp_path / "x.npy"), e.embed(TEXTS))
    assert sorted(files(tmp_path)) == ["x.npy", "x.npy.meta.json"]
    meta = json.loads((tmp_path / "x.npy.meta.json").read_bytes())
    assert meta["count"] == len(TEXTS)
    assert meta["run"]["pooling"] == "mean"
    assert len(meta["run"]["model"][0]) == 64


def test_npy_of_nothing_is_an_empty_array(e: Embedder, tmp_path: Path) -> None:
    embed_corpus(e, [], tmp_path / "x.npy", dimensions=5)
    assert np.load(tmp_path / "x.npy").shape == (0, 5)


def test_jsonl_is_what_the_command_line_writes(e: Embedder, tmp_path: Path) -> None:
    embed_corpus(e, TEXTS, tmp_path / "x.jsonl", normalize=-1)
    out = io.BytesIO()
    writer = JsonlWriter(out, Run("m", "mean", -1, 32))
    for i, (text, vector) in enumerate(zip(TEXTS, e.embed(TEXTS, normalize=-1), strict=True)):
        writer.write(Item(i, text, e.tokenize(text), []), vector)
    assert (tmp_path / "x.jsonl").read_bytes() == out.getvalue()


def test_jsonl_has_keys_and_may_lack_texts(e: Embedder, tmp_path: Path) -> None:
    keys = [f"doc/{i}" for i in range(len(TEXTS))]
    embed_corpus(e, TEXTS, tmp_path / "x.jsonl", keys=keys, keep_text=False)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == keys
    assert list(lines[0]) == ["index", "id", "tokens", "embedding"]
    assert np.array_equal(np.array([line["embedding"] for line in lines], np.float32), e.embed(TEXTS))


def test_parquet_is_what_pyarrow_reads(e: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet`")
    monkeypatch.setattr("refembed.corpus.writer.GROUP", 4 * 32 * 4)  # four rows a group
    keys = [f"k{i}" for i in range(len(TEXTS))]
    embed_corpus(e, TEXTS, tmp_path / "x.parquet", keys=keys, dimensions=9)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["index", "id", "text", "tokens", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[9]"
    assert table["index"].to_pylist() == list(range(len(TEXTS)))
    assert table["id"].to_pylist() == keys
    assert table["text"].to_pylist() == [decoded(t) for t in TEXTS]
    assert table["tokens"].to_pylist() == [len(e.tokenize(t)) for t in TEXTS]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), e.embed(TEXTS, dimensions=9))
    assert json.loads(table.schema.metadata[b"refembed"])["run"]["dimensions"] == 9
    assert sorted(files(tmp_path)) == ["x.parquet"]
    embed_corpus(e, [], tmp_path / "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_a_prefix_is_embedded_and_not_written(e: Embedder, tmp_path: Path) -> None:
    embed_corpus(e, ["the cat"], tmp_path / "x.jsonl", prefix="hello ")
    line = json.loads((tmp_path / "x.jsonl").read_text())
    assert line["text"] == "the cat"
    assert np.array_equal(np.array(line["embedding"], np.float32), e.embed("hello the cat"))


def test_a_cache_changes_no_byte(e: Embedder, tmp_path: Path) -> None:
    embed_corpus(e, TEXTS, tmp_path / "x.npy")
    expected = files(tmp_path)
    with Cache(tmp_path / "cache" / "v.sqlite") as cache:
        for _ in range(2):
            embed_corpus(e, TEXTS, tmp_path / "x.npy", cache=cache)
            assert files(tmp_path) == expected
        assert cache.hits == len(TEXTS)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no format": ("x.txt", {}, "not a format of a corpus"),
    "each token": ("x.npy", {"pooling": "none"}, "one row a text"),
    "keys in npy": ("x.npy", {"keys": ["a"] * 9}, "no place for keys"),
    "too few keys": ("x.jsonl", {"keys": ["a"] * 8}, "input 8: there is no key for it"),
    "too many keys": ("x.jsonl", {"keys": ["a"] * 10}, "9 texts, but more keys"),
    "no folder": ("no/x.npy", {}, "folder does not exist"),
    "too many dimensions": ("x.npy", {"dimensions": 33}, "dimensions 33"),
}


@pytest.mark.parametrize(("name", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_one_error(
    e: Embedder, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        embed_corpus(e, TEXTS, tmp_path / name, **options)
    assert name not in files(tmp_path)


# Going on


def interrupted(e: Embedder, path: Path, **options: Any) -> None:
    """A run that ends at a text that is too long, 5 texts in."""
    with pytest.raises(RequestError, match="input 5: 82 tokens"):
        embed_corpus(e, [*TEXTS[:5], "hello " * 80], path, batch_tokens=1, **options)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_interrupted_run_goes_on(e: Embedder, tmp_path: Path, suffix: str) -> None:
    embed_corpus(e, TEXTS, tmp_path / f"x{suffix}")
    expected = files(tmp_path)
    interrupted(e, tmp_path / f"x{suffix}")
    assert (tmp_path / f"x{suffix}.part").exists()
    assert files(tmp_path).items() >= expected.items()  # the older file is still there
    done: list[int] = []
    corpus = embed_corpus(e, TEXTS, tmp_path / f"x{suffix}", resume=True, advance=lambda: done.append(1))
    assert (corpus.count, corpus.resumed, len(done)) == (9, 5, 9)
    assert files(tmp_path) == expected


def test_a_first_run_may_say_resume(e: Embedder, tmp_path: Path) -> None:
    assert embed_corpus(e, TEXTS, tmp_path / "x.npy", resume=True).resumed == 0


def test_what_an_interrupted_run_left_is_not_overwritten_unasked(e: Embedder, tmp_path: Path) -> None:
    interrupted(e, tmp_path / "x.npy")
    before = files(tmp_path)
    with pytest.raises(RequestError, match=r"left 5 texts here\n  hint: --resume"):
        embed_corpus(e, TEXTS, tmp_path / "x.npy")
    assert files(tmp_path) == before


def test_a_run_that_has_done_nothing_leaves_nothing(e: Embedder, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="input 0: 82 tokens"):
        embed_corpus(e, ["hello " * 80], tmp_path / "x.npy")
    assert files(tmp_path) == {}


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "numerics": ({"numerics": "fast"}, {}, "numerics: was 'exact', is 'fast'"),
    "semantics": ({"semantics": "original"}, {}, "semantics: was 'llama.cpp', is 'original'"),
    "pooling": ({}, {"pooling": "cls"}, "pooling: was 'mean', is 'cls'"),
    "norm": ({}, {"normalize": -1}, "normalize: was 2, is -1"),
    "dimensions": ({}, {"dimensions": 4}, "dimensions: was None, is 4"),
    "prefix": ({}, {"prefix": "query: "}, "prefix: was '', is 'query: '"),
    "truncate": ({}, {"truncate": True}, "truncate: was False, is True"),
    "keys": ({}, {"keys": ["k"] * 9}, "keys: was False, is True"),
    "text": ({}, {"keep_text": False}, "text: was True, is False"),
}


@pytest.mark.parametrize(("load", "options", "message"), OTHERS.values(), ids=OTHERS)
def test_another_run_does_not_go_on(
    e: Embedder, tiny: Path, tmp_path: Path, load: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    interrupted(e, tmp_path / "x.jsonl")
    before = files(tmp_path)
    other = Embedder.load(tiny, **({"numerics": "exact"} | load))
    with pytest.raises(RequestError, match=message):
        embed_corpus(other, TEXTS, tmp_path / "x.jsonl", resume=True, **options)
    assert files(tmp_path) == before


def test_another_model_does_not_go_on(e: Embedder, tmp_path: Path) -> None:
    interrupted(e, tmp_path / "x.npy")
    other = Embedder.load(tiny_bert(tmp_path / "other.gguf", seed=1), numerics="exact")
    with pytest.raises(RequestError, match=r"begun by a run that differs: model: was \["):
        embed_corpus(other, TEXTS, tmp_path / "x.npy", resume=True)


def test_other_texts_do_not_go_on(e: Embedder, tmp_path: Path) -> None:
    interrupted(e, tmp_path / "x.npy")
    before = files(tmp_path)
    with pytest.raises(RequestError, match="input 3: not the text"):
        embed_corpus(e, [*TEXTS[:3], "another", *TEXTS[4:]], tmp_path / "x.npy", resume=True)
    with pytest.raises(RequestError, match="holds 5 texts, but now there are fewer"):
        embed_corpus(e, TEXTS[:4], tmp_path / "x.npy", resume=True)
    assert files(tmp_path) == before


def test_other_keys_do_not_go_on(e: Embedder, tmp_path: Path) -> None:
    interrupted(e, tmp_path / "x.jsonl", keys=list("abcdef"))
    with pytest.raises(RequestError, match="input 1: not the text"):
        embed_corpus(e, TEXTS, tmp_path / "x.jsonl", resume=True, keys=list("aXcdefghi"))


# The journal


def test_a_torn_or_damaged_journal_goes_on_behind_its_last_whole_record(e: Embedder, tmp_path: Path) -> None:
    embed_corpus(e, TEXTS, tmp_path / "x.npy")
    expected, part = files(tmp_path), tmp_path / "x.npy.part"
    interrupted(e, tmp_path / "x.npy")
    whole, rng = part.read_bytes(), random.Random(0)
    for n in range(40):
        raw = bytearray(whole)
        if n % 2:
            raw[rng.randrange(len(raw) // 3, len(raw))] ^= 1 << rng.randrange(8)
        else:
            del raw[rng.randrange(len(raw)) :]
        part.write_bytes(raw)
        corpus = embed_corpus(e, TEXTS, tmp_path / "x.npy", resume=True)
        assert corpus.resumed < 5 or raw == whole
        assert files(tmp_path) == expected


def test_a_file_of_another_program_is_no_journal(e: Embedder, tmp_path: Path) -> None:
    (tmp_path / "x.npy.part").write_text("my notes")
    with pytest.raises(RequestError, match="not left by refembed"):
        embed_corpus(e, TEXTS, tmp_path / "x.npy", resume=True)
    assert files(tmp_path) == {"x.npy.part": b"my notes"}


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "x.part", {}, 3, resume=True),
        pytest.raises(RequestError, match="another process is writing it"),
    ):
        Journal(tmp_path / "x.part", {}, 3, resume=True)


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    vector = np.array([1.5, -0.0, np.float32(1e-45), 3], np.float32)
    rows = [Row(digest_of(b"a", b""), 7, b"", b"a", vector), Row(digest_of(b"", b"k"), 0, b"k", None, -vector)]
    with Journal(tmp_path / "x.part", {"a": [1, "ü"]}, 4, resume=False) as journal:
        for row in rows:
            journal.append(row)
        journal.flush()
        for found, row in zip(journal.rows(), rows, strict=True):
            assert found.pack() == row.pack()
            assert found.vector.tobytes() == row.vector.tobytes()
            assert (found.key, found.text, found.tokens) == (row.key, row.text, row.tokens)
    assert (tmp_path / "x.part").read_bytes().startswith(MAGIC)
    assert digest_of(b"ab", b"c") != digest_of(b"a", b"bc")


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.array([1, np.nan, 0], np.float32), "text 1: its vector is not finite"),
        (np.array([1, np.inf, 0], np.float32), "text 1: its vector is not finite"),
        (np.zeros(2, np.float32), "text 1: its vector has 2 numbers, not 3"),
        (np.zeros(0, np.float32), "text 1: its vector has 0 numbers, not 3"),
    ],
)
def test_a_vector_that_cannot_be_is_not_passed_on(tmp_path: Path, vector: Any, message: str) -> None:
    """Its record is whole, its checksum right."""
    with Journal(tmp_path / "x.part", {}, 3, resume=False) as journal:
        for v in (np.ones(3, np.float32), vector):
            journal.append(Row(digest_of(b"a", b""), 1, b"", b"a", v))
        journal.flush()
        with pytest.raises(RequestError, match=message):
            list(journal.rows())


@pytest.mark.parametrize("first", [b"[]", b"3", b"\xff", b"{"])
def test_a_journal_that_does_not_say_its_run_is_refused(e: Embedder, tmp_path: Path, first: bytes) -> None:
    (tmp_path / "x.npy.part").write_bytes(MAGIC + framed(first) + framed(b"short"))
    with pytest.raises(RequestError, match="does not say which run"):
        embed_corpus(e, TEXTS, tmp_path / "x.npy", resume=True)


def test_the_first_texts_are_written_soon(e: Embedder, tmp_path: Path) -> None:
    """A run that is killed within seconds of its start, again and again, still gets on."""
    texts = [f"hello {i}" for i in range(500)]  # four tokens each
    with pytest.raises(InterruptedError):
        embed_corpus(e, texts, tmp_path / "x.npy", advance=raising)
    with pytest.raises(RequestError, match=r"left \d+ texts here") as found:
        embed_corpus(e, texts, tmp_path / "x.npy")
    assert 0 < int(str(found.value).split(" left ")[1].split()[0]) <= FIRST_TOKENS


def raising() -> None:
    raise InterruptedError


def test_a_full_disk_is_one_error_and_nothing_is_lost(e: Embedder, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: first the journal meets it, then the file itself."""
    texts = [f"hello {i}" for i in range(60)]
    embed_corpus(e, texts, tmp_path / "x.jsonl")
    expected = files(tmp_path)
    size = len(expected["x.jsonl"])
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit, hint in ((5000, "--resume goes on behind them"), (size - 100, "--resume writes them")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
            with pytest.raises(RequestError, match=hint):
                embed_corpus(e, texts, tmp_path / "x.jsonl", resume=True, batch_tokens=20)
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            left = files(tmp_path)
            assert left.pop("x.jsonl.part")
            assert left == expected
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    corpus = embed_corpus(e, texts, tmp_path / "x.jsonl", resume=True)
    assert corpus.resumed == 60
    assert files(tmp_path) == expected


# Kills

CHILD = """
import sys
from refembed import Embedder
from refembed.corpus.writer import embed_corpus
e = Embedder.load(sys.argv[1], numerics="exact")
def numbered(n):
    for i in range(n):
        print(i, flush=True)
        yield f"hello {i} the cat"
texts = numbered(int(sys.argv[3]))
c = embed_corpus(e, texts, sys.argv[2], resume=True, batch_tokens=64)
print(c.resumed, flush=True)
"""


@pytest.mark.limit(300)
@pytest.mark.parametrize("suffix", FORMATS)
def test_kills_at_any_moment_change_no_byte(e: Embedder, tiny: Path, tmp_path: Path, suffix: str) -> None:
    path, n = tmp_path / f"x{suffix}", 1200
    embed_corpus(e, (f"hello {i} the cat" for i in range(n)), path)
    expected, rng, kills, resumed = files(tmp_path), random.Random(suffix), 0, 0
    for p in tmp_path.iterdir():
        if p.is_file():
            p.unlink()
    while True:
        args = [sys.executable, "-c", CHILD, str(tiny), str(path), str(n)]
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range((0, 400, 800, n)[kills]):  # texts it has drawn
                child.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.01))
            if kills < 3:
                child.kill()
            out, err = child.communicate(timeout=60)
        if child.returncode == 0:
            resumed = int(out)
            break
        assert (child.returncode, err) == (-signal.SIGKILL, b"")
        kills += 1
    assert kills == 3
    assert resumed > 0
    assert files(tmp_path) == expected


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tiny: Path, tmp_path: Path) -> None:
    """40 times the texts take as much memory as a few, within 8 MiB; all vectors together would take 117."""
    peak = {}
    for n in (2000, 80_000):
        code = CHILD.replace(
            "texts =",
            "z = np.zeros(384, np.float32)\ne.vectors = lambda ids, *_: [z] * len(ids)\n"
            "e.width = lambda how: 384\ntexts =",
        )
        code = f"import numpy as np, resource{code}print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        out = subprocess.run(
            [sys.executable, "-c", code, str(tiny), str(tmp_path / f"{n}.npy"), str(n)],
            capture_output=True, check=True, timeout=120,
        ).stdout.split()  # fmt: skip
        peak[n] = int(out[-1]) / 1024

    assert peak[80_000] - peak[2000] < 8, peak
