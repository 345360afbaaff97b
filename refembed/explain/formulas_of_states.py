"""The formulas of layers that keep a state: of operations that make one, and of tensors that no operation made.

Beyond NumPy their `python` uses `delta_rule`, `scan` and `wkv7`: the recurrences that the texts show.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from refembed.explain.formula import NO_FORMULA, Formula, made
from refembed.explain.operands import array_of, base_of, columns, latest, number, tap_of
from refembed.explain.watch import Call, Run


def table(text: str, python: str, weight: str = "", **letters: str) -> Callable[[Run, int], Formula]:
    """A formula of tensors shown before, each by its name; and of a weight W of the layer, by the end of its name."""

    def formula(run: Run, i: int) -> Formula:
        operands = {letter: shown(run, i, *names.split("|")) for letter, names in letters.items()}
        more = {"W": f"blk.{layer_of(run, i)}.{weight}"} if weight else {}
        return made(text, python, **operands, **more)

    return formula


def layer_of(run: Run, i: int) -> str:
    """The number of the layer that a tensor belongs to."""
    return run.trace.tensors[i].name.rpartition("-")[2]


def shown(run: Run, i: int, *names: str) -> str:
    """The last tensor before this one that has one of these names; "" where there is none."""
    by = latest(run, i, *names)
    return "" if by is None else tap_of(run, by)


def part(run: Run, i: int, name: str, begin: int, end: int) -> str:
    """Columns of the last tensor of that name."""
    found = shown(run, i, name)
    return found and columns(found, begin, end)


def mixer_parts(run: Run) -> tuple[int, int, int]:
    """Of a mixer's first product: where what is convolved begins and ends, and the width of all."""
    ssm = run.embedder.model.hparams.ssm
    assert ssm is not None
    inner, gn = ssm.n_inner, ssm.n_group * ssm.n_state
    return inner, 2 * inner + 2 * gn, 2 * inner + 2 * gn + ssm.dt_rank


def conv_input(run: Run, i: int) -> Formula:
    """What is convolved, behind zeros."""
    ssm = run.embedder.model.hparams.ssm
    assert ssm is not None
    begin, end, _ = mixer_parts(run)
    x = {
        "ssm_xz": lambda: part(run, i, "ssm_xz", 0, ssm.n_inner),
        "ssm_zxbcdt": lambda: part(run, i, "ssm_zxbcdt", begin, end),
    }
    name = base_of(run.trace.tensors[i - 1].name)
    what = x[name]() if name in x else tap_of(run, i - 1)
    n = ssm.n_conv - 1
    return made(f"xᵀ behind {n} columns of zeros: the state of a new text", f"np.pad(x, (({n}, 0), (0, 0))).T", x=what)


def log_decay(run: Run, i: int, call: Call) -> Formula:
    """A logarithm of a decay, and its two steps."""
    name = base_of(run.trace.tensors[i].name)
    if name == "alpha_biased":
        x = array_of(run, call["x"], i) or half_of_ba(run, i, 1)
        return made("x[t] + b", "x.reshape(len(x), -1) + b", x=x, b=call["bias"].name)
    if name == "a_softplus":
        return made("ln(1 + e^x)", "np.log1p(np.exp(x))", x=tap_of(run, i - 1))
    return made("a · s", "a * s", a=call["a"].name, s=tap_of(run, i - 1))


def half_of_ba(run: Run, i: int, which: int) -> str:
    """Beta or alpha of qwen3next's one product, group by group."""
    ssm, by = run.embedder.model.hparams.ssm, latest(run, i, "linear_attn_mixed_ba")
    if by is None or ssm is None:
        return ""
    per = ssm.dt_rank // ssm.n_group
    shape = (len(run.trace.tensors[by].array), ssm.n_group, 2 * per)
    return f"{tap_of(run, by)}, as {shape}[:, :, {which * per}:{which * per + per}]"


def logistic(run: Run, i: int, call: Call) -> Formula:
    """A gate between 0 and 1."""
    name = base_of(run.trace.tensors[i].name)
    x = array_of(run, call["x"], i) or (half_of_ba(run, i, 0) if name == "beta_sigmoid" else half_of_heads(run, i, 1))
    return made("1 / (1 + e^-x)", "1 / (1 + np.exp(-x))", x=x)


