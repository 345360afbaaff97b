"""`refembed embed`: texts to vectors."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from refembed.cli.formats import FORMATS, Item, Run, Writer
from refembed.cli.models import note_adapters, open_embedder, spell_model
from refembed.cli.options import (
    TextCommand,
    file_option,
    json_option,
    lora_option,
    model_option,
    normalize_option,
    numerics_options,
    pooling_option,
    quiet_option,
    truncate_option,
)
from refembed.cli.output import open_output
from refembed.cli.progress import Bar
from refembed.cli.show import is_terminal, note, table
from refembed.cli.texts import Texts
from refembed.embedder import BATCH_TOKENS, Embedder, default_norm
from refembed.errors import RequestError
from refembed.hub.models import MODELS
from refembed.pooling import resolve_pooling
from refembed.similarity import cosine, dot, euclidean, manhattan

EPILOG = """\b
Examples:
  refembed embed "Hello, world!"
  refembed embed --file corpus.txt --output corpus.npy
  tail -n 100 log.txt | refembed embed --format jsonl > vectors.jsonl
  refembed embed -m model.gguf --pooling cls --normalize -1 "Hello, world!"
  refembed embed --compare "How do I cook pasta?" "A recipe for spaghetti"

\b
Formats:
  text   numbers in columns, 7 digits     jsonl  a line a text: index, text, tokens, embedding
  json   one object                       csv    a row a text: index, text, e0, e1 ...
  npy    a NumPy float32 array (S, D)     raw    as llama-embedding prints it, 7 decimals
json, jsonl, csv and npy read back to the same float32, bit for bit.
With --pooling none a text has a vector per token; npy then takes one text only.
"""

NORM_NAMES = {-1: "none", 0: "largest magnitude 32760", 1: "taxicab", 2: "Euclid"}
MEASURES = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "manhattan": manhattan}


class Job:
    """The texts of one call on their way through the embedder."""

    def __init__(self, embedder: Embedder, texts: Texts, options: dict[str, Any], batch_tokens: int) -> None:
        self.embedder, self.texts, self.options, self.batch_tokens = embedder, texts, options, batch_tokens
        self.how = resolve_pooling(options["pooling"], embedder.model.hparams.pooling)
        self.waiting: deque[Item] = deque()  # read, not embedded yet
        self.cut = 0  # texts that were too long

    def vectors(self) -> Iterator[tuple[Item, Any]]:
        """Each text with its vector (D), or (T, D), in order; a batch of them is in memory at a time."""
        for vector in self.embedder.embed_iter(self.ids(), batch_tokens=self.batch_tokens, **self.options):
            yield self.waiting.popleft(), vector

    def ids(self) -> Iterator[list[int]]:
        """Token ids of each text."""
        vocab = self.embedder.tokenizer.vocab
        for i, text in enumerate(self.texts):
            ids = self.checked(i, text)
            pieces = [vocab.tokens[t] for t in ids] if self.how == "none" else []
            self.waiting.append(Item(i, text, ids, pieces, self.texts.done))
            yield ids

    def checked(self, index: int, text: str | bytes) -> list[int]:
        """Token ids of one text; too many are an error, or cut if that was asked for."""
        ids, limit = self.embedder.tokenize(text), self.embedder.info.n_ctx
        if len(ids) <= limit:
            return ids
        if not self.options["truncate"]:
            message = f"{self.texts.where(index)}: {len(ids)} tokens, but the model reads at most {limit}"
            raise RequestError(message, hint=f"cut it into pieces, or --truncate keeps its first {limit} tokens")
        self.cut += 1
        return self.embedder.ids_of(text, index, truncate=True)


@click.command("embed", cls=TextCommand, epilog=EPILOG)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@file_option
@model_option
@pooling_option
@normalize_option
@click.option("--dimensions", type=click.IntRange(1), metavar="N", help="Keep the first N numbers of each vector.")
@truncate_option
@click.option("--compare", is_flag=True, help="Take two texts and say how alike they are.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), help="Default: by the name of --output, else text.")
@json_option
@click.option("--output", "-o", metavar="FILE", help="Write to FILE: it appears whole, or not at all.")
@numerics_options
@lora_option
@click.option(
    "--batch-tokens", type=click.IntRange(1), default=BATCH_TOKENS, show_default=True, help="Tokens computed at a time."
)
@quiet_option
def command(
    texts: tuple[str, ...], file: str | None, model: str, pooling: str, normalize: int | None, dimensions: int | None,
    truncate: bool, compare: bool, form: str | None, as_json: bool, output: str | None, numerics: dict[str, Any],
    lora: tuple[str, ...], batch_tokens: int, quiet: bool,
) -> None:  # fmt: skip
    """Turn each TEXT into a vector.

    Without TEXT, and without --file, each line of standard input is a text; a blank line is an empty one. A text that
    is too long for the model is an error, never cut unasked.
    """
    form = form or ("json" if as_json else format_of(output))
    check_request(form, output, compare, pooling)
    source = Texts(texts, file)
    embedder = open_embedder(model, numerics, lora)
    options = {"pooling": pooling, "normalize": normalize, "dimensions": dimensions, "truncate": truncate}
    job = Job(embedder, source, options, batch_tokens)
    norm = default_norm(job.how) if normalize is None else normalize
    embedder.check_options(job.how, norm, dimensions)
    run = Run(model, job.how, norm, dimensions or embedder.width(job.how))
    describe(embedder, run, pooling, quiet)
    if not quiet:
        second_thoughts(texts)
    if compare:
        compare_two(job, run, form, output)
    else:
        write_all(job, run, form, output)
    if job.cut:
        note(
            f"warning: {job.cut} of the texts had more than {embedder.info.n_ctx} tokens; the rest of them was cut off"
        )


def format_of(output: str | None) -> str:
    """The format that a file's name asks for."""
    suffix = Path(output or "").suffix.lower().removeprefix(".")
    return suffix if suffix in FORMATS else "text"


