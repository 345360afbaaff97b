"""What `refembed embed` does: open texts and model, compute, write. Imported once the options are read."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refembed.cli.corpus_options import CorpusFlags, write_corpus
from refembed.cli.formats import FORMATS, Item, Run, Writer
from refembed.cli.llama_embedding import LlamaFlags, Prompts
from refembed.cli.llama_formats import LLAMA_FORMATS
from refembed.cli.models import note_adapters, open_embedder, spell_model
from refembed.cli.output import open_output
from refembed.cli.show import is_terminal, note, table
from refembed.cli.texts import Texts
from refembed.embedder import BATCH_TOKENS, Embedder
from refembed.errors import RequestError
from refembed.hub.prompts import add
from refembed.pipeline.batches import pack_batches
from refembed.pipeline.progress import Bar
from refembed.pipeline.truncate import truncate
from refembed.pooling.poolers import UNNAMED, resolve_pooling, unnamed_pooling, usual_pooling
from refembed.similarity import cosine, dot, euclidean, manhattan
from refembed.tokenizer.pairs import encode_pair, rerank_template, separator

if TYPE_CHECKING:
    from refembed.corpus.vector_cache import Cache

NORM_NAMES = {-1: "none", 0: "largest magnitude 32760", 1: "taxicab", 2: "Euclid"}
WRITERS = FORMATS | {name: LLAMA_FORMATS[name] for name in ("array", "json+")}  # by --format
MEASURES = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "manhattan": manhattan}
SEQUENCES = 256  # llama_max_parallel_sequences: texts that llama-embedding computes together


@dataclass(frozen=True)
class Request:
    """The options of one call, as `refembed embed --help` describes them."""

    texts: tuple[str, ...]
    file: str | None
    model: str
    pooling: str
    normalize: int | None
    dimensions: int | None
    truncate: bool
    compare: bool
    sparse: bool
    multi_vector: bool
    is_query: bool
    form: str | None
    as_json: bool
    output: str | None
    numerics: dict[str, Any]
    lora: tuple[str, ...]
    mmproj: str | None
    images: tuple[str, ...]
    batch_tokens: int | None
    processes: int
    llama: LlamaFlags
    corpus: CorpusFlags
    quiet: bool
    ignored: tuple[str, ...] = ()  # flags of llama-embedding that do nothing here

    @property
    def silent(self) -> bool:
        """No warnings either."""
        return self.llama.log_disable

    @property
    def quiet_by_default(self) -> bool:
        """No remarks."""
        return self.quiet or self.silent

    @property
    def own_output(self) -> bool:
        """Whether the output is one of refembed's, not llama-embedding's."""
        return not self.llama.active or bool(self.form or self.as_json or self.output or self.compare)

    @property
    def writer(self) -> type[Writer]:
        if self.llama.embd_output_format or not self.own_output:
            return LLAMA_FORMATS[self.llama.embd_output_format]
        return WRITERS[self.format]

    @property
    def format(self) -> str:
        """Its name, where it is refembed's."""
        return self.form or ("json" if self.as_json else format_of(self.output))


