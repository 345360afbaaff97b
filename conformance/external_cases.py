"""What is asked of another engine: the suite's own cases about one model, and six that only such engines need.

A case is a question, a test is one text of it, as in `cases`. Ids are the suite's: `embed/minilm-f32/mean::rare-word`.
For another model the name in the middle is that model's. Cases about refembed's own arithmetics are left out
(`exact-fast`, `ggml/`); `mean` and `mean-flash` are one question, for an engine may choose either way of attention.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conformance.cases import Case, Test, Text, choose_texts, fits, load_cases, load_texts
from conformance.models import load_models
from refembed.errors import RequestError

TEMPLATE = "minilm-f32"  # the model whose cases are asked
LEFT_OUT = ("distance", "bits", "operations")  # kinds about refembed's arithmetics
MANY = 32  # texts of one request at most: what TEI takes

BAD = (
    ("bad-null", "nothing where a text is meant is an error"),
    ("bad-object", "an object where a text is meant is an error"),
    ("bad-in-list", "one bad input among good ones is an error"),
    ("bad-missing", "a request without a text is an error"),
    ("bad-empty-list", "a list without a text is an error, or an empty list"),
    ("bad-json", "a body that breaks off is an error"),
    ("bad-surrogate", "half a surrogate pair is an error or a finite vector"),
    ("too-long", "a text with more tokens than the model reads is an error, not the vector of its beginning"),
)


@dataclass(frozen=True)
class Measure:
    """One number, with what it is held to."""

    metric: str
    value: float  # infinite where numbers are not finite or shapes differ
    bound: float = 0.0
    where: str = ""

    @property
    def over(self) -> float:
        """How many times the bound."""
        return self.value / self.bound if self.bound else float("inf") if self.value else 0.0


@dataclass
class Result:
    """What came of one test."""

    test: Test
    status: str = "ok"  # ok, differs, error, not asked, known
    measures: list[Measure] = field(default_factory=list)
    note: str = ""  # why it was not asked, what the error was, the reason in the list of known failures
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it makes the run fail."""
        return self.status in ("differs", "error")

    def explain(self) -> str:
        over = [m for m in self.measures if not m.value <= m.bound]
        numbers = [f"{m.metric} {m.value:.3g}, bound {m.bound:.3g}{f' ({m.where})' if m.where else ''}" for m in over]
        more = [f"and {len(numbers) - 3} more"] if len(numbers) > 3 else []
        return f"{self.status}: " + "; ".join(filter(None, [*numbers[:3], *more, self.note]))


def name_of(model: str) -> str:
    """The middle of ids: a name of models.toml, or a GGUF file's without its ending."""
    return model if model in load_models() else Path(model).stem


def cases_for(model: str) -> list[Case]:
    """Every case about a model: a name of models.toml, or a GGUF file."""
    name, found = name_of(model), []
    for case in load_cases():
        if case.model == TEMPLATE and case.kind not in LEFT_OUT and not case.id.startswith("ggml/"):
            folder, _, question = case.id.split("/")
            id = case.id if model == TEMPLATE else f"{folder}/{name}/{question}"
            if question != "mean-flash":
                about = case.description.removeprefix("float32 weights, ").removeprefix("float32 weights: ")
                found.append(replace(case, id=id, model=model, description=about.removesuffix(", flash attention off")))
    return found + extra(model, name)


def extra(model: str, name: str) -> list[Case]:
    """Those that the suite does not ask of refembed here: it has tests of its own for them."""
    texts = load_texts()

    def case(id: str, description: str, kind: str, *sets: str, **options: Any) -> Case:
        folder, question = id.split("/")
        return Case(f"{folder}/{name}/{question}", description, kind, model, choose_texts(sets, texts, id), "", options)

    about = "bad input is an error, and the next text is answered"
    bad = [Text(id, about, b"", None, ()) for id, about in BAD]
    return [
        case("length/unit", "every vector has length 1, or every vector llama.cpp's own length", "length", "all"),
        case("length/single", "numbers have the digits of float32: they are not rounded to fewer", "digits", "quick"),
        case("order/again", "a text asked for again, behind another, has the same vector", "again", "quick"),
        case("order/list", "each of several texts gets its own vector, in the order asked", "order", "quick"),
        case("ids/text", "token ids in place of a text give the text's vector", "ids", "quick"),
        Case(f"input/{name}/bad", about, "input", model, tuple(bad), "", {}),
    ]  # fmt: skip


def questions(cases: Sequence[Case], patterns: Sequence[str] = (), kinds: Sequence[str] = ()) -> list[Test]:
    """Tests of the cases that any of the patterns means; RequestError for a pattern that means none."""
    tests = [Test(case, text, "any") for case in cases for text in case.texts]
    for pattern in patterns:
        if not any(fits(t, pattern) for t in tests):
            folders = ", ".join(dict.fromkeys(c.id.split("/")[0] for c in cases))
            raise RequestError(f"no test has an id like {pattern!r}", hint=f"there are {folders}")
    return [
        t for t in tests if (not patterns or any(fits(t, p) for p in patterns)) and (not kinds or t.case.kind in kinds)
    ]


@dataclass
class Known:
    """The list of failures that are known: pattern -> reason, and where it stands."""

    path: Path
    rows: list[tuple[int, str, str]]  # line, id or pattern, reason

    def reason(self, test: Test) -> str:
        """Why this test is known to fail; "" where it is not."""
        return next((reason for _, pattern, reason in self.rows if meant(pattern, test)), "")

    def idle(self, results: Sequence[Result]) -> Iterator[str]:
        """Lines whose tests were asked, and of which none fails: to be removed."""
        for number, pattern, _ in self.rows:
            asked = [r for r in results if meant(pattern, r.test) and r.status != "not asked"]
            if asked and not any(r.status == "known" for r in asked):
                yield f"{self.path}:{number}: {pattern!r} is listed as a known failure, and passes: remove the line"


def meant(pattern: str, test: Test) -> bool:
    """Whether a line means this test: its id, its case's, or a pattern of either."""
    return any(fnmatch.fnmatchcase(i, pattern) for i in (test.id, test.case.id))


def load_known(path: Path | None, tests: Sequence[Test]) -> Known:
    """`id | reason` a line, # for comments. RequestError for a line without a reason, or whose id matches no test."""
    known = Known(path or Path(), [])
    if path is None:
        return known
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise RequestError(f"{path}: {e}", hint="--xfails takes a file of lines `id | reason`") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pattern, _, reason = (part.strip() for part in line.partition("|"))
        if not reason:
            raise RequestError(f"{path}:{number}: not `id | reason`: {line.strip()!r:.80}")
        if not any(meant(pattern, t) for t in tests):
            raise RequestError(f"{path}:{number}: no test has the id {pattern!r}", hint="remove or correct the line")
        known.rows.append((number, pattern, reason))
    return known
