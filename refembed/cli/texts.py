"""Where texts come from: the arguments, or the lines of a file or of standard input. Read as they are needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

import click

from refembed.cli.show import is_terminal, note
from refembed.errors import RequestError

BOM = b"\xef\xbb\xbf"
MOST_NAMED = 5  # lines named in a warning
UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Texts:
    """Texts in order, each characters or UTF-8 bytes.

    A line ends at `\\n`; that and a `\\r` before it are dropped, nothing else is. A blank line is an empty text, which
    has an embedding like any other, as with llama-embedding (which keeps the `\\r`). A byte order mark at the start is
    dropped and noted. Bytes that are not UTF-8 go to the tokenizer as they are; at the end a warning counts such texts.

    arguments  texts
    file       a path, or `-` for standard input; without either, standard input if it is not a terminal
    Raises click.UsageError for both or neither, and, while reading, RequestError.
    """

    def __init__(self, arguments: Sequence[str], file: str | None) -> None:
        if arguments and file is not None:
            raise click.UsageError("Give texts as arguments or with --file, not both.")
        if not arguments and file is None:
            if sys.stdin is None or is_terminal(sys.stdin):
                raise click.UsageError('Give a text ("Hello, world!"), --file FILE, or lines on standard input.')
            file = "-"
        if file not in (None, "-"):  # a look, no more: a pipe can be opened only once
            check_file(Path(str(file)))
        self.arguments, self.file = arguments, file
        self.name = "standard input" if file == "-" else file or "arguments"
        self.count = self.broken = 0  # texts read, and how many of them are not UTF-8
        self.first_broken: list[int] = []  # the first of these, counted from 1
        self.done = 0  # how far reading has come: texts of the arguments, bytes of a file
        self.total = len(arguments) or self.size()  # where that ends, if known

    def size(self) -> int | None:
        """Bytes of the file, where it is one."""
        path = Path(self.file or "-")
        return path.stat().st_size if self.file != "-" and path.is_file() else None

    def where(self, index: int) -> str:
        """The place of text `index`, counted from 0, as an editor or the shell counts it."""
        return f"text {index + 1}" if self.arguments else f"{self.name}, line {index + 1}"

    def __iter__(self) -> Iterator[str | bytes]:
        if self.arguments:
            for argument in self.arguments:
                self.done += 1
                yield self.looked_at(bytes_if_broken(argument))
            self.remark()
            return
        nothing = True
        try:
            with self.open() as stream:
                for line in self.lines(stream):
                    nothing = False
                    yield self.looked_at(line)
        except OSError as e:
            hint = "--file takes a text file, or - for standard input"
            raise RequestError(f"{self.name}: {e.strerror or e}", hint=hint) from None
        if nothing:
            raise RequestError(f"{self.name}: there are no texts in it", hint="one text a line")
        self.remark()

    def looked_at(self, text: str | bytes) -> str | bytes:
        """The text; counts it, and those that are not UTF-8."""
        self.count += 1
        if isinstance(text, bytes) and not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError:
                self.broken += 1
                if len(self.first_broken) < MOST_NAMED:
                    self.first_broken.append(self.count)
        return text

    def remark(self) -> None:
        """Warn of the texts that are not UTF-8: how many, and where."""
        if not self.broken:
            return
        places = ", ".join(map(str, self.first_broken)) + (" ..." if self.broken > MOST_NAMED else "")
        unit = ("text" if self.arguments else f"{self.name}, line") + ("s" if self.broken > 1 else "")
        found = f"{self.broken} of {self.count} texts {'are' if self.broken > 1 else 'is'} not UTF-8 ({unit} {places})"
        what = (
            "such bytes go to the tokenizer as they are; is the text in another encoding? `iconv -t UTF-8` converts it"
        )
        note(f"warning: {found}; {what}")

    def open(self) -> AbstractContextManager[BinaryIO]:
        """The stream to read lines from; standard input stays open afterwards."""
        if self.file not in (None, "-"):
            return Path(str(self.file)).open("rb")
        if sys.stdin is None:
            raise RequestError("standard input is closed", hint="--file takes a text file")
        return nullcontext(cast(BinaryIO, sys.stdin.buffer))

    def lines(self, stream: BinaryIO) -> Iterator[bytes]:
        """The lines, less their ends."""
        for line in stream:
            if not self.done:
                line = self.first(line)
            self.done += len(line)
            if line:
                yield line[:-2] if line.endswith(b"\r\n") else line[:-1] if line.endswith(b"\n") else line

    def first(self, line: bytes) -> bytes:
        """The first line without its byte order mark."""
        if line.startswith(UTF16):
            hint = "convert it: iconv -f UTF-16 -t UTF-8; in PowerShell: Out-File -Encoding utf8"
            raise RequestError(f"{self.name}: this is UTF-16, not UTF-8", hint=hint)
        if line.startswith(BOM):
            self.done += len(BOM)
            note(f"note: {self.name} begins with a byte order mark; it is not taken as text")
        return line.removeprefix(BOM)


def check_file(path: Path) -> None:
    """Refuse a file that cannot be read before a model is loaded for it."""
    found = "no such file" if not path.exists() else "a folder" if path.is_dir() else ""
    if found:
        raise RequestError(f"{path}: {found}", hint="--file takes a text file, or - for standard input")


def bytes_if_broken(argument: str) -> str | bytes:
    """An argument as the shell gave it: Python hides bytes that are not UTF-8 in surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument)
    return argument
