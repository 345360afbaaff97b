"""The vectors of a setting, with what they cost: tokens a second, memory, the size of the file."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from refembed.arrays import F32
from refembed.convert.quantize import quantize_file
from refembed.embedder import Embedder
from refembed.errors import EngineError, ModelError, RefembedError, RequestError, TooLongError
from refembed.evaluate.settings import Setting
from refembed.gguf import open_gguf
from refembed.hub import resolve
from refembed.hub.prompts import Prompts, find, prefix_for
from refembed.kernels import threads
from refembed.parse_json import parse_json, parse_object
from refembed.pipeline.progress import Bar

Say = Callable[[str], None]
Advance = Callable[[int], None]  # is given how many texts are done
Texts = Mapping[str, tuple[list[str], str]]  # name -> (texts, what goes before each)

STATUS = Path("/proc/self/status")
WARM = 8  # texts of each list that are embedded before the clock starts
STEP = 256  # texts that are embedded at a time; changes no bits


@dataclass(frozen=True)
class Cost:
    """What embedding took.

    tokens      of all texts, special ones included
    seconds     from text to vector, once everything is compiled
    file_bytes  of the model
    peak_bytes  the most memory of a process that did this and nothing else; None where it was not asked for, and where
                the system does not say (Linux does)
    cut         texts that were too long for the model and lost their end
    cores       that shared the work
    """

    tokens: int
    seconds: float
    file_bytes: int
    peak_bytes: int | None
    cut: int
    cores: int

    @property
    def tokens_per_second(self) -> float:
        """How fast it was."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class Models:
    """Models of settings, one in memory at a time; weights of other types are in a folder that goes at the end."""

    def __init__(self, say: Say = lambda _: None, memory: bool = False, progress: bool = False) -> None:
        """memory: embed in processes of their own, one a setting, so that its memory is that model's alone.

        progress  show a bar on stderr while texts are embedded, if that is a terminal
        """
        self.say, self.memory, self.progress, self.stack = say, memory, progress, contextlib.ExitStack()
        self.temporary: Path | None = None
        self.files: dict[tuple[str, str], Path] = {}
        self.loaded: tuple[tuple[str, str, str], Embedder] | None = None

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.loaded = None
        self.stack.close()

    def embedder(self, s: Setting) -> Embedder:
        """The model of a setting, loaded."""
        key = (s.model, s.weights, s.numerics)
        if self.loaded is None or self.loaded[0] != key:
            self.loaded = None  # frees the one before
            self.loaded = key, Embedder.load(self.file(s.model, s.weights), numerics=s.numerics)
        return self.loaded[1]

    def file(self, model: str, weights: str) -> Path:
        """The model's file, its weights stored as asked."""
        if (model, weights) not in self.files:
            self.files[model, weights] = self.stored(model, weights) if weights else resolve(model)
        return self.files[model, weights]

    def stored(self, model: str, weights: str) -> Path:
        """A file in another type, byte for byte what `refembed quantize` writes of the model's own."""
        source = resolve(model)
        with open_gguf(source) as f:
            if {t.type.name for t in f.tensors.values()} == {weights}:  # F32 already
                return source
        target = self.folder() / f"{len(self.files)}-{source.stem}-{weights}.gguf"
        self.say(f"storing {model} as {weights}")
        quantize_file(source, target, weights)
        return target

    def folder(self) -> Path:
        """For files that go at the end."""
        if self.temporary is None:
            self.temporary = Path(self.stack.enter_context(TemporaryDirectory(prefix="refembed-evaluate-")))
        return self.temporary

    def vectors(self, s: Setting, texts: Texts) -> tuple[dict[str, F32], Cost]:
        """Vectors (N, D) of length 1 of several lists of texts, and what they cost."""
        self.say(f"embedding with {label(s)}")
        done, total = 0, sum(len(given) for given, _ in texts.values())
        with Bar(total, wanted=self.progress) as bar:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                bar.advance(done, count)

            if not self.memory:
                return embed_texts(self.embedder(s), s.model, s.pooling, texts, advance)
            self.loaded = None
            job = Job(s.model, str(self.file(s.model, s.weights)), s.numerics, s.pooling, texts, threads.cores())
            return in_own_process(job, self.folder(), advance)

    def prefixes(self, s: Setting) -> tuple[str, str]:
        """What goes before queries, and before documents."""
        if s.prompts == "none":
            return "", ""
        e = self.embedder(s)
        found = find(e.file, s.model if Path(s.model).is_dir() else None)
        return prefix_for(found, "query", None, s.model), document_prompt(found)


