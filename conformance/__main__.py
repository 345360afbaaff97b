"""The command line: `python -m conformance run`, and what belongs to it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from conformance import bounds as bounds_file
from conformance.cases import NUMERICS, Test, select
from conformance.environment import environment
from conformance.measure import measure as measure_bounds
from conformance.models import load_models, model_path
from conformance.oracle import Live, Recorded, open_oracle
from conformance.record import MODELS, record
from conformance.report import CaseLines, as_json, save, show
from conformance.runner import load_known
from conformance.runner import run as run_tests
from conformance.session import Session
from refembed.errors import RefembedError
from refembed.hub import source_folder

DIFFERS = 3

choose = [
    click.argument("patterns", nargs=-1),
    click.option("--model", "models", multiple=True, help="Only cases of this model of models.toml; several add up."),
    click.option("--kind", "kinds", multiple=True, type=click.Choice(list(NUMERICS)), help="Only this kind of check."),
    click.option(
        "--numerics",
        multiple=True,
        type=click.Choice(["exact", "ggml", "fast"]),
        help="Only this numerics of refembed.",
    ),
]


def chosen(function: Any) -> Any:
    """The options that choose tests."""
    for decorate in reversed(choose):
        function = decorate(function)
    return function


@contextlib.contextmanager
def opened(oracle: str) -> Iterator[Live | Recorded]:
    """An oracle, closed in the end."""
    made = open_oracle(oracle)
    try:
        yield made
    finally:
        made.close()


def today() -> str:
    """The date that provenance carries."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Hold refembed against llama.cpp, tensor by tensor. README.md in this folder explains the terms.

    PATTERNS are ids of tests or cases with * and ?: `embed`, `*/minilm-f32/*`, `embed/minilm-f32/mean::rare-word`.

    Exit codes: 0 agrees, 1 usage or input error, 2 model error, 3 differs.
    """


@main.command()
@chosen
@click.option(
    "--oracle", type=click.Choice(["auto", "live", "recorded"]), default="auto", help="Who knows the answers."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all numbers there.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure.")
@click.option("-v", "--verbose", is_flag=True, help="A line for every test, not only for every case.")
@click.option("--case", "cases", multiple=True, metavar="GLOB", help="As PATTERNS; several add up.")
@click.option("--engine", metavar="SPEC", help="Ask this engine: http://..., module:callable, a folder ...")
@click.option("--xfails", type=click.Path(path_type=Path, dir_okay=False), help="--engine: `id | reason` a line.")
@click.option("--pooling", default="native", metavar="NAME", help="--engine: what it pools with.  [native]")
@click.option("--normalize", type=click.Choice(["-1", "2"]), help="--engine: what it is to do to lengths.")
@click.option("--model-name", metavar="NAME", help="--engine, servers: what to send as `model`.")
@click.option("--api-key", metavar="KEY", help="--engine, servers: sent as bearer token.")
def run(
    patterns: tuple[str, ...],
    models: tuple[str, ...],
    kinds: tuple[str, ...],
    numerics: tuple[str, ...],
    oracle: str,
    json_file: Path | None,
    fail_fast: bool,
    verbose: bool,
    cases: tuple[str, ...],
    engine: str | None,
    **of_engine: Any,
) -> None:
    """Run tests and hold every number to its bound.

    With --engine they are asked of another engine, and --model is the model that it has, also a GGUF FILE.
    """
    console, start, patterns = wide(), time.perf_counter(), (*patterns, *cases)
    if engine is not None:
        of_engine |= {"oracle": oracle, "json_file": json_file, "fail_fast": fail_fast, "verbose": verbose}
        sys.exit(run_foreign(engine, patterns, kinds, console, models, numerics, **of_engine))
    if given := [name.replace("_", "-") for name, value in of_engine.items() if value not in (None, "native")]:
        raise click.UsageError(f"--{given[0]} goes with --engine")
    tests, known, bounds = (
        select(patterns, check_models(models), kinds, numerics),
        load_known(),
        bounds_file.load_bounds(),
    )
    with opened(oracle) as asked:
        where = environment(asked)
        print_environment(where, console)
        lines = CaseLines(tests, console, verbose)
        results = run_tests(Session(asked), tests, bounds, known, lines, fail_fast)
    data = as_json(results, where, bounds)
    if json_file:
        save(json_file, data)
    show(data, console)
    console.print(f"{time.perf_counter() - start:.0f} s", highlight=False)
    sys.exit(DIFFERS if any(r.failed for r in results) else 0)


def run_foreign(
    engine: str,
    patterns: tuple[str, ...],
    kinds: tuple[str, ...],
    console: Console,
    model: tuple[str, ...],
    numerics: tuple[str, ...],
    normalize: str | None,
    model_name: str | None,
    api_key: str | None,
    **options: Any,
) -> int:
    """`run --engine`: its options as `external` has them. Returns the exit code."""
    from conformance.external import Request, run_engine
    from conformance.external_cases import TEMPLATE

    if numerics or len(model) > 1:
        raise click.UsageError("--engine has one --model, and no --numerics: those are refembed's")
    given = (("model_name", model_name), ("api_key", api_key))
    request = Request(
        engine, patterns, (*model, TEMPLATE)[0], kinds, normalize=None if normalize is None else int(normalize),
        options=tuple((k, v) for k, v in given if v is not None), **options,
    )  # fmt: skip
    return run_engine(request, console)


@main.command("list")
@chosen
def list_(
    patterns: tuple[str, ...], models: tuple[str, ...], kinds: tuple[str, ...], numerics: tuple[str, ...]
) -> None:
    """Print the ids of tests, each with what it is about."""
    seen: dict[str, Test] = {}
    for t in select(patterns, check_models(models), kinds, numerics):
        seen.setdefault(t.id, t)
    for id_, t in seen.items():
        click.echo(f"{id_}  {t.text.description}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE|types")
def report(file: Path) -> None:
    """Print the tables of a run that was saved with --json, or what becomes of every tensor `types`: bits and speed."""
    if str(file) == "types":
        from conformance import types

        sys.exit(DIFFERS if types.report(wide()) else 0)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        assert data["format"] == "refembed-conformance-1"
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise click.ClickException(f"{file}: not written by `python -m conformance run --json`") from None
    console = wide()
    print_environment(data["environment"], console)
    show(data, console)


@main.command()
@chosen
@click.option(
    "--raise", "may_raise", is_flag=True, help="Write bounds that are looser than before, too. Say why in the commit."
)
@click.option("--add", is_flag=True, help="Keep what is worse, stored or measured: for a further machine or BLAS.")
@click.option("--dry-run", is_flag=True, help="Write nothing.")
def measure(
    patterns: tuple[str, ...],
    models: tuple[str, ...],
    kinds: tuple[str, ...],
    numerics: tuple[str, ...],
    may_raise: bool,
    add: bool,
    dry_run: bool,
) -> None:
    """Measure against live llama.cpp and write the tables of bounds.toml that these tests name."""
    console = wide()
    wanted = {t.bounds for t in select(patterns, check_models(models), kinds, numerics)}
    tests = [t for t in select() if t.bounds in wanted]  # a table is measured on all its texts or not at all
    with opened("live") as asked:
        where = environment(asked)
        print_environment(where, console)
        results = run_tests(Session(asked), tests, None, {}, CaseLines(tests, console, False))
    outcome = measure_bounds(results, bounds_file.load_bounds(), where, today(), add)
    for title, rows in (
        ("no number", outcome.errors),
        ("above limits.toml", outcome.above),
        ("looser than before", outcome.raised),
    ):
        for row in rows:
            click.echo(f"{title}: {row}")
    if outcome.errors or outcome.above or (outcome.raised and not may_raise):
        click.echo("bounds.toml is left as it was")
        sys.exit(DIFFERS)
    if not dry_run:
        bounds_file.write_bounds(outcome.bounds)
        click.echo(f"wrote {bounds_file.PATH}")


@main.command()
@click.option("--numerics", type=click.Choice(["exact", "fast"]), default="fast", help="Which to break.")
def mutants(numerics: str) -> None:
    """Break refembed in every way that mutants.py knows, and print which check notices."""
    from conformance.mutants import MUTANTS, caught_by, run_mutant

    unnoticed, bounds = 0, bounds_file.load_bounds()
    with Live(engines=4, traces=4) as asked:
        for mutant in (None, *MUTANTS):
            caught = caught_by(run_mutant(mutant, numerics, asked, bounds))
            click.echo(f"{mutant.id if mutant else '(not broken)':22} {caught or 'nothing notices'}")
            unnoticed += bool(caught) is (mutant is None)
    sys.exit(DIFFERS if unnoticed else 0)


@main.command()
@click.argument("models", nargs=-1, required=True)
def effects(models: tuple[str, ...]) -> None:
    """Print what each place where llama.cpp rounds does to a vector, as Markdown tables; MODELS are of models.toml."""
    from conformance.effects import markdown

    for model in check_models(models):
        for line in markdown(model):
            click.echo(line)


@main.command("verify-mutants")
@click.argument("names", nargs=-1)
@click.option("--write", "write_", is_flag=True, help="Put the table into docs/verify.md.")
def verify_mutants(names: tuple[str, ...], write_: bool) -> None:
    """Break engines in every way that verify_faults.py knows, and see whether `refembed verify` names the fault."""
    from conformance import verify_mutants as faults

    outcomes = faults.run_all(names, lambda outcome: click.echo(faults.line(outcome)))
    click.echo(faults.summary(outcomes))
    if write_:
        faults.write(outcomes)
    sys.exit(0 if faults.good(outcomes) else DIFFERS)


@main.command("verify-drawn")
@click.option("--count", type=click.IntRange(0), default=300, show_default=True, help="Engines with faults.")
@click.option("--healthy", type=click.IntRange(0), default=30, show_default=True, help="Engines without.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed draws other faults.")
@click.option("--only", type=int, multiple=True, help="These numbers alone.")
@click.option("--families", is_flag=True, help="Models with experts, latent attention and states instead.")
@click.option("--write", "write_", is_flag=True, help="Put the table into docs/verify.md.")
def verify_drawn(count: int, healthy: int, seed: int, only: tuple[int, ...], families: bool, write_: bool) -> None:
    """Draw engines with one or two faults at random, and see whether `refembed verify` names them."""
    from conformance import verify_drawn as drawn

    outcomes = []
    for outcome in drawn.run(count, seed, healthy, only, families=families):
        outcomes.append(outcome)
        click.echo(outcome.line())
    click.echo(drawn.summary(outcomes, seed))
    if write_ and not only:
        drawn.write(outcomes, seed, drawn.MARKS_OF_FAMILIES if families else drawn.MARKS)
    sys.exit(0 if drawn.good(outcomes) else DIFFERS)


@main.command("no-false-alarm")
@click.argument("patterns", nargs=-1)
@click.option("--gemma", type=click.Path(path_type=Path), help="Gemma-3-270M, Q4_K_M; default: $REFEMBED_GEMMA3.")
@click.option("--variants", is_flag=True, help="Every row of architectures.json.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all numbers there.")
@click.option("--write", "write_", is_flag=True, help="Put the table into docs/verify.md.")
def no_false_alarm(
    patterns: tuple[str, ...], gemma: Path | None, variants: bool, json_file: Path | None, write_: bool
) -> None:
    """Ask `refembed verify` about live llama.cpp in all its settings; PATTERNS are `minilm/*`, `gemma3/plain`."""
    from conformance import false_alarms as alarms

    sys.exit(DIFFERS if alarms.command(patterns, gemma, variants, json_file, write_, click.echo) else 0)


@main.command("verify-margins")
@click.argument("names", nargs=-1)
@click.option("--write", "write_", is_flag=True, help="Put the table into docs/verify.md.")
def verify_margins(names: tuple[str, ...], write_: bool) -> None:
    """Move each hand-chosen number of `refembed verify`, and see which verdict changes first; NAMES are of faults."""
    from conformance import verify_margins as margins

    sys.exit(DIFFERS if margins.command(names, write_, click.echo) else 0)


@main.command("record")
def record_() -> None:
    """Write down what live llama.cpp answers, for machines without its wheel."""
    with opened("live") as asked:
        assert isinstance(asked, Live)
        for model in MODELS:
            path = record(model, asked, environment(asked), today())
            click.echo(f"wrote {path}: {path.stat().st_size:,} bytes")


@main.command()
@click.argument("patterns", nargs=-1)
@click.option("--texts", type=click.IntRange(1), default=2000, show_default=True, help="Random texts a vocabulary.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random texts.")
def vocabularies(patterns: tuple[str, ...], texts: int, seed: int) -> None:
    """Hold the tokenizers against live llama.cpp on real vocabularies; PATTERNS are names with * and ?."""
    from conformance import vocabularies as real

    if real.why_not():
        click.echo(real.why_not(), err=True)
    if not real.names():
        return
    logger = logging.getLogger("refembed.tokenizer")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that BOS is doubled in some texts is meant
    try:
        rows = real.run(
            patterns, texts, seed, lambda row: click.echo(f"{row.name}: {row.mismatches} mismatches", err=True)
        )
    finally:
        logger.setLevel(level)
    click.echo("\n".join(real.lines(rows)))
    sys.exit(DIFFERS if any(row.mismatches for row in rows) else 0)


@main.command()
@click.argument("patterns", nargs=-1)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all numbers there.")
@click.option("--write", is_flag=True, help="Add bounds that are missing, and make docs/architectures.md anew.")
@click.option("--jobs", type=click.IntRange(1), help="Processes that measure; default: one a core.")
def architectures(patterns: tuple[str, ...], json_file: Path | None, write: bool, jobs: int | None) -> None:
    """Hold every architecture and optional tensor against live llama.cpp; PATTERNS are `gemma3`, `*/reranker*`."""
    from conformance.architectures_report import report

    with opened("live") as asked:
        where = environment(asked)
    sys.exit(DIFFERS if report(patterns, json_file, write, jobs, where, today(), wide()) else 0)


@main.command()
@click.argument("what", nargs=-1, type=click.Choice(["models", "vocabularies"]))
def fetch(what: tuple[str, ...]) -> None:
    """Make models and real vocabularies ready (one of them, if named), and check the files they are made from."""
    if not what or "vocabularies" in what:
        from conformance.vocab_fetch import fetch as fetch_vocabularies

        click.echo(f"vocabularies: {fetch_vocabularies(lambda step, done, total: None)}")
    for name, about in load_models().items() if not what or "models" in what else ():
        if "vocabulary" in about:
            continue
        folder = source_folder(about["hub"])
        found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        if found != about["source_sha256"]:
            raise click.ClickException(f"{folder / 'model.safetensors'}: sha256 {found}, not {about['source_sha256']}")
        click.echo(f"{name}: {model_path(name)}")


def wide() -> Console:
    """A console in which the tables fit, also in a pipe."""
    console = Console()
    console.width = max(console.width, 130)
    return console


def check_models(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a model that models.toml does not name."""
    for name in names:
        if name not in load_models():
            raise click.UsageError(f"{name!r} is no model of models.toml: there are {', '.join(load_models())}")
    return names


def print_environment(where: dict[str, str], console: Console) -> None:
    """What this runs on, before any number."""
    for name, value in where.items():
        console.print(f"{name:14} {value}", markup=False, highlight=False, soft_wrap=True)
    console.print()


def command() -> None:
    """Run a command; an expected error is one message and an exit code."""
    try:
        main(standalone_mode=False)
    except click.ClickException as e:
        e.show()
        sys.exit(1)
    except click.Abort:
        sys.exit(1)
    except RefembedError as e:
        click.echo(f"error: {e}", err=True)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    command()
