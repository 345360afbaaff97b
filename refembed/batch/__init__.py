"""Rows to rows with vectors, for engines that run on many processes and machines: `EmbedBatch`.

embed_batch   a callable that travels: pickled small, loads its model once in each process
columns       texts out of, and vectors into, a dictionary of arrays, pandas, or Arrow
ray_job       files to files on Ray: parts which are tasks, part_files what a task does, manifest what is done
"""

from __future__ import annotations

from refembed.batch.embed_batch import EmbedBatch

__all__ = ["EmbedBatch"]
