"""The formulas of latent attention (deepseek2), of values that experts make (k2-horizon), and of routing by groups."""

from __future__ import annotations

from collections.abc import Callable

from refembed.explain.formula import NO_FORMULA, Formula, made
from refembed.explain.formulas_by_name import of_last, of_weight
from refembed.explain.formulas_of_operations import angles_of, rotation
from refembed.explain.formulas_of_states import layer_of, shown, table
from refembed.explain.operands import number, tap_of
from refembed.explain.watch import Call, Run
from refembed.kernels.exact.rope import magnitude
from refembed.model.hparams_latent import Latent


def latent_of(run: Run) -> Latent:
    """Sizes of latent attention."""
    latent = run.embedder.model.hparams.latent
    assert latent is not None
    return latent


def query(run: Run, i: int) -> str:
    """Queries before they turn, head by head."""
    latent, q = latent_of(run), shown(run, i, "q")
    return q and f"{q}, as {(len(run.trace.meta['tokens']), latent.n_head, latent.n_key)}"


def turned(run: Run, i: int, call: Call) -> Formula:
    """q_pe: the end of each head of queries, turned."""
    latent, formula = latent_of(run), rotation(run, i, call)
    if formula is not NO_FORMULA:
        return formula
    return rotation(run, i, call, f"{query(run, i)}[:, :, {latent.n_nope}:{latent.n_key}]")


def moved(run: Run, i: int) -> Formula:
    """q_nope_absorbed: queries on the other side of W_k."""
    latent = latent_of(run)
    text, python = "y[h, t] = W[h] x[t, h]", "np.einsum('thn,hrn->htr', x, W)"
    return made(text, python, x=f"{query(run, i)}[:, :, 0:{latent.n_nope}]", W=f"blk.{layer_of(run, i)}.attn_k_b.weight")


def queries(run: Run, i: int) -> Formula:
    """Qcur: what does not turn, and what does."""
    latent = latent_of(run)
    if latent.absorbed:
        text, python = "x of each head and token, and behind it y", "np.concatenate([x.transpose(1, 0, 2), y], axis=2)"
        return table(text, python, x="q_nope_absorbed", y="q_pe")(run, i)
    call = next(c for c in reversed(run.calls[: run.shown[i].n_calls]) if c.op == "rope")
    angle, code, operands = angles_of(run, call["rope"])
    n, m = latent.n_nope, magnitude(call["rope"])
    operands |= {} if m == 1 else {"m": f"how much longer these get = {m!r}"}
    turn = f"rope(x[:, :, {n}:], {code}, {call['rope'].pairs!r}{'' if m == 1 else ', m'})"
    text = f"x, whose channels from {n} on turn: pairs (2i, 2i + 1) by θ = {angle}" + ("" if m == 1 else "; these times m")
    python = f"np.concatenate([x[:, :, :{n}], {turn}], axis=2)"
    return made(text, python, x=query(run, i), t="the tokens' places, from 0", **operands)


def keys(run: Run, i: int) -> Formula:
    """Kcur: what does not turn, and what does, the same for all heads."""
    latent, T = latent_of(run), len(run.trace.meta["tokens"])
    if latent.absorbed:
        return table("c, and behind it k", "np.concatenate([c[:, None], k], axis=2)", c="kv_cmpr", k="k_pe")(run, i)
    H, wide = latent.n_head, latent.n_nope + latent.n_value
    x = f"{shown(run, i, 'kv')}, as {(T, H, wide)}[:, :, 0:{latent.n_nope}]"
    python = f"np.concatenate([x, np.repeat(k, {H}, axis=1)], axis=2)"
    return made("x of each head, and behind it k", python, x=x, k=shown(run, i, "k_pe"))


def grown(run: Run, i: int) -> Formula:
    """Qcur_attn_temp_scaled."""
    hp, n = run.embedder.model.hparams, latent_of(run).temp_length
    text, python = "x · (1 + c ln(1 + floor(t / n)))", "x * (1 + c * np.log(1 + t // n))[:, None, None]"
    c = number(run, "attention.temperature_scale", float(hp.attn_temp_scale))
    n_text = number(run, "attention.temperature_length", n)
    return made(text, python, x=tap_of(run, i - 1), t="the tokens' places, from 0", c=c, n=n_text)


def masked(run: Run, i: int) -> Formula:
    """ffn_moe_probs_masked: experts of the best groups."""
    how = run.embedder.model.hparams.routing
    assert how is not None
    G, k = how.n_group, how.n_group_used
    best = f"np.argsort(np.argsort(-np.sort(p.reshape(len(p), {G}, -1), 2)[:, :, -2:].sum(2), 1), 1) < {k}"
    python = f"np.where(np.repeat({best}, p.shape[1] // {G}, 1), p, -np.inf)"
    text = f"p in those {k} of {G} groups of experts whose two largest p add up to most, elsewhere -inf"
    return made(text, python, p=tap_of(run, i - 1))


def weighed(run: Run, i: int) -> Formula:
    """ffn_moe_weights_scaled, v_moe_weights: weights times a number."""
    how = run.embedder.model.hparams.routing
    assert how is not None
    return made("c · w", "c * w", w=tap_of(run, i - 1), c=number(run, "expert_weights_scale", float(how.scale)))


LATENT: dict[str, Callable[[Run, int], Formula]] = {
    "q_nope_absorbed": moved,
    "Qcur": queries,
    "Kcur": keys,
    "Qcur_attn_temp_scaled": grown,
    "kqv_mla": of_weight("y[h, t] = W[h] x[h, t]", "np.einsum('htr,hvr->htv', x, W)", "attn_v_b.weight"),
    "kqv_out": of_last("the heads of y, side by side", "np.concatenate(list(y), axis=-1)", "y"),
}
ROUTED: dict[str, Callable[[Run, int], Formula]] = {
    "ffn_moe_probs_biased": table("p + W", "p + W", "exp_probs_b.bias", p="ffn_moe_probs"),
    "ffn_moe_probs_masked": masked,
    "ffn_moe_weights_scaled": weighed,
}
