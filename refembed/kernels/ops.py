"""What a forward pass may ask for. Architectures are written against `Ops`; `load_ops` picks how to compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor


class Tap(Protocol):
    """A tap: `x = tap("kq", x)` records x, in layer 3 as `kq-3`, and returns what to go on with
    (docs/decisions/003).
    """

    active: bool  # False: an operation may skip its inner tensors and fuse

    def __call__(self, name: str, x: Float) -> Float:
        """Show x under llama.cpp's name for it, less the layer number."""
        ...


class NoTap:
    """The tap of a run that is not traced: nothing is recorded."""

    active = False

    def __call__(self, name: str, x: Float) -> Float:
        """Return x."""
        return x


NO_TAP = NoTap()


@dataclass(frozen=True)
class AttentionMask:
    """Which keys of its own text a query sees, and what distance costs. Positions count from 0 in each text."""

    causal: bool = False  # query i sees keys j <= i
    window: int = 0  # 0: no window; else as `kind` says
    kind: Literal["standard", "chunked", "symmetric"] = "standard"  # enum llama_swa_type
    max_bias: float = 0.0  # ALiBi (Press et al. 2022): slope(head) * -|i - j| is added to a score; 0 for none


BIDIRECTIONAL = AttentionMask()  # bidirectional


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021) with llama.cpp's extensions (ggml_rope_ext)."""

    n_dims: int  # leading channels of a head that turn; the rest stay
    pairs: Literal["norm", "neox"]  # channel 2i with 2i+1, or i with i + n_dims/2
    freq_base: float  # theta_i = pos * freq_base^(-2i/n_dims)
    freq_scale: float = 1.0  # linear scaling: 1 / factor
    n_ctx_orig: int = 0  # context of the original training, for YaRN
    ext_factor: float = 0.0  # YaRN (Peng et al. 2023): how far to mix; 0 is off
    attn_factor: float = 1.0  # magnitude of the turned vector
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    factors: Tensor | None = None  # (n_dims/2) `rope_freqs.weight` and similar models: theta_i is divided by them


class Ops(Protocol):
    """The operations, in one numerics. x is (T, C), row-major: the tokens of all sequences, end to end.

    In `exact` and `fast` every operation treats a row (attention: a sequence) in the same way whatever stands beside
    it, so the bits of a text's embedding do not depend on its batch. In `ggml` they depend on it as in llama.cpp.
    """

    name: str  # one of NUMERICS
    dtype: type[np.floating[Any]]  # of every activation

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows `ids` (T) of w (V, C), decoded alone: (T, C)."""
        ...

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        """x (T, C) times w (N, C) transposed, plus b (N): (T, N). `tap` is given the product before a bias."""
        ...

    def layer_norm(
        self, x: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP, *, plus: Float | None = None
    ) -> Float:
        """Mean 0, variance 1, times w (C), plus b (C). `tap` is given `norm`, and `norm_w` where there is a bias.

        plus  (T, C) added to x before: the residual of a layer that norms behind it
        """
        ...

    def rms_norm(self, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """x over its root mean square, times w, over the last axis of w's length; `tap` is given `norm`."""
        ...

    def gelu(self, x: Float) -> Float:
        """The tanh form of GELU, any shape."""
        ...

    def gelu_erf(self, x: Float) -> Float:
        """GELU itself (Hendrycks & Gimpel 2016): x Phi(x)."""
        ...

    def silu(self, x: Float) -> Float:
        """x / (1 + e^-x)."""
        ...

    def geglu(self, gate: Float, up: Float) -> Float:
        """gelu(gate) * up, the tanh form (Shazeer 2020)."""
        ...

    def swiglu(self, gate: Float, up: Float) -> Float:
        """silu(gate) * up."""
        ...

    def rope(self, x: Float, pos: I64, rope: Rope) -> Float:
        """Turn every head of x (T, H, D) by its token's position pos (T)."""
        ...

    def attention(
        self,
        q: Float,
        k: Float,
        v: Float,
        n_head: int,
        offsets: I64,
        scale: float,
        tap: Tap = NO_TAP,
        *,
        n_head_kv: int | None = None,
        mask: AttentionMask = BIDIRECTIONAL,
        soft_cap: float = 0.0,
        cached: bool = False,
        bias: Float | None = None,
    ) -> Float:
        """Scaled dot-product attention, each sequence on its own: q (T, H D), k, v (T, K D), offsets (S+1) -> (T, H D).

        n_head_kv  K heads of keys and values, each shared by H/K query heads; None: H
        soft_cap   scores become c tanh(score / c); 0 for none
        cached     llama.cpp runs this model with a KV cache, which rounds keys and values (`ggml` asks, others do not)
        bias       (H, L, L), L the longest sequence: added to the score of query i and key j of each text (T5)
        """
        ...

    def softmax(self, x: Float) -> Float:
        """exp(x) / sum(exp(x)) over the last axis of x (T, n)."""
        ...

    def tanh(self, x: Float) -> Float:
        """tanh, any shape."""
        ...

    def experts(self, x: Float, w: Tensor, chosen: I64) -> Float:
        """Each token through the experts chosen for it (T, k): x (T, C), or (T, k, C); w (X, N, C) -> (T, k, N)."""
        ...

    def short_conv(self, x: Float, w: Tensor, offsets: I64, ahead: int = 0) -> Float:
        """Convolution of each channel along each sequence: x (T, C), w (C, n): y_t = sum w_i x_(t-n+1+ahead+i).

        ahead  how many of the n tokens are after the one whose sum it is; 0 looks back only
        """
        ...

    def mean(self, x: Float, offsets: I64) -> Float:
        """Mean pooling: x (T, C), offsets (S+1) -> (S, C)."""
        ...


def override_op(ops: Ops, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(ops, x, ...)` in the place of an operation; where that would first add `plus` to x, this does."""

    def operation(x: Any, *rest: Any, plus: Float | None = None, **more: Any) -> Any:
        return function(ops, x if plus is None else x + plus, *rest, **more)

    return operation if name == "layer_norm" else partial(function, ops)
