"""Compressed files: they come back whole, NumPy alone reads them, damage is one error, no half file is left."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.cli import run
from refembed.compress import Float32, Matryoshka, fit, read, save
from refembed.compress.file import FORMAT, compress, fingerprint
from refembed.errors import RequestError

X = np.random.default_rng(3).standard_normal((40, 12)).astype(np.float32)
ALL = ("float32", "float16", "int8", "uint8", "int8-global", "int8-vector", "binary", "ubinary", "pq:3", "matryoshka:4")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "x.npz", compress(fit("int8", X), X))


@pytest.mark.parametrize("scheme", ALL)
def test_what_is_saved_is_read_back(scheme: str, tmp_path: Path) -> None:
    codec = fit(scheme, X)
    path = save(tmp_path / "x.npz", compress(codec, X, note="mine"))
    found = read(path)
    assert found.codec.scheme == scheme
    assert found.codes.tobytes() == codec.encode(X).tobytes()
    assert np.array_equal(found.decode(), codec.decode(codec.encode(X)))
    assert found.codec.encode(X).tobytes() == found.codes.tobytes()  # the codec too
    assert (found.meta["note"], found.meta["source_dtype"]) == ("mine", "float32")
    assert (found.meta["count"], found.meta["dimensions"], found.meta["bytes"]) == (40, 12, codec.bytes)
    assert save(tmp_path / "again.npz", compress(codec, X, note="mine")).read_bytes() == path.read_bytes()


def test_numpy_alone_reads_the_file(saved: Path) -> None:
    """By the documented formula: low + (q + 128 + 1/2) (high - low) / 255."""
    f = np.load(saved)
    meta = json.loads(f["meta.json"])
    assert (meta["format"], meta["scheme"]) == (FORMAT, "int8")
    low, high = f["ranges"].astype(np.float64)
    x = low + (f["codes"] + 128.5) * (high - low) / 255
    assert np.abs(x - read(saved).decode()).max() <= 1e-6
    assert np.abs(x - X).max() <= (high - low).max() / 509


def test_the_fingerprint_is_the_documented_hash() -> None:
    expected = hashlib.sha256(b"40x12 " + X.astype("<f4").tobytes()).hexdigest()
    assert fingerprint(X) == fingerprint(np.asfortranarray(X)) == fingerprint(X.astype(np.float64)) == expected
    assert fingerprint(X.reshape(12, 40)) != expected


def test_no_vectors_are_a_file_too(tmp_path: Path) -> None:
    assert read(save(tmp_path / "x.npz", compress(Matryoshka(12, 4), X[:0]))).decode().shape == (0, 12)


def test_every_truncation_and_every_flipped_byte_is_one_error_or_harmless(saved: Path, tmp_path: Path) -> None:
    """Harmless: zip headers that are not read (times, attributes); then the contents are as written."""
    whole, path = saved.read_bytes(), tmp_path / "broken.npz"
    good = read(saved)
    for n in range(0, len(whole), 7):
        path.write_bytes(whole[:n])
        with pytest.raises(RequestError, match=r"broken\.npz: "):
            read(path)
    caught = 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x41]) + whole[i + 1 :])
        try:
            found = read(path)
        except RequestError:
            caught += 1
        else:
            assert found.meta == good.meta
            assert np.array_equal(found.decode(), good.decode())
    assert caught > 0.8 * len(whole)


def changed(source: Path, target: Path, **members: Any) -> Path:
    """The file with some members replaced; None leaves one out."""
    with zipfile.ZipFile(source) as z, zipfile.ZipFile(target, "w") as out:
        for name in z.namelist():
            value = members.get(name.split(".")[0], z.read(name))
            if isinstance(value, np.ndarray):
                with out.open(name, "w") as member:
                    np.lib.format.write_array(member, value, allow_pickle=True)
            elif value is not None:
                out.writestr(name, value)
    return target


def meta(**other: Any) -> bytes:
    """A meta.json with other values."""
    return json.dumps({"format": FORMAT, "scheme": "int8", "dimensions": 12, "count": 40} | other).encode()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"meta": b"{}"}, "not a file of refembed-compress-1"),
        ({"meta": b"[1]"}, "not a file of refembed-compress-1"),
        ({"meta": b"\xff"}, "not compressed vectors, or damaged"),
        ({"meta": None}, "not compressed vectors, or damaged"),
        ({"meta": meta(scheme="matryoshka:4", dimensions=2**31)}, "matryoshka:4 of 2147483648 dimensions"),
        ({"meta": meta(scheme="float32", dimensions=0)}, "float32 of 0 dimensions"),
        ({"meta": meta(dimensions="12")}, "not compressed vectors, or damaged: dimensions '12'"),
        ({"meta": meta(count=None)}, "not compressed vectors, or damaged: dimensions 12, count None"),
        ({"codes": None}, "not compressed vectors, or damaged"),
        ({"ranges": None}, "int8: its array 'ranges' is missing"),
        ({"ranges": np.zeros((2, 5), np.float32)}, "int8 of 12 dimensions, but its arrays are int8 of 5"),
        ({"ranges": np.full((2, 12), np.nan, np.float32)}, "the range of dimension 0 is nan to nan"),
        ({"codes": np.zeros((40, 12), np.uint8)}, "codes of int8 are int8"),
        ({"codes": np.zeros((3, 12), np.int8)}, "3 codes, but it says 40"),
        ({"codes": np.array([{}], object)}, "not compressed vectors, or damaged"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(members: Any, message: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        read(changed(saved, tmp_path / "y.npz", **members))


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        read(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", a=X)
    with pytest.raises(RequestError, match="not compressed vectors"):
        read(tmp_path / "other.npz")


def test_a_write_that_fails_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="disk full"):
        save(saved, compress(Float32(12), X))
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["x.npz"]


@pytest.mark.parametrize(
    "head", [b"{'descr': '<f4", b"{'shape': (1,\n", b"(" * 90, b"{'descr': '<f4', 'x': 0}", b"1 +"]
)
def test_an_array_whose_head_is_no_python_literal_is_refused(head: bytes, saved: Path, tmp_path: Path) -> None:
    """NumPy gives such heads to Python's tokenizer and compiler, whose errors are none of its own."""
    padded = head + b" " * (118 - len(head))
    raw = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded
    (tmp_path / "a.npy").write_bytes(raw)
    assert run(["compress", str(tmp_path / "a.npy"), "--to", "int8", "--out", str(tmp_path / "b.npz")]) == 1
    with zipfile.ZipFile(saved) as z, zipfile.ZipFile(tmp_path / "y.npz", "w") as out:
        for name in z.namelist():
            out.writestr(name, raw if name == "codes.npy" else z.read(name))
    with pytest.raises(RequestError, match="not compressed vectors, or damaged"):
        read(tmp_path / "y.npz")


@pytest.mark.parametrize("scheme", ["float32", "float16", "int8-vector", "matryoshka:4"])
def test_codes_that_are_not_finite_are_not_passed_on(scheme: str, tmp_path: Path) -> None:
    compressed = compress(fit(scheme, X), X)
    codes = compressed.codes.copy()
    (codes["scale"] if codes.dtype.names else codes).flat[3] = np.nan
    save(tmp_path / "a.npz", compressed._replace(codes=codes))
    with pytest.raises(RequestError, match="codes that are not finite"):
        read(tmp_path / "a.npz")
