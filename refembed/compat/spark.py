"""Spark: a DataFrame of texts to the same rows with vectors, through `mapInArrow`.

    from refembed.compat.spark import embed
    embed(spark.read.parquet("texts/"), "model.gguf", dtype="float32").write.parquet("vectors/")

Each Python worker of an executor loads the model once and keeps it (`spark.python.worker.reuse`, on by default). Spark
runs a task again whose worker died: on a cluster up to `spark.task.maxFailures` times, in local mode only where the
master is `local[N, FAILURES]`. Needs pyspark, pandas and pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from refembed.batch import EmbedBatch
from refembed.batch.columns import check_column, check_new
from refembed.compat.common import need

need("pyspark", "pyspark", "spark")
need("pandas", "pandas", "spark")  # which mapInArrow asks for
from pyspark.sql import types  # noqa: E402 - the sentence above comes first


def embed(frame: Any, model: str | Path = "minilm", *, expect: Any = "driver", **options: Any) -> Any:
    """The DataFrame with a column of vectors, array<float>.

    model    a path, or a name, that means the same file on each machine
    expect   "driver": a worker whose processor or versions differ from the driver's refuses to begin, since its vectors
             may differ in their last bits (`EmbedBatch`: allow_mixed). None: not looked at
    options  of `EmbedBatch`: column, into, threads, on_error, prompt_name, pooling, numerics ...; Spark has no
             float16, so dtype "float16" rounds to it and is kept as float
    Raises RequestError where the column of the texts is absent, or one to be added is there, and what loading the model
    raises; as the job runs, Spark's errors with those of `EmbedBatch` inside.
    """
    allowed = options.pop("allow_mixed", False)
    batch = EmbedBatch(model, **options)
    check_column(frame.columns, batch.column)
    cased = frame.sparkSession.conf.get("spark.sql.caseSensitive") == "true"
    check_new(frame.columns if cased else like(frame.columns, batch.added), batch.added)
    expect = batch.fingerprint() if expect == "driver" else expect
    batch = EmbedBatch(model, expect=expect, allow_mixed=allowed, **options)
    vectors = types.StructField(batch.into, types.ArrayType(types.FloatType(), False), batch.on_error == "column")
    errors = [types.StructField(name, types.StringType(), True) for name in batch.added[1:]]
    schema = types.StructType([*frame.schema.fields, vectors, *errors])

    def rows(batches: Iterable[Any]) -> Iterator[Any]:
        for one in batches:
            yield as_lists(batch(one))

    return frame.mapInArrow(rows, schema)


def like(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The names, spelled as one of those that are wanted where they differ only in case, as Spark compares them."""
    spelled = {name.lower(): name for name in wanted}
    return [spelled.get(name.lower(), name) for name in names]


def as_lists(batch: Any) -> Any:
    """The batch; a fixed-size list of numbers becomes a list of float32, the type that Spark has."""
    arrays = []
    for array in batch.columns:
        if pa.types.is_fixed_size_list(array.type):
            array = array.cast(pa.list_(array.type.value_type)).cast(pa.list_(pa.float32()))
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
