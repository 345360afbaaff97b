"""`refembed warm`: compile what a model needs before workers start, so that each of them finds it on the disk."""

from __future__ import annotations

import time
from typing import Any

import click

from refembed.cli.options import lora_option, model_argument, numerics_options, quiet_option, threads_option
from refembed.cli.show import note

EPILOG = """\b
Examples:
  refembed warm minilm
  refembed warm model.gguf --numerics int8
  NUMBA_CACHE_DIR=/shared/kernels refembed warm model.gguf

\b
Numba keeps compiled kernels next to refembed's own files, or in NUMBA_CACHE_DIR, for each kind of processor. The first
text that needs a kernel compiles it: 10 to 20 seconds in all. After this command no process has to that uses the same
folder, the same numerics and a model of the same kind.
"""


@click.command("warm", epilog=EPILOG)
@model_argument
@numerics_options
@lora_option
@threads_option
@quiet_option
def command(model: str, numerics: dict[str, Any], lora: tuple[str, ...], quiet: bool) -> None:
    """Compile all kernels that MODEL needs, once for all processes of this machine."""
    from refembed.cli.models import open_embedder

    began = time.monotonic()
    open_embedder(model, numerics, lora).warm()
    from refembed.kernels.llvm import compiling, disk_cache

    if not compiling.cached:
        note("warning: no folder can be written that would keep compiled kernels: NUMBA_CACHE_DIR names one")
    seconds = time.monotonic() - began
    n, found = len(disk_cache.compiled), len(disk_cache.loaded)
    note(f"{n} kernels compiled, {found} were there already, in {seconds:.1f} s", quiet=quiet)
