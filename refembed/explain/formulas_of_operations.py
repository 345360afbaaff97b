"""The formula of a tensor that one operation made: one function for each operation of `Ops`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refembed.explain.formula import GATED, PLAIN, POOLED, POOLED_TEXT, Formula, made
from refembed.explain.formulas_of_states import half_of_heads
from refembed.explain.operands import array_of, base_of, columns, latest, number, rows_of, tap_of
from refembed.explain.watch import Call, Run
from refembed.kernels.exact.attention import slopes
from refembed.kernels.exact.rope import angles, magnitude
from refembed.kernels.ops import AttentionMask, Rope

NORMS = {  # operation -> the formula without its weight, in words and in NumPy, and the key of its epsilon
    "layer_norm": (
        "(x - mean(x)) / sqrt(var(x) + eps)",
        "(x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)",
    ),
    "rms_norm": ("x / sqrt(mean(x²) + eps)", "x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)"),
}


def rows(run: Run, i: int, call: Call) -> Formula:
    """get_rows: E[id], with adapters of that table; of positions P[t]."""
    if call["w"].name == "position_embd.weight":
        return made("P[t]", "P[t]", P=call["w"].name, t="the tokens' places, from 0")
    text, python, more = with_adapters(run, call["w"].name, "E[id[t]]", "E[id]", "[id[t]]", "[id]")
    return made(text, python, E=call["w"].name, id="the token ids", **more)


def linear(run: Run, i: int, call: Call) -> Formula:
    """x Wᵀ, and plus b at the end."""
    text, python, more = with_adapters(run, call["w"].name, "x Wᵀ", "x @ W.T", "", "")
    if call["b"] is not None and not run.shown[i].inner:
        text, python, more = f"{text} + b", f"{python} + b", {**more, "b": call["b"].name}
    return made(text, python, x=rows_of(run, call["x"], i), W=call["w"].name, **more)


def with_adapters(
    run: Run, name: str, text: str, python: str, row_text: str, row_python: str
) -> tuple[str, str, dict[str, str]]:
    """What LoRA adapters add to a product with that tensor, or to its rows."""
    more: dict[str, str] = {}
    for k, (scale, pair) in enumerate(getattr(run.embedder.ops, "pairs", {}).get(name, ()), 1):
        a, b, s = f"A{k}", f"B{k}", f"s{k}"
        text += f" + {s} {a}{row_text} {b}ᵀ" if row_text else f" + {s} (x {a}ᵀ) {b}ᵀ"
        python += f" + {s} * {a}{row_python} @ {b}.T" if row_python else f" + {s} * (x @ {a}.T) @ {b}.T"
        more |= {a: pair.a.name, b: pair.b.name, s: f"the adapter's scale = {float(scale)!r}"}
    return text, python, more


def norm(run: Run, i: int, call: Call) -> Formula:
    """A norm: first without its weight, then with it, then with its bias. A residual is added to x before."""
    text, python = NORMS[call.op.removeprefix("add_")]
    x, name, last = added_up(run, i, call), base_of(run.trace.tensors[i].name), not run.shown[i].inner
    kind = run.embedder.model.module.TRAITS.norm
    eps = number(run, f"attention.layer_norm_{'rms_' if kind == 'rms' else ''}epsilon", float(call["eps"]))
    if not last and name == "norm_w":
        return made("n · W", "n * W", n=tap_of(run, i - 1), W=call["w"].name)
    weights: dict[str, str] = {}
    if last and call["w"] is not None:
        text, python, weights = f"{text} · W", f"{python} * W", {"W": call["w"].name}
    if last and call.op != "rms_norm" and call["b"] is not None:
        text, python, weights = f"{text} + b", f"{python} + b", {**weights, "b": call["b"].name}
    return made(text, python, x=x, eps=eps, **weights)


def added_up(run: Run, i: int, call: Call) -> str:
    """What is normalized: x, or the sum of x and the residual."""
    x = rows_of(run, call["x"], i) or half_of_heads(run, i, 0)
    if call.op != "add_layer_norm":
        return x
    y = array_of(run, call["residual"], i)
    return f"{x} + {y}" if x and y else ""


def plain(run: Run, i: int, call: Call) -> Formula:
    """An operation of one tensor; where the result is multiplied by another, that is `gated_by_name`."""
    text, python = PLAIN[call.op]
    return made(text, python, x=array_of(run, call["x"], i))


def gated(run: Run, i: int, call: Call) -> Formula:
    """A gate and what it lets through."""
    text, python = GATED[call.op]
    return made(text, python, g=array_of(run, call["gate"], i), u=array_of(run, call["up"], i))


def rotation(run: Run, i: int, call: Call, given: str = "") -> Formula:
    """RoPE: pairs of channels turned by the token's place. given: what is turned, where the run shows it by parts."""
    r: Rope = call["rope"]
    half, m = r.n_dims // 2, magnitude(r)
    angle, python, operands = angles_of(run, r)
    channels = "(2i, 2i + 1)" if r.pairs == "norm" else f"(i, i + {half})"
    text = (
        f"pairs (a, b) of x → (a cos θ - b sin θ, a sin θ + b cos θ), θ = {angle}, of channels {channels}, i < {half}"
    )
    text, python = (
        (text, f"rope(x, {python}, {r.pairs!r})")
        if m == 1
        else (f"{text}; these times m", f"rope(x, {python}, {r.pairs!r}, m)")
    )
    operands |= {} if m == 1 else {"m": f"how much longer the vector gets = {m!r}"}
    return made(text, python, x=given or array_of(run, call["x"], i), t="the tokens' places, from 0", **operands)


