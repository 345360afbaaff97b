"""`refembed rerank`: a query and documents to scores. The options; `cli/ranking.py`, imported later, does the work."""

from __future__ import annotations

from typing import Any

import click

from refembed.cli.options import (
    MODEL_HELP,
    MODEL_SPELLINGS,
    TextCommand,
    file_option,
    json_option,
    lora_option,
    numerics_options,
    quiet_option,
    threads_option,
    truncate_option,
)

EPILOG = """\b
Examples:
  refembed rerank -m reranker.gguf "what is a panda?" "hi" "The giant panda is a bear species."
  refembed rerank -m reranker.gguf "what is a panda?" --file documents.txt --top-n 3
  refembed rerank -m reranker.gguf --json "what is a panda?" "hi" "it is a bear"
  refembed rerank -m qwen3-reranker.gguf --instruction "Rank by material and shape" "frying pan" "ice cream bowl"

Scores are what the model's head gives, as llama-server's /rerank has them: most models give a logit, whose scale is
their own, jina-reranker-v1 one between -1 and 1, Qwen3-Reranker the probability of "yes". --score sigmoid makes
1 / (1 + e^-x) of them, as other servers do unasked.
"""


@click.command("rerank", cls=TextCommand, epilog=EPILOG)
@click.argument("query", metavar="QUERY")
@click.argument("documents", nargs=-1, metavar="[DOCUMENT]...")
@file_option
@click.option(*MODEL_SPELLINGS, "model", metavar="MODEL", help=f"A reranker. {MODEL_HELP}  [required]")
@click.option("--top-n", type=click.IntRange(1), metavar="N", help="Show the N best documents only.")
@click.option(
    "--score", type=click.Choice(("raw", "sigmoid")), default="raw", show_default=True, help="How scores are shown."
)
@click.option("--all-labels", is_flag=True, help="Show every output of a head that has several, not the first alone.")
@click.option(
    "--pair",
    "caller",
    type=click.Choice(("server", "cli")),
    default="server",
    show_default=True,
    help="Whose form of a pair: llama-server's, or that of the llama-embedding command.",
)
@click.option("--instruction", metavar="TEXT", help="What Qwen3-Reranker is to look for, in place of web search.")
@truncate_option
@threads_option
@numerics_options
@lora_option
@json_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Score each DOCUMENT by how well it answers QUERY, best first.

    Without DOCUMENT, and without --file, each line of standard input is a document.
    """
    from refembed.cli.first_word import take_model
    from refembed.cli.ranking import rank

    words, more = (options["query"], *options["documents"]), options["file"] is not None
    model, words = take_model(ctx, options["model"] or "", words, more=more, least=2, quiet=options["quiet"])
    if not model:
        raise click.UsageError("Missing option '-m' / '--model': a reranker, such as -m reranker.gguf.")
    if not words:
        raise click.UsageError("Missing argument 'QUERY'.")
    options.update(model=model, query=words[0], documents=words[1:])
    rank(**options)
