"""Every formula that `refembed explain` prints, evaluated from what it prints, gives the tensor it is printed with.

Operands are looked up as a reader would: tensors of the run by their printed names, weights in the file with gguf-py,
numbers behind the last "=". The tensors are those that tests/model compares with llama.cpp, in the same variants.
"""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from refembed import Embedder
from refembed.explain.formulas import Formula, formula_of
from refembed.explain.operands import Operand, base_of
from refembed.explain.watch import Run, watch
from refembed.model import ARCHITECTURES
from refembed.testing.synthetic import synthetic
from tests.model import (
    test_decoders,
    test_dense_decoders,
    test_encoders_post,
    test_encoders_pre,
    test_gemmas_phi_t5,
    test_granite_lfm2,
    test_mla,
    test_moe_decoders,
    test_recurrent,
)

TEXT = "the cat sat on it, and the dog"
EXPERTS = ("granitemoe", "nomic-bert-moe")
TABLES = (
    test_decoders,
    test_dense_decoders,
    test_encoders_post,
    test_encoders_pre,
    test_gemmas_phi_t5,
    test_granite_lfm2,
    test_mla,
    test_moe_decoders,
    test_recurrent,
)
EVERY = {f"{a}, plain": (a, {"X": 4 * (a in EXPERTS), "pooling": 1}) for a in ARCHITECTURES}
VARIANTS = EVERY | {name: row for table in TABLES for name, row in table.VARIANTS.items() if "62 layers" not in name}
BERT = {"bias": {f"{n}.bias" for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")}}
VARIANTS |= {
    "bert, biases": ("bert", {"optional": BERT["bias"], "pooling": 2}),
    "bert, fused": ("bert", {"optional": {"attn_qkv.weight", "attn_qkv.bias", "token_types.weight"}, "pooling": 0}),
}
TOLERANCE = 1e-7  # of the largest number: printed float32 numbers have 8 digits. Measured: 2.5e-8, a scale; else 1e-14
HELPERS = {"T", "H", "G", "n", "e", "id", "base"}  # sizes and indices, which words may stand for in the text


def bucket(distance: Any, n: float) -> Any:
    """T5's bucket of a distance, key minus query: Raffel et al. 2020, section 2.1, as their code has it."""
    half, exact, far = int(n) // 2, int(n) // 4, 128

    def one(d: int) -> int:
        k, start = abs(d), half if d > 0 else 0
        if k < exact:
            return start + k
        steps = int(np.float32(math.log(k / exact)) / math.log(far / exact) * (half - exact))
        return start + min(exact + steps, half - 1)

    return np.vectorize(one)(distance)


def rope(x: Any, theta: Any, pairs: str, m: float = 1.0) -> Any:
    """Su et al. 2021: pairs as complex numbers, times e^(iθ)."""
    n, y = theta.shape[1], x.copy()
    a, b = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if pairs == "norm" else (slice(0, n), slice(n, 2 * n))
    z = (x[..., a] + 1j * x[..., b]) * m * np.exp(1j * theta)[:, None]
    y[..., a], y[..., b] = z.real, z.imag
    return y


def delta_rule(q: Any, k: Any, v: Any, g: Any, beta: Any) -> Any:
    """Yang, Kautz & Hatamizadeh 2024, equation 10, each head by itself."""
    T, H = g.shape
    D = v.size // (T * H)
    q, k, v, beta = *(x.reshape(T, -1, D) for x in (q, k, v)), beta.reshape(T, H)
    y = np.zeros((T, H, D))
    for h in range(H):
        state, own = np.zeros((D, D)), h % k.shape[1]
        for t in range(T):
            key = k[t, own][:, None]
            state = (
                np.exp(g[t, h]) * state @ (np.eye(D) - beta[t, h] * key @ key.T) + beta[t, h] * v[t, h][:, None] @ key.T
            )
            y[t, h] = state @ q[t, own] / np.sqrt(D)
    return y


def scan(x: Any, dt: Any, a: Any, b: Any, c: Any, G: int) -> Any:
    """Gu & Dao 2023, algorithm 2: outputs, and behind them the last state."""
    (T, H), N = dt.shape, b.shape[1] // G
    x, b, c = x.reshape(T, H, -1), b.reshape(T, G, N), c.reshape(T, G, N)
    y, state = np.zeros(x.shape), np.zeros((H, x.shape[2], N))
    for t in range(T):
        for h in range(H):
            s, g = np.log1p(np.exp(dt[t, h])), h // (H // G)
            state[h] = np.exp(s * a[h]) * state[h] + s * np.outer(x[t, h], b[t, g])
            y[t, h] = state[h] @ c[t, g]
    return np.concatenate([y.ravel(), state.ravel()])


def wkv7(r: Any, w: Any, k: Any, v: Any, a: Any, b: Any, H: int) -> Any:
    """Peng et al. 2025, equation 17: outputs, and behind them the last state."""
    T = len(r)
    r, w, k, v, a, b = (x.reshape(T, H, -1) for x in (r, w, k, v, a, b))
    y, state = np.zeros(v.shape), np.zeros((H, v.shape[2], v.shape[2]))
    for t in range(T):
        for h in range(H):
            state[h] = state[h] @ (np.diag(w[t, h]) + np.outer(a[t, h], b[t, h])) + np.outer(v[t, h], k[t, h])
            y[t, h] = state[h] @ r[t, h]
    return np.concatenate([y.ravel(), state.ravel()])


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Page:
    """What a reader has before them: the trace, the file, and the text."""

    def __init__(self, path: Path, run: Run) -> None:
        self.run, self.tensors = run, run.trace.tensors
        self.file = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in GGUFReader(path).tensors}

    def value(self, what: str) -> Any:
        """What a printed operand is."""
        if " + " in what and "=" not in what:
            left, right = what.split(" + ")
            return self.value(left) + self.value(right)
        if what in self.file:
            return self.file[what]
        if what == "the token ids":
            return np.array(self.run.trace.meta["tokens"])
        if what == "the tokens' places, from 0":
            return np.arange(len(self.run.trace.meta["tokens"]))
        if found := re.fullmatch(r"(.+), as (\(.*\))", what):
            return self.value(found[1]).reshape(ast.literal_eval(found[2]))
        if found := re.fullmatch(r"(.+)\[:, :, (\d+):(\d+)\]", what):
            return self.value(found[1])[:, :, int(found[2]) : int(found[3])]
        if found := re.fullmatch(r"(.+)\[:, (\d+):(\d+)\]", what):
            return self.value(found[1])[:, int(found[2]) : int(found[3])]
        if found := re.fullmatch(r"(.+)\[(\d)\]", what):
            return self.value(found[1])[int(found[2])]
        if " = " in what:
            return ast.literal_eval(what.rpartition(" = ")[2].replace("inf", "1e999"))
        found = re.fullmatch(r"(.+) \((\d+)\w\w of (\d+)\)", what)
        name, place, count = (found[1], int(found[2]), int(found[3])) if found else (what, 1, 1)
        alike = [t.array for t in self.tensors if t.name == name]
        assert len(alike) == count, what
        return np.asarray(alike[place - 1], np.float64)

    def names(self, formula: Formula) -> dict[str, Any]:
        T = len(self.run.trace.meta["tokens"])
        places = {"i": np.arange(T)[:, None], "j": np.arange(T)}
        known = {"np": np, "delta_rule": delta_rule, "scan": scan, "wkv7": wkv7} | {
            "softmax": softmax,
            "rope": rope,
            "bucket": bucket,
            "erf": np.vectorize(math.erf),
        }
        return known | places | {o.letter: self.value(o.what) for o in formula.operands if o.letter != "mask"}

    def error(self, i: int, formula: Formula, code: str = "") -> float:
        """How far the formula is from the tensor, over the tensor's largest number."""
        array = np.asarray(self.tensors[i].array, np.float64)
        got = np.asarray(eval(code or formula.python, self.names(formula)), np.float64).reshape(array.shape)
        off = np.abs(np.subtract(got, array, out=np.zeros(array.shape), where=got != array))  # -inf is -inf
        return float(off.max() / max(np.abs(array[np.isfinite(array)]).max(), 1e-30))


def opened(name: str, tmp_path: Path) -> Page:
    arch, sizes = VARIANTS[name]
    path = synthetic(tmp_path / "m.gguf", arch, seed=len(name), **sizes)
    e = Embedder.load(path, numerics="exact")
    return Page(path, watch(e, TEXT, pooling="mean" if "pooling" not in sizes else "native"))


def readable(text: str) -> str:
    """A printed formula as Python: the notation of papers, sign by sign. "" where it is no expression."""
    text = re.sub(r", (row by row|head by head)$", "", re.split(" [=≈] ", text)[-1])
    for sign, code in (
        ("½", "0.5"),
        ("²", "**2"),
        ("³", "**3"),
        ("2/π", "2/np.pi"),
        ("·", "*"),
        ("e^-", "np.exp(-1)**"),
    ):
        text = text.replace(sign, code)
    text = re.sub(r"(\w\)?) (\w+)ᵀ", r"\1 @ \2.T", text)
    text = re.sub(r"(\w|\)) (?=[\w(](?!and))", lambda m: m[0][:-1] + " * ", text)
    return text if not re.search(r"[^\w\s().,+\-*/@\[\]]|mask|Σ", text) else ""


READING = {
    "mean": lambda x: x.mean(-1, keepdims=True), "var": lambda x: x.var(-1, keepdims=True), "sqrt": np.sqrt,
    "tanh": np.tanh, "max": np.maximum,
}  # fmt: skip


FEW = [
    *EVERY,
    "bert, biases",
    "bert, fused",
    "llama, fused qkv with bias",
    "llama, yarn, magnitude",
    "granite, experts, shared",
]
MANY = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]


