"""The formula of each tensor of a run, with what its letters stand for: for reading, and in NumPy for checking.

    text      (x - mean(x)) / sqrt(var(x) + eps) · W + b
    python    (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * W + b
    operands  x = kqv_out-0 + inp_norm-0, eps = bert.attention.layer_norm_epsilon = 1e-12, W = ..., b = ...

Nothing is looked up by a tensor's name that the run can show: a formula comes from the operation that was called, and
its operands from that operation's arguments. `python` uses np, `softmax`, `erf`, `rope`, `bucket` (T5), and the
recurrences `delta_rule`, `scan` and `wkv7`; it is "" where NumPy has no line for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from refembed.explain.formula import NO_FORMULA, Formula
from refembed.explain.formulas_by_name import ALWAYS_BY_NAME, BY_NAME
from refembed.explain.formulas_of_latent import K2, LATENT, OF_K2, OF_LATENT, ROUTED
from refembed.explain.formulas_of_operations import BY_OPERATION
from refembed.explain.formulas_of_states import BY_NAME as OF_STATES
from refembed.explain.formulas_of_states import OF_OPERATIONS, OWN
from refembed.explain.formulas_of_streams import BY_NAME as OF_STREAMS
from refembed.explain.operands import base_of
from refembed.explain.watch import Call, Run
from refembed.model.traits import Traits

ByName: TypeAlias = Callable[[Run, int], Formula]
ByOperation: TypeAlias = Callable[[Run, int, Call], Formula]

__all__ = ["NO_FORMULA", "Formula", "formula_of"]


def own_of(traits: Traits) -> tuple[dict[str, ByName], dict[str, ByOperation]]:
    """Formulas of names that in this architecture stand for something else than in others: of no operation, of one."""
    if traits.latent:
        return LATENT, OF_LATENT
    return (K2, OF_K2) if traits.value_experts else ({}, {})


def formula_of(run: Run, i: int) -> Formula:
    """The formula of the i-th tensor of a run."""
    shown, name = run.shown[i], base_of(run.trace.tensors[i].name)
    traits = run.embedder.model.module.TRAITS
    by_name = BY_NAME | (OF_STREAMS if traits.streams else {}) | (ROUTED if traits.routing != "none" else {})
    own_names, own_operations = own_of(traits)
    by_name |= own_names
    if shown.call is not None and name in own_operations:
        return own_operations[name](run, i, shown.call)
    if traits.recurrent != "none" or traits.ssm != "none":
        by_name |= OF_STATES
        own = OWN.get("wkv" if traits.wkv else traits.ssm, {})
        if name in own:
            return own[name](run, i)
    if name in by_name and (shown.call is None or name in ALWAYS_BY_NAME):
        return by_name[name](run, i)
    return NO_FORMULA if shown.call is None else (BY_OPERATION | OF_OPERATIONS)[shown.call.op](run, i, shown.call)
