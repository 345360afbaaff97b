"""`python -m conformance run --engine SPEC`: the suite, asked of another engine.

    SPEC              http://host:port | module:callable | llamacpp | a folder | FILE.onnx
    embed(texts)      all that a callable needs: a list of strings in, one vector for each out
    embed.tokenize(text) -> ids         embed.pooling(texts, kind) -> vectors or rows, kind none, mean, cls, last
    embed.trace(text) -> refembed.Trace with llama.cpp's names        (each optional, or methods of the same object)

What an engine cannot be asked is `not asked` with the reason, and is no pass.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from conformance.cases import Test
from conformance.environment import environment
from conformance.external_cases import TEMPLATE, Known, Measure, Result, cases_for, load_known, questions
from conformance.external_checks import KINDS, Asking
from conformance.external_engine import ExternalEngine, NotAskedError
from conformance.models import load_models, model_path
from conformance.oracle import Live, Recorded, open_oracle
from conformance.report import made, save, text_of
from refembed.errors import RefembedError, RequestError
from refembed.verify.verdict import plain

FORMAT = "refembed-conformance-engine-1"
MAX_FAILURES_PRINTED = 5  # failures of a case that get a line; the JSON has all


@dataclass(frozen=True)
class Request:
    """What the command line asks for; fields as its options are called."""

    engine: str
    patterns: tuple[str, ...] = ()
    model: str = TEMPLATE
    kinds: tuple[str, ...] = ()
    oracle: str = "auto"
    pooling: str = "native"
    normalize: int | None = None
    xfails: Path | None = None
    json_file: Path | None = None
    fail_fast: bool = False
    verbose: bool = False
    options: tuple[tuple[str, Any], ...] = ()  # of the engine: api_key, model_name, timeout


def run_engine(request: Request, console: Console) -> int:
    """Run, print the tables, write the JSON. Returns the exit code: 0 agrees, 3 differs."""
    if request.model not in load_models() and not Path(request.model).is_file():
        hint = f"a GGUF file, or of models.toml {', '.join(load_models())}"
        raise RequestError(f"--model {request.model!r}: no such file, and no such model", hint=hint)
    everything = questions(cases_for(request.model))
    known = load_known(request.xfails, everything)
    tests = questions(cases_for(request.model), request.patterns, request.kinds)
    target = request.json_file
    if target is not None and not target.absolute().parent.is_dir():
        raise RequestError(f"{target}: there is no such folder", hint="--json takes a file to write")
    asked = open_oracle(request.oracle)
    try:
        if isinstance(asked, Live):
            asked.room = 4
        return ask_all(request, tests, known, asked, console)
    finally:
        asked.close()


def ask_all(request: Request, tests: list[Test], known: Known, oracle: Live | Recorded, console: Console) -> int:
    """Open the engine and put the questions to it."""
    start, path = time.perf_counter(), model_path(request.model)
    engine = ExternalEngine(request.engine, path, request.pooling, **dict(request.options))
    try:
        asking = Asking(engine, oracle, request.model, request.pooling, request.normalize)
        where = {"engine": request.engine, **describe(engine), **environment(oracle), "model": path.name}
        for name, value in where.items():
            console.print(f"{name:14} {value}", markup=False, highlight=False, soft_wrap=True)
        console.print()

        printed: Counter[str] = Counter()

        def report(result: Result) -> None:
            """A line for what fails, the first few of a case; with --verbose for everything."""
            printed[result.test.case.id] += result.failed
            if request.verbose or (result.failed and printed[result.test.case.id] <= MAX_FAILURES_PRINTED):
                console.print(f"{result.test.id}  {result.explain()}", markup=False, highlight=False, soft_wrap=True)

        results = run(asking, tests, known, report, request.fail_fast)
    finally:
        engine.close()
    idle = [] if request.fail_fast else list(known.idle(results))
    if request.json_file:
        save(request.json_file, as_json(results, where, idle))
    show(results, idle, console)
    console.print(f"{time.perf_counter() - start:.0f} s", highlight=False)
    if not any(r.status != "not asked" for r in results):
        raise RequestError("nothing that was chosen can be asked of this engine", hint="the reasons are above")
    return 3 if idle or any(r.failed for r in results) else 0


def describe(engine: ExternalEngine) -> dict[str, str]:
    """What the engine says it is."""
    said = {k: engine.engine.info.get(k) for k in ("url", "route", "model", "version")}
    gives = "a vector for each token" if engine.rows else "a vector for each text"
    return {"kind": f"{engine.engine.name}, {gives}"} | {f"its {k}": str(v) for k, v in said.items() if v}


def run(
    asking: Asking,
    tests: Sequence[Test],
    known: Known,
    each: Callable[[Result], object] = lambda result: None,
    fail_fast: bool = False,
) -> list[Result]:
    """Every test in order; `each` is called with every result as it comes."""
    results = []
    for test in tests:
        result, start = Result(test), time.perf_counter()
        try:
            result.measures = list(KINDS[test.case.kind](asking, test))
            if any(not m.value <= m.bound for m in result.measures):
                result.status = "differs"
        except NotAskedError as e:
            result.status, result.note, result.measures = "not asked", str(e), []
        except RefembedError as e:
            result.status, result.note = "error", " ".join(str(e).split())
        result.seconds = time.perf_counter() - start
        if result.failed and (reason := known.reason(test)):
            result.status, result.note = "known", reason
        results.append(result)
        each(result)
        if fail_fast and result.failed:
            break
    return results


def as_json(results: Sequence[Result], where: dict[str, str], idle: Sequence[str]) -> dict[str, Any]:
    """Everything, as plain data; what is not finite is text."""
    rows = [
        {
            "id": r.test.id, "kind": r.test.case.kind, "status": r.status, "note": r.note,
            "seconds": round(r.seconds, 4),
            "measures": [asdict(m) for m in r.measures],
        }
        for r in results
    ]  # fmt: skip
    data = {"format": FORMAT, "environment": where, "counts": dict(Counter(r.status for r in results))}
    found: dict[str, Any] = plain({**data, "unused_xfails": list(idle), "results": rows})
    json.dumps(found, allow_nan=False)
    return found


def show(results: Sequence[Result], idle: Sequence[str], console: Console) -> None:
    """A row a case; then what was not asked, and why."""
    cases: dict[str, list[Result]] = {}
    for r in results:
        cases.setdefault(r.test.case.id, []).append(r)
    heads = ("case", "ok", "fails", "not asked", "known", "worst", "bound", "on")
    table = made("another engine compared with llama.cpp", heads)
    for id, found in cases.items():
        counts = Counter("fails" if r.failed else r.status for r in found)
        cells = [str(counts[k] or "") for k in ("ok", "fails", "not asked", "known")]
        table.add_row(id, *cells, *worst_of(found))
    console.print(table)
    reasons = Counter((r.test.case.id, r.note) for r in results if r.status == "not asked")
    if reasons:
        console.print("not asked")
    for (id, reason), n in reasons.items():
        console.print(f"  {id:32} {n:3}  {reason}", markup=False, highlight=False, soft_wrap=True)
    for line in idle:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    counts = Counter(r.status for r in results)
    numbers = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    console.print(f"{len(results)} tests: {numbers or 'none'}", markup=False, highlight=False)


def worst_of(results: Sequence[Result]) -> tuple[str, str, str]:
    """Value, bound and text of the measure that is worst against its bound."""
    pairs: list[tuple[Result, Measure]] = [(r, m) for r in results for m in r.measures]
    if not pairs:
        return "", "", ""
    r, m = max(pairs, key=lambda pair: pair[1].over)
    value = "infinite" if m.value == float("inf") else text_of(m.value)
    return value, f"{m.bound:.1e}" if m.bound else "0", r.test.text.id if m.value else ""
