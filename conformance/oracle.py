"""Who knows the answers: live llama.cpp from the pinned wheel, or what `record` wrote down of it. Never refembed."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np

from conformance import FOLDER
from conformance.cases import Case, Text
from conformance.models import model_path
from refembed import Trace
from refembed.arrays import F32, I32
from refembed.errors import EngineError, RequestError
from refembed.verify.engines.llamacpp import LlamaCpp

RECORDED = FOLDER / "expected"


class Setting(NamedTuple):
    """How llama.cpp is opened: with one thread in any case, and unless a case asks, in its most reproducible way."""

    model: str
    pooling: str = "native"
    flash_attn: bool = False
    repack: bool = False


class Oracle(Protocol):
    """What the checks ask."""

    name: str

    def build(self) -> dict[str, Any]:
        """Which llama.cpp gave the answers."""
        ...

    def why_not(self, case: Case) -> str:
        """Why a case cannot be asked here; "" where it can."""
        ...

    def tokens(self, model: str, text: Text, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids."""
        ...

    def vector(self, setting: Setting, text: Text) -> F32:
        """The vector (D), or vectors (T, D) for pooling none; not normalized."""
        ...

    def normalize(self, x: F32, p: int) -> F32:
        """x (D) normalized."""
        ...

    def trace(self, setting: Setting, text: Text) -> Trace:
        """Every tensor of a run."""
        ...


class Live:
    """llama.cpp now. Engines and traces are kept while there is room, vectors always."""

    name = "live"

    def __init__(self, engines: int = 2, traces: int = 1) -> None:
        self.engines: OrderedDict[Setting | None, LlamaCpp] = OrderedDict()
        self.traces: OrderedDict[tuple[Setting, str], Trace] = OrderedDict()
        self.vectors: dict[tuple[Setting, str], F32] = {}
        self.room, self.room_for_traces = engines, traces

    def engine(self, setting: Setting | None) -> LlamaCpp:
        """The engine with this setting, opened when first needed. None: the library without a model."""
        if setting in self.engines:
            self.engines.move_to_end(setting)
            return self.engines[setting]
        while len(self.engines) >= self.room:
            self.engines.popitem(last=False)[1].close()
        if setting is None:
            made = LlamaCpp(None)
        else:
            options: dict[str, Any] = {"pooling": setting.pooling, "flash_attn": setting.flash_attn}
            made = LlamaCpp(model_path(setting.model), threads=1, extra_buffer_types=setting.repack, **options)
        self.engines[setting] = made
        return made

    def build(self) -> dict[str, Any]:
        """The wheel's version, its file's sha256, the instruction sets it runs with."""
        return self.engine(None).build

    def why_not(self, case: Case) -> str:
        """Everything can be asked."""
        return ""

    def tokens(self, model: str, text: Text, add_special: bool, parse_special: bool) -> list[int]:
        """llama_tokenize."""
        return self.engine(Setting(model)).tokenize(text.data, add_special, parse_special)

    def vector(self, setting: Setting, text: Text) -> F32:
        """llama_get_embeddings_*, the text alone in its batch."""
        key = (setting, text.id)
        if key not in self.vectors:
            self.vectors[key] = self.engine(setting).embed([text.data])[0]
        return self.vectors[key]

    def normalize(self, x: F32, p: int) -> F32:
        """common_embd_normalize."""
        return self.engine(None).normalize(x, p)

    def trace(self, setting: Setting, text: Text) -> Trace:
        """The evaluation callback."""
        key = (setting, text.id)
        if key not in self.traces:
            while len(self.traces) >= self.room_for_traces:
                self.traces.popitem(last=False)
            self.traces[key] = self.engine(setting).trace(text.data)
        return self.traces[key]

    def close(self) -> None:
        """End all engines."""
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Recorded:
    """What llama.cpp answered when `record` asked: token ids, and pooled vectors without flash attention."""

    name = "recorded"

    def __init__(self, folder: Path = RECORDED) -> None:
        self.answers: dict[str, Mapping[str, Any]] = {}
        for path in sorted(folder.glob("*.npz")):
            with np.load(path, allow_pickle=False) as z:
                self.answers[path.stem] = {name: z[name] for name in z.files}
        if not self.answers:
            raise EngineError(f"{folder}: nothing is recorded there", hint="`python -m conformance record` does it")
        self.rows = {m: {str(t): i for i, t in enumerate(a["texts"])} for m, a in self.answers.items()}

    def build(self) -> dict[str, Any]:
        """As `record` found it."""
        about: dict[str, Any] = json.loads(str(next(iter(self.answers.values()))["about"]))
        return dict(about["oracle"]) | {"recorded": about["date"]}

    def why_not(self, case: Case) -> str:
        """Tensors, flash attention and other poolings are not on record."""
        if case.kind in ("distance", "batch"):
            return ""
        if case.model not in self.answers:
            return f"nothing of {case.model} is on record"
        if case.kind == "tokens":
            return ""
        native = case.options.get("pooling", "native") in ("native", "mean")
        plain = native and not case.options.get("flash_attn") and not case.options.get("repack")
        return "" if case.kind in ("embed", "bits") and plain else f"{case.kind} of this kind is not on record"

    def row(self, model: str, text: Text) -> int:
        """The text's place in the record, which must be of this very text."""
        answers, i = self.answers[model], self.rows[model].get(text.id)
        if i is None or bytes.fromhex(str(answers["sha256"][i])) != digest(text):
            hint = "`python -m conformance record` with the wheel installed"
            raise RequestError(f"{model}: text {text.id!r} is not on record, or has changed since", hint=hint)
        return i

    def tokens(self, model: str, text: Text, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids."""
        answers, i = self.answers[model], self.row(model, text)
        name = f"tokens-{int(add_special)}{int(parse_special)}"
        ids: I32 = answers[name]
        ends = answers[f"{name}-ends"]
        return [int(t) for t in ids[ends[i - 1] if i else 0 : ends[i]]]

    def vector(self, setting: Setting, text: Text) -> F32:
        """The pooled vector."""
        x: F32 = self.answers[setting.model]["vectors"][self.row(setting.model, text)]
        return x

    def normalize(self, x: F32, p: int) -> F32:
        """Not on record."""
        raise EngineError("common_embd_normalize is not on record")

    def trace(self, setting: Setting, text: Text) -> Trace:
        """Not on record."""
        raise EngineError("tensors are not on record")

    def close(self) -> None:
        """Nothing is open."""


def digest(text: Text) -> bytes:
    """Half a sha256 of a text's bytes: enough to see that it changed."""
    import hashlib

    return hashlib.sha256(text.data).digest()[:16]


def open_oracle(name: str = "auto") -> Live | Recorded:
    """`live`, `recorded`, or `auto`: live where the wheel is installed."""
    if name == "live" or (name == "auto" and find_spec("xllamacpp")):
        return Live()
    return Recorded()
