"""What the operations of a forward pass do, in any implementation: one contract for each exercise of docs/course.

    from refembed.testing import AttentionContract

    class TestMine(AttentionContract):
        def attention(self, q, k, v):             # (n, D), (m, D), (m, E) -> (n, E)
            return my_engine.attention(q, k, v)

Inputs are float64, small multiples of 1/32, so that formulas are met within the rounding of float32 or better. Each
property is a line of algebra; none is an expectation taken from refembed.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64, I64
from refembed.testing import strategies as draw
from refembed.testing.contract import Contract, at_most, close, for_all, same
from refembed.testing.strategies import Strategy  # first: it says what to install where Hypothesis is absent

from hypothesis import strategies as st  # isort: skip

Array = npt.NDArray[Any]


def grid(*shape: int) -> Strategy[F64]:
    """Arrays of a shape, of multiples of 1/32 from -4 to 4."""
    count = math.prod(shape)
    return st.binary(min_size=count, max_size=count).map(
        lambda raw: (np.frombuffer(raw, np.int8) / 32.0).reshape(shape)
    )


@st.composite
def grids(draw: st.DrawFn, *shapes: str) -> tuple[F64, ...]:
    """Arrays whose shapes share letters: grids("n D", "m D"). Each letter is a size from 1 to 5."""
    sizes: dict[str, int] = {}
    for letter in " ".join(shapes).split():
        sizes.setdefault(letter, draw(st.integers(1, 5)))
    return tuple(draw(grid(*(sizes[letter] for letter in shape.split()))) for shape in shapes)


def require(holds: bool, otherwise: str) -> None:
    """AssertionError with these words, unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


class OperationContract(Contract):
    """Base of the contracts here: how an implementation is called and how near its numbers must be."""

    rounding: ClassVar[float] = 1e-5  # of the largest number expected; sums of a few products in float32

    def near(self, actual: Any, expected: Any, what: str, size: float = 1.0) -> None:
        """Equal within rounding, relative to the largest number expected, to 1 or to `size`."""
        expected = np.asarray(expected, np.float64)
        close(actual, expected, self.rounding * max(size, 1.0, float(np.abs(expected).max(initial=0))), what)


class WordPieceContract(OperationContract):
    """WordPiece of one word: at each place the longest piece that begins there, or [UNK] for the whole word.

    >>> class Mine(WordPieceContract):
    ...     def wordpiece(self, word, vocabulary):
    ...         pieces = []
    ...         while word:
    ...             ends = [n for n in range(len(word), 0, -1) if word[:n] in vocabulary]
    ...             if not ends:
    ...                 return ["[UNK]"]
    ...             pieces, word = [*pieces, word[: ends[0]]], word[ends[0] :]
    ...         return pieces
    >>> Mine().failures(max_examples=5)
    {}
    """

    def wordpiece(self, word: str, vocabulary: set[str]) -> list[str]:
        """The implementation under test: a word and all pieces there are -> pieces of the word, or ["[UNK]"]."""
        raise NotImplementedError(f"{type(self).__name__} needs a method wordpiece(self, word, vocabulary)")

    def pieces_of(self, word: str, vocabulary: set[str]) -> list[str]:
        """What the implementation gives, as a list of texts."""
        found = list(self.wordpiece(word, set(vocabulary)))
        require(all(isinstance(piece, str) for piece in found), f"{found!r}: not a list of texts")
        return found

    words = st.text("ab", min_size=1, max_size=7)
    vocabularies = st.sets(st.text("ab", min_size=2, max_size=4), max_size=5).map(lambda pieces: pieces | {"a", "b"})

    @for_all(word=words, vocabulary=vocabularies)
    def pieces_make_up_the_word(self, word: str, vocabulary: set[str]) -> None:
        """Where every letter is a piece, the pieces joined are the word, and each is in the vocabulary."""
        found = self.pieces_of(word, vocabulary)
        require("".join(found) == word, f"{found} do not make up {word!r}")
        require(set(found) <= vocabulary, f"{found}: not all in the vocabulary")

    @for_all(word=words, vocabulary=vocabularies)
    def each_piece_is_the_longest_there(self, word: str, vocabulary: set[str]) -> None:
        """No piece of the vocabulary that is longer than the one taken fits at its place."""
        at = 0
        for piece in self.pieces_of(word, vocabulary):
            longer = [p for p in vocabulary if word.startswith(p, at) and len(p) > len(piece)]
            require(
                not longer, f"at {word[at:]!r} {piece!r} was taken, but {max(longer, key=len, default='')!r} fits too"
            )
            at += len(piece)

    @for_all(front=words, back=words, vocabulary=vocabularies)
    def a_letter_without_a_piece_makes_the_whole_word_unknown(
        self, front: str, back: str, vocabulary: set[str]
    ) -> None:
        """A word with a letter that is in no piece becomes [UNK], once: not the rest of it alone."""
        word = f"{front}z{back}"
        found = self.pieces_of(word, vocabulary)
        require(found == ["[UNK]"], f"{word!r} became {found}, expected ['[UNK]']")