@pytest.mark.parametrize("name", MANY)
def test_each_printed_formula_gives_the_tensor_next_to_it(name: str, tmp_path: Path) -> None:
    page = opened(name, tmp_path)
    read = 0
    for i, tap in enumerate(page.tensors):
        formula = formula_of(page.run, i)
        assert formula.python, tap.name
        assert page.error(i, formula) <= TOLERANCE, (tap.name, formula)
        for o in formula.operands:
            words = set(re.findall(r"[A-Za-z]\d?|[a-z]+", formula.text)) | set(re.findall(r"\w+", formula.text))
            assert o.letter in words | HELPERS, (tap.name, o.letter, formula.text)
        if code := readable(formula.text):
            try:
                ast.parse(code)
            except SyntaxError:
                continue
            names = page.names(formula) | READING
            if {n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)} <= set(names):
                got = np.asarray(eval(code, names))
                if got.size == tap.array.size:
                    error = np.abs(got.reshape(tap.array.shape) - tap.array).max() / np.abs(tap.array).max()
                    assert error <= TOLERANCE, (tap.name, formula.text, code)
                    read += 1
    assert read >= len(page.tensors) // 3, f"{read} of {len(page.tensors)} texts are expressions"


def test_the_largest_error_is_printed_digits_alone(tmp_path: Path) -> None:
    """Weights and tensors are exact here; what is left are numbers printed as float32, and rounding."""
    page = opened("gemma3, plain", tmp_path)
    assert max(page.error(i, formula_of(page.run, i)) for i in range(len(page.tensors))) < 1e-12


