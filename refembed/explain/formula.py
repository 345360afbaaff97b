"""A formula as data: its text, its NumPy form, and what its letters stand for; and the activations and poolings."""

from __future__ import annotations

from dataclasses import dataclass

from refembed.explain.operands import Operand

GELU = (
    "x Φ(x) ≈ ½ x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))",
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
    "geglu": (
        "g Φ(g) · u ≈ ½ g (1 + tanh(sqrt(2/π) (g + 0.044715 g³))) · u",
        GELU[1].replace("x", "g").replace("egp", "exp") + " * u",
    ),
    "swiglu_oai": (
        "h / (1 + e^(-1.702 h)) · (1 + v), h = min(g, 7), v = u between -7 and 7",
        "np.minimum(g, 7) / (1 + np.exp(-1.702 * np.minimum(g, 7))) * (1 + np.clip(u, -7, 7))",
    ),
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


@dataclass(frozen=True)
class Formula:
    """How one tensor is computed."""

    text: str = ""
    python: str = ""
    operands: tuple[Operand, ...] = ()


NO_FORMULA = Formula()


def made(text: str, python: str, **operands: str) -> Formula:
    """A formula; NO_FORMULA where the run does not show what goes into it."""
    if not all(operands.values()):
        return NO_FORMULA
    return Formula(text, python, tuple(Operand(letter, what) for letter, what in operands.items()))
