"""Another project's engine, as the suite asks it: what an engine has no door for is NotAskedError with the reason.

tokens      HTTP: the server's /tokenize. callable: `tokenize(text)`; add_special=, parse_special= if it takes them
pooling     HTTP: TEI's /embed_all gives rows. callable: `pooling(texts, kind)`. llamacpp: another context
normalize   HTTP: `embd_normalize` of llama-server's own route
together    HTTP: several texts a request. callable: several texts a call
trace       callable: `trace(text)` gives a refembed.Trace. llamacpp, folders, ONNX: their own
bad input   HTTP: bodies; callable: lists with something else than texts in them
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from conformance.cases import Text
from conformance.external_cases import MANY
from refembed import Trace
from refembed.arrays import F64
from refembed.errors import EngineError, RequestError
from refembed.verify.engines import callables
from refembed.verify.engines.base import Engine, Spec, open_engine
from refembed.verify.engines.callables import CallableEngine
from refembed.verify.engines.http import HttpEngine, token_ids
from refembed.verify.engines.http_client import RefusedError
from refembed.verify.engines.live import LiveLlamaCpp

TYPED = "this engine's input is made by refembed, not by the caller"


class NotAskedError(Exception):
    """An engine has no door for this question."""


class ExternalEngine:
    """An engine, and its answers to what more than one test asks.

    spec     what `open_engine` opens
    path     the GGUF file of the model that the engine has
    pooling  what it pools with: "native" is the file's own
    options  of the engine
    """

    def __init__(self, spec: Spec, path: Path, pooling: str = "native", **options: Any) -> None:
        self.path, self.options = path, options
        if isinstance(spec, str) and spec.lower() in ("llamacpp", "llama.cpp"):
            options = {"pooling": pooling, **options}
        self.engine: Engine = open_engine(spec, path, **options)
        self.spec = spec
        self.kept: dict[str, F64] = {}
        self.others: dict[str, Engine] = {}  # the same engine with another pooling
        try:
            self.rows = self.ask("hello").ndim == 2  # a vector for each token
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        for engine in (self.engine, *self.others.values()):
            engine.close()

    # -- texts -------------------------------------------------------------------------------------------------------

    def ask(self, item: str | list[int]) -> F64:
        """One request for one text: (D), or (T, D) where the engine does not pool."""
        return np.asarray(self.engine.embed([item])[0], np.float64)

    def vector(self, text: Text) -> F64:
        """The text's vector, alone; asked once."""
        if text.id not in self.kept:
            self.kept[text.id] = self.ask(spoken(text))
        return self.kept[text.id]

    def together(self, texts: Sequence[Text]) -> list[F64]:
        """Vectors of texts that are asked for in one request, or in as few as may be."""
        found: list[F64] = []
        for i in range(0, len(texts), MANY):
            with self.several(MANY):
                found += [
                    np.asarray(v, np.float64) for v in self.engine.embed([spoken(t) for t in texts[i : i + MANY]])
                ]
        return found

    @contextmanager
    def several(self, n: int) -> Iterator[None]:
        """The engine puts n texts into one request for as long as this lasts."""
        e: Any = self.engine
        if isinstance(e, HttpEngine) and not e.route.many:
            raise NotAskedError(f"{e.route.path} takes one text a request")
        name, value = ("batched", True) if isinstance(e, LiveLlamaCpp) else ("batch", n)
        before = getattr(e, name, None)
        if before is None and not isinstance(e, CallableEngine):
            raise NotAskedError(f"{e.name} is asked for one text at a time")
        if before is not None:
            setattr(e, name, value)
        try:
            yield
        finally:
            if before is not None:
                setattr(e, name, before)

    def of_ids(self, ids: list[int]) -> F64:
        """The vector of token ids."""
        if not self.engine.can_take_ids:
            raise NotAskedError("it takes no token ids")
        return self.ask(ids)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def tokens(self, text: Text, add_special: bool, parse_special: bool) -> list[int]:
        """Its token ids."""
        e = self.engine
        if not e.can_tokenize:
            raise NotAskedError("it shows no token ids")
        usual = add_special and parse_special
        if usual:
            return [int(i) for i in e.tokenize(spoken(text))]
        switches = {"add_special": add_special, "parse_special": parse_special}
        if isinstance(e, LiveLlamaCpp):
            return e.engine.tokenize(spoken(text), **switches)
        if isinstance(e, HttpEngine) and e.server == "llama-server":
            path = f"{e.prefix}/tokenize"
            return token_ids(e.client.post(path, {"content": spoken(text), **switches}), path)
        if isinstance(e, CallableEngine) and e.tokenizer is not None and takes(e.tokenizer, *switches):
            tokenizer = e.tokenizer
            return [int(i) for i in e.asked(lambda t: tokenizer(t, **switches), spoken(text))]
        raise NotAskedError("its tokenizer has no switches for special tokens")

    # -- pooling and normalizing -------------------------------------------------------------------------------------

    def pooled(self, text: Text, kind: str, usual: str) -> F64:
        """The text's vector under another pooling. usual: what the engine does unasked."""
        if kind == ("none" if self.rows else usual):
            return self.vector(text)
        if kind not in self.others:
            self.others[kind] = self.with_pooling(kind)
        try:
            return np.asarray(self.others[kind].embed([spoken(text)])[0], np.float64)
        except EngineError as e:
            if isinstance(e.__cause__, NotImplementedError):
                raise NotAskedError(f"it does not pool with {kind}") from None
            raise

    def with_pooling(self, kind: str) -> Engine:
        """The same engine, asked to pool otherwise."""
        e = self.engine
        if isinstance(e, LiveLlamaCpp):
            return open_engine(self.spec, self.path, **{**self.options, "pooling": kind})
        if isinstance(e, CallableEngine):
            pooling = callables.door("pooling", e.function, getattr(e.function, "__self__", None))
            if pooling is not None:
                return CallableEngine(lambda texts: pooling(texts, kind))
            raise NotAskedError("it has no `pooling(texts, kind)`")
        if isinstance(e, HttpEngine) and kind == "none":
            try:
                return open_engine(f"{e.client.origin}{e.prefix}/embed_all", self.path, **self.options)
            except EngineError:
                raise NotAskedError("it has no /embed_all; a server started with --pooling none gives rows") from None
        raise NotAskedError("what it pools with is not for the asker to choose")

    def normalized(self, text: Text, p: int) -> F64:
        """The text's vector, with `embd_normalize`."""
        e = self.engine
        if not isinstance(e, HttpEngine) or not e.route.norm or e.route.norm[0] != "embd_normalize":
            raise NotAskedError("it has no switch for embd_normalize")
        if self.rows:
            raise NotAskedError("rows of tokens are not normalized")
        before, e.extra = e.extra, {**e.extra, "embd_normalize": p}
        try:
            return self.ask(spoken(text))
        finally:
            e.extra = before

    # -- tensors -----------------------------------------------------------------------------------------------------

    def trace(self, text: Text) -> Trace:
        """What it shows of a run."""
        if not self.engine.can_trace:
            raise NotAskedError("it shows no tensors")
        return self.engine.trace(spoken(text))

    # -- bad input ---------------------------------------------------------------------------------------------------

    def provoke(self, what: str) -> str:
        """Put in something bad. What came of it: "" for a clear error, or what is wrong with the answer.

        EngineError for what is none: the server is gone, or does not answer.
        """
        e = self.engine
        if isinstance(e, HttpEngine):
            return provoke_server(e, what)
        if isinstance(e, CallableEngine):
            return provoke_callable(e, what)
        raise NotAskedError(TYPED)


