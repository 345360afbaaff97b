"""What the compat modules share: one model with the options its vectors are made with, and the errors."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from refembed.arrays import F32
from refembed.embedder import Embedder
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.hub.prompts import find
from refembed.pooling.poolers import canonical, resolve_pooling

PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}  # sentence-transformers' names


class UnsupportedError(RequestError, NotImplementedError):
    """What the other library does and refembed does not: writing text, GPUs, pools of processes."""


class InputValueError(RequestError, ValueError):
    """An argument that the other library answers with ValueError."""


class StateError(RequestError, RuntimeError):
    """A call that the other library answers with RuntimeError."""


class InputTypeError(RequestError, TypeError):
    """An argument that the other library answers with TypeError."""


def refused(name: str, why: str = "refembed makes embeddings, it writes no text") -> Callable[..., NoReturn]:
    """A method that is there only to say that it cannot be had."""

    def method(*args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(f"{name}: {why}")

    method.__doc__ = f"Raises UnsupportedError: {why}."
    return method


def need(library: str, package: str, extra: str) -> None:
    """ImportError in one sentence where a library is absent that a module of ours derives from."""
    try:
        importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name is None or not (library + ".").startswith(error.name + "."):
            raise  # the library is there, and broken
        raise ImportError(f"refembed.compat.{extra} needs {package}: pip install '{package}'", name=library) from None


def metadata_text(embedder: Embedder) -> dict[str, str]:
    """The keys of the model's file that are no arrays, spelled as llama_model_meta_val_str spells them."""
    md = embedder.file.metadata
    spell: dict[type, Callable[[Any], str]] = {bool: lambda x: str(x).lower(), float: lambda x: f"{x:f}"}
    return {key: spell.get(type(md[key]), str)(md[key]) for key in md if not md.type_name(key).startswith("ARRAY")}


def token_or_null(token: int | None) -> int:
    """A token id; -1 (LLAMA_TOKEN_NULL) where a model has none."""
    return -1 if token is None else token


def text_list(texts: Iterable[str], who: str) -> list[str]:
    """The texts as a list; a single string, which Python would read letter by letter, is an error."""
    if isinstance(texts, (str, bytes)):
        raise InputTypeError(f"{who} takes a list of texts, not one")
    found = list(texts)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise InputTypeError(f"{who}: text {i} is of type {type(text).__name__}, not a string")
    return found


def one_text(text: str, who: str) -> str:
    """The text; anything else is an error."""
    if not isinstance(text, str):
        raise InputTypeError(f"{who} takes one text, a string, not {type(text).__name__}")
    return text


@contextlib.contextmanager
def too_long(hint: str) -> Iterator[None]:
    """Say what to do about a text that is too long in the words of a library that has no argument `truncate`."""
    try:
        yield
    except TooLongError as error:
        raise TooLongError(error.message, hint=hint) from None


def one_vector(embedder: Embedder, pooling: str, hint: str) -> str:
    """The pooling, resolved; ModelError where it gives a vector a token: the file names none, and "native" was asked.

    hint  how this library names another pooling
    """
    how = resolve_pooling(pooling, embedder.model.hparams.pooling)
    if how == "none":
        raise ModelError(f"{embedder.info.path}: the file names no pooling", hint=hint)
    return how


