"""What can be changed on the page, and the reference that each choice makes: pooling, weights, a hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, replace

from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.kernels.ops import Ops
from refembed.kernels.wrapper import PatchedOps
from refembed.model.hparams import Hparams
from refembed.pooling.poolers import POOLERS
from refembed.verify.compare.floor import SCREEN, Floor, floor_of
from refembed.verify.hypotheses import cheap_hypotheses, weight_hypotheses
from refembed.verify.hypothesis import FAILURES, Hypothesis
from refembed.verify.reference import NUMERICS, OpsByNumerics, Reference, reference_of
from refembed.verify.trials import PLAIN

SMALL = 400_000_000  # numbers of a model up to which rounding is measured on the text itself, in two arithmetics


@dataclass(frozen=True)
class Switches:
    """What is switched; an empty text is the model as its file has it."""

    pooling: str = ""  # a row of POOLERS
    weights: str = ""  # a tensor type or a mix, as `refembed quantize` has them: "Q4_0", "Q4_K_M"
    fault: str = ""  # the id of a hypothesis

    @property
    def any(self) -> bool:
        """Whether anything is switched."""
        return bool(self.pooling or self.weights or self.fault)


class Workbench:
    """A loaded model with its switches. One thread at a time may call it: the last change is kept.

    pooling  as `Embedder.embed` takes it, but none: a model whose file asks for none gets one that makes one vector

    Raises RequestError or ModelError for a pooling that the model cannot have.
    """

    def __init__(self, embedder: Embedder, pooling: str = "native") -> None:
        self.embedder, self.numerics = embedder, embedder.ops.name
        how = embedder.resolve_options(pooling).pooling
        self.note = ""
        if pooling == "none":
            raise RequestError("the page is about one vector a text, and pooling none has none", hint="mean, cls, last")
        if how == "none":
            how = one_vector(embedder.model.hparams)
            self.note = f"The model's file asks for no pooling; the page begins with {how}."
        reference = reference_of(embedder, how)
        reference.by_numerics.ops[self.numerics] = embedder.ops
        self.reference = reference.add(ops=unfused)
        self.stored: tuple[str, Reference] = ("", self.reference)  # the type of weights that was asked for last
        self.listed: tuple[str, list[Hypothesis]] = ("", [])  # the text that hypotheses were listed for last

    def poolings(self) -> list[str]:
        """Rows of POOLERS that can be chosen: none for a reranker, whose head has its own."""
        return [] if self.reference.pooling == "rank" else [p for p in POOLERS if p != "none"]

    def weight_types(self) -> list[str]:
        """Types that any of the weights can be stored in otherwise."""
        return [h.id.removeprefix("weights-") for h in weight_hypotheses(self.reference)]

    def faults(self, text: str) -> list[Hypothesis]:
        """What `refembed verify` would try on an engine's vector of this text, in its order."""
        if self.listed[0] != text or not self.listed[1]:
            unique = {h.id: h for h in reversed(cheap_hypotheses(self.reference, [text]))}
            self.listed = text, list(unique.values())[::-1]
        return self.listed[1]

    def fault(self, id: str, text: str) -> Hypothesis:
        """The hypothesis of that id. RequestError where it does not concern this model and this text."""
        for h in self.faults(text):
            if h.id == id:
                return h
        raise RequestError(f"the fault {id!r} makes no difference to this model and this text", hint="choose another")

    def changed(self, switches: Switches, text: str) -> Reference:
        """The reference under these switches. RequestError for a name that is not offered, or a change that fails."""
        reference = self.with_weights(switches.weights) if switches.weights else self.reference
        if switches.pooling:
            if switches.pooling not in self.poolings():
                raise RequestError(f"pooling {switches.pooling!r} is not offered", hint=", ".join(self.poolings()))
            reference = replace(reference, pooling=switches.pooling)
        if switches.fault:
            h = self.fault(switches.fault, text)
            try:
                reference = h.change(reference)
            except FAILURES as e:
                raise RequestError(f"this model cannot take the fault {h.id!r}: {e}") from None
        return reference

    def with_weights(self, name: str) -> Reference:
        """The reference with weights of another type, quantized in memory; the last one is kept."""
        if self.stored[0] != name:
            found = [h for h in weight_hypotheses(self.reference) if h.id == f"weights-{name}"]
            if not found:
                raise RequestError(f"weights {name!r} are not offered", hint=", ".join(self.weight_types()))
            self.stored = "", self.reference  # what was kept goes first: two may not fit
            reference = found[0].change(self.reference)
            if self.numerics in NUMERICS and self.numerics != "ggml":  # operations keep decoded weights: of one type
                reference = replace(reference, by_numerics=OpsByNumerics(self.embedder.adapters))
            self.stored = name, reference
        return self.stored[1]

    def floor(self, text: str) -> Floor:
        """How far rounding alone may move the text's vector."""
        small = self.embedder.info.n_params <= SMALL
        return floor_of(self.reference, [text], PLAIN if small else (SCREEN,))

    def forget(self) -> None:
        """Drop hidden states that were kept to be found again."""
        for reference in (self.reference, self.stored[1]):
            reference.by_numerics.hidden.clear()


def one_vector(hp: Hparams) -> str:
    """A pooling for a model whose file names none: the last token of a decoder has seen the whole text."""
    return "last" if hp.causal else "mean"


def unfused(ops: Ops) -> Ops:
    """The same operations, one by one, as a change of one of them leaves them: so that nothing else differs."""
    return PatchedOps(ops, {})
