"""What every kind of mutant draws from: numbers at edges, strings, JSON of any shape, bytes that are wrong."""

from __future__ import annotations

import random
import shlex
from typing import Any

# Numbers at which something may overflow, wrap, turn negative, divide by zero or be off by one
EDGES = sorted(
    {s * b + d for b in (0, 1, 2, 8, 32, 64, 512, 2**15, 2**16, 2**31, 2**32, 2**62, 2**63) for d in (-1, 0, 1)
     for s in (1, -1)}
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e38, 3.5e38, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "a",
    "\0",
    "a\0b",
    "bert",
    "llama",
    "▁",
    "[UNK]",
    "true",
    "1",
    "-1",
    "none",
    "\ud800",
    "😀",
    "../x",
    "x" * 5000,
)


def text(rng: random.Random) -> str:
    """A short string, a strange one, or an endless one."""
    return (
        rng.choice(TEXTS)
        if rng.random() < 0.6
        else "".join(chr(rng.randrange(1, 0x2FF)) for _ in range(rng.randrange(9)))
    )


def value(rng: random.Random, depth: int = 3) -> Any:
    """Anything that JSON can hold."""
    kind = rng.randrange(9 if depth else 6)
    if kind < 3:
        return rng.choice((None, True, False, rng.choice(EDGES), rng.randrange(64)))
    if kind == 3:
        return rng.choice(FLOATS)
    if kind < 6:
        return text(rng)
    items = [value(rng, depth - 1) for _ in range(rng.choice((0, 1, 1, 2, 3, 40)))]
    return items if kind < 8 else {text(rng): item for item in items}


def places(tree: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as the keys that lead there; of long lists and tables the first twenty."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [here] + [place for key, inner in [*items][:20] for place in places(inner, (*here, key))]


def change_json(rng: random.Random, tree: Any, keys: tuple[str, ...] = ()) -> Any:
    """Replace, remove, add, repeat or exchange something anywhere in a JSON value, which may be changed in place.

    keys  names that a program is known to read: one of them may be added to the outermost table
    """
    found = places(tree)[1:]
    if not found or rng.random() < 0.02:
        return value(rng)
    if keys and isinstance(tree, dict) and rng.random() < 0.3:
        tree[rng.choice(keys)] = value(rng)
        return tree
    way = rng.choice(found)
    inner = tree
    for key in way[:-1]:
        inner = inner[key]
    what, last = rng.randrange(7), way[-1]
    if what == 0:
        del inner[last]
    elif what == 1 and isinstance(inner, list):
        inner.append(inner[last])
    elif what == 1:
        inner[text(rng)] = inner[last]
    elif what == 2:
        other = rng.choice(found)
        at = tree
        for key in other:
            at = at[key]
        inner[last] = at if not isinstance(at, (dict, list)) else value(rng)
    elif what == 3:
        inner[last] = [inner[last]]
    elif what == 4:
        inner[last] = {str(last): inner[last]}
    else:
        inner[last] = value(rng)
    return tree


def damage(rng: random.Random, raw: bytes) -> bytes:
    """Bytes that are cut, turned, overwritten, put in or taken out."""
    at = rng.randrange(len(raw) + 1) if rng.random() < 0.5 else rng.randrange(min(len(raw), 400) + 1)
    what = rng.randrange(5)
    if what == 0:
        return raw[:at]
    if what == 1:
        return raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
    if what == 2:
        return (
            raw[:at]
            + rng.choice(EDGES).to_bytes(16, "little", signed=True)[: rng.choice((1, 2, 4, 8))]
            + raw[at + rng.choice((0, 1, 2, 4, 8)) :]
        )
    if what == 3:
        return raw[:at] + raw[at + rng.randrange(1, 40) :]
    return raw[:at] + rng.randbytes(rng.randrange(1, 40)) + raw[at:]


def command(line: str, **paths: object) -> list[str]:
    """The words of a command line, as a shell splits it, with paths in the place of names."""
    return [str(paths.get(word, word)) for word in shlex.split(line)]
