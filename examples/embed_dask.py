"""Parquet files with a column `text` to Parquet files with vectors, by Dask, a file at a time.

python examples/embed_dask.py texts/ vectors/ model.gguf 2

Killed and started again it goes on: a file that is there is whole, since it is written under another name first. Dask
gives a dead worker's files to another one, `allowed-failures` times.
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq
from distributed import Client, LocalCluster

from refembed.batch import EmbedBatch


def embed_file(source: str, target: str, batch: EmbedBatch) -> str:
    """One file, whole or not at all."""
    part = Path(target + ".part")
    pq.write_table(batch(pq.read_table(source)), part)
    part.replace(target)
    return target


def main(texts: str, vectors: str, model: str, workers: str = "2") -> None:
    """Embed all files that are not embedded yet."""
    Path(vectors).mkdir(parents=True, exist_ok=True)
    sources = sorted(Path(texts).glob("*.parquet"))
    targets = [Path(vectors) / source.name for source in sources]
    left = [(str(s), str(t)) for s, t in zip(sources, targets, strict=True) if not t.exists()]
    batch = EmbedBatch(model, expect=EmbedBatch(model).fingerprint())
    cluster = LocalCluster(n_workers=int(workers), threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.gather(client.map(embed_file, *zip(*left, strict=True), batch=batch) if left else [])


if __name__ == "__main__":
    main(*sys.argv[1:])
