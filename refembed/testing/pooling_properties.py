"""What pooling does, in any implementation: properties of the map from hidden states to one vector a text.

    from refembed.testing import PoolingContract

    class TestMine(PoolingContract):
        modes = ("mean", "cls", "last")           # those your engine has; all seven unless said

        def pool(self, hidden, offsets, how):     # (T, C) float32, (S+1) int64 -> (S, C); "none": S arrays (T_s, C)
            return my_engine.pool(hidden, offsets, how)

In the formulas x_1 .. x_n are the states of a text's n tokens, of C channels each; what is said of them is said of
every channel. Nothing here is an expectation taken from refembed: each property is a line of algebra.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, F64
from refembed.testing import strategies as draw
from refembed.testing.contract import Contract, at_most, close, for_all, same
from refembed.testing.strategies import PackedBatch, packed

LINEAR = ("mean", "cls", "last", "mean_sqrt_len", "weightedmean")  # f(x + y) = f(x) + f(y)
CONVEX = ("mean", "cls", "last", "max", "weightedmean")  # never outside the range of the tokens
UNORDERED = ("mean", "max", "mean_sqrt_len")  # the order of tokens does not matter


class PoolingContract(Contract):
    """Subclass it, give it `pool`, and pytest runs every property below on your implementation.

    >>> class Mine(PoolingContract):
    ...     modes = ("mean", "cls")
    ...     def pool(self, hidden, offsets, how):
    ...         texts = [hidden[i:j] for i, j in zip(offsets[:-1], offsets[1:])]
    ...         return [x[0] if how == "cls" else x.mean(axis=0, dtype=np.float64) for x in texts]
    >>> Mine().failures(max_examples=5)
    {}
    >>> class WithoutTheLastToken(Mine):
    ...     def pool(self, hidden, offsets, how):
    ...         return [hidden[i : max(j - 1, i + 1)].mean(axis=0) for i, j in zip(offsets[:-1], offsets[1:])]
    >>> "mean_is_the_sum_over_the_count" in WithoutTheLastToken().failures(max_examples=5)
    True
    """

    modes: ClassVar[tuple[str, ...]] = draw.MODES  # those to try
    dtype: ClassVar[type[np.floating[Any]]] = np.float32  # of the hidden states handed over

    # How far a pooled number may be off, as a part of f(|x_1|, ..., |x_n|). The default is for sums in float32 over the
    # few tokens drawn here: (n + 2) 2^-24 for n up to 48. Rounding once, at the end, is 2^-24.
    rounding: ClassVar[float] = 3e-6

    # Whether a text's bits are the same in any batch. Engines that pool by a matrix product cannot promise it: False
    # has the properties of batches hold within rounding.
    batch_exact: ClassVar[bool] = True

    def pool(self, hidden: Any, offsets: Any, how: str) -> Any:
        """The implementation under test: (T, C), (S+1) -> (S, C); for "none" a list of S arrays (T_s, C)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method pool(self, hidden, offsets, how)")

    def batch(self, batch: PackedBatch, how: str) -> list[npt.NDArray[Any]]:
        """The vectors of a batch, as S arrays."""
        vectors = [np.asarray(v) for v in self.pool(batch.hidden.astype(self.dtype), batch.offsets, how)]
        if len(vectors) != len(batch.texts):
            raise AssertionError(f"{how}: {len(vectors)} vectors of {len(batch.texts)} texts")
        return vectors

    def one(self, text: npt.NDArray[Any], how: str) -> npt.NDArray[Any]:
        """The vector (C) of one text (n, C)."""
        return self.batch(packed([text]), how)[0]

    def slack(self, text: npt.NDArray[Any], how: str) -> F64:
        """How far each channel (C) may be off: rounding times f(|x|); nothing for the modes that only pick."""
        n = len(text)
        weights = {
            "mean": np.full(n, 1 / n),
            "mean_sqrt_len": np.full(n, 1 / math.sqrt(n)),
            "weightedmean": np.arange(1, n + 1) / (n * (n + 1) / 2),
        }
        if how not in weights:
            return np.zeros(text.shape[1])
        return self.rounding * (weights[how] @ np.abs(text.astype(np.float64)))

    def of(self, modes: tuple[str, ...]) -> list[str]:
        """Those of the modes that the implementation has."""
        return [how for how in modes if how in self.modes]

    # --- a text by itself ---

    @for_all(text=draw.hidden_states(tokens=1))
    def one_token_is_its_own_vector(self, text: F32) -> None:
        """n = 1: f(x) = x_1, exactly, in every mode."""
        for how in self.of(draw.MODES):
            same(self.one(text, how).reshape(-1), text[0], how)

    @for_all(text=draw.hidden_states())
    def none_keeps_every_token(self, text: F32) -> None:
        """none(x) = x."""
        for how in self.of(("none",)):
            same(self.one(text, how), text, how)

    @for_all(text=draw.hidden_states())
    def cls_is_the_first_token_and_last_the_last(self, text: F32) -> None:
        """cls(x) = x_1, last(x) = x_n."""
        for how in self.of(("cls", "last")):
            same(self.one(text, how), text[0 if how == "cls" else -1], how)

    @for_all(text=draw.hidden_states())
    def max_is_reached_and_never_passed(self, text: F32) -> None:
        """max(x) >= x_t for every t, with equality for some t."""
        for how in self.of(("max",)):
            y = self.one(text, how)
            at_most(text, y, 0, "a token, below max")
            same((text == y).any(axis=0), np.ones(len(y)), "max is some token's number")

    @for_all(text=draw.hidden_states())
    def mean_is_the_sum_over_the_count(self, text: F32) -> None:
        """mean(x) = (x_1 + ... + x_n) / n, the sum taken exactly."""
        for how in self.of(("mean",)):
            exact = [math.fsum(channel) / len(text) for channel in text.T.astype(np.float64)]
            close(self.one(text, how), exact, self.slack(text, how), how)

    @for_all(text=draw.hidden_states())
    def mean_sqrt_len_is_the_sum_over_the_root_of_the_count(self, text: F32) -> None:
        """mean_sqrt_len(x) = (x_1 + ... + x_n) / sqrt(n) = sqrt(n) mean(x)."""
        for how in self.of(("mean_sqrt_len",)):
            exact = [math.fsum(channel) / math.sqrt(len(text)) for channel in text.T.astype(np.float64)]
            close(self.one(text, how), exact, self.slack(text, how), how)

    @for_all(text=draw.hidden_states())
    def averages_stay_among_their_tokens(self, text: F32) -> None:
        """min_t x_t <= f(x) <= max_t x_t: mean, weightedmean, and the modes that pick."""
        for how in self.of(CONVEX):
            y, slack = self.one(text, how), self.slack(text, how)
            at_most(text.min(axis=0), y, slack, f"least token, below {how}")
            at_most(y, text.max(axis=0), slack, f"{how}, below the greatest token")

    @for_all(text=draw.hidden_states(tokens=1), n=draw.counts(1, 12))
    def equal_tokens_average_to_themselves(self, text: F32, n: int) -> None:
        """x_1 = ... = x_n: f(x) = x_1, but mean_sqrt_len(x) = sqrt(n) x_1."""
        for how in self.of((*CONVEX, "mean_sqrt_len")):
            repeated = np.repeat(text, n, axis=0)
            factor = math.sqrt(n) if how == "mean_sqrt_len" else 1
            close(self.one(repeated, how), text[0] * np.float64(factor), self.slack(repeated, how), how)

    # --- the order of tokens ---

    @for_all(drawn=draw.shuffled(draw.hidden_states()))
    def the_order_of_tokens_does_not_matter(self, drawn: tuple[F32, Any]) -> None:
        """f(x_p1, ..., x_pn) = f(x_1, ..., x_n) for every permutation p: mean, max, mean_sqrt_len."""
        text, order = drawn
        for how in self.of(UNORDERED):
            close(self.one(text[order], how), self.one(text, how), 2 * self.slack(text, how), how)

    @for_all(text=draw.hidden_states())
    def the_first_token_is_the_last_one_backwards(self, text: F32) -> None:
        """cls(x_n, ..., x_1) = last(x_1, ..., x_n)."""
        if len(self.of(("cls", "last"))) == 2:
            same(self.one(text[::-1], "cls"), self.one(text, "last"), "cls of the reverse, last")

    @for_all(text=draw.hidden_states())
    def forwards_and_backwards_the_weights_even_out(self, text: F32) -> None:
        """weightedmean(x) + weightedmean(reversed x) = 2 mean(x), as t + (n + 1 - t) is the same for every t."""
        for how in self.of(("weightedmean",)):
            twice = [2 * math.fsum(channel) / len(text) for channel in text.T.astype(np.float64)]
            both = self.one(text, how).astype(np.float64) + self.one(text[::-1], how)
            close(both, twice, self.slack(text, how) + self.slack(text[::-1], how), how)

    @for_all(text=draw.hidden_states(tokens=4))
    def a_weight_is_as_good_as_a_repetition(self, text: F32) -> None:
        """weightedmean(x_1, x_2, x_3 ...) = mean(x_1, x_2, x_2, x_3, x_3, x_3 ...)."""
        for how in self.of(("weightedmean",)):
            repeated = np.repeat(text, np.arange(1, len(text) + 1), axis=0).astype(np.float64)
            exact = [math.fsum(channel) / len(repeated) for channel in repeated.T]
            close(self.one(text, how), exact, self.slack(text, how), how)

    # --- algebra ---

    @for_all(text=draw.hidden_states(), scale=draw.powers_of_two())
    def a_power_of_two_passes_through(self, text: F32, scale: float) -> None:
        """f(2^k x) = 2^k f(x), exactly: it moves exponents and rounds nothing."""
        for how in self.of(draw.MODES):
            same(self.one(text * np.float32(scale), how), self.one(text, how) * scale, how)

    @for_all(text=draw.hidden_states())
    def a_sign_passes_through(self, text: F32) -> None:
        """f(-x) = -f(x), exactly, for the linear modes; max(-x) = -min(x)."""
        for how in self.of(LINEAR):
            same(self.one(-text, how), -self.one(text, how), how)
        for how in self.of(("max",)):
            same(self.one(-text, how), -text.min(axis=0), how)

    @for_all(text=draw.hidden_states(), shift=draw.arrays(6))
    def a_shift_passes_through(self, text: F32, shift: F32) -> None:
        """f(x_1 + c, ..., x_n + c) = f(x) + c: mean, weightedmean, and the modes that pick."""
        c = shift[: text.shape[1]]
        moved = text + c  # rounds, by half an ulp each
        noise = np.abs(moved - text.astype(np.float64) - c).max(axis=0)
        for how in self.of(CONVEX):
            expected = self.one(text, how).astype(np.float64) + c
            close(self.one(moved, how), expected, self.slack(text, how) + self.slack(moved, how) + noise, how)

    @for_all(texts=draw.two_texts(same_length=True))
    def a_sum_passes_through(self, texts: tuple[F32, F32]) -> None:
        """f(x + y) = f(x) + f(y) for the linear modes."""
        x, y = texts
        total = x + y
        noise = np.abs(total - x.astype(np.float64) - y).max(axis=0) * math.sqrt(len(x))
        for how in self.of(LINEAR):
            slack = self.slack(x, how) + self.slack(y, how) + self.slack(total, how) + noise
            close(self.one(total, how), self.one(x, how).astype(np.float64) + self.one(y, how), slack, how)

    @for_all(drawn=draw.shuffled(draw.hidden_states().map(np.transpose)))
    def channels_do_not_mix(self, drawn: tuple[F32, Any]) -> None:
        """f of reordered channels is f, reordered; f of one channel is that channel of f."""
        text, order = np.ascontiguousarray(drawn[0].T), drawn[1]
        for how in self.of(draw.MODES):
            y = self.one(text, how)
            same(self.one(np.ascontiguousarray(text[:, order]), how), y[..., order], f"{how}, reordered")
            same(self.one(np.ascontiguousarray(text[:, :1]), how), y[..., :1], f"{how}, channel 0 alone")

    # --- longer texts ---

    @for_all(text=draw.hidden_states(), times=draw.counts(2, 4))
    def saying_it_again_changes_no_average(self, text: F32, times: int) -> None:
        """f(x x) = f(x): mean, max, cls, last; mean_sqrt_len(x x) = sqrt(2) mean_sqrt_len(x)."""
        for how in self.of(("mean", "max", "cls", "last", "mean_sqrt_len")):
            factor = math.sqrt(times) if how == "mean_sqrt_len" else 1.0
            again = np.tile(text, (times, 1))
            slack = factor * self.slack(text, how) + self.slack(again, how)
            close(self.one(again, how), self.one(text, how) * np.float64(factor), slack, how)

    @for_all(texts=draw.two_texts())
    def means_combine_by_their_counts(self, texts: tuple[F32, F32]) -> None:
        """(n + m) mean(x y) = n mean(x) + m mean(y); max(x y) = max(max(x), max(y))."""
        x, y = texts
        both = np.concatenate(texts)
        for how in self.of(("mean",)):
            parts = len(x) * self.one(x, how).astype(np.float64) + len(y) * self.one(y, how).astype(np.float64)
            slack = sum(len(part) * self.slack(part, how) for part in (x, y, both))
            close(len(both) * self.one(both, how).astype(np.float64), parts, slack, how)
        for how in self.of(("max",)):
            same(self.one(both, how), np.maximum(self.one(x, how), self.one(y, how)), how)

    # --- batches ---

    @for_all(batch=draw.batches())
    def neighbors_do_not_matter(self, batch: PackedBatch) -> None:
        """A text's vector is the same alone and in a batch, to the last bit."""
        for how in self.of(draw.MODES):
            for s, (text, y) in enumerate(zip(batch.texts, self.batch(batch, how), strict=True)):
                self.as_exact(y, self.one(text, how), text, f"{how}, text {s} of {len(batch.texts)}")

    @for_all(drawn=draw.shuffled(draw.batches()))
    def the_order_of_texts_does_not_matter(self, drawn: tuple[PackedBatch, Any]) -> None:
        """Texts in another order give the same vectors in that order."""
        batch, order = drawn
        moved = packed([batch.texts[s] for s in order])
        for how in self.of(draw.MODES):
            vectors = self.batch(batch, how)
            for y, s in zip(self.batch(moved, how), order, strict=True):
                self.as_exact(y, vectors[s], batch.texts[s], f"{how}, text {s}")

    def as_exact(self, actual: npt.NDArray[Any], expected: npt.NDArray[Any], text: F32, what: str) -> None:
        """The same bits; within rounding where batch_exact is False."""
        how = what.split(",")[0]
        close(actual, expected, 0.0 if self.batch_exact else 2 * self.slack(text, how), what)
