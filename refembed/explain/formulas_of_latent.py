"""The formulas of latent attention (deepseek2), of values that experts make (k2-horizon), and of routing by groups."""

from __future__ import annotations

from collections.abc import Callable

from refembed.explain.formula import Formula, made
from refembed.explain.formulas_by_name import of_last, partial_sum, shared_expert
from refembed.explain.formulas_of_operations import angles_of, experts, mixed, rotation
from refembed.explain.formulas_of_states import layer_of, shown, table
from refembed.explain.operands import columns, number, tap_of
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
    latent = latent_of(run)
    return rotation(run, i, call, f"{query(run, i)}[:, :, {latent.n_nope}:{latent.n_key}]")


def mixed_values(run: Run, i: int, call: Call) -> Formula:
    """kqv: of heads that have values of their own, which stand behind their keys."""
    latent, T = latent_of(run), len(run.trace.meta["tokens"])
    if latent.absorbed:
        return mixed(run, i, call)
    wide = latent.n_nope + latent.n_value
    return mixed(run, i, call, f"{shown(run, i, 'kv')}, as {(T, latent.n_head, wide)}[:, :, {latent.n_nope}:{wide}]")


def moved(run: Run, i: int) -> Formula:
    """q_nope_absorbed: queries on the other side of W_k."""
    latent = latent_of(run)
    text, python = "y[h, t] = W[h] x[t, h]", "np.einsum('thn,hrn->htr', x, W)"
    return made(
        text, python, x=f"{query(run, i)}[:, :, 0:{latent.n_nope}]", W=f"blk.{layer_of(run, i)}.attn_k_b.weight"
    )


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
    text = f"x, whose channels from {n} on turn: pairs (2i, 2i + 1) by θ = {angle}" + (
        "" if m == 1 else "; these times m"
    )
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
    return made(text, python, x=shown(run, i, "Qcur"), t="the tokens' places, from 0", c=c, n=n_text)


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
    "kqv_mla": table("y[h, t] = W[h] x[h, t]", "np.einsum('htr,hvr->htv', x, W)", "attn_v_b.weight", x="kqv"),
    "kqv_out": of_last("the heads of y, side by side", "np.concatenate(list(y), axis=-1)", "y"),
}
ROUTED: dict[str, Callable[[Run, int], Formula]] = {
    "ffn_moe_probs_biased": table("p + W", "p + W", "exp_probs_b.bias", p="ffn_moe_probs"),
    "ffn_moe_probs_masked": masked,
    "ffn_moe_weights_scaled": weighed,
}
OF_LATENT: dict[str, Callable[[Run, int, Call], Formula]] = {"q_pe": turned, "kqv": mixed_values}


def value_experts(run: Run, i: int) -> str:
    """The columns of v_moe_argsort that are taken."""
    order = shown(run, i, "v_moe_argsort")
    return order and columns(order, 0, run.embedder.model.hparams.n_value_used)


def routed_weights(run: Run, i: int) -> Formula:
    """v_moe_chosen, or v_moe_weights where nothing is done to them: p of the experts that are taken."""
    how = run.embedder.model.hparams.routing
    assert how is not None
    name = run.trace.tensors[i].name.rpartition("-")[0]
    if name == "v_moe_weights" and (how.norm or how.scale not in (0.0, 1.0)):
        return weighed(run, i)
    python = "np.take_along_axis(p, e.astype(int), 1)"
    return made("w[t, k] = p[t, e[t, k]]", python, p=shown(run, i, "v_moe_p"), e=value_experts(run, i))


def routed_sum(run: Run, i: int) -> Formula:
    """v_moe_partial, the first few; Vcur_routed, all."""
    weighted = next(k for k in range(i - 1, -1, -1) if run.trace.tensors[k].name.startswith("v_moe_weighted"))
    name, n_used = run.trace.tensors[i].name.rpartition("-")[0], run.embedder.model.hparams.n_value_used
    n = n_used if name == "Vcur_routed" else i - weighted + 1
    return made(f"Σ v[t, k], k from 0 to {n - 1}", f"v[:, :{n}].sum(1)", v=tap_of(run, weighted))


def all_experts(run: Run, i: int) -> Formula:
    """ffn_out of k2-horizon: what the experts of a token add up to, and what all tokens take, if there is that."""
    return shared_expert(run, i) if run.embedder.model.hparams.n_ff_shexp else partial_sum(run, i)


LAST_NORM = "n.reshape(len(n), -1) * W"
K2: dict[str, Callable[[Run, int], Formula]] = {
    "attn_norm": table("n[t] · W, channel by channel", LAST_NORM, "attn_norm.weight", n="group_norm"),
    "ffn_norm": table("n[t] · W, channel by channel", LAST_NORM, "ffn_norm.weight", n="group_norm"),
    "result_norm": lambda run, i: made(
        "n[t] · W, channel by channel", LAST_NORM, n=shown(run, i, "group_norm"), W="output_norm.weight"
    ),
    "Vcur": table("x, head by head", "x", x="Vcur_routed"),
    "out_gate_ln2": of_last("x ln 2", "x * np.log(2)"),
    "out_gate": of_last("x / ln 2", "x / np.log(2)"),
    "attn_out_gated": table("a · g", "a * g", a="kqv_out", g="out_gate"),
    "v_moe_probs_biased": table("p + W", "p + W", "attn_v_gate.bias", p="v_moe_p"),
    "v_moe_argsort": of_last("the experts by p, the largest first", "np.argsort(-p, axis=1, kind='stable')", "p"),
    "v_moe_chosen": routed_weights,
    "v_moe_sum": of_last("Σ w[t, k] over k", "w.sum(1, keepdims=True)", "w"),
    "v_moe_clamped": of_last("max(s, 2^-14)", "np.maximum(s, 2.0**-14)", "s"),
    "v_moe_normed": table("w / s", "w / s", w="v_moe_chosen", s="v_moe_clamped"),
    "v_moe_weights": routed_weights,
    "v_moe_weighted": table("w[t, k] · v[t, k]", "w[:, :, None] * v", w="v_moe_weights|v_moe_normed|v_moe_chosen",
                            v="v_moe_silu"),
    "v_moe_partial": routed_sum,
    "Vcur_routed": routed_sum,
    "ffn_out": all_experts,
}  # fmt: skip
OF_K2: dict[str, Callable[[Run, int, Call], Formula]] = {
    "Qcur_normed": lambda run, i, call: heads_normed(run, i, call),
    "Kcur_normed": lambda run, i, call: heads_normed(run, i, call),
    "out_gate_softplus": lambda run, i, call: made("ln(1 + e^x)", "np.log1p(np.exp(x))", x=tap_of(run, i - 1)),
    "v_moe_values": lambda run, i, call: experts(run, i, call, value_experts(run, i)),
}


def heads_normed(run: Run, i: int, call: Call) -> Formula:
    """Queries or keys, normed, times weights of each head."""
    return made("n[t] · W, each head's own", "n * W.reshape(n.shape[1:])", n=tap_of(run, i - 1), W=call["w"].name)
