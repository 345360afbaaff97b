"""open_gguf: what is a GGUF file, what is not, and what is said about it."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest

from refembed.errors import GGUFError
from refembed.gguf import GGUFFile, open_gguf
from tests.gguf import files
from tests.gguf.files import F32, I8, Q8_0, SCALARS, TEXT, TOKENS, head, keys, tensors


def refused(path):
    """The first line of the one error that opening raises, without the path."""
    with pytest.raises(GGUFError) as e:
        open_gguf(path)
    message = str(e.value)
    assert message.startswith(f"{path}: reading ")
    assert "\n  hint: " in message
    assert e.value.hint
    return message.removeprefix(f"{path}: ")


# What is not a GGUF file


def test_no_such_file(tmp_path):
    assert refused(tmp_path / "none.gguf").startswith("reading magic at byte 0x0: no such file")


def test_a_folder(tmp_path):
    assert refused(tmp_path).startswith("reading magic at byte 0x0: a directory")


def test_a_path_through_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"GGUF")
    assert refused(tmp_path / "file" / "x.gguf").startswith("reading magic at byte 0x0: cannot be mapped: ")


def test_a_path_no_system_can_have():
    with pytest.raises(GGUFError, match="reading magic at byte 0x0: cannot be mapped"):
        open_gguf("a\0b.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").startswith("reading magic at byte 0x0: a pipe or device")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Unix sockets are POSIX")
def test_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("s")
        assert refused(Path("s")).startswith("reading magic at byte 0x0: a pipe or device")


def test_no_permission(tmp_path, monkeypatch):
    """Root may read everything, so the refusal is played."""
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert refused(path).startswith("reading magic at byte 0x0: no permission to read it")


def torch_zip(path):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", b"")


OTHER_FILES = {
    "empty": (b"", "an empty file"),
    "short": (b"GG", "needs 4 bytes, 2 left"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", r"b'\x02\x00\x00\x00', not b'GGUF': a safetensors file"),
    "pickle": (pickle.dumps({}, 2), r"b'\x80\x02}q', not b'GGUF': a Python pickle"),
    "ggml": (struct.pack("<I", 0x67676D6C), "b'lmgg', not b'GGUF': the ggml format of early 2023"),
    "ggmf": (struct.pack("<I", 0x67676D66), "b'fmgg', not b'GGUF': the ggmf format of early 2023"),
    "ggjt": (struct.pack("<I", 0x67676A74), "b'tjgg', not b'GGUF': the ggjt format of early 2023"),
    "reversed": (b"FUGG", "b'FUGG', not b'GGUF': a GGUF magic in reverse"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "b'vers', not b'GGUF': a Git LFS pointer"),
    "html": (b"<!DOCTYPE html><html>", "b'<!DO', not b'GGUF': markup"),
    "gzip": (b"\x1f\x8b\x08\x00", r"b'\x1f\x8b\x08\x00', not b'GGUF': gzip"),
    "zeros": (bytes(64), r"b'\x00\x00\x00\x00', not b'GGUF'"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_recognized(tmp_path, name):
    data, found = OTHER_FILES[name]
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    assert refused(path).startswith(f"reading magic at byte 0x0: {found}")


def test_a_pytorch_checkpoint_is_recognized(tmp_path):
    torch_zip(tmp_path / "model.pt")
    assert refused(tmp_path / "model.pt").startswith(r"reading magic at byte 0x0: b'PK\x03\x04', not b'GGUF': a zip")


@pytest.mark.parametrize(
    ("word", "found"),
    [(0, 0), (1, 1), (4, 4), (0x300, 0x300), (0x10003, 0x10003), (1 << 24, 1), (4 << 24, 4), (2**32 - 1, 2**32 - 1)],
)
def test_versions_other_than_2_and_3(tmp_path, word, found):
    """Version 1 in either byte order is version 1, not a damaged 2^24."""
    path = tmp_path / "x.gguf"
    path.write_bytes(bytes(head(0, 0, word).data))
    message = refused(path)
    assert message.startswith(f"reading version at byte 0x4: {found}, not 2 or 3")
    assert ("convert the original model again" in message) == (found < 2)


# What is malformed; metadata has its own list in test_metadata.py

BIG = 2**62
X = (b"x", [8], F32, 0)


def y(offset):
    """X, and behind it a second tensor that claims this offset."""
    return X, (b"y", [8], F32, offset)


# name -> file, what was being read, the byte, how the finding begins
MALFORMED = {
    "tensor count": (bytes(head(BIG, 0).data), "number of tensors", 0x8, "4,611,686,018,427,387,904, of 24 bytes each"),
    "tensor count, sign": (
        bytes(head(2**64 - 1, 0).data),
        "number of tensors",
        0x8,
        "18,446,744,073,709,551,615, of 24",
    ),
    "key count": (bytes(head(0, BIG).data), "number of keys", 0x10, "4,611,686,018,427,387,904, of 13 bytes each"),
    "too many keys": (bytes(head(0, 65_537).data) + bytes(900_000), "number of keys", 0x10, "65,537; refembed takes"),
    "too many tensors": (bytes(head(65_537, 0).data) + bytes(1_600_000), "number of tensors", 0x8, "65,537; refembed"),
    "name twice": (tensors(X, X), "name of tensor 1 of 2", 0x39, "x for the second time"),
    "long name": (tensors((b"n" * 64, [8], F32, 0)), "name of tensor 0 of 1", 0x18, "a name of 64 bytes; at most 63"),
    "name of other bytes": (tensors((b"\xff", [8], F32, 0)), "name of tensor 0 of 1", 0x20, r"b'\xff' is not UTF-8"),
    "5 dimensions": (tensors((b"x", [1] * 5, F32, 0)), "number of dimensions of tensor x", 0x21, "5; at most 4"),
    "negative": (tensors((b"x", [-1], F32, 0)), "dimensions of tensor x", 0x25, "[18446744073709551615]: more numbers"),
    "2^63": (tensors((b"x", [2**32, 2**31], I8, 0)), "dimensions of tensor x", 0x25, "[4294967296, 2147483648]: more"),
    "2^64 x 0": (tensors((b"x", [BIG, 4, 0], I8, 0)), "dimensions of tensor x", 0x25, f"[{BIG}, 4, 0]: more numbers"),
    "0 x 2^62": (tensors((b"x", [0, BIG], F32, 0)), "dimensions of tensor x", 0x25, f"[0, {BIG}]: no numbers, yet"),
    "half a block": (
        tensors((b"x", [48], Q8_0, 0)),
        "type of tensor x",
        0x2D,
        "rows of 48, not a multiple of the 32 weights",
    ),
    "one in a block": (
        tensors((b"x", [], Q8_0, 0)),
        "type of tensor x",
        0x25,
        "rows of 1, not a multiple of the 32 weights",
    ),
    "removed type": (tensors((b"x", [32], 4, 0)), "type of tensor x", 0x2D, "4 (Q4_2, removed)"),
    "interleaved type": (tensors((b"x", [32], 31, 0)), "type of tensor x", 0x2D, "31 (Q4_0_4_4, removed)"),
    "unknown type": (
        tensors((b"x", [32], 43, 0)),
        "type of tensor x",
        0x2D,
        "43, not one of 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, ",
    ),
    "not aligned": (tensors(*y(33)), "offset of tensor y", 0x52, "33, where the tensors before it end at 32"),
    "gap": (tensors(*y(64)), "offset of tensor y", 0x52, "64, where the tensors before it end at 32"),
    "overlap": (tensors(*y(0)), "offset of tensor y", 0x52, "0, where the tensors before it end at 32"),
    "first not at 0": (
        tensors((b"x", [8], F32, 32)),
        "offset of tensor x",
        0x31,
        "32, where the tensors before it end at 0",
    ),
    "offset of 2^64": (
        tensors((b"x", [8], F32, 2**64 - 32)),
        "offset of tensor x",
        0x31,
        "18,446,744,073,709,551,584, ",
    ),
    "alignment": (
        tensors(*y(32), alignment=64),
        "offset of tensor y",
        0x73,
        "32, where the tensors before it end at 64",
    ),
    "no data": (
        tensors(X, data=b""),
        "data of tensor x",
        0x40,
        "needs 32 bytes, 0 left: its data is not within the file",
    ),
    "a byte short": (tensors(X, data=bytes(31)), "data of tensor x", 0x40, "needs 32 bytes, 31 left: its data is not"),
    "huge data": (tensors((b"x", [BIG], I8, 0)), "data of tensor x", 0x40, f"needs {BIG:,} bytes, 4,096 left"),
    "no padding": (
        tensors((b"x", [0], F32, 0), data=b"")[:-1],
        "padding before the data",
        0x39,
        "needs 7 bytes, 6 left",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_one_error_that_says_where(tmp_path, name):
    data, what, at, found = MALFORMED[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    assert refused(path).startswith(f"reading {what} at byte {at:#x}: {found}")


# What is a GGUF file


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_a_file_opens_in_either_version_and_byte_order(tmp_path, order, version):
    data, _ = files.sample(order, version)
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with open_gguf(path) as f:
        assert isinstance(f, GGUFFile)
        assert f.path == path
        assert (f.version, f.byteorder, f.alignment, f.size, f.trailing) == (version, order, 64, len(data), 0)
        assert f.data_offset % 64 == 0
        assert list(f.tensors) == ["x", "blk.0.q.weight", "s"]
        x, q, s = f.tensors.values()
        assert (x.name, x.shape, x.type.name, x.offset, x.nbytes) == ("x", (2, 3), "F32", f.data_offset, 24)
        assert (q.shape, q.type.name, q.offset, q.nbytes) == ((2, 32), "Q8_0", f.data_offset + 64, 68)
        assert (s.shape, s.type.name, s.offset, s.nbytes) == ((), "F16", f.data_offset + 192, 2)
        assert x.raw.view(order + "f4").tolist() == [0, 1, 2, 3, 4, 5]
        assert q.raw.tolist() == list(range(68))
        assert s.raw.view(order + "f2")[0] == 1.5
        for t in (x, q, s):
            assert t.byteorder == order
            assert data[t.offset : t.offset + t.nbytes] == t.raw.tobytes()
            assert not t.raw.flags.writeable
            assert not t.raw.flags.owndata


def test_bytes_behind_the_tensors_are_accepted_and_counted(tmp_path):
    """As llama.cpp and gguf-py do."""
    path = tmp_path / "x.gguf"
    for extra in (0, 1, 1000):
        path.write_bytes(tensors(X, data=bytes(32 + extra)))
        assert open_gguf(path).trailing == extra


def test_the_last_padding_may_be_missing(tmp_path):
    """llama.cpp asks for the bytes of each tensor, not for what follows the last."""
    path = tmp_path / "x.gguf"
    path.write_bytes(tensors((b"x", [3], F32, 0), data=bytes(12)))
    f = open_gguf(path)
    assert f.tensors["x"].nbytes == 12
    assert f.trailing == 0


def test_an_empty_tensor_behind_a_missing_padding_is_outside_the_file(tmp_path):
    """llama_model_loader looks at where a tensor begins, even if nothing is there."""
    path = tmp_path / "x.gguf"
    path.write_bytes(tensors((b"x", [3], F32, 0), (b"none", [0], F32, 32), data=bytes(12)))
    assert refused(path).startswith("reading data of tensor none at byte 0x80: needs 0 bytes, 0 left: its data is not")


def test_empty_tensors_lie_between_others(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(tensors(X, (b"none", [32, 0], Q8_0, 32), (b"y", [8], F32, 32), data=bytes(64)))
    f = open_gguf(path)
    assert (f.tensors["none"].shape, f.tensors["none"].nbytes) == ((0, 32), 0)
    assert f.tensors["y"].offset == f.tensors["x"].offset + 32


def test_a_file_of_nothing_is_a_file(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(keys())
    f = open_gguf(path)
    assert (len(f.metadata), len(f.tensors), f.size) == (0, 0, 24)


def test_an_absent_tensor_is_an_error_that_names_the_nearest(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(files.sample()[0])
    f = open_gguf(path)
    assert f.tensors.get("blk.0.q") is None
    assert "blk.0.q" not in f.tensors
    with pytest.raises(
        GGUFError,
        match=r"reading tensor blk.0.q at byte 0x\w+: no such name among 3\n  hint: did you mean blk.0.q.weight",
    ):
        f.tensors["blk.0.q"]


def test_tensors_cannot_be_replaced(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(files.sample()[0])
    with pytest.raises(TypeError):
        open_gguf(path).tensors["x"] = None
    with pytest.raises(ValueError, match="read-only"):
        open_gguf(path).tensors["x"].raw[0] = 1


def test_a_closed_file_says_so_and_what_was_taken_from_it_stays(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(files.sample()[0])
    with open_gguf(path) as f:
        x, m = f.tensors["x"], f.metadata
    for attribute in ("metadata", "tensors"):
        with pytest.raises(GGUFError, match=r"x.gguf: reading at byte 0x0: the file is closed\n  hint: open it again"):
            getattr(f, attribute)
    f.close()
    path.unlink()
    assert x.raw.view("<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert m["a.string"] == TEXT.decode()
    assert m.strings("tokenizer.ggml.tokens").to_bytes() == TOKENS


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="counts mappings in Linux's /proc")
def test_the_mapping_goes_with_the_last_user(tmp_path):
    path = tmp_path / "gone.gguf"
    path.write_bytes(files.sample()[0])

    def mapped():
        return "gone.gguf" in Path("/proc/self/maps").read_text()

    with open_gguf(path) as f:
        assert mapped()
        x = f.tensors["x"]
    assert mapped()
    del x
    assert not mapped()


def test_the_same_file_opens_twice(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(files.sample()[0])
    with open_gguf(path) as f, open_gguf(str(path)) as g:
        assert f.metadata["a.string"] == g.metadata["a.string"]
    assert repr(f) == f"<GGUFFile {path}, version 3, {f.size:,} bytes>"


# The same file through gguf-py


DTYPES = {"F32": "f4", "F16": "f2", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}


def by_gguf_py(path, endian):
    """A file written by gguf-py, and what went into it: values, arrays."""
    w = gguf.GGUFWriter(path, "bert", endianess=endian)
    values = {name.decode(): bool(v) if type == files.BOOL else v for name, type, _, v in SCALARS}
    for name, type, _, _ in SCALARS:
        key, type = name.decode(), gguf.GGUFValueType(type)
        w.add_key_value(key, values[key], type)
        w.add_key_value(key + "s", [values[key]] * 2, gguf.GGUFValueType.ARRAY, type)
    w.add_string("text", TEXT.decode())
    w.add_array("words", ["a", "é", "🦙"])
    rng = np.random.default_rng(0)
    arrays = {type: (rng.standard_normal((4, 3)) * 100).astype(dtype) for type, dtype in DTYPES.items()}
    for name, array in arrays.items():
        w.add_tensor(name, array)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return values, arrays


@pytest.mark.parametrize("endian", list(gguf.GGUFEndian))
def test_what_gguf_py_writes_reads_back_the_same(tmp_path, endian):
    path = tmp_path / "x.gguf"
    values, arrays = by_gguf_py(path, endian)
    f = open_gguf(path)
    assert f.byteorder == (">" if endian is gguf.GGUFEndian.BIG else "<")
    assert f.metadata["general.architecture"] == "bert"
    for key, value in values.items():
        assert f.metadata[key] == value
        assert f.metadata[key + "s"].tolist() == [value, value]
    assert f.metadata["text"] == TEXT.decode()
    assert f.metadata["words"] == ["a", "é", "🦙"]
    assert list(f.tensors) == list(arrays)
    for name, array in arrays.items():
        t = f.tensors[name]
        assert t.type.name == name
        assert t.shape == array.shape
        stored = t.raw.view(t.type.block["x"].newbyteorder(f.byteorder)).reshape(t.shape)
        np.testing.assert_array_equal(stored, array)
    assert f.trailing == 0


def test_gguf_py_sees_the_same_in_every_type_of_tensor(tmp_path):
    """Names, types, offsets, shapes and bytes of a file that holds every type gguf-py quantizes to."""
    path = tmp_path / "x.gguf"
    w = gguf.GGUFWriter(path, "bert")
    x = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    for type in gguf.GGMLQuantizationType:
        try:
            blocks = gguf.quantize(x, type)
        except NotImplementedError:
            continue
        w.add_tensor(type.name, blocks, raw_dtype=type)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    f, theirs = open_gguf(path), gguf.GGUFReader(path)
    assert len(theirs.tensors) >= 10
    assert list(f.tensors) == [t.name for t in theirs.tensors]
    for t in theirs.tensors:
        ours = f.tensors[t.name]
        assert ours.type.id == t.tensor_type.value
        assert ours.shape == tuple(t.shape[::-1].tolist()) == (4, 256)
        assert (ours.offset, ours.nbytes) == (t.data_offset, t.n_bytes)
        assert ours.raw.tobytes() == t.data.tobytes()
