"""`refembed compress`: vectors in fewer bytes, back again, and what each way costs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from refembed.atomic_write import reading_arrays
from refembed.cli.options import json_option, model_option, quiet_option
from refembed.cli.output import open_output
from refembed.cli.show import escape, note, print_json, table
from refembed.errors import RequestError

EPILOG = """\b
Schemes:
  int8 uint8         a byte a number, each dimension with its range: sentence-transformers' bytes
  int8-global        one range for all dimensions      int8-vector  each vector with its own scale
  binary ubinary     a bit a number, as int8 or uint8  pq, pq:M     product quantization into M bytes
  matryoshka:K       the first K numbers               float16 float32

\b
Examples:
  refembed embed --file corpus.txt --output corpus.npy
  refembed compress --report corpus.npy
  refembed compress corpus.npy --to int8 --out corpus.npz
  refembed compress queries.npy --to int8 --calibrate corpus.npy --out queries.npz
  refembed compress corpus.npz
  refembed compress corpus.npz --decode --out again.npy

FILE is vectors (.npy), texts (one a line, embedded with -m), or what --to wrote (.npz). --report without FILE embeds
sentences of its own making.
"""

DEFAULT_SENTENCES = 2000
Array = npt.NDArray[Any]


@click.command("compress", epilog=EPILOG)
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--report", is_flag=True, help="Measure every scheme: bytes, recall against float32 search, time.")
@click.option("--to", "scheme", metavar="SCHEME", help="Compress FILE; with --report: measure this scheme only.")
@click.option("--decode", is_flag=True, help="Turn a compressed FILE back into vectors, as near as they come.")
@click.option("--out", "-o", "output", metavar="FILE", help="Write to FILE: it appears whole, or not at all.")
@click.option(
    "--calibrate", metavar="FILE", help="--to: learn ranges or codebooks from these vectors or texts instead."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of codebooks, queries, sentences.")
@click.option(
    "--multiplier", type=click.IntRange(1), default=4, show_default=True, metavar="N",
    help="--report: candidates for each result that are scored again.",
)  # fmt: skip
@click.option(
    "--sentences", "count", type=click.IntRange(12, 20_000), metavar="N",
    help=f"--report without FILE: how many sentences to make.  [default: {DEFAULT_SENTENCES}]",
)  # fmt: skip
@model_option
@json_option
@quiet_option
def command(
    file: str | None, report: bool, scheme: str | None, decode: bool, output: str | None, calibrate: str | None,
    seed: int, multiplier: int, count: int | None, model: str, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Store vectors in fewer bytes, and measure what that costs.

    With FILE alone, and that a compressed one: say what is in it.
    """
    check_request(file, report, scheme, decode, output, calibrate, count)
    if scheme is not None:
        from refembed.compress.schemes import parse

        parse(scheme)  # an unknown scheme is an error before a model is loaded
    if report:
        show_report(sources(file, count, seed, model, quiet), scheme, seed, multiplier, as_json, quiet)
    elif decode:
        write_vectors(str(file), str(output), quiet)
    elif scheme is not None:
        write_codes(str(file), scheme, str(output), calibrate, seed, model, quiet)
    else:
        describe(str(file), as_json)


def check_request(
    file: str | None, report: bool, scheme: str | None, decode: bool, output: str | None, calibrate: str | None,
    count: int | None,
) -> None:  # fmt: skip
    """Refuse what does not go together."""
    if report and (decode or output or calibrate):
        raise click.UsageError("--report prints its table; it takes neither --decode nor --out nor --calibrate.")
    if decode and (scheme or calibrate):
        raise click.UsageError("--decode undoes --to: give one of the two. FILE knows its scheme.")
    if count is not None and (file is not None or not report):
        raise click.UsageError("--sentences belongs to --report without FILE.")
    if file is None and not report:
        raise click.UsageError("Give a FILE, or --report to try the schemes on sentences of its own.")
    if (decode or (scheme and not report)) and not output:
        raise click.UsageError("--out FILE says where to write; --out - is standard output.")
    if not (decode or scheme) and (output or calibrate):
        raise click.UsageError("--to SCHEME says how to compress.")


def sources(file: str | None, count: int | None, seed: int, model: str, quiet: bool) -> Array:
    """The vectors to measure on: a file's, or those of made-up sentences."""
    if file is not None:
        return vectors_of(file, model, quiet)
    from refembed.compress.sentences import sentences

    made = sentences(count or DEFAULT_SENTENCES, seed)
    note(f"{len(made):,} sentences such as {made[0]!r}, embedded by {model}", quiet=quiet)
    return embedded(made, model)


