"""Faults that `refembed verify` must name: engines made of refembed's own parts with one thing broken, and of a wire.

    python -m conformance verify-mutants --write

Every fault is written here, apart from the hypotheses of refembed.verify, from how such things go wrong: a library
function with the other default, a loop that starts at 1, a header that is missed. `wanted` are the causes that count
as its name; `tensor` is the first that an engine which shows its tensors has wrong, by thought, not by measurement.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from conformance import architectures_faults
from conformance import mutants as old
from conformance.mutants import blocks, model, ops
from conformance.verify_models import models
from refembed import Embedder
from refembed.arrays import F32, Float
from refembed.convert.quantize import quantize_file
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, AttentionMask, AttentionSpec, Ops, Rope, Tap
from refembed.model.trace import Trace
from refembed.verify.engines.base import Item
from refembed.verify.run import verify
from refembed.verify.texts import default_texts
from refembed.verify.verdict import Verdict

Broken = Callable[[Embedder], Embedder]
Wire = Callable[["Wired", Sequence[Any]], list[F32]]


@dataclass(frozen=True)
class Fault:
    """One way to be wrong."""

    id: str
    about: str
    wanted: tuple[str, ...]  # ids of causes that name it; "" among them: it stays within rounding
    broken: Broken | None = None  # the pipeline itself
    wire: Wire | None = None  # what is done around it
    tensor: str = ""  # the first wrong one; "": the engine shows no tensors
    model: str = "minilm"
    unlisted: bool = False  # no hypothesis is about it: the right answer is `unexplained`


class Wired:
    """The engine under test: refembed in float32, broken; behind a wire that may change texts and answers."""

    name = "broken"
    can_tokenize = False
    can_take_ids = True

    def __init__(self, embedder: Embedder, fault: Fault) -> None:
        self.embedder = fault.broken(embedder) if fault.broken else embedder
        self.fault, self.can_trace = fault, bool(fault.tensor)
        self.info: dict[str, Any] = {"fault": "not reported"}
        self.kept: list[Any] = []  # what a stateful fault remembers

    def true(self, items: Sequence[Any], **options: Any) -> list[F32]:
        """Vectors of the pipeline, one forward pass for all."""
        return [np.array(v) for v in self.embedder.embed(list(items), **{"truncate": True, **options})]

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """Through the wire."""
        return self.fault.wire(self, items) if self.fault.wire else self.true(items)

    def tokenize(self, text: str) -> list[int]:
        raise NotImplementedError

    def trace(self, item: Item) -> Trace:
        """Every tensor, with the ids that were run."""
        return self.embedder.trace(item)

    def close(self) -> None:
        """Nothing is open."""


# -- on the wire -----------------------------------------------------------------------------------------------------


def texts(change: Callable[[str], str]) -> Wire:
    """Texts changed before they arrive."""
    return lambda e, items: e.true([change(t) for t in items])


def answers(change: Callable[[F32], Any], **options: Any) -> Wire:
    """Vectors changed on the way back."""
    return lambda e, items: [np.asarray(change(v), np.float32) for v in e.true(items, **options)]


def ids(change: Callable[[list[int]], list[int]]) -> Wire:
    """Token ids changed between tokenizer and model."""
    return lambda e, items: e.true([change(e.embedder.tokenize(t) if isinstance(t, str) else t) for t in items])


def shuffled(order: Callable[[Sequence[Any]], Sequence[int]]) -> Wire:
    """Answers in another order."""

    def wire(e: Wired, items: Sequence[Any]) -> list[F32]:
        found = e.true(items)
        return [found[i] for i in order(items)]

    return wire


def one_behind(e: Wired, items: Sequence[Any]) -> list[F32]:
    """Each answer is that to the question before."""
    e.kept += e.true(items)
    given = e.kept[-len(items) - 1 : -1] or e.kept[:1]
    return [e.kept[0], *given][-len(items) :]


def once_cached(e: Wired, items: Sequence[Any]) -> list[F32]:
    """The first answer for ever."""
    e.kept = e.kept or e.true(items[:1])
    return [e.kept[0]] * len(items)


def drifting(e: Wired, items: Sequence[Any]) -> list[F32]:
    """A buffer that is never cleared: a little of all answers so far in each."""
    found = []
    for v in e.true(items):
        total = v + (0.05 * e.kept[-1] if e.kept else 0)
        e.kept.append(total)
        found.append(np.asarray(total / np.linalg.norm(total), np.float32))
    return found


def padded_batch(pooled: bool) -> Wire:
    """A batch filled up with [PAD] to its longest text, with no attention mask."""

    def wire(e: Wired, items: Sequence[Any]) -> list[F32]:
        own = [e.embedder.tokenize(t) if isinstance(t, str) else list(t) for t in items]
        longest = max(map(len, own))
        rows = e.true([i + [0] * (longest - len(i)) for i in own], pooling="none", normalize=-1)
        means = [r[: None if pooled else len(i)].mean(axis=0) for r, i in zip(rows, own, strict=True)]
        return [np.asarray(m / np.linalg.norm(m), np.float32) for m in means]

    return wire


def pooled_rows(pool: Callable[[Float, list[int]], Float]) -> Wire:
    """Token vectors pooled by hand, and normalized."""

    def wire(e: Wired, items: Sequence[Any]) -> list[F32]:
        found = []
        for t in items:
            own = e.embedder.tokenize(t)
            v = pool(e.true([own], pooling="none", normalize=-1)[0].astype(np.float64), own)
            found.append(np.asarray(v / np.linalg.norm(v), np.float32))
        return found

    return wire


def summed(e: Wired, items: Sequence[Any]) -> list[F32]:
    """The sum of the tokens."""
    return [np.asarray(r.sum(axis=0), np.float32) for r in e.true(items, pooling="none", normalize=-1)]


def taxicab(e: Wired, items: Sequence[Any]) -> list[F32]:
    """The other norm."""
    return e.true(items, normalize=1)


# -- in the pipeline -------------------------------------------------------------------------------------------------


def mask(other: Callable[[AttentionMask], AttentionMask]) -> Broken:
    """Attention that sees others."""

    def attention(true: Ops, q: Any, k: Any, v: Any, spec: AttentionSpec, *rest: Any, **more: Any) -> Any:
        return true.attention(q, k, v, replace(spec, mask=other(spec.mask)), *rest, **more)

    return ops(attention=attention)


def rope(other: Callable[[Rope], Rope]) -> Broken:
    """Positions turned otherwise."""
    return ops(rope=lambda true, x, pos, how: true.rope(x, pos, other(how)))


def scaled_by_width(true: Ops, q: Any, k: Any, v: Any, spec: AttentionSpec, *rest: Any, **more: Any) -> Any:
    """Scores over sqrt(C) where they should be over sqrt(C/H)."""
    return true.attention(q, k, v, replace(spec, scale=spec.scale / math.sqrt(spec.n_head)), *rest, **more)


def unscaled(true: Ops, q: Any, k: Any, v: Any, spec: AttentionSpec, *rest: Any, **more: Any) -> Any:
    """Scores as they are."""
    D = q.shape[1] // spec.n_head
    return true.attention(q, k, v, replace(spec, scale=spec.scale * math.sqrt(D)), *rest, **more)


def no_mean(_: Any, x: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
    """RMSNorm in LayerNorm's place."""
    y = tap("norm", x / np.sqrt((x * x).mean(axis=1, keepdims=True, dtype=np.float64) + eps).astype(x.dtype))
    y = y * w.dequantize()
    return y if b is None else tap("norm_w", y) + b.dequantize()


