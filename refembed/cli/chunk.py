"""`refembed chunk`: a long text to pieces, as JSON Lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from refembed.cli.options import model_option, pooling_option, quiet_option
from refembed.cli.output import open_output
from refembed.cli.show import note
from refembed.errors import RequestError

EPILOG = """\b
Each line: start, end (characters of the text), overlap (the first so many characters are those of the piece before),
tokens, text; with --late also embedding.

\b
Examples:
  refembed chunk report.txt --tokens 256 --overlap 32 > pieces.jsonl
  refembed chunk report.txt --by paragraph --output pieces.jsonl
  refembed chunk letter.txt --tokens 100 --late --output pieces.jsonl     vectors that know the whole letter
"""


@click.command("chunk", epilog=EPILOG)
@click.argument("file", metavar="FILE")
@model_option
@click.option(
    "--tokens", type=click.IntRange(1), metavar="N", help="The most of a piece.  [default: what the model reads]"
)
@click.option(
    "--overlap", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Tokens that come again."
)
@click.option(
    "--by", type=click.Choice(("paragraph", "sentence", "tokens")), default="sentence", show_default=True,
    help="Where to cut, if that is possible.",
)  # fmt: skip
@click.option("--prefix", default="", metavar="TEXT", help="What will stand in front of each piece: it counts.")
@click.option("--late", is_flag=True, help="Late chunking: vectors of pieces of a text that is read in one pass.")
@pooling_option
@click.option("--output", "-o", metavar="FILE", help="Write to FILE: it appears whole, or not at all.")
@quiet_option
def command(
    file: str, model: str, tokens: int | None, overlap: int, by: str, prefix: str, late: bool, pooling: str,
    output: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Cut the text in FILE into pieces of at most so many tokens of the model; - is standard input.

    Pieces without their overlaps, one after the other, are the text.
    """
    if late and prefix:
        raise click.UsageError("--late reads the whole text once: no piece has a prefix of its own.")
    if not late and pooling != "native":
        raise click.UsageError("--pooling belongs to --late.")
    text = read(file)
    from refembed.chunk import chunk

    if late:
        from refembed.embedder import Embedder

        embedder = Embedder.load(model)
        tokenizer, most = embedder.tokenizer, embedder.info.n_ctx
    else:
        from refembed.pipeline.opening import load_tokenizer, open_gguf

        metadata = open_gguf(model).metadata
        tokenizer = load_tokenizer(metadata)
        most = metadata.uint(f"{metadata.string('general.architecture', '')}.context_length", 0)
        if not (tokens or most):
            hint = "--tokens N says how many"
            raise RequestError(f"{model}: the file does not say how many tokens the model reads", hint=hint)
    pieces = chunk(text, tokens or most, overlap, by=by, tokenizer=tokenizer, prefix=prefix)
    vectors = embedder.embed_chunks(text, pieces, pooling=pooling).tolist() if late else None
    with open_output(output) as out:
        for i, piece in enumerate(pieces):
            fields = piece._asdict() | ({"embedding": vectors[i]} if vectors is not None else {})
            out.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")
    most_found = max((p.tokens for p in pieces), default=0)
    note(f"{len(pieces):,} pieces of at most {most_found} tokens, of {len(text):,} characters", quiet=quiet)


def read(file: str) -> str:
    """The text of a file, every character as it is. RequestError where it cannot be read, or is not UTF-8."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        hint = "iconv -t UTF-8 converts it"
        raise RequestError(f"{file}: not UTF-8: {e.reason} at byte {e.start}", hint=hint) from None
    except OSError as e:
        raise RequestError(f"{file}: {e.strerror or e}", hint="a text file, or - for standard input") from None
