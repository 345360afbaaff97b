"""Vectors of many texts, kept on disk: written so that a run that was stopped goes on where it stopped.

writer        texts -> a file of vectors: `embed_corpus`
journal       what was computed so far, a checked record for each text
vector_cache  vectors by the text and everything else that decides their bits: `Cache`
fingerprint   that everything else: model files, numerics, options, library versions
"""

from __future__ import annotations

from refembed.corpus.vector_cache import Cache
from refembed.corpus.writer import embed_corpus

__all__ = ["Cache", "embed_corpus"]
