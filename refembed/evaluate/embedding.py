"""The vectors of a setting, with what they cost: tokens a second, memory, the size of the file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from refembed.arrays import F32
from refembed.convert.quantize import quantize_file
from refembed.convert.quantize_mix import canonical
from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.evaluate.settings import Setting
from refembed.hub import resolve
from refembed.hub.prompts import Prompts, find, prefix_for

Say = Callable[[str], None]

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): the process's highest resident set begins anew


@dataclass(frozen=True)
class Cost:
    """What embedding took.

    tokens      of all texts, special ones included
    seconds     from text to vector, once everything is compiled
    file_bytes  of the model
    peak_bytes  the most memory that the process had meanwhile; None where the system does not say (not Linux)
    cut         texts that were too long for the model and lost their end
    """

    tokens: int
    seconds: float
    file_bytes: int
    peak_bytes: int | None
    cut: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class Models:
    """Models of settings, one in memory at a time; weights of other types are in a folder that goes at the end."""

    def __init__(self, say: Say = lambda _: None) -> None:
        self.say, self.stack = say, contextlib.ExitStack()
        self.folder: Path | None = None
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
        """A file in another type, byte for byte what `refembed quantize` writes of the model's F32 file."""
        source = resolve(model)
        if canonical(weights) == "F32":
            return source
        if self.folder is None:
            self.folder = Path(self.stack.enter_context(TemporaryDirectory(prefix="refembed-evaluate-")))
        target = self.folder / f"{len(self.files)}-{source.stem}-{weights}.gguf"
        self.say(f"storing {model} as {weights}")
        quantize_file(source, target, weights)
        return target

    def vectors(self, s: Setting, texts: Mapping[str, tuple[list[str], str]]) -> tuple[dict[str, F32], Cost]:
        """Vectors (N, D) of length 1 of several lists of texts.

        texts  name -> (texts, what goes before each)
        """
        e = self.embedder(s)
        self.say(f"embedding with {label(s)}")
        options = e.resolve_options(s.pooling, 2)
        if options.pooling in ("none", "rank"):
            hint = "--pooling mean, cls or last, as the model's card says"
            raise RequestError(f"{s.model}: pooling {options.pooling} gives no vector a text to compare", hint=hint)
        for name, (given, prefix) in texts.items():  # compiles what is needed, and fills caches
            e.vectors([ids_of(e, prefix + given[0], f"{name} 0")[0]], *options)
        reset_peak()
        start, tokens, cut, found = time.perf_counter(), 0, 0, {}
        for name, (given, prefix) in texts.items():
            every = [ids_of(e, prefix + text, f"{name} {i}") for i, text in enumerate(given)]
            tokens, cut = tokens + sum(len(ids) for ids, _ in every), cut + sum(was for _, was in every)
            found[name] = np.stack(e.vectors([ids for ids, _ in every], *options))
        seconds = time.perf_counter() - start
        return found, Cost(tokens, seconds, e.info.file_size, peak(), cut)

    def prefixes(self, s: Setting) -> tuple[str, str]:
        """What goes before queries, and before documents."""
        if s.prompts == "none":
            return "", ""
        e = self.embedder(s)
        found = find(e.file, s.model if Path(s.model).is_dir() else None)
        return prefix_for(found, "query", None, s.model), document_prompt(found)


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


def reset_peak() -> None:
    """Let the highest resident set begin anew, where the system can."""
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text(RESET_PEAK)


def peak() -> int | None:
    """The highest resident set of the process in bytes, since `reset_peak`; None where the system does not say."""
    try:
        status = STATUS.read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) << 10 if "VmHWM" in fields else None