def angles_of(run: Run, r: Rope) -> tuple[str, str, dict[str, str]]:
    """The angle of pair i at place t: in words, in NumPy, and its operands."""
    half = r.n_dims // 2
    if r.ext_factor:
        rates = angles(np.array([1]), r)[0].tolist()
        return (
            "t w[i]",
            "t[:, None] * np.array(w)",
            {"w": f"YaRN's speeds, between base^(-2i/n) and that over the factor = {rates}"},
        )
    text, python = "t base^(-2i/n)", f"t[:, None] * base ** (-2 * np.arange({half}) / n)"
    base, n = number(run, "rope.freq_base", float(r.freq_base)), number(run, "rope.dimension_count", r.n_dims)
    operands = {"base": base, "n": n}
    if r.factors is not None:
        text, python = f"{text} / f[i]", f"{python} / np.array(f)"
        operands["f"] = f"{r.factors.name} = {r.factors.dequantize().ravel()[:half].tolist()}"
    if r.freq_scale != 1:
        text, python = f"{text} / c", f"{python} / c"
        operands["c"] = number(run, "rope.scaling.factor", float(np.float32(1 / r.freq_scale)))
    return text, python, operands


def attention(run: Run, i: int, call: Call) -> Formula:
    """One of the steps of attention, or, where the run shows none, all of them."""
    name, shown = base_of(run.trace.tensors[i].name), run.shown[i]
    if shown.inner:
        return ATTENTION[name](run, i, call)
    if latest(run, i, "kqv") == i - 1:
        return made("the heads of y, side by side", "np.concatenate(list(y), axis=-1)", y=tap_of(run, i - 1))
    scale_text, _, scale = scale_of(run, call)
    names = {letter: array_of(run, call[letter.lower()], i) for letter in "QKV"}
    text = f"softmax(Q Kᵀ{scale_text}{' + mask' if mask_of(call) else ''}) V of each head, side by side"
    return made(text, "", **names, **scale)


def head_counts(run: Run, call: Call) -> dict[str, str]:
    """The operands H and G: heads of queries, and of keys and values."""
    H, G = call["spec"].n_head, call["spec"].n_head_kv
    more = {"G": number(run, "attention.head_count_kv", G)} if G != H else {}
    return {"H": number(run, "attention.head_count", H), **more}


def scores(run: Run, i: int, call: Call) -> Formula:
    """kq."""
    shared = call["spec"].group > 1
    keys = "np.repeat(K.reshape(T, G, -1), H // G, 1)" if shared else "K.reshape(T, H, -1)"
    text = "S[h, i, j] = Q[i, h] · K[j, h]" + (", H/G heads of queries to a head of keys" if shared else "")
    python = f"np.einsum('ihd,jhd->hij', Q.reshape(T, H, -1), {keys})"
    T = str(len(call["q"]))
    return made(text, python, Q=array_of(run, call["q"], i), K=array_of(run, call["k"], i), T=f"tokens = {T}",
                **head_counts(run, call))  # fmt: skip


