"""What every engine under test can be asked, and which engine a word, an address, a folder or a file stands for.

    engine = open_engine("http://localhost:8080", Path("model.gguf"))
    engine.embed(["Hello"])          # [float32 (D)], as the engine gives it
    engine.info                      # what it says it is: address, version, model, response shape ...

| spec                                         | engine                                   | module                |
|----------------------------------------------|------------------------------------------|-----------------------|
| "llamacpp"                                   | live llama.cpp from the pinned wheel     | live                  |
| "llamacpp:FOLDER", "llamacpp:FOLDER@haswell" | the build of llama.cpp in that folder    | live                  |
| "cupy", "cupy:1"                             | refembed on an NVIDIA GPU, and on which  | cupy                  |
| http://… https://… host:port                 | llama-server, OpenAI, Ollama, TEI        | http                  |
| a folder with config.json or modules.json    | sentence-transformers or transformers    | sentence_transformers |
| FILE.onnx                                    | ONNX Runtime                             | onnx                  |
| .npz .npy .jsonl .json .txt .log             | a recorded run, or vectors with texts    | recorded              |
| "module:callable", or anything callable      | a function of a list of texts            | callables             |
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from refembed.arrays import F32
from refembed.errors import EngineError, RequestError
from refembed.model.trace import Trace

Item: TypeAlias = "str | list[int]"  # one text, or its token ids ready made
Spec: TypeAlias = "str | Path | Callable[[list[str]], Any]"

RECORDED = {".npz", ".npy", ".jsonl", ".json", ".txt", ".log", ".out", ".dump"}  # endings of a recorded run
ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):(\d{1,5})(/\S*)?")  # host:port/path
SERVER = re.compile(r"(localhost|\d+\.\d+\.\d+\.\d+|[a-z0-9-]+(\.[a-z0-9-]+)*\.(com|org|net|io|ai|dev|local))(/|$)")
LLAMACPP = re.compile(r"llama\.?cpp(?::(?P<lib>.+?)(?:@(?P<cpu>\w+))?)?", re.IGNORECASE)  # and which build of it
CUPY = re.compile(r"cupy(?::(?P<device>\d+))?", re.IGNORECASE)  # and which GPU
FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")  # module:function
POOLINGS = ("none", "mean", "cls", "last")  # what an engine that gives rows of tokens can be asked to make of them
ENGINE_KINDS = (
    "llamacpp, cupy, an http:// address, a sentence-transformers folder, a FILE.onnx, a recording "
    "(.npz .npy .jsonl .json .txt .log), or module:callable"
)


@runtime_checkable
class Engine(Protocol):
    """An engine under test. EngineError from any method when the engine refuses, breaks, or cannot do it at all.

    Keys of `about` that callers may look for, where they are known: "url", "version", "model", "n_embd", "pooling",
    "texts" (a recording's own), "resolution" (half the last printed digit), "partial" (True: traces show some elements
    of each tensor only, the others are NaN: compare them with `dump.compare_shown`), "lora_order" (the order in which
    several adapters are added).
    """

    name: str  # "llama.cpp", "cupy", "http llama-server", "sentence-transformers", "onnx", "recorded", "callable"
    info: dict[str, Any]  # provenance: url, version, model name, shape seen ...
    can_trace: bool
    can_tokenize: bool
    can_take_ids: bool

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """One (D) or (T, D) for each item, as the engine gives them: not normalized where it does not normalize."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """The engine's own ids of a text, special tokens included, where can_tokenize."""
        ...

    def trace(self, item: Item) -> Trace:
        """Every tensor the engine shows of one run, under llama.cpp's names, where can_trace."""
        ...

    def close(self) -> None:
        """Let go of processes and memory. Closing twice is no error."""
        ...


