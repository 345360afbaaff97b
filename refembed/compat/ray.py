"""Ray Data: a Dataset of texts to the same rows with vectors.

    import ray
    from refembed.compat.ray import embed
    embed(ray.data.read_parquet("texts/"), "model.gguf", actors=8).write_parquet("vectors/")

Ray restarts an actor that dies and gives its rows to another. For a job that goes on after its driver was killed, Ray's
own checkpoint notes which rows have been written (docs/scale.md). Needs `ray[data]`.

`embed_files` is what `refembed embed DIR --engine ray` does: files to files, with a manifest of those that are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refembed.batch import EmbedBatch
from refembed.batch.columns import check_column, check_new
from refembed.batch.ray_job import embed_files
from refembed.compat.common import InputValueError, need

need("ray", "ray[data]", "ray")
import ray  # noqa: E402 - the sentence above comes first
import ray.data  # noqa: E402 - likewise

__all__ = ["embed", "embed_files"]

SPARE = 2  # CPUs that Ray needs for tasks that read and write, and for the actor that looks rows up in a checkpoint
ROWS = 1024  # of a batch: some seconds of work, and a few MB


def embed(
    dataset: Any, model: str | Path = "minilm", *, actors: int, num_cpus: float | None = None, batch_size: int = ROWS,
    expect: Any = "driver", **options: Any,
) -> Any:  # fmt: skip
    """The Dataset with a column of vectors.

    model       a path, or a name, that means the same file on each machine
    actors      processes that compute; each loads the model once
    num_cpus    what Ray counts for each. None: its threads, or less, down to 0, so that 2 of all CPUs are left
                for reading, writing and looking up checkpoints: a job whose actors have all of them never begins
    batch_size  rows that an actor gets at a time, and computes again if it dies
    expect      "driver": an actor whose processor or versions differ from this machine's refuses to begin, since its
                vectors may differ in their last bits (`EmbedBatch`: allow_mixed). None: not looked at
    options     of `EmbedBatch`: column, into, threads, dtype, on_error, prompt_name, pooling, numerics ...
    Raises InputValueError for no actors; RequestError where Ray knows the columns, and that of the texts is absent, or
    one to be added is there; as the job runs, Ray's errors with those of `EmbedBatch` inside.
    """
    if actors < 1:
        raise InputValueError(f"actors {actors}: at least 1")
    allowed = options.pop("allow_mixed", False)
    batch = EmbedBatch(model, **options)
    if (names := dataset.columns(fetch_if_missing=False)) is not None:
        check_column(names, batch.column)
        check_new(names, batch.added)
    expect = batch.fingerprint() if expect == "driver" else expect
    batch = EmbedBatch(model, expect=expect, allow_mixed=allowed, **options)
    cpus = share_of_cpus(actors, options.get("threads", 1)) if num_cpus is None else num_cpus

    class Actor:
        """What Ray makes `actors` times. It has no arguments, which Ray may lose before a restart (#53727)."""

        def __init__(self) -> None:
            batch.ready()  # the model is loaded before the first rows come

        def __call__(self, rows: Any) -> Any:
            return batch(rows)

    pool = ray.data.ActorPoolStrategy(size=actors)
    return dataset.map_batches(Actor, batch_format="pyarrow", batch_size=batch_size, compute=pool, num_cpus=cpus)


def share_of_cpus(actors: int, threads: int | None) -> float:
    """CPUs to ask Ray for, for each actor, so that `SPARE` are left."""
    if not ray.is_initialized():
        ray.init()
    whole = ray.cluster_resources().get("CPU", 1.0)
    return min(float(threads or 1), max((whole - SPARE) / actors, 0.0))
