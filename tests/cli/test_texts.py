"""refembed/cli/texts.py: arguments, lines of files, lines of standard input."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.cli.texts import Texts
from refembed.errors import RequestError


def lines_of(content: bytes, tmp_path: Path) -> list[str | bytes]:
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    return list(Texts((), str(path)))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"a\n\nb\n", [b"a", b"", b"b"]),
        (b"a\n\n", [b"a", b""]),
        (b"\n", [b""]),
        (b"a\rb\n", [b"a\rb"]),
        (b" a \r\n", [b" a "]),
        (b"a\r", [b"a\r"]),
        (b" a \n\tb\n", [b" a ", b"\tb"]),
        (b"\xff\xc3\n", [b"\xff\xc3"]),
        (b"a\x00b\x0b\x0c\x85\xe2\x80\xa8c\n", [b"a\x00b\x0b\x0c\x85\xe2\x80\xa8c"]),
        (b"\xef\xbb\xbfa\nb\n", [b"a", b"b"]),
        (b"a\n\xef\xbb\xbfb\n", [b"a", b"\xef\xbb\xbfb"]),
    ],
)
def test_a_line_is_a_text(content: bytes, texts: list[bytes], tmp_path: Path) -> None:
    assert lines_of(content, tmp_path) == texts


@given(st.lists(st.binary().map(lambda b: b.replace(b"\n", b"").rstrip(b"\r")), min_size=1))
def test_lines_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[bytes]) -> None:
    if texts[0].startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        texts[0] = b"a" + texts[0]
    assert lines_of(b"".join(t + b"\n" for t in texts), tmp_path_factory.getbasetemp()) == texts


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_a_file_without_texts_is_an_error(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there are no texts in it"):
        lines_of(content, tmp_path)


def test_a_byte_order_mark_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines_of(b"\xef\xbb\xbfa\n", tmp_path)
    assert "byte order mark" in capsys.readouterr().err


def test_texts_that_are_not_utf_8_are_counted_and_their_lines_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines_of(b"a\n\xff b\nc\ncaf\xe9\n", tmp_path)
    warning = (
        f"warning: 2 of 4 texts are not UTF-8 ({tmp_path / 'texts.txt'}, lines 2, 4); such bytes go to the tokenizer"
    )
    assert capsys.readouterr().err.startswith(warning)
    lines_of(b"\xff\n" * 7, tmp_path)
    assert "lines 1, 2, 3, 4, 5 ...)" in capsys.readouterr().err
    list(Texts(["ok", "a\udcffb"], None))
    assert "1 of 2 texts is not UTF-8 (text 2);" in capsys.readouterr().err
    lines_of("caf\u00e9\n\U0001f600\n".encode(), tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf_16_is_an_error(codec: str, tmp_path: Path) -> None:
    bom = b"\xfe\xff" if codec == "utf-16-be" else b""
    with pytest.raises(RequestError, match="this is UTF-16"):
        lines_of(bom + "hello\n".encode(codec), tmp_path)


@pytest.mark.parametrize(("name", "found"), [("nosuch.txt", "no such file"), (".", "a folder")])
def test_a_file_that_cannot_be_read_is_an_error_at_once(name: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=found):
        Texts((), str(tmp_path / name))


def test_arguments_and_a_file_are_too_much(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="not both"):
        Texts(("a",), str(tmp_path / "f"))


def test_nothing_at_a_terminal_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(click.UsageError, match="Give a text"):
        Texts((), None)


@pytest.mark.parametrize("file", [None, "-"])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, file: str | None) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xffb\n")))
    texts = Texts((), file)
    assert list(texts) == [b"a", b"\xffb"]
    assert (texts.total, texts.where(1)) == (None, "standard input, line 2")


def test_stray_bytes_of_arguments_reach_the_tokenizer() -> None:
    assert list(Texts(("é", "a\udcffb"), None)) == ["é", b"a\xffb"]


def test_how_far_reading_has_come(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"\xef\xbb\xbfab\r\ncd\n")
    texts = Texts((), str(path))
    assert [texts.done for _ in texts] == [7, 10]
    assert texts.total == 10
    assert texts.where(1) == f"{path}, line 2"
    assert Texts(("a", "b"), None).total == 2
    assert Texts(("a", "b"), None).where(1) == "text 2"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_pipe_is_a_file_too(tmp_path: Path) -> None:
    """As with `--file <(command)`: it can be opened once only."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"a\nb\n",))
    writer.start()
    texts = Texts((), str(path))
    assert (texts.total, list(texts)) == (None, [b"a", b"b"])
    writer.join()