def check_request(form: str, output: str | None, compare: bool, pooling: str) -> None:
    """Refuse what cannot be done before the model is loaded."""
    resolve_pooling(pooling, "mean")
    if compare and form not in ("text", "json"):
        raise click.UsageError(f"--compare prints text or json, not {form}.")
    if FORMATS[form].binary and output in (None, "-") and is_terminal(sys.stdout):
        raise click.UsageError(f"{form} is not for a terminal: give --output FILE, or send stdout to a file.")


def describe(embedder: Embedder, run: Run, asked: str, quiet: bool) -> None:
    """Say on stderr what the vectors will be."""
    info = embedder.info
    norm = NORM_NAMES.get(run.normalize, f"{run.normalize}-norm")
    whose = " (the model's own)" if run.pooling == info.pooling else ""
    cut = f" of {whole}" if run.dimension != (whole := embedder.width(run.pooling)) else ""
    note(spell_model(run.model, info), quiet=quiet)
    note_adapters(embedder, quiet)
    note(
        f"pooling {run.pooling}{whose}, normalize {run.normalize} ({norm}), {run.dimension}{cut} dimensions, "
        f"numerics {info.numerics}",
        quiet=quiet,
    )
    if run.pooling != info.pooling:
        note(f"warning: pooling {run.pooling}, but the model was made for {info.pooling}")
    elif run.per_token and asked in ("native", "auto"):
        note("warning: the model names no pooling, so each token has a vector; --pooling mean gives each text one")


def second_thoughts(texts: tuple[str, ...]) -> None:
    """Point out a text that was probably meant as something else."""
    if "-" in texts and not is_terminal(sys.stdin):
        note("note: '-' is embedded as a text; `--file -` reads standard input")
    first = texts[0] if len(texts) > 1 else ""
    known = {name.lower() for model in MODELS for name in (model.name, *model.aliases)}
    if first.lower() in known or (first.endswith(".gguf") and os.path.isfile(first)):  # noqa: PTH113  # never raises
        note(f"note: {first!r} is embedded as a text; `-m {first}` takes it as the model")


def write_all(job: Job, run: Run, form: str, output: str | None) -> None:
    """Write each vector as it comes."""
    to_screen = output in (None, "-") and is_terminal(sys.stdout)
    with open_output(output) as out:
        writer: Writer = FORMATS[form](out, run)
        with contextlib.closing(writer), Bar(job.texts.total, wanted=not to_screen) as bar:
            for item, vector in job.vectors():
                writer.write(item, vector)
                bar.advance(item.done)
                if not job.waiting:  # the end of a batch: whoever reads along has it now
                    out.flush()
            writer.finish()
            out.flush()


def compare_two(job: Job, run: Run, form: str, output: str | None) -> None:
    """Print the four measures of two texts."""
    if run.per_token:
        raise RequestError(
            "--compare needs one vector a text, and pooling none gives one a token", hint="--pooling mean"
        )
    pairs = list(itertools.islice(job.vectors(), 3))
    if len(pairs) != 2:
        raise RequestError(f"--compare takes two texts, not {'one' if len(pairs) == 1 else 'more'}")
    (a, x), (b, y) = pairs
    results = {name: measure(x, y) for name, measure in MEASURES.items()}
    if form == "text" and output in (None, "-"):
        table(["measure", ">value"], [(name, f"{value:.7f}") for name, value in results.items()])
        return
    about = {"model": run.model, "pooling": run.pooling, "normalize": run.normalize, "dimension": run.dimension}
    lines = [f"{name:9}  {value:.7f}" for name, value in results.items()]
    content = (
        json.dumps(about | results | {"n_tokens": [len(a.ids), len(b.ids)]}) if form == "json" else "\n".join(lines)
    )
    with open_output(output) as out:
        out.write(content.encode() + b"\n")
