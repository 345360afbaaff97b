"""All hypotheses about an engine, in the order in which equals are named: front end, model, pooling, vector, weights.

Each is a named, reversible change of the reference; `diagnose` finds the fewest that make the difference vanish.
"""

from __future__ import annotations

from collections.abc import Sequence

from refembed.verify.hypotheses.back import pooling_hypotheses, vector_hypotheses
from refembed.verify.hypotheses.cuts import solve_cuts
from refembed.verify.hypotheses.front import text_hypotheses, token_hypotheses
from refembed.verify.hypotheses.marks import marks
from refembed.verify.hypotheses.model import model_hypotheses
from refembed.verify.hypotheses.numbers import number_families
from refembed.verify.hypotheses.parts import part_hypotheses
from refembed.verify.hypotheses.weights import weight_hypotheses
from refembed.verify.hypothesis import Hypothesis
from refembed.verify.reference import Item, Reference

__all__ = [
    "Hypothesis", "cheap_hypotheses", "marks", "number_families", "part_hypotheses", "solve_cuts", "weight_hypotheses",
]  # fmt: skip


def cheap_hypotheses(reference: Reference, items: Sequence[Item]) -> list[Hypothesis]:
    """All that apply but those that take long: weights of another type (`weight_hypotheses`)."""
    return [
        *text_hypotheses(reference, items),
        *token_hypotheses(reference, items),
        *model_hypotheses(reference),
        *pooling_hypotheses(reference),
        *vector_hypotheses(reference),
    ]
