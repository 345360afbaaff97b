"""`refembed verify OLD --against NEW`: whether an index of the old engine's vectors stays valid."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refembed.cli.show import decode, is_terminal, note, print_json
from refembed.cli.texts import Texts
from refembed.errors import EngineError, RequestError

if TYPE_CHECKING:
    from refembed.embedder import Embedder
    from refembed.verify.engines.base import Engine
    from refembed.verify.upgrade.answer import Upgrade

STORED = (".npy", ".npz")  # endings of a corpus that is vectors
COLORS = {"identical": "green", "valid": "green", "normalize": "yellow", "re-embed": "red"}


def upgrade(
    old: str, new: str, model: str | None, *, texts: str | None, corpus: str | None, queries: str | None, pooling: str,
    prefix: str | None, prompt_name: str | None, lora: tuple[str, ...], normalize: int | None, budget: float,
    as_json: bool, quiet: bool, options: dict[str, Any],
) -> None:  # fmt: skip
    """Ask both engines, print the answer, and end with its exit code."""
    from refembed.verify.upgrade.run import verify_upgrade

    if model is None and (given := needs_model(pooling, prefix, prompt_name, lora)):
        raise RequestError(f"{given} is about the model that both engines run", hint="--model FILE says which")
    if queries and not corpus:
        raise RequestError("--queries are looked for in a corpus", hint="--corpus FILE")
    reference = reference_model(model, lora)
    path = None if reference is None else Path(reference.info.path)
    asked = options | {"pooling": pooling, "lora": [(a.path, a.scale) for a in reference.adapters] if reference else []}
    engines: list[Engine] = []
    try:
        for spec in (old, new):
            engines.append(opened(spec, path, asked, normalize, quiet or as_json))
        refuse_unused(options, (old, new))
        answer = verify_upgrade(
            engines[0],
            engines[1],
            lines_of(texts),
            corpus=documents_of(corpus),
            queries=lines_of(queries),
            model=reference,
            pooling=pooling,
            prefix="" if reference is None else put_before(reference, prompt_name, prefix),
            budget=budget,
            progress=lambda message: note(f"{message} ...", quiet=quiet or as_json),
        )
    finally:
        for engine in engines:
            engine.close()
    if as_json:
        print_json(answer.as_dict())
    else:
        show(answer)
    click.get_current_context().exit(answer.exit_code)


def needs_model(pooling: str, prefix: str | None, prompt_name: str | None, lora: tuple[str, ...]) -> str:
    """An option that says nothing without a model file."""
    given = {
        "--pooling": pooling != "native", "--prefix": prefix, "--prompt-name": prompt_name, "--lora": lora,
    }  # fmt: skip
    return next((name for name, value in given.items() if value), "")


def reference_model(model: str | None, lora: tuple[str, ...]) -> Embedder | None:
    """The model that both are to run, where it is given."""
    if model is None:
        return None
    from refembed.embedder import Embedder
    from refembed.hub import resolve

    return Embedder.load(Path(resolve(model)), numerics="fast", lora=lora)


def opened(spec: str, path: Path | None, asked: dict[str, Any], normalize: int | None, quiet: bool) -> Engine:
    """An engine with those of the options that its kind has. llama.cpp runs as a service does that sets none."""
    from refembed.verify.engines.base import is_llamacpp, open_engine, runs_the_file
    from refembed.verify.history import UNASKED

    known, given = options_of(spec), {k: v for k, v in asked.items() if v is not None}
    if is_llamacpp(spec):
        given = UNASKED | given
    elif not runs_the_file(spec):  # pooling and LoRA are the model's, which others bring themselves
        known -= {"pooling", "lora"}
    engine = open_engine(spec, path, **{k: v for k, v in given.items() if k in known})
    set_up(engine, spec, normalize, quiet)
    return engine


def set_up(engine: Engine, spec: str, normalize: int | None, quiet: bool) -> None:
    """Pass --normalize on to a server that has a switch for it, and print the address where a scheme was assumed."""
    if normalize is not None and getattr(getattr(engine, "route", None), "norm", None) is not None:
        engine.normalize = normalize  # type: ignore[attr-defined]
    if "scheme assumed" in engine.info:
        note(f"{spec} has no scheme: asking {engine.info['url']}", quiet=quiet)


def options_of(spec: str) -> set[str]:
    """Names of the options that an engine of this kind has."""
    import importlib

    from refembed.verify.engines.base import which

    module, kind, _ = which(spec)
    opener = getattr(importlib.import_module(f"refembed.verify.engines.{module}"), kind)
    return {p.name for p in inspect.signature(opener).parameters.values() if p.kind is p.KEYWORD_ONLY}


def refuse_unused(options: dict[str, Any], specs: Sequence[str]) -> None:
    """An option that neither engine has is an error."""
    known = set().union(*map(options_of, specs))
    for name, value in options.items():
        if value is not None and name not in known:
            raise RequestError(f"neither {specs[0]} nor {specs[1]} has an option {name!r}")


def lines_of(file: str | None) -> list[str] | None:
    """Texts, one a line."""
    return None if file is None else [decode(t) for t in Texts((), file)]


def documents_of(file: str | None) -> Any:
    """Texts, or stored vectors (N, D), mapped where they are a .npy."""
    if file is None or Path(file).suffix.lower() not in STORED:
        return lines_of(file)
    import numpy as np

    from refembed.atomic_write import reading_arrays
    from refembed.verify.engines.recorded import from_numpy

    if Path(file).suffix.lower() == ".npz":
        return np.asarray(from_numpy(Path(file))[0])
    try:
        with reading_arrays():
            found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as e:
        raise EngineError(f"{file}: cannot be read as NumPy's format: {e}") from None
    if not isinstance(found, np.ndarray):
        raise EngineError(f"{file}: several arrays, where one is meant", hint="such a file is called .npz")
    return found


def put_before(reference: Embedder, prompt_name: str | None, prefix: str | None) -> str:
    """What the engine is said to put before each text."""
    if prompt_name is None:
        return prefix or ""
    from refembed.hub.prompts import find, prefix_for

    return prefix_for(find(reference.file), prompt_name, prefix, reference.info.path.name)


def show(answer: Upgrade) -> None:
    """The report: its first word colored on a terminal."""
    import sys

    from refembed.verify.report.upgrade import report

    text = report(answer)
    if is_terminal(sys.stdout):
        word, rest = text.split(":", 1)
        text = click.style(word, fg=COLORS[answer.kind], bold=True) + ":" + rest
    click.echo(text)
