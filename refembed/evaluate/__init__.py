"""What a model, its quantization and its vectors' codes are worth: retrieval and similarity on your own texts.

from refembed.evaluate import Collection, Grid, evaluate_retrieval, read_qrels, read_texts

collection = Collection.of(read_texts("queries.jsonl"), read_texts("corpus.jsonl"), read_qrels("qrels.tsv"))
grid = Grid(("minilm",), weights=("F32", "Q4_0"), vectors=("float32", "int8", "ubinary"))
evaluate_retrieval(collection, grid).lines        # nDCG@10 with intervals, tokens a second, bytes a vector

metrics      nDCG, recall, MRR, MAP, precision as trec_eval has them; Spearman, Pearson
collection   BEIR's and TREC's files, pairs of sentences
settings     the combinations that are compared     compare   embed, rank, judge: the lines of the table
embedding    vectors, and what they cost            page      the table and its plots as one HTML file
bootstrap    how sure a mean is
"""

from __future__ import annotations

from refembed.evaluate.bootstrap import Interval, mean_intervals
from refembed.evaluate.collection import Collection, Pair, read_pairs, read_qrels, read_texts
from refembed.evaluate.compare import Line, Report, evaluate_retrieval, evaluate_sts
from refembed.evaluate.metrics import (
    Measure,
    average_precision,
    ndcg,
    pearson,
    precision,
    ranking,
    recall,
    reciprocal_rank,
    score_run,
    spearman,
)
from refembed.evaluate.settings import Grid, Setting

__all__ = [
    "Collection",
    "Grid",
    "Interval",
    "Line",
    "Measure",
    "Pair",
    "Report",
    "Setting",
    "average_precision",
    "evaluate_retrieval",
    "evaluate_sts",
    "mean_intervals",
    "ndcg",
    "pearson",
    "precision",
    "ranking",
    "read_pairs",
    "read_qrels",
    "read_texts",
    "recall",
    "reciprocal_rank",
    "score_run",
    "spearman",
]
