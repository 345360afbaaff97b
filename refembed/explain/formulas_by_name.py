"""The formula of a tensor that no single operation made: sums, products with a number, parts; by llama.cpp's name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from refembed.explain.formula import GATED, NO_FORMULA, POOLED, POOLED_TEXT, Formula, made
from refembed.explain.formulas_of_operations import chosen_experts, pooled_from
from refembed.explain.operands import array_of, base_of, columns, latest, number, part_of, tap_of
from refembed.explain.watch import Run, same_numbers

HIDDEN = (  # names of hidden states (T, C) between layers
    "l_out", "deepstack_out", "result_embd", "inp_norm", "inpL", "inp_scaled", "inp_embd", "embd", "model.embed_tokens",
    "model.input_embed",
)  # fmt: skip
BETWEEN = ("ffn_inp", "sa_out", "attn_residual")  # ... and between the two halves of a layer
WEIGHTS = tuple(f"ffn_moe_weights{end}" for end in ("_norm", "", "_softmax", "_scaled"))
SUMMED = (*HIDDEN, "ffn_inp", "attn_out", "ffn_out", "ffn_added", "parallel_out")  # terms of parallel layers' sums


def embedded(run: Run, i: int) -> Formula:
    """inp_embd: rows of two or three tables, added up."""
    calls = [c for c in run.calls[: run.shown[i].n_calls] if c.op == "get_rows" and "rel_b" not in c["w"].name]
    terms: list[str] = []
    python: list[str] = []
    more: dict[str, str] = {}
    shown = latest(run, i, "embd")
    for call in calls:
        name, ids = call["w"].name, list(call["ids"])
        if name == "token_embd.weight":
            terms.append("x" if shown is not None else "E[id[t]]")
            python.append("x" if shown is not None else "E[id]")
            more |= {"x": tap_of(run, shown)} if shown is not None else {"E": name, "id": "the token ids"}
        elif name == "position_embd.weight":
            terms.append("P[t]")
            python.append("P[t]")
            more |= {"P": name, "t": "the tokens' places, from 0"}
        else:
            one = ids == [0]
            terms.append("K[0]" if one else "K[s[t]]")
            python.append("K[0]" if one else "K[s]")
            more |= {"K": name} if one else {"K": name, "s": f"the segments = {list(map(int, ids))}"}
    return made(" + ".join(terms), " + ".join(python), **more)


def scaled(
    text: str, python: str, letter: str, name: str, value: Callable[[Run], Any], of: str = ""
) -> Callable[[Run, int], Formula]:
    """A product of the tensor before, or of the latest of a name, with one number."""

    def formula(run: Run, i: int) -> Formula:
        by = latest(run, i, of) if of else i - 1
        return NO_FORMULA if by is None else made(
            text, python, x=tap_of(run, by), **{letter: number(run, name, value(run))}
        )  # fmt: skip

    return formula


def embedding_scale(run: Run) -> float:
    """granite's, or minicpm's own."""
    given = run.embedder.model.hparams.embedding_scale
    return float(getattr(run.embedder.model.module, "EMBEDDING_SCALE", 1.0) if given is None else given)


def residual_scale(run: Run) -> float:
    """granite's, or minicpm's own."""
    hp, module = run.embedder.model.hparams, run.embedder.model.module
    return float(module.residual_scale(hp.n_layer) if hp.residual_scale is None else hp.residual_scale)


def query_width(run: Run) -> int:
    """What queries are divided by the root of: a head's width, but in the 27B models of Gemma C/H."""
    hp, module = run.embedder.model.hparams, run.embedder.model.module
    wide = hp.n_layer == getattr(module, "N_LAYER_27B", None)
    return int(hp.n_embd // hp.n_head if wide else hp.n_embd_head)


def temperature(run: Run, i: int) -> Formula:
    """Qcur_attn_temp_scaled (mistral3)."""
    hp = run.embedder.model.hparams
    text, python = "x · (1 + c ln(1 + floor(t / n)))", "x * (1 + c * np.log(1 + t // n))[:, None, None]"
    c = number(run, "attention.temperature_scale", float(hp.attn_temp_scale))
    n = number(run, "rope.scaling.original_context_length", hp.n_ctx_orig)
    return made(text, python, x=tap_of(run, i - 1), t="the tokens' places, from 0", c=c, n=n)


def residual(*streams: str) -> Callable[[Run, int], Formula]:
    """What came before plus the hidden states."""

    def formula(run: Run, i: int) -> Formula:
        x = latest(run, i, *streams)
        return NO_FORMULA if x is None else made("x + a", "x + a", x=tap_of(run, x), a=tap_of(run, i - 1))

    return formula


def shared_expert(run: Run, i: int) -> Formula:
    """ffn_out of a layer with experts and one that every token takes (granite); of gptneox a sum with its input."""
    by = latest(run, i, "ffn_moe_out")
    return side_by_side(run, i) if by is None else made("a + s", "a + s", a=tap_of(run, by), s=tap_of(run, i - 1))


def side_by_side(run: Run, i: int) -> Formula:
    """A sum in a layer whose attention and feed-forward stand side by side: the last two tensors that add up to it."""
    total, tensors = run.trace.tensors[i].array, run.trace.tensors
    terms = [k for k in range(i - 1, -1, -1) if base_of(tensors[k].name) in SUMMED]
    for k, j in itertools.combinations(terms[:8], 2):  # none is further back than the layer's input
        if same_numbers(tensors[j].array + tensors[k].array, total):
            return made("x + a", "x + a", x=tap_of(run, j), a=tap_of(run, k))
    return NO_FORMULA


def clamped(run: Run, i: int) -> Formula:
    """wqkv_clamped (mpt)."""
    c = number(run, "attention.clamp_kqv", float(run.embedder.model.hparams.clamp_kqv))
    return made("min(max(x, -c), c)", "np.clip(x, -c, c)", x=tap_of(run, i - 1), c=c)


def relative(run: Run, i: int) -> Formula:
    """pos_bias (T5)."""
    calls = [c for c in run.calls[: run.shown[i].n_calls] if c.op == "get_rows" and "rel_b" in c["w"].name]
    n = number(run, "attention.relative_buckets_count", run.embedder.model.hparams.n_buckets)
    text = "B[h, i, j] = W[bucket(j - i), h]: a bucket for each short distance, wider ones for longer"
    return made(text, "W[bucket(j - i, n)].transpose(2, 0, 1)", W=calls[-1]["w"].name, n=n)


def gated_by_name(op: str) -> Callable[[Run, int], Formula]:
    """A gate in which no single operation makes the product: gelu_erf(g) · u, max(g, 0) · u."""

    def formula(run: Run, i: int) -> Formula:
        name, gate, up = op, latest(run, i, "ffn_gate"), latest(run, i, "ffn_up", "ffn_up_b")
        if up is None:
            return NO_FORMULA
        g, u = ("", tap_of(run, up)) if gate is None else (tap_of(run, gate), tap_of(run, up))
        if not g:  # both are halves of one product
            F = run.trace.tensors[up].array.shape[1] // 2
            g, u = columns(u, 0, F), columns(u, F, 2 * F)
        call = run.calls[run.shown[i].n_calls - 1]
        if (
            call.op == "gelu_erf" and array_of(run, call["x"], i) == u
        ):  # the published jina-bert-v2 has it the other way
            g, u = u, g
        return made(*GATED[name], g=g, u=u)

    return formula


def of_last(text: str, python: str, letter: str = "x") -> Callable[[Run, int], Formula]:
    """Something of the tensor before."""
    return lambda run, i: made(text, python, **{letter: tap_of(run, i - 1)})


def taken(run: Run, i: int) -> Formula:
    """ffn_moe_weights: the shares of the experts that are taken."""
    by = latest(run, i, "ffn_moe_probs")
    python = "np.take_along_axis(p, e.astype(int), 1)"
    return (
        NO_FORMULA
        if by is None
        else made("w[t, k] = p[t, e[t, k]]", python, p=tap_of(run, by), e=chosen_experts(run, i))
    )


def over_sum(run: Run, i: int) -> Formula:
    """ffn_moe_weights_norm."""
    by = latest(run, i, "ffn_moe_weights")
    return NO_FORMULA if by is None else made("w / s", "w / s", w=tap_of(run, by), s=tap_of(run, i - 1))


def weighted(run: Run, i: int) -> Formula:
    """ffn_moe_weighted."""
    by = latest(run, i, *WEIGHTS)
    return (
        NO_FORMULA
        if by is None
        else made("w[t, k] · h[t, k]", "w[:, :, None] * h", w=tap_of(run, by), h=tap_of(run, i - 1))
    )


def partial_sum(run: Run, i: int) -> Formula:
    """ffn_moe_sum, the first few; ffn_moe_out, all."""
    by = latest(run, i, "ffn_moe_weighted")
    if by is None:
        return NO_FORMULA
    all_of_them = base_of(run.trace.tensors[i].name) in ("ffn_moe_out", "ffn_out")
    n = run.embedder.model.hparams.n_expert_used if all_of_them else i - by + 1
    return made(f"Σ h[t, k], k from 0 to {n - 1}", f"h[:, :{n}].sum(1)", h=tap_of(run, by))


def let_through(which: str) -> Callable[[Run, int], Formula]:
    """lfm2's two gates: the parts b, c and u of one product."""

    def formula(run: Run, i: int) -> Formula:
        by, C = latest(run, i, "model.layers.{}.conv.in_proj"), run.embedder.model.hparams.n_embd
        if by is None:
            return NO_FORMULA
        name = tap_of(run, by)
        if which == "b":
            return made("b · u", "b * u", b=columns(name, 0, C), u=columns(name, 2 * C, 3 * C))
        return made("c · z", "c * z", c=columns(name, C, 2 * C), z=tap_of(run, i - 1))

    return formula


def gated_inputs(run: Run, i: int) -> Formula:
    """per_layer_gated (gemma-embedding2), first_prediction_scaled (gemma3n): this layer's input times its gate."""
    gate, inputs = latest(run, i, "per_layer_gelu", "first_prediction_gated"), latest(run, i, "inp_per_layer")
    if gate is None or inputs is None:
        return NO_FORMULA
    layer = f"the layer = {run.trace.tensors[i].name.rpartition('-')[2]}"
    return made("g · e[:, l]", "g * e[:, l]", g=tap_of(run, gate), e=tap_of(run, inputs), l=layer)


def layer_output(run: Run, i: int) -> Formula:
    """l_out: what the layer adds and what it was added to; of Gemma 4 that sum times a number; of gemma3n streams."""
    name, _, il = run.trace.tensors[i - 1].name.rpartition("-")
    if name in ("attn_out", "ffn_inp", "parallel_out"):
        return side_by_side(run, i)
    if name == "corrected_rest":
        text, python = "the first stream of x, and behind it y", "np.concatenate([x[:1], y])"
        return two(text, python, "corrected", "corrected_rest")(run, i)
    if name == "mamba_out" and run.embedder.model.module.TRAITS.recurrent == "all":
        return residual(*HIDDEN)(run, i)
    if name == "per_layer_embd_out":
        return residual("pe_in")(run, i)
    if name != "per_layer_added":
        return residual(*BETWEEN, "attn_out")(run, i)
    return made("x · W", "x * W", x=tap_of(run, i - 1), W=f"blk.{il}.layer_output_scale.weight")


def between_norms(run: Run, i: int) -> Formula:
    """per_layer_added: what is multiplied by a number of the layer next."""
    by_gate = base_of(run.trace.tensors[i - 1].name) == "per_layer_embd_out"
    return residual("pe_in" if by_gate else "attn_out")(run, i)


def two(text: str, python: str, x: str, y: str) -> Callable[[Run, int], Formula]:
    """Something of the latest tensors x and y of these names, | between names that will do."""

    def formula(run: Run, i: int) -> Formula:
        a, b = latest(run, i, *x.split("|")), latest(run, i, *y.split("|"))
        return NO_FORMULA if a is None or b is None else made(text, python, x=tap_of(run, a), y=tap_of(run, b))

    return formula


def of_weight(text: str, python: str, weight: str) -> Callable[[Run, int], Formula]:
    """Something of the tensor before and a weight of the layer."""

    def formula(run: Run, i: int) -> Formula:
        name = f"blk.{run.trace.tensors[i].name.rpartition('-')[2]}.{weight}"
        more = {"e": chosen_experts(run, i)} if "e" in python else {}
        return made(text, python, x=tap_of(run, i - 1), W=name, **more)

    return formula


def half_of_both(text: str, python: str) -> Callable[[Run, int], Formula]:
    """ffn_moe_gate and ffn_moe_up, where one matrix makes both."""

    def formula(run: Run, i: int) -> Formula:
        by = latest(run, i, "ffn_moe_gate_up")
        F = run.trace.tensors[i].array.shape[-1]
        return NO_FORMULA if by is None else made(text, python.format(F), x=tap_of(run, by))

    return formula


def with_bias(run: Run, i: int) -> Formula:
    """A norm of phimoe, whose bias no operation adds."""
    name, _, il = run.trace.tensors[i].name.rpartition("-")
    b = f"blk.{il}.{name}.bias" if il != "result_norm" else "output_norm.bias"
    return made("y + b", "y + b", y=tap_of(run, i - 1), b=b)


def pooled_row(run: Run, i: int) -> Formula:
    """Pooling that no operation does."""
    from refembed.pooling.heads import rank_pooling

    how = run.trace.meta["pooling"]
    how = rank_pooling(run.embedder.model.hparams) if how == "rank" else how
    return made(POOLED_TEXT[how], POOLED[how], x=pooled_from(run, i))


def turned_or_scaled(run: Run, i: int) -> Formula:
    """A Qcur that no operation makes: phi3 scales its queries under their old name, olmo2 copies them."""
    part = copied(run, i)
    return BY_NAME["Qcur_scaled"](run, i) if part is NO_FORMULA else part


def copied(run: Run, i: int) -> Formula:
    """Queries, keys or values as a part of one product (olmo2)."""
    by, x = latest(run, i, "wqkv", "wqkv_b"), run.trace.tensors[i].array
    part = "" if by is None else part_of(run.trace.tensors[by].array, x.reshape(len(x), -1), tap_of(run, by))
    return made("x, as the file's one matrix has it", "x", x=part)


BY_NAME: dict[str, Callable[[Run, int], Formula]] = {
    "embd": scaled("x · c", "x * c", "c", "embedding_scale", embedding_scale),
    "inp_embd": embedded,
    "inpL": residual("embd"),
    "inp_scaled": scaled(
        "x · sqrt(C)", "x * np.sqrt(C)", "C", "embedding_length", lambda run: run.embedder.info.n_embd
    ),
    "Qcur": turned_or_scaled,
    "Kcur": copied,
    "Vcur": copied,
    "Qcur_scaled": scaled("x / sqrt(D)", "x / np.sqrt(D)", "D", "attention.key_length", query_width),
    "Qcur_attn_temp_scaled": temperature,
    "attn_scaled": scaled("x · r", "x * r", "r", "residual_scale", residual_scale),
    "ffn_scaled": scaled("x · r", "x * r", "r", "residual_scale", residual_scale),
    "ffn_inp": residual(*HIDDEN),
    "sa_out": residual(*HIDDEN),
    "attn_out": residual(*HIDDEN),
    "attn_residual": residual(*HIDDEN),
    "pe_in": residual("attn_out"),
    "inp_per_layer_scaled": scaled(
        "x / sqrt(C)", "x / np.sqrt(C)", "C", "embedding_length", lambda run: run.embedder.info.n_embd
    ),
    "per_layer_gated": gated_inputs,
    "per_layer_added": between_norms,
    "inp_per_layer_rows": scaled(
        "x · sqrt(E)",
        "x * np.sqrt(E)",
        "E",
        "embedding_length_per_layer_input",
        lambda run: run.embedder.model.hparams.n_embd_per_layer,
        "inp_per_layer_selected",
    ),
    "inp_per_layer_sum": two(
        "x + y, layer by layer", "x + y.reshape(x.shape)", "per_layer_proj", "inp_per_layer_rows|inp_per_layer_selected"
    ),
    "inp_per_layer": of_last("x / sqrt(2)", "x / np.sqrt(2)"),
    "attn_norm": with_bias,
    "ffn_norm": with_bias,
    "result_norm": with_bias,
    "router_scaled": scaled(
        "x / sqrt(C)", "x / np.sqrt(C)", "C", "embedding_length", lambda run: run.embedder.info.n_embd
    ),
    "router_weighted": of_weight("x · W", "x * W", "ffn_gate_inp.scale"),
    "ffn_moe_down_scaled": of_weight(
        "x[t, k] · W[e[t, k]], each expert's own", "x * W[e.astype(int)][:, :, None]", "ffn_down_exps.scale"
    ),
    "ffn_moe_gate": half_of_both("the first half of x", "x[..., :{}]"),
    "ffn_moe_up": half_of_both("the second half of x", "x[..., {}:]"),
    "ffn_moe_combined": two("x + y", "x + y", "ffn_mlp", "ffn_moe"),
    "ffn_shexp_gate": two("x / y, which is 1 / (1 + e^-y)", "x / y", "ffn_shexp_silu", "ffn_shexp_gate_inp"),
    "ffn_shexp_out": two("x · y", "x * y", "ffn_shexp", "ffn_shexp_gate"),
    "l_out": layer_output,
    "result_embd": residual(*BETWEEN),
    "deepstack_out": of_last("x + 0: a picture would be added here", "x"),
    "ffn_out": shared_expert,
    "pos_bias": relative,
    "ffn_sqr(relu)": of_last("x²", "x**2"),
    "parallel_out": side_by_side,
    "ffn_added": side_by_side,
    "wqkv_clamped": clamped,
    "ffn_reglu": gated_by_name("relu"),
    "ffn_geglu_erf": gated_by_name("gelu_erf"),
    "ffn_geglu": gated_by_name("gelu_erf"),
    "ffn_moe_argsort": of_last("the experts by p, the largest first", "np.argsort(-p, axis=1, kind='stable')", "p"),
    "ffn_moe_weights": taken,
    "ffn_moe_weights_sum": of_last("Σ w[t, k] over k", "w.sum(1, keepdims=True)", "w"),
    "ffn_moe_weights_sum_clamped": of_last("max(s, 2^-14)", "np.maximum(s, 2.0**-14)", "s"),
    "ffn_moe_weights_norm": over_sum,
    "ffn_moe_weighted": weighted,
    "ffn_moe_sum": partial_sum,
    "ffn_moe_out": partial_sum,
    "conv_gated": let_through("b"),
    "conv_gated_again": let_through("c"),
    "cls_pooled": pooled_row,
    "result_embd_pooled": pooled_row,
}
ALWAYS_BY_NAME = ("ffn_geglu_erf",)  # its operation makes only a factor of it
