"""Pooling: from the hidden states of a text's tokens to the one vector of the text, and what follows it.

poolers    mean, cls, last, max ...: `pool`
heads      a reranker's classifier, dense layers of sentence-transformers models: `heads.pooled`
normalize  vectors of equal length: `normalize.normalize`

>>> import numpy as np
>>> from refembed.pooling import pool
>>> hidden = np.array([[1, 2], [3, 4], [5, 6]], np.float32)  # three tokens: a text of two, and one of one
>>> pool(hidden, [0, 2, 3], "mean")
array([[2., 3.],
       [5., 6.]], dtype=float32)
"""

from __future__ import annotations

from refembed.pooling.poolers import ALIASES, POOLERS, POOLING_TYPES, pool, resolve_pooling

__all__ = ["ALIASES", "POOLERS", "POOLING_TYPES", "pool", "resolve_pooling"]
