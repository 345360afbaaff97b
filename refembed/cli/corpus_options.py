"""Options of `refembed embed` around the vector: a prompt before each text, a cache, a corpus in a file.

Everything heavy is imported when it is used.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refembed.cli.show import note
from refembed.errors import RequestError

if TYPE_CHECKING:
    from refembed.cli.llama_embedding import Prompts
    from refembed.cli.texts import Texts
    from refembed.corpus.vector_cache import Cache
    from refembed.embedder import Embedder

PARQUET = ".parquet"

OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option("--prompt-name", metavar="NAME", help="Begin each text with this prompt of the model's: query ..."),
    click.option("--prefix", metavar="TEXT", help="Begin each text with TEXT."),
    click.option("--cache", is_flag=True, help="Take vectors computed before from a file, and keep new ones there."),
    click.option("--cache-file", metavar="FILE", help="Which file; implies --cache.  [default: see `refembed cache`]"),
    click.option("--resume", is_flag=True, help="Go on where an interrupted run of this command stopped."),
    click.option("--keys", metavar="FILE", help="One key a line, for each text: the column `id` of --output."),
    click.option("--no-text", is_flag=True, help="Leave the column `text` out of --output."),
)


@dataclass(frozen=True)
class CorpusFlags:
    """What the options say."""

    prompt_name: str | None
    prefix: str | None
    cache: bool
    cache_file: str | None
    resume: bool
    keys: str | None
    no_text: bool

    def wanted(self, output: str | None) -> bool:
        """Whether the output is a corpus (`refembed.corpus`)."""
        parquet = (output or "").lower().endswith(PARQUET)
        return parquet or self.resume or self.keys is not None or self.no_text

    def check(self, output: str | None, form: str | None, compare: bool, llama: bool) -> None:
        """Refuse what does not go together before the model is loaded. click.UsageError, RequestError."""
        if self.prompt_name is not None and self.prefix is not None:
            raise click.UsageError("Give --prompt-name or --prefix, not both.")
        if not self.wanted(output):
            return
        from refembed.corpus.writer import SUFFIXES, load_pyarrow

        suffix = Path(output or "").suffix.lower()
        if output in (None, "-") or suffix not in SUFFIXES:
            raise click.UsageError(
                f"--resume, --keys and --no-text need --output FILE, its name ending in {', '.join(SUFFIXES)}."
            )
        if compare or form not in (None, suffix[1:]):
            raise click.UsageError(f"{output}: {'--compare' if compare else f'--format {form}'} does not go with it.")
        if llama:
            raise click.UsageError(f"{output}: none of llama-embedding's flags goes with it.")
        if suffix == PARQUET:
            load_pyarrow()

    def before(self, embedder: Embedder, model: str, *, quiet: bool) -> str:
        """What goes before each text. A model that has prompts and was given none is remarked upon; none is added."""
        from refembed.hub.prompts import find, prefix_for, spell

        found = find(embedder.file, model if Path(model).is_dir() else None)
        prefix = prefix_for(found, self.prompt_name, self.prefix, model)
        if prefix:
            note(f"each text begins with {spell(prefix)}", quiet=quiet)
        elif found and self.prompt_name is None and self.prefix is None and embedder.info.pooling != "rank":
            note(f"note: {found.remark()}", quiet=quiet)
        return prefix

    @contextlib.contextmanager
    def opened(self, *, quiet: bool) -> Iterator[Cache | None]:
        """The cache, if one is wanted."""
        if not (self.cache or self.cache_file):
            yield None
            return
        from refembed.corpus.vector_cache import Cache

        with Cache(self.cache_file, say=lambda message: note(f"warning: {message}")) as cache:
            yield cache
            note(f"cache: {cache.hits} of {cache.hits + cache.misses} texts were there", quiet=quiet)


def corpus_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options above; the command gets all of them as `corpus`, CorpusFlags."""

    @functools.wraps(command)
    def gathered(*args: Any, **options: Any) -> Any:
        flags = CorpusFlags(**{f.name: options.pop(f.name) for f in fields(CorpusFlags)})
        return command(*args, corpus=flags, **options)

    decorated: Callable[..., Any] = gathered
    for add in reversed(OPTIONS):
        decorated = add(decorated)
    return decorated


def read_keys(path: str) -> Iterator[str]:
    """The lines of a file, one key each. RequestError where it cannot be read, or is not UTF-8."""
    try:
        with Path(path).open(encoding="utf-8") as f:
            for line in f:
                yield line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        what = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise RequestError(f"--keys {path}: {what}", hint="one key a line, in UTF-8") from None


@contextlib.contextmanager
def going_on(output: str) -> Iterator[None]:
    """Of an interrupted run: say that --resume goes on, where it left what it can go on behind."""
    try:
        yield
    except KeyboardInterrupt as e:
        part = Path(output + ".part")
        if part.exists():
            e.left = f"{part} keeps the texts that are done; the same command with --resume goes on behind them"  # type: ignore[attr-defined]
        raise


def write_corpus(
    embedder: Embedder, texts: Texts | Prompts, flags: CorpusFlags, output: str, prefix: str, options: dict[str, Any],
    *, batch_tokens: int, quiet: bool,
) -> int:  # fmt: skip
    """Embed all texts into `output`; returns how many were cut. options: as embed_corpus takes them."""
    from refembed.corpus.writer import embed_corpus
    from refembed.pipeline.progress import Bar

    with going_on(output), flags.opened(quiet=quiet) as cache, Bar(texts.total, wanted=not quiet) as bar:
        corpus = embed_corpus(
            embedder, texts, output, keys=read_keys(flags.keys) if flags.keys else None, keep_text=not flags.no_text,
            resume=flags.resume, prefix=prefix, cache=cache, batch_tokens=batch_tokens, where=texts.where,
            advance=lambda: bar.advance(texts.done), **options,
        )  # fmt: skip
    behind = f", {corpus.resumed} of them by an earlier run" if corpus.resumed else ""
    note(f"{output}: {corpus.count} vectors of {corpus.dimension} numbers{behind}", quiet=quiet)
    return corpus.cut
