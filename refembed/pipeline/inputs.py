"""What `Embedder` takes: a text, several, or token ids ready made; and what it says of anything else."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

import numpy as np

from refembed.errors import RequestError

# one text: characters, UTF-8 bytes, or token ids ready made; or a text with images (`pipeline.images`)
Input: TypeAlias = "str | bytes | Sequence[int] | Mapping[str, Any]"

TEXTS_HINT = 'embed("a text"), embed(["one", "another"]), or embed([[101, 7592, 102]]) for token ids'


def has_image(item: Any) -> bool:
    """Whether an input is a text with images, {"text": ..., "image": ...}: a dictionary with a key "image"."""
    return isinstance(item, Mapping) and "image" in item


def input_list(texts: Any) -> tuple[list[Any], bool]:
    """The inputs as a list, and whether they are one text alone.

    Raises RequestError for what is no text and no list of inputs: None, a number, a set (which has no order), a
    dictionary, and a list of token ids that is not in a list of texts.
    """
    if isinstance(texts, (str, bytes, bytearray, memoryview)):
        return [texts if isinstance(texts, str) else bytes(texts)], True
    if has_image(texts):
        return [texts], True
    found = ordered(texts, "texts", TEXTS_HINT, "a text or a list of texts")
    if found and all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in found):
        message = f"texts: numbers, {str(found)[:60]}, which are neither a text nor a list of texts"
        raise RequestError(message, hint="token ids of one text: embed([ids]) gives a list of one vector")
    return found, False


def ordered(values: Any, name: str, hint: str, wanted: str = "a list of texts") -> list[Any]:
    """A list, a tuple, an array, a pandas Series or a generator as a list; RequestError for anything else."""
    if isinstance(values, Mapping):
        raise RequestError(f"{name}: a dictionary, not a list of texts", hint="pass list(d.values()) or list(d)")
    if isinstance(values, AbstractSet):
        raise RequestError(f"{name}: a set has no order: vectors would match no text", hint="pass sorted(texts)")
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        found = "None" if values is None else f"{values!r:.60} of type {type(values).__name__}"
        raise RequestError(f"{name}: {wanted} is wanted, not {found}", hint=hint)
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise RequestError(f"{name}: an array of no axis, {values!r:.60}", hint=hint)
    return list(values)


def check_ids(ids: Any, index: int, n_vocab: int) -> list[int]:
    """Token ids given ready made, each a whole number of the vocabulary. RequestError for anything else."""
    checked: list[Any] = [None]
    if isinstance(ids, Iterable) and not isinstance(ids, (Mapping, AbstractSet)):
        checked = list(ids)
    if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in checked):
        found = "None" if ids is None else f"{str(ids)[:60]!r} of type {type(ids).__name__}"
        nested = checked and all(isinstance(i, str) for i in checked)
        hint = "one text at a time, or one list of texts" if nested else "a str, UTF-8 bytes, or a list of token ids"
        raise RequestError(f"input {index}: neither a text nor a list of token ids: {found}", hint=hint)
    unknown = unknown_id(checked, n_vocab)
    if unknown is not None:
        message = f"input {index}: token id {unknown} is not in the vocabulary"
        raise RequestError(message, hint=f"ids are 0 to {n_vocab - 1}")
    return [int(i) for i in checked]


def unknown_id(ids: Sequence[int], n_vocab: int) -> int | None:
    """The first id that is not in a vocabulary of n_vocab tokens; None where all are.

    >>> unknown_id([101, 30522, 102], 30522)
    30522
    """
    if not ids or 0 <= min(ids) <= max(ids) < n_vocab:
        return None
    return next(i for i in ids if not 0 <= i < n_vocab)


def check_dimensions(dimensions: Any, width: int) -> int | None:
    """A number of dimensions to keep, from 1 to the vector's own; None for all. RequestError for anything else."""
    if dimensions is None:
        return None
    try:
        n = -1 if isinstance(dimensions, (bool, np.bool_)) else operator.index(dimensions)
    except TypeError:
        n = -1
    if not 1 <= n <= width:
        hint = f"a whole number from 1 to {width}, or None for all"
        raise RequestError(f"dimensions {dimensions!r}: the model's vectors have {width} numbers", hint=hint)
    return n
