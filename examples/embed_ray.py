"""Parquet files with columns `id` and `text` to Parquet files with vectors, by Ray Data.

python examples/embed_ray.py texts/ vectors/ model.gguf 8

Killed and started again, with the same arguments, it goes on: Ray notes the ids that have been written in
`vectors.checkpoint`. That is kept at the end, so that one more start writes no row a second time. On a cluster that
folder and the others are on storage that all machines see.
"""

import sys

import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig

from refembed.compat.ray import embed

ROWS = 1000  # of an output file; after a kill, those in flight are computed again: Ray would make blocks of 128 MB


def main(texts: str, vectors: str, model: str, actors: str = "2") -> None:
    """Embed all rows that are not embedded yet."""
    ray.init(ignore_reinit_error=True)
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=f"{vectors.rstrip('/')}.checkpoint", delete_checkpoint_on_success=False
    )
    rows = ray.data.read_parquet(texts).repartition(target_num_rows_per_block=ROWS)
    embed(rows, model, actors=int(actors), batch_size=256).write_parquet(vectors)


if __name__ == "__main__":
    main(*sys.argv[1:])
