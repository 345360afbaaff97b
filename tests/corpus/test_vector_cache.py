"""The cache of vectors: a hit has the bits of computing; no crash, damage or neighbor makes it lie."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.corpus import fingerprint
from refembed.corpus import vector_cache as cache_module
from refembed.corpus.fingerprint import describe, differences, digest
from refembed.corpus.vector_cache import Cache, key_of
from refembed.errors import RequestError
from refembed.hub import digests
from refembed.hub.digests import digests_of
from refembed.testing.synthetic_lora import synthetic_lora
from tests.gguf.shards import split

TEXTS = ["hello world", "the cat sat", "", "a dog.", "hello world", "naïve café", b"\xff raw"]
LONG = "hello " * 80  # 82 tokens; the model reads 64


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are cached in a folder of the test's own."""
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def e(tiny: Path) -> Embedder:
    return Embedder.load(tiny, numerics="exact")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.sqlite"


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return bool(a.shape == b.shape and a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes())


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "cls": {"pooling": "cls"},
    "raw": {"normalize": -1},
    "largest magnitude": {"normalize": 0},
    "cut": {"dimensions": 7},
    "each token": {"pooling": "none"},
    "each token, cut": {"pooling": "none", "dimensions": 5, "normalize": -1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("numerics", ["exact", "fast", "ggml"])
def test_a_hit_has_the_bits_of_computing(tiny: Path, path: Path, numerics: str, options: dict[str, Any]) -> None:
    e = Embedder.load(tiny, numerics=numerics)
    computed = e.embed(TEXTS, **options)
    with Cache(path) as cache:
        assert same_bits(cache.embed(e, TEXTS, **options), computed)
        assert (cache.hits, cache.misses) == (0, len(TEXTS))
    with Cache(path) as cache:
        assert same_bits(cache.embed(e, TEXTS, **options), computed)
        assert (cache.hits, cache.misses) == (len(TEXTS), 0)
        assert same_bits(cache.embed(e, "hello world", **options), e.embed("hello world", **options))


def test_a_hit_computes_nothing(e: Embedder, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cache(path) as cache:
        first = cache.embed(e, TEXTS)
        monkeypatch.setattr(e.model.module, "forward", None)
        assert same_bits(cache.embed(e, TEXTS), first)


def test_what_comes_back_is_the_callers_own(e: Embedder, path: Path) -> None:
    with Cache(path) as cache:
        for _ in range(2):
            vector = cache.embed(e, "hello")
            vector[:] = 0
        assert cache.embed(e, ["hello", "hello"]).any()


def test_texts_bytes_and_their_ids_are_one(e: Embedder, path: Path) -> None:
    with Cache(path) as cache:
        cache.embed(e, ["hello world"])
        cache.embed(e, [b"hello world", e.tokenize("hello world")])
        assert (cache.hits, cache.misses) == (2, 1)


def test_no_texts_are_no_vectors(e: Embedder, path: Path) -> None:
    with Cache(path) as cache:
        assert cache.embed(e, []).shape == (0, 32)


def test_embed_iter_gives_what_the_embedder_gives(e: Embedder, path: Path) -> None:
    for _ in range(2):
        with Cache(path) as cache:
            found = list(cache.embed_iter(e, TEXTS, batch_tokens=6, pooling="cls"))
            assert same_bits(found, list(e.embed_iter(TEXTS, pooling="cls")))


def test_too_long_a_text_is_the_same_error_and_a_cut_one_the_same_vector(e: Embedder, path: Path) -> None:
    with Cache(path) as cache:
        for _ in range(2):
            with pytest.raises(RequestError, match="input 1: 82 tokens"):
                cache.embed(e, ["hello", LONG])
            assert same_bits(cache.embed(e, LONG, truncate=True), e.embed(LONG, truncate=True))


# What is in the key


def changed_weight(tiny: Path, tmp_path: Path) -> Path:
    raw = bytearray(tiny.read_bytes())
    raw[-5] ^= 1
    (tmp_path / "changed.gguf").write_bytes(raw)
    return tmp_path / "changed.gguf"


def variants(tiny: Path, tmp_path: Path) -> dict[str, tuple[Embedder, dict[str, Any]]]:
    """Whatever may change a vector's bits."""
    adapter = synthetic_lora(tmp_path / "a.gguf", tiny)
    other = synthetic_lora(tmp_path / "b.gguf", tiny, seed=1)
    load = Embedder.load
    exact = load(tiny, numerics="exact")
    return {
        "the model": (exact, {}),
        "one bit of a weight": (load(changed_weight(tiny, tmp_path), numerics="exact"), {}),
        "an adapter": (load(tiny, numerics="exact", lora=[adapter]), {}),
        "its scale": (load(tiny, numerics="exact", lora=[f"{adapter}:0.5"]), {}),
        "another adapter": (load(tiny, numerics="exact", lora=[other]), {}),
        "two adapters": (load(tiny, numerics="exact", lora=[adapter, other]), {}),
        "the same, added in another order": (load(tiny, numerics="exact", lora=[other, adapter]), {}),
        "fast": (load(tiny, numerics="fast"), {}),
        "ggml": (load(tiny, numerics="ggml"), {}),
        "ggml, no flash attention": (load(tiny, numerics="ggml", flash_attn=False), {}),
        "ggml, no repacking": (load(tiny, numerics="ggml", repack=False), {}),
        "ggml, another build": (load(tiny, numerics="ggml", profile="avx512"), {}),
        "semantics": (load(tiny, numerics="exact", semantics="original"), {}),
        "pooling": (exact, {"pooling": "cls"}),
        "each token": (exact, {"pooling": "none"}),
        "norm": (exact, {"normalize": 1}),
        "dimensions": (exact, {"dimensions": 8}),
    }


def test_every_option_that_may_change_bits_changes_the_key(tiny: Path, tmp_path: Path, path: Path) -> None:
    made = variants(tiny, tmp_path)
    with Cache(path) as cache:
        for name, (e, options) in made.items():
            assert same_bits(cache.embed(e, TEXTS[:3], **options), e.embed(TEXTS[:3], **options)), name
            assert cache.hits == 0, name
        assert cache.info().vectors == 3 * len(made)


def test_the_versions_and_the_processor_are_in_the_key(e: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(describe(e))
    for name, value in (("__version__", "9.9"), ("BITS", 99), ("features", lambda: ["none"])):
        with monkeypatch.context() as m:
            m.setattr(fingerprint, name, value)
            assert digest(describe(e)) != before
    assert digest(describe(e)) == before


def test_two_spellings_of_one_thing_have_one_key(tiny: Path, e: Embedder) -> None:
    assert describe(e) == describe(e, pooling="native") == describe(e, pooling="mean", normalize=2, dimensions=32)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    again = Embedder.load(tiny, numerics="exact", memory_budget=0, lora=[])  # changes no bits
    assert describe(again) == describe(e)


def test_keys_of_neighbors_differ() -> None:
    context = bytes(32)
    ids = [[], [1], [1, 2], [12], [2, 1], [0], [0, 0]]
    assert len({key_of(context, i) for i in ids}) == len(ids)
    assert key_of(context, [1]) != key_of(bytes(31) + b"\1", [1])


def test_every_shard_of_a_split_model_counts(tiny: Path, tmp_path: Path) -> None:
    paths = split(tiny, tmp_path, 3)
    record = describe(Embedder.load(paths[0], numerics="exact"))
    assert len(record["model"]) == 3
    raw = bytearray(paths[2].read_bytes())
    raw[-5] ^= 1
    paths[2].write_bytes(raw)
    assert differences(record, describe(Embedder.load(paths[0], numerics="exact")))[0].startswith("model: was ")


def test_what_depends_on_company_is_refused(tiny: Path, path: Path) -> None:
    with Cache(path) as cache, pytest.raises(RequestError, match="depend on their batch"):
        cache.embed(Embedder.load(tiny, numerics="ggml", n_ubatch=64), ["hello"])


# Hashes of files


def test_a_file_is_hashed_once_and_again_when_it_changes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, read = tmp_path / "m.gguf", []
    model.write_bytes(tiny.read_bytes())
    hash_files = digests.sha256_of
    monkeypatch.setattr(digests, "sha256_of", lambda p: read.extend(p) or hash_files(p))
    monkeypatch.setattr(digests, "SETTLED", -60.0)
    first = digests_of([model])
    assert digests_of([model]) == first
    assert len(read) == 1
    old = model.stat()
    changed = bytearray(model.read_bytes())
    changed[-1] ^= 1
    model.write_bytes(changed)
    os.utime(model, ns=(old.st_atime_ns, old.st_mtime_ns))  # size, inode and mtime are as before
    assert digests_of([model]) != first
    assert len(read) == 2


def test_a_file_that_has_only_just_changed_is_not_cached(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"one")
    digests_of([tmp_path / "m"])
    assert digests.read_notes() == {}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 3}', b"\xff\xfe"])
def test_damaged_notes_are_no_harm(tiny: Path, content: bytes) -> None:
    expected = digests_of([tiny])
    digests.notes_path().parent.mkdir(parents=True, exist_ok=True)
    digests.notes_path().write_bytes(content.replace(b"x", str(tiny.resolve()).encode()))
    assert digests_of([tiny]) == expected


# The limit


def test_the_file_stays_within_its_limit(e: Embedder, path: Path) -> None:
    limit = 400_000
    with Cache(path, limit=limit) as cache:
        for i in range(40):
            cache.embed(e, [[2, 5 + i % 50, 5 + j % 50, 5 + j // 50, 3] for j in range(100)])
        assert cache.info().bytes <= limit
        assert cache.info().vectors > 500
    assert path.stat().st_size <= 1.3 * limit


def test_what_was_used_for_longest_ago_goes_first(e: Embedder, path: Path) -> None:
    texts = [[2, 5 + i, 5 + j, 3] for i in range(40) for j in range(40)]  # 1,600
    with Cache(path) as cache:
        for i in range(0, 1600, 100):
            cache.embed(e, texts[i : i + 100])
        cache.embed(e, texts[:100])  # a hit is a use
        size = cache.info().bytes
    with Cache(path) as cache:
        assert 600 <= cache.prune(size // 2) <= 1400
        cache.embed(e, texts[:100])
        assert cache.hits == 100
        cache.embed(e, texts[100:300])
        assert cache.misses == 200
        assert cache.clear() > 0
        assert cache.info().vectors == 0
    with pytest.raises(RequestError, match="limit of 0 bytes"):
        Cache(path, limit=0)


# Other processes

CHILD = """
import sys
import numpy as np
from refembed import Embedder
from refembed.corpus.vector_cache import Cache
e = Embedder.load(sys.argv[1], numerics="exact")
seed, n = int(sys.argv[3]), int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
with Cache(sys.argv[2], limit=int(sys.argv[5])) as cache:
    rng = np.random.default_rng(seed)
    for _ in range(n):
        texts = [[2, *rng.integers(5, 85, 3).tolist(), 3] for _ in range(8)]
        assert np.array_equal(cache.embed(e, texts), e.embed(texts))
        print("stored", flush=True)
"""


def child(tiny: Path, path: Path, seed: int, n: int, limit: int = 1 << 30) -> subprocess.Popen[bytes]:
    args = [sys.executable, "-c", CHILD, str(tiny), str(path), str(seed), str(n), str(limit)]
    return subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("limit", [1 << 30, 100_000])
def test_processes_write_one_file_at_once(tiny: Path, e: Embedder, path: Path, limit: int) -> None:
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(child(tiny, path, seed, 12, limit)) for seed in (0, 1, 1)]
        for c in children:
            assert c.stdout is not None
            assert c.stdout.readline() == b"ready\n"
        for c in children:  # at once: also the making of the file
            assert c.stdin is not None
            c.stdin.write(b"\n")
            c.stdin.flush()
        for c in children:
            out, err = c.communicate(timeout=60)
            assert (c.returncode, err) == (0, b"")
            assert out.count(b"stored") == 12
    distinct = {tuple(rng.integers(5, 85, 3)) for rng in map(np.random.default_rng, (0, 1)) for _ in range(96)}
    with Cache(path, limit=limit) as cache:
        assert cache.check() == []
        assert cache.info().bytes <= limit
        assert limit < 1 << 30 or cache.info().vectors == len(distinct)


@pytest.mark.parametrize("moment", range(4))
def test_a_cache_made_by_another_process_meanwhile_is_taken_for_a_cache(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Another process makes the file before or after one of the two times its owner is asked for."""
    asked, owner = [0], cache_module.owner

    def make(at: int) -> None:
        if at == moment:
            monkeypatch.undo()
            Cache(path).close()

    def ask(db: sqlite3.Connection) -> int:
        first = 2 * asked[0]
        asked[0] += 1
        make(first)
        answer = owner(db)
        make(first + 1)
        return answer

    monkeypatch.setattr(cache_module, "owner", ask)
    with Cache(path) as cache:
        assert cache.check() == []
    assert cache_module.owner is owner


@pytest.mark.limit(300)
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_process_leaves_a_sound_file(tiny: Path, e: Embedder, path: Path, seed: int) -> None:
    c = child(tiny, path, seed, 100_000, 300_000)
    assert c.stdout is not None
    assert c.stdin is not None
    c.stdout.readline()
    c.stdin.write(b"\n")
    c.stdin.flush()
    c.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.15))
    c.kill()
    out, _ = c.communicate(timeout=60)
    assert c.returncode == -signal.SIGKILL
    rng = np.random.default_rng(seed)
    texts = [[2, *rng.integers(5, 85, 3).tolist(), 3] for _ in range(8 * (1 + out.count(b"stored")))]
    with Cache(path) as cache:
        assert cache.check() == []
        assert same_bits(cache.embed(e, texts[-8:]), e.embed(texts[-8:]))
        assert cache.hits == 8  # what was said to be stored is there


# Damage


@pytest.mark.parametrize("content", [b"my notes\n" * 300, b"\0" * 5000, b"SQLite format 3\0" + b"x" * 200])
def test_a_file_of_another_program_is_refused_and_stays(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"not a cache of refembed|damaged"):
        Cache(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_stays(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE vectors (mine)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(RequestError, match="a database, but not a cache of refembed"):
        Cache(path)
    assert path.read_bytes() == before


def test_a_cache_of_a_later_version_is_refused(path: Path) -> None:
    Cache(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(RequestError, match="version 7, not 1"):
        Cache(path)


def test_a_damaged_vector_is_noticed_and_computed_anew(e: Embedder, path: Path) -> None:
    expected = e.embed(TEXTS)
    with Cache(path) as cache:
        cache.embed(e, TEXTS)
    for change in ("zeroblob(128)", "substr(vector, 5)", "vector || x'00000000'", "7"):
        db = sqlite3.connect(path)
        db.execute(f"UPDATE vectors SET vector = {change}")
        db.commit()
        db.close()
        with Cache(path) as cache:
            with pytest.warns(UserWarning, match="a damaged vector; it is computed anew"):
                assert same_bits(cache.embed(e, TEXTS), expected)
            assert same_bits(cache.embed(e, TEXTS), expected)
            assert cache.hits == len(TEXTS)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_never_gives_a_wrong_vector(e: Embedder, path: Path, seed: int) -> None:
    texts = [[2, 5 + i, 5 + j, 3] for i in range(30) for j in range(10)]
    expected = e.embed(texts)
    with Cache(path) as cache:
        cache.embed(e, texts)
    raw, rng = bytearray(path.read_bytes()), random.Random(seed)
    if seed % 3 == 2:
        del raw[rng.randrange(100, len(raw)) :]
    else:  # of the second kind, where the names of tables are
        for _ in range(200):
            raw[rng.randrange(100, 16384 if seed % 3 else len(raw))] = rng.randrange(256)
    path.write_bytes(raw)
    said, refused = [], ""
    try:
        with Cache(path, say=said.append) as cache:
            assert same_bits(cache.embed(e, texts), expected)
    except RequestError as problem:
        refused = str(problem)
    assert not refused or ("damaged" in refused and "hint: delete it" in refused)


def test_a_vector_that_is_not_finite_is_computed_anew(e: Embedder, path: Path) -> None:
    """Its checksum is right: it was stored by something broken."""
    record = describe(e)
    key = key_of(digest(record), e.ids_of("hello", 0, False))
    with Cache(path) as cache:
        cache.store({key: np.full(e.info.n_embd, np.nan, np.float32)})
        with pytest.warns(UserWarning, match="a damaged vector; it is computed anew"):
            assert np.array_equal(cache.embed(e, "hello"), e.embed("hello"))


def test_closing_does_not_wait_for_another_process(e: Embedder, path: Path) -> None:
    """Only the order of removal is at stake."""
    with Cache(path) as cache:
        cache.embed(e, "hello")
    other = sqlite3.connect(path, isolation_level=None)
    cache = Cache(path)
    cache.embed(e, "hello")
    other.execute("BEGIN IMMEDIATE")
    begin = time.monotonic()
    cache.close()
    assert time.monotonic() - begin < 5
    other.execute("ROLLBACK")
    other.close()


def test_a_full_disk_is_a_warning_and_the_vectors_come(e: Embedder, path: Path) -> None:
    texts = [[2, 5 + i, 5 + j, 3] for i in range(40) for j in range(40)]
    said: list[str] = []
    with Cache(path, say=said.append) as cache:
        cache.embed(e, texts[:10])
        cache.db.execute("PRAGMA max_page_count = 8")  # SQLite answers as on a full disk
        assert same_bits(cache.embed(e, texts), e.embed(texts))
        assert len(said) == 1
        assert "database or disk is full; going on without storing" in said[0]
        assert same_bits(cache.embed(e, texts[:10]), e.embed(texts[:10]))
    with Cache(path) as cache:
        assert cache.check() == []
        cache.embed(e, texts[:10])
        assert cache.hits == 10


def test_a_place_that_cannot_be_had_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "vectors.sqlite"):
        with pytest.raises(RequestError, match="cache"):
            Cache(path)


def test_a_closed_cache_and_another_threads_are_not_called_damaged(e: Embedder, tmp_path: Path) -> None:
    """A user who reads that a file is damaged deletes it."""
    with Cache(tmp_path / "v.sqlite") as cache:
        cache.embed(e, "hello")
        with ThreadPoolExecutor(1) as other, pytest.raises(RequestError, match="same thread") as thread:
            other.submit(cache.embed, e, "hello").result()
    with pytest.raises(RequestError, match="closed") as closed:
        cache.embed(e, "hello")
    for error in (thread, closed):
        assert "damaged" not in str(error.value)
        assert "delete" not in str(error.value)
