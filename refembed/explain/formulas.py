"""The formula of each tensor of a run, with what its letters stand for: for reading, and in NumPy for checking.

    text      (x - mean(x)) / sqrt(var(x) + eps) · W + b
    python    (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * W + b
    operands  x = kqv_out-0 + inp_norm-0, eps = bert.attention.layer_norm_epsilon = 1e-12, W = ..., b = ...

Nothing is looked up by a tensor's name that the run can tell: a formula comes from the operation that was called, and
its operands from that operation's arguments. `python` uses np, `softmax`, `erf`, `rope` and `bucket` (T5); it is ""
where NumPy has no line for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from refembed.explain.operands import Operand, array_of, base_of, columns, latest, number, tap_of
from refembed.explain.watch import Call, Run
from refembed.kernels.attention import slopes
from refembed.kernels.ops import Mask, Rope
from refembed.kernels.rope import angles, magnitude

NORMS = {  # operation -> the formula without its weight, in words and in NumPy, and the key of its epsilon
    "layer_norm": (
        "(x - mean(x)) / sqrt(var(x) + eps)",
        "(x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)",
    ),
    "rms_norm": ("x / sqrt(mean(x²) + eps)", "x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)"),
}
GELU = (
    "½ x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))",
    "x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))",
)
PLAIN = {  # operation of one tensor -> its formula
    "gelu": GELU,
    "gelu_erf": ("x Φ(x) = ½ x (1 + erf(x / sqrt(2)))", "x / 2 * (1 + erf(x / np.sqrt(2)))"),
    "silu": ("x / (1 + e^-x)", "x / (1 + np.exp(-x))"),
    "tanh": ("tanh(x)", "np.tanh(x)"),
    "softmax": ("e^x / Σ e^x, row by row", "softmax(x)"),
}
GATED = {
    "swiglu": ("g / (1 + e^-g) · u", "g / (1 + np.exp(-g)) * u"),
    "geglu": (GELU[0].replace("x", "g") + " · u", GELU[1].replace("x", "g").replace("egp", "exp") + " * u"),
    "gelu_erf": ("g Φ(g) · u = ½ g (1 + erf(g / sqrt(2))) · u", "g / 2 * (1 + erf(g / np.sqrt(2))) * u"),
    "relu": ("max(g, 0) · u", "np.maximum(g, 0) * u"),
}
POOLED = {  # pooling -> in NumPy
    "mean": "x.mean(0)", "cls": "x[0]", "last": "x[-1]", "max": "x.max(0)", "none": "x",
    "mean_sqrt_len": "x.sum(0) / np.sqrt(len(x))",
    "weightedmean": "np.average(x, axis=0, weights=np.arange(1, len(x) + 1))",
}  # fmt: skip
POOLED_TEXT = {
    "mean": "p = Σ x[t] / T", "cls": "p = x[0]", "last": "p = x[T-1]", "max": "p[c] = max over t of x[t, c]",
    "mean_sqrt_len": "p = Σ x[t] / sqrt(T)", "weightedmean": "p = Σ t x[t] / Σ t, t from 1", "none": "p[t] = x[t]",
}  # fmt: skip
HIDDEN = (  # names of hidden states (T, C) between layers
    "l_out", "deepstack_out", "result_embd", "inp_norm", "inp_scaled", "inp_embd", "embd", "model.embed_tokens",
)  # fmt: skip
BETWEEN = ("ffn_inp", "sa_out")  # ... and between the two halves of a layer


@dataclass(frozen=True)
class Formula:
    """How one tensor is computed."""

    text: str = ""
    python: str = ""
    operands: tuple[Operand, ...] = ()


NO_FORMULA = Formula()


def formula_of(run: Run, i: int) -> Formula:
    """The formula of the i-th tensor of a run."""
    shown, name = run.shown[i], base_of(run.trace.taps[i].name)
    if name in BY_NAME and (shown.call is None or name in ALWAYS_BY_NAME):
        return BY_NAME[name](run, i)
    return NO_FORMULA if shown.call is None else BY_OPERATION[shown.call.op](run, i, shown.call)


def made(text: str, python: str, **operands: str) -> Formula:
    """A formula; NO_FORMULA where the run does not show what goes into it."""
    if not all(operands.values()):
        return NO_FORMULA
    return Formula(text, python, tuple(Operand(letter, what) for letter, what in operands.items()))


# --- what operations do ---


def rows(run: Run, i: int, call: Call) -> Formula:
    """get_rows: E[id], with adapters of that table."""
    text, python, more = with_adapters(run, call["w"].name, "E[id[t]]", "E[id]", "[id[t]]", "[id]")
    return made(text, python, E=call["w"].name, id="the token ids", **more)


def linear(run: Run, i: int, call: Call) -> Formula:
    """x Wᵀ, and plus b at the end."""
    text, python, more = with_adapters(run, call["w"].name, "x Wᵀ", "x @ W.T", "", "")
    if call["b"] is not None and not run.shown[i].inner:
        text, python, more = f"{text} + b", f"{python} + b", {**more, "b": call["b"].name}
    return made(text, python, x=array_of(run, call["x"], i), W=call["w"].name, **more)


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
    """A norm: first without its weight, then with it, then with its bias. `plus` is added to x before."""
    text, python = NORMS[call.op]
    x, name, last = added_up(run, i, call), base_of(run.trace.taps[i].name), not run.shown[i].inner
    kind = run.embedder.model.module.TRAITS.norm
    eps = number(run, f"attention.layer_norm_{'rms_' if kind == 'rms' else ''}epsilon", float(call["eps"]))
    if not last and name == "norm_w":
        return made("n · W", "n * W", n=tap_of(run, i - 1), W=call["w"].name)
    weights: dict[str, str] = {}
    if last and call["w"] is not None:
        text, python, weights = f"{text} · W", f"{python} * W", {"W": call["w"].name}
    if last and call.op == "layer_norm" and call["b"] is not None:
        text, python, weights = f"{text} + b", f"{python} + b", {**weights, "b": call["b"].name}
    return made(text, python, x=x, eps=eps, **weights)


def added_up(run: Run, i: int, call: Call) -> str:
    """What is normalized: x, or the sum of x and the residual."""
    plus, x = call.arguments.get("plus"), array_of(run, call["x"], i)
    if plus is None:
        return x
    y = array_of(run, plus, i)
    return f"{x} + {y}" if x and y else ""


def plain(run: Run, i: int, call: Call) -> Formula:
    """An operation of one tensor; where the result is multiplied by another, that is `gated_by_name`."""
    text, python = PLAIN[call.op]
    return made(text, python, x=array_of(run, call["x"], i))


def gated(run: Run, i: int, call: Call) -> Formula:
    """A gate and what it lets through."""
    text, python = GATED[call.op]
    return made(text, python, g=array_of(run, call["gate"], i), u=array_of(run, call["up"], i))


def rotation(run: Run, i: int, call: Call) -> Formula:
    """RoPE: pairs of channels turned by the token's place."""
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
    return made(text, python, x=array_of(run, call["x"], i), t="the tokens' places, from 0", **operands)


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
        operands["f"] = f"{r.factors.name} = {r.factors.dequantize().tolist()}"
    if r.freq_scale != 1:
        text, python = f"{text} / c", f"{python} / c"
        operands["c"] = number(run, "rope.scaling.factor", float(np.float32(1 / r.freq_scale)))
    return text, python, operands


