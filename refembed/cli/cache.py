"""`refembed cache`: what the file of vectors holds, and making it smaller."""

from __future__ import annotations

import re
from pathlib import Path

import click

from refembed.cli.options import json_option, quiet_option
from refembed.cli.show import escape, note, print_json, table
from refembed.corpus.vector_cache import LIMIT, Cache, default_path
from refembed.errors import RequestError

EPILOG = """\b
Examples:
  refembed embed --cache --file corpus.txt --output corpus.npy
  refembed cache
  refembed cache prune --limit 200M
  refembed cache clear vectors.sqlite
"""

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def read_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    """`500M`, `2G`, `1000000`: bytes, in powers of 1024."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(i?B)?", str(LIMIT) if value is None else value, re.IGNORECASE)
    if not match or not int(match[1]):
        raise click.BadParameter(f"{value!r} is no size: 500M, 2G, 1000000 (bytes).")
    return int(match[1]) * UNITS[match[2].upper()]


@click.command("cache", epilog=EPILOG)
@click.argument("action", type=click.Choice(["info", "clear", "prune"]), default="info")
@click.argument("file", required=False)
@click.option("--limit", callback=read_size, metavar="SIZE", help="prune: bytes to leave: 500M, 2G.  [default: 1G]")
@click.option("--check", is_flag=True, help="info: read the whole file, looking for damage.")
@json_option
@quiet_option
def command(action: str, file: str | None, limit: int, check: bool, as_json: bool, quiet: bool) -> None:
    """Look after FILE, where `refembed embed --cache` keeps vectors.

    info says what is in it, prune removes what was not used for longest, clear removes everything.
    """
    path = default_path() if file is None else Path(file)
    if not path.exists():
        raise RequestError(f"{path}: there is no cache", hint="`refembed embed --cache` makes one")
    with Cache(path, limit=limit) as cache:
        if action != "info":
            gone = cache.prune() if action == "prune" else cache.clear()
            note(f"{gone} vectors removed", quiet=quiet)
        found = cache.info()
        damage = cache.check() if check else []
    rows = {"path": str(path), "vectors": found.vectors, "bytes": found.bytes, "file_size": found.file_size}
    if as_json:
        print_json(rows | ({"damage": damage} if check else {}))
    else:
        table(
            ["what", "value"],
            [(k.replace("_", " "), escape(f"{v:,}" if k != "path" else str(v))) for k, v in rows.items()],
        )
    if damage:
        hint = f"delete it, with {path.name}-wal and {path.name}-shm: every vector can be computed anew"
        raise RequestError(f"cache {path}: damaged: {'; '.join(damage)[:300]}", hint=hint)
