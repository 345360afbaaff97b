"""refembed/convert/safetensors.py against the safetensors library, and against files that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from refembed.convert.safetensors import SafetensorsFile
from refembed.errors import ModelError

NUMBERS = {
    "F64": np.array([[1.5, -2.0]]), "F32": np.array([0.1, 2, np.inf], np.float32), "F16": np.array(3.5, np.float16),
    "I64": np.array([-(2**60)]), "I32": np.array([[-7]], np.int32), "I16": np.array([-3], np.int16),
    "I8": np.array([-128], np.int8), "U64": np.array([2**63], np.uint64), "U32": np.array([2**31], np.uint32),
    "U16": np.array([65535], np.uint16), "U8": np.array([[1, 2], [3, 4]], np.uint8), "BOOL": np.array([True, False]),
}  # fmt: skip
SOUND = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3, dtype=np.int8)}, {"format": "np"})
ONE = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def write(path: Path, header: Any, data: bytes = b"1234", length: int | None = None) -> Path:
    """A file of that header, which is given as JSON or as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_every_dtype_is_read_as_the_library_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    path.write_bytes(save(NUMBERS, {"key": "value"}))
    file = SafetensorsFile(path)
    assert file.metadata == {"key": "value"}
    assert set(file) == set(NUMBERS)
    for name, values in NUMBERS.items():
        assert file[name].dtype == name
        assert file[name].shape == values.shape
        assert file[name].values().dtype == values.dtype
        np.testing.assert_array_equal(file[name].values(), values)
        assert not file[name].raw.flags.writeable


def test_bf16_is_widened_exactly(tmp_path: Path) -> None:
    values = np.array(
        [1.0, -0.0, 3.140625, 2.0**-133, 2.0**127, -np.inf], np.float32
    )  # all of them have a short mantissa
    raw = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {"a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
    read = SafetensorsFile(write(tmp_path / "bf16.safetensors", header, raw))["a"].values()
    assert read.shape == (2, 3)
    assert read.tobytes() == values.tobytes()


def test_tensors_come_in_the_order_of_their_data_and_may_be_empty(tmp_path: Path) -> None:
    header = {
        "last": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [4, 4]},
        "first": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    file = SafetensorsFile(write(tmp_path / "order.safetensors", header, b"\0" * 8))
    assert list(file) == ["first", "none", "last"]
    assert file["none"].values().shape == (0, 3)
    assert len(SafetensorsFile(write(tmp_path / "empty.safetensors", {}, b""))) == 0


def test_tensors_outlive_the_file_object(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(SOUND)
    values = SafetensorsFile(path)["a"].values()
    np.testing.assert_array_equal(values, np.arange(6, dtype=np.float32).reshape(2, 3))


def test_every_truncation_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    for n in range(len(SOUND)):
        path.write_bytes(SOUND[:n])
        with pytest.raises(
            ModelError, match=r"cut.safetensors: reading .* at byte 0x[0-9a-f]+: .*\n  hint: ."
        ) as caught:
            SafetensorsFile(path)
        assert "left" in str(caught.value)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"a": ONE["a"] | changes}


ATTACKS: dict[str, tuple[Any, bytes, str]] = {  # what the file says, its data, how the error begins
    "a header beyond 100 MB": (b"{", b"", "reading the header's length at byte 0x0: 100,000,001 bytes, but"),
    "a header longer than the file": (b"{}", b"", "reading the header at byte 0x8: needs 3 bytes, 2 left"),
    "no header at all": (b"", b"{}", "reading the header at byte 0x8: b'{', not b'{'"),
    "a list": (b"[]", b"", r"reading the header at byte 0x8: b'\['"),
    "bad JSON": (b'{"a":', b"", "reading the header at byte 0x8: not the JSON that belongs there"),
    "bad UTF-8": (b'{"\xff":1}', b"", "reading the header at byte 0x8: not the JSON that belongs there"),
    "half a surrogate": (b'{"\\ud800":{}}', b"", "reading the header at byte 0x8: not the JSON that belongs there"),
    "deep nesting": (b'{"a":' + b"[" * 100_000, b"", "reading the header at byte 0x8: not the JSON that belongs there"),
    "NaN": (b'{"a":NaN}', b"", "reading the header at byte 0x8: not the JSON that belongs there: NaN is not JSON"),
    "a name twice": (b'{"a":{},"a":{}}', b"", "reading the header at byte 0x8: .* a key stands there twice"),
    "a negative size": (tensor(shape=[-1]), b"1234", "reading the header at byte 0x8: .* -1, a negative number"),
    "a huge number": (b'{"a":' + b"9" * 5000 + b"}", b"", "reading the header at byte 0x8: not the JSON"),
    "a fractional size": (tensor(shape=[1.0]), b"1234", r"reading tensor a at byte 0x8: \[1.0\], not a list of sizes"),
    "a true size": (tensor(shape=[True]), b"1234", r"reading tensor a at byte 0x8: \[True\], not a list of sizes"),
    "a size that overflows": (tensor(shape=[2**62, 99]), b"1234", "reading tensor a at byte 0x8: shape .* 64 bits"),
    "an overflow times zero": (tensor(shape=[2**63, 4, 0]), b"", "reading tensor a at byte 0x8: shape .* 64 bits"),
    "a wrong shape": (tensor(shape=[2]), b"1234", r"reading tensor a at byte 0x8: .* hold 4 bytes, F32 \[2\] takes 8"),
    "an unknown dtype": (tensor(dtype="F8_E4M3"), b"1", "reading tensor a at byte 0x8: dtype F8_E4M3"),
    "a dtype that is a list": (tensor(dtype=["F32"]), b"1234", "reading tensor a at byte 0x8: dtype"),
    "a key too many": (tensor(more=1), b"1234", "reading tensor a at byte 0x8: .* not a dtype, a shape"),
    "a tensor that is a number": ({"a": 1}, b"", "reading tensor a at byte 0x8: 1, not a dtype, a shape"),
    "three offsets": (tensor(data_offsets=[0, 2, 4]), b"1234", "reading tensor a at byte 0x8: data_offsets"),
    "offsets swapped": (tensor(data_offsets=[4, 0]), b"1234", r"reading tensor a at byte 0x8: data_offsets \[4, 0\]"),
    "data behind the end": (ONE, b"123", "reading tensor a at byte 0x[0-9a-f]+: needs 4 bytes, 3 left"),
    "data too long": (ONE, b"12345", "reading the end of the data at byte 0x[0-9a-f]+: 1 bytes belong to no tensor"),
    "a hole": (tensor(data_offsets=[4, 8]), b"12345678", "reading tensor a .* it leaves 4 bytes behind the tensor"),
    "an overlap": (
        tensor() | {"b": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}},
        b"1234",
        "reading tensor b .* its data begins at 2: it overlaps the tensor before",
    ),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "reading __metadata__ at byte 0x8: .* not strings"),
    "a name that moves the cursor": ({"\x1b[2J": 1}, b"", r"reading tensor '\\x1b\[2J' at byte 0x8: 1, not"),
}  # fmt: skip
LENGTHS = {"a header beyond 100 MB": 100_000_001, "a header longer than the file": 3}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_that_lies_is_one_clear_error(attack: str, tmp_path: Path) -> None:
    header, data, message = ATTACKS[attack]
    path = write(tmp_path / "bad.safetensors", header, data, LENGTHS.get(attack))
    with pytest.raises(ModelError, match=r"bad.safetensors: " + message) as caught:
        SafetensorsFile(path)
    assert len(str(caught.value)) < 1000
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "needs 8 bytes, 0 left"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    ],
)
def test_what_is_no_safetensors_file_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        SafetensorsFile(path)
    with pytest.raises(ModelError, match="reading the file"):
        SafetensorsFile(tmp_path)