class EmbeddingContract(OperationContract):
    """BERT's first step: a token's row, its position's row and its segment's row, added.

    >>> class Mine(EmbeddingContract):
    ...     def embed(self, ids, token_embd, position_embd, token_types):
    ...         return token_embd[ids] + position_embd[: len(ids)] + token_types[0]
    >>> Mine().failures(max_examples=5)
    {}
    """

    def embed(self, ids: I64, token_embd: F64, position_embd: F64, token_types: F64) -> Any:
        """The implementation under test: (T), (V, C), (P, C), (2, C) -> (T, C); every token is of segment 0."""
        raise NotImplementedError(f"{type(self).__name__} needs a method embed(self, ids, tokens, positions, segments)")

    tables = st.integers(1, 4).flatmap(lambda C: st.tuples(grid(3, C), grid(5, C), grid(2, C)))
    id_lists = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(lambda ids: np.array(ids, np.int64))

    @for_all(ids=id_lists, tables=tables)
    def without_places_and_segments_rows_are_the_tokens(self, ids: I64, tables: tuple[F64, ...]) -> None:
        """Where the other tables are 0, row t is the row of token t."""
        tokens, positions, segments = tables
        expected = [tokens[i] for i in ids]
        self.near(self.embed(ids, tokens, 0 * positions, 0 * segments), expected, "rows")

    @for_all(ids=id_lists, tables=tables)
    def without_tokens_and_segments_rows_are_the_places(self, ids: I64, tables: tuple[F64, ...]) -> None:
        """Where the other tables are 0, row t is row t of the table of positions, counted from 0, whatever the ids."""
        tokens, positions, segments = tables
        expected = [positions[t] for t in range(len(ids))]
        self.near(self.embed(ids, 0 * tokens, positions, 0 * segments), expected, "rows")

    @for_all(ids=id_lists, tables=tables)
    def every_token_gets_segment_0(self, ids: I64, tables: tuple[F64, ...]) -> None:
        """Where the other tables are 0, every row is row 0 of the table of segments."""
        tokens, positions, segments = tables
        expected = [segments[0]] * len(ids)
        self.near(self.embed(ids, 0 * tokens, 0 * positions, segments), expected, "rows")

    @for_all(ids=id_lists, tables=tables)
    def the_three_are_added(self, ids: I64, tables: tuple[F64, ...]) -> None:
        """The rows of all tables are the sum of those of each table alone."""
        alone = [[table * (i == k) for k, table in enumerate(tables)] for i in range(3)]
        parts = [np.asarray(self.embed(ids, *each), np.float64) for each in alone]
        self.near(self.embed(ids, *tables), parts[0] + parts[1] + parts[2], "rows")


