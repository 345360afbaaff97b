"""Which texts share a forward pass: by tokens, by cores, and as a stream brings them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

UNEVEN = 1.2  # the largest load of a core, over the mean: above it all cores had better share every operation


def pack_batches(lengths: Iterable[int], max_tokens: int, max_texts: int | None = None) -> Iterator[list[int]]:
    """Cut texts into batches of at most `max_tokens` tokens, in order; a longer text is a batch of its own.

    lengths    (S) tokens of each text; read as far as the batches that are asked for
    max_texts  of a batch; None: any number
    returns    batches, each the indices of its texts

    llama-embedding packs like this: n_batch tokens, LLAMA_MAX_SEQ texts (examples/embedding/embedding.cpp).

        >>> list(pack_batches([3, 4, 9, 2, 2, 2], 8, 2))
        [[0, 1], [2], [3, 4], [5]]
    """
    batch: list[int] = []
    tokens = 0
    for i, length in enumerate(lengths):
        if batch and (tokens + length > max_tokens or len(batch) == max_texts):
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += length
    if batch:
        yield batch


def take_batch(texts: Iterator[T], min_tokens: int, length: Callable[[T], int] = len) -> list[T]:  # type: ignore[assignment]
    """The next texts of a stream, up to the one that makes them `min_tokens` long; none at its end.

    Unlike `pack_batches` it reads no text that has to wait for the next batch: a typed line gets its vector.

        >>> stream = iter([[101, 102], [101, 7632, 102], [101, 102]])
        >>> take_batch(stream, 4)
        [[101, 102], [101, 7632, 102]]
    """
    batch: list[T] = []
    tokens = 0
    for text in texts:
        batch.append(text)
        tokens += length(text)
        if tokens >= min_tokens:
            break
    return batch


def spread_batches(lengths: Sequence[int], max_tokens: int, n_cores: int) -> list[list[int]]:
    """Batches that cores compute at the same time, the longest texts first; none where a core would be idle.

    Few texts are balanced over the cores; many are packed by `max_tokens`.
    """
    total = sum(lengths)
    if total < max_tokens:
        return []
    if total <= n_cores * max_tokens and (bins := balance(lengths, n_cores)):
        return bins
    order = longest_first(lengths)
    batches = [[order[i] for i in batch] for batch in pack_batches([lengths[i] for i in order], max_tokens)]
    return batches if len(batches) >= n_cores else []


def balance(lengths: Sequence[int], n_cores: int) -> list[list[int]]:
    """One batch for each core: the longest text first, each to the core with the smallest load.

    None where the largest load is more than `UNEVEN` times the mean.

        >>> balance([5, 1, 4, 2], 2)
        [[0, 1], [2, 3]]
    """
    bins: list[list[int]] = [[] for _ in range(n_cores)]
    loads = [0] * n_cores
    for i in longest_first(lengths):
        smallest = loads.index(min(loads))
        bins[smallest].append(i)
        loads[smallest] += lengths[i]
    return [bin_ for bin_ in bins if bin_] if max(loads) <= UNEVEN * sum(loads) / n_cores else []


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices of texts by their length; equally long ones stay in order."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])
