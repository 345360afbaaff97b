"""Spelling of what a walkthrough holds: for the terminal, for JSON, and for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from refembed.explain.walkthrough import Step, Walkthrough
from refembed.html.page import clipped
from refembed.tokenizer.explain import Stage

ADDS = {  # pooling -> q[t], what token t adds to the pooled vector
    "mean": "x[t] / T", "cls": "x[0] for the first token and 0 for all others",
    "last": "x[T-1] for the last token and 0 for all others", "max": "x[t] in the channels where it is the largest",
    "mean_sqrt_len": "x[t] / sqrt(T)", "weightedmean": "t x[t] / Σ t, t from 1",
}  # fmt: skip


def in_one_sentence(j: Walkthrough) -> str:
    """What becomes of the text: the sentence that a walkthrough begins with."""
    tokens, layers = plural(j.n_tokens, "token"), plural(j.info["layers"], "layer")
    if j.pooled is None:
        becomes = f"{j.n_tokens:,} vectors of {plural(j.vector.shape[-1], 'number')}"
    elif j.how == "rank":
        becomes = plural(len(j.vector), "score")
    else:
        becomes = f"one vector of {plural(len(j.vector), 'number')}"
    text = clipped(j.text, 120)
    return f"“{text}” is cut into {tokens}, which {layers} of {j.info['model']} turn into {becomes}."


def plural(n: int, what: str) -> str:
    """1 token, 2 tokens."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def spell_shares(j: Walkthrough) -> str:
    """What the shares of tokens are."""
    return spell_shares_of(j.how)


def spell_shares_of(how: str) -> str:
    """The same for a pooling."""
    return (
        "What each token contributes to the pooled vector p: its share is q[t] · p / |p|², where q[t] is what token t "
        f"adds to p: {ADDS.get(how, 'its part of the sum')}. Shares add up to 1; a negative one pulls the other way."
    )


def spell_parts(stage: Stage, special: Mapping[int, bytes]) -> list[str]:
    """The parts of a stage: texts, special tokens by their names; ids as numbers."""
    if stage.name == "ids":
        return [str(p) for p in stage.parts]
    return [(p if isinstance(p, bytes) else special.get(p, b"?")).decode("utf-8", "replace") for p in stage.parts]


def spell_shape(shape: Sequence[int]) -> str:
    """(3, 32), as NumPy has it."""
    return f"({', '.join(map(str, shape))})"


def spell_numbers(numbers: Iterable[float]) -> str:
    """Numbers in four digits."""
    return " ".join(f"{v:.4g}" for v in numbers)


def as_object(j: Walkthrough) -> dict[str, Any]:
    """A walkthrough as JSON."""
    return {
        "text": j.text,
        "model": j.info,
        "stages": [{"name": s.name, "parts": spell_parts(s, j.special), "rule": s.rule} for s in j.stages],
        "ids": j.ids,
        "pieces": j.pieces,
        "marks": j.marks,
        "layer": j.layer,
        "token": j.token,
        "steps": {
            "before": list(map(step_object, j.before)),
            "layer": list(map(step_object, j.inside)),
            "behind": list(map(step_object, j.behind)),
        },
        "layers": [vars(x) for x in j.layers],
        "pooling": {"title": j.pooling.title, "formula": j.pooling.formula, "reads": j.pooling.reads},
        "pooled": None if j.pooled is None else j.pooled.tolist(),
        "shares": None if j.shares is None else j.shares.tolist(),
        "vector": j.vector.tolist(),
        "texts": j.texts,
        "vectors": None if j.vectors is None else j.vectors.tolist(),
        "notes": j.notes,
    }


def step_object(s: Step) -> dict[str, Any]:
    """A step as JSON."""
    return {
        "name": s.name, "shape": list(s.shape), "numbers": list(s.numbers), "of": s.whose, "title": s.title,
        "formula": s.formula, "numpy": s.how.python, "where": {o.letter: o.what for o in s.how.operands},
        "source": s.source, "reads": s.reads,
    }  # fmt: skip