def attention(run: Run, i: int, call: Call) -> Formula:
    """One of the steps of attention, or, where the run shows none, all of them."""
    name, shown = base_of(run.trace.taps[i].name), run.shown[i]
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
    H, G = call["n_head"], call["n_head_kv"] or call["n_head"]
    more = {"G": number(run, "attention.head_count_kv", G)} if G != H else {}
    return {"H": number(run, "attention.head_count", H), **more}


def scores(run: Run, i: int, call: Call) -> Formula:
    """kq."""
    shared = (call["n_head_kv"] or call["n_head"]) != call["n_head"]
    keys = "np.repeat(K.reshape(T, G, -1), H // G, 1)" if shared else "K.reshape(T, H, -1)"
    text = "S[h, i, j] = Q[i, h] · K[j, h]" + (", H/G heads of queries to a head of keys" if shared else "")
    python = f"np.einsum('ihd,jhd->hij', Q.reshape(T, H, -1), {keys})"
    T = str(len(call["q"]))
    return made(text, python, Q=array_of(run, call["q"], i), K=array_of(run, call["k"], i), T=f"tokens = {T}",
                **head_counts(run, call))  # fmt: skip


def scale_of(run: Run, call: Call) -> tuple[str, str, dict[str, str]]:
    """What scores are multiplied by: in words, in NumPy, and its operand."""
    scale, D = float(call["scale"]), call["q"].reshape(len(call["q"]), -1).shape[1] // call["n_head"]
    if scale == 1:
        return "", "", {}
    if np.isclose(scale, D**-0.5, rtol=1e-6):
        return " / sqrt(D)", " / np.sqrt(D)", {"D": number(run, "attention.key_length", D)}
    return " · c", " * c", {"c": number(run, "attention.scale", scale)}