def half_of_heads(run: Run, i: int, which: int) -> str:
    """Each head's query, or its gate, of Qcur_full, or of the first columns of one matrix."""
    hp, by = run.embedder.model.hparams, latest(run, i, "Qcur_full", "wqkv", "wqkv_b")
    if by is None:
        return ""
    D, name = hp.n_embd_head, tap_of(run, by)
    whole = name if base_of(name) == "Qcur_full" else columns(name, 0, 2 * hp.n_head * D)
    shape = (len(run.trace.tensors[by].array), hp.n_head, 2 * D)
    return f"{whole}, as {shape}[:, :, {which * D}:{D + which * D}]"


def delta_rule(run: Run, i: int, call: Call) -> Formula:
    """The gated delta rule."""
    text = (
        "S[t] = e^g[t] S[t-1] (I - β[t] k[t] k[t]ᵀ) + β[t] v[t] k[t]ᵀ, S[t] q[t] / sqrt(D), with head h mod K of q, k"
    )
    names = {letter: array_of(run, call[letter], i) for letter in "qkvg"}
    return made(text, "delta_rule(q, k, v, g, β)", **names, β=array_of(run, call["beta"], i))


def scan(run: Run, i: int, call: Call) -> Formula:
    """A selective scan, and the state that it ends with."""
    text = "s = ln(1 + e^dt[t]), h[t] = e^(s a) h[t-1] + s x[t] b[t]ᵀ, y[t] = h[t] c[t]; all y, then the last h"
    names = {letter: array_of(run, call[letter], i) for letter in ("x", "dt", "b", "c")}
    groups = {"G": number(run, "ssm.group_count", call["n_group"])}
    return made(text, "scan(x, dt, a, b, c, G)", a=call["a"].name, **names, **groups)


def skip(run: Run, i: int, call: Call) -> Formula:
    """What passes a state by, and its sum with what the state gave."""
    if base_of(run.trace.tensors[i].name) == "ssm_skip":
        python = "x * np.repeat(d.ravel(), x.shape[1] // d.size)"
        return made("d[h] x[h], head by head", python, d=call["d"].name, x=array_of(run, call["x"], i))
    return made("y[t] + s: y without the state", "y[:s.size].reshape(s.shape) + s", y=shown(run, i, "ssm_scan"),
                s=tap_of(run, i - 1))  # fmt: skip


def wkv(run: Run, i: int, call: Call) -> Formula:
    """RWKV's state, and what it ends with."""
    text = "S[t] = S[t-1] (diag(w[t]) + a[t] b[t]ᵀ) + v[t] k[t]ᵀ, y[t] = S[t] r[t]; all y, and behind them the last S"
    names = {letter: array_of(run, call[letter], i) for letter in "rwkvab"}
    return made(text, "wkv7(r, w, k, v, a, b, H)", H=f"heads = {call['n_head']}", **names)


def exponential(run: Run, i: int, call: Call) -> Formula:
    """e^x."""
    return made("e^x", "np.exp(x)", x=array_of(run, call["x"], i))


def unit_length(which: str) -> Callable[[Run, int], Formula]:
    """A normed query or key over the root of a head's width; or one of them for each head of values."""

    def formula(run: Run, i: int) -> Formula:
        ssm, before = run.embedder.model.hparams.ssm, tap_of(run, i - 1)
        assert ssm is not None
        if base_of(run.trace.tensors[i - 1].name) == f"{which}_scaled":
            times = ssm.dt_rank // ssm.n_group
            return made(f"each head of x {times} times", f"np.repeat(x, {times}, axis=1)", x=before)
        return made("x / sqrt(N)", "x / np.sqrt(N)", x=before, N=number(run, "ssm.state_size", ssm.n_state))

    return formula


