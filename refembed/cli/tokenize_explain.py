"""`refembed tokenize --explain` and `--compare`: a text's stages, and where two tokenizers part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from refembed.cli.show import decode, escape, print_json
from refembed.cli.texts import Texts

if TYPE_CHECKING:
    from refembed.tokenizer import Tokenizer
    from refembed.tokenizer.explain import Stage
    from refembed.verify.tokens.compare import Difference

DIFFERS = 3
AROUND = 4  # tokens shown before and behind a difference


def explain(tokenizer: Tokenizer, source: Texts, add_special: bool, parse_special: bool, as_json: bool) -> None:
    """Print the stages of each text, a line a stage; --json: an object a text."""
    from refembed.tokenizer.explain import stages as stages_of

    for i, text in enumerate(source):
        stages = stages_of(tokenizer, text, add_special, parse_special)
        if as_json:
            print_json({"index": i, "text": decode(text), "stages": [as_object(s, tokenizer) for s in stages]})
            continue
        if len(source.arguments) != 1:
            click.echo(f"[{i}] {escape(text, 80)}")
        width = max(len(s.name) for s in stages)
        for stage in stages:
            click.echo(f"{stage.name:{width}}  {spell(stage, tokenizer)}  ({escape(stage.rule)})")


def spell(stage: Stage, tokenizer: Tokenizer) -> str:
    """The parts of a stage on one line: text in quotes, special tokens bare; ids as they are."""
    if stage.name == "ids":
        return str(list(stage.parts))
    if stage.name == "pieces":
        return " ".join(escape(p) for p in stage.parts if isinstance(p, bytes)) or "(none)"
    parts = (f'"{escape(p)}"' if isinstance(p, bytes) else escape(tokenizer.vocab.tokens[p]) for p in stage.parts)
    return " ".join(parts) or "(none)"


def as_object(stage: Stage, tokenizer: Tokenizer) -> dict[str, Any]:
    """A stage for JSON: a special token is an object with its id, except among ids, which are numbers."""

    def part(p: bytes | int) -> Any:
        if isinstance(p, bytes):
            return decode(p)
        return p if stage.name == "ids" else {"id": p, "token": decode(tokenizer.vocab.tokens[p])}

    return {"name": stage.name, "parts": [part(p) for p in stage.parts], "rule": stage.rule}


def compare(
    tokenizer: Tokenizer, source: Texts, other: str, add_special: bool, parse_special: bool, as_json: bool
) -> None:
    """Print the first difference from another tokenizer and end with exit code 3, or say that there is none."""
    from refembed.verify.tokens.compare import compare
    from refembed.verify.tokens.token_sources import open_other

    opened = open_other(other, tokenizer)
    n = 0
    for n, text in enumerate(source, 1):
        found = compare(tokenizer, opened, text, add_special, parse_special)
        if found:
            show = difference_object if as_json else difference_lines
            show(found, source.where(n - 1), text, tokenizer.where, opened.name)
            raise click.exceptions.Exit(DIFFERS)
    if as_json:
        print_json({"texts": n, "difference": None})
    else:
        click.echo(f"{n} text{'s' * (n != 1)}: the same ids from {escape(opened.name)}")


def difference_lines(d: Difference, where: str, text: str | bytes, ours: str, theirs: str) -> None:
    """A difference for a person."""
    from refembed.verify.tokens.compare import CAUSES

    click.echo(f"{where}: {escape(text, 100)}")
    click.echo(f"ids differ from place {d.at} on, after {escape(d.before[-40:])!r}")
    click.echo(f"  {escape(f'refembed ({ours})')}\n    {window(d.at, d.ours, d.our_tokens)}")
    click.echo(f"  {escape(theirs)}\n    {window(d.at, d.theirs, d.their_tokens)}")
    for cause in d.causes:
        click.echo(f"cause: {CAUSES[cause.stage]}\n  {escape(cause.detail)}")


def window(at: int, ids: Sequence[int], tokens: Sequence[bytes | None]) -> str:
    """Ids with their tokens around a place, the first that differs between > and <."""
    begin, shown = max(0, at - AROUND), []
    for i, (id, token) in enumerate(zip(ids, tokens, strict=True)):
        if begin <= i < at + AROUND:
            spelled = f"{id} {escape(token) if token is not None else '?'}"
            shown.append(f">{spelled}<" if i == at else spelled)
    if at >= len(ids):
        shown.append(">nothing more<")
    return " ... " * (begin > 0) + "  ".join(shown) + " ..." * (at + AROUND < len(ids))


def difference_object(d: Difference, where: str, text: str | bytes, ours: str, theirs: str) -> None:
    """A difference as JSON."""
    ours_spelled, theirs_spelled = list(map(decode, d.our_tokens)), [t and decode(t) for t in d.their_tokens]
    info = {"at": d.at, "before": decode(d.before), "causes": [vars(c) for c in d.causes]}
    sides = {"ours": {"ids": d.ours, "pieces": ours_spelled}, "theirs": {"ids": d.theirs, "pieces": theirs_spelled}}
    print_json({"text": decode(text), "where": where, "names": [ours, theirs], "difference": info | sides})