def mask_of(call: Call) -> str:
    """The condition under which query i sees key j; "" where it sees all."""
    mask: Mask = call["mask"]
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
    done = base_of(run.trace.taps[by].name) != "kq"  # the scale was applied before the cap or the bias
    text, python, more = ("", "", {}) if done else scale_of(run, call)
    text, python = f"S{text}", f"S{python}"
    if seen := mask_of(call):
        allowed = " & ".join(f"({part})" for part in seen.split(" and "))
        text, python = f"{text} + mask", f"{python} + np.where({allowed}, 0, -np.inf)"
        more["mask"] = f"0 where {seen}, elsewhere -inf (query i, key j)"
    if call["mask"].max_bias:
        text, python = f"{text} - m[h] |i - j|", f"{python} - np.array(m)[:, None, None] * abs(i - j)"
        more["m"] = f"ALiBi's slopes of the heads = {slopes(call['n_head'], call['mask'].max_bias).tolist()}"
    return made(f"A = softmax({text}), row by row", f"softmax({python})", S=tap_of(run, by), **more)


def capped(run: Run, i: int, call: Call) -> Formula:
    """Gemma 2's three steps."""
    name, x = base_of(run.trace.taps[i].name), tap_of(run, i - 1)
    cap = number(run, "attn_logit_softcapping", float(call["soft_cap"]))
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
    letter, what = ("G", "attention.head_count_kv") if call["n_head_kv"] else ("H", "attention.head_count")
    heads = {letter: number(run, what, call["n_head_kv"] or call["n_head"])}
    text, python = "y[h, d, t] = V[t, h, d]: the same numbers in another order", "V.reshape(len(V), {}, -1)"
    return made(text, python.format(letter) + ".transpose(1, 2, 0)", V=array_of(run, call["v"], i), **heads)


