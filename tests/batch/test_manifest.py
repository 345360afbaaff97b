"""The manifest of a folder of vectors: what a killed job leaves, and what is refused to go on behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refembed.batch.manifest import NAME, Manifest
from refembed.batch.parts import Part, Source, find_sources, parts_of
from refembed.errors import RequestError

RUN = {"model": ["abc"], "machine": "x86_64"}


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Two files of 25 lines."""
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text('{"text": "a"}\n' * 25)
    return find_sources([str(tmp_path / "in")])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def parts(sources: list[Source]) -> list[Part]:
    return [part for source in sources for part in parts_of(source, 10)]


def begun(out: Path, sources: list[Source], n: int = 2, run: dict[str, Any] = RUN) -> None:
    """A job that was killed when n parts were done."""
    with Manifest(out, run, sources, resume=False) as manifest:
        for part in parts(sources)[:n]:
            (out / part.name).touch()
            manifest.add(part, 10, 0)


def done(out: Path, sources: list[Source], run: dict[str, Any] = RUN, **options: Any) -> list[str]:
    """What a job that goes on finds done."""
    with Manifest(out, run, sources, resume=True, **options) as manifest:
        return list(manifest.done)


def test_parts_that_are_done_are_there_again(out: Path, sources: list[Source]) -> None:
    begun(out, sources)
    assert done(out, sources) == ["a-00000.jsonl", "a-00001.jsonl"]
    first, *lines = [json.loads(line) for line in (out / NAME).read_text().splitlines()]
    assert first == {"run": RUN}
    assert [(line["part"], line["source"], line["rows"]) for line in lines] == [
        ("a-00000.jsonl", "a.jsonl", 10), ("a-00001.jsonl", "a.jsonl", 10),
    ]  # fmt: skip


def test_any_end_of_the_file_may_be_torn(out: Path, sources: list[Source]) -> None:
    """Cut at every byte: what is whole counts, what is not is done anew, and the file is whole behind it."""
    begun(out, sources)
    content = (out / NAME).read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for n in range(len(content)):
        (out / NAME).write_bytes(content[:n])
        whole = sum(end <= n for end in ends)
        with Manifest(out, RUN, sources, resume=True) as manifest:
            assert len(manifest.done) == max(whole - 1, 0)
            manifest.add(parts(sources)[5], 5, 1)
        lines = [json.loads(line) for line in (out / NAME).read_text().splitlines()]
        assert len(lines) == max(whole, 1) + 1
        assert lines[-1]["failed"] == 1


def test_a_part_whose_file_is_gone_is_not_done(out: Path, sources: list[Source]) -> None:
    begun(out, sources)
    (out / "a-00000.jsonl").unlink()
    assert done(out, sources) == ["a-00001.jsonl"]


def test_what_a_killed_worker_left_is_removed(out: Path, sources: list[Source]) -> None:
    begun(out, sources)
    (out / "b").mkdir()
    for name in (".a-00002.jsonl.x1y2.part", "b/.c-00000.parquet.z.part"):
        (out / name).touch()
    assert done(out, sources)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [NAME, "a-00000.jsonl", "a-00001.jsonl"]


def test_without_resume_an_earlier_run_is_an_error(out: Path, sources: list[Source]) -> None:
    begun(out, sources)
    with pytest.raises(RequestError, match=r"an earlier run has written 2 parts here\n.*--resume goes on"):
        Manifest(out, RUN, sources, resume=False)
    begun(out.with_name("new"), sources, 0)
    begun(out.with_name("new"), sources, 1)  # nothing was done


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_files_is_left_alone(out: Path, sources: list[Source], resume: bool) -> None:
    out.mkdir()
    (out / "thesis.txt").touch()
    with pytest.raises(RequestError, match="there are files in it, and no _manifest"):
        Manifest(out, RUN, sources, resume=resume)
    for content in ("my own notes\n", '{"run": ', '{"run": 1}\n{"part": "a"}\n', '{"run": {}}\nnotes\n'):
        (out / NAME).write_text(content)
        if content != '{"run": ':  # that may be torn
            with pytest.raises(RequestError, match=r"not written by refembed|damaged"):
                Manifest(out, RUN, sources, resume=True)
            assert (out / NAME).read_text() == content


def test_another_run_is_refused_and_says_in_what(out: Path, sources: list[Source]) -> None:
    begun(out, sources)
    with pytest.raises(RequestError, match=r"differs: model: was \['abc'\], is \['def'\]"):
        done(out, sources, RUN | {"model": ["def"]})
    elsewhere = RUN | {"machine": "aarch64"}
    with pytest.raises(RequestError, match="machine: was 'x86_64', is 'aarch64'"):
        done(out, sources, elsewhere)
    assert len(done(out, sources, elsewhere, mixed=True)) == 2
    with pytest.raises(RequestError, match="model: was"):
        done(out, sources, elsewhere | {"model": []}, mixed=True)


def test_a_file_that_is_another_now_is_refused(out: Path, sources: list[Source]) -> None:
    begun(out, sources)
    with pytest.raises(RequestError, match=r"its texts are of a\.jsonl, which is not among the files now"):
        done(out, sources[1:])
    sources[0].path.write_text('{"text": "a cat"}\n')
    now = find_sources([str(sources[0].path.parent)])
    with pytest.raises(RequestError, match=r"a\.jsonl: changed since its texts were embedded"):
        done(out, now)
    for name in ("a-00000.jsonl", "a-00001.jsonl"):
        (out / name).unlink()
    assert done(out, now) == []


def test_a_folder_of_vectors_is_one_of_texts_without_the_manifest(out: Path, sources: list[Source]) -> None:
    begun(out, sources)
    assert [source.name for source in find_sources([str(out)])] == ["a-00000.jsonl", "a-00001.jsonl"]


def test_a_second_job_in_the_same_folder_is_refused(out: Path, sources: list[Source]) -> None:
    with Manifest(out, RUN, sources, resume=False), pytest.raises(RequestError, match="another job is writing"):
        Manifest(out, RUN, sources, resume=True)
    assert done(out, sources) == []


def test_the_output_must_be_a_folder(out: Path, sources: list[Source]) -> None:
    out.touch()
    with pytest.raises(RequestError, match="out: File exists"):
        Manifest(out, RUN, sources, resume=False)
