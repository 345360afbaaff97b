"""Reads the cases. A case is one question (kind, model, options) asked of many texts; a test is one text of a case.

cases/texts.json              every text, once
cases/<folder>/<file>.json    cases; ids are <folder>/<file>/<name>, a test's is <case>::<text>
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from conformance import FOLDER
from conformance.schema import faults
from refembed.errors import RequestError

# kind -> in which numerics it is asked. "any": the answer does not depend on it
NUMERICS: dict[str, tuple[str, ...]] = {
    "tokens": ("any",),
    "normalize": ("any",),
    "distance": ("any",),
    "embed": ("exact", "fast"),
    "trace": ("exact", "fast"),
    "local": ("exact", "fast"),
    "batch": ("exact", "fast"),
    "bits": ("ggml",),
    "operations": ("ggml",),
}


@dataclass(frozen=True, eq=False)
class Text:
    """One text, as bytes: some are no UTF-8."""

    id: str
    description: str
    data: bytes
    n_tokens: int | None  # that llama.cpp makes of it for MiniLM, where the text is there for its length
    sets: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Case:
    id: str
    description: str
    kind: str
    model: str
    texts: tuple[Text, ...]
    bounds: str  # table of bounds.toml, less the numerics; "" where the answer is exact
    options: dict[str, Any]


@dataclass(frozen=True)
class Test:
    """One question about one text to refembed in one numerics."""

    __test__ = False  # pytest: this is no test class

    case: Case
    text: Text
    numerics: str

    @property
    def id(self) -> str:
        """What `python -m conformance run` takes to run it alone (with --numerics, if only one is meant)."""
        return f"{self.case.id}::{self.text.id}"

    @property
    def bounds(self) -> str:
        """Its table of bounds.toml; "" where the answer is exact."""
        return f"{self.case.bounds}.{self.numerics}" if self.case.bounds else ""


def read_json(path: Path, definition: str) -> Any:
    """A file checked against a definition of schema.json. RequestError lists every fault."""
    schema = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise RequestError(f"{path}: not JSON: {e}") from None
    found = list(faults(value, schema["$defs"][definition], schema))
    if found:
        raise RequestError(f"{path}: does not fit conformance/schema.json\n" + "\n".join(f"  {f}" for f in found[:20]))
    return value


def bytes_of(entry: dict[str, Any]) -> bytes:
    """The bytes of an entry of texts.json."""
    if "hex" in entry:
        return bytes.fromhex(entry["hex"])
    text = entry["text"] if "text" in entry else "".join(piece * times for piece, times in entry["parts"])
    return str(text).encode()


@cache
def load_texts(folder: Path = FOLDER / "cases") -> dict[str, Text]:
    """Every text, by id."""
    entries = read_json(folder / "texts.json", "texts")
    unique([e["id"] for e in entries], "text")
    return {
        e["id"]: Text(e["id"], e["description"], bytes_of(e), e.get("n_tokens"), tuple(e.get("sets", ())))
        for e in entries
    }


@cache
def load_cases(folder: Path = FOLDER / "cases") -> tuple[Case, ...]:
    """Every case, in the order of files and of the cases in them. RequestError for data that does not fit."""
    texts = load_texts(folder)
    cases = []
    for path in sorted(folder.glob("*/*.json")):
        for entry in read_json(path, "cases"):
            home = f"{path.parent.name}/{path.stem}/"
            if not entry["id"].startswith(home):
                raise RequestError(f"{path}: case {entry['id']!r}: ids of this file begin with {home!r}")
            where = f"{path}: case {entry['id']!r}"
            left_out = choose_texts(entry.get("without", ()), texts, where)
            chosen = tuple(t for t in choose_texts(entry["texts"], texts, where) if t not in left_out)
            about = (entry["id"], entry["description"], entry["kind"], entry["model"])
            cases.append(Case(*about, chosen, entry.get("bounds", ""), entry.get("options", {})))
    unique([c.id for c in cases], "case")
    return tuple(cases)


def choose_texts(names: Sequence[str], texts: dict[str, Text], where: str) -> tuple[Text, ...]:
    """Texts of the named sets and ids, in the order of texts.json."""
    for name in names:
        if name != "all" and name not in texts and not any(name in t.sets for t in texts.values()):
            raise RequestError(f"{where}: {name!r} is neither a text nor a set of texts.json")
    return tuple(t for t in texts.values() if "all" in names or t.id in names or set(t.sets) & set(names))


def unique(ids: Sequence[str], what: str) -> None:
    """Refuse an id that occurs twice."""
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise RequestError(f"conformance: {what} ids occur twice: {', '.join(twice)}")


def load_tests(cases: Sequence[Case] | None = None) -> list[Test]:
    """Every test of the cases (of all, unless given)."""
    chosen = load_cases() if cases is None else cases
    return [Test(case, text, numerics) for case in chosen for numerics in NUMERICS[case.kind] for text in case.texts]


def select(
    patterns: Sequence[str] = (), models: Sequence[str] = (), kinds: Sequence[str] = (), numerics: Sequence[str] = ()
) -> list[Test]:
    """Tests that fit all that is asked for; nothing asked for is everything.

    patterns  ids of tests or cases, with * and ?; `embed` means everything below that folder. Several add up
    Raises RequestError for a pattern that fits no test.
    """
    tests = load_tests()
    for pattern in patterns:
        if not any(fits(t, pattern) for t in tests):
            raise RequestError(f"no test has an id like {pattern!r}", hint="`python -m conformance list` shows them")
    return [
        t
        for t in tests
        if (not patterns or any(fits(t, p) for p in patterns))
        and (not models or t.case.model in models)
        and (not kinds or t.case.kind in kinds)
        and (not numerics or t.numerics in (*numerics, "any"))
    ]


def fits(test: Test, pattern: str) -> bool:
    """Whether a pattern means this test: its id, its case's, or a folder above."""
    return any(fnmatch.fnmatchcase(test.id, p) for p in (pattern, f"{pattern}::*", f"{pattern.rstrip('/')}/*"))
