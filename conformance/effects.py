"""What each place where llama.cpp rounds does to a vector: the error budget of an embedding.

alone     exact arithmetic with this one effect of the `ggml` numerics, against exact arithmetic
without   the `ggml` numerics with this one effect exact, against the `ggml` numerics

python -m conformance effects minilm-q8_0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.cases import load_texts
from conformance.checks import worst_cosine
from conformance.models import model_path
from refembed import Embedder
from refembed.arrays import F32, Float
from refembed.gguf import Tensor
from refembed.kernels.exact.ops import Exact
from refembed.kernels.ggml.codes import BLOCK_LENGTHS, quantize
from refembed.kernels.ggml.floats import rounded
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import NO_TAP, Ops
from refembed.kernels.wrapper import OpsWrapper


@dataclass(frozen=True)
class Effect:
    """One place, and the operations that have it."""

    name: str
    about: str
    methods: tuple[str, ...]
    flash_attn: bool = False


# fmt: off
EFFECTS = (
    Effect("activations", "activations rounded to the type that their weights ask for", ("rounded",)),
    Effect("products",    "the same, and sums in float32, in llama.cpp's order",      ("linear",)),
    Effect("attention",   "scores, softmax and mix in float32",                      ("attention",)),
    Effect("flash",       "flash attention: keys, values and, below 64 tokens, the running sum in float16",
           ("attention",), flash_attn=True),
    Effect("gelu",        "GELU from a table of float16",                            ("gelu",)),
    Effect("norm",        "norms in float32",                                        ("layer_norm", "rms_norm")),
    Effect("mean",        "the mean as a float32 product",                           ("mean",)),
)  # fmt: skip
# fmt: on


def round_activations(x: Float, w: Tensor) -> F32:
    """Activations as a product with that weight takes them."""
    x = np.ascontiguousarray(x, np.float32)
    if w.type.dot not in BLOCK_LENGTHS:
        return rounded(x, w.type.dot)
    q = quantize(x, w.type.dot)
    return (q.codes * q.d[..., None].astype(np.float64)).reshape(x.shape).astype(np.float32)


class SwappedOps(OpsWrapper):
    """Operations of one numerics, those of an effect from another."""

    def __init__(self, base: Ops, other: Ops, effect: Effect) -> None:
        super().__init__(base)
        self.other = other
        if "rounded" in effect.methods:
            self.linear = self.rounding if isinstance(base, Exact) else self.not_rounding  # type: ignore[method-assign]
            return
        for name in effect.methods:
            setattr(self, name, self.converted(getattr(other, name)))

    def converted(self, theirs: Callable[..., Any]) -> Callable[..., Any]:
        """The other's operation on the base's numbers."""
        mine, other_dtype = self.base.dtype, self.other.dtype

        def there(a: Any) -> Any:
            return a.astype(other_dtype) if isinstance(a, np.ndarray) and a.dtype == mine else a

        return lambda *args, **options: theirs(*map(there, args), **{k: there(a) for k, a in options.items()}).astype(
            mine
        )

    def rounding(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Any = NO_TAP, product: str = "") -> Float:
        """An exact product of rounded activations."""
        y: Float = self.base.linear(round_activations(x, w).astype(np.float64), w, b, tap, product)
        return y

    def not_rounding(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Any = NO_TAP, product: str = "") -> Float:
        """A product in float32 of activations as they are."""
        y: Float = self.other.linear(x.astype(np.float64), w, b, tap, product).astype(np.float32)
        return y


@dataclass(frozen=True)
class Size:
    """How far vectors move: 1 - cos, and the largest component's change."""

    median: float
    worst: float
    max_abs: float


def size(a: Sequence[F32], b: Sequence[F32]) -> Size:
    cosines = [worst_cosine(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)]
    return Size(
        float(np.median(cosines)), max(cosines), max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))
    )


def budget(model: str, each: Callable[[str], object] = lambda name: None) -> Iterator[tuple[str, str, Size, Size]]:
    """Name, description, and size alone and without, of every effect on one model."""
    texts = [t.data for t in load_texts().values() if (t.n_tokens or 0) < 300 and len(t.data) < 2000]
    embedder = Embedder.load(model_path(model), numerics="exact")

    def vectors(ops: Any) -> list[F32]:
        """Of all texts, each alone."""
        embedder.ops, embedder.batch_tokens = ops, 0
        return [embedder.embed(t) for t in texts]

    exact = load_ops("exact")
    ggml = {flash: load_ops("ggml", flash_attn=flash, repack=False) for flash in (False, True)}
    truth = vectors(exact)
    theirs = {flash: vectors(ops) for flash, ops in ggml.items()}
    for effect in EFFECTS:
        each(effect.name)
        base = ggml[effect.flash_attn]
        alone = vectors(SwappedOps(exact, base, effect))
        without = vectors(SwappedOps(base, exact, effect))
        yield effect.name, effect.about, size(truth, alone), size(theirs[effect.flash_attn], without)
    for flash in (False, True):
        name = "everything, flash attention " + ("on" if flash else "off")
        yield name, "`ggml` against `exact`", size(truth, theirs[flash]), size(truth, theirs[flash])


def markdown(model: str) -> Iterator[str]:
    """The budget of a model as a table: 1 - cos over the texts, and the largest change of a component."""
    yield f"| {model} | alone: median | worst | component | without: median | worst | component |"
    yield "|---|---|---|---|---|---|---|"
    for name, about, alone, without in budget(model):
        cells = [f"{x:.1e}" for s in (alone, without) for x in (s.median, s.worst, s.max_abs)]
        yield f"| {name}: {about} | {' | '.join(cells)} |"
    yield ""