class AttentionContract(OperationContract):
    """Scaled dot-product attention of one head: softmax(q kᵀ / sqrt(D)) v, no mask.

    >>> class Mine(AttentionContract):
    ...     def attention(self, q, k, v):
    ...         s = q @ k.T / math.sqrt(q.shape[1])
    ...         e = np.exp(s - s.max(axis=1, keepdims=True))
    ...         return e / e.sum(axis=1, keepdims=True) @ v
    >>> Mine().failures(max_examples=5)
    {}
    >>> class Unscaled(Mine):
    ...     def attention(self, q, k, v):
    ...         return super().attention(q * math.sqrt(q.shape[1]), k, v)
    >>> list(Unscaled().failures(max_examples=20))
    ['two_keys_share_by_the_scaled_difference']
    """

    def attention(self, q: F64, k: F64, v: F64) -> Any:
        """The implementation under test: queries (n, D), keys (m, D), values (m, E) -> (n, E)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method attention(self, q, k, v)")

    @for_all(score=st.integers(-3, 3), D=st.sampled_from([1, 4, 9, 16]), values=grid(2))
    def two_keys_share_by_the_scaled_difference(self, score: int, D: int, values: F64) -> None:
        """Scores 0 and s, divided by sqrt(D), give the second key the share 1 / (1 + e^(-s / sqrt(D)))."""
        q, k = np.zeros((1, D)), np.zeros((2, D))
        q[0, 0], k[1, 0] = score, 1
        share = 1 / (1 + math.exp(-score / math.sqrt(D)))
        expected = (1 - share) * values[0] + share * values[1]
        self.near(self.attention(q, k, values[:, None]), [[expected]], "out")

    @for_all(qv=grids("n D", "m E"), key=grid(5))
    def equal_keys_share_equally(self, qv: tuple[F64, ...], key: F64) -> None:
        """Where all keys are the same, every query gets the mean of the values."""
        q, v = qv
        k = np.tile(key[: q.shape[1]], (len(v), 1))
        self.near(self.attention(q, k, v), np.tile(v.mean(axis=0), (len(q), 1)), "out")

    @for_all(qkv=grids("n D", "m D", "m E"))
    def averages_stay_among_the_values(self, qkv: tuple[F64, ...]) -> None:
        """Weights add up to 1 and none is negative, so no result leaves the range of the values."""
        q, k, v = qkv
        out = np.asarray(self.attention(q, k, v), np.float64)
        same(out.shape, (len(q), v.shape[1]), "shape")
        at_most(v.min(axis=0), out, self.rounding * 4, "least value, below the result")
        at_most(out, v.max(axis=0), self.rounding * 4, "result, below the largest value")

    @for_all(qkv=grids("n D", "m D", "m E"))
    def each_query_stands_alone(self, qkv: tuple[F64, ...]) -> None:
        """A query's row is the same without the other queries."""
        q, k, v = qkv
        self.near(self.attention(q[:1], k, v), np.asarray(self.attention(q, k, v))[:1], "row 0")

    @for_all(qkv=grids("n D", "m D", "m E"))
    def the_order_of_the_keys_does_not_matter(self, qkv: tuple[F64, ...]) -> None:
        """Keys with their values in the reverse order give the same rows."""
        q, k, v = qkv
        self.near(self.attention(q, k[::-1], v[::-1]), self.attention(q, k, v), "out")

    @for_all(qkv=grids("n D", "m D", "m E"), shift=grid(5))
    def the_same_for_all_keys_changes_nothing(self, qkv: tuple[F64, ...], shift: F64) -> None:
        """A vector added to every key adds one number to all scores of a query, which softmax takes out again."""
        q, k, v = qkv
        self.near(self.attention(q, k + shift[: k.shape[1]], v), self.attention(q, k, v), "out", 16)

    @for_all(qkv=grids("n D", "m D", "m E"))
    def large_scores_do_not_overflow(self, qkv: tuple[F64, ...]) -> None:
        """Queries a thousand times as long give numbers still: softmax takes the largest score off first."""
        q, k, v = qkv
        out = np.asarray(self.attention(q * 1000, k, v))
        require(np.isfinite(out).all(), f"{out.tolist()}")


