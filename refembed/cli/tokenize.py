"""`refembed tokenize`: texts to tokens."""

from __future__ import annotations

import click

from refembed.cli.first_word import take_model
from refembed.cli.options import TextCommand, file_option, json_option, model_option
from refembed.cli.show import decode, escape, print_json, table
from refembed.cli.texts import Texts
from refembed.pipeline.opening import load_tokenizer

EPILOG = """\b
Examples:
  refembed tokenize "Hello, world!"
  refembed tokenize --ids "Hello, world!"          [101, 7592, 1010, 2088, 999, 102]
  refembed tokenize --ids --file corpus.txt        a list a line
  refembed tokenize --no-parse-special "a [SEP] b"
  refembed tokenize --explain "Hello, world!"      a line a stage: what was cut, normalized, merged, added
  refembed tokenize --compare tokenizer.json --file corpus.txt
  refembed tokenize -m model.gguf --compare http://127.0.0.1:8080 "Hello"

`embed` reads texts as this command does without options: special tokens are added, and "[SEP]" in a text is the token.

--compare takes a .gguf file, a Hugging Face tokenizer.json (pip install tokenizers) or a server with /tokenize. It
prints the first difference and the rule that makes it, and ends with exit code 3.
"""


@click.command("tokenize", cls=TextCommand, epilog=EPILOG)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@file_option
@model_option
@click.option("--ids", "only_ids", is_flag=True, help="Print the ids alone, a list a text.")
@click.option("--no-special", is_flag=True, help="Add no special tokens ([CLS], [SEP] ...) around the text.")
@click.option("--no-parse-special", is_flag=True, help="Take special tokens' names in the text as ordinary characters.")
@click.option("--explain", is_flag=True, help="Show what each stage makes of the text.")
@click.option("--compare", "other", metavar="OTHER", help="Find the first difference from another tokenizer.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /,
    texts: tuple[str, ...], file: str | None, model: str, only_ids: bool, no_special: bool, no_parse_special: bool,
    explain: bool, other: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the tokens of each TEXT: place, id, piece as the vocabulary has it, bytes it stands for.

    Without TEXT, and without --file, each line of standard input is a text. --json prints an object a line: index,
    text, ids, pieces.
    """
    if only_ids + explain + (other is not None) > 1:
        raise click.UsageError("--ids, --explain and --compare exclude each other.")
    model, texts = take_model(ctx, model, texts, more=file is not None)
    source = Texts(texts, file)
    tokenizer = load_tokenizer(model)
    if explain or other is not None:
        from refembed.cli import tokenize_explain as shown

        if explain:
            shown.explain(tokenizer, source, not no_special, not no_parse_special, as_json)
        elif other is not None:
            shown.compare(tokenizer, source, other, not no_special, not no_parse_special, as_json)
        return
    for i, text in enumerate(source):
        ids = tokenizer.encode(text, add_special=not no_special, parse_special=not no_parse_special)
        if only_ids and not as_json:
            print_json(ids)
            continue
        tokens = [tokenizer.vocab.tokens[t] for t in ids]
        if as_json:
            info = {"index": i, "text": decode(text), "ids": ids, "pieces": [decode(t) for t in tokens]}
            print_json(info)
            continue
        if len(texts) != 1:
            click.echo(f"[{i}] {escape(text, 80)}")
        stands_for = [tokenizer.piece(t) for t in ids]
        rows = zip(
            map(str, range(len(ids))), map(str, ids), map(escape, tokens), map(hexadecimal, stands_for), strict=True
        )
        table([">#", ">id", "token", "bytes"], rows)


def hexadecimal(piece: bytes) -> str:
    """Bytes as `68 65 6c`."""
    return piece.hex(" ")
