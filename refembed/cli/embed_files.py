"""What `refembed embed --engine` does: files of rows to files with vectors. Imported once the options are read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from refembed.batch import EmbedBatch
from refembed.batch.manifest import NAME
from refembed.batch.parts import ROWS, find_sources
from refembed.batch.ray_job import embed_files, load_ray
from refembed.cli.corpus_options import CorpusFlags
from refembed.cli.engine_options import EngineFlags
from refembed.cli.models import note_adapters, spell_model
from refembed.cli.show import note
from refembed.kernels.threads import chosen
from refembed.pipeline.progress import Bar


def run(
    flags: EngineFlags, words: Sequence[str], model: str, output: str | None, corpus: CorpusFlags,
    processes: int | None, load: dict[str, Any], vector: dict[str, Any], *, quiet: bool,
) -> None:  # fmt: skip
    """Embed the files that `words` name into the folder `output`.

    load    as Embedder.load takes it: numerics, lora
    vector  as Embedder.embed takes it: pooling, normalize, dimensions, truncate
    """
    if not words:
        raise click.UsageError(f"--engine {flags.engine}: give a folder, a pattern, or files: .parquet, .jsonl.")
    if output in (None, "-"):
        raise click.UsageError(f"--engine {flags.engine} needs --output FOLDER.")
    if load["numerics"] == "cupy":
        raise click.UsageError(f"--engine {flags.engine}: --numerics cupy does not go with it.")
    batch = EmbedBatch(
        model, flags.column, flags.into, threads=chosen[0] if chosen else 1, prompt_name=corpus.prompt_name,
        prefix=corpus.prefix, on_error=flags.on_error, **load, **vector,
    )  # fmt: skip
    total = sum(source.size for source in find_sources(words))
    load_ray()
    describe(batch, model, corpus, quiet)
    done = 0
    with Bar(total, wanted=not quiet) as bar:

        def advance(rows: int, size: int) -> None:
            nonlocal done
            done += size
            bar.advance(done, rows)

        try:
            job = embed_files(
                words, str(output), batch, address=flags.ray_address, processes=processes, rows=flags.rows or ROWS,
                resume=corpus.resume, allow_mixed=flags.allow_mixed, advance=advance,
            )  # fmt: skip
        except KeyboardInterrupt as e:
            if (Path(str(output)) / NAME).exists():
                e.left = f"{output} keeps the parts that are done; the same command with --resume goes on"  # type: ignore[attr-defined]
            raise
    behind = f", {job.resumed} of them by an earlier run" if job.resumed else ""
    note(f"{output}: {job.rows} rows in {job.parts} files{behind}", quiet=quiet)
    for machine in sorted(job.machines):
        note(f"warning: some were computed on another kind of machine: {machine}; {NAME} says which")
    if job.failed:
        note(f"warning: {job.failed} rows have no vector; the column {flags.into}_error says why")


def describe(batch: EmbedBatch, model: str, corpus: CorpusFlags, quiet: bool) -> None:
    """Say on stderr what the vectors will be. Raises what loading the model raises."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ready = batch.ready()
    for warning in found:
        note(f"warning: {warning.message}")
    embedder, options = ready.embedder, ready.options
    note(spell_model(model, embedder.info), quiet=quiet)
    note_adapters(embedder, quiet)
    corpus.before(embedder, model, quiet=quiet)
    numbers = f"{ready.width} dimensions, numerics {embedder.info.numerics}"
    note(f"pooling {options.pooling}, normalize {options.normalize}, {numbers}", quiet=quiet)
