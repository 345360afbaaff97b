"""Where two builds begin to differ: both are traced, tensor by tensor, on a text whose vectors are not the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise, product

import numpy as np

from conformance.builds import Build, open_build, runs_here
from conformance.cases import load_texts
from conformance.history import MODELS, N_CTX, SETTINGS, TEXTS, TOKENS, Change, History, is_utf8
from conformance.models import model_path
from refembed.errors import EngineError
from refembed.model.trace import Trace, TracedTensor
from refembed.verify.compare.align import COPIES, VIEWS, without_empty_cells

COPYING = COPIES | VIEWS | {"GET_ROWS", "SET_ROWS"}  # the same numbers; their places in the graph changed


def find_changes(history: History, builds: Sequence[Build], report: Callable[[str], None]) -> list[Change]:
    """Each change from one build of a package to its next: the first tensor that differs, and texts with other tokens.

    Changes between other builds stay as they are stored.
    """
    pairs = [p for p in neighbors(builds) if all(b.id in history.answers and not runs_here(b) for b in p)]
    asked = {(before.id, after.id) for before, after in pairs}
    found = [change for change in history.changes if (change.before, change.after) not in asked]
    for before, after in pairs:
        tokens = {history.answers[b.id].tokens for b in (before, after)}
        if len(tokens) > 1 and "" not in tokens:
            found.append(Change(before.id, after.id, MODELS[0], TOKENS, other_tokens(before, after), "", "", 0.0))
            report(f"{before.id} -> {after.id}: tokens: {found[-1].text}")
        for model, setting in product(MODELS, SETTINGS):
            if text := first_moved(history, before, after, model, setting):
                found.append(first_difference(before, after, model, setting, text))
                report(f"{before.id} -> {after.id}: {model} {setting}: {found[-1].tensor or 'no tensor'}")
    return found


def other_tokens(before: Build, after: Build) -> str:
    """The texts of the suite whose token ids are not the same: `hebrew, arabic`."""
    texts = {name: text.data for name, text in load_texts().items() if is_utf8(text.data)}
    ids = []
    for build in (before, after):
        with open_build(build, model_path(MODELS[0]), vocab_only=True) as engine:
            ids.append(engine.tokenize_many(list(texts.values()), True, True))
    return ", ".join(name for name, x, y in zip(texts, *ids, strict=True) if x != y)


def neighbors(builds: Sequence[Build]) -> Iterator[tuple[Build, Build]]:
    """Builds of one package and one kind of processor, each with the next; in the order of llama.cpp's numbers."""
    lines: dict[tuple[str, str, str], list[Build]] = {}
    for build in builds:
        lines.setdefault((build.package, build.cpu if build.needs == "AVX2" else "", build.needs), []).append(build)
    for line in lines.values():
        yield from pairwise(line)


def first_moved(history: History, before: Build, after: Build, model: str, setting: str) -> str:
    """The first text whose vector has other bits; "" where there is none, or no vector."""
    answers = [history.answers.get(build.id) for build in (before, after)]
    a, b = [answer.vectors.get(model, {}).get(setting, []) if answer else [] for answer in answers]
    return next((text for text, x, y in zip(TEXTS, a, b, strict=False) if x != y), "")


def first_difference(before: Build, after: Build, model: str, setting: str, text: str) -> Change:
    """Trace both, and compare what they compute in order; of a cache, the cells in use."""
    about = (before.id, after.id, model, setting, text)
    try:
        old, new = (traced(build, model, setting, text) for build in (before, after))
    except EngineError:
        return Change(*about, tensor="", operation="", moved=0.0)
    for b, a in matched(old, new):
        x, y = a.array.reshape(-1), b.array.reshape(-1)
        if x.dtype == y.dtype and not np.array_equal(x.view("u1"), y.view("u1")):
            moved = float(np.abs(x.astype("f8") - y.astype("f8")).max() / max(np.abs(y.astype("f8")).max(), 1e-30))
            return Change(*about, tensor=a.name, operation=a.op, moved=moved)
    return Change(*about, tensor="", operation="", moved=0.0)


def matched(old: Trace, new: Trace) -> Iterator[tuple[TracedTensor, TracedTensor]]:
    """Operations of two graphs that are the same one, in order: by kind and size, as names changed between builds."""
    a, b = ([t for t in trace.tensors if t.op not in COPYING] for trace in (old, new))
    x, y = ([(t.op, t.array.size) for t in tensors] for tensors in (a, b))
    for block in SequenceMatcher(None, x, y, autojunk=False).get_matching_blocks():
        yield from zip(a[block.a : block.a + block.size], b[block.b : block.b + block.size], strict=True)


def traced(build: Build, model: str, setting: str, text: str) -> Trace:
    """Every tensor of one run."""
    with open_build(build, model_path(model), n_ctx=N_CTX, **SETTINGS[setting]) as engine:
        return without_empty_cells(engine.trace(load_texts()[text].data))
