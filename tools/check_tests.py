"""Find tests that cannot fail: `python -m tools.check_tests [FILE ...]`, run by `make check`.

    T1  assert a, b == c        the second part is a message, not a condition
    T2  assert (a, b)           a tuple, a list, a text or a number is true whatever it holds
    T3  raises(Exception)       without `match`: a mistake in the test itself would do
    T4  no assertion            neither `assert`, `pytest.raises`, `pytest.warns`, nor a function of tests/ that has one
    T5  only under `if`         every assertion is skipped where no condition holds: `if name in trace: assert ...`
    T6  only in a loop          over what may be empty, with nothing that says it is not

A function of tests/ or of refembed.testing asserts if its body does or one that it calls by name does. A line that ends
with `# may be skipped: REASON` is left alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXCUSE = "# may be skipped: "
CONTEXTS = ("raises", "warns", "deprecated_call")  # of pytest: `with pytest.raises(...)` fails by itself
FAILING = ("fail", "exit")  # of pytest
TRUE_ALWAYS = (ast.Tuple, ast.List, ast.Set, ast.Dict, ast.JoinedStr, ast.Lambda)
CONDITIONS = (ast.Compare, ast.BoolOp, ast.UnaryOp)
FILLED = ("range", "ndindex", "pairwise", "product")  # what these give is written in the test
Function = ast.FunctionDef | ast.AsyncFunctionDef


def called_name(node: ast.AST) -> str:
    """`f` of f(...) and of module.f(...), else ""."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def asserts_by_itself(node: ast.AST) -> bool:
    """Whether this very node can fail a test."""
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Raise):
        return "AssertionError" in ast.dump(node)
    name = called_name(node)
    return name in CONTEXTS or name in FAILING or name.startswith("assert_")


def asserting_functions(files: list[Path]) -> set[str]:
    """Names of functions in these files that assert, by themselves or through others."""
    calls: dict[str, set[str]] = {}
    found: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                inside = list(ast.walk(node))
                calls.setdefault(node.name, set()).update(filter(None, map(called_name, inside)))
                if any(map(asserts_by_itself, inside)):
                    found.add(node.name)
    while more := {name for name, called in calls.items() if called & found} - found:
        found |= more
    return found


def places(
    node: ast.AST, helpers: set[str], known: frozenset[str] = frozenset(), under: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """For each assertion in a function, what it is nested in: "if", "for" ..."""
    if asserts_by_itself(node) or called_name(node) in helpers:
        yield under
    for name, value in ast.iter_fields(node):
        kind = ""
        if isinstance(node, ast.If) and name in ("body", "orelse") and not (node.orelse and both(node, helpers)):
            kind = "if"
        elif isinstance(node, ast.For) and name == "body" and not never_empty(node.iter, known):
            kind = "for"
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from places(child, helpers, known, (*under, kind) if kind else under)


def both(node: ast.If, helpers: set[str]) -> bool:
    """Whether both branches assert."""
    return all(any(True for s in branch for _ in places(s, helpers)) for branch in (node.body, node.orelse))


def never_empty(iterable: ast.AST, known: frozenset[str]) -> bool:
    """Whether what a loop goes over stands in the file: written out, a table (in capitals), or a name of `known`."""
    if isinstance(iterable, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
        return bool(getattr(iterable, "elts", getattr(iterable, "keys", ())))
    if isinstance(iterable, ast.Call):
        return called_name(iterable) in FILLED or any(never_empty(a, known) for a in [*iterable.args, iterable.func])
    if isinstance(iterable, ast.Attribute):
        return iterable.attr.isupper() or never_empty(iterable.value, known)
    if isinstance(iterable, ast.Subscript):
        return never_empty(iterable.value, known)
    if isinstance(iterable, ast.IfExp):
        return never_empty(iterable.body, known) and never_empty(iterable.orelse, known)
    if isinstance(iterable, (ast.Constant, ast.BinOp)):
        return True
    return isinstance(iterable, ast.Name) and (iterable.id.isupper() or iterable.id in known)


def known_names(test: Function) -> frozenset[str]:
    """Names that a test sets to something written out, those of its loops, and those that `parametrize` gives it."""
    found: set[str] = set()
    for node in ast.walk(test):
        if isinstance(node, (ast.For, ast.comprehension)):
            found |= {name.id for name in ast.walk(node.target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Assign) and never_empty(node.value, frozenset(found)):
            found |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    for decorator in test.decorator_list:
        if called_name(decorator) == "parametrize" and isinstance(decorator, ast.Call):
            texts = [node.value for node in ast.walk(decorator.args[0]) if isinstance(node, ast.Constant)]
            found |= {name.strip() for text in texts for name in str(text).split(",")}
    return frozenset(found)


def faults_of(test: Function, helpers: set[str]) -> Iterator[tuple[int, str]]:
    """Line and fault of each assertion that says nothing, and of a test as a whole."""
    for node in ast.walk(test):
        if isinstance(node, ast.Assert):
            if any(isinstance(part, CONDITIONS) for part in getattr(node.msg, "elts", [node.msg])):
                yield node.lineno, "T1: the part behind the comma is a message, not a condition"
            if isinstance(node.test, TRUE_ALWAYS) or (isinstance(node.test, ast.Constant) and node.test.value):
                yield node.lineno, "T2: this is true whatever it holds"
        if called_name(node) == "raises" and isinstance(node, ast.Call):
            broad = any(getattr(a, "id", "") in ("Exception", "BaseException") for a in node.args)
            if broad and not any(k.arg == "match" for k in node.keywords):
                yield node.lineno, "T3: any exception will do; name it, or give `match`"
    if not test.name.startswith("test_"):
        return
    found = list(places(test, helpers, known_names(test)))
    if not found:
        yield test.lineno, f"T4: {test.name} asserts nothing"
    elif all("if" in under for under in found):
        yield test.lineno, f"T5: {test.name} asserts only where a condition holds"
    elif all(under for under in found):
        yield test.lineno, f"T6: {test.name} asserts only in a loop that may be empty"


def check(files: list[Path], helpers: set[str]) -> list[str]:
    """FILE:LINE: fault, of all files."""
    found = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                for line, fault in faults_of(node, helpers):
                    if EXCUSE not in lines[line - 1]:
                        place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
                        found.append(f"{place}:{line}: {fault}")
    return sorted(set(found))


def main(names: list[str]) -> int:
    """Print what is found; 1 where something is."""
    tests = sorted(ROOT.glob("tests/**/*.py"))
    helpers = asserting_functions([*tests, *ROOT.glob("refembed/testing/*.py")])
    found = check([Path(name) for name in names] or tests, helpers)
    sys.stderr.write("\n".join(found or ["tests: every one can fail"]) + "\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
