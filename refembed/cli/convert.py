"""`refembed convert`: a Hugging Face folder to a GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from refembed.errors import ModelError, RequestError

EPILOG = """\b
Examples:
  refembed convert all-MiniLM-L6-v2
  refembed convert all-MiniLM-L6-v2 --outtype q8_0 --output minilm-q8_0.gguf
  refembed convert all-MiniLM-L6-v2 --outtype q4_k_m
"""


@click.command("convert", epilog=EPILOG)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--outtype",
    metavar="TYPE",
    default="f16",
    show_default=True,
    help="How matrices are stored: f32, f16, bf16, q8_0, or a type of `refembed quantize`; vectors, positions and "
    "segments stay F32.",
)
@click.option(
    "-o",
    "--output",
    "--outfile",
    type=click.Path(path_type=Path),
    help="The file to write; default DIR-OUTTYPE.gguf here.",
)
@click.option(
    "--heads", is_flag=True, help="Keep sparse and many-vector heads (bge-m3, SPLADE, ColBERT) in keys of refembed's."
)
@click.option("--force", is_flag=True, help="Replace OUTPUT where it is there already.")
def command(folder: Path, outtype: str, output: Path | None, heads: bool, force: bool) -> None:
    """Write the model in DIR, as Hugging Face publishes them, as one GGUF file.

    DIR is the folder, or minilm for the default model's. It holds config.json, model.safetensors or its shards, and
    tokenizer.json, vocab.txt, tokenizer.model, spiece.model or sentencepiece.bpe.model; modules.json and 1_Pooling say
    the pooling.
    The tensors and keys are those that llama.cpp's own converter writes, in other types those that llama-quantize makes
    of them. The file is written whole or not at all. What config.json or modules.json asks for and a GGUF file cannot
    hold is refused by name; tensors that are left out are listed on standard error.
    """
    from refembed.convert.folder import convert
    from refembed.hub import find, source_folder
    from refembed.hub.progress import printed_progress

    if not folder.is_dir():
        if folder.exists():
            raise ModelError(f"{folder}: a file, not a folder", hint="DIR is a folder as Hugging Face publishes them")
        if find(str(folder))[0] is None:
            raise ModelError(f"{folder}: no such folder", hint="-m OWNER/REPO:TYPE fetches, converts and embeds")
        folder = source_folder(str(folder))
    target = output or Path(f"{folder.resolve().name}-{outtype}.gguf")
    if target.exists() and not force:
        raise RequestError(f"{target} is there already", hint="--force replaces it, --output names another")
    with printed_progress(None, str(folder), once=False) as advance:
        convert(folder, target, outtype=outtype, progress=advance, heads=heads, adapters=True)
    click.echo(f"{target}: {target.stat().st_size:,} bytes", err=True)
