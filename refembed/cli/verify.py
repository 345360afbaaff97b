"""`refembed verify`: is this engine right, and if not, where does it go wrong first, and why?

Of two engines, whether vectors of the first may stay in an index: `verify_upgrade`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from refembed.cli.options import MODEL_SPELLINGS, json_option, lora_option, mmproj_option, quiet_option
from refembed.cli.show import decode, is_terminal, note, print_json
from refembed.cli.texts import Texts
from refembed.cli.verify_upgrade import put_before, set_up, upgrade
from refembed.errors import RequestError

if TYPE_CHECKING:
    from refembed.embedder import Embedder
    from refembed.model.lora import Adapter

BUDGET = 45.0  # seconds: with the floor and the report the whole stays below a minute on a small model
EPILOG = """\b
Examples:
  refembed verify minilm --against llamacpp
  refembed verify model.gguf --against http://localhost:8080 --texts texts.txt
  refembed verify minilm --against ./all-MiniLM-L6-v2
  refembed verify minilm --against run.npz
  refembed verify minilm --against mymodule:embed --json
  refembed verify old.jsonl --against http://localhost:8080 --corpus docs.txt
  refembed verify model.gguf --mmproj mmproj.gguf --image photo.png --against llamacpp

\b
--against  what it stands for
  llamacpp           live llama.cpp, from the wheel xllamacpp; llamacpp:FOLDER another build
  cupy               refembed itself on an NVIDIA GPU; cupy:1 is the second
  http://HOST:PORT   llama-server, Ollama, TEI, or anything with OpenAI's /v1/embeddings; HOST:PORT alone is http
  FOLDER             sentence-transformers or transformers
  FILE.onnx          ONNX Runtime
  FILE.npz, .jsonl   a run or vectors that were recorded
  module:function    a Python function: list of texts -> list of vectors