class Job:
    """The texts of one call on their way through the embedder."""

    def __init__(self, embedder: Embedder, texts: Texts | Prompts, request: Request, prefix: str = "") -> None:
        self.embedder, self.texts, self.request = embedder, texts, request
        self.how = resolve_pooling(request.pooling, embedder.model.hparams.pooling)
        self.limit = request.llama.longest(embedder.info.n_ctx, embedder.model.hparams.causal)
        self.options: dict[str, Any] = {
            "pooling": request.pooling, "normalize": request.normalize, "dimensions": request.dimensions
        }  # fmt: skip
        self.prefix = prefix  # what goes before each text
        self.cache: Cache | None = None
        self.waiting: deque[Item] = deque()  # read, not embedded yet
        self.cut = self.open_ended = 0  # texts that were too long; that end in neither SEP nor EOS

    def vectors(self) -> Iterator[tuple[Item, Any]]:
        """Each text with its vector (D), or (T, D), in order; a batch of them is in memory at a time."""
        if self.request.images:
            yield self.with_images()
            return
        for vector in self.packed() if self.request.llama.active else self.streamed():
            yield self.waiting.popleft(), vector

    def with_images(self) -> tuple[Item, Any]:
        """The one text and its images, with their vector."""
        embedder, (text,) = self.embedder, list(self.texts)
        text = add(self.prefix, text.decode() if isinstance(text, bytes) else text)
        batch = embedder.image_batch({"text": text, "image": list(self.request.images)})
        inside = {i for image in batch.images for i in range(image.begin, image.end)}
        tokens, ids = embedder.tokenizer.vocab.tokens, batch.ids.tolist()
        pieces = [b"<image>" if i in inside else tokens[t] for i, t in enumerate(ids)] if self.how == "none" else []
        vector = embedder.vector_of_batch(batch, embedder.resolve_options(**self.options))
        return Item(0, text, ids, pieces, self.texts.done), vector

    def streamed(self) -> Iterator[Any]:
        """Vectors as texts arrive."""
        batch_tokens = self.request.batch_tokens or BATCH_TOKENS
        given: dict[str, Any] = {"batch_tokens": batch_tokens, **self.options}
        if self.cache is not None:
            return self.cache.embed_iter(self.embedder, self.ids(), **given)
        return self.embedder.embed_iter(self.ids(), **given)

    def packed(self) -> Iterator[Any]:
        """Vectors of texts packed as llama-embedding packs them: with the `ggml` numerics a vector depends on its
        batch.
        """
        every = list(self.ids())
        if self.request.llama.verbose_prompt:
            self.print_tokens()
        for batch in pack_batches(map(len, every), self.request.llama.n_batch, SEQUENCES):
            ids = [every[i] for i in batch]
            if self.cache is not None:
                yield from self.cache.embed(self.embedder, ids, **self.options)
            else:
                yield from self.embedder.embed(ids, **self.options)

    def ids(self) -> Iterator[list[int]]:
        """Token ids of each text."""
        vocab = self.embedder.tokenizer.vocab
        for i, text in enumerate(self.texts):
            ids = self.checked(i, text)
            self.open_ended += not vocab.is_closed(ids)
            pieces = [vocab.tokens[t] for t in ids] if self.how == "none" else []
            self.waiting.append(Item(i, text, ids, pieces, self.texts.done))
            yield ids

    def checked(self, index: int, text: str | bytes) -> list[int]:
        """Token ids of one text; too many are an error, or cut if that was asked for."""
        ids = self.tokenized(add(self.prefix, text))
        if not ids:
            raise RequestError(f"{self.texts.where(index)}: no tokens", hint="this model adds no special tokens")
        if len(ids) <= self.limit:
            return ids
        if not self.request.truncate:
            message = f"{self.texts.where(index)}: {too_long(len(ids), self.limit, self.embedder)}"
            raise RequestError(message, hint=f"cut it into pieces, or --truncate keeps its first {self.limit} tokens")
        self.cut += 1
        return truncate(ids, self.limit, keep_last=self.embedder.tokenizer.vocab.is_closed(ids))

    def tokenized(self, text: str | bytes) -> list[int]:
        """Token ids of a text, or, for a reranker, of a query and a document with the separator between."""
        typed = os.fsencode(self.request.llama.cls_separator)
        if not (self.request.llama.active and self.how == "rank" and isinstance(text, bytes) and typed in text):
            return self.embedder.tokenize(text)
        tokenizer = self.embedder.tokenizer
        query, document, *more = text.split(typed)
        if not more or rerank_template(tokenizer) is not None:
            return encode_pair(tokenizer, query, document, "cli")
        return self.embedder.tokenize(text.replace(typed, separator(tokenizer)))

    def print_tokens(self) -> None:
        """--verbose-prompt: every text's tokens, as llama-embedding prints them."""
        for item in self.waiting:
            raw = item.text if isinstance(item.text, bytes) else item.text.encode()
            note(f"prompt {item.index}: '{raw.decode(errors='replace')}'", quiet=self.request.silent)
            note(f"number of tokens in prompt = {len(item.ids)}", quiet=self.request.silent)
            pieces = (self.embedder.tokenizer.piece(t) for t in item.ids)
            lines = [b"%6d -> '%s'\n" % pair for pair in zip(item.ids, pieces, strict=True)]
            sys.stdout.flush()
            sys.stdout.buffer.write(b"".join(lines) + b"\n\n")


