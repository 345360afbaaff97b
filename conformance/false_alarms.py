"""No false alarm: live llama.cpp is right whatever its settings, and `refembed verify` must say so.

    python -m conformance no-false-alarm --write

Each model is asked of live llama.cpp in every setting: flash attention off and on, one thread and two, each text alone
and many in a batch, and where weights are quantized, repacked or as stored. `verify` is asked with its own texts and
options, as a user would. An alarm is any verdict but `identical` and `within rounding`, or a wrong tensor.

The models: MiniLM as F32, F16, Q8_0 and Q4_0; Gemma-3-270M as Q4_K_M, where the file is there; and of every
architecture that refembed computes the small random model `plain` of architectures.json, with each of its quantized
ones and its rerankers (all of them with `--variants`).
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from conformance.architectures import Variant, load_variants
from conformance.toml import write_whole
from refembed import Embedder, hub
from refembed.errors import RefembedError, RequestError
from refembed.model import ARCHITECTURES
from refembed.verify.engines.base import open_engine
from refembed.verify.reference import Reference, reference_of
from refembed.verify.run import verify
from refembed.verify.verdict import Verdict

MINILM = ("f32", "f16", "q8_0", "q4_0")
GEMMA = "REFEMBED_GEMMA3"  # the environment variable that names the file
QUIET = ("identical", "within rounding")
KINDS = (*QUIET, "differs", "unexplained")
DOC = Path(__file__).parents[1] / "docs" / "verify.md"
BEGIN, END = "<!-- no false alarm: begin -->", "<!-- no false alarm: end -->"
SAMPLE = ("minilm/f32", "minilm/q4_0", "bert/plain", "gemma3/plain", "lfm2/plain", "t5encoder/plain")  # fast tier
SAMPLE_TEXTS = ("hello", "NASA sent Maria to Paris in May", "the cat sat on the mat and it was a dog " * 3)


@dataclass(frozen=True)
class Subject:
    """A model that is asked for. `make` writes it into a folder, or says where it is."""

    id: str
    make: Callable[[Path], Path]
    pooling: str = "native"
    floats: bool = True  # no weight is quantized, so that there is nothing to repack


@dataclass(frozen=True)
class Setting:
    """How live llama.cpp is asked."""

    flash_attn: bool
    threads: int
    batched: bool
    repack: bool = False

    def __str__(self) -> str:
        words = ["flash" if self.flash_attn else "no flash", f"{self.threads} thread{'s' * (self.threads > 1)}"]
        words += ["batched" if self.batched else "single", *(["repacked"] if self.repack else [])]
        return ", ".join(words)


@dataclass(frozen=True)
class Outcome:
    """What `verify` said of one model in one setting."""

    subject: str
    setting: Setting
    kind: str  # of the verdict, or "error"
    cause: str
    first_wrong_tensor: str | None
    vector: float  # the worst text's distance, over its bound
    tensor: float  # the worst tensor's error on the engine's own inputs, over its bound
    tensors: int
    texts: int
    seconds: float

    @property
    def alarm(self) -> bool:
        """Whether a user would be sent to look for a fault that is not there."""
        return self.kind not in QUIET or self.first_wrong_tensor is not None


def subjects(gemma: Path | None = None, variants: bool = False, patterns: Sequence[str] = ()) -> list[Subject]:
    """All models, or those whose id fits a pattern with * and ?.

    gemma     the file of Gemma-3-270M; None: left out
    variants  every row of architectures.json, not one of each architecture with its quantized ones
    RequestError where nothing fits, or gemma is no file.
    """
    found = [Subject(f"minilm/{t}", partial(minilm, t), floats=t in ("f32", "f16")) for t in MINILM]
    if gemma is not None:
        if not gemma.is_file():
            raise RequestError(f"{gemma}: no such file", hint="the GGUF of Gemma-3-270M, Q4_K_M")
        found.append(Subject(f"gemma-3-270m/{gemma.stem.rsplit('-', 1)[-1]}", lambda _: gemma, floats=False))
    for v in load_variants():
        if variants or v.name == "plain" or v.type_name != "F32" or v.rank:
            floats = v.type_name in ("F32", "F16", "BF16")
            found.append(Subject(v.id, partial(written, v), v.pooling, floats))
    chosen = [s for s in found if not patterns or any(fnmatchcase(s.id, p) for p in patterns)]
    if not chosen:
        raise RequestError(f"no model fits {', '.join(patterns)}", hint="minilm/*, gemma3/plain, */Q8_0")
    return chosen


def minilm(outtype: str, folder: Path) -> Path:
    """The default model with weights of that type."""
    return hub.resolve("minilm", outtype=outtype)


def written(variant: Variant, folder: Path) -> Path:
    """A small model, into that folder."""
    return variant.write(folder / "m.gguf")


def settings(subject: Subject) -> list[Setting]:
    """Every setting that changes something for this model."""
    repack = (False,) if subject.floats else (False, True)
    return [Setting(*row) for row in product((False, True), (1, 2), (False, True), repack)]


def ask(reference: Reference, subject: Subject, setting: Setting, texts: Sequence[str] | None = None) -> Outcome:
    """One verdict. texts: None: those that `verify` chooses."""
    begin = time.perf_counter()
    options: dict[str, Any] = {"flash_attn": setting.flash_attn, "threads": setting.threads, "batched": setting.batched}
    path = Path(reference.info.path)
    try:
        with open_engine("llamacpp", path, pooling=subject.pooling, extra_buffer_types=setting.repack, **options) as e:  # type: ignore[attr-defined]
            v = verify(reference, e, texts)
    except RefembedError as error:
        return Outcome(subject.id, setting, "error", str(error), None, 0.0, 0.0, 0, 0, time.perf_counter() - begin)
    return outcome_of(subject, setting, v, time.perf_counter() - begin)


def outcome_of(subject: Subject, setting: Setting, v: Verdict, seconds: float) -> Outcome:
    """What a table needs of a verdict."""
    e = v.evidence
    vector = max((t.distance / t.bound for t in e.texts), default=0.0)
    tensor = max((r.local / r.bound for r in e.tensors), default=0.0)
    said = (v.kind, v.cause, v.first_wrong_tensor)
    return Outcome(subject.id, setting, *said, vector, tensor, len(e.tensors), len(e.texts), seconds)


def run(
    chosen: Sequence[Subject],
    report: Callable[[Outcome], object] = lambda outcome: None,
    asked: Callable[[Subject], Sequence[Setting]] = settings,
    texts: Sequence[str] | None = None,
) -> Iterator[Outcome]:
    """Every model in every setting; of a model one reference, which computes its own vectors once."""
    for subject in chosen:
        with tempfile.TemporaryDirectory() as folder:
            reference = reference_of(Embedder.load(subject.make(Path(folder)), numerics="fast"), subject.pooling)
            for setting in asked(subject):
                outcome = ask(reference, subject, setting, texts)
                report(outcome)
                yield outcome


def two_settings(subject: Subject) -> list[Setting]:
    """The two that are furthest apart."""
    return [Setting(False, 1, False), Setting(True, 2, True, not subject.floats)]


def sample(report: Callable[[Outcome], object] = lambda outcome: None) -> list[Outcome]:
    """A few models in two settings on three texts: seconds."""
    return list(run(subjects(patterns=SAMPLE), report, two_settings, SAMPLE_TEXTS))


def gemma_file(given: Path | None) -> tuple[Path | None, str]:
    """The file of Gemma-3-270M, and where there is none a sentence that says so."""
    named = given or (Path(os.environ[GEMMA]) if os.environ.get(GEMMA) else None)
    return named, "" if named else f"Gemma-3-270M is left out: neither --gemma nor {GEMMA} names its file."


# -- telling -----------------------------------------------------------------------------------------------------------


def line(o: Outcome) -> str:
    """One outcome, for a terminal."""
    end = f"{o.vector:8.1e} {o.tensor:8.1e} {o.seconds:5.1f} s"
    bad = f"  {o.cause} {o.first_wrong_tensor or ''}" if o.alarm else ""
    return f"{'ALARM' if o.alarm else 'ok   '} {o.subject:36} {o.setting!s:42} {o.kind:16} {end}{bad}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """Verdicts counted."""
    kinds, alarms = Counter(o.kind for o in outcomes), sum(o.alarm for o in outcomes)
    counted = ", ".join(f"{kinds[k]} {k}" for k in (*KINDS, *(["error"] if kinds["error"] else [])))
    architectures = {o.subject.split("/")[0] for o in outcomes} & set(ARCHITECTURES)
    models = len({o.subject for o in outcomes})
    return (
        f"{models} models ({len(architectures)} of {len(ARCHITECTURES)} architectures among them), {len(outcomes)} "
        f"verdicts: {counted}. False alarms: {alarms}."
    )


def markdown(outcomes: Sequence[Outcome], note: str = "") -> str:
    """The table of docs/verify.md: small models by architecture."""
    heads = ["model", "settings", "identical", "within rounding", "differs", "unexplained", "nearest vector", "tensor"]
    rows = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for name in dict.fromkeys(map(row_name, outcomes)):
        own = [o for o in outcomes if row_name(o) == name]
        kinds = Counter(o.kind for o in own)
        near = [f"{max(o.vector for o in own):.2g}", f"{max(o.tensor for o in own):.2g}"]
        rows.append(f"| {' | '.join([name, str(len(own)), *(str(kinds[k]) for k in KINDS), *near])} |")
    return "\n".join([summary(outcomes), *([note] if note else []), "", *rows])


def row_name(o: Outcome) -> str:
    """`MiniLM Q4_0`, `gemma3`: one row for the small models of an architecture."""
    arch, name = o.subject.split("/", 1)
    return arch if arch in ARCHITECTURES else f"{arch} {name.upper()}"


def write(outcomes: Sequence[Outcome], note: str = "") -> None:
    """Put the table into docs/verify.md, between its two marks."""
    text = DOC.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    DOC.write_text(f"{head}{BEGIN}\n{markdown(outcomes, note)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    rows = [{**asdict(o), "alarm": o.alarm} for o in outcomes]
    return {"format": "refembed-false-alarms-1", "summary": summary(outcomes), "outcomes": rows}


def command(
    patterns: Sequence[str],
    gemma: Path | None,
    variants: bool,
    json_file: Path | None,
    write_: bool,
    echo: Callable[[str], object],
) -> int:
    """`python -m conformance no-false-alarm`: print, save, write; returns how many alarms there are."""
    if write_ and patterns:
        raise RequestError("--write is for the whole table: leave the patterns out")
    file, note = gemma_file(gemma)
    outcomes = list(run(subjects(file, variants, patterns), lambda o: echo(line(o))))
    for text in (note, summary(outcomes)):
        if text:
            echo(text)
    if json_file:
        write_whole(json_file, (json.dumps(as_json(outcomes), indent=1) + "\n").encode())
    if write_:
        write(outcomes, note)
    return sum(o.alarm for o in outcomes)
