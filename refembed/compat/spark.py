"""Spark: a DataFrame of texts to the same rows with vectors, through `mapInArrow`.

    from refembed.compat.spark import embed
    embed(spark.read.parquet("texts/"), "model.gguf", dtype="float32").write.parquet("vectors/")

Each Python worker of an executor loads the model once and keeps it (`spark.python.worker.reuse`, on by default). Spark
runs a task again whose worker died: on a cluster up to `spark.task.maxFailures` times, in local mode only where the
master is `local[N, FAILURES]`. Needs pyspark and pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from refembed.batch import EmbedBatch
from refembed.compat.common import need

need("pyspark", "pyspark", "spark")
from pyspark.sql import types  # noqa: E402 - the sentence above comes first


def embed(frame: Any, model: str | Path = "minilm", *, expect: Any = "driver", **options: Any) -> Any:
    """The DataFrame with a column of vectors, array<float>.

    model    a path, or a name, that means the same file on each machine
    expect   "driver": a worker whose processor or versions differ from the driver's refuses to begin, since its vectors
             may differ in their last bits (`EmbedBatch`: allow_mixed). None: not looked at
    options  of `EmbedBatch`: column, into, threads, on_error, prompt_name, pooling, numerics ...; Spark has no
             float16, so dtype "float16" rounds to it and is kept as float
    Raises what loading the model raises; as the job runs, Spark's errors with those of `EmbedBatch` inside.
    """
    if expect == "driver":
        allowed = options.pop("allow_mixed", False)
        expect = EmbedBatch(model, **options).fingerprint()
        options["allow_mixed"] = allowed
    batch = EmbedBatch(model, expect=expect, **options)
    new = [types.StructField(batch.into, types.ArrayType(types.FloatType(), False), batch.on_error == "column")]
    if batch.on_error == "column":
        new.append(types.StructField(f"{batch.into}_error", types.StringType(), True))
    names = {field.name for field in new}
    kept = [field.name for field in frame.schema.fields if field.name not in names]
    schema = types.StructType([*(frame.schema[name] for name in kept), *new])

    def rows(batches: Iterable[Any]) -> Iterator[Any]:
        for one in batches:
            yield as_lists(batch(one), schema.names)

    return frame.mapInArrow(rows, schema)


def as_lists(batch: Any, names: list[str]) -> Any:
    """The columns of these names; a fixed-size list of numbers becomes a list of float32, the type that Spark has."""
    arrays = []
    for name in names:
        array = batch.column(batch.schema.names.index(name))
        if pa.types.is_fixed_size_list(array.type):
            array = array.cast(pa.list_(array.type.value_type)).cast(pa.list_(pa.float32()))
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=names)
