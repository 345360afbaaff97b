"""`refembed embed DIR --engine ray`: files of rows to files of vectors, whatever is killed; Parquet, read in parts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.batch import EmbedBatch
from refembed.batch.manifest import NAME
from refembed.batch.part_files import embed_part
from refembed.batch.parts import check_columns, find_sources, parts_of
from refembed.embedder import Embedder
from refembed.errors import RequestError, TooLongError
from tests.child import ROOT
from tests.peers.jobs import FILES, ROWS, SECONDS, Corpus, Job, check_rows, until
from tests.tiny import WORDS

pytestmark = [pytest.mark.peers, pytest.mark.limit(1800)]  # seconds; a job has fewer (jobs.py)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(95)]
LONG = "a " * 99  # 101 tokens; the model reads 64


# Whole jobs, on a cluster that is started for them


def command(texts: Path, out: Path, model: Path, *more: object) -> list[str]:
    given = ("embed", texts, "--engine", "ray", "-o", out, "-m", model, "--processes", 2, "--resume", *more)
    return [sys.executable, "-m", "refembed", *map(str, given)]


def lines_of(corpus: Corpus, folder: Path) -> Path:
    """The same texts as JSON Lines, in two files."""
    folder.mkdir()
    table = pq.read_table(corpus.folder)
    for n in range(2):
        rows = table.slice(n * ROWS // 2, ROWS // 2).to_pylist()
        (folder / f"{n}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(out: Path) -> Any:
    """All rows of the output; a folder of Parquet as Arrow reads it, whole."""
    if list(out.glob("*.parquet")):
        return pq.read_table(out)
    files = [file for file in sorted(out.rglob("*.jsonl")) if file.name != NAME]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.array([row["embedding"] for row in rows], np.float32).ravel()), len(rows[0]["embedding"])
    )
    return pa.table({"id": [row["id"] for row in rows], "embedding": vectors})


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_job_that_is_killed_goes_on(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    """A worker with SIGKILL, then the driver alone; the next driver starts while Ray's processes still end."""
    pytest.importorskip("ray")
    texts = corpus.folder if kind == "parquet" else lines_of(corpus, tmp_path / "texts")
    out, log = tmp_path / "vectors", tmp_path / "log"
    job = command(texts, out, corpus.model, "--rows", ROWS // FILES)
    deadline = time.monotonic() + SECONDS

    def done() -> int:
        with contextlib.suppress(FileNotFoundError):
            return (out / NAME).read_bytes().count(b"\n") - 1
        return 0

    first = Job(job, log)
    try:
        until(lambda: done() >= 2, first, deadline)
        os.kill(until(lambda: first.workers("ray::embed_part"), first, deadline)[0], signal.SIGKILL)
        before = done()
        until(lambda: done() >= before + 3, first, deadline)
        left = first.workers("")
        first.process.kill()
        first.process.wait()
        before = done()
        assert 0 < before < FILES, "the driver was killed in the middle"
        parts = [json.loads(line)["part"] for line in (out / NAME).read_text().splitlines()[1:]]
        changed = {part: (out / part).stat().st_mtime_ns for part in parts}
        second = Job(job, log)
        try:
            assert second.process.wait(max(deadline - time.monotonic(), 1)) == 0, log.read_text()[-4000:]
        finally:
            second.end()
    finally:
        first.end()
    for pid in left:  # Ray's own end with the driver
        until_ended(pid, deadline)
    said = log.read_text()
    assert f"{out}: {ROWS} rows in {FILES} files, " in said
    assert int(said.rpartition(" files, ")[2].split()[0]) >= before
    assert {part: (out / part).stat().st_mtime_ns for part in parts} == changed, "what was done is not done twice"
    check_rows(read(out), corpus)
    assert not list(out.rglob("*.part"))
    assert done() == FILES


def until_ended(pid: int, deadline: float) -> None:
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, Path(f"/proc/{pid}/cmdline").read_bytes()
        time.sleep(0.1)


def run(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    line = [sys.executable, "-m", "refembed", "embed", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=SECONDS)


def written(path: Path, texts: list[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())}), path, **options)
    return path