def too_long(n: int, limit: int, embedder: Embedder) -> str:
    """What is wrong with a text of n tokens."""
    if limit < embedder.info.n_ctx:
        return f"{n} tokens, but --batch-size and --ctx-size let in at most {limit}"
    return f"{n} tokens, but the model reads at most {limit}"


def embed(request: Request) -> None:
    """Meet the request. Raises what the layers below raise."""
    check_request(request)
    if request.ignored:
        note(f"note: no meaning here, ignored: {' '.join(request.ignored)}", quiet=request.quiet_by_default)
    prompts = request.llama.active and not request.texts
    texts = request.texts or ("",) if request.images else request.texts
    source = Prompts(request.llama, request.file) if prompts else Texts(texts, request.file)
    embedder = open_embedder(request.model, numerics_of(request), request.lora, mmproj=request.mmproj)
    if request.sparse or request.multi_vector:
        from refembed.cli.embed_parts import embed_parts

        embed_parts(embedder, source, request)
        return
    attend(embedder, request)
    prefix = request.corpus.before(embedder, request.model, quiet=request.quiet_by_default)
    job = Job(embedder, source, request, prefix)
    _, norm, dimensions = embedder.resolve_options(job.how, request.normalize, request.dimensions)
    run = Run(request.model, job.how, norm, dimensions or embedder.width(job.how), embedder.info.labels)
    describe(embedder, run, request)
    if not request.quiet_by_default:
        warn_suspicious_texts(request.texts)
    if request.processes > 1:
        embedder.start_pool(request.processes)
    try:
        resolve_job(job, run)
    finally:
        embedder.stop_pool()
    if job.cut:
        note(f"warning: {job.cut} of the texts had more than {job.limit} tokens; the rest of them was cut off",
             quiet=request.silent)  # fmt: skip
    if job.open_ended and request.llama.active:
        message = f"warning: {job.open_ended} of the texts end in neither SEP nor EOS; tokenizer.ggml.add_eos_token"
        note(f"{message} is to be true where the model was trained so", quiet=request.silent)


def resolve_job(job: Job, run: Run) -> None:
    request = job.request
    if request.output is not None and request.corpus.wanted(request.output):
        job.cut = write_corpus(
            job.embedder, job.texts, request.corpus, request.output, job.prefix,
            job.options | {"truncate": request.truncate},
            batch_tokens=request.batch_tokens or request.processes * BATCH_TOKENS,
            quiet=request.quiet_by_default,
        )  # fmt: skip
        return
    try:
        with request.corpus.opened(quiet=request.quiet_by_default) as job.cache:
            compare_two(job, run) if request.compare else write_all(job, run)
    except KeyboardInterrupt as e:
        if request.output and request.format in ("npy", "jsonl") and not request.compare:
            e.left = f"{request.output} was not written; with --resume a run can be gone on with"  # type: ignore[attr-defined]
        raise


def format_of(output: str | None) -> str:
    """The format that a file's name asks for."""
    suffix = Path(output or "").suffix.lower().removeprefix(".")
    return suffix if suffix in WRITERS else "text"


def check_request(request: Request) -> None:
    """Refuse what cannot be done before the model is loaded."""
    resolve_pooling(request.pooling, "mean")
    flags = request.llama
    if request.sparse or request.multi_vector or request.is_query:
        from refembed.cli.embed_parts import check_parts

        check_parts(request)
    request.corpus.check(request.output, request.form, request.compare, flags.active)
    if request.texts and (flags.prompt is not None or flags.binary_file is not None):
        raise click.UsageError("Give texts as arguments, or --prompt or --binary-file, not both.")
    if request.images and (
        len(request.texts) > 1 or request.file or flags.active or request.corpus.wanted(request.output)
    ):
        raise click.UsageError("--image goes with one TEXT or none, given as an argument.")
    if request.images and not request.mmproj:
        raise click.UsageError("--image needs --mmproj FILE, the model's vision tower.")
    if flags.embd_output_format and (request.form or request.as_json or request.compare):
        raise click.UsageError("--embd-output-format goes with neither --format, --json nor --compare.")
    if request.processes > 1 and flags.active:
        raise click.UsageError("--processes: none of llama-embedding's flags goes with it.")
    if request.as_json and request.form not in (None, "json"):
        raise click.UsageError("Give --json or --format, not both.")
    if request.compare and request.format not in ("text", "json"):
        raise click.UsageError(f"--compare prints text or json, not {request.format}.")
    if request.writer.binary and request.output in (None, "-") and is_terminal(sys.stdout):
        raise click.UsageError(f"{request.format} is not for a terminal: give --output FILE, or send stdout to a file.")


