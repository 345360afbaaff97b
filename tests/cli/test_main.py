"""refembed/cli/__init__.py: verbs, help, exit codes, and what is said when something goes wrong."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import refembed.cli
from refembed import errors
from refembed.cli import COMMANDS, run
from refembed.cli import options as shared
from refembed.kernels.numerics import NUMERICS, PRECISIONS
from tests.cli.conftest import ENVIRONMENT, Cli, program

pytestmark = pytest.mark.system

posix = pytest.mark.skipif(os.name != "posix", reason="signals and /dev are POSIX's")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Cli:
    """`failing(exception)`: what a command ends with that raises it."""

    def call(exception: BaseException) -> object:
        @click.command("embed")
        def command() -> None:
            raise exception

        monkeypatch.setattr(importlib.import_module("refembed.cli.embed"), "command", command)
        return cli("embed")

    return call  # type: ignore[return-value]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_verb(cli: Cli, flag: str) -> None:
    r = cli(flag)
    assert (r.code, r.err) == (0, "")
    assert all(verb in r.out and summary in r.out for verb, summary in COMMANDS.items())


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_verb_has_help_with_an_example(cli: Cli, verb: str, flag: str) -> None:
    r = cli(verb, flag)
    assert (r.code, r.err) == (0, "")
    assert "Example" in r.out
    assert f"\n  refembed {verb}" in r.out.replace("    refembed", "  refembed")


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_has_help(verb: str) -> None:
    command = importlib.import_module(f"refembed.cli.{verb}").command
    assert command.name == verb
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []


def test_numerics_are_those_of_the_kernels() -> None:
    assert list(shared.NUMERICS) == ["auto", *NUMERICS]
    assert shared.PRECISIONS == PRECISIONS


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"refembed {refembed.__version__}\n"


def test_no_arguments_show_help_on_stderr(cli: Cli) -> None:
    r = cli()
    assert (r.code, r.raw) == (1, b"")
    assert "Usage: refembed" in r.err


def test_an_unknown_verb_gets_a_guess(cli: Cli) -> None:
    assert "Did you mean `embed`?" in cli("embd", "hello").err
    r = cli("hello there")
    assert (r.code, r.raw) == (1, b"")
    assert 'To embed a text: refembed embed "hello there"' in r.err


@pytest.mark.parametrize(
    "args", [["--nosuch"], ["embed", "--nosuch", "a"], ["info", "a", "b"], ["embed", "--format", "xml", "a"]]
)
def test_usage_errors_end_with_1_and_name_the_help(cli: Cli, args: list[str]) -> None:
    r = cli(*args)
    assert (r.code, r.raw) == (1, b"")
    assert r.err.startswith("error: ")
    assert "--help` shows what it takes" in r.err
    assert len(r.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("exception", "code"),
    [
        (errors.RequestError("no", hint="try"), 1),
        (errors.EngineError("no", hint="try"), 1),
        (errors.ModelError("no", hint="try"), 2),
        (errors.DownloadError("no", hint="try"), 2),
        (errors.GGUFError("reading x", path="f.gguf", offset=16, found="y", hint="try"), 2),
    ],
)
def test_an_error_of_refembed_is_its_message_and_its_exit_code(failing: Cli, exception: Exception, code: int) -> None:
    r = failing(exception)
    assert (r.code, r.raw, r.err) == (code, b"", f"error: {exception}\n")


def test_a_fault_is_one_line_and_how_to_see_more(failing: Cli) -> None:
    r = failing(ZeroDivisionError("a\nb"))
    assert r.code == 70
    assert r.err.splitlines() == [
        "error: refembed failed: ZeroDivisionError: a b",
        "  hint: this is a fault in refembed; REFEMBED_DEBUG=1 shows where it is",
    ]


def test_debug_shows_the_traceback(failing: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFEMBED_DEBUG", "1")
    r = failing(ZeroDivisionError("x"))
    assert r.code == 70
    assert "Traceback (most recent call last)" in r.err


def test_an_interrupt_is_one_line(failing: Cli) -> None:
    r = failing(KeyboardInterrupt())
    assert (r.code, r.err) == (130, "refembed: interrupted\n")


def test_an_error_of_the_system_is_one_line(failing: Cli) -> None:
    r = failing(OSError(28, "No space left on device", "out.npy"))
    assert (r.code, r.err) == (1, "error: out.npy: No space left on device\n")


def imported(*args: str) -> set[str]:
    """Modules that a run leaves in memory, in a fresh interpreter."""
    code = "import sys; from refembed.cli import run; run(sys.argv[1:]); print('\\n', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, encoding="utf-8", check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["nosuch"]])
def test_help_imports_no_verb(args: list[str]) -> None:
    assert not imported(*args) & {"numba", "rich", "refembed.embedder", "refembed.gguf", "refembed.cli.embed"}


def test_help_imports_no_numbers() -> None:
    assert "numpy" not in imported("--help")


@pytest.mark.parametrize("verb", ["tokenize", "info"])
def test_tokenize_and_info_import_no_compiler(verb: str, tiny: Path) -> None:
    args = ["-m", str(tiny)] + (["hello"] if verb == "tokenize" else [])
    modules = imported(verb, *args)
    assert not modules & {"numba", "llvmlite", "rich.console", "refembed.kernels.fast.ops", "refembed.cli.embed"}
    assert "refembed.tokenizer" in modules


def test_a_program_that_ends_looks_for_no_cycles() -> None:
    """Twice through all objects of Numba: a fifth of the time that one word takes."""
    ends = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 1000))"
    code = f"{ends}; from refembed.cli import main; sys.argv[1:] = ['--version']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert done.stdout.split()[-1] == "True"


def test_help_of_a_verb_imports_no_compiler() -> None:
    assert not imported("embed", "--help") & {"numba", "llvmlite", "rich.console"}


def test_it_runs_as_a_module() -> None:
    assert program("--version").stdout == f"refembed {refembed.__version__}\n".encode().replace(
        b"\n", os.linesep.encode()
    )


@posix
def test_a_reader_that_leaves_ends_it_quietly(tiny: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("hello world\n" * 2000)
    done = program(
        "embed", "-q", "-m", tiny, "--numerics", "exact", "--format", "raw", "--file", corpus, stdout=closed_pipe()
    )
    assert (done.returncode, done.stderr) == (141, b"")


@posix
def test_a_reader_that_leaves_before_the_last_line_ends_it_quietly(tiny: Path) -> None:
    done = program("tokenize", "-m", tiny, "hello", stdout=closed_pipe())
    assert (done.returncode, done.stderr) == (141, b"")


def closed_pipe() -> int:
    """The end to write to of a pipe without a reader."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's file that is always full")
