# ruff: noqa: E501  (tables)
"""Faults whose parameters are drawn: what goes wrong with text, tokens, model, pooling, wire and batches, and by how much.

Each kind is a function of a random generator and of the model that is broken, and gives a `Piece`: a change of the
engine in `verify_drawn`, and how a cause must be called to name it. They are written apart from the hypotheses of
refembed.verify, on the NumPy engine of `drawn_engine`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conformance.drawn_engine import Array, Weights

Rng = np.random.Generator


@dataclass(frozen=True)
class Piece:
    """One fault with its numbers drawn."""

    stage: str  # text, tokens, model, pooling, vector, length, batch
    about: str
    names: tuple[str, ...]  # regular expressions, one of which a part of the cause's id must match wholly
    number: float | None = None  # the first group of the expression, within 3 %
    text: Callable[[str], str] | None = None
    tokens: Callable[[list[int]], list[int]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    pool: Callable[[Array, list[int]], Array] | None = None
    vector: Callable[[Array], Array] | None = None
    length: Callable[[Array], Array] | None = None  # in place of normalizing
    batch: str = ""
    amount: float = 0.0  # of a batch fault

    def named_by(self, id: str) -> bool:
        """Whether a part of a cause's id names it."""
        return any(self.fits(part, name) for part in id.split(" + ") for name in self.names)

    def fits(self, part: str, name: str) -> bool:
        """One part, one expression."""
        match = re.fullmatch(name, part)
        if match is None or self.number is None or not match.groups():
            return match is not None
        return math.isclose(float(match.group(1)), self.number, rel_tol=0.03)


NUMBER = r"([-+.e\d]+)"
Kind = Callable[[Rng, "Target"], "Piece | None"]


@dataclass(frozen=True)
class Target:
    """The model that is broken, and what a fault may need to know of it."""

    name: str
    model: Any  # a NumpyModel, or a FamilyModel of drawn_families.py
    front: tuple[int, ...]  # special tokens in front
    end: int | None  # the closing one
    pad: int
    unk: int
    cased: bool
    pooling: str
    special: frozenset[int]

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.model.weights["token_embd.weight"].shape[1])


def near(rng: Rng, low: float, high: float) -> float:
    """A number from low to high, evenly in its logarithm, with two or three digits."""
    value = math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(f"{value:.{int(rng.integers(1, 3))}e}")


def factor(rng: Rng, low: float, high: float) -> float:
    """Likewise, but at least a tenth away from 1."""
    while True:
        value = near(rng, low, high)
        if abs(math.log(value)) > 0.1:
            return value


# -- text ------------------------------------------------------------------------------------------------------------

PROMPTS = ("query: ", "passage: ", "search_query: ", "Represent this sentence for searching relevant passages: ")
SIMPLE: tuple[tuple[str, Callable[[str], str], str], ...] = (
    ("lower-cases", str.lower, "lower-case.*"),
    ("upper-cases", str.upper, "upper-case"),
    ("NFC", lambda t: unicodedata.normalize("NFC", t), "nfc"),
    ("NFD", lambda t: unicodedata.normalize("NFD", t), "nfd|nfkd"),
    ("NFKC", lambda t: unicodedata.normalize("NFKC", t), "nfkc"),
    ("strips", str.strip, "stripped.*|spaces-collapsed"),
    ("collapses white space", lambda t: re.sub(r"\s+", " ", t).strip(), "spaces-collapsed"),
    ("Latin-1", lambda t: t.encode().decode("latin-1"), "latin-1"),
    ("drops what is not ASCII", lambda t: "".join(c for c in t if ord(c) < 128), "ascii-only"),
    ("drops punctuation", lambda t: re.sub(r"[^\w\s]", "", t), "punctuation-dropped"),
    ("puts a full stop behind", lambda t: t + ".", "period-behind"),
    ("leaves quotation marks", lambda t: f'"{t}"', "quoted"),
    ("drops digits", lambda t: "".join(c for c in t if not c.isdigit()), "digits-dropped"),
    ("casefolds NFKC", lambda t: unicodedata.normalize("NFKC", t).casefold(), "nfkc-case-folded|lower-case.*"),
    ("loses the last character", lambda t: t[:-1], "last-character-lost"),
)


def simple_text(rng: Rng, t: Target) -> Piece:
    """A row of SIMPLE."""
    about, change, name = SIMPLE[int(rng.integers(len(SIMPLE)))]
    return Piece("text", about, (name,), text=change)