def mixed(run: Run, i: int, call: Call) -> Formula:
    """kqv."""
    shared = (call["n_head_kv"] or call["n_head"]) != call["n_head"]
    values = "np.repeat(V.reshape(len(V), G, -1), H // G, 1)" if shared else "V.reshape(len(V), H, -1)"
    python = f"np.einsum('hij,jhd->hid', A, {values})"
    return made("A V, of each head", python, A=tap_of(run, i - 1), V=array_of(run, call["v"], i),
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


def experts(run: Run, i: int, call: Call) -> Formula:
    """Each token through the matrices of its experts."""
    own = call["x"].ndim == 3
    python = f"np.einsum('{'tkc' if own else 'tc'},tknc->tkn', x, W[e.astype(int)])"
    text = f"y[t, k] = {'x[t, k]' if own else 'x[t]'} W[e[t, k]]ᵀ"
    text, python, more = with_expert_adapters(run, call["w"].name, own, text, python)
    return made(text, python, x=array_of(run, call["x"], i), W=call["w"].name, e=chosen_experts(run, i), **more)


def with_expert_adapters(run: Run, name: str, own: bool, text: str, python: str) -> tuple[str, str, dict[str, str]]:
    """Adapters of experts are named in words alone."""
    pairs = getattr(run.embedder.ops, "pairs", {}).get(name, ())
    return (f"{text} + s (x Aᵀ) Bᵀ of each adapter", "", {}) if pairs else (text, python, {})


def convolution(run: Run, i: int, call: Call) -> Formula:
    """A few weights of each channel along the text."""
    n, ahead = call["w"].shape[1], call["ahead"]
    text = f"y[t] = Σ W[k] x[t - {n - 1 - ahead} + k], k from 0 to {n - 1}; 0 outside the text"
    python = f"sum(W[:, k] * np.pad(x, (({n - 1 - ahead}, {ahead}), (0, 0)))[k:k + len(x)] for k in range({n}))"
    return made(text, python, x=array_of(run, call["x"], i), W=call["w"].name)


def mean(run: Run, i: int, call: Call) -> Formula:
    """Mean pooling."""
    return made(POOLED_TEXT["mean"], POOLED["mean"], x=array_of(run, call["x"], i) or pooled_from(run, i))


BY_OPERATION: dict[str, Callable[[Run, int, Call], Formula]] = {
    "get_rows": rows,
    "linear": linear,
    "layer_norm": norm,
    "rms_norm": norm,
    **dict.fromkeys(PLAIN, plain),
    "geglu": gated,
    "swiglu": gated,
    "rope": rotation,
    "attention": attention,
    "experts": experts,
    "short_conv": convolution,
    "mean": mean,
}


# --- sums and products that no operation makes ---


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
    text: str, python: str, letter: str, name: str, value: Callable[[Run], Any]
) -> Callable[[Run, int], Formula]:
    """A product with one number."""

    def formula(run: Run, i: int) -> Formula:
        return made(text, python, x=tap_of(run, i - 1), **{letter: number(run, name, value(run))})

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
    """ffn_out of a layer with experts and one that every token takes (granite)."""
    by = latest(run, i, "ffn_moe_out")
    return NO_FORMULA if by is None else made("a + s", "a + s", a=tap_of(run, by), s=tap_of(run, i - 1))


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
            F = run.trace.taps[up].array.shape[1] // 2
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
    by = latest(run, i, "ffn_moe_weights_norm", "ffn_moe_weights")
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
    all_of_them = base_of(run.trace.taps[i].name) == "ffn_moe_out"
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


def pooled_from(run: Run, i: int) -> str:
    """The hidden states that are pooled."""
    by = latest(run, i, "result_norm", "final_norm_out", "result_embd")
    return "" if by is None else tap_of(run, by)


def pooled_row(run: Run, i: int) -> Formula:
    """Pooling that no operation does."""
    from refembed.heads import rank_pooling

    how = run.trace.meta["pooling"]
    how = rank_pooling(run.embedder.model.hparams) if how == "rank" else how
    return made(POOLED_TEXT[how], POOLED[how], x=pooled_from(run, i))


def turned_or_scaled(run: Run, i: int) -> Formula:
    """A Qcur that no operation makes: phi3 scales its queries under their old name."""
    return BY_NAME["Qcur_scaled"](run, i)


BY_NAME: dict[str, Callable[[Run, int], Formula]] = {
    "embd": scaled("x · c", "x * c", "c", "embedding_scale", embedding_scale),
    "inp_embd": embedded,
    "inp_scaled": scaled(
        "x · sqrt(C)", "x * np.sqrt(C)", "C", "embedding_length", lambda run: run.embedder.info.n_embd
    ),
    "Qcur": turned_or_scaled,
    "Qcur_scaled": scaled("x / sqrt(D)", "x / np.sqrt(D)", "D", "attention.key_length", query_width),
    "Qcur_attn_temp_scaled": temperature,
    "attn_scaled": scaled("x · r", "x * r", "r", "residual_scale", residual_scale),
    "ffn_scaled": scaled("x · r", "x * r", "r", "residual_scale", residual_scale),
    "ffn_inp": residual(*HIDDEN),
    "sa_out": residual(*HIDDEN),
    "l_out": residual(*BETWEEN),
    "result_embd": residual(*BETWEEN),
    "deepstack_out": of_last("x + 0: a picture would be added here", "x"),
    "ffn_out": shared_expert,
    "pos_bias": relative,
    "ffn_relu": of_last("max(x, 0)", "np.maximum(x, 0)"),
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
