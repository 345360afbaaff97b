"""The process that runs mutants: `python -m tests.attack.worker KIND --seed S --begin 0 --end 1000 FOLDER`.

It may take MEMORY more than it had at its start, and a command may compute SECONDS; a line of JSON on stdout says what
each mutant did that it must not. `survey` starts it, and again behind a mutant that killed it.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 2.0  # of computing that a command may take
HANG = 60  # seconds after which a command is ended
MEMORY = 512 << 20  # bytes that a process may add to what it had
EXIT_CODES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Fault:
    """What a mutant did that it must not."""

    kind: str
    seed: int
    number: int
    command: str
    what: str

    def __str__(self) -> str:
        numbers = f"--seed {self.seed} --begin {self.number} --end {self.number + 1}"
        again = f"python -m tests.attack.worker {self.kind} {numbers} FOLDER"
        return f"{self.kind} {self.number}: {self.command}: {self.what}\n    again: {again}"


def survey(kind: str, seed: int, count: int, folder: Path, begin: int = 0) -> list[Fault]:
    """Run mutants `begin` to `begin + count` in processes of their own; what they did that they must not."""
    faults, at, end = [], begin, begin + count
    while at < end:
        numbers = ["--seed", str(seed), "--begin", str(at), "--end", str(end)]
        command = [sys.executable, "-m", "tests.attack.worker", kind, *numbers, str(folder)]
        done = subprocess.run(command, capture_output=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        faults += [Fault(kind, seed, line["number"], line["command"], line["what"]) for line in lines if "what" in line]
        last = lines[-1] if lines else {"number": at - 1, "command": "", "begun": False}
        if done.returncode == 0:
            return faults
        if not lines:
            raise AssertionError(f"no mutant was run:\n{done.stderr.decode(errors='replace')}")
        dying = done.stderr.decode(errors="replace")[-2000:]
        faults.append(
            Fault(kind, seed, last["number"], last["command"], f"the process died ({done.returncode}): {dying}")
        )
        at = last["number"] + 1
    return faults


def mutants(kind: str, folder: Path) -> Any:
    """What draws mutants of a kind."""
    if kind == "gguf":
        from tests.attack.gguf_mutants import GGUFMutants

        return GGUFMutants(folder)
    if kind == "folders":
        from tests.attack.folder_mutants import FolderMutants

        return FolderMutants(folder)
    from tests.attack.file_mutants import FileMutants

    return FileMutants(folder)


def attempt(args: list[str]) -> str:
    """Run one command line in this process; what is wrong with how it ended, or ""."""
    code, said, took = timed(args)
    if took > SECONDS:  # once more: the first call of a kernel compiles it, which is not the file's doing
        code, said, took = timed(args)
    if code not in EXIT_CODES:
        os.environ["REFEMBED_DEBUG"] = "1"  # once more, to see where
        said += captured(args)[1]
        del os.environ["REFEMBED_DEBUG"]
    if code not in EXIT_CODES or "Traceback" in said or "Warning:" in said:
        return f"exit {code}: {said[-3000:]}"
    if "shows what it takes" in said:
        return f"the command line is wrong: {said}"
    if code in (1, 2) and "error: " not in said:
        return f"exit {code} without a word: {said!r}"
    return f"{took:.1f} s of computing" if took > SECONDS else ""


def timed(args: list[str]) -> tuple[int, str, float]:
    """Exit code and standard error of a command line, and its seconds of computing."""
    begun, wall = time.process_time(), time.monotonic()
    code, said = captured(args)
    return code, said, min(time.process_time() - begun, time.monotonic() - wall)  # others' time counts in neither


def captured(args: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a command line."""
    from refembed.cli import run

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(args)
    except BaseException:
        return 70, traceback.format_exc()
    err.flush()
    return code, err.buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]


def warm(folder: Path, source: Any) -> None:
    """Load what every command needs, so that it counts for no mutant."""
    for number in range(40):
        for args in source.commands(random.Random(f"warm {number}"), folder):
            attempt(args)


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("gguf", "folders", "files"))
    parser.add_argument("folder", type=Path)
    for name in ("--seed", "--begin", "--end"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument(
        "--commands", action="store_true", help="print the command lines of a mutant, and leave it there"
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"REFEMBED_CACHE": str(given.folder / "cache")}
    report, sys.stdout = sys.stdout, io.StringIO()
    source = mutants(given.kind, given.folder)
    if not given.commands:
        warm(given.folder, source)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    faulthandler.enable()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in range(given.begin, given.end):
        for args in source.commands(random.Random(f"{given.kind} {given.seed} {number}"), given.folder):
            line: dict[str, Any] = {"number": number, "command": " ".join(args)[:300]}
            print(json.dumps(line), file=report, flush=True)
            if given.commands:
                continue
            faulthandler.dump_traceback_later(HANG, exit=True)
            what = attempt(args)
            faulthandler.cancel_dump_traceback_later()
            if what:
                print(json.dumps(line | {"what": what}), file=report, flush=True)


if __name__ == "__main__":
    main()