def numerics_of(request: Request) -> dict[str, Any]:
    """As Embedder.load takes them: `ggml` computes texts together that llama-embedding would."""
    ggml = request.llama.active and request.numerics.get("numerics") == "ggml"
    return request.numerics | ({"n_ubatch": request.llama.n_batch} if ggml else {})


def attend(embedder: Embedder, request: Request) -> None:
    """--attention. Encoders see all whatever it says, as in llama_encode."""
    wanted, model = request.llama.attention, embedder.model
    if wanted is None:
        return
    if model.module.TRAITS.encoder:
        note(f"note: {model.hparams.arch} is an encoder and always sees all: --attention changes nothing",
             quiet=request.quiet_by_default)  # fmt: skip
        return
    embedder.model = replace(model, hparams=replace(model.hparams, causal=wanted == "causal"))


def describe(embedder: Embedder, run: Run, request: Request) -> None:
    """Say on stderr what the vectors will be."""
    info, quiet = embedder.info, request.quiet_by_default
    norm = NORM_NAMES.get(run.normalize, f"{run.normalize}-norm")
    whose = " (the model's own)" if run.pooling == embedder.model.hparams.pooling else ""
    cut = f" of {whole}" if run.dimension != (whole := embedder.width(run.pooling)) else ""
    note(spell_model(run.model, info), quiet=quiet)
    if not request.silent:
        note_adapters(embedder, quiet)
    note(
        f"pooling {run.pooling}{whose}, normalize {run.normalize} ({norm}), {run.dimension}{cut} dimensions, "
        f"numerics {info.numerics}",
        quiet=quiet,
    )
    hp = embedder.model.hparams
    if hp.pooling is None:
        if run.per_token and request.pooling in ("native", "auto"):
            message = f"warning: {UNNAMED}, so each token has a vector; {unnamed_pooling(hp.causal)}"
            note(message, quiet=request.silent)
        elif run.pooling not in ("none", "rank", usual_pooling(hp.causal)):
            note(f"note: {UNNAMED}; {unnamed_pooling(hp.causal)}", quiet=quiet)
    elif run.pooling != info.pooling:
        note(f"warning: pooling {run.pooling}, but the model was made for {info.pooling}", quiet=request.silent)


def warn_suspicious_texts(texts: tuple[str, ...]) -> None:
    """Point out a text that was probably meant as something else."""
    if "-" in texts and not is_terminal(sys.stdin):
        note("note: '-' is embedded as a text; `--file -` reads standard input")


def write_all(job: Job, run: Run) -> None:
    """Write each vector as it comes."""
    output = job.request.output
    to_screen = output in (None, "-") and is_terminal(sys.stdout)
    with open_output(output) as out:
        writer = job.request.writer(out, run)
        with contextlib.closing(writer), Bar(job.texts.total, wanted=not to_screen and not job.request.silent) as bar:
            for item, vector in job.vectors():
                writer.write(item, vector)
                bar.advance(item.done)
                if not job.waiting:  # the end of a batch: a reader of the output has it now
                    out.flush()
            writer.finish()
            out.flush()


def compare_two(job: Job, run: Run) -> None:
    """Print the four measures of two texts."""
    form, output = job.request.format, job.request.output
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
    info = {"model": run.model, "pooling": run.pooling, "normalize": run.normalize, "dimension": run.dimension}
    lines = [f"{name:9}  {value:.7f}" for name, value in results.items()]
    content = (
        json.dumps(info | results | {"n_tokens": [len(a.ids), len(b.ids)]}) if form == "json" else "\n".join(lines)
    )
    with open_output(output) as out:
        out.write(content.encode() + b"\n")