class LayerNormContract(OperationContract):
    """Layer normalization with weight and bias: w (x - E[x]) / sqrt(Var[x] + eps) + b, each row by itself.

    >>> class Mine(LayerNormContract):
    ...     def layer_norm(self, x, weight, bias, eps):
    ...         centered = x - x.mean(axis=1, keepdims=True)
    ...         return centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + eps) * weight + bias
    >>> Mine().failures(max_examples=5)
    {}
    """

    def layer_norm(self, x: F64, weight: F64, bias: F64, eps: float) -> Any:
        """The implementation under test: (T, C), (C), (C), a positive number -> (T, C)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method layer_norm(self, x, weight, bias, eps)")

    def plain(self, x: F64, eps: float) -> F64:
        """With weight 1 and bias 0."""
        C = x.shape[1]
        return np.asarray(self.layer_norm(x, np.ones(C), np.zeros(C), eps), np.float64)

    sizes = st.sampled_from([0.25, 1.0, 2.0])

    @for_all(x=grids("T C"), eps=sizes)
    def the_mean_is_0(self, x: tuple[F64], eps: float) -> None:
        """Each row's numbers add up to 0."""
        same(self.plain(x[0], eps).shape, x[0].shape, "shape")
        self.near(self.plain(x[0], eps).mean(axis=1), np.zeros(len(x[0])), "mean")

    @for_all(x=grids("T C"), eps=sizes)
    def the_variance_is_1_but_for_eps(self, x: tuple[F64], eps: float) -> None:
        """The mean of the squares is Var / (Var + eps), with Var the mean of (x - E[x])^2: divided by C, not C - 1."""
        var = x[0].var(axis=1)
        self.near(np.square(self.plain(x[0], eps)).mean(axis=1), var / (var + eps), "mean square")

    @for_all(x=grids("T C"), eps=sizes, shift=st.integers(-4, 4))
    def a_shift_is_taken_out(self, x: tuple[F64], eps: float, shift: int) -> None:
        """x + c gives what x gives."""
        self.near(self.plain(x[0] + shift, eps), self.plain(x[0], eps), "out", 8)

    @for_all(x=grids("T C"), eps=sizes, factor=st.sampled_from([-2.0, 0.5, 4.0]))
    def a_factor_is_taken_out(self, x: tuple[F64], eps: float, factor: float) -> None:
        """a x with a² eps gives what x gives with eps; of a negative a the sign stays."""
        self.near(self.plain(factor * x[0], factor**2 * eps), np.sign(factor) * self.plain(x[0], eps), "out", 8)

    @for_all(xwb=grids("T C", "C", "C"), eps=sizes)
    def weight_and_bias_come_last(self, xwb: tuple[F64, ...], eps: float) -> None:
        """With w and b it is w times the result without them, plus b."""
        x, w, b = xwb
        self.near(self.layer_norm(x, w, b, eps), w * self.plain(x, eps) + b, "out", 8)

    @for_all(x=grids("T C"), eps=sizes)
    def each_token_stands_alone(self, x: tuple[F64], eps: float) -> None:
        """A row is the same without the other rows."""
        self.near(self.plain(x[0][:1], eps), self.plain(x[0], eps)[:1], "row 0")


