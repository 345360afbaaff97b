"""The vectors of every build of builds.toml, asked for one build at a time and stored: history.json, history.npz.

`python -m conformance builds run` asks each build for MiniLM in five types, in two settings: `unasked` is what it does
when nothing is chosen, `plain` is without flash attention and without repacked weights; and unasked for a small
model of each architecture. Vectors are stored as they come, unnormalized, each distinct one once, under a digest of its
bits: equal digests are equal bits. Of refembed's own vectors only the digests are kept, one set for each profile and
switch of the `ggml` numerics (`python -m conformance builds profiles`): they say which of them has a build's bits.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from conformance import FOLDER
from conformance.architectures import Variant, load_variants, some_ids
from conformance.builds import Build, load_builds, open_build
from conformance.cases import load_texts
from conformance.models import model_path
from conformance.toml import write_whole
from refembed.arrays import F32
from refembed.errors import EngineError, RequestError
from refembed.verify.engines.llamacpp import LlamaCpp
from refembed.verify.engines.llamacpp_layouts import CONTEXT_LAYOUTS, MODEL_LAYOUTS, places

DATA, VECTORS = FOLDER / "history.json", FOLDER / "history.npz"
MODELS = ("minilm-f32", "minilm-f16", "minilm-q8_0", "minilm-q4_0", "minilm-q4_k_m")
TEXTS = ("one-letter", "rare-word", "tokens-33", "tokens-64", "tokens-127")  # 3, 7, 33, 64 and 127 tokens
SETTINGS: dict[str, dict[str, Any]] = {
    "unasked": {"flash_attn": "auto", "extra_buffer_types": True},
    "plain": {"flash_attn": False, "extra_buffer_types": False},
}
TOKENS = "tokens"  # the setting of a change of token ids
ARCH_LENGTHS = (7, 70)  # tokens of texts for the small models
N_CTX = 512

Digests: TypeAlias = "list[str]"  # one a text


@dataclass
class Answers:
    """What one build says."""

    build: str  # id
    number: int
    system_info: str = ""
    tokens: str = ""  # digest of the token ids of all texts of the suite that are UTF-8
    vectors: dict[str, dict[str, Digests]] = field(default_factory=dict)  # model or architecture -> setting -> digests
    failed: dict[str, str] = field(default_factory=dict)  # "model" or "model setting" -> why there is no vector


@dataclass(frozen=True)
class Change:
    """Two builds of one package, one after the other, whose vectors differ: where that begins."""

    before: str  # ids
    after: str
    model: str
    setting: str
    text: str  # of the suite; of a change of tokens all of them
    tensor: str  # the first that differs, by the later build's name; "" where a build gives no tensors
    operation: str
    moved: float  # largest difference of the tensor, over its largest number


@dataclass
class History:
    """The stored answers, by build, the vectors by digest, and where changes begin."""

    answers: dict[str, Answers] = field(default_factory=dict)
    vectors: dict[str, F32] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    profiles: dict[str, dict[str, Digests]] = field(default_factory=dict)  # model -> `Choice.id` -> refembed's digests
    machine: str = ""

    def digest(self, vector: F32) -> str:
        """The vector's digest; the vector is kept."""
        name = digest_of(vector)
        self.vectors.setdefault(name, vector)
        return name

    def used(self) -> set[str]:
        """Digests that some answer has."""
        return {d for a in self.answers.values() for s in a.vectors.values() for ds in s.values() for d in ds}


def digest_of(vector: F32) -> str:
    """16 hexadecimal digits of the sha256 of the vector's bytes."""
    return hashlib.sha256(np.ascontiguousarray(vector, "<f4").tobytes()).hexdigest()[:16]


def load_history(data: Path = DATA, vectors: Path = VECTORS) -> History:
    """What is stored; nothing where there is no file yet. RequestError for files that do not belong together."""
    if not data.is_file():
        return History()
    try:
        read = json.loads(data.read_text(encoding="utf-8"))
        answers = {row["build"]: Answers(**row) for row in read["answers"]}
        changes = [Change(**row) for row in read["changes"]]
        with np.load(vectors) as archive:
            kept = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RequestError(f"{data}: {e}", hint="`python -m conformance builds run` writes it anew") from None
    history = History(answers, kept, changes, read["profiles"], read["machine"])
    if missing := history.used() - kept.keys():
        raise RequestError(f"{vectors}: {len(missing)} vectors of {data.name} are not in it")
    return history


