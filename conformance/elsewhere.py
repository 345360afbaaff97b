"""Commands about llama.cpp elsewhere: another build to pin, another processor, and other runtimes than llama.cpp."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path

import click

DIFFERS = 3


@click.command()
@click.argument("version", required=False)
@click.option("--check", is_flag=True, help="Only the steps that write nothing, all of them.")
@click.option("--only", multiple=True, metavar="STEP", help="This step; several add up.")
@click.option("--from", "after", metavar="STEP", help="From this step on.")
@click.option(
    "--wheel", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder that the wheel is installed in already (pip install --target).",
)  # fmt: skip
@click.option("--list", "list_steps", is_flag=True, help="Print the steps, and what to look at behind each.")
def repin(
    version: str | None, check: bool, only: tuple[str, ...], after: str | None, wheel: Path | None, list_steps: bool
) -> None:
    """Move the pin to another VERSION of the wheel xllamacpp, or with --check see what that would change."""
    from conformance import repin as pin

    if list_steps:
        click.echo("\n".join(pin.lines()))
        return
    if version is None:
        raise click.UsageError("VERSION is missing: `pip index versions xllamacpp` lists them")
    sys.exit(0 if pin.repin(version, check, only, after, wheel, click.echo) else DIFFERS)


@click.command()
@click.argument("profile")
@click.option("--python", required=True, metavar="COMMAND", help="Another Python, with the wheel and NumPy.")
@click.option("--model", "models", multiple=True, help="Only this model of models.toml; several add up.")
@click.option("--write", "write_", is_flag=True, help="Keep what it computed in expected/processors/.")
def processors(profile: str, python: str, models: tuple[str, ...], write_: bool) -> None:
    """Hold PROFILE of the `ggml` numerics against llama.cpp on another processor, or in an emulator of it."""
    from conformance import processors as other

    agrees = other.command(profile, shlex.split(python), models, write_, today(), click.echo)
    sys.exit(0 if agrees else DIFFERS)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(["onnxruntime", "openvino", "pytorch"]))
@click.option(
    "--onnx", type=click.Path(path_type=Path, dir_okay=False), help="MiniLM as ONNX; made if PyTorch is here."
)
@click.option("--write", "write_", is_flag=True, help="Put the numbers into runtimes.toml.")
def runtimes(names: tuple[str, ...], onnx: Path | None, write_: bool) -> None:
    """Measure how far ONNX Runtime, OpenVINO and PyTorch, those that are installed or named, are from themselves."""
    from conformance import runtimes as others

    others.command(onnx, names, write_, click.echo)


def today() -> str:
    """The date that provenance carries."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


COMMANDS = (repin, processors, runtimes)