FORGOTTEN = {  # what a formula could leave out: the model that has it, the tensors it is looked for in, and the change
    "the bias of a norm": ("bert, plain", ("inp_norm", "ffn_inp", "l_out"), (" + b", "")),
    "the weight of a norm": ("llama, plain", ("attn_norm", "ffn_norm", "result_norm"), (" * W", "")),
    "the bias of a product": ("bert, biases", ("Qcur", "ffn_up_b", "ffn_out"), (" + b", "")),
    "the residual": ("llama, plain", ("ffn_inp", "l_out"), ("x + ", "")),
    "the scale of scores": ("llama, plain", ("kq_soft_max",), (" / np.sqrt(D)", "")),
    "the mask": ("llama, plain", ("kq_soft_max",), (" + np.where((j <= i), 0, -np.inf)", "")),
    "the slopes": ("jina-bert-v2, plain", ("kq_soft_max",), (" - np.array(m)[:, None, None] * abs(i - j)", "")),
    "the scale of embeddings": ("gemma, plain", ("inp_scaled",), (" * np.sqrt(C)", "")),
    "the scale of queries": ("phi3, plain", ("Qcur",), (" / np.sqrt(D)", "")),
    "the scale of what a layer adds": ("minicpm, plain", ("attn_scaled", "ffn_scaled"), (" * r", "")),
    "the kind of token": ("bert, plain", ("inp_embd",), ("P[t]", "0")),
    "the position": ("llama, plain", ("Qcur",), ("t[:, None]", "0 * t[:, None]")),
    "a gate": ("llama, plain", ("ffn_swiglu",), (" * u", "")),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_formula_that_leaves_something_out_is_found(what: str, tmp_path: Path) -> None:
    """The error is thousands of times what is tolerated."""
    name, bases, (old, new) = FORGOTTEN[what]
    page = opened(name, tmp_path)
    found = {}
    for i, tap in enumerate(page.tensors):
        formula = formula_of(page.run, i)
        if base_of(tap.name) in bases and old in formula.python:
            found[base_of(tap.name)] = page.error(i, formula, formula.python.replace(old, new))
    assert set(found) == set(bases)
    assert min(found.values()) > 1000 * TOLERANCE


def test_a_wrong_operand_is_found(tmp_path: Path) -> None:
    """The other half of a fused product, the other occurrence of a name."""
    page = opened("llama, fused qkv with bias", tmp_path)
    i = next(i for i, tap in enumerate(page.tensors) if tap.name == "Qcur-1")
    formula = formula_of(page.run, i)
    x = next(o.what for o in formula.operands if o.letter == "x")
    assert re.match(r"wqkv_b-1\[:, 0:60\], as \(11, 6, 10\)", x)
    wrong = [Operand("x", x.replace("0:60", "60:120")) if o.letter == "x" else o for o in formula.operands]
    assert page.error(i, Formula(formula.text, formula.python, tuple(wrong))) > 1000 * TOLERANCE
