"""Metadata: decoding every type of value, and look-ups that say what is wrong."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from refembed.errors import GGUFError
from refembed.gguf import open_gguf
from refembed.gguf.metadata import VALUE_TYPES
from tests.gguf import files
from tests.gguf.files import ARRAY, BOOL, FLOAT32, INT32, SCALARS, STRING, TEXT, TOKENS, UINT8, UINT32, UINT64, keys


@pytest.fixture
def opened(tmp_path):
    """Write bytes, open them, hand out the metadata."""

    def open_bytes(data):
        path = tmp_path / "file.gguf"
        path.write_bytes(data)
        return open_gguf(path).metadata

    return open_bytes


def text(raw):
    return struct.pack("<Q", len(raw)) + raw


def nest(depth):
    """The value of an ARRAY of `depth` arrays in each other; the innermost holds one UINT8."""
    return struct.pack("<IQ", ARRAY, 1) * (depth - 1) + struct.pack("<IQB", UINT8, 1, 7)


def test_a_type_stands_at_its_number():
    assert [t.id for t in VALUE_TYPES] == list(range(13))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_every_type_decodes_to_what_was_packed(opened, order, version):
    m = opened(files.sample(order, version, nested=True)[0])
    for name, type, _, value in SCALARS:
        key = name.decode()
        assert m[key] == value
        assert m.type_name(key) == VALUE_TYPES[type].name
        assert isinstance(m[key], bool) == (type == BOOL)
        array = m[key + "s"]
        assert m.type_name(key + "s") == f"ARRAY[{VALUE_TYPES[type].name}]"
        assert array.tolist() == [value, 0, value]
        assert array.dtype.isnative
        assert not array.flags.writeable
        assert array.flags.aligned
        assert (array.dtype == np.bool_) == (type == BOOL)
    assert m["a.string"] == TEXT.decode()
    assert m.raw_string("a.string") == TEXT
    assert m["tokenizer.ggml.tokens"].to_bytes() == TOKENS
    assert m.type_name("tokenizer.ggml.tokens") == "ARRAY[STRING]"
    assert [a.tolist() for a in m["a.nested"]] == [[1, -2], [3]]
    assert m.type_name("a.nested") == "ARRAY[ARRAY[INT32]]"


def test_it_is_a_mapping_in_file_order(opened):
    m = opened(keys((b"b", UINT8, b"\2"), (b"a", UINT8, b"\1")))
    assert list(m) == ["b", "a"]
    assert dict(m.items()) == {"b": 2, "a": 1}
    assert "a" in m
    assert "c" not in m
    assert 3 not in m
    assert m.get("c") is None
    assert m.get("c", 5) == 5
    assert m.get("a", 5) == 1
    assert m == m
    assert m != opened(keys((b"b", UINT8, b"\2"), (b"a", UINT8, b"\1")))


def test_any_byte_but_zero_is_true(opened):
    m = opened(keys((b"one", BOOL, b"\x80"), (b"many", ARRAY, struct.pack("<IQ", BOOL, 3) + b"\2\0\xff")))
    assert m["one"] is True
    assert m["many"].tolist() == [True, False, True]


def test_an_array_is_decoded_once(opened):
    m = opened(files.sample()[0])
    assert m["a.int32s"] is m["a.int32s"]


def test_empty_arrays_of_every_item_are_empty(opened):
    for t in VALUE_TYPES:
        m = opened(keys((b"a", ARRAY, struct.pack("<IQ", t.id, 0))))
        assert len(m["a"]) == 0
        assert m.type_name("a") == f"ARRAY[{t.name}]"


def test_arrays_nest_eight_deep_and_no_deeper(opened):
    value = opened(keys((b"a", ARRAY, nest(8))))["a"]
    for _ in range(7):
        (value,) = value
    assert value.tolist() == [7]
    for depth in (9, 5000):
        with pytest.raises(GGUFError, match=r"reading a(\[0\]){8} at byte 0x\w+: arrays nested more than 8 deep"):
            opened(keys((b"a", ARRAY, nest(depth))))


def test_arrays_in_an_array_may_differ_in_type(opened):
    inner = struct.pack("<IQi", INT32, 1, -2), struct.pack("<IQ", STRING, 1) + text(b"deep"), nest(1)
    m = opened(keys((b"a", ARRAY, struct.pack("<IQ", ARRAY, 3) + b"".join(inner)), (b"b", UINT8, b"\5")))
    numbers, strings, bytes_ = m["a"]
    assert numbers.tolist() == [-2]
    assert strings == ["deep"]
    assert bytes_.tolist() == [7]
    assert m["b"] == 5


def test_a_string_with_other_bytes_than_utf8_is_kept_as_bytes(opened):
    m = opened(keys((b"a", STRING, text(b"\xffx"))))
    assert m["a"] == m.string("a") == "\ufffdx"
    assert m.raw_string("a") == b"\xffx"


LOOK_UPS = {
    "uint": ["a.uint32", "general.alignment"],
    "integer": ["a.uint8", "a.uint16", "a.uint32", "a.uint64", "general.alignment"],
    "float": ["a.float32"],
    "flag": ["a.bool"],
    "string": ["a.string", "general.architecture"],
    "raw_string": ["a.string", "general.architecture"],
    "strings": ["tokenizer.ggml.tokens"],
    "ints": [f"a.{s}int{n}s" for s in ("u", "") for n in (8, 16, 32, 64)],
    "floats": ["a.float32s", "a.float64s"],
}


@pytest.mark.parametrize("name", LOOK_UPS)
def test_a_look_up_takes_its_types_and_refuses_every_other(opened, name):
    """With or without a default: a default stands in for an absent key, never for a wrong type."""
    m = opened(files.sample(nested=True)[0])
    for key in m:
        look_up = getattr(m, name)
        if key in LOOK_UPS[name]:
            found = look_up(key)
            assert found is m[key] or found == m[key] or name == "raw_string"
        else:
            with pytest.raises(GGUFError, match=rf"reading {key} at byte 0x\w+: .*, not .*\n  hint: .*llama.cpp"):
                look_up(key)
            with pytest.raises(GGUFError, match=rf"reading {key} at byte"):
                look_up(key, None)


def test_a_wrong_type_is_named_with_its_byte(opened):
    m = opened(keys((b"bert.block_count", FLOAT32, struct.pack("<f", 6.0))))
    with pytest.raises(GGUFError, match=r"file.gguf: reading bert.block_count at byte 0x34: FLOAT32 6.0, not UINT32"):
        m.uint("bert.block_count")
    assert m.offset("bert.block_count") == 0x34


def test_an_integer_is_not_below_zero(opened):
    m = opened(keys((b"a", INT32, struct.pack("<i", -1)), (b"b", INT32, struct.pack("<i", 1))))
    assert m.integer("b") == 1
    with pytest.raises(GGUFError, match=r"reading a at byte 0x25: INT32 -1, not an integer, 0 or more"):
        m.integer("a")


@pytest.mark.parametrize("name", LOOK_UPS)
def test_an_absent_key_is_the_default_or_an_error_that_names_the_nearest(opened, name):
    m = opened(files.sample()[0])
    look_up, default = getattr(m, name), object()
    assert look_up("a.unit32", default) is default
    assert look_up("a.unit32", None) is None
    with pytest.raises(GGUFError, match=r"a.unit32 at byte 0x18: no such key among 26\n  hint: did you mean a.uint32"):
        look_up("a.unit32")
    for miss in (m.__getitem__, m.type_name, m.offset):
        with pytest.raises(GGUFError, match=r"did you mean"):
            miss("a.unit32")


def test_a_key_like_no_other_gets_no_suggestion(opened):
    with pytest.raises(GGUFError, match=r"no such key among 1$"):
        opened(keys((b"a", UINT8, b"\1"))).uint("zzzzzz")


def test_a_hostile_key_cannot_write_to_the_terminal(opened):
    """Control characters of a key are escaped in messages, long keys are cut."""
    m = opened(keys((b"\x1b[31mred\n" + b"x" * 500, UINT8, b"\1")))
    with pytest.raises(GGUFError) as e:
        m.float(next(iter(m)))
    line = str(e.value).split("\n")[0]
    assert line.isprintable()
    m = opened(keys((b"bert.\x1b[31mblocks", UINT8, b"\1")))
    with pytest.raises(GGUFError, match=r"hint: did you mean 'bert.\\x1b\[31mblocks'\?"):
        m.uint("bert.[31mblocks")
    assert len(line.split(": reading ")[1]) < 200


K = struct.pack
MALFORMED = {
    "unknown type": (
        keys((b"a", 13, b"\0")),
        r"reading type of a at byte 0x21: 13, not one of 0 UINT8, .*12 FLOAT64",
    ),
    "type with all bits": (keys((b"a", 2**32 - 1, b"\0")), r"reading type of a at byte 0x21: 4294967295, not one of"),
    "unknown item type": (
        keys((b"a", ARRAY, K("<IQ", 99, 0))),
        r"reading type of the items of a at byte 0x25: 99, not one of",
    ),
    "key twice": (
        keys((b"a", UINT8, b"\1"), (b"a", UINT8, b"\1")),
        r"reading key 1 of 2 at byte 0x26: a for the second time",
    ),
    "empty key": (keys((b"", UINT8, b"\1")), r"reading key 0 of 1 at byte 0x18: an empty key"),
    "key of other bytes": (keys((b"a\xff", UINT8, b"\1")), r"reading key 0 of 1 at byte 0x20: b'a\\xff' is not UTF-8"),
    "long key": (
        keys((b"k" * 65_536, UINT8, b"\1")),
        r"reading key 0 of 1 at byte 0x18: a name of 65,536 bytes; at most 65,535",
    ),
    "short string": (keys((b"a", STRING, K("<Q", 5) + b"four")), r"reading a at byte 0x2d: needs 5 bytes, 4 left"),
    "huge string": (keys((b"a", STRING, K("<Q", 2**63))), r"reading a at byte 0x2d: needs 9,223,372,036,854,775,808"),
    "short array": (
        keys((b"a", ARRAY, K("<IQ", UINT32, 2) + bytes(7))),
        r"reading number of items of a at byte 0x29: 2, of 4 bytes each or more, but 7 bytes are left",
    ),
    "huge array": (
        keys((b"a", ARRAY, K("<IQ", UINT64, 2**62))),
        r"reading number of items of a at byte 0x29: 4,611,686,018,427,387,904, of 8 bytes each",
    ),
    "huge array of strings": (
        keys((b"a", ARRAY, K("<IQ", STRING, 2**62))),
        r"reading number of items of a at byte 0x29: 4,611,686,018,427,387,904, of 8 bytes each",
    ),
    "short array of strings": (
        keys((b"a", ARRAY, K("<IQ", STRING, 2) + text(b"12345678"))),
        r"reading length of a\[1\] at byte 0x41: needs 8 bytes, 0 left",
    ),
    "short string in an array": (
        keys((b"a", ARRAY, K("<IQQ", STRING, 1, 9) + b"12345678")),
        r"reading a\[0\] at byte 0x39: needs 9 bytes, 8 left",
    ),
    "huge string in an array": (
        keys((b"a", ARRAY, K("<IQQ", STRING, 1, 2**64 - 1))),
        r"reading a\[0\] at byte 0x39: needs 18,446,744,073,709,551,615 bytes, 0 left",
    ),
    "huge array in an array": (
        keys((b"a", ARRAY, K("<IQIQ", ARRAY, 1, UINT8, 2**63))),
        r"reading number of items of a\[0\] at byte 0x35: 9,223",
    ),
    "alignment 0": (
        keys((b"general.alignment", UINT32, K("<I", 0))),
        r"reading general.alignment at byte 0x35: UINT32 0, not a UINT32 that is a power of two",
    ),
    "alignment 24": (
        keys((b"general.alignment", UINT32, K("<I", 24))),
        r"reading general.alignment at byte 0x35: UINT32 24",
    ),
    "alignment of other type": (
        keys((b"general.alignment", UINT64, K("<Q", 32))),
        r"reading general.alignment at byte 0x35: UINT64 32, not a UINT32",
    ),
    "alignment is text": (
        keys((b"general.alignment", STRING, text(b"32"))),
        r"reading general.alignment at byte 0x35: STRING, not an integer",
    ),
    "shard": (
        keys((b"split.count", 2, K("<H", 3))),
        r"reading split.no at byte 0x18: no such key among 1\n  hint: did you mean split.count",
    ),
    "split.count is text": (
        keys((b"split.count", STRING, text(b"3"))),
        r"reading split.count at byte 0x2f: STRING, not",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_metadata_is_one_error_that_says_where(opened, name):
    data, message = MALFORMED[name]
    with pytest.raises(GGUFError, match=r"file\.gguf: " + message):
        opened(data)


def test_a_split_of_one_file_is_a_whole_file(opened):
    assert opened(keys((b"split.count", 2, K("<H", 1))))["split.count"] == 1


@pytest.mark.parametrize(
    ("type", "raw", "kind", "value"),
    [
        (UINT32, b"\5\0\0\0", int, 5),
        (BOOL, b"\1", bool, True),
        (BOOL, b"\1", int, None),
        (FLOAT32, struct.pack("<f", 0.5), float, 0.5),
        (UINT32, b"\5\0\0\0", float, None),
        (STRING, b"\1" + bytes(7) + b"a", str, "a"),
        (ARRAY, struct.pack("<IQI", UINT32, 1, 5), int, None),
    ],
)
def test_a_value_may_be_asked_for_by_its_type(opened, type, raw, kind, value):
    """A number that is an array, a flag that is a number: None, as where there is no such key."""
    metadata = opened(keys((b"a", type, raw)))
    assert metadata.of_type("a", kind) == value
    assert metadata.of_type("b", kind) is None