def scale_of(run: Run, call: Call) -> tuple[str, str, dict[str, str]]:
    """What scores are multiplied by: in words, in NumPy, and its operand."""
    scale, D = float(call["spec"].scale), call["q"].shape[1] // call["spec"].n_head
    if scale == 1:
        return "", "", {}
    if np.isclose(scale, D**-0.5, rtol=1e-6):
        return " / sqrt(D)", " / np.sqrt(D)", {"D": number(run, "attention.key_length", D)}
    return " · c", " * c", {"c": number(run, "attention.scale", scale)}


def mask_of(call: Call) -> str:
    """The condition under which query i sees key j; "" where it sees all."""
    mask: AttentionMask = call["spec"].mask
    seen = ["j <= i"] if mask.causal else []
    if mask.window and mask.kind == "chunked":
        seen.append(f"j >= i // {mask.window} * {mask.window}")
    elif mask.window:
        seen.append(f"abs(i - j) <= {mask.window // 2}" if mask.kind == "symmetric" else f"i - j < {mask.window}")
    return " and ".join(seen)


def shares(run: Run, i: int, call: Call) -> Formula:
    """kq_soft_max."""
    by = latest(run, i, "kq", "kq_scaled_2", "kq_plus_kq_b")
    assert by is not None
    done = base_of(run.trace.tensors[by].name) != "kq"  # the scale was applied before the cap or the bias
    text, python, more = ("", "", {}) if done else scale_of(run, call)
    text, python = f"S{text}", f"S{python}"
    if seen := mask_of(call):
        allowed = " & ".join(f"({part})" for part in seen.split(" and "))
        text, python = f"{text} + mask", f"{python} + np.where({allowed}, 0, -np.inf)"
        more["mask"] = f"0 where {seen}, elsewhere -inf (query i, key j)"
    if max_bias := call["spec"].mask.max_bias:
        text, python = f"{text} - m[h] |i - j|", f"{python} - np.array(m)[:, None, None] * abs(i - j)"
        more["m"] = f"ALiBi's slopes of the heads = {slopes(call['spec'].n_head, max_bias).tolist()}"
    if (sinks := call["sinks"]) is not None:
        text = f"A = softmax({text} and s[h], which has no value), row by row"
        python = f"softmax(np.concatenate([{python}, s[:, None, None] + 0 * S[..., :1]], -1))[..., :-1]"
        return made(text, python, S=tap_of(run, by), s=sinks.name, **more)
    return made(f"A = softmax({text}), row by row", f"softmax({python})", S=tap_of(run, by), **more)


def capped(run: Run, i: int, call: Call) -> Formula:
    """Gemma 2's three steps."""
    name, x = base_of(run.trace.tensors[i].name), tap_of(run, i - 1)
    cap = number(run, "attn_logit_softcapping", float(call["spec"].soft_cap))
    if name == "kq_tanh":
        return made("tanh(x)", "np.tanh(x)", x=x)
    if name == "kq_scaled_2":
        return made("cap · x", "cap * x", x=x, cap=cap)
    text, python, more = scale_of(run, call)
    return made(f"S{text} / cap", f"S{python} / cap", S=x, cap=cap, **more)


def biased(run: Run, i: int, call: Call) -> Formula:
    """kq_plus_kq_b (T5)."""
    text, python, more = scale_of(run, call)
    by = latest(run, i, "pos_bias")
    assert by is not None
    return made(f"S{text} + B", f"S{python} + B", S=tap_of(run, i - 1), B=tap_of(run, by), **more)


def transposed(run: Run, i: int, call: Call) -> Formula:
    """v_cont."""
    shared = call["spec"].group > 1
    letter, what = ("G", "attention.head_count_kv") if shared else ("H", "attention.head_count")
    heads = {letter: number(run, what, call["spec"].n_head_kv)}
    text, python = "y[h, d, t] = V[t, h, d]: the same numbers in another order", "V.reshape(len(V), {}, -1)"
    return made(text, python.format(letter) + ".transpose(1, 2, 0)", V=array_of(run, call["v"], i), **heads)


