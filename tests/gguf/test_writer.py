"""GGUFWriter: what it writes is read back by gguf-py, by llama.cpp and by refembed; what it cannot write it refuses."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import RequestError
from refembed.gguf import BY_ID, BY_NAME, QUANT_TYPES, GGUFWriter, open_gguf
from tests.gguf import files, llamacpp

INTEGERS = {
    f"{'U' if u else ''}INT{n}": (0 if u else -(2 ** (n - 1)), 2 ** (n - 1 + u) - 1)
    for n in (8, 16, 32, 64)
    for u in (1, 0)
}
ITEMS = {
    **{name: st.integers(low, high) for name, (low, high) in INTEGERS.items()},
    "FLOAT32": st.floats(width=32),
    "FLOAT64": st.floats(),
    "BOOL": st.booleans(),
    "STRING": st.text(max_size=10),
}
SCALARS = st.sampled_from(list(ITEMS)).flatmap(lambda t: st.tuples(st.just(t), ITEMS[t]))
ARRAYS = st.sampled_from(list(ITEMS)).flatmap(
    lambda t: st.tuples(st.just(f"ARRAY[{t}]"), st.lists(ITEMS[t], max_size=5))
)
FIELDS = st.dictionaries(st.text(min_size=1, max_size=10), SCALARS | ARRAYS, max_size=6)
WRITERS = {
    "version": st.sampled_from([2, 3]),
    "byteorder": st.sampled_from("<>"),
    "alignment": st.sampled_from([1, 8, 32, 64]),
}


def same(a, b):
    """Equal, where NaN equals NaN."""
    return a == b or (a != a and b != b)


def by_gguf_py(path):
    """key -> value, as gguf-py reads the file. It knows no empty arrays: those are []."""
    fields = gguf.GGUFReader(path).fields
    return {k: f.contents() for k, f in fields.items() if not k.startswith("GGUF.")}


# Hypothesis calls these many times a test: one folder a module is enough.
@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("writer") / "x.gguf"


@given(FIELDS, st.fixed_dictionaries(WRITERS))
def test_metadata_reads_back_the_same_in_gguf_py_and_refembed(path, fields, options):
    w = GGUFWriter(None, **options)
    for key, (type, value) in fields.items():
        w.add(key, value, type)
    w.write(path)
    f, theirs = open_gguf(path), by_gguf_py(path)
    assert {"version": f.version, "byteorder": f.byteorder, "alignment": f.alignment} == options
    expected = {
        **({} if options["alignment"] == 32 else {"general.alignment": ("UINT32", options["alignment"])}),
        **fields,
    }
    assert list(f.metadata) == list(expected)
    for key, (type, value) in expected.items():
        assert f.metadata.type_name(key) == type
        ours = f.metadata[key]
        if type.startswith("ARRAY"):
            assert len(ours) == len(theirs[key]) == len(value)
            assert all(map(same, ours, value))
            assert all(map(same, theirs[key], value))
        else:
            assert same(ours, value)
            assert same(theirs[key], value)


SHAPES = st.lists(st.integers(0, 3), max_size=3)


@given(
    st.lists(st.tuples(st.sampled_from(QUANT_TYPES), SHAPES, st.integers(0, 2)), max_size=4),
    st.fixed_dictionaries(WRITERS),
)
def test_tensors_of_every_type_and_shape_read_back_byte_for_byte(path, specs, options):
    w = GGUFWriter("bert", **options)
    raws, shapes = [], []
    for i, (type, outer, blocks) in enumerate(specs):
        shape = (*outer, blocks * type.weights)
        raws.append(os.urandom(int(np.prod(shape)) // type.weights * type.nbytes))
        shapes.append(shape)
        w.add_tensor(f"t{i}", raws[-1], shape, type.name)
    w.write(path)
    f = open_gguf(path)
    assert [t.raw.tobytes() for t in f.tensors.values()] == raws
    assert [t.shape for t in f.tensors.values()] == shapes
    assert [t.type for t in f.tensors.values()] == [type for type, _, _ in specs]
    assert all((t.offset - f.data_offset) % options["alignment"] == 0 for t in f.tensors.values())
    assert f.trailing == 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_gguf_py_reads_the_tensors(path, order):
    """Every type gguf-py knows, but the two that hold activations (it has the wrong size for one of them)."""
    w = GGUFWriter("bert", byteorder=order)
    types = [t for t in gguf.GGMLQuantizationType if t.name not in ("Q8_1", "Q8_K")]
    raws = {}
    for t in types:
        weights, nbytes = gguf.GGML_QUANT_SIZES[t]
        raws[t.name] = os.urandom(6 * nbytes)
        w.add_tensor(t.name, raws[t.name], (3, 2 * weights), t.name)
    w.write(path)
    found = gguf.GGUFReader(path).tensors
    assert [t.name for t in found] == list(raws)
    for t in found:
        assert t.tensor_type.name == t.name
        assert t.shape.tolist() == [2 * BY_NAME[t.name].weights, 3]
        assert t.data.tobytes() == raws[t.name]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("type", ["F32", "F16", "F64", "I8", "I16", "I32", "I64"])
def test_arrays_of_values_are_stored_in_the_files_byte_order(path, order, type):
    """gguf-py reads the same numbers, whatever order, strides and shape the array came in."""
    own = BY_NAME[type].block["x"]
    x = (np.random.default_rng(0).standard_normal((4, 6)) * 100).astype(own)
    w = GGUFWriter("bert", byteorder=order)
    for name, given_as in (("plain", x), ("other order", x.astype(own.newbyteorder(">"))), ("flat", x.ravel())):
        w.add_tensor(name, given_as, x.shape, type)
    w.add_tensor("transposed", x.T.copy().T, x.shape, type)
    w.write(path)
    for t in gguf.GGUFReader(path).tensors:
        np.testing.assert_array_equal(t.data, x)


def test_blocks_given_as_fields_are_stored_as_fields(path):
    type = BY_NAME["Q4_1"]
    blocks = np.frombuffer(os.urandom(4 * type.nbytes), type.block)
    for order in "<>":
        w = GGUFWriter("bert", byteorder=order)
        w.add_tensor("x", blocks, (2, 64), "Q4_1")
        raw = open_gguf(w.write(path)).tensors["x"].raw
        np.testing.assert_array_equal(raw.view(type.block.newbyteorder(order))["qs"], blocks["qs"])
        scales = struct.pack(f"{order}H", *blocks["d"][:1].view(np.uint16))
        assert raw.tobytes()[:2] == scales


def test_a_tensor_may_be_a_function_that_is_called_when_its_turn_comes(path):
    called = []

    def later():
        called.append(True)
        return np.arange(4, dtype=np.float32)

    w = GGUFWriter("bert")
    w.add_tensor("x", later, (4,), "F32")
    assert not called
    assert open_gguf(w.write(path)).tensors["x"].raw.view("<f4").tolist() == [0, 1, 2, 3]
    assert called == [True]


def test_keys_of_an_open_file_can_be_copied(path, tmp_path):
    """The copy, byte for byte, is the file it came from."""
    source = tmp_path / "source.gguf"
    source.write_bytes(files.sample(nested=True)[0])
    f = open_gguf(source)
    w = GGUFWriter(f.metadata.string("general.architecture"), alignment=f.alignment)
    w.copy_keys(f.metadata)
    for t in f.tensors.values():
        w.add_tensor(t.name, t.raw, t.shape, t.type.name)
    w.write(path)
    assert path.read_bytes() == source.read_bytes()


def test_keys_that_are_there_those_left_out_and_the_alignment_are_not_copied(path, tmp_path):
    """What is not UTF-8 is copied as it stands."""
    w = GGUFWriter("bert", alignment=64)
    w.add("a.name", b"\xff", "STRING")
    w.add("a.words", [b"\xfe", b""], "ARRAY[STRING]")
    w.add("a.gone", 1, "UINT8")
    source = open_gguf(w.write(tmp_path / "source.gguf")).metadata
    w = GGUFWriter("llama")
    w.add("a.more", 2, "UINT8")
    w.copy_keys(source, {"a.gone"})
    copy = open_gguf(w.write(path)).metadata
    assert list(copy) == ["general.architecture", "a.more", "a.name", "a.words"]
    assert copy.string("general.architecture") == "llama"
    assert (copy.raw_string("a.name"), copy["a.words"].to_bytes()) == (b"\xff", [b"\xfe", b""])


def test_writing_needs_no_memory_for_the_whole(path):
    """64 MiB of tensors, turned to the other byte order on the way, cost less than 40 MiB."""
    x = np.zeros(2**24, np.float32)
    w = GGUFWriter("bert", byteorder=">")
    w.add_tensor("x", x, x.shape, "F32")
    tracemalloc.start()
    w.write(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 2**26
    assert peak < 40 * 2**20
    path.unlink()


# Whole or not at all


def test_the_file_appears_only_when_it_is_complete(tmp_path, monkeypatch):
    """Until all is written and flushed to the disk, the old file stands under the name."""
    target = tmp_path / "x.gguf"
    target.write_bytes(b"old")
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(("fsync", target.read_bytes())) or fsync(fd))

    def later():
        seen.append(("data", target.read_bytes()))
        return bytes(128)

    w = GGUFWriter("bert")
    w.add_tensor("x", later, (32,), "F32")
    assert w.write(target) == target
    assert seen == [("data", b"old"), ("fsync", b"old")]
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
    assert open_gguf(target).tensors["x"].nbytes == 128


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, RequestError])
def test_an_error_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "x.gguf"
    target.write_bytes(b"old")

    def fail():
        raise error("no")

    w = GGUFWriter("bert")
    w.add_tensor("a", bytes(128), (32,), "F32")
    w.add_tensor("b", fail, (32,), "F32")
    with pytest.raises(error, match="no"):
        w.write(target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_a_file_may_be_rewritten_from_its_own_tensors(tmp_path):
    """The mapped file stays whole while its successor is written."""
    target = tmp_path / "x.gguf"
    w = GGUFWriter("bert")
    w.add_tensor("x", np.arange(8, dtype=np.float32), (8,), "F32")
    old = open_gguf(w.write(target)).tensors["x"]
    w = GGUFWriter("bert")
    w.add_tensor("y", old.raw, old.shape, "F32")
    new = open_gguf(w.write(target)).tensors["y"]
    assert old.raw.tolist() == new.raw.tolist()


def test_a_written_file_has_the_usual_permissions(tmp_path):
    """Those a plain open() gives, not the private ones of a temporary file."""
    (tmp_path / "plain").write_bytes(b"")
    path = GGUFWriter("bert").write(tmp_path / "x.gguf")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(RequestError, match=r"none.x.gguf cannot be written: No such file or directory\n  hint: check"):
        GGUFWriter("bert").write(tmp_path / "none" / "x.gguf")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match="folder cannot be written"):
        GGUFWriter("bert").write(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_stream_gets_the_same_bytes_as_a_file(path):
    w = GGUFWriter("bert")
    w.add_tensor("x", bytes(100), (25,), "F32")
    stream = io.BytesIO()
    w.write_to(stream)
    assert stream.getvalue() == w.write(path).read_bytes()


# What cannot be written

WRONG_VALUES = [
    (256, "UINT8", "out of the range of UINT8"),
    (-1, "UINT64", "out of the range of UINT64"),
    (2**63, "INT64", "out of the range of INT64"),
    (2**64, "UINT64", "too large"),
    (2**70, "INT32", "too large"),
    (1.0, "UINT32", "not all of it is UINT32"),
    (True, "UINT32", "not all of it is UINT32"),
    (1, "BOOL", "not all of it is BOOL"),
    ("1", "INT32", "not all of it is INT32"),
    (None, "INT32", "not all of it is INT32"),
    ([1], "INT32", "not a flat list of numbers"),
    (1e300, "FLOAT32", "out of the range of FLOAT32"),
    ("x", "FLOAT32", "not all of it is FLOAT32"),
    (5, "STRING", "5 is not a string"),
    ("\ud800", "STRING", "surrogates not allowed"),
    (5, "ARRAY[INT32]", "not a flat list"),
    ("ab", "ARRAY[STRING]", "a string is not an array"),
    (b"ab", "ARRAY[UINT8]", "a string is not an array"),
    (["a", 5], "ARRAY[STRING]", "5 is not a string"),
    ([1, None], "ARRAY[INT32]", "not all of it is INT32"),
    ([0, 2**32], "ARRAY[UINT32]", "out of the range of UINT32"),
    ([-1, 2**63], "ARRAY[INT64]", "INT64"),
    ([[1], [2]], "ARRAY[INT32]", "not a flat list"),
    (np.zeros((3, 0)), "ARRAY[FLOAT32]", "not a flat list"),
    ([1, [2]], "ARRAY[INT32]", "inhomogeneous"),
    ([True, 1.5], "ARRAY[BOOL]", "not all of it is BOOL"),
    (1, "UINT", "no such type; one of UINT8"),
    (1, "ARRAY", r"no such type; one of UINT8, .*, FLOAT64, or ARRAY\[one of them\]"),
    ([1], "ARRAY[]", "no such type"),
]


@pytest.mark.parametrize(("value", "type", "message"), WRONG_VALUES)
def test_a_value_that_is_not_of_its_type_is_refused(value, type, message):
    w = GGUFWriter("bert")
    with pytest.raises(RequestError, match=rf"(?s)^a\.key: .* cannot be stored as .*({message})"):
        w.add("a.key", value, type)
    w.add("a.key", 1, "INT32")  # and nothing of it is kept


def test_arrays_nested_too_deep_are_refused():
    value, type = [1], "ARRAY[INT32]"
    for _ in range(7):
        value, type = [value], f"ARRAY[{type}]"
    w = GGUFWriter("bert")
    w.add("deep", value, type)
    with pytest.raises(RequestError, match="nested more than 8 deep"):
        w.add("deeper", [value], f"ARRAY[{type}]")


@pytest.mark.parametrize("key", ["", "k" * 65_536, "é" * 40_000, "general.architecture", "\ud800"])
def test_a_key_no_reader_would_take_is_refused(key):
    with pytest.raises(RequestError, match=r"^key "):
        GGUFWriter("bert").add(key, 1, "UINT32")


def test_the_alignment_key_belongs_to_the_writer():
    with pytest.raises(RequestError, match=r"general.alignment is 32 in this file"):
        GGUFWriter("bert").add("general.alignment", 64, "UINT32")


@pytest.mark.parametrize(
    "options", [{"version": 1}, {"byteorder": "="}, {"alignment": 0}, {"alignment": 24}, {"alignment": 2**32}]
)
def test_an_option_no_file_can_have_is_refused(options):
    with pytest.raises(RequestError):
        GGUFWriter("bert", **options)


WRONG_TENSORS = [
    ("x" * 64, bytes(4), (1,), "F32", "has 64 bytes; 0 to 63"),
    ("taken", bytes(4), (1,), "F32", "'taken' is there already"),
    ("\ud800", bytes(4), (1,), "F32", "is not Unicode text"),
    ("x", bytes(4), (1,) * 5, "F32", r"shape \(1, 1, 1, 1, 1\) cannot be stored"),
    ("x", b"", (-1,), "F32", r"shape \(-1,\) cannot be stored"),
    ("x", b"", (2**40, 2**40), "F32", "cannot be stored"),
    ("x", bytes(34), (16, 2), "Q8_0", "rows of 2 are not whole Q8_0 blocks of 32 weights"),
    ("x", bytes(34), (), "Q8_0", "rows of 1 are not whole Q8_0 blocks"),
    ("x", bytes(33), (32,), "Q8_0", r"33 bytes, but Q8_0 \(32,\) takes 34"),
    ("x", np.zeros(3, np.float32), (4,), "F32", r"12 bytes, but F32 \(4,\) takes 16"),
    ("x", np.zeros(4), (4,), "F32", "F32 is stored from float32 or uint8, not float64"),
    ("x", np.zeros(32, np.int8), (32,), "Q8_0", "is stored from"),
    ("x", [0.0], (1,), "F32", "its data is bytes or an array, not list"),
    ("x", bytes(4), (1,), "Q4_k", "'Q4_k' is no tensor type"),
]


@pytest.mark.parametrize(("name", "data", "shape", "type", "message"), WRONG_TENSORS)
def test_a_tensor_no_reader_would_take_is_refused(name, data, shape, type, message):
    w = GGUFWriter("bert")
    w.add_tensor("taken", bytes(4), (1,), "F32")
    with pytest.raises(RequestError, match=message):
        w.add_tensor(name, data, shape, type)


def test_a_function_that_returns_too_little_is_refused_when_it_is_called(path):
    w = GGUFWriter("bert")
    w.add_tensor("x", lambda: bytes(3), (1,), "F32")
    with pytest.raises(RequestError, match=r"tensor 'x': 3 bytes, but F32 \(1,\) takes 4"):
        w.write(path)


# llama.cpp


@pytest.mark.oracle
@pytest.mark.parametrize("alignment", [32, 1, 64])
@pytest.mark.parametrize("version", [2, 3])
def test_llama_cpp_reads_what_was_written(tmp_path, version, alignment):
    """Every type of value and of tensor, at the offsets and with the sizes llama.cpp itself computes."""
    w = GGUFWriter("bert", version=version, alignment=alignment)
    sent = {"general.architecture": (8, b"bert")}
    if alignment != 32:
        sent["general.alignment"] = (4, struct.pack("<I", alignment))
    for name, type, code, value in files.SCALARS:
        key, type_name = name.decode(), gguf.GGUFValueType(type).name
        value = bool(value) if type_name == "BOOL" else value
        w.add(key, value, type_name)
        w.add(key + "s", [value] * 3, f"ARRAY[{type_name}]")
        w.add(key + "none", [], f"ARRAY[{type_name}]")
        sent[key] = (type, struct.pack(f"<{code}", value))
        sent[key + "s"] = ((9, type), struct.pack(f"<{code}", value) * 3)
        sent[key + "none"] = ((9, type), b"")
    w.add("tokens", files.TOKENS, "ARRAY[STRING]")
    sent["tokens"] = ((9, 8), files.TOKENS)
    raws = {}
    for i, t in enumerate(QUANT_TYPES):
        shape = (3, 2 * t.weights) if i % 2 else (t.weights,)
        raws[t.name] = os.urandom(int(np.prod(shape)) // t.weights * t.nbytes)
        w.add_tensor(t.name, raws[t.name], shape, t.name)
    path = w.write(tmp_path / "x.gguf")
    (found,) = llamacpp.verdicts([path])
    assert found["version"] == version
    assert found["alignment"] == alignment
    fields = {}
    for key, type, item, value in found["fields"]:
        decoded = [bytes.fromhex(v) for v in value] if isinstance(value, list) else bytes.fromhex(value)
        fields[bytes.fromhex(key).decode()] = (type if item is None else (type, item), decoded)
    assert fields == sent
    assert list(fields) == list(sent)
    data = Path(path).read_bytes()
    assert len(found["tensors"]) == len(QUANT_TYPES)
    for name, type, offset, size in found["tensors"]:
        name, begin = bytes.fromhex(name).decode(), found["data_offset"] + offset
        assert BY_ID[type].name == name
        assert data[begin : begin + size] == raws[name]
