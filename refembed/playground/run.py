"""One text under a set of switches: its ids, every tensor, its vector, and what each token has to do with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refembed.arrays import F64
from refembed.errors import RequestError, TooLongError
from refembed.explain.walkthrough import Array, attention_of, hidden_states
from refembed.model.trace import Recorder, Trace
from refembed.pooling.normalize import normalize
from refembed.pooling.poolers import POOLERS
from refembed.verify.compare.contributions import contributions
from refembed.verify.compare.floor import distance
from refembed.verify.hypothesis import FAILURES
from refembed.verify.reference import Reference

MOST_TOKENS = 128  # of a text: a map of attention beyond that cannot be read


@dataclass(frozen=True, eq=False)
class Run:
    """One text, from its ids to its vector."""

    reference: Reference
    numerics: str
    own: list[int]  # ids of the text
    ids: list[int]  # (T) that the model reads: the same, and padding behind them where a fault adds it
    trace: Trace
    pooled: F64  # (D), not normalized; of a reranker its scores (R)

    @cached_property
    def hidden(self) -> list[F64]:
        """(T, C) into the first layer, and out of each."""
        return hidden_states(self.trace, self.reference.info.n_layer)

    @cached_property
    def attention(self) -> dict[int, Array]:
        """Layer -> (H, T, T): how much each token looks at each; empty where the run shows none."""
        return attention_of(self.trace, self.reference.info.n_layer, len(self.ids))

    @property
    def is_score(self) -> bool:
        """Whether the model is a reranker: its numbers are no direction."""
        return self.reference.pooling == "rank"

    @cached_property
    def vector(self) -> F64:
        """(D) of length 1; scores as they are."""
        return self.pooled if self.is_score else np.asarray(normalize(self.pooled[None], 2), np.float64)[0]

    @cached_property
    def states(self) -> F64:
        """(T, C): what is pooled."""
        return np.asarray(self.trace[self.reference.model.output], np.float64)

    @cached_property
    def shares(self) -> F64 | None:
        """(T) of the tokens in the pooled vector, which add up to 1; None where pooling is no sum over tokens."""
        how = self.reference.pooling
        if self.reference.pooler is not None or how not in POOLERS:
            return None
        found = np.zeros(len(self.ids))
        found[: len(self.own)] = contributions(self.states[: len(self.own)], how)
        return found


def run_text(reference: Reference, text: str, numerics: str) -> Run:
    """Compute one text, with every tensor kept.

    RequestError for a text without tokens, or a change that the text cannot take; TooLongError above MOST_TOKENS.
    """
    count = len(reference.encode(reference.tokenizer, text))
    check_length(count, reference.info.n_ctx, "the text has")
    try:
        own = reference.ids_of(text)
        ids = own if reference.together is None else reference.together([own])[0]
        if not ids or not own:
            raise RequestError("the text has no tokens", hint="this model adds no special ones; type a word")
        check_length(len(ids), reference.info.n_ctx, "this change makes of the text")
        recorder = Recorder({"tokens": ids})
        with np.errstate(all="ignore"):
            reference.show(ids, numerics, recorder)
            pooled = reference.finish(recorder.trace[reference.model.output], own, numerics)
    except (RequestError, TooLongError):
        raise
    except FAILURES as e:
        raise RequestError(f"this text cannot be computed with that change: {e or type(e).__name__}") from None
    return Run(reference, numerics, own, ids, recorder.trace, pooled)


def check_length(n: int, n_ctx: int, begins: str) -> None:
    """TooLongError for more tokens than the page, or the model, can follow."""
    most = min(MOST_TOKENS, n_ctx)
    if n > most:
        who = "the model reads" if most == n_ctx else "this page follows"
        raise TooLongError(
            f"{begins} {n:,} tokens, and {who} at most {most}",
            hint="take a part of it; `refembed explain --html FILE` follows longer texts" if most < n_ctx else "cut it",
        )


def left_out(run: Run) -> list[float | None]:
    """(T) how far the vector moves, as 1 - cos, where a token is left out of the text and all is computed again.

    None for the only token, and for padding.
    """
    r, n = run.reference, len(run.own)
    padding: list[float | None] = [None] * (len(run.ids) - n)
    if n < 2:
        return [None] * n + padding
    rest = [[*run.own[:t], *run.own[t + 1 :]] for t in range(n)]
    filled = [ids if r.together is None else r.together([ids])[0] for ids in rest]
    with np.errstate(all="ignore"):
        states = r.hidden(filled, run.numerics)
        vectors = [r.finish(h, ids, run.numerics) for h, ids in zip(states, rest, strict=True)]
    return [distance(v, run.pooled) for v in vectors] + padding
