"""The `cupy` numerics: `Ops` as launches of CUDA kernels, in float32 but for products of another `precision`.

Activations are `DeviceArray`s; what is given as an array of the host is copied to the device first. Every kernel works
row by row (attention: query by query) in an order that depends on nothing around the row, products included, so a text
has the same bits alone and in any batch.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.errors import RequestError
from refembed.gguf import Tensor
from refembed.kernels.cuda import device as devices
from refembed.kernels.cuda.array import DeviceArray, scaled, with_repeated
from refembed.kernels.cuda.device import Device
from refembed.kernels.cuda.graph import GraphCache
from refembed.kernels.cuda.image_ops import CudaImageOps
from refembed.kernels.cuda.launch import Memory
from refembed.kernels.cuda.precision import FLOAT32, WIDER, Precision, precision_on
from refembed.kernels.cuda.state_ops import CudaStateOps, floats, whole_numbers
from refembed.kernels.cuda.weights import DeviceWeights
from refembed.kernels.exact.attention import by_head, mask_scores, slopes
from refembed.kernels.exact.rope import turns
from refembed.kernels.ops import BIDIRECTIONAL, NO_TAP, AttentionSpec, Rope, Tap

WINDOW_KINDS = {"standard": 0, "chunked": 1, "symmetric": 2}  # AttentionMask.kind, as attention.cu counts them
QUERIES, WARPS = 16, 4  # of a block of attention.cu
WIDTHS = (64, 128, 256, 512)  # channels of a head that attention.cu has kernels for
TILE = 64  # columns of a block of matmul.cu and tensor_cores.cu
FEW_ROWS = 48  # rows of x that tiles of 16 rows waste less on
RECENT = 8  # arrays of the host whose copies are kept: places and offsets, which each layer takes again


def tiles_of(offsets: I64) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The blocks of attention.cu: for each 16 queries of each text its number, and which 16 they are.

    >>> tiles_of(np.array([0, 17, 18])).tolist()  # 16 queries and one of text 0, one of text 1
    [[0, 0], [0, 1], [1, 0]]
    """
    counts = -(-np.diff(offsets) // QUERIES)
    texts = np.repeat(np.arange(len(counts)), counts)
    firsts = np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([texts, firsts], axis=1).astype(np.int32)


@lru_cache(maxsize=16)
def ends_of(spans: tuple[tuple[int, int], ...], lengths: tuple[int, ...]) -> I64:
    """Of each row of texts of these lengths, where the image ends that it is a row of: `AttentionMask.spans`; else 0.

    >>> ends_of(((1, 3),), (4, 2)).tolist()  # the second text ends before the image would
    [0, 3, 3, 0, 0, 2]
    """
    i, n = np.concatenate([np.arange(n) for n in lengths]), np.repeat(lengths, lengths)
    ends: I64 = np.max([np.where((first <= i) & (i < last), np.minimum(last, n), 0) for first, last in spans], axis=0)
    return ends


class Cupy(CudaStateOps, CudaImageOps):
    """`Ops` on a device."""

    name = "cupy"
    dtype: type[np.floating[Any]] = np.float32

    def __init__(
        self, device: Device, *, memory_budget: int | str | None = None, precision: str = FLOAT32.name
    ) -> None:
        """memory_budget: as `DeviceWeights` takes it; precision: of products with matrices, a name of PRECISIONS."""
        self.device, self.precision = device, precision
        self.products = precision_on(device, precision)
        self.weights = DeviceWeights(device, memory_budget, self.products)
        if self.products.numbers:
            self.hardware = "tensor cores {}.{}".format(*device.capability())
        if precision == "fp16":
            self.if_not_finite = f"precision fp16 ends at 65504, and {WIDER}; {self.if_not_finite}"
        self.turned: dict[Rope, tuple[int, Memory, Memory]] = {}  # places, cosines, sines
        self.slopes: dict[tuple[int, float], Memory] = {}
        self.graphs = GraphCache(device)
        self.own = threading.local()

    # -- arrays ------------------------------------------------------------------------------------------------------

    def numbers(self, x: Any, made: Callable[[Any], Any] = whole_numbers) -> Memory:
        """What is made of an array of the host, copied once for all layers: a copy waits for what was launched.

        x must not change. made: x as int64 or float32, `tiles_of` ...
        """
        recent: deque[tuple[Any, Any, Memory]] = self.own.__dict__.setdefault("recent", deque(maxlen=RECENT))
        for known, how, memory in recent:
            if known is x and how is made:
                return memory
        memory = self.device.upload(made(x))
        recent.append((x, made, memory))
        return memory

    def weight(self, w: Tensor) -> Any:
        """A small tensor (bias, norm) in float32."""
        return self.weights.whole(w)

    def optional(self, w: Tensor | None) -> Memory | None:
        """The same for a kernel; null where there is none."""
        return None if w is None else self.weights.whole(w).memory

    # -- matrices ----------------------------------------------------------------------------------------------------

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Any:
        """Rows of w, decoded alone."""
        if devices.own.capture is not None and not isinstance(ids, range):
            devices.own.capture.invalidate()  # the next text has others
        return self.weights.rows(w, np.asarray(ids, np.int64))

    def product(self, x: DeviceArray, w: Tensor, bias: Memory | None = None, out: DeviceArray | None = None) -> Any:
        """x Wᵀ + bias (T, N), every element one chain of multiply-adds, or of instructions of tensor cores."""
        (rows, depth), n = x.shape, w.shape[0]
        out = out or self.empty((rows, n))
        for begin, end, part in self.weights.parts(w):
            own = None if bias is None else bias.at(begin)
            self.matmul(x.memory, part, own, rows, end - begin, depth, n, begin, out.memory, self.products)
        return out

    def matmul(
        self, x: Memory, w: Memory, bias: Memory | None, rows: int, n: int, depth: int, stride: int, first: int,
        out: Memory, by: Precision = FLOAT32,
    ) -> None:  # fmt: skip
        """x (rows, depth) times w (n, depth) transposed, into columns from `first` on of out (rows, stride)."""
        kernel, tall = (f"{by.kernel}_few", 16) if rows <= FEW_ROWS else (by.kernel, by.tall)
        grid = (-(-n // TILE), -(-rows // tall), 1)
        self.device.launch(kernel, grid, (by.threads, 1, 1), x, w, bias, rows, n, depth, stride, first, out)

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Any:
        """y = x Wᵀ + b."""
        given = self.on_device(x)
        if b is None or not tap.active:
            return self.product(given, w, self.optional(b))
        return self.add_bias(tap(product, self.product(given, w)), b)

    def experts(
        self, x: Float, w: Tensor, chosen: I64, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = ""
    ) -> Any:
        """y = x W_eᵀ + b_e for each chosen e: rows are put in the order of their experts, multiplied, and put back."""
        given, (T, k) = self.on_device(x), chosen.shape
        flat = np.asarray(chosen, np.int64).reshape(-1)
        order = np.argsort(flat, kind="stable")
        rows = self.gather(given.reshape(-1, given.shape[-1]), order // k if given.ndim == 2 else order)
        sorted_out = self.empty((T * k, w.shape[1]))
        edges = np.searchsorted(flat[order], np.arange(w.shape[0] + 1))
        for e, (begin, end) in enumerate(itertools.pairwise(edges.tolist())):
            if begin < end:
                self.product(rows[begin:end], w.entry(e), out=sorted_out[begin:end])
        y = self.gather(sorted_out, np.argsort(order, kind="stable")).reshape(T, k, -1)
        if b is None:
            return y
        return self.add(tap(product, y), self.gather(self.weights.whole(b), flat).reshape(y.shape))

    def gather(self, x: DeviceArray, ids: I64) -> Any:
        """Rows of x (., n) by their numbers."""
        n, out = x.shape[1], self.empty((len(ids), x.shape[1]))
        self.device.for_each("gather", out.size, x.memory, self.device.upload(ids), len(ids), n, out.memory)
        return out

    # -- norms -------------------------------------------------------------------------------------------------------

    def layer_norm(self, x: Float, w: Tensor | None, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Any:
        """y = (x - E[x]) / sqrt(Var[x] + eps) w + b, in one launch where no tap is attached."""
        return self.norm_of_sum(x, None, w, b, eps, tap)

    def add_layer_norm(
        self, x: Float, residual: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP
    ) -> Any:
        """y = layer_norm(x + residual), in the same launch."""
        return self.norm_of_sum(x, residual, w, b, eps, tap)

    def norm_of_sum(
        self, x: Float, residual: Float | None, w: Tensor | None, b: Tensor | None, eps: float, tap: Tap
    ) -> Any:
        """`layer_norm` of x, or of x + residual."""
        given = self.on_device(x)
        more = None if residual is None else self.on_device(residual).memory
        out, n = self.empty(given.shape), given.shape[-1]
        scale, bias = (None, None) if tap.active else (self.optional(w), self.optional(b))
        groups = 1 if w is None else math.prod(w.shape) // n
        rows = given.size // n
        self.device.for_each_row("layer_norm", rows, given.memory, more, scale, bias, eps, rows, n, groups, out.memory)
        if not tap.active or w is None:
            return out
        y = self.multiply(tap("norm", out), self.weight(w))
        return y if b is None else self.add(tap("norm_w", y), self.weight(b))

    def rms_norm(self, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Any:
        """y = x / sqrt(E[x^2] + eps) w, in one launch where no tap is attached."""
        given = self.on_device(x)
        out, n = self.empty(given.shape), given.shape[-1]
        rows, groups = given.size // n, 1 if w is None else math.prod(w.shape) // n
        scale = None if tap.active else self.optional(w)
        self.device.for_each_row("rms_norm", rows, given.memory, scale, eps, rows, n, groups, out.memory)
        return self.multiply(tap("norm", out), self.weight(w)) if tap.active and w is not None else out

    # -- arithmetic --------------------------------------------------------------------------------------------------

    def add(self, x: Float, y: Float) -> Any:
        """x + y, where y has x's shape or is a row for all rows."""
        return with_repeated("add", self.on_device(x), y)

    def add_bias(self, x: Float, b: Tensor) -> Any:
        """x + b."""
        return self.add(x, self.weight(b))

    def multiply(self, x: Float, y: Float) -> Any:
        """x y, likewise."""
        return with_repeated("multiply", self.on_device(x), y)

    def scale(self, x: Float, factor: float | np.floating[Any]) -> Any:
        """factor x."""
        return scaled(self.on_device(x), factor)

    def split(self, x: Float, widths: Sequence[int]) -> list[Any]:
        """Columns of x in parts."""
        given, first, parts = self.on_device(x), 0, []
        for width in widths:
            out = self.empty((len(given), width))
            self.device.for_each(
                "columns", out.size, given.memory, len(given), given.shape[1], first, width, out.memory
            )
            parts.append(out)
            first += width
        return parts

    # -- activation functions ----------------------------------------------------------------------------------------

    def of_one(self, kernel: str, x: Float) -> Any:
        """A kernel of each number of x."""
        given = self.on_device(x)
        out = self.empty(given.shape)
        self.device.for_each(kernel, out.size, given.memory, out.size, out.memory)
        return out

    def of_two(self, kernel: str, gate: Float, up: Float) -> Any:
        """A kernel of each number of a gate and what it gates."""
        gates, ups = self.on_device(gate), self.on_device(up)
        out = self.empty(gates.shape)
        self.device.for_each(kernel, out.size, gates.memory, ups.memory, out.size, out.memory)
        return out

    def gelu(self, x: Float) -> Any:
        """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
        return self.of_one("gelu", x)

    def gelu_erf(self, x: Float) -> Any:
        """y = x/2 erfc(-x/sqrt(2))."""
        return self.of_one("gelu_erf", x)

    def silu(self, x: Float) -> Any:
        """y = x / (1 + e^-x)."""
        return self.of_one("silu", x)

    def relu(self, x: Float) -> Any:
        """y = max(x, 0)."""
        return self.of_one("relu", x)

    def sigmoid(self, x: Float) -> Any:
        """y = 1 / (1 + e^-x)."""
        return self.of_one("sigmoid", x)

    def tanh(self, x: Float) -> Any:
        """y = tanh(x)."""
        return self.of_one("tanh_", x)

    def exp(self, x: Float) -> Any:
        """y = e^x."""
        return self.of_one("exp_", x)

    def geglu(self, gate: Float, up: Float) -> Any:
        """y = gelu(gate) up."""
        return self.of_two("geglu", gate, up)

    def swiglu(self, gate: Float, up: Float) -> Any:
        """y = silu(gate) up."""
        return self.of_two("swiglu", gate, up)

    def swiglu_oai(self, gate: Float, up: Float) -> Any:
        """y = g sigmoid(1.702 g) (1 + u), both clamped."""
        return self.of_two("swiglu_oai", gate, up)

    def softmax(self, x: Float) -> Any:
        """y = e^x / sum(e^x)."""
        given = self.on_device(x)
        out, n = self.empty(given.shape), given.shape[-1]
        self.device.for_each_row("softmax", out.size // n, given.memory, out.size // n, n, out.memory)
        return out

    # -- mixing tokens -----------------------------------------------------------------------------------------------

    def rope(self, x: Float, pos: I64, rope: Rope) -> Any:
        """Every pair of channels turned by pos freq_base^(-2i/n_dims)."""
        given = self.on_device(x)
        out, (T, H, D) = self.empty(given.shape), given.shape
        cosines, sines = self.turns(int(pos.max()) + 1, rope)
        self.device.for_each(
            "rope", out.size, given.memory, self.numbers(pos), cosines, sines, T, H, D, rope.n_dims,
            rope.pairs == "norm", out.memory,
        )  # fmt: skip
        return out

    def turns(self, n: int, rope: Rope) -> tuple[Memory, Memory]:
        """Cosines and sines of the places 0 to n - 1 at least, (P, n_dims/2) each; kept, made in double."""
        known = self.turned.get(rope)
        if known is None or known[0] < n:
            places = 1 << (n - 1).bit_length()
            cosines, sines = (self.device.upload(x.astype(np.float32)) for x in turns(np.arange(places), rope))
            self.turned[rope] = known = places, cosines, sines
        return known[1:]

    def attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *,
        bias: Float | None = None, sinks: Tensor | None = None,
    ) -> Any:  # fmt: skip
        """y = softmax(scale q kᵀ + bias + mask) v, without a matrix of all scores unless a tap is attached."""
        if tap.active:
            return self.traced_attention(q, k, v, spec, offsets, tap, bias, sinks)
        D, E = q.shape[1] // spec.n_head, v.shape[1] // spec.n_head_kv
        if D != E:  # zeros behind what is narrower change neither scores nor sums
            wide = max(D, E)
            q, k, v = (widened(np.asarray(x), x.shape[1] // n, wide) for x, n in ((q, D), (k, D), (v, E)))
            y = np.asarray(self.attention(q, k, v, spec, offsets, bias=bias, sinks=sinks)).reshape(len(q), -1, wide)
            return self.on_device(np.ascontiguousarray(y[:, :, :E]).reshape(len(y), -1))
        queries, keys, values = (self.on_device(x) for x in (q, k, v))
        out, mask = self.empty(queries.shape), spec.mask
        more = None if bias is None else self.numbers(bias, floats)
        tiles = int((-(-np.diff(offsets) // QUERIES)).sum())
        ends = ends_of(mask.spans, tuple(np.diff(offsets).tolist())) if mask.spans else None
        self.device.launch(
            kernel_for(D), (tiles, spec.n_head, 1), (32 * WARPS, 1, 1), queries.memory, keys.memory,
            values.memory, self.numbers(offsets), self.numbers(offsets, tiles_of), spec.n_head, spec.group, D,
            spec.scale, mask.causal, mask.window, WINDOW_KINDS[mask.kind],
            None if ends is None else self.numbers(ends), spec.soft_cap, self.slopes_of(spec),
            more, 0 if bias is None else bias.shape[1], self.optional(sinks), out.memory,
        )  # fmt: skip
        return out

    def slopes_of(self, spec: AttentionSpec) -> Memory | None:
        """ALiBi's slopes (H); None where there is none."""
        key = spec.n_head, spec.mask.max_bias
        if not spec.mask.max_bias:
            return None
        if key not in self.slopes:
            self.slopes[key] = self.device.upload(slopes(*key).astype(np.float32))
        return self.slopes[key]

    def traced_attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap, bias: Float | None,
        sinks: Tensor | None,
    ) -> Any:  # fmt: skip
        """Attention with its inner tensors shown, which `attention` never has whole: scores of all keys, products and
        softmax on the device, the mask and the cap between them on the host. The result is that of `attention`, unless
        a tap gives back another tensor: then what follows from that.
        """
        silent = np.asarray(self.attention(q, k, v, spec, offsets, bias=bias, sinks=sinks))
        q, k, v = (np.asarray(x) for x in (q, k, v))
        sink = None if sinks is None else np.asarray(self.weight(sinks))
        out = np.empty_like(silent)
        for begin, end in itertools.pairwise(offsets):
            heads = ((q, spec.n_head), (k, spec.n_head_kv), (v, spec.n_head_kv))
            qh, kh, vh = (np.ascontiguousarray(by_head(x[begin:end], n)) for x, n in heads)
            shown = ChangeTap(tap)
            vt = np.ascontiguousarray(vh.transpose(0, 2, 1))  # (K, D, n)
            vt = vt if spec.cached else shown("v_cont", vt)
            shares = self.shares(shown("kq", self.products_of_heads(qh, kh)), spec, shown, bias, sink)
            kqv = np.ascontiguousarray(by_head(silent[begin:end], spec.n_head))
            kqv = self.products_of_heads(shares, vt) if shown.changed else kqv
            by_head(out[begin:end], spec.n_head)[:] = shown("kqv", kqv)
        return self.on_device(out)

    def products_of_heads(self, x: F32, w: F32) -> F32:
        """x[h] times w[h K // H] transposed, for each head: x (H, n, c), w (K, m, c) -> (H, n, m)."""
        out, group = np.empty((len(x), x.shape[1], w.shape[1]), np.float32), len(x) // len(w)
        for h in range(len(x)):
            a, b = self.on_device(x[h]), self.on_device(w[h // group])
            y = self.empty(out.shape[1:])
            self.matmul(a.memory, b.memory, None, len(a), len(b), a.shape[1], len(b), 0, y.memory)
            out[h] = y
        return out

    def shares(self, scores: F32, spec: AttentionSpec, shown: ChangeTap, bias: Float | None, sinks: F32 | None) -> F32:
        """From q kᵀ of one text to what each key gets, (H, n, n)."""
        H, n, _ = scores.shape
        x = scores * np.float32(spec.scale)
        if spec.soft_cap:
            cap = np.float32(spec.soft_cap)
            x = shown("kq_scaled_1", x / cap)
            x = shown("kq_tanh", np.asarray(self.tanh(x)))
            x = shown("kq_scaled_2", x * cap)
        if bias is not None:
            x = shown("kq_plus_kq_b", x + np.asarray(bias)[:, :n, :n])
        if spec.mask != BIDIRECTIONAL:
            x = x + mask_scores(H, n, spec.mask).astype(np.float32)
        if sinks is not None:
            x = np.concatenate([x, np.broadcast_to(sinks[:, None, None], (H, n, 1))], axis=2)
        return shown("kq_soft_max", np.ascontiguousarray(np.asarray(self.softmax(x))[:, :, :n]))

    def mix_streams(self, x: Float, w: Float) -> Any:
        """y[a, t] = sum over j of w[t, a, j] x[j, t]."""
        given, weights = self.on_device(x), self.on_device(w)
        out, (S, T, C) = self.empty(given.shape), given.shape
        self.device.for_each("mix_streams", out.size, given.memory, weights.memory, S, T, C, out.memory)
        return out

    def mean(self, x: Float, offsets: I64) -> Any:
        """The mean of each sequence's rows, added in double."""
        given, texts = self.on_device(x), len(offsets) - 1
        out = self.empty((texts, given.shape[1]))
        self.device.for_each("mean", out.size, given.memory, self.numbers(offsets), texts, given.shape[1], out.memory)
        return out

    def capture_or_replay(
        self, given: tuple[Any, ...], layers: Callable[[Float], Float], x: Float, offsets: I64 | None = None
    ) -> Any:
        """`layers(x)`, by one launch of a CUDA graph where such texts come again; `GraphCache.run`."""
        return self.graphs.run(given, layers, x, offsets)


class ChangeTap:
    """A tap that remembers whether another tensor came back. Arrays are the host's."""

    def __init__(self, tap: Tap) -> None:
        self.tap, self.changed = tap, False

    def __call__(self, name: str, x: Any) -> F32:
        """Show x; what to go on with."""
        back = self.tap(name, x)
        self.changed = self.changed or back is not x
        return np.asarray(back, np.float32)


def widened(x: F32, n: int, width: int) -> F32:
    """n heads (T, n D) with zeros behind each: (T, n width)."""
    heads = x.reshape(len(x), n, -1)
    return np.pad(heads, ((0, 0), (0, 0), (0, width - heads.shape[2]))).reshape(len(x), -1)


def kernel_for(D: int) -> str:
    """The kernel of attention.cu for heads of D channels. RequestError where there is none.

    >>> kernel_for(32), kernel_for(80)
    ('attention_64', 'attention_128')
    """
    width = next((width for width in WIDTHS if width >= D), 0)
    if not width:
        hint = "numerics fast computes such a model on the CPU"
        raise RequestError(f"heads of {D} channels: the GPU's kernels take at most {WIDTHS[-1]}", hint=hint)
    return f"attention_{width}"
