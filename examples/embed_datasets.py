"""Parquet files with a column `text` to Parquet files with vectors, by Hugging Face's datasets.

python examples/embed_datasets.py texts/ vectors.parquet model.gguf 2

`map` keeps what a process has finished in datasets' cache, by the rows and the pickled EmbedBatch, so a job that is
started again computes the parts that are missing. It ends with an error where a process dies: start it again then.
"""

import sys
from pathlib import Path

from datasets import Dataset

from refembed.batch import EmbedBatch


def main(texts: str, vectors: str, model: str, processes: str = "2") -> None:
    """Embed all rows, and write them in their order."""
    files = sorted(str(file) for file in Path(texts).glob("*.parquet"))
    rows = Dataset.from_parquet(files)
    batch = EmbedBatch(model, expect=EmbedBatch(model).fingerprint())
    done = rows.map(batch, batched=True, batch_size=256, num_proc=int(processes))
    done.to_parquet(vectors)


if __name__ == "__main__":
    main(*sys.argv[1:])