def prompt(rng: Rng, t: Target) -> Piece:
    """A prompt in front."""
    p = PROMPTS[int(rng.integers(len(PROMPTS)))]
    return Piece("text", f"puts {p!r} in front", (re.escape(f"prefix {p!r}"),), text=lambda s: p + s)


def cut_characters(rng: Rng, t: Target) -> Piece:
    """Texts cut after so many characters."""
    n = int(rng.integers(12, 240))
    return Piece("text", f"cuts after {n} characters", (rf"cut-{NUMBER}-characters",), n, text=lambda s: s[:n])


# -- tokens ----------------------------------------------------------------------------------------------------------


def cut_tokens(rng: Rng, t: Target) -> Piece:
    """Texts cut at so many tokens."""
    n, how = int(rng.integers(5, 135)), int(rng.integers(3))
    if how == 0 and t.end is not None:
        return Piece("tokens", f"cuts to {n} tokens, closed", (rf"cut-{NUMBER}-closed",), n,
                     tokens=lambda i: i if len(i) <= n else [*i[: n - 1], i[-1]])  # fmt: skip
    if how == 1:
        return Piece("tokens", f"keeps the last {n} tokens", (rf"cut-front-{NUMBER}",), n, tokens=lambda i: i[-n:])
    return Piece("tokens", f"cuts after {n} tokens", (rf"cut-{NUMBER}",), n, tokens=lambda i: i[:n])


def specials(rng: Rng, t: Target) -> Piece:
    """Special tokens missing or doubled."""
    n, rows = len(t.front), []
    if n:
        rows += [
            ("no opening token", r"no-bos|pooling-mean-without-first", lambda i: i[n:] if i[:n] == [*t.front] else i),
            ("the opening token twice", "two-bos", lambda i: [*t.front, *i]),
        ]
    if t.end is not None:
        rows += [
            (
                "no closing token",
                "no-eos|pooling-second-to-last|eot-for-eos",
                lambda i: i[:-1] if i[-1] == t.end else i,
            ),
            ("the closing token twice", "two-eos", lambda i: [*i, t.end]),
        ]
    if not rows:
        rows.append(("tokens backwards", backwards(t), lambda i: i[::-1]))
    about, name, change = rows[int(rng.integers(len(rows)))]
    return Piece("tokens", about, (name,), tokens=change)


def backwards(t: Target) -> str:
    """Names of tokens in reverse order. Where every token sees all and their mean is pooled, it is their positions'."""
    same = t.model.arch == "bert" and t.pooling == "mean"
    return "reversed-tokens|words-backwards" + "|position-backwards" * same


def shuffled_ids(rng: Rng, t: Target) -> Piece:
    """Ids or their order."""
    last = len(t.model.weights["token_embd.weight"]) - 1
    rows: list[tuple[str, str, Callable[[list[int]], list[int]]]] = [
        ("ids from 1", "ids-plus-one", lambda i: [min(k + 1, last) for k in i]),
        ("ids one too low", "ids-minus-one", lambda i: [max(k - 1, 0) for k in i]),
        ("tokens backwards", backwards(t), lambda i: i[::-1]),
        ("the tokens twice", "doubled-text", lambda i: [*i, *i]),
    ]
    about, name, change = rows[int(rng.integers(len(rows)))]
    return Piece("tokens", about, (name,), tokens=change)


def padding(rng: Rng, t: Target) -> Piece:
    """Padding that is read and pooled."""
    n = int(rng.choice([8, 16, 32, 64]))
    return Piece("tokens", f"pads to {n} tokens and pools it", (f"padding-{n}-pooled",),
                 tokens=lambda i: i + [t.pad] * (n - len(i)))  # fmt: skip


# -- the model -------------------------------------------------------------------------------------------------------


def epsilon(rng: Rng, t: Target) -> Piece:
    """Epsilon of norms."""
    eps = near(rng, 1e-5, 0.3)
    return Piece("model", f"epsilon {eps:g}", (f"eps-{NUMBER}",), eps, settings={"eps": eps})


def score_factor(rng: Rng, t: Target) -> Piece:
    """Scale of attention."""
    v = factor(rng, 0.1, 8)
    D = t.model.weights["blk.0.attn_q.weight"].shape[0] // t.model.H
    also = tuple(
        n for n, f in (("scale-missing", D**0.5), ("scale-twice", D**-0.5)) if math.isclose(f, v, rel_tol=0.03)
    )
    return Piece("model", f"attention scores times {v:g}", (f"scale-{NUMBER}", *also), v, settings={"score_factor": v})