class SwigluContract(OperationContract):
    """The feed-forward part of most decoders: (silu(x gateᵀ) * (x upᵀ)) downᵀ, with silu(z) = z / (1 + e^-z).

    >>> class Mine(SwigluContract):
    ...     def swiglu(self, x, gate, up, down):
    ...         z = x @ gate.T
    ...         return (z / (1 + np.exp(-z)) * (x @ up.T)) @ down.T
    >>> Mine().failures(max_examples=5)
    {}
    """

    def swiglu(self, x: F64, gate: F64, up: F64, down: F64) -> Any:
        """The implementation under test: (T, C), (F, C), (F, C), (C, F) -> (T, C)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method swiglu(self, x, gate, up, down)")

    matrices = grids("T C", "F C", "F C", "C F")

    @for_all(z=st.integers(-3, 3), u=st.integers(-3, 3))
    def one_channel_is_the_formula(self, z: int, u: int) -> None:
        """Matrices of one number each: z / (1 + e^-z) times u."""
        one = np.ones((1, 1))
        self.near(self.swiglu(one, z * one, u * one, one), [[z / (1 + math.exp(-z)) * u]], "out")

    @for_all(m=matrices)
    def a_closed_gate_lets_nothing_through(self, m: tuple[F64, ...]) -> None:
        """gate = 0 gives 0, as silu(0) = 0."""
        x, gate, up, down = m
        self.near(self.swiglu(x, 0 * gate, up, down), np.zeros_like(x), "out")

    @for_all(m=matrices)
    def up_and_down_are_linear(self, m: tuple[F64, ...]) -> None:
        """Twice up and half of down give the same."""
        x, gate, up, down = m
        out = np.asarray(self.swiglu(x, gate, up, down), np.float64)
        self.near(self.swiglu(x, gate, 2 * up, down / 2), out, "out", 300)
        self.near(self.swiglu(x, gate, -up, down), -out, "out of -up", 300)

    @for_all(m=matrices)
    def a_gate_and_its_mirror_differ_by_the_gate(self, m: tuple[F64, ...]) -> None:
        """silu(z) - silu(-z) = z, so f(gate) - f(-gate) = ((x gateᵀ) * (x upᵀ)) downᵀ."""
        x, gate, up, down = m
        both = np.asarray(self.swiglu(x, gate, up, down), np.float64) - self.swiglu(x, -gate, up, down)
        self.near(both, (x @ gate.T * (x @ up.T)) @ down.T, "f(gate) - f(-gate)", 300)

    @for_all(m=matrices)
    def each_token_stands_alone(self, m: tuple[F64, ...]) -> None:
        """A row is the same without the other rows."""
        x, *weights = m
        self.near(self.swiglu(x[:1], *weights), np.asarray(self.swiglu(x, *weights))[:1], "row 0", 300)


class RopeContract(OperationContract):
    """Rotary position embedding of one head: channels i and i + D/2 turn by pos freq_base^(-2i/D) ("neox" pairs).

    >>> class Mine(RopeContract):
    ...     def rope(self, x, pos, freq_base):
    ...         half = x.shape[1] // 2
    ...         theta = pos[:, None] * freq_base ** (-np.arange(half) / half)
    ...         a, b = x[:, :half], x[:, half:]
    ...         return np.hstack([a * np.cos(theta) - b * np.sin(theta), a * np.sin(theta) + b * np.cos(theta)])
    >>> Mine().failures(max_examples=5)
    {}
    """

    def rope(self, x: F64, pos: I64, freq_base: float) -> Any:
        """The implementation under test: (T, D), (T), a number above 1 -> (T, D); D is even."""
        raise NotImplementedError(f"{type(self).__name__} needs a method rope(self, x, pos, freq_base)")

    heads = st.sampled_from([2, 4, 6]).flatmap(lambda D: st.tuples(grid(1, D), grid(1, D)))
    places, bases = st.integers(0, 40), st.sampled_from([16.0, 100.0, 10000.0])

    def turned(self, x: F64, pos: int, base: float) -> F64:
        """One row at one place."""
        return np.asarray(self.rope(x, np.array([pos]), base), np.float64)

    @for_all(xy=heads, base=bases)
    def place_0_stays(self, xy: tuple[F64, F64], base: float) -> None:
        """An angle of 0 turns nothing."""
        self.near(self.turned(xy[0], 0, base), xy[0], "out")

    @for_all(i=st.integers(0, 2), D=st.sampled_from([2, 4, 6]), pos=places, base=bases)
    def pair_i_turns_by_its_own_angle(self, i: int, D: int, pos: int, base: float) -> None:
        """A 1 in channel i becomes cos theta there and sin theta in channel i + D/2, theta = pos base^(-2i/D)."""
        half = D // 2
        i = i % half
        x, expected = np.zeros((1, D)), np.zeros((1, D))
        theta = pos * base ** (-2 * i / D)
        x[0, i], expected[0, i], expected[0, i + half] = 1, math.cos(theta), math.sin(theta)
        self.near(self.turned(x, pos, base), expected, "out")

    @for_all(xy=heads, pos=places, base=bases)
    def lengths_stay(self, xy: tuple[F64, F64], pos: int, base: float) -> None:
        """A turned vector is as long as before."""
        out = self.turned(xy[0], pos, base)
        self.near(np.square(out).sum(), np.square(xy[0]).sum(), "squared length")

    @for_all(xy=heads, m=places, n=places, base=bases)
    def turns_add_up(self, xy: tuple[F64, F64], m: int, n: int, base: float) -> None:
        """Turned to m, then by n more, is turned to m + n."""
        self.near(self.turned(self.turned(xy[0], m, base), n, base), self.turned(xy[0], m + n, base), "out")

    @for_all(xy=heads, m=places, n=places, both=places, base=bases)
    def scores_know_the_distance_alone(self, xy: tuple[F64, F64], m: int, n: int, both: int, base: float) -> None:
        """The product of a query at m and a key at n stays when both move by the same number of places."""
        q, k = xy
        here = self.turned(q, m, base) @ self.turned(k, n, base).T
        there = self.turned(q, m + both, base) @ self.turned(k, n + both, base).T
        self.near(there, here, "score", 100)


class Q8Contract(OperationContract):
    """A block of Q8_0: 32 numbers as one float16 scale d = max |x| / 127 and 32 whole numbers, x ~ d codes.

    >>> class Mine(Q8Contract):
    ...     def q8_0(self, x):
    ...         d = np.abs(x).max() / 127
    ...         return np.float16(d), np.rint(x / d) if d else np.zeros(32)
    >>> Mine().failures(max_examples=5)
    {}
    """

    def q8_0(self, x: Array) -> tuple[Any, Any]:
        """The implementation under test: float32 (32) -> the scale, and 32 codes."""
        raise NotImplementedError(f"{type(self).__name__} needs a method q8_0(self, x)")

    def block(self, x: Array) -> tuple[float, F64]:
        """Scale and codes, as numbers."""
        d, codes = self.q8_0(np.asarray(x, np.float32))
        return float(d), np.asarray(codes, np.float64)

    numbers = grid(32).map(lambda x: x.astype(np.float32))

    @for_all(x=numbers)
    def the_scale_is_the_largest_over_127_in_float16(self, x: Array) -> None:
        """d = max |x| / 127, rounded to float16."""
        self.block(x)
        same(self.block(x)[0], np.float16(np.abs(x).max() / np.float32(127)), "d")

    @for_all(x=numbers)
    def codes_are_whole_numbers_of_one_byte(self, x: Array) -> None:
        """32 whole numbers from -127 to 127; the largest magnitude has code 127 or -127."""
        _, codes = self.block(x)
        same(codes.shape, (32,), "shape of the codes")
        same(codes, np.rint(codes), "codes")
        same(np.abs(codes).max(), 127 if x.any() else 0, "largest code")

    @for_all(x=numbers)
    def no_number_is_off_by_more_than_half_a_step(self, x: Array) -> None:
        """|x - d code| is at most d/2, plus 127 times what float16 cost d: codes are rounded, not cut off."""
        d, codes = self.block(x)
        step = float(np.abs(x).max()) / 127
        close(d * codes, x, 1.001 * (step / 2 + 127 * step * 2**-11), "d codes")

    @for_all(x=numbers)
    def a_sign_passes_through(self, x: Array) -> None:
        """-x has the same scale and the codes with their signs changed."""
        d, codes = self.block(x)
        negative_d, negative = self.block(-x)
        same(negative_d, d, "d of -x")
        same(negative, -codes, "codes of -x")

    @for_all(x=numbers, factor=draw.powers_of_two(-1, 6))
    def a_power_of_two_goes_into_the_scale(self, x: Array, factor: float) -> None:
        """2^k x has the same codes, and 2^k d."""
        d, codes = self.block(x)
        scaled_d, scaled = self.block(x * np.float32(factor))
        same(scaled_d, factor * d, "d of 2^k x")
        same(scaled, codes, "codes of 2^k x")
