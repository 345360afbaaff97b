"""`python -m conformance run --engine` against live llama.cpp: right engines pass, wrong ones fail where they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.cases import Test
from conformance.external import run
from conformance.external_cases import Known, Result, cases_for, questions
from conformance.external_checks import KINDS, Asking
from conformance.external_engine import ExternalEngine
from conformance.oracle import Live
from refembed import Embedder, Trace, normalize
from refembed.kernels.wrapper import PatchedOps
from refembed.model.trace import TracedTensor
from refembed.verify.engines.live import LiveLlamaCpp
from tests.conformance.test_engine import command
from tests.server.servers import llama, refembed

MODEL = "minilm-f32"
SOME = {  # texts that the faults are looked for on
    "hello", "rare-word", "same-length-1", "same-length-2", "upper-case", "nul", "separator-in-text", "tokens-128",
}  # fmt: skip


def some(patterns: Sequence[str] = ()) -> list[Test]:
    """The suite on SOME texts."""
    cases = [replace(c, texts=tuple(t for t in c.texts if t.id in SOME or c.kind == "input")) for c in cases_for(MODEL)]
    return questions(cases, patterns)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with Live(engines=6, traces=8) as oracle:
        yield oracle


@pytest.fixture(scope="module")
def states(minilm: Path) -> Iterator[LiveLlamaCpp]:
    """Hidden states of live llama.cpp, flash attention on: what the engines below are made of."""
    with LiveLlamaCpp(minilm, pooling="none", flash_attn=True) as engine:
        yield engine


class Theirs:
    """An engine around live llama.cpp: `tokenize`, `pooling` and `trace` are doors, the rest may be broken."""

    def __init__(self, states: LiveLlamaCpp) -> None:
        self.states = states

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return self.states.engine.tokenize(text, add_special, parse_special)

    def ids(self, text: str) -> list[int]:
        """What is computed on."""
        if not isinstance(text, str):
            raise TypeError("texts are strings")
        return self.states.engine.tokenize(text, True, True)

    def rows(self, text: str) -> Any:
        """(T, C). What was computed before is not computed again."""
        key = tuple(self.ids(text))
        kept = self.states.__dict__.setdefault("kept", {})
        if key not in kept:
            kept[key] = self.states.embed([list(key)])[0]
        return kept[key]

    def pooling(self, texts: list[str], kind: str) -> list[Any]:
        parts: dict[str, Any] = {"none": slice(None), "cls": 0, "last": -1}
        return [self.rows(t).mean(axis=0) if kind == "mean" else self.rows(t)[parts[kind]] for t in texts]

    def mean(self, x: Any) -> Any:
        return x.mean(axis=0)

    def finish(self, v: Any) -> Any:
        return normalize(v)

    def embed(self, texts: list[str]) -> list[Any]:
        return [self.finish(self.mean(self.rows(t))) for t in texts]

    def trace(self, text: str) -> Trace:
        return self.states.trace(self.ids(text))


def asked(
    engine: Callable[..., Any], live: Live, minilm: Path, patterns: Sequence[str] = (), normalize: int | None = 2
) -> dict[str, Result]:
    """Every result of an engine on SOME texts, by id."""
    external = ExternalEngine(engine, minilm)
    if not SHARED:
        SHARED.append(Asking(external, live, MODEL))
    asking = copy(SHARED[0])  # the model and the floors of texts are the same for every engine
    asking.engine, asking.arranged, asking.length = external, {}, {None: "", 2: "unit", -1: "raw"}[normalize]
    results = run(asking, some(patterns), Known(Path(), []))
    return {r.test.id: r for r in results}


SHARED: list[Asking] = []


def failing(results: dict[str, Result]) -> dict[str, set[str]]:
    """Cases with failures, and the texts they are on."""
    found: dict[str, set[str]] = {}
    for id, r in results.items():
        if r.failed:
            case, text = id.split("::")
            found.setdefault(case.replace(f"/{MODEL}", "").replace("/minilm", ""), set()).add(text)
    return found


@pytest.mark.oracle
def test_a_right_engine_passes_everything_it_can_be_asked(states: LiveLlamaCpp, live: Live, minilm: Path) -> None:
    results = asked(Theirs(states).embed, live, minilm)
    assert failing(results) == {}
    skipped = {r.test.case.kind for r in results.values() if r.status == "not asked"}
    assert skipped == {"normalize", "ids", "input"}
    assert sum(r.status == "ok" for r in results.values()) >= 80


class Cls(Theirs):
    def mean(self, x: Any) -> Any:
        return x[0]


class Raw(Theirs):
    def finish(self, v: Any) -> Any:
        return v


class Scaled(Theirs):
    def finish(self, v: Any) -> Any:
        return 1.001 * normalize(v)


class Half(Theirs):
    def finish(self, v: Any) -> Any:
        return normalize(v).astype(np.float16)


class NoSep(Theirs):
    def ids(self, text: str) -> list[int]:
        return super().ids(text)[:-1]


class NoSepTold(NoSep):
    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return self.ids(text)


class Truncated(Theirs):
    def ids(self, text: str) -> list[int]:
        found = super().ids(text)
        return found if len(found) <= 64 else found[:63] + found[-1:]


class KeepsCase(Theirs):
    def ids(self, text: str) -> list[int]:
        tokens: Any = super().ids
        inner = [[100] if w != w.lower() else tokens(w)[1:-1] for w in text.split()]
        return [101, *(i for word in inner for i in word), 102]


class EndsAtNul(Theirs):
    def ids(self, text: str) -> list[int]:
        return super().ids(text.split("\0")[0])


class PlainSpecials(Theirs):
    def ids(self, text: str) -> list[int]:
        return self.states.engine.tokenize(text, True, False)


class Stale(Theirs):
    """A buffer that is not cleared: a little of the text before."""

    before: Any = 0.0

    def embed(self, texts: list[str]) -> list[Any]:
        found = []
        for v in super().embed(texts):
            found.append(normalize(v + 0.01 * self.before))
            self.before = v
        return found


class Sorted(Theirs):
    """Sorts texts by length, and forgets to sort back."""

    def embed(self, texts: list[str]) -> list[Any]:
        return super().embed(sorted(texts, key=len))


class Padded(Theirs):
    """In a batch, means go over the padding too."""

    def embed(self, texts: list[str]) -> list[Any]:
        longest = max(len(self.rows(t)) for t in texts)
        rest = [longest - len(self.rows(t)) for t in texts]
        return [normalize(self.rows(t).sum(axis=0) + 0.01 * n) for t, n in zip(texts, rest, strict=True)]


class TakesNone(Theirs):
    def embed(self, texts: list[str]) -> list[Any]:
        return super().embed([str(t) for t in texts])


class TakesLong(Theirs):
    def ids(self, text: str) -> list[int]:
        found = super().ids(text)
        return found if len(found) <= 512 else found[:511] + found[-1:]


class Cut(Theirs):
    def finish(self, v: Any) -> Any:
        return normalize(v[:256])


class WrongTensor(Theirs):
    """Its vectors are right; of layer 2 it shows other scores than it went on with."""

    def trace(self, text: str) -> Trace:
        run = super().trace(text)
        return Trace(
            [TracedTensor(t.name, t.array * 1.01, t.op) if t.name == "ffn_out-2" else t for t in run.tensors], run.meta
        )


class LastForFirst(Theirs):
    def pooling(self, texts: list[str], kind: str) -> list[Any]:
        return super().pooling(texts, "last" if kind == "cls" else kind)


class Erf(Theirs):
    """BERT's own GELU, in float64."""

    @cached_property
    def model(self) -> Embedder:
        """refembed, but for that."""
        found = Embedder.load("minilm", numerics="exact")
        erf = np.vectorize(math.erf, otypes=[np.float64])
        changed: Any = PatchedOps(found.ops, {"gelu": lambda _, x: x / 2 * (1 + erf(x / math.sqrt(2)))})
        found.ops = changed
        return found

    def rows(self, text: str) -> Any:
        kept = self.__dict__.setdefault("kept", {})
        if text not in kept:
            if len(self.ids(text)) > 512:
                raise ValueError("too long")
            kept[text] = self.model.embed(text, pooling="none", normalize=-1)
        return kept[text]