def embed_texts(
    e: Embedder, model: str, pooling: str, texts: Texts, advance: Advance = lambda _: None
) -> tuple[dict[str, F32], Cost]:
    """`Models.vectors` in this process. RequestError for a pooling that gives no vector a text. model: for errors."""
    options = e.resolve_options(pooling, 2)
    if options.pooling in ("none", "rank"):
        hint = "--pooling mean, cls or last, as the model's card says"
        raise RequestError(f"{model}: pooling {options.pooling} gives no vector a text to compare", hint=hint)
    for name, (given, prefix) in texts.items():  # compiles what is needed, and fills caches
        e.vectors([ids_of(e, prefix + text, f"{name} {i}")[0] for i, text in enumerate(given[:WARM])], *options)
    start, tokens, cut, found = time.perf_counter(), 0, 0, {}
    for name, (given, prefix) in texts.items():
        every = [ids_of(e, prefix + text, f"{name} {i}") for i, text in enumerate(given)]
        tokens, cut = tokens + sum(len(ids) for ids, _ in every), cut + sum(was for _, was in every)
        rows: list[F32] = []
        for i in range(0, len(every), STEP):
            part = [ids for ids, _ in every[i : i + STEP]]
            rows += e.vectors(part, *options)
            advance(len(part))
        found[name] = np.stack(rows)
    return found, Cost(tokens, time.perf_counter() - start, e.info.file_size, None, cut, threads.cores())


class Job(NamedTuple):
    """What a process of its own is to embed: the model's name and file, cores, and `embed_texts`'s arguments."""

    model: str
    file: str
    numerics: str
    pooling: str
    texts: Texts
    cores: int


def in_own_process(job: Job, folder: Path, advance: Advance = lambda _: None) -> tuple[dict[str, F32], Cost]:
    """The same, by another Python, which leaves vectors and cost in the folder. Raises what it raised."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", f"from {__name__} import run_job; run_job()", str(folder)]
    with (folder / "stderr").open("w+b") as stderr:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
            env=os.environ | {"PYTHONPATH": path},
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                advance(count_of(line, job.model))
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
    try:
        answer = parse_object((folder / "answer.json").read_bytes())
    except (OSError, ValueError):
        last = said.strip().rpartition("\n")[2]
        raise EngineError(f"{job.model}: the process that embeds ended with {process.returncode}: {last}") from None
    (folder / "answer.json").unlink()
    if "message" in answer:
        kind = {"RequestError": RequestError, "TooLongError": TooLongError}.get(answer["kind"], ModelError)
        raise kind(answer["message"], hint=answer["hint"])
    return {name: np.load(folder / f"{i}.npy") for i, name in enumerate(job.texts)}, Cost(**answer)


def count_of(line: bytes, model: str) -> int:
    """How many texts more are done, as `run_job` prints it. EngineError for a line that is no number."""
    if not line.strip().isdigit():
        said = line.decode(errors="replace").strip()[:60]
        hint = "something that Python imports at its start prints to stdout; without --memory nothing is printed there"
        raise EngineError(f"{model}: the process that embeds printed {said!r}, not a number of texts", hint=hint)
    return int(line)


def run_job() -> None:
    """The other side: the process's work, in the folder that its command line names."""
    folder = Path(sys.argv[1])
    model, file, numerics, pooling, texts, cores = parse_json((folder / "job.json").read_bytes())
    threads.use(cores)

    def advance(count: int) -> None:
        sys.stdout.write(f"{count}\n")
        sys.stdout.flush()

    try:
        found, cost = embed_texts(Embedder.load(file, numerics=numerics), model, pooling, texts, advance)
    except RefembedError as e:
        answer: dict[str, Any] = {"kind": type(e).__name__, "message": e.message, "hint": e.hint}
    else:
        for i, x in enumerate(found.values()):
            np.save(folder / f"{i}.npy", x)
        answer = asdict(replace(cost, peak_bytes=peak()))
    (folder / "answer.json").write_text(json.dumps(answer))


def document_prompt(found: Prompts | None) -> str:
    """The prompt of documents; nothing for a model that has one for queries only."""
    try:
        return found.choose("document") if found else ""
    except RequestError:
        return ""


def ids_of(e: Embedder, text: str, what: str) -> tuple[list[int], bool]:
    """Token ids of a text, cut where it is too long, and whether it was."""
    ids = e.tokenize(text)
    return e.truncate_or_raise(ids, what, True, e.tokenizer.vocab.is_closed(ids)), len(ids) > e.info.n_ctx


def label(s: Setting) -> str:
    """A setting in a few words."""
    words = [s.model, s.weights, s.numerics if s.numerics != "auto" else ""]
    words += [s.pooling if s.pooling != "native" else "", "its prompts" if s.prompts == "own" else ""]
    return ", ".join(filter(None, words))


def peak() -> int | None:
    """The highest resident set that the process had, in bytes; None where the system does not say."""
    try:
        status = STATUS.read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) << 10 if "VmHWM" in fields else None