def cap(rng: Rng, t: Target) -> Piece:
    """A cap of attention scores."""
    v = near(rng, 0.5, 8)
    return Piece("model", f"attention scores capped at {v:g}", (f"soft-cap-{NUMBER}",), v, settings={"cap": v})


def window(rng: Rng, t: Target) -> Piece:
    """A window of attention."""
    n = int(rng.integers(2, 40))
    if t.model.arch == "bert":
        names = (f"window-reach-{NUMBER}", "attention-missing")
        return Piece("model", f"sees {n} tokens to each side", names, n, settings={"window": n + 1})
    return Piece("model", f"a window of {n} tokens", (f"window-{NUMBER}",), n, settings={"window": n})


def mask(rng: Rng, t: Target) -> Piece:
    """The other mask."""
    causal = t.model.arch == "bert"
    name = "causal" if causal else "bidirectional"
    return Piece("model", name, (name,), settings={"causal": causal})


def rope(rng: Rng, t: Target) -> Piece | None:
    """Base, scale and width of RoPE."""
    if t.model.arch == "bert":
        return None
    how = int(rng.integers(4))
    if how == 0:
        base = near(rng, 50, 5e7)
        return Piece("model", f"RoPE base {base:g}", (f"rope-base-{NUMBER}",), base, settings={"rope_base": base})
    if how == 1:
        v = factor(rng, 0.05, 6)
        return Piece("model", f"RoPE positions times {v:g}", (f"rope-scale-{NUMBER}", r"rope-scaled-\d+"), v,
                     settings={"rope_scale": v})  # fmt: skip
    if how == 2:
        D = t.model.weights["blk.0.attn_q.weight"].shape[0] // t.model.H
        n = int(rng.choice(list(range(2, D, 2))))
        return Piece(
            "model", f"RoPE turns {n} channels", (f"rope-dims-{NUMBER}", "rope-half"), n, settings={"rope_dims": n}
        )
    return Piece("model", "RoPE turns neighbors", ("rope-pairs",), settings={"rope_neighbors": True})


def positions(rng: Rng, t: Target) -> Piece | None:
    """Positions from another number, another segment, token vectors scaled."""
    how = int(rng.integers(3))
    if how == 0:
        v = factor(rng, 0.05, 20)
        return Piece("model", f"token vectors times {v:g}", (f"token_embd-scale-{NUMBER}", "embedding-scale"), v,
                     settings={"token_scale": v}) if t.model.arch == "bert" or v else None  # fmt: skip
    if t.model.arch != "bert":
        return None
    if how == 1:
        n = int(rng.integers(1, 40))
        return Piece("model", f"positions from {n}", (rf"position\+{NUMBER}", f"position-from-{NUMBER}"), n,
                     settings={"first_position": n})  # fmt: skip
    return Piece("model", "segment 1", ("segment-1",), settings={"segment": 1})


def activation(rng: Rng, t: Target) -> Piece:
    """Another activation function."""
    slope = factor(rng, 0.3, 5)
    leak = near(rng, 0.005, 0.4)
    erf = np.vectorize(math.erf)
    rows: list[tuple[str, tuple[str, ...], float | None, Callable[[Array], Array]]] = [
        (f"x sigmoid({slope:g} x)", (f"sigmoid-slope-{NUMBER}", "gelu-quick"), slope, lambda x: x / (1 + np.exp(-slope * x))),
        ("ReLU", ("relu",), None, lambda x: np.where(x > 0, x, 0)),
        ("tanh", ("tanh-only",), None, np.tanh),
        ("GELU by erf", ("gelu-erf",), None, lambda x: x * (1 + erf(x / math.sqrt(2))) / 2),
    ]  # fmt: skip
    if t.model.arch == "bert":
        rows.append((f"leaky ReLU {leak:g}", (f"leaky-relu-{NUMBER}",), leak, lambda x: np.where(x > 0, x, leak * x)))
    about, names, number, f = rows[int(rng.integers(len(rows)))]
    return Piece("model", about, names, number, settings={"activation": f})


