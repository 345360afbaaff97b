"""`refembed evaluate`: what a model, its quantization and its vectors' codes are worth on one's own texts."""

from __future__ import annotations

from typing import Any

import click

from refembed.cli.options import (
    MODEL_HELP,
    MODEL_SPELLINGS,
    NUMERICS,
    POOLINGS,
    json_option,
    quiet_option,
    threads_option,
)
from refembed.cli.show import escape, note, print_json, table

EPILOG = """\b
Files:
  --queries, --corpus  a line a text: {"_id": "q1", "text": "..."}, of documents also "title"; or id, tab, text
  --qrels              BEIR: query, document, level with tabs between; TREC: query, 0, document, level
  --sts                sentence, sentence, score with tabs between; a first line may name columns

\b
Measures: ndcg@K recall@K mrr@K map@K p@K, as trec_eval computes them; K is any number. The first gets intervals.

\b
Examples:
  refembed evaluate --queries queries.jsonl --corpus corpus.jsonl --qrels qrels.tsv
  refembed evaluate --queries q.jsonl --corpus c.jsonl --qrels qrels.tsv -m minilm --weights F32 --weights Q4_0
  refembed evaluate --queries q.jsonl --corpus c.jsonl --qrels qrels.tsv --vectors float32 --vectors ubinary+int8
  refembed evaluate --sts pairs.tsv --dimensions 384 --dimensions 128 --html page.html

Options that may be repeated make a line of the table for each combination. The first line is what others are compared
with.
"""


@click.command("evaluate", epilog=EPILOG)
@click.option("--queries", metavar="FILE", help="The queries.")
@click.option("--corpus", metavar="FILE", help="The documents that are searched.")
@click.option("--qrels", metavar="FILE", help="Which documents answer which query, and how well.")
@click.option("--sts", metavar="FILE", help="Pairs of sentences with scores, in place of the three.")
@click.option(*MODEL_SPELLINGS, "models", multiple=True, metavar="MODEL", help=f"{MODEL_HELP} Repeatable.")
@click.option(
    "--weights", multiple=True, metavar="TYPE", help="Store the weights as TYPE: Q8_0, Q4_K_M ... Repeatable."
)
@click.option(
    "--numerics", multiple=True, type=click.Choice(NUMERICS), help="How numbers are computed. Repeatable.  [auto]"
)
@click.option("--pooling", "poolings", multiple=True, metavar="NAME", help=f"{POOLINGS}. Repeatable.  [native]")
@click.option(
    "--prompts", multiple=True, type=click.Choice(("none", "own")),
    help="own: the prompts that the model was trained with. Repeatable.  [none]",
)  # fmt: skip
@click.option(
    "--dimensions", multiple=True, type=click.IntRange(1), metavar="N",
    help="Keep the first N numbers of each vector. Repeatable.",
)  # fmt: skip
@click.option(
    "--vectors", multiple=True, metavar="SCHEME",
    help="How vectors are stored (`refembed compress`); A+B: A, candidates scored again by B. Repeatable.  [float32]",
)  # fmt: skip
@click.option(
    "--measure",
    "measures",
    multiple=True,
    metavar="NAME@K",
    help="What to compute. Repeatable.  [ndcg@10 recall@10 recall@100 mrr@10 map p@10]",
)
@click.option("--skip-same-id", is_flag=True, help="Never find the document that has the query's id, as in BEIR.")
@click.option("--skip-unknown", is_flag=True, help="Leave out judgements of what is not there. Otherwise an error.")
@click.option("--memory", is_flag=True, help="Embed in processes of their own, and say each model's memory (Linux).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of intervals and codebooks.")
@click.option(
    "--resamples", type=click.IntRange(1, 100_000), default=2000, show_default=True, metavar="N",
    help="Draws of queries that make an interval.",
)  # fmt: skip
@click.option("--html", metavar="FILE", help="Write a page with the table and its plots to FILE.")
@threads_option
@json_option
@quiet_option
def command(
    queries: str | None, corpus: str | None, qrels: str | None, sts: str | None, models: tuple[str, ...],
    weights: tuple[str, ...], numerics: tuple[str, ...], poolings: tuple[str, ...], prompts: tuple[str, ...],
    dimensions: tuple[int, ...], vectors: tuple[str, ...], measures: tuple[str, ...], skip_same_id: bool,
    skip_unknown: bool, memory: bool, seed: int, resamples: int, html: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Measure retrieval, or similarity, for every combination of what is given.

    Quality with 95% intervals (paired bootstrap), the difference to the first line, bytes a vector, the model's size,
    tokens a second.
    """
    retrieval = (queries, corpus, qrels)
    if sts is not None:
        if any(retrieval) or measures or skip_same_id or skip_unknown:
            raise click.UsageError("--sts takes the place of queries, corpus and qrels, and has measures of its own.")
    elif not all(retrieval):
        raise click.UsageError("Give --queries, --corpus and --qrels, or --sts.")
    from refembed.evaluate import compare
    from refembed.evaluate.settings import Grid

    grid = Grid(
        models or ("minilm",), weights or ("",), numerics or ("auto",), poolings or ("native",), prompts or ("none",),
        dimensions or (None,), vectors or ("float32",),
    )  # fmt: skip
    grid.check()

    def say(message: str) -> None:
        note(message, quiet=quiet)

    common: dict[str, Any] = {"memory": memory, "seed": seed, "resamples": resamples, "say": say, "progress": not quiet}
    if sts is not None:
        from refembed.evaluate.collection import read_pairs

        report = compare.evaluate_sts(read_pairs(sts), grid, **common)
    else:
        from refembed.evaluate.collection import Collection, read_qrels, read_texts

        collection = Collection.of(
            read_texts(str(queries), "queries"), read_texts(str(corpus)), read_qrels(str(qrels)),
            skip_unknown=skip_unknown,
        )  # fmt: skip
        wanted = measures or compare.MEASURES
        report = compare.evaluate_retrieval(collection, grid, wanted, skip_same_id=skip_same_id, **common)
    show(report, as_json, quiet)
    if html is not None:
        from refembed.evaluate.page import evaluation_page
        from refembed.html.page import write_page

        note(f"page: {write_page(html, evaluation_page(report))}", quiet=quiet)


def show(report: Any, as_json: bool, quiet: bool) -> None:
    """The table, or JSON; what was left out goes to stderr."""
    for remark in report.notes:
        note(f"note: {escape(remark)}")
    if as_json:
        print_json(report.as_object())
        return
    from refembed.evaluate.table import cells, heads, shown_fields

    fields = shown_fields(report)
    table(heads(report, fields), [list(map(escape, cells(report, line, fields))) for line in report.lines])
    note(
        f"{report.measured_on}; 95%: of {report.resamples:,} draws of the same number, seed {report.seed}; Δ: less the "
        "first line; tokens/s are this machine's",
        quiet=quiet,
    )
