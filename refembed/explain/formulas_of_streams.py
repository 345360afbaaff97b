"""Formulas of gemma3n's streams of hidden states (AltUp) and of its sparse gates, by the names of its taps."""

from __future__ import annotations

from collections.abc import Callable

from refembed.explain.formula import NO_FORMULA, Formula, made
from refembed.explain.formulas_by_name import gated_inputs, of_last, scaled, two
from refembed.explain.operands import latest, tap_of
from refembed.explain.watch import Run

STREAMS = ("l_out", "inp_stacked")  # names of all streams (S, T, C)


def latest_of(text: str, python: str, *names: str) -> Callable[[Run, int], Formula]:
    """Something of the latest tensor that has one of these names."""

    def formula(run: Run, i: int) -> Formula:
        by = latest(run, i, *names)
        return NO_FORMULA if by is None else made(text, python, x=tap_of(run, by))

    return formula


def products(table: str, python: str, *names: str) -> Callable[[Run, int], Formula]:
    """Each stream times a matrix of its own."""

    def formula(run: Run, i: int) -> Formula:
        by = latest(run, i, *names)
        text = "y[i] = x[i] W[i]ᵀ, of each stream i"
        return NO_FORMULA if by is None else made(text, python, x=tap_of(run, by), W=f"{table}.weight")

    return formula


def squares(run: Run, i: int) -> Formula:
    """Of the products that are to be scaled, or of the stream that says how long they are to be."""
    several = run.trace.tensors[i].array.ndim == 3
    if several:
        return latest_of("x²", "x**2", "altup_products", "unembd_products")(run, i)
    if latest(run, i, "l_out") is None:
        return latest_of("x²", "x**2", "inp_scaled")(run, i)
    return latest_of("the first stream of x, squared", "x[0]**2", "l_out")(run, i)


def unembedded(run: Run, i: int) -> Formula:
    """unembd_sum: streams added up, one after the other."""
    n = sum(t.name == "unembd_sum" for t in run.trace.tensors[:i])
    s, y = latest(run, i, "l_out"), latest(run, i, "altup_unembd")
    if s is None or y is None:
        return NO_FORMULA
    text = f"the first stream of s, and {n + 1} of y, added up"
    return made(text, f"s[0] + y[:{n + 1}].sum(0)", s=tap_of(run, s), y=tap_of(run, y))


def weighted_streams(run: Run, i: int) -> Formula:
    """first_prediction_weighted: the first stream, channel by channel."""
    by, il = latest(run, i, "corrected"), run.trace.tensors[i].name.rpartition("-")[2]
    weight = f"blk.{il}.altup_correct_scale.weight"
    return NO_FORMULA if by is None else made("the first stream of x, times W", "x[0] * W", x=tap_of(run, by), W=weight)


def all_coefs(run: Run, i: int) -> Formula:
    """all_coefs that no operation makes: corrections plus 1."""
    return of_last("x + 1", "x + 1")(run, i)


MIXED = "y[t, a] = x[a, t] mixed by w[t], S by S numbers for each token"
BY_NAME: dict[str, Callable[[Run, int], Formula]] = {
    "inp_per_layer_selected": scaled(
        "x · sqrt(E)", "x * np.sqrt(E)", "E", "width of a per-layer input",
        lambda run: run.embedder.model.hparams.n_embd_per_layer,
    ),
    "altup_repeated": latest_of("x, once for each further stream", "np.stack([x] * 3)", "inp_scaled"),
    "altup_products": products("altup_proj", "np.einsum('itc,inc->itn', x, W)", "altup_repeated"),
    "unembd_products": products("altup_unembd_proj", "np.einsum('itc,inc->itn', x[1:], W)", "l_out"),
    "squares": squares,
    "squares_sum": of_last("Σ x[c] over c", "x.sum(-1, keepdims=True)"),
    "length": of_last("sqrt(x)", "np.sqrt(x)"),
    "altup_added_scaled": two("x · y", "x * y", "altup_products", "length"),
    "altup_added": two("x / y", "x / y", "altup_added_scaled", "length"),
    "altup_unembd_scaled": two("x · y", "x * y", "unembd_products", "length"),
    "altup_unembd": two("x / y", "x / y", "altup_unembd_scaled", "length"),
    "inp_stacked": two("x, and behind it y", "np.concatenate([x[None], y])", "inp_scaled", "altup_added"),
    "router_scaled": scaled("x / C", "x / C", "C", "embedding_length", lambda run: run.embedder.info.n_embd),
    "predictions_mixed": two(
        MIXED, "np.einsum('tab,btc->tac', y.reshape(len(y), len(x), -1), x)", "|".join(STREAMS), "all_coefs"
    ),
    "predictions": two("x, as (S, T, C), plus y", "x.transpose(1, 0, 2) + y", "predictions_mixed", "|".join(STREAMS)),
    "active_prediction": latest_of("the first stream of x", "x[0]", "predictions"),
    "attn_gated": two("x + y", "x + y", "attn_post_norm", "active_prediction"),
    "attn_laurel_sum": two("x + y", "x + y", "attn_gated", "laurel_out"),
    "attn_laurel": of_last("x / sqrt(2)", "x / np.sqrt(2)"),
    "laurel_out": two("x + y", "x + y", "laurel_normed", "attn_norm"),
    "gate_mean": of_last("mean of x, row by row", "x.mean(-1, keepdims=True)"),
    "gate_centered": two("x - y", "x - y", "ffn_gate", "gate_mean"),
    "gate_squares": of_last("x²", "x**2"),
    "gate_squares_sum": of_last("Σ x[c] over c", "x.sum(-1, keepdims=True)"),
    "gate_variance": two("x / (F - 1), F columns of y", "x / (y.shape[1] - 1)", "gate_squares_sum", "ffn_gate"),
    "gate_deviation": of_last("sqrt(x)", "np.sqrt(x)"),
    "gate_above": of_last("1.6448533535003662 x", "1.6448533535003662 * x"),
    "gate_cutoff": two("x + y", "x + y", "gate_mean", "gate_above"),
    "gate_less": two("x - y", "x - y", "ffn_gate", "gate_cutoff"),
    "gate_top": of_last("max(x, 0)", "np.maximum(x, 0)"),
    "ffn_gated": two("x · y", "x * y", "ffn_up", "ffn_gelu"),
    "attn_ffw_laurel_gated": two("x + y", "x + y", "ffn_post_norm", "attn_laurel"),
    "innovation": two("x less the first stream of y", "x - y[0]", "attn_ffw_laurel_gated", "predictions"),
    "innovation_repeated": of_last("x, once for each stream", "np.stack([x] * 4)"),
    "all_coefs": all_coefs,
    "innovation_weighted": two("x[s, t] · y[t, s]", "x * y.T[:, :, None]", "innovation_repeated", "all_coefs"),
    "corrected": two("x + y", "x + y", "innovation_weighted", "predictions"),
    "first_prediction_weighted": weighted_streams,
    "first_prediction_scaled": gated_inputs,
    "corrected_rest": two("streams of x but the first, each plus y", "x[1:] + y", "corrected", "first_prediction_out"),
    "unembd_sum": unembedded,
    "unembd_merged": of_last("x / 4", "x / 4"),
}  # fmt: skip