@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_as_the_library_reads_it(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Whatever a few changed bytes make of a file: what is accepted here, the library accepts with the same content."""
    raw = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.sampled_from(b'0123456789"[]{},:. -eEFUIab\x00\xff') | st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(raw)
    try:
        ours = {name: (e.dtype, list(e.shape), e.raw.tobytes()) for name, e in SafetensorsFile(path).items()}
    except ModelError:
        return
    theirs = {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in deserialize(bytes(raw))}
    assert ours == theirs


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(["F32", "U8", "F64", "BOOL"]), st.lists(st.integers(0, 3), max_size=3)),
        max_size=5,
    )
)
def test_what_the_library_writes_is_read(tmp_path_factory: Any, shapes: dict[str, tuple[str, list[int]]]) -> None:
    dtypes = {"F32": np.float32, "U8": np.uint8, "F64": np.float64, "BOOL": np.bool_}
    path = tmp_path_factory.getbasetemp() / "sound.safetensors"
    path.write_bytes(save({name: np.ones(shape, dtypes[dtype]) for name, (dtype, shape) in shapes.items()}))
    file = SafetensorsFile(path)
    assert {name: (e.dtype, list(e.shape)) for name, e in file.items()} == shapes
    for name, (dtype, shape) in shapes.items():
        np.testing.assert_array_equal(file[name].values(), np.ones(shape, dtypes[dtype]))


def test_the_attacks_that_are_no_matter_of_taste_are_refused_by_the_library_too(tmp_path: Path) -> None:
    """Only where the format's own text is stricter than its library may the two disagree."""
    stricter = {"a name twice", "an unknown dtype", "a key too many"}
    accepted = set()
    for attack, (header, data, _) in ATTACKS.items():
        raw = write(tmp_path / "x.safetensors", header, data, LENGTHS.get(attack)).read_bytes()
        try:
            deserialize(raw)
            accepted.add(attack)
        except SafetensorError:
            pass
    assert accepted <= stricter
