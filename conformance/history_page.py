"""docs/history.md: the builds, their vectors, and what moved them; written from builds.toml and the stored answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from conformance import FOLDER
from conformance.builds import Build, load_builds, load_causes, load_refused
from conformance.history import MODELS, TEXTS, TOKENS, Answers, Change, Digests, History, load_history, small_models
from conformance.history_changes import neighbors
from conformance.history_profiles import choices_of
from refembed.arrays import F32, F64
from refembed.errors import RequestError
from refembed.verify.engines.llamacpp_lib import PINNED

PAGE = FOLDER.parent / "docs" / "history.md"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TITLES = {"unasked": "What a build does unasked", "plain": "Without flash attention and repacked weights"}
NOTES = {
    "unasked": "Flash attention and repacked weights as the build chooses them: what a service gives that sets none.",
    "plain": "Flash attention off, weights left as they are in the file where the build has a switch for it.",
}

HEADER = """\
# The same bits? llama.cpp's vectors, build by build

Written by `python -m conformance builds page` from `conformance/builds.toml` and `conformance/history.json`, which
`python -m conformance builds run` measures. To ask it of your own model and builds: `refembed history`
([command line](command-line.md)).

{n_builds} builds of llama.cpp, b{first} to b{last}, from {n_packages} packages, each in a process of its own on one
machine ({machine}), one thread. The model is all-MiniLM-L6-v2 in five types, the texts are {n_texts}, of 3, 7, 33, 64
and 127 tokens.

- **Builds with one letter in a column give the same bits** for all {n_texts} texts; A is the pinned wheel, `xllamacpp`
  {pinned}.
- The number behind a letter is how far its vectors are from A's: the largest difference of a component of the unit
  vectors.
- Tokens: {tokens}.
"""


def page_text() -> str:
    """The whole page."""
    history, builds = load_history(), load_builds()
    known = [b for b in builds.values() if b.id in history.answers]
    if pinned_id() not in {b.id for b in known}:
        raise RequestError(f"{pinned_id()}: no row or no answers", hint="builds probe WHEEL; builds run xllamacpp")
    return "\n".join([*head(history, known), *summary(history, known), *tables(history, known),
                      *changes_section(history, known), *small_section(history, known),
                      *builds_section(known, list(builds.values())), *refused_section()]) + "\n"  # fmt: skip


def pinned_id() -> str:
    """The row of the pinned wheel."""
    return f"xllamacpp {PINNED}"


def head(history: History, builds: Sequence[Build]) -> Iterator[str]:
    """What the page is."""
    numbers = [b.number for b in builds]
    digests = {history.answers[b.id].tokens for b in builds} - {""}
    same = "all builds make the same ids of the suite's texts"
    yield HEADER.format(
        n_builds=len(builds), first=min(numbers), last=max(numbers), n_packages=len({b.package for b in builds}),
        machine=history.machine, n_texts=len(TEXTS), pinned=PINNED,
        tokens=same if len(digests) == 1 else f"{len(digests)} lists of ids of the suite's texts; see Each step",
    )  # fmt: skip


def digests_of(history: History, build: Build, model: str, setting: str) -> Digests:
    """A build's answers; empty where it has none."""
    return history.answers[build.id].vectors.get(model, {}).get(setting, [])


def letters(history: History, builds: Sequence[Build], model: str, setting: str) -> dict[tuple[str, ...], str]:
    """A letter for each set of vectors: A is the pinned build's, then from the newest build back."""
    order = sorted(builds, key=lambda b: (b.id != pinned_id(), -b.number))
    found: dict[tuple[str, ...], str] = {}
    for build in order:
        digests = tuple(digests_of(history, build, model, setting))
        if digests and digests not in found:
            found[digests] = LETTERS[len(found)] if len(found) < len(LETTERS) else "?"
    return found


def moved(history: History, a: Digests, b: Digests) -> float:
    """The largest difference of a component between two sets of unit vectors."""
    pairs = [(history.vectors[x], history.vectors[y]) for x, y in zip(a, b, strict=True)]
    return max(float(np.abs(unit(x) - unit(y)).max()) for x, y in pairs)


def unit(x: F32) -> F64:
    """A vector divided by its Euclidean norm."""
    y = x.astype(np.float64)
    return y / np.linalg.norm(y)