def vectors_of(file: str, model: str, quiet: bool) -> Array:
    """Vectors (N, D) of a .npy file, of a compressed one, or of texts, one a line."""
    path = Path(file)
    try:
        with path.open("rb") as f:
            magic = f.read(6)
        if magic == b"\x93NUMPY":
            with reading_arrays():
                array = np.load(path, mmap_mode="r", allow_pickle=False)
        elif magic.startswith(b"PK"):
            from refembed.compress.file import read

            array = read(path).decode()
        else:
            from refembed.cli.texts import Texts

            texts = list(Texts((), file))
            note(f"{len(texts):,} texts, embedded by {model}", quiet=quiet)
            array = embedded(texts, model)
    except OSError as e:
        raise RequestError(f"{file}: {e.strerror or e}", hint="a .npy file of vectors, or a text a line") from None
    except ValueError as e:  # NumPy, of a damaged file
        raise RequestError(f"{file}: not an array of numbers: {e}") from None
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        hint = "`refembed embed --file corpus.txt --output corpus.npy` writes one"
        raise RequestError(f"{file}: {array.dtype} of shape {array.shape}, not vectors (N, D)", hint=hint)
    return array


def embedded(texts: list[Any], model: str) -> Array:
    """Texts as vectors of length 1, (N, D) float32."""
    from refembed.embedder import Embedder

    return np.stack(list(Embedder.load(model).embed_iter(texts)))


def write_codes(file: str, scheme: str, output: str, calibrate: str | None, seed: int, model: str, quiet: bool) -> None:
    """Compress a file."""
    from refembed.compress.file import compress, write
    from refembed.compress.schemes import MIN_TRAINING_VECTORS, fit, parse

    x = vectors_of(file, model, quiet)
    learned = x if calibrate is None else vectors_of(calibrate, model, quiet)
    codec = fit(scheme, learned, seed=seed)
    if parse(scheme)[0].learns and len(learned) < MIN_TRAINING_VECTORS:
        note(f"warning: {scheme} learns from {len(learned)} vectors; other texts may not fit: --calibrate takes more")
    about = {"seed": seed} if scheme.startswith("pq") else {}
    compressed = compress(codec, x, **about)
    with open_output(output) as out:
        write(out, compressed)
    small, large = codec.bytes * len(x), 4 * x.size
    ratio = f"{large / small:.3g} times smaller" if small else "empty"
    note(f"{output}: {len(x):,} vectors, {codec.bytes} bytes each, {ratio} than float32", quiet=quiet)


def write_vectors(file: str, output: str, quiet: bool) -> None:
    """Decode a file."""
    from refembed.compress.file import read

    compressed = read(file)
    x = compressed.decode()
    buffer = io.BytesIO()
    np.save(buffer, x)
    with open_output(output) as out:
        out.write(buffer.getbuffer())
    note(f"{output}: {x.shape[0]:,} vectors of {x.shape[1]} numbers, from {compressed.codec.scheme}", quiet=quiet)


def describe(file: str, as_json: bool) -> None:
    """Say what a compressed file holds."""
    from refembed.compress.file import read

    compressed = read(file)
    arrays = {name: list(a.shape) for name, a in compressed.codec.arrays().items()}
    about = compressed.meta | {"arrays": arrays}
    if as_json:
        print_json(about)
    else:
        table(["what", "value"], [(escape(str(k)), escape(str(v))) for k, v in about.items() if v != {}])


def show_report(x: Array, scheme: str | None, seed: int, multiplier: int, as_json: bool, quiet: bool) -> None:
    """Measure, and print the table."""
    from refembed.compress.report import KS, measure

    def progress(name: str) -> None:
        note(f"measuring {name}", quiet=quiet)

    found = measure(x, None if scheme is None else [scheme], seed=seed, multiplier=multiplier, progress=progress)
    if as_json:
        print_json(found.as_object())
        return
    rows = []
    for line in found.lines:
        recalls = ("-" if line.recall[k] is None else f"{line.recall[k]:.3f}" for k in KS)
        more = f"{line.bytes}+{line.more_bytes}" if line.more_bytes else str(line.bytes)
        rows.append((line.scheme, line.rescore or "-", more, f"{line.ratio:.3g}", *recalls, f"{line.time:.2g}"))
    table(["scheme", "rescored by", ">bytes", ">ratio", *(f">recall@{k}" for k in KS), ">time"], rows)
    note(
        f"{found.queries} queries, {found.vectors:,} vectors of {found.dimensions} numbers, all of length 1, "
        f"seed {seed}; {multiplier} candidates a result where rescored.\n"
        f"time: of one search for 10 over {found.timed_rows:,} rows (the same vectors, repeated), the fastest of 7; "
        f"float32's {found.float32_ms:.3g} ms = 1",
        quiet=quiet,
    )