def layers(rng: Rng, t: Target) -> Piece:
    """A layer left out, run twice, or exchanged with the next."""
    n = t.model.n_layer
    i, how = int(rng.integers(n)), int(rng.integers(3))
    every = list(range(n))
    if how == 0:
        names = (f"layer-{i}-missing", f"layers-{i}", *(["first-layer-missing"] if i == 0 else []),
                 *(["last-layer-missing"] if i == n - 1 else []))  # fmt: skip
        return Piece("model", f"no layer {i}", names, settings={"layers": (*every[:i], *every[i + 1 :])})
    if how == 1 or n == 1:
        return Piece(
            "model", f"layer {i} twice", (f"layer-{i}-twice",), settings={"layers": (*every[: i + 1], *every[i:])}
        )
    i = min(i, n - 2)
    return Piece("model", f"layers {i} and {i + 1} exchanged", (f"layers-{i}-{i + 1}-swapped",),
                 settings={"layers": (*every[:i], i + 1, i, *every[i + 2 :])})  # fmt: skip


def structure(rng: Rng, t: Target) -> Piece:
    """Heads, norms, gates."""
    h = int(rng.integers(t.model.H))
    rows: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        (f"head {h} lost", (f"head-{h}-lost",), {"lost_head": h}),
        ("variance over C - 1", ("variance-unbiased",), {"unbiased_variance": True}),
    ]
    if t.model.arch == "bert":
        rows += [("queries and keys exchanged", ("qk-swapped",), {"swap_queries": True}),
                 ("RMSNorm", ("rms-for-layer",), {"norm_kind": "rms"})]  # fmt: skip
    else:
        rows = [rows[0], ("LayerNorm", ("layer-for-rms",), {"norm_kind": "layer"}),
                ("gate and up exchanged", ("gate-order",), {"gate_first": False}),
                ("key heads in turn", ("kv-heads-tiled",), {"tile_heads": True})]  # fmt: skip
    about, names, settings = rows[int(rng.integers(len(rows)))]
    return Piece("model", about, names, settings=settings)


def tensors(rng: Rng, t: Target) -> Piece:
    """One tensor spoiled, in one layer or in all."""
    matrices = sorted({re.sub(r"^blk\.\d+\.", "", n) for n, w in t.model.weights.items()
                       if n.startswith("blk.") and n.endswith("weight") and "norm" not in n and w.ndim == 2})  # fmt: skip
    kind = matrices[int(rng.integers(len(matrices)))]
    layer = int(rng.integers(-1, t.model.n_layer))
    scope = kind.removesuffix(".weight") if layer < 0 else f"blk.{layer}.{kind.removesuffix('.weight')}"
    chosen = re.compile(rf"blk\.{r'[0-9]+' if layer < 0 else layer}\.{re.escape(kind)}")
    how = ("rows-rolled", "columns-rolled", "zero", "int8", "bias", "int4", "negated")[int(rng.integers(7))]
    lost = chosen.pattern.replace("weight", "bias")
    if how == "bias" and any(re.fullmatch(lost, n) for n in t.model.weights):
        missing = (re.escape(f"{scope}-bias-missing"),)
        return Piece(
            "model", f"no bias of {scope}", missing, settings={"edit": edited(re.compile(lost), lambda w: w * 0)}
        )
    changes: dict[str, Callable[[Array], Array]] = {
        "rows-rolled": lambda w: np.roll(w, 1, axis=0), "columns-rolled": lambda w: np.roll(w, 1, axis=1),
        "zero": lambda w: w * 0, "negated": lambda w: -w, "int8": lambda w: stepped(w, 127), "int4": lambda w: stepped(w, 7),
    }  # fmt: skip
    how = how if how in changes else "zero"
    names: tuple[str, ...] = (re.escape(f"{scope}-{how}"),)
    if how == "zero" and layer < 0 and kind.startswith("attn_"):  # all scores are 0, or all results
        names += ("attention-uniform" if kind[5] in "qk" else "attention-missing",)
    if how == "negated":  # a product of two matrices has one sign
        names += tuple(re.escape(f"{scope.replace(a, b)}-negated") for a, b in SIGNS if a in scope)
    return Piece("model", f"{scope} {how}", names, settings={"edit": edited(chosen, changes[how])})


SIGNS = (("ffn_up", "ffn_down"), ("ffn_down", "ffn_up"), ("attn_q", "attn_k"), ("attn_k", "attn_q"),
         ("attn_v", "attn_output"), ("attn_output", "attn_v"))  # fmt: skip


