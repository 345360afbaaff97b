"""Files of rows to files of rows with vectors on a Ray cluster: `refembed embed DIR --engine ray --output OUT`.

this process   finds the files, hands out their parts (parts.py), notes in a manifest which are written (manifest.py)
Ray's tasks    read, embed and write a part each (part_files.py)

A part is a task of Ray Core, not a block of Ray Data: it is the unit that a killed job goes on by. Ray keeps a task's
process for the next one, and in a process the model is loaded once. Where a process is killed, Ray runs its task again.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refembed.batch.embed_batch import EmbedBatch
from refembed.batch.manifest import Manifest
from refembed.batch.part_files import Written, embed_part
from refembed.batch.parts import PARQUET, ROWS, Part, Source, check_columns, find_sources, first_line, parts_of
from refembed.corpus.fingerprint import Record
from refembed.corpus.writer import load_pyarrow
from refembed.errors import RefembedError, RequestError
from refembed.kernels.threads import available

ATTEMPTS = 4  # processes that may die over one part
AHEAD = 2  # parts that wait in Ray where the number of processes is the cluster's own: no core is idle between two
CONNECT_SECONDS = 10.0
OBJECTS = 128 << 20  # bytes of Ray's object store, through which only results go; by default a third of the memory


@dataclass(frozen=True)
class Job:
    """What was done."""

    folder: Path
    rows: int
    parts: int
    resumed: int  # of these, how many an earlier run had written
    failed: int  # rows without a vector
    machines: frozenset[str]  # whose bits may differ from those of the machine that the job was started on


def embed_files(
    files: str | Path | Sequence[str | Path],
    output: str | Path,
    batch: EmbedBatch,
    *,
    address: str | None = None,
    processes: int | None = None,
    rows: int = ROWS,
    resume: bool = False,
    allow_mixed: bool = False,
    advance: Callable[[int, int], object] = lambda rows, size: None,
) -> Job:
    """Embed files of rows on a Ray cluster. Needs `ray`, and for Parquet `pyarrow`.

    files      a folder, a pattern, or several of them and of single files: .parquet, .jsonl. Each machine has them,
               `output` and the model under the same paths
    output     a folder: what was NAME.parquet becomes NAME-00000.parquet, and so on, a file for each `rows` rows
    batch      model, column, options, and threads of a process
    address    of a cluster, "auto" for the one that this machine belongs to; None: RAY_ADDRESS, else one is started
               here, and ended with the job
    processes  how many compute at a time; None: as many as the cluster's CPUs are enough for
    resume     go on behind what an interrupted run has written into `output`; without it, that is an error
    allow_mixed  let processors and versions of NumPy and Numba differ, from one machine or run to another
    advance    called for each part that is done, with its rows and the bytes of the file that they were
    Raises RequestError for files and texts that cannot be taken, where no cluster answers, and where processes die over
    the same part; what is written by then stays, and `resume` goes on behind it.
    """
    if rows < 1:
        raise RequestError(f"rows {rows}: at least 1")
    folder = Path(output).absolute()
    sources = find_sources([str(f) for f in ([files] if isinstance(files, (str, Path)) else files)])
    ray = load_ray()
    check(sources, folder, batch)
    record = batch.fingerprint()
    run = record | {"column": batch.column, "into": batch.into, "on_error": batch.on_error, "rows": rows}
    batch, threads = for_workers(batch, record, allow_mixed), batch.load["threads"] or 1
    with Manifest(folder, run, sources, resume=resume, mixed=allow_mixed) as manifest:
        resumed = len(manifest.done)
        todo = parts_to_do(sources, rows, manifest, advance)
        for first in itertools.islice(todo, 1):  # without one no cluster is needed
            with cluster(ray, address, processes, threads) as most:
                parts = itertools.chain([first], todo)
                for part, written in results(ray, parts, most, threads, batch, folder, run):
                    other = {} if written.machine == record["machine"] else {"machine": written.machine}
                    manifest.add(part, written.rows, written.failed, **other)
                    advance(written.rows, part.weight)
        done = manifest.done.values()
        machines = frozenset(line["machine"] for line in done if "machine" in line)
        total, failed = (sum(line[name] for line in done) for name in ("rows", "failed"))
        return Job(folder, total, len(done), resumed, failed, machines)


def for_workers(batch: EmbedBatch, record: Record, allow_mixed: bool) -> EmbedBatch:
    """The same, for processes whose current folder is another one, and that refuse to compute other bits."""
    found = copy.copy(batch)
    found.model = str(Path(batch.model).absolute()) if Path(batch.model).exists() else batch.model
    found.load = batch.load | {"lora": batch.ready().embedder.options["lora"]}  # with paths from the root
    found.expect, found.allow_mixed = record, allow_mixed
    return found


def load_ray() -> Any:
    """The library, or a RequestError that says how to get it."""
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise  # it is there, and broken
        raise RequestError(
            "the engine ray needs Ray", hint="pip install 'ray[data]' (refembed's extra `ray`)"
        ) from None


def check(sources: Sequence[Source], folder: Path, batch: EmbedBatch) -> None:
    """Refuse files that cannot be taken before a model is loaded and processes start."""
    for source in sources:
        if folder in source.path.parents:
            hint = "another folder, outside of those that are read"
            raise RequestError(f"{source.path}: lies in the output folder, {folder}", hint=hint)
        check_columns(source, batch.column, batch.added)
    if any(source.suffix == PARQUET for source in sources):
        load_pyarrow()


def parts_to_do(
    sources: Sequence[Source], rows: int, manifest: Manifest, advance: Callable[[int, int], object]
) -> Iterator[Part]:
    """Parts of all files that are not written yet; of the others it is said that they are done."""
    written = dict(manifest.done)
    for source in sources:
        for part in parts_of(source, rows):
            if part.name in written:
                advance(written[part.name]["rows"], part.weight)
            else:
                yield part


@contextlib.contextmanager
def cluster(ray: Any, address: str | None, processes: int | None, threads: int) -> Iterator[int]:
    """Connected to a cluster, or to one of this machine's own, for as long as this lasts: how many parts to give it.

    Raises RequestError where none answers, and where no machine has as many CPUs as a process has threads.
    """
    ours = not ray.is_initialized()  # else the caller's connection, whichever it is
    if ours:
        connect(ray, address or os.environ.get("RAY_ADDRESS") or "local", (processes or 1) * threads)
    try:
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        if max(cpus, default=0) < threads:
            message = f"processes of {threads} threads, but the largest machine of the cluster has {max(cpus)} CPUs"
            raise RequestError(message, hint="fewer --threads")
        yield processes or sum(n // threads for n in cpus) + AHEAD
    finally:
        if ours:
            ray.shutdown()


def connect(ray: Any, address: str, cpus: int) -> None:
    """Connect to a cluster, or start one with at least so many CPUs; Ray writes nothing here.

    Raises RequestError where Ray cannot; for a node that does not start in its 30 seconds that raises a bare Exception.
    """
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cpus = max(available(), cpus)
        settings |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECTS}
    try:
        check_listening(address)
        ray.init(address=address, **settings)
    except Exception as e:
        if address == "local":
            message = f"Ray does not start here: {first_line(e)}"
            raise RequestError(message, hint="once more, where the machine was only busy") from None
        hint = "`ray status` says where one runs; without --ray-address one is started here"
        raise RequestError(f"no Ray cluster at {address}: {first_line(e)}", hint=hint) from None


def check_listening(address: str) -> None:
    """OSError where nothing listens at HOST:PORT, for which Ray would wait minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def results(
    ray: Any, parts: Iterator[Part], most: int, threads: int, batch: EmbedBatch, folder: Path, run: Record
) -> Iterator[tuple[Part, Written]]:
    """Parts as they are written, in any order; `most` of them are Ray's at a time."""
    task = ray.remote(embed_part).options(num_cpus=threads, max_retries=ATTEMPTS - 1)
    waiting: dict[Any, Part] = {}
    try:
        while True:
            for part in itertools.islice(parts, most - len(waiting)):
                waiting[task.remote(batch, part, folder, run)] = part
            if not waiting:
                return
            (reference, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting[reference], result(ray, reference, waiting[reference])
            del waiting[reference]
    finally:
        for reference in waiting:  # after an error: the cluster is others' too
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)


def result(ray: Any, reference: Any, part: Part) -> Written:
    """What became of a part. Raises what refembed raised in the worker; RequestError where workers died over it."""
    try:
        written: Written = ray.get(reference)
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, RefembedError):
            raise e.cause from None
        raise RuntimeError(f"{part.name}: {type(e.cause).__name__}: {e.cause}") from e
    except ray.exceptions.RayError as e:
        message = f"{part.name}: the processes that computed it ended, {ATTEMPTS} times: {first_line(e)}"
        raise RequestError(message, hint="is there memory for so many? --resume goes on") from None
    return written