class Plain:
    """What an engine cannot do unless it says so: the base of every engine here."""

    name = "engine"
    can_trace = False
    can_tokenize = False
    can_take_ids = False

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}

    def tokenize(self, text: str) -> list[int]:
        """EngineError: this engine shows no tokens."""
        raise EngineError(f"{self.name} shows no token ids, asked about {text!r:.80}")

    def pieces(self, ids: Sequence[int]) -> list[str] | None:
        """The text of each of the engine's own tokens; None: it does not show it."""
        return None

    def trace(self, item: Item) -> Trace:
        """EngineError: this engine shows no tensors."""
        raise EngineError(f"{self.name} shows no intermediate tensors, asked about {item!r:.80}")

    def close(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_engine(spec: Spec, model: Path | None, **options: Any) -> Engine:
    """The engine that `spec` stands for (table above).

    spec      what to compare with
    model     the GGUF file on refembed's side: live llama.cpp loads it; the other engines bring their own weights, and
              None serves them
    options   of the engine's own class; an unknown one is a RequestError that lists those it has

    RequestError when spec stands for nothing; EngineError when the engine cannot be opened.

    >>> from refembed import hub
    >>> open_engine(lambda texts: [[1.0, 0.0] for text in texts], hub.resolve("minilm")).name
    'callable'
    """
    module, kind, argument = which(spec)
    if argument is None and model is None:
        raise RequestError(f"{spell_spec(spec)} runs a GGUF file", hint="--model FILE says which")
    if build := build_of(spec):
        options = build | options
    opener = getattr(importlib.import_module(f"refembed.verify.engines.{module}"), kind)
    known = [p.name for p in inspect.signature(opener).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if "gguf" in known:  # an engine that has no tokenizer of its own borrows refembed's
        options.setdefault("gguf", model)
    for name in options:
        if name not in known:
            hint = f"it takes {', '.join(known)}" if known else "it takes none"
            raise RequestError(f"an engine opened from {spell_spec(spec)} has no option {name!r}", hint=hint)
    engine = cast(Engine, opener(model if argument is None else argument, **options))
    if module == "http" and "://" not in os.fspath(spec):  # type: ignore[arg-type]  # no callable
        engine.info["scheme assumed"] = str(argument).split("://")[0]
    return engine


def which(spec: Spec) -> tuple[str, str, Any]:
    """(module, class, what to open) for a spec; the argument None is the model itself."""
    if callable(spec):
        return "callables", "CallableEngine", spec
    text = os.fspath(spec)
    path = Path(text).expanduser()
    if LLAMACPP.fullmatch(text):
        return "live", "LiveLlamaCpp", None
    if CUPY.fullmatch(text):
        return "cupy", "CupyEngine", None
    if text.lower().startswith(("http://", "https://")):
        return "http", "HttpEngine", text
    if (address := ADDRESS.fullmatch(text)) and not path.exists():  # as curl and browsers take it
        return "http", "HttpEngine", ("https://" if address[2] == "443" else "http://") + text
    if path.is_dir():
        return "sentence_transformers", "open_folder", path
    if path.suffix.lower() == ".onnx":
        return "onnx", "OnnxEngine", path
    if path.suffix.lower() in RECORDED:
        return "recorded", "open_recording", path
    if path.suffix.lower() == ".gguf":
        raise RequestError(f"{text}: a GGUF file is no engine", hint="--against llamacpp runs a GGUF file in llama.cpp")
    if ":" in text and "://" not in text:
        return "callables", "CallableEngine", text
    hint = f"for a server, http://{text}" if SERVER.match(text) else ENGINE_KINDS
    raise RequestError(f"{text!r} stands for no engine: no such folder, and no kind of file known here", hint=hint)


def is_llamacpp(spec: Spec) -> bool:
    """Whether a spec stands for live llama.cpp, of any build."""
    return not callable(spec) and bool(LLAMACPP.fullmatch(os.fspath(spec)))


def runs_the_file(spec: Spec) -> bool:
    """Whether a spec stands for an engine that loads the reference's own file, with the pooling and LoRA asked for."""
    return is_llamacpp(spec) or (not callable(spec) and bool(CUPY.fullmatch(os.fspath(spec))))


def build_of(spec: Spec) -> dict[str, str]:
    """The options that a spec names: `lib` and `cpu` of llamacpp:FOLDER@haswell, `device` of cupy:1."""
    text = "" if callable(spec) else os.fspath(spec)
    found = LLAMACPP.fullmatch(text) or CUPY.fullmatch(text)
    return {name: value for name, value in found.groupdict().items() if value} if found else {}


def is_engine(text: str) -> bool:
    """Whether a word is an engine's and no model's: a server, a recording, a function, llama.cpp. A folder is a model.

    >>> is_engine("run.npz"), is_engine("localhost:8080"), is_engine("mine:embed"), is_engine("llamacpp")
    (True, True, True, True)
    >>> is_engine("minilm"), is_engine("minilm:q8_0"), is_engine("model.gguf"), is_engine("org/model:Q4_K_M")
    (False, False, False, False)
    """
    from refembed.hub.models import MODELS

    if runs_the_file(text) or "://" in text or ADDRESS.fullmatch(text):
        return True
    if Path(text).expanduser().is_dir():
        return False
    if ":" in text:
        names = {alias for model in MODELS for alias in model.aliases}
        return bool(FUNCTION.fullmatch(text)) and text.split(":")[0].lower() not in names
    try:
        return bool(which(text))
    except RequestError:
        return False


def spell_spec(spec: Spec) -> str:
    """A spec in a message."""
    return getattr(spec, "__name__", "a callable") if callable(spec) else repr(os.fspath(spec))


def checked(vectors: Sequence[Any], items: Sequence[Item], who: str) -> list[F32]:
    """What an engine answered, as float32 (D) or (T, D) each, or one EngineError that says what is wrong with it.

    vectors   array-likes, one for each item; rows of unequal length, another count, NaN, infinity and empty
              vectors are refused
    who       names the engine in messages
    """
    if len(vectors) != len(items):
        raise EngineError(f"{who} gave {len(vectors)} vectors for {len(items)} texts")
    done = [as_vector(v, who, i) for i, v in enumerate(vectors)]
    widths = {v.shape[-1]: i for i, v in reversed(list(enumerate(done)))}
    if len(widths) > 1:
        found = " and ".join(f"{width} (text {i})" for width, i in sorted(widths.items(), key=lambda x: x[1])[:2])
        raise EngineError(f"{who} gave vectors of unequal length: {found}")
    return done


def as_vector(value: Any, who: str, index: int) -> F32:
    """One vector (D) or one per token (T, D), finite float32."""
    where = f"{who}, text {index}"
    try:
        x = np.asarray(value, np.float64)
    except OverflowError:  # an integer of more than 308 digits
        raise EngineError(f"{where}: a number does not fit in float32") from None
    except (TypeError, ValueError):
        raise EngineError(f"{where}: not a list of numbers but {value!r:.80}") from None
    if x.ndim not in (1, 2):
        raise EngineError(f"{where}: an array of shape {x.shape} where (D) or (T, D) is meant")
    if not x.size:
        raise EngineError(f"{where}: an empty vector, shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x))
    if bad.size:
        hint = "null in JSON is how servers write NaN: the model overflowed, or its file is damaged"
        raise EngineError(f"{where}: {bad.size} of {x.size} numbers are not finite, the first at {bad[0]}", hint=hint)
    with np.errstate(over="ignore"):
        single = x.astype(np.float32)
    if not np.isfinite(single).all():
        raise EngineError(f"{where}: a number of {np.abs(x).max():.3g} does not fit in float32")
    return single


def pool(x: F32, how: str) -> F32:
    """Rows (T, D) of one text's tokens -> (D), or as they are."""
    one: dict[str, F32] = {"none": x, "cls": x[0], "last": x[-1], "mean": x.mean(axis=0, dtype=np.float32)}
    return one[how]


def need(module: str, package: str) -> Any:
    """A package that refembed does not depend on."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise EngineError(
            f"this engine needs the package {package}: {e}", hint=f"pip install {package}, into refembed's environment"
        ) from None
    except Exception as e:  # a broken installation has many faces
        raise EngineError(f"the package {package} cannot be imported: {type(e).__name__}: {e}") from e