def edited(which: re.Pattern[str], change: Callable[[Array], Array]) -> Callable[[Weights], Weights]:
    """Some tensors changed."""
    return lambda weights: {n: change(w) if which.fullmatch(n) else w for n, w in weights.items()}


def stepped(w: Array, most: int) -> Array:
    """Whole numbers times one scale for each row."""
    scale = np.abs(w).max(axis=1, keepdims=True) / most
    y: Array = np.rint(w / scale) * scale
    return y


# -- pooling ---------------------------------------------------------------------------------------------------------


def pooling(rng: Rng, t: Target) -> Piece:
    """Another pooling, with a number in it or without."""
    k, r = int(rng.integers(2, 6)), factor(rng, 0.3, 3)
    rows: list[tuple[str, tuple[str, ...], float | None, Callable[[Array, list[int]], Array]]] = [
        ("cls", ("pooling-cls",), None, lambda h, i: h[0]),
        ("last", ("pooling-last",), None, lambda h, i: h[-1]),
        ("max", ("pooling-max",), None, lambda h, i: h.max(0)),
        ("min", ("pooling-min",), None, lambda h, i: h.min(0)),
        ("mean", ("pooling-mean",), None, lambda h, i: h.mean(0)),
        ("1:-1", ("pooling-mean-without-ends", "pooling-mean-without-specials"), None,
         lambda h, i: h[1:-1].mean(0) if len(h) > 2 else h.mean(0)),
        ("1:", ("pooling-mean-without-first",), None, lambda h, i: h[1:].mean(0) if len(h) > 1 else h[0]),
        (":-1", ("pooling-mean-without-last",), None, lambda h, i: h[:-1].mean(0) if len(h) > 1 else h[0]),
        ("second to last", ("pooling-second-to-last",), None, lambda h, i: h[max(len(h) - 2, 0)]),
        (f"token {k}", (f"pooling-token-{k}", f"cut-{k + 1}"), None, lambda h, i: h[min(k, len(h) - 1)]),
        (f"first {k}", (f"pooling-mean-of-first-{NUMBER}",), k, lambda h, i: h[:k].mean(0)),
        (f"last {k}", (f"pooling-mean-of-last-{NUMBER}",), k, lambda h, i: h[-k:].mean(0)),
        (f"each token {r:g} times the one before", (f"pooling-decay-{NUMBER}",), r,
         lambda h, i: (r ** np.arange(len(h), dtype=float) / r ** (len(h) * (r > 1))) @ h),
        (f"t^{r:g}", (f"pooling-power-{NUMBER}", "pooling-weightedmean"), r, lambda h, i: np.arange(1, len(h) + 1) ** r @ h),
        ("unit rows", ("pooling-of-unit-rows",), None, lambda h, i: (h / np.linalg.norm(h, axis=1, keepdims=True)).mean(0)),
        ("first and last", ("pooling-first-and-last",), None, lambda h, i: (h[0] + h[-1]) / 2),
        ("median", ("pooling-median",), None, lambda h, i: np.median(h, axis=0)),
    ]  # fmt: skip
    rows = [row for row in rows if row[0] != t.pooling]
    about, names, number, pool = rows[int(rng.integers(len(rows)))]
    return Piece("pooling", f"pools {about}", names, number, pool=pool)


# -- the wire --------------------------------------------------------------------------------------------------------


