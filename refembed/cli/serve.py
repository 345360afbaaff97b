"""`refembed serve`: a server for clients of llama-server, OpenAI, Ollama and Text Embeddings Inference."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refembed.cli.models import note_adapters, open_embedder
from refembed.cli.options import (
    MODEL_HELP,
    MODEL_SPELLINGS,
    hush,
    lora_option,
    mmproj_option,
    numerics_options,
    own_options,
    read_norm,
    threads_option,
)
from refembed.cli.show import note
from refembed.errors import RequestError

if TYPE_CHECKING:
    from refembed.embedder import Embedder

EPILOG = """\b
Examples:
  refembed serve
  refembed serve -m model.gguf --port 8081 --pooling cls
  refembed serve -m reranker.gguf --rerank --api-key secret
  curl http://127.0.0.1:8080/v1/embeddings -d '{"input": "Hello, world!"}'

\b
Speaks as
  llama-server   /embedding /v1/embeddings /rerank /tokenize /detokenize /health /props /models /slots /metrics
  Ollama         /api/embed /api/embeddings /api/tags /api/version
  TEI            /embed /embed_all /similarity /info

Takes llama-server's flags with their meaning; those about writing text, GPUs and caches are ignored, with one note.
"""

HOME = "pip install starlette uvicorn httptools (refembed's extra `server`)"


class ServeCommand(click.Command):
    """A command that lets pass what llama-server would take and is not needed here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take those flags out; remember them for the note."""
        from refembed.cli.ignored_flags import split

        kept, ctx.meta["refembed.ignored"] = split(args, own_options(self))
        return super().parse_args(ctx, kept)


def words(value: str | None) -> tuple[str, ...]:
    """A list with commas."""
    return tuple(word for word in (value or "").split(",") if word)


@click.command("serve", cls=ServeCommand, epilog=EPILOG)
@click.option(
    *MODEL_SPELLINGS,
    "model",
    default="minilm",
    show_default=True,
    metavar="MODEL",
    envvar=["LLAMA_ARG_MODEL", "LLAMA_ARG_HF_REPO"],
    help=MODEL_HELP,
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    envvar="LLAMA_ARG_HOST",
    help="Address to listen on, several with commas; one that ends in .sock is a Unix socket.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    envvar="LLAMA_ARG_PORT",
    help="0 takes any free port.",
)
@click.option("-a", "--alias", envvar="LLAMA_ARG_ALIAS", help="What to call the model in answers; list with commas.")
@click.option("--tags", envvar="LLAMA_ARG_TAGS", help="Words shown in the model list; list with commas.")
@click.option(
    "--pooling",
    default="native",
    show_default=True,
    envvar="LLAMA_ARG_POOLING",
    metavar="NAME",
    help="As in `refembed embed`.",
)
@click.option(
    "--embd-normalize",
    "--normalize",
    "embd_normalize",
    callback=read_norm,
    default="2",
    show_default=True,
    metavar="N",
    help="-1 none, 0 largest magnitude 32760, 1 taxicab, 2 Euclid, p: the p-norm; a request may ask for another.",
)
@click.option(
    "--embedding",
    "--embeddings",
    "_",
    is_flag=True,
    envvar="LLAMA_ARG_EMBEDDINGS",
    help="Accepted: this server always embeds.",
)
@click.option(
    "--rerank",
    "--reranking",
    "rerank",
    is_flag=True,
    envvar="LLAMA_ARG_RERANKING",
    help="Serve /rerank; the same as --pooling rank.",
)
@click.option(
    "-c",
    "--ctx-size",
    type=click.IntRange(0),
    default=0,
    envvar="LLAMA_ARG_CTX_SIZE",
    metavar="N",
    help="Tokens of all slots together; 0 is what the model was trained with.",
)
@click.option(
    "-b",
    "--batch-size",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    metavar="N",
    envvar="LLAMA_ARG_BATCH",
    help="Tokens computed at a time, of however many requests.",
)
@click.option(
    "-ub",
    "--ubatch-size",
    type=click.IntRange(0),
    default=512,
    show_default=True,
    metavar="N",
    envvar="LLAMA_ARG_UBATCH",
    help="Most tokens of one text.",
)
@click.option(
    "-np",
    "--parallel",
    type=int,
    default=-1,
    show_default=True,
    metavar="N",
    envvar="LLAMA_ARG_N_PARALLEL",
    help="Slots that share --ctx-size; -1 is 4, which share without parts. Requests run together in any case.",
)
@click.option(
    "-kvu/-no-kvu",
    "--kv-unified/--no-kv-unified",
    "kv_unified",
    default=None,
    help="Every slot may use all of --ctx-size.",
)
@click.option("--api-key", envvar="LLAMA_API_KEY", help="Keys of which a client must have one; list with commas.")
@click.option("--api-key-file", metavar="FILE", help="Such keys, one a line; lines that begin with # are remarks.")
@click.option("--api-prefix", default="", envvar="LLAMA_ARG_API_PREFIX", help="Put this in front of every path.")
@click.option("--cors-origins", default="*", show_default=True, help="Pages that may call: *, localhost, or one.")
@click.option("--cors-methods", default="GET, POST, DELETE, OPTIONS", show_default=True, help="What pages may do.")
@click.option("--cors-headers", default="*", show_default=True, help="Headers that pages may send.")
@click.option(
    "--cors-credentials/--no-cors-credentials", default=True, show_default=True, help="Pages may send a login."
)
@click.option("--metrics", is_flag=True, envvar="LLAMA_ARG_ENDPOINT_METRICS", help="Serve /metrics.")
@click.option("--props", is_flag=True, envvar="LLAMA_ARG_ENDPOINT_PROPS", help="Let POST /props succeed.")
@click.option("--slots/--no-slots", default=True, show_default=True, help="Serve /slots.")
@click.option("--warmup/--no-warmup", default=True, show_default=True, help="Run once before the first request.")
@click.option(
    "--mmap/--no-mmap",
    default=True,
    show_default=True,
    envvar="LLAMA_ARG_MMAP",
    help="--no-mmap copies the model's file into memory: whatever becomes of the file, the server goes on.",
)
@click.option("--ssl-key-file", metavar="FILE", help="With --ssl-cert-file: serve HTTPS.")
@click.option("--ssl-cert-file", metavar="FILE", help="With --ssl-key-file.")
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    metavar="N",
    help="Requests under way at a time; one more is answered 503.",
)
@click.option(
    "--max-inputs",
    type=click.IntRange(1),
    default=16_384,
    show_default=True,
    metavar="N",
    help="Most texts of one request.",
)
@click.option(
    "--grace-period",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time that requests under way have after SIGTERM or Ctrl-C.",
)
@threads_option
@numerics_options
@lora_option
@mmproj_option
@click.option("-v", "--verbose", "--log-verbose", is_flag=True, help="Tracebacks of failures.")
@click.option("--log-disable", is_flag=True, callback=hush, help="Nothing on stderr but errors.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Answer over HTTP until SIGTERM or Ctrl-C; requests under way are answered first."""
    try:
        from refembed.server.run import serve
    except ModuleNotFoundError as e:
        if (e.name or "").split(".")[0] not in ("starlette", "uvicorn", "anyio", "httptools", "orjson"):
            raise
        raise RequestError(f"`refembed serve` needs {e.name}", hint=HOME) from None
    quiet, ignored = options["log_disable"], ctx.meta["refembed.ignored"]
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if options["verbose"] else logging.WARNING, format="%(message)s"
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    if ignored:
        note(f"note: no meaning here, ignored: {' '.join(dict.fromkeys(ignored))}", quiet=quiet)
    settings = settings_of(options)

    def load() -> Embedder:
        given = options["numerics"], options["lora"], options["mmap"], options["mmproj"]
        embedder = open_embedder(options["model"], *given)
        note_adapters(embedder, quiet)
        return embedder

    serve(
        settings,
        load,
        words(options["host"]) or ("127.0.0.1",),
        options["port"],
        warmup=options["warmup"],
        ssl_key=options["ssl_key_file"],
        ssl_cert=options["ssl_cert_file"],
        grace=options["grace_period"],
        mapped=options["mmap"],
        announce=lambda line: note(line, quiet=quiet),
    )