class Source:
    """One model, loaded when first needed, and the options its vectors are made with. Threads take turns.

    model       a file, a folder or a name, as `Embedder.load` takes it; or an Embedder
    pooling     as in `Embedder.embed`; there must be one vector a text, so "none" is refused
    normalize   likewise; None: Euclid
    dimensions  likewise; None: all
    truncate    cut a text that is too long instead of refusing it
    prompts     name -> what to put in front of a text: "query" before queries, "document" (or "passage", "corpus")
                before documents; "model": those the model was trained with (`refembed.hub.prompts`). Nothing is put
                there unless it is asked for here
    load        for `Embedder.load`: numerics, semantics, lora ...
    """

    def __init__(
        self,
        model: str | Path | Embedder = "minilm",
        *,
        pooling: str = "native",
        normalize: int | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
        prompts: Mapping[str, str] | str | None = None,
        load: Mapping[str, Any] | None = None,
    ) -> None:
        if canonical(pooling) == "none":
            raise RequestError("pooling 'none' gives a vector a token; an index wants one a text", hint="mean, cls ...")
        if isinstance(model, Embedder) and load:
            raise RequestError(f"the model is loaded already: {', '.join(load)} come too late")
        if not isinstance(model, (str, Path, Embedder)):
            raise InputTypeError(f"model: a path, a name or an Embedder, not {type(model).__name__}")
        self.model, self.pooling, self.normalize, self.dimensions = model, pooling, normalize, dimensions
        self.truncate, self.prompts, self.load = truncate, checked_prompts(prompts), dict(load or {})
        self._found = {} if isinstance(self.prompts, str) else self.prompts
        self._loaded: Embedder | None = None
        self._lock = threading.RLock()

    @property
    def embedder(self) -> Embedder:
        """The model, loaded now if it was not. Raises what `Embedder.load` does; ModelError where nothing is pooled."""
        with self._lock:
            if self._loaded is None:
                model = self.model
                found = model if isinstance(model, Embedder) else Embedder.load(model, **self.load)
                how = one_vector(found, self.pooling, "pass pooling='mean', or 'last' for most decoders")
                found.resolve_options(how, self.normalize, self.dimensions)
                self._found = prompts_of(found, self.prompts)
                self._loaded = found
            return self._loaded

    @property
    def name(self) -> str:
        """What the model is called in replies: the path or name it was asked for by."""
        return str(self.model.info.path if isinstance(self.model, Embedder) else self.model)

    def vectors(self, texts: Sequence[str], kind: str) -> F32:
        """Vectors (S, D) of texts, each with the prompt of its kind in front: "query", "document"; another has none."""
        with self._lock:
            embedder = self.embedder
            prompt = self.prompt(kind)
            with too_long(f"cut it into pieces, or make this with truncate=True: the first {embedder.info.n_ctx} stay"):
                found = embedder.embed(
                    [prompt + text for text in texts],
                    pooling=self.pooling, normalize=self.normalize, dimensions=self.dimensions, truncate=self.truncate,
                )  # fmt: skip
        assert not isinstance(found, list)  # pooled: `embedder` sees to that
        return found

    def prompt(self, kind: str) -> str:
        """What stands before a text of this kind; "" where none is given."""
        return next((self._found[name] for name in PROMPT_NAMES.get(kind, ()) if name in self._found), "")

    def config(self) -> dict[str, Any]:
        """The options as JSON can hold them. RequestError where an Embedder was given: it cannot be named."""
        if isinstance(self.model, Embedder):
            hint = "give the model as a path or a name where it has to be saved"
            raise RequestError("a loaded Embedder cannot be written down", hint=hint)
        return {
            "model": str(self.model), "pooling": self.pooling, "normalize": self.normalize,
            "dimensions": self.dimensions, "truncate": self.truncate, "prompts": self.prompts, "load": self.load,
        }  # fmt: skip

    def __deepcopy__(self, memo: object) -> Source:
        return self  # nothing in it changes but that it is loaded

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt, (self.config(),)  # another process loads the model again


def rebuilt(config: dict[str, Any]) -> Source:
    """The Source that `config` wrote down."""
    return Source(config["model"], **{key: value for key, value in config.items() if key != "model"})


def prompts_of(embedder: Embedder, prompts: dict[str, str] | str) -> dict[str, str]:
    """The prompts themselves, where "model" asks for those it was trained with. RequestError where none are known."""
    if not isinstance(prompts, str):
        return prompts
    found = find(embedder.file)
    if found is None:
        raise RequestError(
            f"{embedder.info.path}: no prompts of this model are known", hint="prompts={'query': ..., 'document': ...}"
        )
    own = dict(found.prompts)
    for kind, names in PROMPT_NAMES.items():
        if not any(name in own for name in names):
            with contextlib.suppress(RequestError):
                own[kind] = found.choose(kind)
    return own


def checked_prompts(prompts: Mapping[str, str] | str | None) -> dict[str, str] | str:
    """Prompts as a dictionary of strings, or "model"; RequestError for anything else."""
    if isinstance(prompts, str):
        if prompts != "model":
            raise RequestError(f"prompts {prompts!r}", hint="'model', or a dictionary of names and texts")
        return prompts
    found = dict(prompts or {})
    for name, prompt in found.items():
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise RequestError(f"prompts: {name!r}: {prompt!r}: both are strings")
    return found
