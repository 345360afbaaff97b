"""What a forward pass may ask for: `Ops`, one method an operation. Start reading here.

Architectures (refembed/model/) are written against `Ops` and know no arithmetic. Four files compute it: exact/ops.py
(float64, the textbook), ggml/ops.py (llama.cpp's own roundings), fast/ops.py (float32, compiled; `int8` and `bf16`
round more), cuda/ops.py (on a GPU). `load_ops` picks one by name; wrapper.py changes operations, or looks on.

The examples below are in `exact` and small enough to check by hand:

    >>> from refembed.kernels.numerics import load_ops
    >>> ops = load_ops("exact")
    >>> ops.gelu(np.array([[0.0, 1.0]])).round(4)
    array([[0.    , 0.8412]])

Shapes: T tokens of all texts of a batch, end to end, C channels, H heads of D channels each, K heads of keys, S texts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.activation_ops import ActivationOps
from refembed.kernels.image_ops import ImageOps
from refembed.kernels.specs import BIDIRECTIONAL, AttentionMask, AttentionSpec, Rope
from refembed.kernels.state_ops import StateOps
from refembed.kernels.taps import NO_TAP, NoTap, Tap

__all__ = ["BIDIRECTIONAL", "COMPOSED", "NO_TAP", "AttentionMask", "AttentionSpec", "NoTap", "Ops", "Rope", "Tap"]


class Ops(ActivationOps, StateOps, ImageOps):
    """The operations of a forward pass, in one numerics. x is (T, C), row-major: the tokens of all texts, end to end.

    In all numerics but `ggml` every operation treats a row (attention: a text) in the same way whatever stands next to
    it, so the bits of a text's embedding do not depend on its batch. In `ggml` they depend on it as in llama.cpp.

    `tap` is given the steps inside an operation that llama.cpp's graph names; where none is attached (`NO_TAP`), they
    may be fused. A new operation needs: a method here, with its formula and an example; one in `Exact`, and in `Ggml`
    and `Fast` unless the default below serves them; its line in `OpsWrapper`.
    """

    name: str  # one of NUMERICS
    dtype: type[np.floating[Any]]  # of every activation
    precision: str | None = None  # of products with matrices, where there is a choice: `cupy`
    if_not_finite = "`refembed doctor MODEL` looks for NaN in the weights"  # a hint
    hardware = ""  # what decides about bits, if not this CPU and the libraries: a generation of GPUs
    one_text_a_core = False  # whether cores take texts of a batch each by itself, a few at a time (`Embedder`)

    @abstractmethod
    def weight(self, w: Tensor) -> Float:
        """A small tensor, decoded: a bias, a norm's weights.

        w        any shape; so is the result

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").weight(Tensor.of([1, 2]))
        array([1., 2.])
        """

    # -- matrices ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Embedding lookup: rows of a matrix.

            y[t] = w[ids[t]]

        w        (V, C)  decoded row by row
        ids      (T)     0 <= id < V
        returns  (T, C)

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").get_rows(Tensor.of([[1, 2], [3, 4], [5, 6]]), [2, 0])
        array([[5., 6.],
               [1., 2.]])
        """

    @abstractmethod
    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        """A linear layer.

            y = x Wᵀ + b

        x        (T, C)
        w        (N, C)  one row per output, as PyTorch and GGUF store it
        b        (N)     or None
        tap      is given the product before the bias, under the name `product`
        returns  (T, N)

        >>> from refembed.kernels.numerics import load_ops
        >>> w, b = Tensor.of([[3, 4], [0, 1], [1, 0]]), Tensor.of([10, 0, 0], "b")
        >>> load_ops("exact").linear(np.array([[1.0, 2.0]]), w, b)
        array([[21.,  2.,  1.]])
        """

    def linears(self, x: Float, matrices: Sequence[tuple[Tensor, Tensor | None]]) -> list[Float]:
        """Several linear layers of one x, such as queries, keys and values: each (w, b) as `linear` takes it.

        returns  (T, N) for each; the bits of `linear`, in whatever order they are computed

        >>> from refembed.kernels.numerics import load_ops
        >>> both = [(Tensor.of([[1, 1]], "sum"), None), (Tensor.of([[0, 1]], "second"), None)]
        >>> load_ops("exact").linears(np.array([[1.0, 2.0]]), both)
        [array([[3.]]), array([[2.]])]
        """
        return [self.linear(x, w, b) for w, b in matrices]

    @abstractmethod
    def experts(
        self, x: Float, w: Tensor, chosen: I64, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = ""
    ) -> Float:
        """Mixture of experts (Shazeer et al. 2017): each token through the matrices chosen for it.

            y[t, r] = W[chosen[t, r]] x[t] + b[chosen[t, r]]

        x        (T, C), one row for all experts of a token; or (T, k, C), one for each
        w        (X, N, C)
        chosen   (T, k)  0 <= expert < X
        b        (X, N)  or None
        tap      is given the product before the bias, under the name `product`
        returns  (T, k, N)

        >>> from refembed.kernels.numerics import load_ops
        >>> two = Tensor.of([[[1, 0]], [[0, 10]]])  # expert 0 takes the first channel, expert 1 ten times the second
        >>> load_ops("exact").experts(np.array([[1.0, 2.0]]), two, np.array([[1, 0]]))
        array([[[20.],
                [ 1.]]])
        """

    def per_head(self, x: Float, w: Tensor, *, attended: bool = False) -> Float:
        """Each head through a matrix of its own (multi-head latent attention: DeepSeek-AI 2024).

            y[t, h] = W[h] x[t, h]

        x         (T, H, C)
        w         (H, N, C)
        attended  x is what attention left, which llama.cpp may have in another order: `ggml` alone minds
        returns   (T, H, N)

        >>> from refembed.kernels.numerics import load_ops
        >>> x, w = np.array([[[1.0, 2.0], [3.0, 4.0]]]), Tensor.of([[[1, 0]], [[0, 10]]])  # a token, two heads
        >>> load_ops("exact").per_head(x, w).tolist()  # the first channel of the one, ten times the second of the other
        [[[1.0], [40.0]]]
        """
        return self.experts(x, w, np.tile(np.arange(w.shape[0]), (len(x), 1)))

    # -- norms -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def layer_norm(self, x: Float, w: Tensor | None, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """Layer normalization (Ba, Kiros & Hinton 2016): mean 0, variance 1, then an affine map.

            y = (x - E[x]) / sqrt(Var[x] + eps) w + b      over the C channels of each token; Var divides by C

        x        (T, C); or (T, H, C), the heads of queries or of keys
        w, b     (C), or of heads (H, C); b may be None, and so may both
        eps      GGUF `{arch}.attention.layer_norm_epsilon`
        tap      is given `norm`, before w, and `norm_w`, before b
        returns  x's shape

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").layer_norm(np.array([[1.0, 3.0]]), Tensor.of([1, 2]), Tensor.of([0, 5], "b"), 0.0)
        array([[-1.,  7.]])
        """

    def add_layer_norm(
        self, x: Float, residual: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP
    ) -> Float:
        """The residual connection of a layer that normalizes behind it (Vaswani et al. 2017): `layer_norm` of a sum.

            y = layer_norm(x + residual)

        residual  (T, C); the other arguments are those of `layer_norm`
        returns   (T, C); the bits of a sum and a `layer_norm`, which `fast` computes in one pass

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").add_layer_norm(np.ones((1, 2)), np.array([[0.0, 2.0]]), Tensor.of([1, 1]), None, 0.0)
        array([[-1.,  1.]])
        """
        return self.layer_norm(x + residual, w, b, eps, tap)

    @abstractmethod
    def rms_norm(self, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """RMS normalization (Zhang & Sennrich 2019): the mean stays where it is.

            y = x / sqrt(E[x²] + eps) w

        x        (..., C)  the last axis is normalized: channels of a token, or of each head
        w        (C); or (G, C) where x is (T, G, C); or None
        eps      GGUF `{arch}.attention.layer_norm_rms_epsilon`
        tap      is given `norm`, before w
        returns  (..., C)

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").rms_norm(np.array([[3.0, -3.0]]), Tensor.of([1, 2]), 0.0)
        array([[ 1., -2.]])
        """

    # -- arithmetic ---------------------------------------------------------------------------------------------------

    def add(self, x: Float, y: Float) -> Float:
        """The residual connection (He et al. 2015).

        x, y  of one shape; so is the sum

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").add(np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]))
        array([[11., 22.]])
        """
        return x + y

    def add_bias(self, x: Float, b: Tensor) -> Float:
        """x plus a number for each channel.

        x        (T, C)
        b        (C)
        returns  (T, C)

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").add_bias(np.array([[1.0, 2.0]]), Tensor.of([10, 20]))
        array([[11., 22.]])
        """
        return x + self.weight(b)

    def multiply(self, x: Float, y: Float) -> Float:
        """A gate: element by element.

        x, y  of one shape; so is the product

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").multiply(np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]))
        array([[10., 40.]])
        """
        return x * y

    def scale(self, x: Float, factor: float | np.floating[Any]) -> Float:
        """x times a number, which is rounded to `dtype` first.

        x  any shape; so is the result

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").scale(np.array([[1.0, 2.0]]), 0.5)
        array([[0.5, 1. ]])
        """
        return x * factor

    def split(self, x: Float, widths: Sequence[int]) -> list[Float]:
        """Columns of x in parts: queries, keys and values, or a gate and what it gates, of one product.

        x        (T, C), C the sum of `widths`
        returns  (T, width) each

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").split(np.array([[1.0, 2.0, 3.0]]), [1, 2])
        [array([[1.]]), array([[2., 3.]])]
        """
        return [np.ascontiguousarray(part) for part in np.split(x, np.cumsum(widths)[:-1], axis=1)]

    # -- mixing tokens -----------------------------------------------------------------------------------------------

    @abstractmethod
    def rope(self, x: Float, pos: I64, rope: Rope) -> Float:
        """Rotary position embedding (Su et al. 2021): each pair of channels is turned by an angle.

            theta_i = pos freq_base^(-2i/n_dims)
            (a, b) -> (a cos theta_i - b sin theta_i, a sin theta_i + b cos theta_i)

        x        (T, H, D)  heads of queries or of keys
        pos      (T)        a token's place in its text, from 0
        returns  (T, H, D)

        >>> from refembed.kernels.numerics import load_ops
        >>> quarter = Rope(n_dims=2, pairs="neox", freq_base=1.0, freq_scale=np.pi / 2)  # of a turn per place
        >>> load_ops("exact").rope(np.array([[[1.0, 0.0]], [[1.0, 0.0]]]), np.array([0, 1]), quarter).round(6)
        array([[[1., 0.]],
        <BLANKLINE>
               [[0., 1.]]])
        """

    @abstractmethod
    def attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *,
        bias: Float | None = None, sinks: Tensor | None = None,
    ) -> Float:  # fmt: skip
        """Scaled dot-product attention (Vaswani et al. 2017, section 3.2), each text and each head on its own.

            y = softmax(scale q kᵀ + bias + mask) v

        q        (T, H D)   heads side by side
        k, v     (T, K D)   values may have another width than keys, E (DeepSeek-V2): then y is (T, H E)
        spec                heads, scale, mask, soft cap
        offsets  (S+1)      text s is rows offsets[s]:offsets[s+1]
        bias     (H, L, L)  added to the score of query i and key j of each text, L the longest (T5); None for none
        sinks    (H)        a score of each head that takes a share and has no value (gpt-oss); None for none
        tap                 is given v_cont, kq, kq_soft_max, kqv and what a soft cap and a bias add to them
        returns  (T, H D)

        Two tokens of one head: the first sees itself alone, the second both, and prefers neither.

        >>> from refembed.kernels.numerics import load_ops
        >>> q = k = np.zeros((2, 1))
        >>> spec = AttentionSpec(n_head=1, n_head_kv=1, scale=1.0, mask=AttentionMask(causal=True))
        >>> load_ops("exact").attention(q, k, np.array([[10.0], [20.0]]), spec, np.array([0, 2]))
        array([[10.],
               [15.]])
        """

    @abstractmethod
    def mix_streams(self, x: Float, w: Float) -> Float:
        """Each token's streams of hidden states mixed by a matrix of its own (AltUp: Baykal et al. 2023).

            y[a, t] = w[t, a, 0] x[0, t] + ... + w[t, a, S-1] x[S-1, t]

        x        (S, T, C)
        w        (T, S, S)
        returns  (S, T, C)

        >>> from refembed.kernels.numerics import load_ops
        >>> x, w = np.array([[[1.0]], [[2.0]]]), np.array([[[1.0, 1.0], [0.0, 10.0]]])  # one token, two streams
        >>> load_ops("exact").mix_streams(x, w)
        array([[[ 3.]],
        <BLANKLINE>
               [[20.]]])
        """

    @abstractmethod
    def mean(self, x: Float, offsets: I64) -> Float:
        """Mean pooling: the mean of each text's rows.

        x        (T, C)
        offsets  (S+1)   text s is rows offsets[s]:offsets[s+1]
        returns  (S, C)

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").mean(np.array([[1.0], [3.0], [7.0]]), np.array([0, 2, 3]))
        array([[2.],
               [7.]])
        """

    def capture_or_replay(
        self, given: tuple[Any, ...], layers: Callable[[Float], Float], x: Float, offsets: I64 | None = None
    ) -> Float:
        """`layers(x)`: all layers of a batch, which some numerics replay without Python between their operations.

        As fast/graph.py and cuda/graph.py have it: `fast`, `int8`, `bf16` and `cupy`.

        given    objects that `layers` reads, which do not change: with offsets and x's shape they name a computation
        layers   calls operations of this very object, and depends on nothing but `given`, offsets, x and its shape
        x        (T, C); so is the result
        offsets  (S+1)  text s is rows offsets[s]:offsets[s+1]; None: there is one

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").capture_or_replay((), np.tanh, np.array([[0.0]]))
        array([[0.]])
        """
        return layers(x)


COMPOSED = ("linears", "add_layer_norm", "capture_or_replay")  # have the bits of operations that they call on self