def summary(history: History, builds: Sequence[Build]) -> Iterator[str]:
    """From which build on each package has the bits of its newest build."""
    yield "## Since when\n"
    yield "From which build on a package's vectors are those of its newest build here, unasked; behind it, how far they"
    yield "moved at that step.\n"
    yield "| package | newest | " + " | ".join(title(m) for m in MODELS) + " |"
    yield "|---|---|" + "---|" * len(MODELS)
    for line in lines_of(builds):
        cells = [since(history, line, model) for model in MODELS]
        yield f"| {name_of(line[-1])} | b{line[-1].number} | " + " | ".join(cells) + " |"
    yield ""


def lines_of(builds: Sequence[Build]) -> list[list[Build]]:
    """Builds of one package and kind of processor, oldest first; at least two."""
    lines: dict[tuple[str, str], list[Build]] = {}
    for build in builds:
        lines.setdefault((build.package, build.needs), []).append(build)
    return [line for line in lines.values() if len(line) > 1]


def since(history: History, line: Sequence[Build], model: str) -> str:
    """`b9873 (4.1e-7)`: the first build of the unbroken run that ends with the newest, and the step to it."""
    answered = [b for b in line if digests_of(history, b, model, "unasked")]
    if not answered:
        return "-"
    newest = digests_of(history, answered[-1], model, "unasked")
    first = len(answered) - 1
    while first and digests_of(history, answered[first - 1], model, "unasked") == newest:
        first -= 1
    if not first:
        return f"b{answered[0].number} or before"
    step = moved(history, digests_of(history, answered[first - 1], model, "unasked"), newest)
    return f"b{answered[first].number} ({step:.1e})"


def tables(history: History, builds: Sequence[Build]) -> Iterator[str]:
    """The vectors of every build, a table a setting."""
    for setting, heading in TITLES.items():
        yield f"## {heading}\n\n{NOTES[setting]}\n"
        yield "| llama.cpp | package | for | " + " | ".join(title(m) for m in MODELS) + " | `ggml` has its bits as |"
        yield "|---|---|---|" + "---|" * (len(MODELS) + 1)
        marks = {model: letters(history, builds, model, setting) for model in MODELS}
        for build in builds:
            cells = [cell(history, build, model, setting, marks[model]) for model in MODELS]
            as_ = reproduced(history, history.answers[build.id], setting)
            yield (
                f"| b{build.number} | {build.package} {build.version} | {needs(build)} | "
                + " | ".join([*cells, as_])
                + " |"
            )
        yield ""


def cell(history: History, build: Build, model: str, setting: str, marks: dict[tuple[str, ...], str]) -> str:
    """`A`, `C 3.1e-4`, or `-` where there is no vector."""
    theirs = digests_of(history, build, model, setting)
    if not theirs:
        return "-"
    pinned = history.answers[pinned_id()].vectors[model][setting]
    letter = marks[tuple(theirs)]
    return letter if theirs == pinned else f"{letter} {moved(history, theirs, pinned):.1e}"


def reproduced(history: History, answers: Answers, setting: str) -> str:
    """`avx2 flash repack`, where one choice has the bits of all types, else the types that none has."""
    found = {m: {c.id for c in choices_of(history, answers, m, setting)} for m in MODELS if m in answers.vectors}
    common = set.intersection(*found.values()) if found else set()
    if common:
        return f"`{shortest(common)}`"
    if not found:
        return "-"
    missing = [title(m) for m, ids in found.items() if not ids]
    if not missing:
        profiles = set.intersection(*({c.split()[0] for c in ids} for ids in found.values()))
        return f"`{min(profiles)}`, switches by type" if profiles else "profiles by type"
    return "not " + ", ".join(missing) if len(missing) < len(found) else "no profile"


def shortest(ids: Iterable[str]) -> str:
    """Of choices that have the same bits, the one with fewest switches; `avx2` before the others."""
    return min(ids, key=lambda c: (len(c.split()), len(c), c))


def changes_section(history: History, builds: Sequence[Build]) -> Iterator[str]:
    """Where neighboring builds of a package part."""
    yield "## Each step\n"
    yield "Neighboring builds of one package whose vectors differ, how far the unit vectors moved, and the first tensor"
    yield "that differs (its largest difference over its largest number). Where `ggml` has the bits of both sides, its"
    yield "two profiles say what changed.\n"
    yield "| step | package | setting | type | vectors moved | first tensor | first | why |"
    yield "|---|---|---|---|---|---|---|---|"
    by_key = {(c.before, c.after, c.model, c.setting): c for c in history.changes}
    for before, after in neighbors(builds):
        tokens = by_key.get((before.id, after.id, MODELS[0], TOKENS))
        if tokens:
            step = f"b{before.number} → b{after.number} | {name_of(after)} | tokens | all"
            yield f"| {step} | | | | other token ids for {tokens.text} |"
        for setting in TITLES:
            for model in MODELS:
                change = by_key.get((before.id, after.id, model, setting))
                if change:
                    yield step_row(history, before, after, change)
    yield ""


