"""`refembed embed`: texts to vectors. The options alone; `cli/embedding.py`, imported later, does the work."""

from __future__ import annotations

from typing import Any

import click

from refembed.cli.corpus_options import corpus_options
from refembed.cli.engine_options import engine_options
from refembed.cli.llama_embedding import LlamaCommand, llama_options
from refembed.cli.options import (
    FORMATS,
    file_option,
    image_option,
    json_option,
    lora_option,
    mmproj_option,
    model_option,
    normalize_option,
    numerics_options,
    pooling_option,
    quiet_option,
    threads_option,
    truncate_option,
)
from refembed.cli.show import note

EPILOG = """\b
Examples:
  refembed embed "Hello, world!"
  refembed embed --file corpus.txt --output corpus.npy
  tail -n 100 log.txt | refembed embed --format jsonl > vectors.jsonl
  refembed embed -m model.gguf --pooling cls --normalize -1 "Hello, world!"
  refembed embed --compare "How do I cook pasta?" "A recipe for spaghetti"
  refembed embed -m model.gguf --mmproj mmproj.gguf --image photo.png "a cat on a mat"
  refembed embed -m sparse.gguf --sparse --file corpus.txt --output corpus.jsonl
  refembed embed -m colbert.gguf --multi-vector --query "what is a cat" --format jsonl
  refembed embed texts/ --engine ray --output vectors/ --resume
  refembed embed -m model.gguf -p "one\\ntwo" --embd-output-format json+      as llama-embedding

\b
Formats:
  text   numbers in columns, 7 digits     jsonl  a line a text: index, text, tokens, embedding
  json   one object                       csv    a row a text: index, text, e0, e1 ...
  npy    a NumPy float32 array (S, D)     raw    as llama-embedding prints it, 7 decimals
  array  likewise                         json+  likewise
json, jsonl, csv and npy read back to the same float32, bit for bit.
With --pooling none or --multi-vector a text has a vector per token; npy then takes one text only.
With --sparse: text, or json and jsonl, whose `indices` are token ids and `values` weights.

\b
A command line with -p, -bf, --embd-output-format, --embd-separator, --cls-separator, --no-escape, --verbose-prompt,
--log-disable or --compat is llama-embedding's: it reads --file and prints as llama-embedding would, byte for byte.
--numerics ggml makes the digits equal too.
"""


@click.command("embed", cls=LlamaCommand, epilog=EPILOG)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@file_option
@model_option
@pooling_option
@normalize_option
@click.option("--dimensions", type=click.IntRange(1), metavar="N", help="Keep the first N numbers of each vector.")
@truncate_option
@click.option("--compare", is_flag=True, help="Take two texts and say how alike they are.")
@click.option("--sparse", is_flag=True, help="Give tokens and their weights, by the head of bge-m3 or SPLADE.")
@click.option("--multi-vector", is_flag=True, help="Give each token a vector, by the head of ColBERT models or bge-m3.")
@click.option("--query", "is_query", is_flag=True, help="TEXT is a query, not a document (--multi-vector).")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the name of --output, else text.")
@json_option
@click.option("--output", "-o", metavar="FILE", help="Write to FILE: it appears whole, or not at all.")
@numerics_options
@lora_option
@mmproj_option
@image_option
@click.option("--batch-tokens", type=click.IntRange(1), metavar="N", help="Tokens computed at a time.  [default: 8192]")
@threads_option
@click.option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Compute in N processes, each with its share of --threads. The output stays the same.  [default: 1]",
)
@llama_options
@corpus_options
@engine_options
@quiet_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Turn each TEXT into a vector.

    Without TEXT, and without --file, each line of standard input is a text; a blank line is an empty one. A text that
    is too long for the model is an error, never cut unasked.
    """
    if (engine := options.pop("engine")).engine is not None:
        from refembed.cli.embed_files import run

        if unused := tuple(dict.fromkeys(ctx.meta["refembed.ignored"])):
            note(f"note: no meaning here, ignored: {' '.join(unused)}", quiet=options["quiet"])
        load = options["numerics"] | {"lora": options["lora"]}
        vector = {name: options[name] for name in ("pooling", "normalize", "dimensions", "truncate")}
        shared = (options["texts"], options["model"], options["output"], options["corpus"], options["processes"])
        run(engine, *shared, load, vector, quiet=options["quiet"])
        return
    from refembed.cli.embedding import Request, embed
    from refembed.cli.first_word import take_model

    options["processes"] = options["processes"] or 1
    llama, quiet = options["llama"], options["quiet"] or options["llama"].log_disable
    more = any(source is not None for source in (options["file"], llama.prompt, llama.binary_file))
    more |= bool(options["images"])
    options["model"], options["texts"] = take_model(ctx, options["model"], options["texts"], more=more, quiet=quiet)
    embed(Request(**options, ignored=tuple(dict.fromkeys(ctx.meta["refembed.ignored"]))))
