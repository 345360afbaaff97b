"""`refembed quantize`: a GGUF file to a smaller one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from refembed.errors import RequestError

EPILOG = """\b
Types:
  F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q4_K_S Q3_K_L Q3_K_M Q3_K_S Q2_K
  Q5_1 Q5_0 Q4_1 Q4_0 IQ4_NL IQ4_XS TQ2_0 TQ1_0 Q2_0 Q1_0 MXFP4_MOE F32
  Q3_K, Q4_K and Q5_K are their _M.

\b
Examples:
  refembed quantize minilm minilm-q8_0.gguf Q8_0
  refembed quantize bge-large-f16.gguf bge-large-q4_k_m.gguf q4_k_m
  refembed quantize model.gguf small.gguf Q4_0 --keep "token_embd.*" --keep "blk.0.*"
"""


@click.command("quantize", epilog=EPILOG)
@click.argument("model", metavar="IN")
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.argument("type_name", metavar="TYPE")
@click.option("--keep", metavar="PATTERN", multiple=True, help="Tensors that stay as they are; may be repeated.")
@click.option("--pure", is_flag=True, help="One type for every weight, as far as its rows divide: no mix.")
@click.option("--allow-requantize", is_flag=True, help="Take a file that is quantized already; it loses twice.")
@click.option("--force", is_flag=True, help="Replace OUT where it is there already.")
def command(
    model: str, output: Path, type_name: str, keep: tuple[str, ...], pure: bool, allow_requantize: bool, force: bool
) -> None:
    """Write the model IN (a GGUF file, or a name such as minilm) as OUT, its weights stored as TYPE.

    The file is, byte for byte, what llama-quantize writes without an importance matrix: norms, biases, positions and
    segment types stay as they are, and rows a type's blocks do not divide get a related type. It is written whole or
    not at all.
    """
    from refembed.convert.quantize import quantize_file
    from refembed.convert.quantize_mix import canonical
    from refembed.gguf import open_gguf
    from refembed.hub import resolve
    from refembed.hub.progress import printed_progress

    canonical(type_name)  # an unknown type is an error before a model is fetched
    if output.exists() and not force:
        raise RequestError(f"{output} is there already", hint="--force replaces it")
    source = resolve(model)
    with printed_progress(None, model, once=False) as advance:
        plan = quantize_file(
            source, output, type_name, keep=keep, pure=pure, allow_requantize=allow_requantize, progress=advance
        )
    before, after = open_gguf(source).size, output.stat().st_size
    counts = ", ".join(f"{n} {type}" for type, n in Counter(p.type for p in plan).most_common())
    click.echo(f"{output}: {after:,} bytes, {after / before:.0%} of {before:,}; tensors: {counts}", err=True)
    fallen = sum(p.fallback for p in plan)
    if fallen:
        click.echo(f"{fallen} tensors got another type, as {type_name} blocks do not divide their rows", err=True)
