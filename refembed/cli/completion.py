"""What a shell offers behind an option, where its type does not say it. docs/command-line.md: how to turn it on.

A parameter is known by its name, so that every command offers the same; click offers what a Choice has by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Whatever file the shell finds."""
    return [CompletionItem(incomplete, type="file")]


def words(offered: Callable[[], Iterable[str]], *, or_files: bool = False) -> Completer:
    """Words that begin so; where none does, and files do as well, files."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(word) for word in offered() if word.startswith(incomplete.lower())]
        return found or (files(ctx, param, incomplete) if or_files else [])

    return complete


def models() -> Iterable[str]:
    """Names that `-m` knows. A colon parts words in bash, so the types behind it are not offered."""
    from refembed.hub.models import MODELS

    return sorted({alias for model in MODELS for alias in model.aliases if "/" not in alias})


def poolings() -> Iterable[str]:
    """Names of `--pooling`."""
    from refembed.cli.options import POOLINGS

    return POOLINGS.split(", ")


def norms() -> Iterable[str]:
    """Words and numbers of `--normalize`."""
    from refembed.cli.options import NORMS

    return [*NORMS, "-1", "0", "1", "2"]


def outtypes() -> Iterable[str]:
    """What a model can be converted to."""
    from refembed.hub import OUTTYPES

    return OUTTYPES


def schemes() -> Iterable[str]:
    """What `compress --to` takes."""
    return ("int8", "binary", "pq", "matryoshka:128")


def engines() -> Iterable[str]:
    """What `verify --against` takes, and OLD."""
    return ("http://localhost:8080", "llamacpp")


model = words(models, or_files=True)
COMPLETERS: dict[str, Completer] = {  # name of a parameter -> what is offered
    "model": model, "model_option": model, "option": model, "pooling": words(poolings), "normalize": words(norms),
    "embd_normalize": words(norms), "outtype": words(outtypes), "type_name": words(outtypes), "against": words(engines),
    "prompt_name": words(lambda: ("query", "document", "none")), "scheme": words(schemes),
    "subject": model, "models": model, "weights": words(outtypes), "poolings": words(poolings),
    "vectors": words(schemes),
    "measures": words(lambda: ("ndcg@10", "recall@10", "mrr@10", "map", "p@10")),
}  # fmt: skip
FILES = (
    "file", "output", "binary_file", "cache_file", "keys", "lora", "html", "save", "a", "b", "other", "api_key_file",
    "ssl_key_file", "ssl_cert_file", "folder", "calibrate", "queries", "corpus", "qrels", "sts",
)  # fmt: skip


def complete_values(command: click.Command) -> click.Command:
    """Give each parameter of a command that takes any word what may be offered for it."""
    for param in command.params:
        name = param.name or ""
        takes_file = name in FILES or (name == "texts" and isinstance(param, click.Option))  # verify --texts FILE
        completer = COMPLETERS.get(name) or (files if takes_file else None)
        if completer and not isinstance(param.type, click.Choice):
            setattr(param, "shell_complete", bound(completer, param))  # noqa: B010 - a method, for mypy
    return command


def bound(completer: Completer, param: click.Parameter) -> Callable[[click.Context, str], list[CompletionItem]]:
    """The completer of one parameter, as click calls it."""
    return lambda ctx, incomplete: completer(ctx, param, incomplete)