def test_a_full_disk_is_an_error(tiny: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = program("tokenize", "-m", tiny, "--ids", "hello", stdout=full)
    assert (done.returncode, done.stderr) == (1, b"error: standard output: No space left on device\n")


@posix
def test_control_c_ends_it_with_one_line(tiny: Path) -> None:
    """The program waits for lines that never come; then it is interrupted."""
    command = [sys.executable, "-m", "refembed", "embed", "-m", str(tiny), "--numerics", "exact"]
    pipe = subprocess.PIPE
    p = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT, preexec_fn=heed_interrupts)
    assert p.stderr is not None
    first = p.stderr.readline() + p.stderr.readline()  # it has said which model; now it reads
    time.sleep(0.2)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=30)
    assert first.startswith(b"model ")
    assert (p.returncode, out, err) == (130, b"", b"refembed: interrupted\n")


def heed_interrupts() -> None:
    """A shell's background jobs, and so perhaps these tests, run with interrupts ignored; children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@posix
@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_traceback(tiny: Path, redirection: str) -> None:
    command = (
        f'"{sys.executable}" -m refembed embed -m "{tiny}" --numerics exact {"" if "<" in redirection else "hello"}'
    )
    done = subprocess.run(
        ["sh", "-c", f"{command} {redirection}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (0 if redirection == "2>&-" else 1)
    assert "Traceback" not in done.stderr
    assert "refembed failed" not in done.stderr


def test_what_a_terminal_cannot_show_is_escaped(tiny: Path) -> None:
    done = program("tokenize", "-m", tiny, "hello", env={"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert b"\\u2581hello" in done.stdout


def test_completion_knows_the_verbs() -> None:
    done = program(env={"_REFEMBED_COMPLETE": "bash_complete", "COMP_WORDS": "refembed tok", "COMP_CWORD": "1"})
    assert b"tokenize" in done.stdout


def test_run_returns_the_exit_code() -> None:
    assert run(["--version"]) == 0