def step_with_bias(run: Run, i: int) -> Formula:
    """Mamba 2's step."""
    begin, end = mixer_parts(run)[1:]
    return made("x + b", "x + b", x=part(run, i, "ssm_zxbcdt", begin, end), b=f"blk.{layer_of(run, i)}.ssm_dt.bias")


def first_values(run: Run, i: int) -> Formula:
    """v_change: the values of the first layer less these."""
    first = next(k for k, tap in enumerate(run.trace.tensors) if tap.name == "v-0")
    return made("f - v", "f - v", f=tap_of(run, first), v=tap_of(run, i - 1))


def normed_heads(run: Run, i: int) -> Formula:
    """wkv_normed: a norm without weights of each head of the state's outputs."""
    wkv_ = run.embedder.model.hparams.wkv
    assert wkv_ is not None
    T, D = run.trace.tensors[i].array.shape[0], wkv_.head_size
    text = "(y - mean(y)) / sqrt(var(y) + 64e-5): y[t] without the state, head by head"
    heads = f"y[:{T}].reshape({T}, -1, {D})"
    python = f"({heads} - {heads}.mean(-1, keepdims=True)) / np.sqrt({heads}.var(-1, keepdims=True) + 64e-5)"
    return made(text, python, y=shown(run, i, "wkv"))


def short_keys(run: Run, i: int) -> Formula:
    """kk: keys of length 1."""
    x = f"{shown(run, i, 'k_k')}, as {run.trace.tensors[i].array.shape}"
    return made("x / sqrt(Σ x²), head by head", "x / np.sqrt((x**2).sum(-1, keepdims=True))", x=x)


def gated_heads(run: Run, i: int) -> Formula:
    """ssm_swiglu of Mamba 2, whose gate is the first part of its first product."""
    ssm = run.embedder.model.hparams.ssm
    assert ssm is not None
    g = part(run, i, "ssm_zxbcdt", 0, ssm.n_inner)
    g = g and f"{g}, as {run.trace.tensors[i].array.shape}"
    return made("g / (1 + e^-g) · u", "g / (1 + np.exp(-g)) * u", g=g, u=tap_of(run, i - 1))


def unmixed(run: Run, i: int) -> Formula:
    """qkv_mixed, or z: parts of one product, group by group (older files of qwen3next)."""
    ssm, by = run.embedder.model.hparams.ssm, latest(run, i, "linear_attn_mixed_qkvz")
    if by is None or ssm is None:
        return NO_FORMULA
    G, N, R = ssm.n_group, ssm.n_state, ssm.n_inner // ssm.n_group
    x = f"{tap_of(run, by)}, as {(len(run.trace.tensors[by].array), G, 2 * N + 2 * R)}"
    edges = (0, N, 2 * N, 2 * N + R)
    parts = [f"x[:, :, {a}:{b}].reshape(len(x), -1)" for a, b in itertools.pairwise(edges)]
    if base_of(run.trace.tensors[i].name) == "z":
        return made(f"x[t, g, {2 * N + R}:] of each group g", f"x[:, :, {2 * N + R}:]", x=x)
    text = f"of each group of x first {N} columns, then {N}, then {R}: those of all groups side by side"
    return made(text, f"np.concatenate([{', '.join(parts)}], axis=1)", x=x)