def provoke_server(e: HttpEngine, what: str) -> str:
    """A bad body to the route that embeds. A status of 400 and above is a clear error."""
    good = e.route.body(["a"], e.model_name, dict(e.extra))
    key = next(k for k in ("input", "content", "prompt", "inputs") if k in good)
    bodies: dict[str, Any] = {
        "bad-null": {**good, key: None},
        "bad-object": {**good, key: {"no": "text"}},
        "bad-in-list": {**good, key: ["a", None]},
        "bad-missing": {k: v for k, v in good.items() if k != key},
        "bad-empty-list": {**good, key: []},
    }
    if what == "bad-json":
        body = json.dumps(good).encode()[:-4]
    elif what == "bad-surrogate":
        body = json.dumps({**good, key: "a \ud800 b"}).encode()  # \ud800, as JSON may have it
    else:
        body = json.dumps(bodies[what]).encode()
    try:
        answer = e.client.ask(e.prefix + e.route.path, body)
    except RefusedError:
        return ""
    if what == "bad-empty-list" and not numbers_in(answer):
        return ""
    if what == "bad-surrogate" and numbers_in(answer):
        return ""
    return f"answered {json.dumps(answer)[:60]} to {body.decode()[:60]}"


def provoke_callable(e: CallableEngine, what: str) -> str:
    """A bad list to the function. Any exception is a clear error."""
    inputs: dict[str, Any] = {
        "bad-null": [None], "bad-object": [{"no": "text"}], "bad-in-list": ["a", None], "bad-empty-list": [],
        "bad-surrogate": ["a \ud800 b"],
    }  # fmt: skip
    if what not in inputs:
        raise NotAskedError("a function takes no bodies")
    try:
        found = list(e.function(inputs[what]))
    except Exception:  # whatever it raises says no
        return ""
    if what == "bad-empty-list" and not found:
        return ""
    if what == "bad-surrogate" and found and np.isfinite(np.asarray(found[0], np.float64)).all():
        return ""
    return f"gave {len(found)} vectors for {inputs[what]!r}"


def numbers_in(answer: Any) -> bool:
    """Whether a JSON answer holds a list of finite numbers."""
    if isinstance(answer, list) and answer and all(isinstance(x, (int, float)) for x in answer):
        return bool(np.isfinite(answer).all())
    inner = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list) else ()
    return any(numbers_in(x) for x in inner)


def spoken(text: Text) -> str:
    """A text as a string. NotAskedError for bytes that are none."""
    try:
        return text.data.decode()
    except UnicodeDecodeError:
        raise NotAskedError("its bytes are no UTF-8: neither JSON nor a string can hold them") from None


def takes(function: Any, *names: str) -> bool:
    """Whether a function has parameters of these names."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(any(p.name == n or p.kind is p.VAR_KEYWORD for p in parameters) for n in names)


def check_pooling(pooling: str) -> None:
    """Refuse what the suite cannot hold against llama.cpp's vectors."""
    if pooling not in ("none", "mean", "cls", "last"):
        raise RequestError(f"pooling {pooling!r}: the suite asks for vectors: none, mean, cls or last")
