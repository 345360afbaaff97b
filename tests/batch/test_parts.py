"""Files of rows in parts: which files, which rows of them, and what becomes of a part. Parquet: tests/peers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.batch import EmbedBatch
from refembed.batch.part_files import embed_part
from refembed.batch.parts import find_sources, parts_of
from refembed.embedder import Embedder
from refembed.errors import RequestError, TooLongError
from tests.tiny import WORDS

TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(25)]
LONG = "a " * 99  # 101 tokens; the model reads 64


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(texts: list[Any]) -> list[dict[str, Any]]:
    return [{"id": i, "text": text} for i, text in enumerate(texts)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(*given: str | Path) -> list[str]:
    return [source.name for source in find_sources(list(map(str, given)))]


def embed(file: Path, folder: Path, batch: EmbedBatch, rows: int = 10) -> list[Path]:
    """Every part of a file; the files that they became."""
    (source,) = find_sources([str(file)])
    parts = list(parts_of(source, rows))
    for part in parts:
        embed_part(batch, part, folder, {"by": "a test"})
    return [folder / part.name for part in parts]


def test_sources_are_found_in_folders_by_patterns_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "b/c.JSONL", "b/d.parquet", "_SUCCESS.jsonl", ".x.jsonl", "b/_temporary/e.jsonl", "f.txt"):
        write_lines(tmp_path / name, [])
    assert names(tmp_path) == ["a.jsonl", "b/c.JSONL", "b/d.parquet"]
    assert names(tmp_path / "b") == ["c.JSONL", "d.parquet"]
    assert names(tmp_path / "**" / "*.jsonl") == ["_SUCCESS.jsonl", "a.jsonl", "b/_temporary/e.jsonl"]
    assert names(tmp_path / "b/d.parquet", tmp_path / "a.jsonl") == ["a.jsonl", "b/d.parquet"]
    assert names(tmp_path, tmp_path / "b") == ["a.jsonl", "b/c.JSONL", "b/d.parquet"]
    monkeypatch.chdir(tmp_path)
    assert names(".") == names(tmp_path)
    assert names("b/*.parquet") == ["d.parquet"]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("nosuch", "nosuch: no such file or folder"), ("*.arrow", "no .parquet or .jsonl file matches it"),
        ("empty", "empty: no .parquet or .jsonl file in it"), ("f.txt", "f.txt: neither .parquet nor .jsonl"),
        ("s3://bucket/texts", "s3://bucket/texts: an address"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, match: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "f.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=match):
        find_sources([given])


@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 20, 25])
@pytest.mark.parametrize("last", ["\n", ""])
def test_parts_have_every_line_once(tmp_path: Path, n: int, last: str) -> None:
    """Also where the last line has no end; what a part's offset points at is its first line."""
    file = tmp_path / "a.jsonl"
    lines = [f'{{"text": "Größe {i}"}}'.encode() for i in range(n)]
    file.write_bytes(b"\n".join(lines) + (last.encode() if n else b""))
    (source,) = find_sources([str(file)])
    parts = list(parts_of(source, 10))
    assert [part.name for part in parts] == [f"a-{i:05}.jsonl" for i in range(max(-(-n // 10), 1))]
    assert [i for part in parts for i in range(part.begin, part.end)] == list(range(n))
    assert sum(part.weight for part in parts) == file.stat().st_size
    content = file.read_bytes()
    for part in parts[: n and None]:
        assert content[part.offset :].startswith(lines[part.begin])


def test_a_part_has_the_rows_and_the_bits_of_embed(tiny: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in/a.jsonl", rows_of(TEXTS))
    outs = embed(file, tmp_path / "out", EmbedBatch(tiny))
    assert [out.name for out in outs] == ["a-00000.jsonl", "a-00001.jsonl", "a-00002.jsonl"]
    found = [row for out in outs for row in read(out)]
    assert [(row["id"], row["text"]) for row in found] == list(enumerate(TEXTS))
    assert list(found[0]) == ["id", "text", "embedding"]
    vectors = np.array([row["embedding"] for row in found], np.float32)
    assert np.array_equal(vectors, Embedder.load(tiny).embed(TEXTS))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [out.name for out in outs]


ROWS = [
    '{"text": "a", "n": 1180591620717411303424, "deep": [{"a": null}], "Größe": "東京"}'.encode(),
    b'{"text": "a", "more than a float64": [1e999, -1E+400, 0.10000000000000000000000000000000000001, 1.0e2, -0.0]}',
    rb'{"half a pair": "\ud800", "\u0061": "\/", "text": "b"}',
    b'\t{ "text" :"a" , "x": {} }  \r',
    b'{"text":"b"}',
]  # fmt: skip


def strict(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


def test_other_members_stay_as_they_are_spelled(tiny: Path, tmp_path: Path) -> None:
    """Numbers of any size and digits, nesting, characters, escapes, half a surrogate pair; a mark of UTF-8 goes."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + ROWS[0] + b"\n \n" + b"\n".join(ROWS[1:]))
    (out,) = embed(file, tmp_path / "out", EmbedBatch(tiny))
    wanted = Embedder.load(tiny).embed(["a", "a", "b", "a", "b"])
    for line, row, vector in zip(out.read_bytes().splitlines(), ROWS, wanted, strict=True):
        begun = row.strip()[:-1].rstrip()
        assert line.startswith(begun + b', "embedding": [')
        found = json.loads(line, parse_constant=strict)
        assert np.array_equal(np.array(found.pop("embedding"), np.float32), vector)
        assert found == json.loads(row)


def test_the_reason_stands_behind_the_vector(tiny: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"text": "a"}, {}])
    (out,) = embed(file, tmp_path / "out", EmbedBatch(tiny, on_error="column"))
    first, second = read(out)
    assert list(first) == ["text", "embedding", "embedding_error"]
    assert first["embedding_error"] is None
    assert second == {"embedding": None, "embedding_error": f"{file}: line 2: no text, but None"}


def test_a_member_that_is_there_is_never_written_over(tiny: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "a", "embedding": None, "v_error": 1}])
    there = r"a\.jsonl: line 2: there is a column 'embedding' already\n.*\(--into NAME\), or rows without 'embedding'"
    with pytest.raises(RequestError, match=there):
        embed(file, tmp_path / "out", EmbedBatch(tiny))
    with pytest.raises(RequestError, match="line 2: there is a column 'v_error' already"):
        embed(file, tmp_path / "out", EmbedBatch(tiny, into="v", on_error="column"))
    assert list((tmp_path / "out").iterdir()) == []
    (out,) = embed(file, tmp_path / "out", EmbedBatch(tiny, into="v"))
    assert list(read(out)[1]) == ["text", "embedding", "v_error", "v"]


def test_a_text_that_cannot_be_embedded_is_named_by_its_line(tiny: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", rows_of([*TEXTS[:12], LONG, None]))
    with pytest.raises(TooLongError, match=r"a\.jsonl: line 13: 101 tokens, but the model reads at most 64"):
        embed(file, tmp_path / "out", EmbedBatch(tiny))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-00000.jsonl"]  # the part before it
    _, out = embed(file, tmp_path / "out", EmbedBatch(tiny, on_error="column"))
    found = read(out)
    assert [row["embedding"] is None for row in found] == [False, False, True, True]
    assert [row["embedding_error"] is None for row in found] == [True, True, False, False]
    assert "line 13: 101 tokens" in found[2]["embedding_error"]
    assert "line 14: no text, but None" in found[3]["embedding_error"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2: no JSON object"),
        ('{"text": "a"}\n["a"]\n', "line 2: no JSON object: a list"),
        ('{"id": 1, "body": "a"}\n', r"line 1: there is no 'text'\n.*there are id, body"),
        ("\xff\n", "line 1: no JSON object"), ("[" * 100_000, "line 1: no JSON object: nested too deeply"),
        ('{"text": "a"}\n{"text": "a", "x": NaN}\n', "line 2: no JSON object: NaN is no number of JSON"),
        ('{"text": "a", "x": [-Infinity]}\n', "line 1: no JSON object: -Infinity is no number"),
        ('{"text": "\xed\xa0\x80"}\n', "line 1: no JSON object: 'utf-8' codec can't decode"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named(tiny: Path, tmp_path: Path, content: str, match: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(RequestError, match=match):
        embed(file, tmp_path / "out", EmbedBatch(tiny, on_error="column"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_changes_under_the_job_is_refused(tiny: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", rows_of(TEXTS))
    (source,) = find_sources([str(file)])
    (part,) = parts_of(source, 100)
    os.utime(file, ns=(0, 0))
    with pytest.raises(RequestError, match="changed since the job began"):
        embed_part(EmbedBatch(tiny), part, tmp_path / "out", {})
    file.unlink()
    with pytest.raises(RequestError, match=r"a\.jsonl: No such file"):
        embed_part(EmbedBatch(tiny), part, tmp_path / "out", {})


def test_where_nothing_can_be_written_the_error_says_so(tiny: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", rows_of(TEXTS))
    (tmp_path / "out").touch()
    with pytest.raises(RequestError, match=r"out: (File exists|Not a directory)"):
        embed(file, tmp_path / "out", EmbedBatch(tiny))
