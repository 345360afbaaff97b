"""Asks an engine for the vectors of all texts; those that are too long for it are left out, and counted.

A server that was started with a short window refuses a long text in words of its own. That is a setting and no fault,
so the run goes on without such texts. Every other refusal ends it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from refembed.errors import EngineError, RefembedError
from refembed.verify.engines.base import Engine
from refembed.verify.hypotheses.batch_effects import doubles
from refembed.verify.reference import Item, Vectors

TOO_LONG = re.compile(  # llama-server, Ollama, TEI, OpenAI, vLLM, and what others are likely to say
    r"too (large|long|many tokens)|larger than the max|exceed|maximum (context|input|length|sequence)|"
    r"must have less than \d+ tokens|context (length|size|window)|longer than",
    re.IGNORECASE,
)
STATUSES = (400, 413, 422, 500)  # with which servers refuse a text for its length


@dataclass(frozen=True)
class Asked:
    """The texts that an engine took, their vectors, and what it said of the others."""

    items: list[Item]
    vectors: Vectors
    left_out: list[Item]
    refusal: str = ""  # the engine's words about the first of these


def ask_all(engine: Engine, items: Sequence[Item]) -> Asked:
    """The vectors of all items that are not too long for the engine. EngineError where it takes none of them."""
    try:
        return Asked(list(items), doubles(engine.embed(items)), [])
    except EngineError as e:
        if not is_too_long(e):
            raise
    taken: list[Item] = []
    vectors: Vectors = []
    left_out: list[Item] = []
    refusal: EngineError | None = None
    for item in items:
        try:
            vectors += doubles(engine.embed([item]))
            taken.append(item)
        except EngineError as e:
            if not is_too_long(e):
                raise
            refusal = refusal or e
            left_out.append(item)
    if not taken and refusal is not None:
        raise refusal
    return Asked(taken, vectors, left_out, first_line(refusal) if refusal else "")


def is_too_long(error: RefembedError) -> bool:
    """Whether an engine refused a text for its length."""
    status = getattr(error, "status", None)
    return status == 413 or (status in STATUSES and bool(TOO_LONG.search(str(error))))


def first_line(error: RefembedError) -> str:
    """An error without its address and its hint."""
    line = str(error).split("\n")[0]
    return re.sub(r"^\S+ answered (?=\d)", "", line)


def left_out_remark(asked: Asked, tokens: Sequence[int]) -> str:
    """A sentence about the texts that were left out. tokens: of each of them, as the reference counts."""
    n, total = len(asked.left_out), len(asked.items) + len(asked.left_out)
    longest = f"of {min(tokens)} tokens and more" if n > 1 else f"of {tokens[0]} tokens"
    return (
        f"{n} of {total} texts, {longest}, are too long for the engine and were left out; it answers {asked.refusal}. "
        "To compare them too, start it with a longer window (llama-server: --ctx-size and --ubatch-size)"
    )