VECTORS = {"embed/mean", "pooling/mean"}
INSIDE = {"forward/local", "forward/trace"}
QUESTIONS = ["tokenizer", "embed", "pooling", "length", "order", "batch", "input"]
TOKENS = {"tokenizer/parsed", "tokenizer/plain", "tokenizer/bare"}
BATCHED = {"batch/any", "batch/few"}
FAULTS: dict[type[Theirs], tuple[set[str], set[str]]] = {  # engine -> cases that fail; texts of embed/mean
    Cls: (VECTORS, SOME),
    Raw: ({"length/unit"}, set()),
    Scaled: ({"length/unit"}, set()),
    Half: ({"length/single", "length/unit"}, set()),
    NoSep: ({*VECTORS, "pooling/cls", "pooling/last", "pooling/none", "forward/trace"}, SOME),
    NoSepTold: ({*VECTORS, *TOKENS, "pooling/cls", "pooling/last", "pooling/none", "forward/trace"}, SOME),
    Truncated: ({"embed/mean", "input/bad"}, {"tokens-128"}),
    KeepsCase: (
        {*VECTORS, "pooling/cls", "pooling/last", "pooling/none"},
        {"upper-case", "rare-word", "separator-in-text", "hello"},
    ),
    EndsAtNul: ({"embed/mean"}, {"nul"}),
    PlainSpecials: ({"embed/mean"}, {"separator-in-text"}),
    Erf: ({*VECTORS, "pooling/cls", "pooling/last", "pooling/none"}, SOME),
    Stale: ({*VECTORS, *BATCHED, "order/again", "input/bad"}, SOME),
    Sorted: ({*BATCHED, "order/list"}, set()),
    Padded: (BATCHED, set()),
    TakesNone: ({"input/bad"}, set()),
    TakesLong: ({"input/bad"}, set()),
    Cut: (VECTORS, SOME),
    WrongTensor: (INSIDE, set()),
    LastForFirst: ({"pooling/cls"}, set()),
}


