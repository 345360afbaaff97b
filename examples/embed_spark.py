"""Parquet files with a column `text` to Parquet files with vectors, by Spark, a file at a time.

spark-submit --master "local[2,4]" examples/embed_spark.py texts/ vectors/ model.gguf

Killed and started again it goes on: a file whose folder has Spark's mark `_SUCCESS` is done. In local mode Spark runs a
task again only where the master names how often: 4 times here.
"""

import sys
from pathlib import Path

from pyspark.sql import SparkSession

from refembed.compat.spark import embed


def main(texts: str, vectors: str, model: str) -> None:
    """Embed all files that are not embedded yet."""
    spark = SparkSession.builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 256).getOrCreate()
    for file in sorted(Path(texts).glob("*.parquet")):
        target = Path(vectors) / file.stem
        if not (target / "_SUCCESS").exists():
            rows = spark.read.parquet(str(file)).repartition(spark.sparkContext.defaultParallelism)
            embed(rows, model).write.mode("overwrite").parquet(str(target))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
