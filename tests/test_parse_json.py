"""refembed/parse_json.py and its callers: JSON of any kind ends in one error or none, never in a traceback."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.compress import fit, save
from refembed.compress import read as read_compressed
from refembed.compress.file import FORMAT, compress
from refembed.corpus.journal import MAGIC, Journal, framed
from refembed.errors import RefembedError
from refembed.hub import digests
from refembed.hub.cache import is_cached, note_path
from refembed.hub.prompts import read_config
from refembed.model.trace import Trace, TracedTensor
from refembed.parse_json import parse_json, parse_object
from refembed.verify.engines.http_client import error_message, parsed
from refembed.verify.engines.recorded import about_of, from_json, from_jsonl

ODD: tuple[Any, ...] = (None, True, -1, 2**64, 1.5, float("nan"), "", "\ud800", [], [[]], {}, {"": []}, [None])

NOTED = "0" * 64
SHA256_OF_X = hashlib.sha256(b"x").hexdigest()


def variants(value: Any) -> Iterator[Any]:
    """The value with any part of it replaced by each of ODD, and with any key left out."""
    yield from ODD
    if isinstance(value, dict):
        for key, part in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: odd} for odd in variants(part))
    if isinstance(value, list):
        for i, part in enumerate(value):
            yield from ([*value[:i], odd, *value[i + 1 :]] for odd in variants(part))


def texts(value: Any) -> Iterator[bytes]:
    """JSON of every variant, and what is no JSON."""
    yield from (json.dumps(v).encode() for v in variants(value))
    yield from (b"", b"\xff", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"NaN", b'{"a": 1, "a": []}')


def read_note(content: bytes, folder: Path) -> None:
    path = folder / "model.gguf"
    path.write_bytes(b"x")
    note_path(path).write_bytes(content)
    is_cached(path, ["a"])


def read_prompts(content: bytes, folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    path.write_bytes(content)
    found = read_config(path)
    assert found is None or all(isinstance(text, str) for text in found.prompts.values())


def read_journal(content: bytes, folder: Path) -> None:
    path = folder / "run.journal"
    path.write_bytes(MAGIC + framed(content) + framed(b"\0" * 12))
    with Journal(path, {"model": "m", "texts": 2}, 1, resume=True):
        pass


def archived(path: Path, content: bytes) -> Path:
    """The archive with another meta.json."""
    other = path.with_name("other.npz")
    with zipfile.ZipFile(path) as z, zipfile.ZipFile(other, "w") as out:
        for name in z.namelist():
            out.writestr(name, content if name == "meta.json" else z.read(name))
    return other


def read_trace(content: bytes, folder: Path) -> None:
    Trace([TracedTensor("a", np.zeros(2))], {}).save(folder / "run.npz")
    Trace.load(archived(folder / "run.npz", content))


def read_codes(content: bytes, folder: Path) -> None:
    x = np.eye(3, dtype=np.float32)
    save(folder / "codes.npz", compress(fit("int8", x), x))
    read_compressed(archived(folder / "codes.npz", content))


def read_hashes(content: bytes, folder: Path) -> None:
    path = folder / "m.gguf"
    if not path.exists():
        path.write_bytes(b"x")
    names = {b'"m.gguf"': str(path.resolve()), b"[1, 2, 3, 4, 5]": digests.identity_of(path)}
    for name, value in names.items():
        content = content.replace(name, json.dumps(value).encode())
    (folder / "sha256.json").write_bytes(content)
    assert digests.digests_of([path]) in ([SHA256_OF_X], [NOTED])


READERS: dict[str, tuple[Callable[[bytes, Path], Any], Any]] = {
    "prompts": (read_prompts, {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query"}),
    "note of a cached file": (read_note, {"size": 1, "mtime_ns": 5, "sha256": "00", "made_of": ["a"]}),
    "hashes of files": (read_hashes, {"m.gguf": [[1, 2, 3, 4, 5], NOTED]}),
    "journal": (read_journal, {"model": "m", "texts": 2}),
    "trace": (read_trace, {"format": "refembed-trace-1", "ops": ["ADD"], "meta": {"text": "a", "tokens": [1]}}),
    "codes": (read_codes, {"format": FORMAT, "scheme": "int8", "dimensions": 3, "count": 3}),
    "vectors": (lambda content, folder: from_json(content.decode(errors="replace"), folder),
                [{"text": "a", "embedding": [1.0, 2.0]}]),
    "lines of vectors": (lambda content, folder: from_jsonl(content.decode(errors="replace"), folder),
                         {"text": "a", "embedding": [1.0, 2.0]}),
    "notes of an array": (lambda content, _: about_of(content.decode(errors="replace")), {"a": 1}),
    "answer": (lambda content, _: parsed("http://localhost", "application/json", content), {"data": []}),
    "error": (lambda content, _: error_message("application/json", content), {"error": {"message": "no"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_reader_ends_in_one_error_or_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, sound = READERS[name]
    monkeypatch.setattr(digests, "notes_path", lambda: tmp_path / "sha256.json")
    errors = []
    for content in texts(sound):
        try:
            read(content, tmp_path)
        except RefembedError as e:
            errors.append(str(e))
    assert all(len(error) < 2000 for error in errors)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"{", b"", "1" * 5000])
def test_what_is_no_json_is_a_value_error(data: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|decode|Expecting|digits"):
        parse_json(data)


def test_another_value_is_no_object() -> None:
    with pytest.raises(ValueError, match="a list, where a JSON object belongs"):
        parse_object(b"[]")