\b
exit codes: 0 agrees, 1 the question cannot be put, 2 the model cannot be used, 3 differs
"""


@click.command("verify", epilog=EPILOG)
@click.argument("subject", metavar="MODEL|OLD", required=False)
@click.option(
    *MODEL_SPELLINGS,
    "model",
    metavar="MODEL",
    help="The same as the argument; after OLD, the model that both engines are to run.",
)
@click.option("--against", required=True, metavar="ENGINE", help="What to compare with; see below.")
@click.option(
    "--texts", metavar="FILE", help="Texts to compare on, one a line; - is standard input.  [default: built in]"
)
@click.option(
    "--corpus",
    metavar="FILE",
    help="After OLD: documents whose nearest neighbors are compared, one a line, or OLD's stored vectors (.npy).",
)
@click.option("--queries", metavar="FILE", help="With --corpus: what is looked for, one a line.")
@click.option("--pooling", default="native", show_default=True, metavar="NAME", help="How the reference pools.")
@click.option(
    "--normalize",
    type=click.IntRange(-1),
    default=None,
    metavar="N",
    help="What the engine is to do to lengths, as llama.cpp's embd_normalize counts: 2 length 1, -1 leave alone, 0, 1, "
    "p; a server whose route has a switch is asked for it.  [default: any of these; other servers normalize]",
)
@lora_option
@mmproj_option
@click.option(
    "--image", "images", multiple=True, metavar="FILE",
    help="With --mmproj: an image to compare on, or pixels as .npy; repeatable. --texts then has a text for each, with "
    "<__media__> where it stands.  [default: drawn]",
)  # fmt: skip
@click.option("--prompt-name", metavar="NAME", help="The engine puts this prompt of the model's before each text.")
@click.option("--prefix", metavar="TEXT", help="The engine puts TEXT before each text.")
@click.option("--flash-attn/--no-flash-attn", default=None, help="llamacpp: with flash attention.")
@click.option("--threads", type=click.IntRange(1), default=None, help="llamacpp: threads.")
@click.option("--batched/--single", default=None, help="llamacpp: all texts in one call, or one text a call.")
@click.option("--batch", type=click.IntRange(1), default=None, help="Servers: texts in one request.")
@click.option("--model-name", default=None, metavar="NAME", help="Servers: what to send as `model`.")
@click.option("--api-key", default=None, metavar="KEY", help="Servers: sent as bearer token.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Servers: for one request.  [default: 60]",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=BUDGET,
    show_default=True,
    metavar="SECONDS",
    help="For the whole: the search for a cause ends there.",
)
@click.option(
    "--trace/--no-trace", default=True, show_default=True, help="Compare tensors where the engine shows them."
)
@click.option("--html", metavar="FILE", help="Write a report as one HTML file.")
@json_option
@quiet_option
def command(
    subject: str | None, model: str | None, against: str, texts: str | None, corpus: str | None, queries: str | None,
    pooling: str, normalize: int | None, lora: tuple[str, ...], mmproj: str | None, images: tuple[str, ...],
    prompt_name: str | None, prefix: str | None, budget: float, trace: bool, html: str | None, as_json: bool,
    quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Compare an engine with the reference that MODEL is, and say what differs and why.

    MODEL is a GGUF file or the name of a model. The bounds are the noise floor: how far sound arithmetics are apart on
    this model and these texts.

    OLD is an engine, as --against takes it: a server, recorded vectors, a build. Then two engines are compared, and the
    answer is whether an index of OLD's vectors stays valid.
    """
    from refembed.embedder import Embedder
    from refembed.hub import resolve
    from refembed.verify.engines.base import is_engine, runs_the_file

    if subject is not None and is_engine(subject):
        if mmproj or images:
            raise RequestError("--mmproj and --image are about a model", hint="two engines are compared on texts")
        if html:
            raise RequestError("--html writes a report about a model", hint="of two engines --json has all numbers")
        upgrade(
            subject, against, model, texts=texts, corpus=corpus, queries=queries, pooling=pooling, prefix=prefix,
            prompt_name=prompt_name, lora=lora, normalize=normalize, budget=budget, as_json=as_json, quiet=quiet,
            options=options,
        )  # fmt: skip
        return
    model = one_model(subject, model)
    if corpus or queries:
        raise RequestError("--corpus and --queries are for two engines", hint="refembed verify OLD --against NEW")

    items = [decode(t) for t in Texts((), texts)] if texts else None
    if images and not mmproj:
        raise click.UsageError("--image needs --mmproj FILE, the model's vision tower.")
    if mmproj and (prompt_name or prefix):
        raise click.UsageError("--prompt-name and --prefix are for texts without images.")
    target = Path(html) if html else None
    if target is not None and not target.absolute().parent.is_dir():
        raise RequestError(f"{html}: there is no such folder", hint="--html takes a file to write")
    reference = Embedder.load(Path(resolve(model)), numerics="fast", lora=lora, mmproj=mmproj)
    given = chosen(runs_the_file(against), pooling, options, reference.adapters)
    more = {"pooling": pooling, "normalize": normalize, "trace": trace, "budget": budget}
    if mmproj:
        verdict = of_images(reference, against, with_images(images, items), given, target, quiet, as_json, more)
    else:
        more["prefix"] = put_before(reference, prompt_name, prefix)
        verdict = of_texts(reference, against, items, given, target, quiet, as_json, more)
    finish(verdict, as_json)


def finish(verdict: Any, as_json: bool) -> NoReturn:
    """Print the verdict and end with its exit code."""
    if as_json:
        print_json(verdict.as_dict())
    else:
        show(verdict)
    click.get_current_context().exit(verdict.exit_code)


def one_model(subject: str | None, model: str | None) -> str:
    """MODEL, as the argument or with -m."""
    if subject and model:
        raise click.UsageError("Give the model once: as the argument or with -m.")
    if not (subject or model):
        raise click.UsageError("Missing argument 'MODEL'.")
    return str(subject or model)