def settings_of(options: dict[str, Any]) -> Any:
    """The flags as the server takes them."""
    from refembed.pooling.poolers import resolve_pooling
    from refembed.server.settings import Settings

    if bool(options["ssl_key_file"]) != bool(options["ssl_cert_file"]):
        raise click.UsageError("--ssl-key-file and --ssl-cert-file go together.")
    check_keys(options["api_key"])
    pooling = "rank" if options["rerank"] else options["pooling"]
    resolve_pooling(pooling, "mean")
    same = (
        *("embd_normalize", "ctx_size", "batch_size", "ubatch_size", "parallel", "kv_unified", "api_prefix"),
        *("cors_origins", "cors_methods", "cors_headers", "cors_credentials", "metrics", "slots", "props"),
        *("max_queue", "max_inputs"),
    )
    return Settings(
        model=options["model"],
        alias=words(options["alias"]),
        tags=words(options["tags"]),
        pooling=pooling,
        api_keys=words(options["api_key"]) + keys_in(options["api_key_file"]),
        **{name: options[name] for name in same},
    )


def check_keys(keys: str | None) -> None:
    """RequestError for an empty one of the keys with commas: a client that sends none would have it."""
    if keys is not None and not all(key.strip() for key in keys.split(",")):
        found = "is empty" if not keys.strip() else f"has an empty key among its {keys.count(',') + 1}"
        raise RequestError(f"--api-key {found}", hint="give a key, or leave the option out to need none")


def keys_in(file: str | None) -> tuple[str, ...]:
    """The keys of a file."""
    if not file:
        return ()
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        what = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise RequestError(f"--api-key-file {file}: {what}", hint="one key a line, in UTF-8") from None
    keys = tuple(line for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise RequestError(f"{file}: no API keys in it", hint="one a line; lines that begin with # are remarks")
    return keys