def with_mean(_: Any, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
    """LayerNorm in RMSNorm's place."""
    center = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    y: Float = (center / np.sqrt((center**2).mean(axis=-1, keepdims=True) + eps)).astype(x.dtype)
    return y if w is None else tap("norm", y) * w.dequantize()


def one_plus(true: Any, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
    """Gemma's 1 + w on weights that hold the 1 already."""
    y = true.rms_norm(x, None, eps)
    return cast(Float, y if w is None else tap("norm", y) * (1 + w.dequantize()))


def skip_qk_norm(true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
    """Heads as they are."""
    return x if w is not None and ("attn_q_norm" in w.name or "attn_k_norm" in w.name) else true.rms_norm(x, w, *rest)


def qk_norm_last() -> Broken:
    """Turned first, normalized second."""

    def broken(e: Embedder) -> Embedder:
        held: list[Any] = []

        def rms_norm(true: Any, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
            if w is None or "_norm" not in w.name or (w.shape[-1] == x.shape[-1] and x.ndim == 2):
                return cast(Float, true.rms_norm(x, w, eps, tap))
            held[:] = [w, eps]
            return x

        def turn(true: Any, x: Float, pos: Any, how: Rope) -> Float:
            return cast(Float, true.rms_norm(true.rope(x, pos, how), *held))

        return ops(rms_norm=rms_norm, rope=turn)(e)

    return broken


def repeat_heads(true: Ops, q: Any, k: Any, v: Any, spec: AttentionSpec, *rest: Any, **more: Any) -> Any:
    """torch.repeat for repeat_interleave: query head h on head h mod K."""
    H, K = spec.n_head, spec.n_head_kv
    D = k.shape[1] // K
    chosen = np.concatenate([np.arange(D) + D * (h % K) for h in range(H)])
    wide = [np.ascontiguousarray(x[:, chosen]) for x in (k, v)]
    return true.attention(q, wide[0], wide[1], replace(spec, n_head_kv=H), *rest, **more)


def no_bias(*parts: str) -> Broken:
    """Matrices without their biases."""

    def change(b: Any) -> Any:
        return replace(b, **{p: getattr(b, p)._replace(bias=None) for p in parts})

    return blocks(change)


def stored(type_name: str) -> Broken:
    """The file quantized, and loaded again: its numbers, in float32 arithmetic."""

    def broken(e: Embedder) -> Embedder:
        folder = tempfile.mkdtemp()
        path = Path(folder) / "stored.gguf"
        quantize_file(e.info.path, path, type_name, allow_requantize=True)
        return Embedder.load(path, numerics="fast")

    return broken


def half(x: Float) -> Float:
    """Through float16."""
    return x.astype(np.float16).astype(np.float32)


def layer(which: slice) -> Broken:
    """Some layers only."""

    def change(m: Any) -> Any:
        blk = m.weights.blk[which]
        lists = {n: getattr(m.hparams, n)[which] for n in ("swa_layers", "moe_layers", "recurrent_layers")}
        return replace(m, hparams=replace(m.hparams, n_layer=len(blk), **lists), weights=replace(m.weights, blk=blk))

    return model(change)


def keep_capitals(e: Embedder) -> Embedder:
    """A cased tokenizer over an uncased vocabulary."""
    t = e.tokenizer
    return Embedder(e.info, type(t)(replace(t.vocab, lowercase=False, strip_accents=False), t.where), e.model, e.ops)


def table(name: str, change: Callable[[Float], Float]) -> Broken:
    """Rows of one table changed."""
    return ops(
        get_rows=lambda true, w, i: change(true.get_rows(w, i)) if w.name.startswith(name) else true.get_rows(w, i)
    )


def written(arch: str, right: str, wrong: str) -> Broken:
    """One piece of the architecture's file written wrongly."""
    fault = architectures_faults.Fault(arch, "", "", right, wrong, "")
    return model(lambda m: replace(m, module=architectures_faults.broken(m.module, fault)))


def a_token_late(true: Any, x: Float, w: Tensor, offsets: Any, ahead: int = 0, *rest: Any) -> Float:
    """A convolution whose window ends a token further on."""
    return cast(Float, true.short_conv(x, w, offsets, ahead + 1, *rest))


def never_reset(name: str, place: int) -> Callable[..., Float]:
    """An operation whose state is never set to zeros again: offsets, its argument at that place, are of one text."""

    def operation(true: Any, *given: Any) -> Float:
        return cast(Float, getattr(true, name)(*given[:place], given[place][[0, -1]], *given[place + 1 :]))

    return operation


def zeros(w: Tensor) -> Tensor:
    """A tensor of zeros in the place of another."""
    return Tensor.of(np.zeros(w.shape), f"{w.name} of zeros")  # operations keep decoded weights by name


def swap_bias(b: Any) -> Any:
    """Biases of two matrices exchanged."""
    return replace(b, attn_q=old.bias(b.attn_q, b.attn_k), attn_k=old.bias(b.attn_k, b.attn_q))


def noisy(true: Any, x: Float, *rest: Any) -> Float:
    """One channel of every product lost."""
    y = true.linear(x, *rest)
    y[:, 7] = 0
    return cast(Float, y)


# -- running them ----------------------------------------------------------------------------------------------------

DOC = Path(__file__).parents[1] / "docs" / "verify.md"
LONGEST = 150  # tokens of the longest text
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"


@dataclass(frozen=True)
class Outcome:
    """What `verify` said of a fault."""

    fault: Fault
    verdict: Verdict
    seconds: float

    @property
    def visible(self) -> bool:
        """Whether the fault shows: beyond the floor, or in a tensor."""
        return self.verdict.kind in ("differs", "unexplained")

    @property
    def named(self) -> bool:
        """Whether the first cause is a name of it, alone or within a tie of at most three."""
        found = [c.id for c in self.verdict.causes]
        return bool(found) and len(found) <= 3 and any(w in found for w in self.fault.wanted)

    @property
    def tensor_named(self) -> bool:
        """Whether the first wrong tensor is the one it should be."""
        return not self.fault.tensor or self.verdict.first_wrong_tensor == self.fault.tensor


def run_fault(fault: Fault, embedder: Embedder, longest: int = LONGEST) -> Outcome:
    """Verify one broken engine; it claims to normalize. longest: tokens of the longest text; 0: only the short ones."""
    begin = time.perf_counter()
    scaled = fault.id in ("summed",)
    count = lambda t: len(embedder.tokenize(t))  # noqa: E731
    texts = default_texts(count, embedder.info.n_ctx, longest)
    verdict = verify(embedder, Wired(embedder, fault), texts, normalize=None if scaled else 2)
    return Outcome(fault, verdict, time.perf_counter() - begin)


def run_all(names: Sequence[str] = (), report: Callable[[Outcome], object] = lambda outcome: None) -> list[Outcome]:
    """All faults, or those named, in order."""
    from conformance.verify_faults import FAULTS

    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        known = models(Path(folder))
        for fault in FAULTS:
            if not names or fault.id in names:
                outcomes.append(run_fault(fault, known[fault.model]))
                report(outcomes[-1])
    return outcomes


def line(o: Outcome) -> str:
    """One outcome, for a terminal."""
    good = "ok  " if o.named or not o.visible else "MISS"
    causes = ", ".join(c.id for c in o.verdict.causes) or o.verdict.kind
    tensor = f"{o.verdict.first_wrong_tensor or '-'}" + ("" if o.tensor_named else f" (wanted {o.fault.tensor})")
    return f"{good} {o.fault.id:26} {o.verdict.kind:16} {causes[:70]:70} {tensor:30} {o.seconds:5.1f} s"


def summary(outcomes: Sequence[Outcome]) -> str:
    visible = [o for o in outcomes if o.visible and not o.fault.unlisted]
    named, traced = sum(o.named for o in visible), [o for o in outcomes if o.fault.tensor]
    quiet, unlisted = len([o for o in outcomes if not o.visible]), [o for o in outcomes if o.fault.unlisted]
    return (
        f"{len(outcomes)} faults. {len(visible)} show beyond the noise floor; of these the cause is named for {named} "
        f"({100 * named / max(len(visible), 1):.1f} %). {quiet} stay within rounding. The first wrong tensor is named "
        f"for {sum(o.tensor_named for o in traced)} of {len(traced)}. {len(unlisted)} have no hypothesis: "
        f"{sum(o.named for o in unlisted)} are called unexplained."
    )


def good(outcomes: Sequence[Outcome]) -> bool:
    """Whether 95 % of the causes that show are named, all first wrong tensors, and nothing that has no hypothesis."""
    visible = [o for o in outcomes if o.visible and not o.fault.unlisted]
    enough = sum(o.named for o in visible) >= 0.95 * len(visible)
    return enough and all(o.tensor_named and (o.named or not o.fault.unlisted) for o in outcomes)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/verify.md."""
    rows = ["| fault | what is broken | verdict | named as | first wrong tensor |", "|---|---|---|---|---|"]
    for o in outcomes:
        causes = ", ".join(f"`{c.id}`" for c in o.verdict.causes[:3]) or "-"
        missed = "" if o.named or not o.visible else " (missed)"
        rows.append(f"| {o.fault.id} | {o.fault.about} | {o.verdict.kind} | {causes}{missed} | "
                    f"{o.verdict.first_wrong_tensor or '-'} |")  # fmt: skip
    return "\n".join([summary(outcomes), "", *rows])


def write(outcomes: Sequence[Outcome]) -> None:
    """Put the table into docs/verify.md, between its two marks."""
    text = DOC.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    DOC.write_text(f"{head}{BEGIN}\n{markdown(outcomes)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
