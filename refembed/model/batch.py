"""Several texts as one run: their ids end to end, with no padding between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refembed.arrays import I64, Float


@dataclass(frozen=True)
class ImageRows:
    """What a vision tower made of an image, in place of the tokens begin:end of a text."""

    begin: int
    end: int
    rows: Float  # (end - begin, C), or with DeepStack (end - begin, C (1 + layers that get more))
    causal: bool = False  # whether they look back only, as rows of a text do; else they see each other


@dataclass(frozen=True)
class Batch:
    """S sequences of T tokens in all."""

    ids: I64  # (T)
    pos: I64  # (T) a token's place in its own sequence, from 0
    offsets: I64  # (S+1) sequence s is rows offsets[s]:offsets[s+1]
    images: tuple[ImageRows, ...] = ()  # of the one text, where there are any
    streams: I64 | None = None  # (3, T) places in time, by row, by column, where images have such; None: all are pos


def pack(sequences: Sequence[Sequence[int]]) -> Batch:
    """Lay S lists of token ids end to end."""
    lengths = np.array([len(s) for s in sequences], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.fromiter((i for s in sequences for i in s), np.int64, int(offsets[-1]))
    pos = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Batch(ids, pos, offsets)