@pytest.mark.oracle
@pytest.mark.parametrize("wrong", FAULTS, ids=lambda w: w.__name__)
def test_a_wrong_engine_fails_where_it_is_wrong(
    wrong: type[Theirs], states: LiveLlamaCpp, live: Live, minilm: Path
) -> None:
    cases, texts = FAULTS[wrong]
    patterns = QUESTIONS + ["forward"] * bool(cases & INSIDE)
    found = failing(asked(wrong(states).embed, live, minilm, patterns))
    assert set(found) == cases
    assert found.get("embed/mean", set()) == texts


@pytest.mark.oracle
def test_the_intended_lengths_can_be_given(states: LiveLlamaCpp, live: Live, minilm: Path) -> None:
    assert failing(asked(Raw(states).embed, live, minilm, ["length"], normalize=-1)) == {}
    assert failing(asked(Raw(states).embed, live, minilm, ["length"], normalize=None)) == {}
    assert set(failing(asked(Theirs(states).embed, live, minilm, ["length"], normalize=-1))) == {"length/unit"}


FEW = [f"--case=*::{text}" for text in ("hello", "nul", "same-length-1", "bad-*", "too-long")]


@pytest.mark.oracle
@pytest.mark.parametrize("server", ["llama-server", "refembed serve"])
def test_servers_pass(server: str, minilm: Path, tmp_path: Path) -> None:
    with llama(minilm) if server == "llama-server" else refembed("-m", minilm) as there:
        code, said = command("--engine", there.address, *FEW, "--json", tmp_path / "run.json")
    assert code == 0, said
    results = json.loads((tmp_path / "run.json").read_text())["results"]
    asked_for = {r["kind"] for r in results if r["status"] == "ok"}
    assert asked_for == set(KINDS) - {"local", "trace"}


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("options", [("mean", True), ("none", True), ("mean", False)], ids=str)
def test_llama_server_passes_the_whole_suite(options: tuple[str, bool], minilm: Path) -> None:
    pooling, plain = options
    flash: dict[str, Any] = {} if plain else {"flash_attn": "enabled", "no_extra_bufts": False}
    with llama(minilm, pooling, **flash) as there:
        code, said = command("--engine", there.address)
    assert code == 0, said


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("spec", ["llamacpp", "examples.my_engine:embed"])
def test_right_engines_pass_the_whole_suite(spec: str) -> None:
    code, said = command("--engine", spec)
    assert code == 0, said


@pytest.mark.slow
@pytest.mark.oracle
def test_refembed_serve_passes_the_whole_suite(minilm: Path) -> None:
    with refembed("-m", minilm) as there:
        code, said = command("--engine", there.address)
    assert code == 0, said


@pytest.mark.oracle
def test_the_example_passes() -> None:
    code, said = command(
        "--engine", "examples.my_engine:embed", "--case=embed/*::hello", "--case=pooling/*::empty", "--case=input"
    )
    assert code == 0, said