OF_OPERATIONS: dict[str, Callable[[Run, int, Call], Formula]] = {
    "log_decay": log_decay,
    "sigmoid": logistic,
    "exp": exponential,
    "gated_delta_rule": delta_rule,
    "selective_scan": scan,
    "add_scaled": skip,
    "wkv7": wkv,
}
BY_NAME: dict[str, Callable[[Run, int], Formula]] = {
    "conv_input": conv_input,
    "q_scaled": unit_length("q"),
    "k_scaled": unit_length("k"),
    "q_conv_predelta": unit_length("q"),
    "k_conv_predelta": unit_length("k"),
    "qkv_mixed": unmixed,
    "z": unmixed,
    "final_output": table("o · s", "o * s", o="attn_normed", s="z_silu"),
    "attn_gated": table("a · g", "a * g", a="attn_pregate", g="gate_sigmoid"),
    "ffn_shexp_gated": table("s · g", "s * g", s="ffn_shexp", g="shared_expert_gate_sigmoid"),
    "ffn_moe_probs_biased": table("p + W", "p + W", "exp_probs_b.bias", p="ffn_moe_probs"),
    "layer_out": table("a + s", "a + s", a="attn_out", s="ssm_out"),
    "token_shift": table("the last rows of x and y", "np.stack([x[-1], y[-1]])", x="attn_norm", y="ffn_norm"),
    "before": table("x[t-1]; 0 at the first token", "np.vstack([0 * x[:1], x[:-1]])", x="attn_norm"),
    "ffn_before": table("x[t-1]; 0 at the first token", "np.vstack([0 * x[:1], x[:-1]])", x="ffn_norm"),
    "change": table("p - x", "p - x", p="before", x="attn_norm"),
    "changes": table("d, six times", "np.stack([d] * 6)", d="change"),
    "changes_mul": table("d[j, t] · W[j]", "d * W[:, 0]", "time_mix_lerp_fused.weight", d="changes"),
    "mixtures": table("d + x", "d + x", d="changes_mul", x="attn_norm"),
    "w_b": table("x + W", "x + W", "time_mix_w0.weight", x="w2"),
    "w_scaled": table("-0.606531 x", "-0.606531 * x", x="w_sigmoid"),
    "a_b": table("x + W", "x + W", "time_mix_a0.weight", x="a2"),
    "ka": table("k · W", "k * W", "time_mix_k_a.weight", k="k"),
    "a_ka": table("a · x", "a * x", a="a", x="ka"),
    "k_lost": table("y - x", "y - x", y="a_ka", x="ka"),
    "k_kept": table("k + d", "k + d", k="k", d="k_lost"),
    "v_change": first_values,
    "v_b": table("x + W", "x + W", "time_mix_v0.weight", x="v2"),
    "v_added": table("d · s", "d * s", d="v_change", s="v_share"),
    "v_mixed": table("v + d", "v + d", v="v", d="v_added"),
    "k_k": table("k · W", "(k * W).reshape(len(k), -1)", "time_mix_k_k.weight", k="k"),
    "kk": short_keys,
    "kk_neg": table("-x", "-x", x="kk"),
    "kk_a": table("x[t] a[t]", "x * a.reshape(x.shape)", x="kk", a="a"),
    "wkv_norm_w": table("n[t] · W", "n.reshape(len(n), -1) * W", "time_mix_ln.weight", n="wkv_normed"),
    "wkv_norm": table("n + W", "n + W", "time_mix_ln.bias", n="wkv_norm_w"),
    "k_r": table("k · r", "k * r", k="k_kept", r="r"),
    "k_r_k": table("x[t] W", "x * W.reshape(x.shape[1:])", "time_mix_r_k.weight", x="k_r"),
    "k_r_sum": table("Σ x, head by head", "x.sum(-1, keepdims=True)", x="k_r_k"),
    "v_own": table("v[t] s[t], head by head", "v.reshape(len(v), s.shape[1], -1) * s", v="v_mixed|v", s="k_r_sum"),
    "y": table("n[t] + o[t]", "n + o.reshape(n.shape)", n="wkv_norm", o="v_own"),
    "y_gated": table("y · g", "y * g", y="y", g="g2"),
    "ffn_change": table("p - x", "p - x", p="ffn_before", x="ffn_norm"),
    "ffn_change_mul": table("d[t] · W", "d * W.ravel()", "channel_mix_lerp_k.weight", d="ffn_change"),
    "ffn_mixture": table("d + x", "d + x", d="ffn_change_mul", x="ffn_norm"),
    "ffn_relu_sqr": table("x²", "x**2", x="ffn_relu"),
}
MAMBA_2: dict[str, Callable[[Run, int], Formula]] = {"dt_b": step_with_bias, "ssm_swiglu": gated_heads}
OWN: dict[str, dict[str, Callable[[Run, int], Formula]]] = {  # Traits.ssm, or wkv -> though an operation made them
    "mamba2": MAMBA_2,
    "granite": MAMBA_2,
    "wkv": {"wkv_normed": normed_heads},
}