def with_images(images: Sequence[str], texts: Sequence[str] | None) -> list[dict[str, str]] | None:
    """Inputs: a text for each image, one text for all, or none. None: drawn images."""
    if not images:
        if texts:
            raise click.UsageError("--texts with --mmproj needs --image FILE, one for each text.")
        return None
    own = list(texts or [""])
    own = own * len(images) if len(own) == 1 else own
    if len(own) != len(images):
        raise RequestError(
            f"{len(own)} texts for {len(images)} images", hint="a text for each image, one for all, or none"
        )
    return [{"text": text, "image": image} for text, image in zip(own, images, strict=True)]


def of_texts(
    reference: Embedder, against: str, texts: list[str] | None, given: dict[str, Any], target: Path | None, quiet: bool,
    as_json: bool, more: dict[str, Any],
) -> Any:  # fmt: skip
    """The verdict on an engine's vectors of texts, and its page."""
    from refembed.verify.engines.base import open_engine
    from refembed.verify.run import verify

    engine = open_engine(against, reference.info.path, **given)
    set_up(engine, against, more["normalize"], quiet or as_json)
    try:
        verdict = verify(
            reference, engine, texts, **more, progress=lambda message: note(f"{message} ...", quiet=quiet or as_json)
        )
        if target is not None:
            write_html(target, verdict, engine, reference, more["pooling"])
            note(f"wrote {target}", quiet=quiet)
        return verdict
    finally:
        engine.close()


def of_images(
    reference: Embedder, against: str, inputs: Any, given: dict[str, Any], target: Path | None, quiet: bool,
    as_json: bool, more: dict[str, Any],
) -> Any:  # fmt: skip
    """The verdict on an engine's images, and its page."""
    from refembed.verify.engines.images import open_image_engine
    from refembed.verify.images.run import verify_images

    assert reference.tower is not None
    engine = open_image_engine(against, reference.info.path, Path(reference.tower.path), **given)
    try:
        verdict = verify_images(
            reference, engine, inputs, **more, progress=lambda message: note(f"{message} ...", quiet=quiet or as_json)
        )
        if target is not None:
            from refembed.verify.images.report import image_report_data
            from refembed.verify.report.html import write_report

            write_report(target, image_report_data(verdict, engine, reference, inputs, more["pooling"]))
            note(f"wrote {target}", quiet=quiet)
        return verdict
    finally:
        engine.close()


def chosen(own: bool, pooling: str, options: dict[str, Any], adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Options that were given, for the engine to take or to refuse.

    own  the engine loads the reference's file: it has the reference's pooling and LoRA
    """
    given = {name: value for name, value in options.items() if value is not None}
    if own:
        given |= {"pooling": pooling, "lora": [(a.path, a.scale) for a in adapters]}
    return given


def show(verdict: Any) -> None:
    """The report: colored on a terminal, plain text elsewhere."""
    import shutil
    import sys

    from refembed.verify.report.text import fitted, footer, legend, numbers, paragraph, tables, text_report, to_do

    if not is_terminal(sys.stdout):
        click.echo(text_report(verdict))
        return
    from refembed.cli.show import fold, rich_table

    color = {"identical": "green", "within rounding": "green", "differs": "red", "unexplained": "yellow"}[verdict.kind]
    said = paragraph(verdict)
    click.echo(fold(said, head=said.split(":")[0], color=color))
    if evidence := " ".join(numbers(verdict)):
        click.echo("\n" + fold(evidence))
    for title, heads, rows in tables(verdict):
        click.echo("\n" + click.style(title, bold=True))
        if about := legend(verdict, title):
            click.echo(fold(f"({about})"))
        heads, rows = fitted(heads, rows, shutil.get_terminal_size().columns)
        names, right = [h.removeprefix(">") for h in heads], [h.startswith(">") for h in heads]
        rich_table(names, right, rows, alarming="")
    click.echo("")
    for line in footer(verdict):
        click.echo(fold(line, "  "))
    click.echo("\n" + click.style(fold(to_do(verdict), "  "), bold=True))


def write_html(target: Path, verdict: Any, engine: Any, model: Embedder, pooling: str) -> None:
    """Hand the findings to the report's writer."""
    from refembed.verify.report.html import write_report
    from refembed.verify.report.html_data import report_data

    write_report(target, report_data(verdict, engine, model, pooling))