def step_row(history: History, before: Build, after: Build, change: Change) -> str:
    """One step of one type."""
    a, b = (digests_of(history, build, change.model, change.setting) for build in (before, after))
    tensor = f"`{change.tensor}` {change.operation}" if change.tensor else "not traced"
    first = f"{change.moved:.1e}" if change.tensor else ""
    step = f"b{before.number} → b{after.number}"
    cells = [step, name_of(after), change.setting, title(change.model), f"{moved(history, a, b):.1e}", tensor, first]
    return "| " + " | ".join([*cells, why(history, before, after, change)]) + " |"


def why(history: History, before: Build, after: Build, change: Change) -> str:
    """The cause that builds.toml has for this step, and what the profiles say of it."""
    answers = [history.answers[build.id] for build in (before, after)]
    ids = [[c.id for c in choices_of(history, a, change.model, change.setting)] for a in answers]
    said = [f"`{shortest(ids[0])}` → `{shortest(ids[1])}`"] if all(ids) else []
    said += [cause.what for cause in load_causes() if cause.fits(before, after, change.model, change.setting)]
    return "; ".join(said) or "no profile has both sides"


def small_section(history: History, builds: Sequence[Build]) -> Iterator[str]:
    """Small models of every architecture."""
    asked = [b for b in builds if any(arch in history.answers[b.id].vectors for arch in small_models())]
    if not asked:
        return
    yield "## Small models of every architecture\n"
    yield "Random weights, float32, unasked: letters as above, a column a build. `-`: it refuses the file, for an"
    yield "architecture, a key or an optional tensor that came later (history.json has its words).\n"
    yield "| architecture | " + " | ".join(f"b{b.number} {short(b)}" for b in asked) + " |"
    yield "|---|" + "---|" * len(asked)
    for arch in small_models():
        marks = letters(history, asked, arch, "unasked")
        cells = [marks.get(tuple(digests_of(history, b, arch, "unasked")), "-") for b in asked]
        yield f"| {arch} | " + " | ".join(cells) + " |"
    yield ""


def builds_section(known: Sequence[Build], builds: Sequence[Build]) -> Iterator[str]:
    """What was asked."""
    yield "## The builds\n"
    yield "Layouts name the build from which on llama.cpp's structures are as here"
    yield "(`refembed/verify/engines/llamacpp_layouts.py`); the library confirms them when it opens. `~`: the package"
    yield "does not say its llama.cpp; its words lie between those of the neighbors.\n"
    yield "| llama.cpp | package | version | libraries | layouts: model, context | for | `--profile` |"
    yield "|---|---|---|---|---|---|---|"
    for b in builds:
        layouts = f"{b.model_layout}, {b.context_layout}"
        cells = [numbered(b), b.package, b.version + ("" if b in known else " (not asked)"), b.libraries, layouts]
        yield "| " + " | ".join([*cells, needs(b), b.profile or "-"]) + " |"
    yield ""


def refused_section() -> Iterator[str]:
    """What cannot be opened."""
    yield "## Not opened\n"
    yield "| package | version | why |"
    yield "|---|---|---|"
    for refused in load_refused():
        yield f"| {refused.package} | {refused.version} | {refused.reason} |"


def title(model: str) -> str:
    """`Q4_K_M`."""
    return model.removeprefix("minilm-").upper()


def needs(build: Build) -> str:
    """`AVX2`, `AVX-512 (zen4)`."""
    return build.needs.replace("AVX512F", "AVX-512") + (f" ({build.cpu})" if build.cpu else "")


def numbered(build: Build) -> str:
    """`b11549`, `~b11520`."""
    return ("~" if build.about else "") + f"b{build.number}"


def name_of(build: Build) -> str:
    """`xllamacpp`, `@node-llama-cpp/linux-x64 zen4`."""
    return f"{build.package} {build.cpu}".strip()


def short(build: Build) -> str:
    """The package's name without its scope."""
    return {"llama-cpp-py-sync": "py-sync", "xllamacpp": "xllamacpp"}.get(build.package, build.package.split("/")[0])
