"""Ray Data, Spark, Dask and datasets.map run EmbedBatch on two workers, and lose no row when processes are killed.

Each test starts a program of `examples/` as a user does, on 20,000 texts. A worker is killed with SIGKILL in the
middle, later the driver, and the program is started again. In the end every row is there once, with the bits of a
single process. Where a job hangs, the time limit ends it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from refembed.batch import EmbedBatch
from refembed.embedder import Embedder
from refembed.errors import RequestError
from tests.child import ROOT
from tests.peers.jobs import SECONDS, Corpus, Job, check_rows, killed_twice, ticks, until

pytestmark = pytest.mark.peers

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pq = pytest.importorskip("pyarrow.parquet")


def example(name: str, *arguments: object) -> list[str]:
    return [sys.executable, f"examples/{name}.py", *map(str, arguments)]


def test_ray_data(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "vectors"
    command = example("embed_ray", corpus.folder, out, corpus.model, 2)
    killed_twice(command, "ray::MapWorker", lambda: len(list(out.glob("*.parquet"))), tmp_path / "log")
    check_rows(pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("*.parquet"))]), corpus)


def test_spark(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("pyspark")
    out = tmp_path / "vectors"
    submit = Path(sys.executable).with_name("spark-submit")
    command = [str(submit), "--master", "local[2,4]", *example("embed_spark", corpus.folder, out, corpus.model)[1:]]
    os.environ["PYSPARK_PYTHON"] = sys.executable
    killed_twice(command, "pyspark.daemon", lambda: len(list(out.glob("*/_SUCCESS"))), tmp_path / "log")
    check_rows(pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("*/*.parquet"))]), corpus)


def test_dask(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    out = tmp_path / "vectors"
    command = example("embed_dask", corpus.folder, out, corpus.model, 2)
    killed_twice(command, "multiprocessing.spawn", lambda: len(list(out.glob("*.parquet"))), tmp_path / "log")
    check_rows(pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("*.parquet"))]), corpus)


def test_datasets_map(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies ends the job with an error, in time; the next start goes on."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out, log = tmp_path / "vectors.parquet", tmp_path / "log"
    command = example("embed_datasets", corpus.folder, out, corpus.model, 2)
    deadline = time.monotonic() + SECONDS
    job = Job(command, log)
    try:
        until(lambda: re.search(r"Map .num_proc=2.: +[1-9]", log.read_text()), job, deadline)  # both are at work
        os.kill(max(job.workers("embed_datasets"), key=ticks), signal.SIGKILL)  # another is the pool's manager
        assert job.process.wait(max(deadline - time.monotonic(), 1)) != 0
        assert "abruptly died" in log.read_text()
    finally:
        job.end()
    job = Job(command, log)
    try:
        assert job.process.wait(max(deadline - time.monotonic(), 1)) == 0, log.read_text()[-4000:]
    finally:
        job.end()
    table = pq.read_table(out)
    check_rows(table.set_column(2, "embedding", table["embedding"].cast(pa.list_(pa.float32()))), corpus)


# Columns of pandas and Arrow


TEXTS = ["the cat sat", None, "a", "hello " * 99]  # the last has 101 tokens; the model reads 64


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["table", "batch"])
def test_arrow_gets_a_fixed_size_list(tiny: Path, kind: str, dtype: str) -> None:
    make = pa.table if kind == "table" else pa.record_batch
    given = make({"id": [1, 2, 3, 4], "text": pa.array(TEXTS)})
    found = EmbedBatch(tiny, on_error="column", dtype=dtype)(given)
    assert type(found) is type(given)
    assert found.schema.names == ["id", "text", "embedding", "embedding_error"]
    number = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    assert found.schema.field("embedding").type == pa.list_(number, 32)
    assert [v is None for v in found["embedding"].to_pylist()] == [False, True, False, True]
    wanted = np.asarray(Embedder.load(tiny).embed(["the cat sat", "a"])).astype(dtype)
    assert np.array_equal(np.array([v for v in found["embedding"].to_pylist() if v], dtype), wanted)
    assert [e is None for e in found["embedding_error"].to_pylist()] == [True, False, True, False]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_texts_may_be_any_kind_of_arrow_string(tiny: Path, kind: str) -> None:
    texts = pa.array(["a cat", "a dog"])
    column = texts.dictionary_encode() if kind == "dictionary" else texts.cast(getattr(pa, kind)())
    found = EmbedBatch(tiny)(pa.table({"text": pa.chunked_array([column, column])}))
    assert len(found) == 4
    assert np.array_equal(np.stack(found["embedding"].to_numpy()[:2]), Embedder.load(tiny).embed(["a cat", "a dog"]))


def test_a_column_that_is_there_is_replaced_and_metadata_stays(tiny: Path) -> None:
    given = pa.table({"embedding": [7], "text": ["a"]}).replace_schema_metadata({"made": "by hand"})
    found = EmbedBatch(tiny)(given)
    assert found.schema.names == ["embedding", "text"]
    assert found.schema.metadata == {b"made": b"by hand"}
    assert found["embedding"].type == pa.list_(pa.float32(), 32)


def test_pandas_gets_an_array_a_row(tiny: Path) -> None:
    given = pd.DataFrame({"id": [1, 2, 3, 4], "text": TEXTS}, index=[9, 8, 7, 6])
    found = EmbedBatch(tiny, on_error="column")(given)
    assert list(given.columns) == ["id", "text"]
    assert list(found.index) == [9, 8, 7, 6]
    assert found["embedding"].isna().tolist() == [False, True, False, True]
    assert found["embedding_error"].isna().tolist() == [True, False, True, False]
    wanted = Embedder.load(tiny).embed(["the cat sat", "a"])
    assert np.array_equal(np.stack(found["embedding"].dropna().to_list()), wanted)
    with pytest.raises(RequestError, match="row 1 of column 'text': no text"):
        EmbedBatch(tiny)(given)


def test_what_blas_says_of_its_threads(tiny: Path) -> None:
    """threadpoolctl asks each BLAS in the process; refembed has set them."""
    pytest.importorskip("threadpoolctl")
    code = (
        "import sys, threadpoolctl as t; from refembed import Embedder\n"
        "for n in (1, 2):\n"
        "    Embedder.load(sys.argv[1], numerics='exact', threads=n)\n"
        "    print({i['num_threads'] for i in t.threadpool_info() if i['user_api'] == 'blas'})\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    run = subprocess.run([sys.executable, "-c", code, tiny], capture_output=True, text=True, cwd=ROOT, env=env)
    assert run.stdout.split() == ["{1}", "{2}"], run.stderr
