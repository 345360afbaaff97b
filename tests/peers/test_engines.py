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
from tests.peers.jobs import SECONDS, Corpus, Job, check_rows, killed_twice, ticks, to_its_end, until

pytestmark = [pytest.mark.peers, pytest.mark.limit(1800)]  # seconds; a job has fewer (jobs.py)

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
    check_rows(pq.read_table(out), corpus)
    to_its_end(command, tmp_path / "log")  # all is there, and stays as it is
    check_rows(pq.read_table(out), corpus)


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
    to_its_end(command, log, deadline)
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


def test_columns_and_metadata_stay(tiny: Path) -> None:
    given = pa.table({"n": [7], "text": ["a"]}).replace_schema_metadata({"made": "by hand"})
    found = EmbedBatch(tiny)(given)
    assert found.schema.names == ["n", "text", "embedding"]
    assert found.schema.metadata == {b"made": b"by hand"}
    assert found["embedding"].type == pa.list_(pa.float32(), 32)
    assert found.select(["n", "text"]) == given


# A column that is there is never written over


THERE = r"there is a column 'embedding' already\n.*another name for the vectors, into=NAME \(--into NAME\)"


@pytest.mark.parametrize("kind", ["table", "batch", "pandas"])
def test_a_column_that_is_there_is_an_error(tiny: Path, kind: str) -> None:
    make = {"table": pa.table, "batch": pa.record_batch, "pandas": pd.DataFrame}[kind]
    given = make({"embedding": [7], "text": ["a"]})
    with pytest.raises(RequestError, match=THERE):
        EmbedBatch(tiny)(given)
    assert EmbedBatch(tiny, into="v")(given)["embedding"][0] == make({"n": [7]})["n"][0]


def test_two_columns_of_one_name_are_an_error(tiny: Path) -> None:
    for given in (
        pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]),
        pd.DataFrame([["a", "b"]], columns=["text", "text"]),
    ):
        with pytest.raises(RequestError, match=r"there are 2 columns 'text'"):
            EmbedBatch(tiny)(given)


@pytest.mark.filterwarnings("ignore")  # datasets' own
def test_datasets_map_says_so_too(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    rows = pytest.importorskip("datasets").Dataset.from_dict({"text": ["a"], "embedding": [7]})
    with pytest.raises(RequestError, match=THERE):
        rows.map(EmbedBatch(tiny), batched=True)
    assert rows.map(EmbedBatch(tiny, into="v"), batched=True)[0]["embedding"] == 7


@pytest.mark.filterwarnings("ignore")  # Spark's own
def test_spark_says_so_before_it_begins(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the names differ in case alone, for Spark could not write both."""
    sql = pytest.importorskip("pyspark.sql")
    from refembed.compat.spark import embed

    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    spark = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        rows = spark.createDataFrame([(7, "a", "b")], ["Embedding", "text", "embedding_error"])
        with pytest.raises(RequestError, match=THERE):
            embed(rows, tiny)
        with pytest.raises(RequestError, match="there is a column 'embedding_error' already"):
            embed(rows.drop("Embedding"), tiny, on_error="column")
        with pytest.raises(RequestError, match=r"there is no column 'body'\n.*Embedding, text, embedding_error"):
            embed(rows, tiny, into="v", column="body")
        (row,) = embed(rows, tiny, into="v").collect()
        assert row[:3] == (7, "a", "b")
        assert np.array_equal(np.array(row["v"], np.float32), Embedder.load(tiny).embed("a"))
        spark.conf.set("spark.sql.caseSensitive", "true")
        assert embed(rows, tiny).columns == [*rows.columns, "embedding"]
    finally:
        spark.stop()


# Columns of pandas, and threads of BLAS


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
