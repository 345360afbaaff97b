"""`refembed embed --sparse` and `--multi-vector`: tokens and their weights, or a vector for each token.

--sparse         text   weights and tokens, the largest first
                 jsonl  a line: index, text, tokens (how many), indices (token ids, rising), values (their weights)
                 json   one object: model, embeddings (indices and values of each text), tokens
--multi-vector   the formats of --pooling none (formats.py); a token without a vector is not there
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from refembed.cli.formats import Item, Run, Writer, array
from refembed.cli.models import note_adapters, spell_model
from refembed.cli.output import open_output
from refembed.cli.show import decode, escape, is_terminal, note
from refembed.hub.prompts import add
from refembed.pipeline.progress import Bar
from refembed.pipeline.sparse import SparseVector

if TYPE_CHECKING:
    from refembed.cli.embedding import Request
    from refembed.cli.llama_embedding import Prompts
    from refembed.cli.texts import Texts
    from refembed.embedder import Embedder

SPARSE_FORMATS = ("text", "json", "jsonl")


def check_parts(request: Request) -> None:
    """Refuse what does not go together, before the model is loaded. click.UsageError."""
    if request.is_query and not request.multi_vector:
        raise click.UsageError("--query goes with --multi-vector.")
    if request.sparse and request.multi_vector:
        raise click.UsageError("Give --sparse or --multi-vector, not both.")
    mine, corpus = "--sparse" if request.sparse else "--multi-vector", request.corpus
    given = {
        "--pooling": request.pooling != "native", "--normalize": request.normalize is not None,
        "--dimensions": request.dimensions is not None, "--compare": request.compare, "--image": bool(request.images),
        "--processes": request.processes > 1, "--batch-tokens": request.batch_tokens is not None,
        "--cache": corpus.cache or corpus.cache_file is not None,
        "--resume, --keys, --no-text and .parquet": corpus.wanted(request.output),
        "a flag of llama-embedding's": request.llama.active,
    }  # fmt: skip
    if odd := [name for name, there in given.items() if there]:
        raise click.UsageError(f"{odd[0]}: does not go with {mine}.")
    if request.sparse and request.format not in SPARSE_FORMATS:
        raise click.UsageError(f"--sparse prints {', '.join(SPARSE_FORMATS)}, not {request.format}.")


def embed_parts(embedder: Embedder, texts: Texts | Prompts, request: Request) -> None:
    """Write the sparse vector, or the many vectors, of each text as it comes."""
    quiet, silent = request.quiet_by_default, request.silent
    prefix = request.corpus.before(embedder, request.model, quiet=quiet)
    if request.sparse:
        about = f"sparse, {embedder.sparse_head.kind} weights of {embedder.info.n_vocab} tokens"
        run = Run(request.model, "sparse", -1, embedder.info.n_vocab)
    else:
        head = embedder.multi_vector_head
        role = "" if head.query is None else " of queries," if request.is_query else " of documents,"
        about = f"a vector for each token{role} {len(head.bias)} dimensions"
        run = Run(request.model, "none", 2, len(head.bias))
    note(spell_model(run.model, embedder.info), quiet=quiet)
    note_adapters(embedder, quiet)
    note(f"{about}, numerics {embedder.info.numerics}", quiet=quiet)
    to_screen = request.output in (None, "-") and is_terminal(sys.stdout)
    kind: Any = SPARSE_WRITERS[request.format] if request.sparse else request.writer
    with open_output(request.output) as out:
        writer: Any = kind(out, run, embedder) if request.sparse else kind(out, run)
        with contextlib.closing(writer), Bar(texts.total, wanted=not to_screen and not silent) as bar:
            for item, found in found_in(embedder, texts, request, prefix):
                writer.write(item, found)
                bar.advance(item.done)
            writer.finish()
            out.flush()


def found_in(embedder: Embedder, texts: Texts | Prompts, request: Request, prefix: str) -> Iterator[tuple[Item, Any]]:
    """Each text, with what is written of it."""
    for i, text in enumerate(texts):
        ids, what = embedder.tokenize(add(prefix, text)), texts.where(i)
        if request.sparse:
            closed = embedder.tokenizer.vocab.is_closed(ids)
            ids = embedder.truncate_or_raise(ids, what, request.truncate, closed)
            yield Item(i, text, ids, [], texts.done), embedder.sparse_of(ids)
            continue
        found = embedder.token_vectors(ids, what, request.is_query, request.truncate)
        pieces = [embedder.tokenizer.vocab.tokens[t] for t in found.ids]
        yield Item(i, text, found.ids, pieces, texts.done), found.vectors


class SparseWriter(Writer):
    """Writes sparse vectors, for people: a weight and a token a line, the largest weight first."""

    def __init__(self, out: BinaryIO, run: Run, embedder: Embedder) -> None:
        super().__init__(out, run)
        self.embedder = embedder

    def add(self, item: Item, vector: Any) -> None:
        """A head, then the lines."""
        self.put(f"[{item.index}] {escape(item.text, 80)}\n")
        order = sorted(zip((-vector.weights).tolist(), vector.ids.tolist(), strict=True))
        for weight, token in order:
            piece = escape(self.embedder.tokenizer.vocab.tokens[token])
            self.put(f"{-weight:.7g}".ljust(12) + f"{piece} ({token})\n")


class SparseJsonlWriter(SparseWriter):
    """One object a line: index, text, tokens (how many), indices, values."""

    def add(self, item: Item, vector: Any) -> None:
        about: dict[str, Any] = {"index": item.index, "text": decode(item.text), "tokens": len(item.ids)}
        self.put(json.dumps(about, ensure_ascii=False)[:-1] + f", {fields(vector)}}}\n")


class SparseJsonWriter(SparseWriter):
    """One object: model, `embeddings`, each with indices and values, then `tokens`, the lengths of the texts."""

    def __init__(self, out: BinaryIO, run: Run, embedder: Embedder) -> None:
        super().__init__(out, run, embedder)
        self.tokens: list[int] = []

    def add(self, item: Item, vector: Any) -> None:
        """One line of `embeddings`."""
        head = json.dumps({"model": self.run.model}, ensure_ascii=False)[:-1] + ', "embeddings": [\n  '
        self.put((",\n  " if self.count else head) + f"{{{fields(vector)}}}")
        self.tokens.append(len(item.ids))

    def finish(self) -> None:
        """Close what is open."""
        self.put(f'\n], "tokens": {json.dumps(self.tokens)}}}\n')


def fields(vector: SparseVector) -> str:
    """Token ids and weights as JSON; the weights read back to the same float32."""
    return f'"indices": {json.dumps(vector.ids.tolist())}, "values": {array(vector.weights)}'


SPARSE_WRITERS: dict[str, type[SparseWriter]] = {
    "text": SparseWriter, "json": SparseJsonWriter, "jsonl": SparseJsonlWriter,
}  # fmt: skip
