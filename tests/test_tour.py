"""The chains of calls in docs/tour.md are those of a real run: one text by the command line, one by HTTP.

Every Python call is recorded with its callers (sys.setprofile). A line of a chain holds where its function was called
with the line above it, one step to the left, among the callers. What Numba compiles makes no Python calls: the function
that is dispatched is recorded, and the source of each names the next.
"""

from __future__ import annotations

import ast
import asyncio
import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

from refembed import Embedder
from refembed.cli import run

ROOT = Path(__file__).parents[1]
TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
LINE = re.compile(r"( *)(refembed/\S+\.py): ([\w.]+)")


class Step(NamedTuple):
    """One line of a chain."""

    file: str
    function: str  # with its class
    caller: Step | None


Called = dict[tuple[str, str], dict[tuple[str, str], int]]  # function -> each of its callers -> the first call's number


def chain(title: str) -> list[Step]:
    """The lines of the block under a heading."""
    block = TOUR.split(f"### {title}\n")[1].split("```text\n")[1].split("```")[0]
    steps: list[Step] = []
    depths: list[int] = []
    for line in block.splitlines():
        found = LINE.match(line)
        assert found, f"not a step: {line!r}"
        depth = len(found[1])
        above = next((s for s, d in zip(reversed(steps), reversed(depths), strict=True) if d < depth), None)
        steps.append(Step(found[2], found[3], above))
        depths.append(depth)
    return steps


@cache
def functions(path: str) -> dict[int, str]:
    """First line of each function of a file, decorators included -> its name, with its class before it."""
    found: dict[int, str] = {}

    def walk(node: ast.AST, before: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found[min([child.lineno, *(d.lineno for d in child.decorator_list)])] = before + child.name
                walk(child, f"{before}{child.name}.")

    walk(ast.parse(Path(path).read_text(encoding="utf-8")), "")
    return found


@cache
def name_of(code: CodeType) -> tuple[str, str] | None:
    """File and function of refembed; None for the code of others, and for comprehensions."""
    path = Path(code.co_filename)
    if not path.is_relative_to(ROOT / "refembed") or code.co_name.startswith("<"):
        return None
    return str(path.relative_to(ROOT)), functions(code.co_filename)[code.co_firstlineno]


@contextmanager
def recorded() -> Iterator[Called]:
    """Every call of a function of refembed while this is open, in this thread and in those that begin meanwhile."""
    called: Called = {}
    numbers = itertools.count()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        name = name_of(frame.f_code) if event == "call" else None
        if name is None:
            return
        number, callers, f = next(numbers), called.setdefault(name, {}), frame.f_back
        while f is not None:
            if caller := name_of(f.f_code):
                callers.setdefault(caller, number)
            f = f.f_back
        if frame.f_code.co_name == "parallel_for":  # which compiled function is it given?
            for value in list(frame.f_locals.values()):
                if kernel := name_of(value.py_func.__code__) if hasattr(value, "py_func") else None:
                    called[kernel] = callers | called.get(kernel, {})

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def source_of(file: str, function: str) -> ast.AST:
    """The definition of a function or method."""
    tree: ast.AST = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for name in function.split("."):
        tree = next(n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == name)
    return tree


def mentions(tree: ast.AST, name: str) -> bool:
    """Whether a function's source has that name."""
    return any(name in (getattr(n, "id", None), getattr(n, "attr", None)) for n in ast.walk(tree))


def check(steps: list[Step], called: Called) -> None:
    """Each step was called by the one that it stands under, after the line above."""
    compiled, last = False, dict[Step, int]()
    for step in steps:
        here = f"docs/tour.md: {step.file}: {step.function}"
        if step.file.startswith("refembed/kernels/llvm/") and step.caller and compiled:
            assert mentions(source_of(step.caller.file, step.caller.function), step.function), (
                f"{here}: not named above"
            )
            assert source_of(step.file, step.function)
            continue
        assert step[:2] in called, f"{here} is not called"
        if step.caller:
            callers = called[step[:2]]
            assert step.caller[:2] in callers, f"{here} is not called by {step.caller.function}"
            number = callers[step.caller[:2]]
            assert number >= last.get(step.caller, 0), f"{here} is called before the line above it"
            last[step.caller] = number
        compiled = compiled or step.file.startswith("refembed/kernels/llvm/")


def test_the_chain_of_the_command_line(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Embedder.load(tiny, numerics="fast").embed("a")  # compiles and imports what recording would slow down
    with recorded() as called:
        code = run(["embed", "--quiet", "-m", str(tiny), "--numerics", "fast", "the cat"])
    assert (code, len(capsys.readouterr().out.split())) == (0, 32)
    for title in ("From the command line", "From text to token ids", "From token ids to the microkernel"):
        check(chain(title), called)


def post(app: Callable[..., Any], path: str, body: bytes) -> int:
    """The status of one request to an ASGI application, without a socket."""
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": headers, "scheme": "http", "server": ("localhost", 80), "client": ("localhost", 1)}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


def test_the_chain_of_a_request(tiny: Path) -> None:
    from refembed.server.app import App
    from refembed.server.state import Settings, State

    embedder = Embedder.load(tiny, numerics="fast")
    embedder.embed("a")
    with recorded() as called:
        state = State(Settings())
        state.ready(embedder)
        try:
            status = post(App(state), "/v1/embeddings", b'{"input": "the cat", "truncate": true}')
        finally:
            state.close()
    assert status == 200
    for title in ("From a request", "From text to token ids", "From token ids to the microkernel"):
        check(chain(title), called)


def test_both_ways_meet() -> None:
    """The last steps of both chains begin the chains that they share."""
    shared = {chain(t)[0] for t in ("From text to token ids", "From token ids to the microkernel")}
    for title in ("From the command line", "From a request"):
        assert {s[:2] for s in shared} <= {s[:2] for s in chain(title)}