def mixed(run: Run, i: int, call: Call, given: str = "") -> Formula:
    """kqv. given: the values, where the run shows them by parts."""
    shared = call["spec"].group > 1
    values = "np.repeat(V.reshape(len(V), G, -1), H // G, 1)" if shared else "V.reshape(len(V), H, -1)"
    python = f"np.einsum('hij,jhd->hid', A, {values})"
    return made("A V, of each head", python, A=tap_of(run, i - 1), V=given or array_of(run, call["v"], i),
                **head_counts(run, call))  # fmt: skip


ATTENTION: dict[str, Callable[[Run, int, Call], Formula]] = {
    "v_cont": transposed,
    "kq": scores,
    "kq_scaled_1": capped,
    "kq_tanh": capped,
    "kq_scaled_2": capped,
    "kq_plus_kq_b": biased,
    "kq_soft_max": shares,
    "kqv": mixed,
}


def chosen_experts(run: Run, i: int) -> str:
    """The columns of ffn_moe_argsort that are taken."""
    by = latest(run, i, "ffn_moe_argsort")
    return "" if by is None else columns(tap_of(run, by), 0, run.embedder.model.hparams.n_expert_used)


def experts(run: Run, i: int, call: Call, chosen: str = "") -> Formula:
    """Each token through the matrices of its experts. chosen: these, where they are not feed-forward's."""
    own = call["x"].ndim == 3
    python = f"np.einsum('{'tkc' if own else 'tc'},tknc->tkn', x, W[e.astype(int)])"
    text = f"y[t, k] = {'x[t, k]' if own else 'x[t]'} W[e[t, k]]ᵀ"
    text, python, more = with_expert_adapters(run, call["w"].name, own, text, python)
    if call["b"] is not None and not run.shown[i].inner:
        text, python, more = f"{text} + b[e[t, k]]", f"{python} + b[e.astype(int)]", {**more, "b": call["b"].name}
    return made(
        text, python, x=array_of(run, call["x"], i), W=call["w"].name, e=chosen or chosen_experts(run, i), **more
    )


def with_expert_adapters(run: Run, name: str, own: bool, text: str, python: str) -> tuple[str, str, dict[str, str]]:
    """Adapters of experts are named in words alone."""
    pairs = getattr(run.embedder.ops, "pairs", {}).get(name, ())
    return (f"{text} + s (x Aᵀ) Bᵀ of each adapter", "", {}) if pairs else (text, python, {})


def convolution(run: Run, i: int, call: Call) -> Formula:
    """A few weights of each channel along the text."""
    n, ahead = call["w"].shape[1], call["ahead"]
    text = f"y[t] = Σ W[k] x[t - {n - 1 - ahead} + k], k from 0 to {n - 1}; 0 outside the text"
    python = f"sum(W[:, k] * np.pad(x, (({n - 1 - ahead}, {ahead}), (0, 0)))[k:k + len(x)] for k in range({n}))"
    if call["bias"] is not None and not run.shown[i].inner:
        return made("y + b", "y + b", y=tap_of(run, i - 1), b=call["bias"].name)
    return made(text, python, x=array_of(run, call["x"], i), W=call["w"].name)


def pooled_from(run: Run, i: int) -> str:
    """The hidden states that are pooled."""
    by = latest(run, i, "result_norm", "final_norm_out", "result_embd", "result_embd_proj")
    return "" if by is None else tap_of(run, by)


def mean(run: Run, i: int, call: Call) -> Formula:
    """Mean pooling."""
    return made(POOLED_TEXT["mean"], POOLED["mean"], x=array_of(run, call["x"], i) or pooled_from(run, i))


BY_OPERATION: dict[str, Callable[[Run, int, Call], Formula]] = {
    "get_rows": rows,
    "linear": linear,
    "layer_norm": norm,
    "add_layer_norm": norm,
    "rms_norm": norm,
    **dict.fromkeys(PLAIN, plain),
    "geglu": gated,
    "swiglu": gated,
    "swiglu_oai": gated,
    "rope": rotation,
    "attention": attention,
    "experts": experts,
    "short_conv": convolution,
    "mean": mean,
}
