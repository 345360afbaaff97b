"""Where two builds begin to differ: both are traced, tensor by tensor, on a text whose vectors are not the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from conformance.builds import Build, open_build, runs_here
from conformance.cases import load_texts
from conformance.history import MODELS, N_CTX, SETTINGS, TEXTS, Change, History
from conformance.models import model_path
from refembed.errors import EngineError
from refembed.model.trace import Trace
from refembed.verify.compare.align import align


def find_changes(history: History, builds: Sequence[Build], report: Callable[[str], None]) -> list[Change]:
    """Each change of MiniLM's vectors from one build of a package to its next: the first tensor that differs."""
    found = []
    for before, after in neighbors(builds):
        for model in MODELS:
            for setting in SETTINGS:
                text = first_moved(history, before, after, model, setting)
                if text and not runs_here(before) and not runs_here(after):
                    change = first_difference(before, after, model, setting, text)
                    report(f"{before.id} -> {after.id}: {model} {setting}: {change.tensor or 'no trace'}")
                    found.append(change)
    return found


def neighbors(builds: Sequence[Build]) -> Iterator[tuple[Build, Build]]:
    """Builds of one package and one kind of processor, each with the next; in the order of llama.cpp's numbers."""
    lines: dict[tuple[str, str, str], list[Build]] = {}
    for build in builds:
        lines.setdefault((build.package, build.cpu if build.needs == "AVX2" else "", build.needs), []).append(build)
    for line in lines.values():
        yield from zip(line, line[1:], strict=False)


def first_moved(history: History, before: Build, after: Build, model: str, setting: str) -> str:
    """The first text whose vector has other bits; "" where there is none, or no vector."""
    answers = [history.answers.get(build.id) for build in (before, after)]
    a, b = [answer.vectors.get(model, {}).get(setting, []) if answer else [] for answer in answers]
    return next((text for text, x, y in zip(TEXTS, a, b, strict=False) if x != y), "")


def first_difference(before: Build, after: Build, model: str, setting: str, text: str) -> Change:
    """Trace both. Names of tensors change between builds: those pair by name, or by place and shape."""
    about = (before.id, after.id, model, setting, text)
    try:
        old, new = (traced(build, model, setting, text) for build in (before, after))
    except EngineError:
        return Change(*about, tensor="", operation="", moved=0.0)
    for pair in align(new, old).pairs:
        x, y = (np.asarray(t.tensors[i].array) for t, i in ((new, pair.ours), (old, pair.theirs)))
        x, y = x.reshape(-1), y.reshape(-1)
        if x.dtype == y.dtype and not np.array_equal(x.view("u1"), y.view("u1")):
            moved = float(np.abs(x.astype("f8") - y.astype("f8")).max() / max(np.abs(y.astype("f8")).max(), 1e-30))
            return Change(*about, tensor=pair.name, operation=new.tensors[pair.ours].op, moved=moved)
    return Change(*about, tensor="", operation="", moved=0.0)


def traced(build: Build, model: str, setting: str, text: str) -> Trace:
    """Every tensor of one run."""
    with open_build(build, model_path(model), n_ctx=N_CTX, **SETTINGS[setting]) as engine:
        return engine.trace(load_texts()[text].data)
