"""Pooling: from the hidden states of a text's tokens to the one vector of the text.

The modes are llama.cpp's (enum llama_pooling_type, llama.h; llm_graph_context::build_pooling, llama-graph.cpp) and the
ones that only sentence-transformers has (models/Pooling.py). Every token counts, special tokens too.

llama.cpp's own `mean` rounds otherwise: it multiplies each state by 1/n in float32, then adds in float32 in the order
of its matrix product, which is one order for a text alone and another for several. And it pools each micro-batch
(n_ubatch) by itself, so with a KV cache a longer text gets the mean of its last piece only. Here is what the formulas
mean; the `ggml` numerics brings a `mean` of its own, which rounds as llama.cpp does.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from refembed.arrays import I64, Float
from refembed.errors import RequestError
from refembed.kernels.exact.sums import ordered_sum
from refembed.model.hparams import POOLING_NAMES

# The number in a GGUF file, `{arch}.pooling_type` -> the name: enum llama_pooling_type.
POOLING_TYPES = {-1: "unspecified"} | POOLING_NAMES

Pooler = Callable[[Float], npt.NDArray[Any]]  # x (n, C), the states of one text, n >= 1 -> (C)


def weighted_mean(x: Float) -> npt.NDArray[Any]:
    """The later a token, the more it counts: y = sum(t x_t) / sum(t), t from 1 to n."""
    n = len(x)
    t = np.arange(1, n + 1, dtype=np.float64)[:, None]  # (n, 1)
    return ordered_sum(t * x) / (n * (n + 1) // 2)


# Sums are in double and in token order, rounded once, at the end, to the type of x. So a text's vector does not
# depend on its neighbors, and a float32 mean never leaves the range of what it averages.
POOLERS: dict[str, Pooler] = {
    "none":          lambda x: x,                                    # (n, C): each token keeps its vector
    "mean":          lambda x: ordered_sum(x) / len(x),
    "cls":           lambda x: x[0],                                 # the first token, BERT's [CLS]
    "last":          lambda x: x[-1],
    "max":           lambda x: x.max(axis=0),                        # channel by channel; not in llama.cpp
    "mean_sqrt_len": lambda x: ordered_sum(x) / math.sqrt(len(x)),   # not in llama.cpp
    "weightedmean":  weighted_mean,                                  # not in llama.cpp
}  # fmt: skip

ALIASES = {
    "first": "cls",                           # Mullama
    "lasttoken": "last",                      # sentence-transformers
    "mean_sqrt_len_tokens": "mean_sqrt_len",  # sentence-transformers
    "auto": "native",
}  # fmt: skip


def resolve_pooling(name: str, native: str | None) -> str:
    """The row of POOLERS that a request means for a model.

    name    a row of POOLERS, one of ALIASES, or "native": what the model's file says
    native  the name for `{arch}.pooling_type` (POOLING_TYPES); None, or "unspecified", where the file has no such key,
            which llama.cpp takes for "none"
    returns such a row, or "rank": the outputs of the model's classifier head, `refembed.pooling.heads`
    Raises RequestError for any other name.

    >>> resolve_pooling("native", "cls"), resolve_pooling("lasttoken", "cls"), resolve_pooling("native", None)
    ('cls', 'last', 'none')
    >>> resolve_pooling("maen", "cls")
    Traceback (most recent call last):
        ...
    refembed.errors.RequestError: pooling 'maen': there is no such pooling
      hint: did you mean 'mean'?
    """
    asked = canonical(name)
    how = (native or "unspecified") if asked == "native" else asked
    if asked == "native" and how == "unspecified":
        return "none"
    if how not in POOLERS and how != "rank":
        unknown(how)
    return how


def usual_pooling(causal: bool) -> str:
    """What most models of a kind are pooled by: `last` where tokens look back only, else `mean`."""
    return "last" if causal else "mean"


UNNAMED = "the file names no pooling"  # no {arch}.pooling_type: a chat model, most often


def unnamed_pooling(causal: bool) -> str:
    """What to do with a file that names no pooling, in the words of every command that comes upon one."""
    if causal:
        reason, other = "a decoder's last token is the one that has seen the whole text", "mean"
    else:
        reason, other = "as is usual where tokens see the whole text", "cls"
    return (
        f"--pooling {usual_pooling(causal)} gives each text one vector ({reason}); "
        f"--pooling {other} if the model's card says so"
    )


def canonical(name: str) -> str:
    """The name without its alias."""
    return ALIASES.get(name, name) if isinstance(name, str) else unknown(name)


def unknown(name: object) -> NoReturn:
    """Raise RequestError with the nearest name there is."""
    known = [*POOLERS, *ALIASES, "rank", "native"]
    numbers = {str(number): alias for number, alias in POOLING_NAMES.items()}  # GGUF's
    near = difflib.get_close_matches(name.lower(), known, 1, 0.5) if isinstance(name, str) else []
    if str(name) in numbers:
        near = [numbers[str(name)]]
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"
    raise RequestError(f"pooling {name!r}: there is no such pooling", hint=hint)


def pool(
    hidden: Float, offsets: I64 | Sequence[int], how: str, mean: Callable[[Float, I64], Float] | None = None
) -> Float | list[Float]:
    """Vectors of S texts from the states of their T tokens.

    hidden   (T, C)   float32 or float64 (or float16), all texts end to end
    offsets  (S+1)    text s is rows offsets[s]:offsets[s+1]; the first is 0, the last T
    how               a row of POOLERS, or an alias of one; "native" is `resolve_pooling`'s
    mean              how the numerics takes "mean" (`Ops.mean`); None: as the formula says
    returns  (S, C)   in the dtype of hidden; "none": a list of S views (T_s, C)
    Raises RequestError for a text of no tokens, offsets that do not fit, and an unknown pooling.

    Two texts, of four tokens and of one, in two channels. The sums over the first are 12 and 12:

    >>> hidden = np.array([[1, 8], [2, 0], [6, 3], [3, 1], [5, 7]], np.float32)
    >>> pool(hidden, [0, 4, 5], "mean")  # 12/4
    array([[3., 3.],
           [5., 7.]], dtype=float32)
    >>> pool(hidden, [0, 4, 5], "mean_sqrt_len")[0]  # 12/sqrt(4)
    array([6., 6.], dtype=float32)
    >>> pool(hidden, [0, 4, 5], "weightedmean")[0]  # (1*1 + 2*2 + 3*6 + 4*3)/10, (1*8 + 2*0 + 3*3 + 4*1)/10
    array([3.5, 2.1], dtype=float32)
    >>> pool(hidden, [0, 4, 5], "cls")[0], pool(hidden, [0, 4, 5], "last")[0], pool(hidden, [0, 4, 5], "max")[0]
    (array([1., 8.], dtype=float32), array([3., 1.], dtype=float32), array([6., 8.], dtype=float32))
    >>> [rows.shape for rows in pool(hidden, [0, 4, 5], "none")]
    [(4, 2), (1, 2)]
    """
    how = canonical(how)
    if how == "rank":
        raise RequestError(
            "pooling 'rank' needs a classifier head, not states alone", hint="refembed.pooling.heads.pooled"
        )
    if how not in POOLERS:
        unknown(how)
    if how == "mean" and mean is not None:  # of states that the numerics made itself, and may have on a GPU
        return mean(hidden, np.array(check_offsets(offsets, len(hidden))))
    hidden = check_hidden(hidden)
    bounds = check_offsets(offsets, len(hidden))
    texts = [hidden[i:j] for i, j in itertools.pairwise(bounds)]  # S of (T_s, C)
    if how == "none":
        return texts
    pooled = np.empty((len(texts), hidden.shape[1]), hidden.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN pass through; the embedder refuses them
        for s, x in enumerate(texts):
            pooled[s] = POOLERS[how](x)
    return pooled


def check_hidden(hidden: Float) -> Float:
    """Hidden states as rows of floats, or RequestError."""
    array = np.asarray(hidden)
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32, np.float64):
        found = f"{array.dtype} of shape {array.shape}"
        raise RequestError(f"hidden states must be floats of shape (T, C), not {found}", hint="one row for each token")
    return array


def check_offsets(offsets: I64 | Sequence[int], n_tokens: int) -> list[int]:
    """Offsets as a list, or RequestError: whole numbers, rising from 0 to n_tokens."""
    array = np.asarray(offsets)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise RequestError(f"offsets must be a list of whole numbers, not {array.dtype} of shape {array.shape}")
    bounds: list[int] = array.tolist()
    if bounds[0] != 0 or bounds[-1] != n_tokens:
        raise RequestError(f"offsets must go from 0 to {n_tokens}, not from {bounds[0]} to {bounds[-1]}")
    for s, (i, j) in enumerate(itertools.pairwise(bounds)):
        if i == j:
            raise RequestError(f"text {s} has no tokens: nothing to pool")
        if i > j:
            raise RequestError(f"offsets must rise: text {s} would be rows {i} to {j}")
    return bounds