def save_history(history: History, data: Path = DATA, vectors: Path = VECTORS) -> None:
    """Write both files: answers in the order of builds, and the vectors that some answer has."""
    order = list(load_builds())
    answers = sorted(history.answers.values(), key=lambda a: order.index(a.build) if a.build in order else -1)
    out = io.BytesIO()
    kept: dict[str, Any] = {name: history.vectors[name] for name in sorted(history.used())}
    np.savez_compressed(out, **kept)
    write_whole(vectors, out.getvalue())
    stored = {"machine": history.machine, "answers": [asdict(a) for a in answers], "profiles": history.profiles}
    text = json.dumps(stored | {"changes": [asdict(c) for c in history.changes]}, indent=1)
    write_whole(data, text.encode() + b"\n")


# -- asking ------------------------------------------------------------------------------------------------------------


def ask_build(build: Build, history: History, archs: Iterable[str], report: Callable[[str], None]) -> Answers:
    """All questions to one build; each model and setting is a process of its own."""
    found = Answers(build.id, build.number)
    with open_build(build, None) as engine:
        found.system_info = engine.facts["system_info"]
        check_layouts(build, engine)
    texts = {name: text.data for name, text in load_texts().items()}
    whole = [data for data in texts.values() if is_utf8(data)]  # of other bytes builds before b5000 die
    for model, (setting, options) in product(MODELS, SETTINGS.items()):
        try:
            with open_build(build, model_path(model), n_ctx=N_CTX, **options) as engine:
                vectors = engine.embed([texts[name] for name in TEXTS])
                if not found.tokens:
                    every = engine.tokenize_many(whole, True, True)
                    found.tokens = hashlib.sha256(json.dumps(every).encode()).hexdigest()[:16]
        except EngineError as e:
            found.failed[f"{model} {setting}"] = reason_of(e)
            continue
        found.vectors.setdefault(model, {})[setting] = [history.digest(v) for v in vectors]
    for arch in archs:
        ask_architecture(build, small_models()[arch], found, history)
    report(f"{build.id} (b{build.number}): {len(found.vectors)} models, {len(found.failed)} not")
    return found


def is_utf8(data: bytes) -> bool:
    """Whether a text is UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_layouts(build: Build, engine: LlamaCpp) -> None:
    """EngineError where a field that the row's layouts have is elsewhere in the layouts that the library confirms."""
    for what, layouts, label in (
        ("model", MODEL_LAYOUTS, build.model_layout),
        ("context", CONTEXT_LAYOUTS, build.context_layout),
    ):
        found = engine.facts["layouts"][what]
        ours, theirs = (places(layouts[name]) for name in (label, found))
        if any(theirs[field] != ours[field] for field in ours.keys() & theirs.keys()):
            raise EngineError(f"{build.id}: builds.toml has the {what} layout {label}, the library has {found}")


def ask_architecture(build: Build, variant: Variant, found: Answers, history: History) -> None:
    """A small model with random weights, float32, unasked. A build that does not know the architecture says so."""
    with tempfile.TemporaryDirectory() as folder:
        path = variant.write(Path(folder) / "small.gguf")
        options = {"pooling": variant.pooling, "n_batch": 128, "n_seq_max": 1, **SETTINGS["unasked"]}
        try:
            with open_build(build, path, **options) as engine:
                vectors = engine.embed([some_ids(n) for n in ARCH_LENGTHS])
        except EngineError as e:
            found.failed[variant.arch] = reason_of(e)
            return
        found.vectors[variant.arch] = {"unasked": [history.digest(v) for v in vectors]}


@cache
def small_models() -> dict[str, Variant]:
    """The first variant of each architecture."""
    found: dict[str, Variant] = {}
    for variant in load_variants():
        found.setdefault(variant.arch, variant)
    return found


def reason_of(error: EngineError) -> str:
    """The line of llama.cpp's log that says why, or the error's own first line; without paths."""
    lines = [re.sub(r"\S*/(?=[^/\s]+:)", "", line) for line in str(error).splitlines()]
    said = [line.strip(" |") for line in lines[1:]]
    for word in (
        "unknown model architecture",
        "missing tensor",
        "wrong shape",
        "key not found",
        "error",
        "GGML_ASSERT",
    ):
        for line in said:
            if word in line:
                return line[-200:]
    return lines[0][-200:]