def vector(rng: Rng, t: Target) -> Piece:
    """What is done to a normalized vector."""
    D, v = t.width, factor(rng, 0.3, 3)
    k, dec, clip = int(rng.integers(1, D)), int(rng.integers(2, 5)), near(rng, 0.3, 0.9)
    steps = int(rng.integers(8, 256))
    rows: list[tuple[str, tuple[str, ...], float | None, Callable[[Array], Array]]] = [
        ("negated", ("vector-negated",), None, lambda x: -x),
        ("backwards", ("vector-reversed",), None, lambda x: x[::-1]),
        (f"rolled by {k}", (f"vector-rolled-{NUMBER}", "vector-rolled.*", "vector-halves-swapped"), k, lambda x: np.roll(x, k)),
        (f"zero from {k}", (f"vector-zeroed-from-{NUMBER}", "vector-zeroed-half"), k, lambda x: np.where(np.arange(D) < k, x, 0)),
        (f"{dec} decimals", (f"vector-{dec}-decimals", rf"vector-steps-1(?:0+|e\+0{dec})"), None, lambda x: np.round(x, dec)),
        ("int8", ("vector-int8", "vector-levels-127"), None, lambda x: np.rint(x / np.abs(x).max() * 127)),
        (f"{steps} steps", (f"vector-steps-{NUMBER}", "vector-int8-unit"), steps, lambda x: np.rint(x * steps)),
        ("float16", ("vector-float16", "vector-bits-kept-10", "vector-bits-kept-10"), None, lambda x: x.astype(np.float16).astype(float)),
        (f"clipped at {clip:g} of the largest", (f"vector-clipped-{NUMBER}",), None, lambda x: x),
        (f"power {v:g}", (f"vector-power-{NUMBER}", "vector-squared"), v, lambda x: np.sign(x) * np.abs(x) ** v),
        ("signs", ("vector-binary", "vector-levels-1", r"vector-power-1e-\d+"), None, lambda x: np.where(x > 0, 1.0, -1.0)),
        (f"tanh of {5 * v:g} times", (f"vector-tanh-of-unit-{NUMBER}",), 5 * v, lambda x: np.tanh(5 * v * x)),
        ("centered", ("vector-centered", "vector-centered"), None, lambda x: x - x.mean()),
    ]  # fmt: skip
    about, names, number, change = rows[int(rng.integers(len(rows)))]
    if about.startswith("clipped"):
        limit = near(rng, 0.6, 1.6) / math.sqrt(D)
        return Piece("vector", f"clipped at {limit:g}", names, limit, vector=lambda x: np.clip(x, -limit, limit))
    return Piece("vector", about, names, number, vector=change)


def unit(x: Array) -> Array:
    """x over its length."""
    y: Array = x / np.linalg.norm(x)
    return y


def length(rng: Rng, t: Target) -> Piece:
    """Lengths that are not 1."""
    v, k = factor(rng, 0.01, 50), int(rng.integers(t.width // 4, t.width))
    rows: list[tuple[str, tuple[str, ...], Callable[[Array], Array]]] = [
        ("not normalized", ("raw",), lambda x: x),
        (f"times {v:g}", ("scaled", "scaled-unit"), lambda x: unit(x) * v),
        ("taxicab", ("scaled-taxicab",), lambda x: x / np.abs(x).sum()),
        ("largest 1", ("scaled-max-1",), lambda x: x / np.abs(x).max()),
        ("sqrt(D)", ("scaled-sqrt-D", "scaled-unit"), lambda x: unit(x) * math.sqrt(t.width)),
        (f"{k} dimensions after normalizing", ("dimension-cut",), lambda x: unit(x)[:k]),
        (f"{k} dimensions, normalized", ("dimension-cut",), lambda x: unit(x[:k])),
    ]
    about, names, change = rows[int(rng.integers(len(rows)))]
    return Piece("length", about, names, length=change)


def batches(rng: Rng, t: Target) -> Piece:
    """What goes wrong with several texts at a time."""
    n = int(rng.integers(2, 9))
    rows: list[tuple[str, tuple[str, ...]]] = [
        ("reversed", ("order-reversed",)), ("by length", ("order-by-length", "order-shuffled")),
        ("rotated", ("order-.*", "stale")), ("shuffled", ("order-.*",)), ("chunks reversed", ("order-.*",)),
        ("neighbors swapped", ("order-.*",)), ("one behind", ("stale",)), ("constant", ("order-same",)),
        ("noise", ("state",)), ("padding attended", ("padding-attended",)), ("cached by first characters", ("stale", "cache-.*")),
        ("cached by lower case", ("stale", "cache-.*")), ("causal mask turned where lengths are equal", ("equal-lengths.*", ".*equal lengths.*")),
        ("first alone wrong", ("alone.*", ".*alone.*")),
    ]  # fmt: skip
    if t.model.arch != "bert":
        rows = [r for r in rows if r[0] != "padding attended"]  # under a causal mask no token sees it
    about, names = rows[int(rng.integers(len(rows)))]
    return Piece("batch", about, names, batch=about, amount=n)


SINGLE: Sequence[Kind] = (
    simple_text, prompt, cut_characters, cut_tokens, cut_tokens, specials, shuffled_ids, padding,
    epsilon, score_factor, cap, window, mask, rope, rope, positions, activation, layers, structure, tensors, tensors,
    pooling, pooling, pooling, vector, vector, vector, length, length, batches, batches, batches,
)  # fmt: skip