def test_the_command_says_what_it_did_and_does_nothing_twice(tiny: Path, tmp_path: Path) -> None:
    """Two kinds of files, in folders; one without rows; a text that is too long, in its column."""
    pytest.importorskip("ray")
    texts, out = tmp_path / "texts", tmp_path / "vectors"
    written(texts / "a.parquet", TEXTS)
    written(texts / "b/none.parquet", [])
    (texts / "b/c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS[:10], LONG]))
    given = (texts, "--engine", "ray", "-o", out, "-m", tiny, "--rows", 50, "--processes", 2)
    r = run(*given)
    assert (r.returncode, r.stdout) == (1, "")
    assert r.stderr.endswith(
        f"error: {texts}/b/c.jsonl: line 11: 101 tokens, but the model reads at most 64\n"
        "  hint: cut it into pieces, or pass truncate=True (--truncate) to keep its first 64 tokens\n"
    ), r.stderr
    given = (*given[:4], tmp_path / "other", *given[5:], "--on-error", "column")
    r = run(*given)
    assert (r.returncode, r.stdout) == (0, "")
    *_, summary, warning = r.stderr.splitlines()
    assert summary == f"{tmp_path}/other: 106 rows in 4 files"
    assert warning == "warning: 1 rows have no vector; the column embedding_error says why"
    found = sorted(path.relative_to(tmp_path / "other").as_posix() for path in (tmp_path / "other").rglob("*.*"))
    assert found == [NAME, "a-00000.parquet", "a-00001.parquet", "b/c-00000.jsonl", "b/none-00000.parquet"]
    assert pq.read_table(tmp_path / "other/b/none-00000.parquet").schema.names == [
        "id", "text", "embedding", "embedding_error",
    ]  # fmt: skip
    before = time.monotonic()
    r = run(*given, "--resume", "-q")
    assert (r.returncode, r.stdout) == (0, "")
    assert r.stderr == "warning: 1 rows have no vector; the column embedding_error says why\n"
    assert time.monotonic() - before < 60
    r = run(*given, "--resume", "--pooling", "cls")
    assert "begun by a run that differs: pooling: was 'mean', is 'cls'" in r.stderr


def test_a_column_that_is_there_is_an_error_before_processes_start(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    file = written(tmp_path / "a.parquet", TEXTS)
    pq.write_table(EmbedBatch(tiny)(pq.read_table(file)), tmp_path / "b.parquet")
    given = (tmp_path / "a.parquet", tmp_path / "b.parquet", "--engine", "ray", "-m", tiny, "-q", "-o", tmp_path / "v")
    r = run(*given)
    assert (r.returncode, r.stdout) == (1, "")
    assert r.stderr == (
        f"error: {tmp_path}/b.parquet: there is a column 'embedding' already\n"
        "  hint: another name for the vectors, into=NAME (--into NAME), or rows without 'embedding'\n"
    )
    assert not (tmp_path / "v").exists()
    pq.write_table(pq.read_table(file).append_column("e_error", pa.nulls(95)), tmp_path / "c.parquet")
    (source,) = find_sources([str(tmp_path / "c.parquet")])
    with pytest.raises(RequestError, match="a column 'e_error' already"):
        check_columns(source, "text", EmbedBatch(tiny, into="e", on_error="column").added)
    check_columns(source, "text", EmbedBatch(tiny, into="e").added)


def test_a_cluster_that_does_not_answer_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    written(tmp_path / "a.parquet", TEXTS)
    given = (tmp_path / "a.parquet", "--engine", "ray", "-m", tiny, "-q")
    for address in ("127.0.0.1:9", "auto"):
        r = run(*given, "-o", tmp_path / "out", "--ray-address", address)
        assert (r.returncode, r.stdout) == (1, ""), r.stderr
        assert f"error: no Ray cluster at {address}: " in r.stderr
        assert "Traceback" not in r.stderr


# On a cluster of the test's own


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Any]:
    """A cluster that this process is connected to; its workers think that they have another processor."""
    ray = pytest.importorskip("ray")
    paths = {"PYTHONPATH": str(ROOT), "OPENBLAS_CORETYPE": "Prescott"}
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20,
        runtime_env={"env_vars": paths},
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_worker_whose_bits_may_differ_is_refused_or_named(ray_here: Any, tiny: Path, tmp_path: Path) -> None:
    from refembed.compat.ray import embed_files

    file = written(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(RequestError, match=r"would compute other vectors than where the job began: machine: was"):
        embed_files(file, tmp_path / "out", EmbedBatch(tiny))
    seen: list[tuple[int, int]] = []
    job = embed_files(
        file, tmp_path / "out", EmbedBatch(tiny), allow_mixed=True, rows=40, resume=True,
        advance=lambda rows, size: seen.append((rows, size)),
    )  # fmt: skip
    assert (job.rows, job.parts, job.resumed, job.failed) == (95, 3, 0, 0)
    (machine,) = job.machines
    assert "OPENBLAS_CORETYPE=Prescott" in machine
    assert sorted(rows for rows, _ in seen) == [15, 40, 40]
    assert ray_here.is_initialized(), "the caller's connection stays"
    _, *lines = [json.loads(line) for line in (tmp_path / "out" / NAME).read_text().splitlines()]
    assert [line["machine"] for line in lines] == [machine] * 3


class Deadly(EmbedBatch):
    """Kills each process that computes with it."""

    def embed_rows(self, batch: Any, where: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore")
def test_rows_that_kill_every_worker_are_an_error_in_the_end(ray_here: Any, tiny: Path, tmp_path: Path) -> None:
    from refembed.compat.ray import embed_files

    assert ray_here.is_initialized()
    file = written(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(RequestError, match=r"a-00000\.parquet: the processes that computed it ended, 4 times"):
        embed_files(file, tmp_path / "out", Deadly(tiny), allow_mixed=True)
    assert embed_files(file, tmp_path / "out", EmbedBatch(tiny), allow_mixed=True, resume=True).rows == 95


@pytest.mark.filterwarnings("ignore")
def test_more_threads_than_a_machine_has_are_refused(ray_here: Any, tiny: Path, tmp_path: Path) -> None:
    from refembed.compat.ray import embed_files

    assert ray_here.is_initialized()
    file = written(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(RequestError, match="processes of 9 threads, but the largest machine of the cluster has 2 CPUs"):
        embed_files(file, tmp_path / "out", EmbedBatch(tiny, threads=9))


@pytest.mark.filterwarnings("ignore")
def test_ray_data_refuses_columns_before_it_begins(ray_here: Any, tiny: Path, tmp_path: Path) -> None:
    from refembed.compat.ray import embed

    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "embedding": [7], "v_error": [7]}), file)
    for rows in (ray_here.data.read_parquet(str(file)), ray_here.data.from_arrow(pq.read_table(file))):
        with pytest.raises(RequestError, match="there is a column 'embedding' already"):
            embed(rows, tiny, actors=1)
        with pytest.raises(RequestError, match="there is a column 'v_error' already"):
            embed(rows, tiny, actors=1, into="v", on_error="column")
        with pytest.raises(RequestError, match=r"there is no column 'body'\n.*text, embedding, v_error"):
            embed(rows, tiny, actors=1, into="v", column="body")


# Parquet in parts, without an engine


def parts(file: Path, out: Path, batch: EmbedBatch, rows: int) -> Any:
    """Every part of a file, and all rows of what they became."""
    (source,) = find_sources([str(file)])
    found = list(parts_of(source, rows))
    for part in found:
        embed_part(batch, part, out, {"by": "a test"})
    return pa.concat_tables([pq.read_table(out / part.name) for part in found])


@pytest.mark.parametrize("rows", [1, 7, 30, 95, 1000])
@pytest.mark.parametrize("group", [7, 10, 95])
def test_parts_have_every_row_once_however_rows_are_grouped(tiny: Path, tmp_path: Path, rows: int, group: int) -> None:
    file = written(tmp_path / "a.parquet", TEXTS, row_group_size=group)
    found = parts(file, tmp_path / "out", EmbedBatch(tiny), rows)
    assert found["id"].to_pylist() == list(range(95))
    assert found["text"].to_pylist() == TEXTS
    vectors = found["embedding"].combine_chunks().flatten().to_numpy().reshape(95, -1)
    assert np.array_equal(vectors, Embedder.load(tiny).embed(TEXTS))


def test_a_file_of_vectors_has_what_the_file_of_texts_had(tiny: Path, tmp_path: Path) -> None:
    """Types and metadata; how the vectors were made is in it, too."""
    kind = pa.dictionary(pa.int8(), pa.large_string())
    given = pa.table({"text": pa.array(TEXTS, pa.large_string()), "at": pa.array([0] * 95, pa.timestamp("us"))})
    given = given.append_column("kind", pa.array(["a"] * 95).cast(kind)).replace_schema_metadata({"made": "by hand"})
    pq.write_table(given, tmp_path / "a.parquet")
    found = parts(tmp_path / "a.parquet", tmp_path / "out", EmbedBatch(tiny, dtype="float16"), 95)
    assert found.select(given.schema.names) == pq.read_table(tmp_path / "a.parquet")
    assert found.schema.field("embedding").type == pa.list_(pa.float16(), 32)
    meta = pq.read_schema(tmp_path / "out/a-00000.parquet").metadata
    assert meta[b"made"] == b"by hand"
    assert json.loads(meta[b"refembed"]) == {"run": {"by": "a test"}}


def test_a_row_that_cannot_be_embedded_is_named(tiny: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", [*TEXTS, None, LONG], row_group_size=9)
    with pytest.raises(RequestError, match=r"a\.parquet: row 95: no text, but None\n  hint: on_error=.column"):
        parts(file, tmp_path / "out", EmbedBatch(tiny), 50)
    file = written(tmp_path / "b.parquet", [*TEXTS, LONG], row_group_size=9)
    with pytest.raises(TooLongError, match=r"b\.parquet: row 95: 101 tokens"):
        parts(file, tmp_path / "out", EmbedBatch(tiny), 50)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-00000.parquet", "b-00000.parquet"]


def test_parquet_that_cannot_be_read_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", TEXTS)
    (source,) = find_sources([str(file)])
    check_columns(source, "text")
    with pytest.raises(RequestError, match=r"there is no column 'body'\n.*the columns are id, text"):
        check_columns(source, "body")
    with pytest.raises(RequestError, match="column 'id' has no texts, but int64"):
        check_columns(source, "id")
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    with pytest.raises(RequestError, match=r"a\.parquet: not a Parquet file that can be read"):
        check_columns(find_sources([str(file)])[0], "text")
    file.write_bytes(whole[:4] + b"\xff" * 300 + whole[304:])
    check_columns(find_sources([str(file)])[0], "text")
    with pytest.raises(RequestError, match=r"a\.parquet: cannot be read"):
        parts(file, tmp_path / "out", EmbedBatch(tiny), 50)
