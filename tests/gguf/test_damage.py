"""Damaged and hostile files: each opens, or ends in one GGUFError. No other exception, no memory, no hang."""

from __future__ import annotations

import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import GGUFError
from refembed.gguf import StringArray, open_gguf
from tests.gguf import files
from tests.gguf.files import ARRAY, INT32, STRING, UINT8, keys
from tests.gguf.shards import samples, shard_name, write_samples

pytestmark = pytest.mark.system

SAMPLES = [(order, nested) for order in "<>" for nested in (False, True)]
LOOK_UPS = ("uint", "float", "flag", "string", "raw_string", "strings", "ints", "floats")

# Numbers at which something may overflow, wrap, turn negative or be off by one.
EDGES = sorted(
    {b + d for b in (0, 32, 64, 2**8, 2**16, 2**30, 2**31, 2**32, 2**62, 2**63, 2**64) for d in (-1, 0, 1)}
    - {-1, 2**64, 2**64 + 1}
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("damage") / "x.gguf"


def outcome(call, argument):
    """What a call returns, or its GGUFError. Any other exception is the test's failure."""
    try:
        return call(argument)
    except GGUFError as e:
        return e


def read_all(path, data):
    """Write and open a file; read all that it offers. False where opening was refused."""
    path.unlink(missing_ok=True)  # never shorten a file that an earlier failure may keep mapped
    path.write_bytes(data)
    return read_model([path])


def read_model(paths):
    """Open a file, or the first of several; read all that it offers. False where opening was refused."""
    f = outcome(open_gguf, paths[0])
    if isinstance(f, GGUFError):
        named = [path for path in paths if str(f).startswith(f"{path}: reading ")]
        assert len(named) == 1
        assert 0 <= f.offset <= max(named[0].stat().st_size, 2**31)  # the data may claim to begin an alignment away
        return False
    for i, key in enumerate(f.metadata):
        value = f.metadata[key]
        assert f.metadata.type_name(key)
        outcome(getattr(f.metadata, LOOK_UPS[i % len(LOOK_UPS)]), key)
        if isinstance(value, StringArray):
            assert len(list(value)) == len(value.to_bytes()) == len(value)
    for t in f.tensors.values():
        assert t.raw.size == t.nbytes
        np.add.reduce(t.raw, dtype=np.int64)  # reads every byte
    assert repr([value for value in f.metadata.values() if not isinstance(value, np.ndarray)])
    assert repr(f.tensors)
    return True


def memory_of(path, data):
    """The most memory that reading all of a file takes, beyond what was there before, in bytes."""
    tracemalloc.start()
    try:
        read_all(path, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("order", "nested"), SAMPLES)
def test_a_file_cut_short_at_any_byte_is_a_gguf_error(path, order, nested):
    """Every length from nothing to the last tensor's last byte; what is cut behind that is padding."""
    data, _ = files.sample(order, nested=nested)
    end = len(data) - 62  # the last tensor has 2 bytes of 64
    for n in range(end):
        assert not read_all(path, data[:n]), n
    for n in range(end, len(data) + 1):
        assert read_all(path, data[:n]), n


@pytest.mark.parametrize("order", ["<", ">"])
def test_any_one_byte_may_be_wrong(path, order):
    """Every byte of the header, set to 0 and to 255, and its lowest bit turned."""
    data, _ = files.sample(order, nested=True)
    for at in range(len(data) - 3 * 64):
        for byte in {0, 255, data[at] ^ 1} - {data[at]}:
            read_all(path, data[:at] + bytes([byte]) + data[at + 1 :])


@pytest.mark.parametrize(("order", "nested"), SAMPLES)
def test_any_count_length_type_or_offset_may_be_wrong(path, order, nested):
    """Each structural number of the file, set to every edge it can hold."""
    data, marks = files.sample(order, nested=nested)
    for at, width in marks:
        for edge in EDGES:
            if edge < 256**width:
                number = edge.to_bytes(width, "little" if order == "<" else "big")
                read_all(path, data[:at] + number + data[at + width :])


@given(st.data())
def test_any_bytes_may_be_wrong(path, data):
    """Some bytes overwritten, cut out or put in, anywhere; memory stays within bounds."""
    order, nested = data.draw(st.sampled_from(SAMPLES))
    raw, marks = files.sample(order, nested=nested)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)) | st.sampled_from([m for m, _ in marks]))
        gone = data.draw(st.integers(0, 9))
        raw = raw[:at] + data.draw(st.binary(max_size=9)) + raw[at + gone :]
    assert memory_of(path, raw) < 2 * len(raw) + 2**18


@given(
    st.lists(st.sampled_from(range(60)), min_size=2, max_size=2, unique=True),
    st.lists(st.sampled_from(EDGES), min_size=2, max_size=2),
)
def test_any_two_numbers_may_be_wrong(path, which, edges):
    raw, marks = files.sample(nested=True)
    for i, edge in zip(which, edges, strict=True):
        at, width = marks[i]
        raw = raw[:at] + (edge % 256**width).to_bytes(width, "little") + raw[at + width :]
    assert memory_of(path, raw) < 2 * len(raw) + 2**18


@given(st.binary(max_size=200))
def test_a_header_may_be_followed_by_anything(path, rest):
    read_all(path, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + rest)


# Models in several files: damage to any of them.


def read_shards(folder, shards):
    """Write and open a split model; read all that it offers. False where opening was refused."""
    write_samples(folder, shards)
    return read_model([folder / shard_name(i, len(shards)) for i in range(len(shards))])


@pytest.mark.parametrize("which", range(3))
def test_a_shard_cut_short_at_any_byte_is_a_gguf_error(tmp_path, which):
    """Every length from nothing to the last tensor's last byte; what is cut behind that is padding."""
    good = [data for data, _ in samples(3)]
    data = good[which]
    for n in range(len(data)):
        good[which] = data[:n]
        assert read_shards(tmp_path, good) == (n >= len(data) - 30), n  # the last tensor has 34 bytes of 64


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("which", range(2))
def test_any_one_byte_of_a_shard_may_be_wrong(tmp_path, order, which):
    """Every byte of a shard's header, set to 0, 1 and 255, and its lowest bit turned."""
    good = [data for data, _ in samples(2, order)]
    data = good[which]
    for at in range(len(data) - 96):
        for byte in {0, 1, 255, data[at] ^ 1} - {data[at]}:
            good[which] = data[:at] + bytes([byte]) + data[at + 1 :]
            read_shards(tmp_path, good)


@pytest.mark.parametrize("which", range(2))
def test_any_number_of_a_shard_may_be_wrong(tmp_path, which):
    """Each structural number, those of the split among them, set to every edge it can hold."""
    good = [data for data, _ in samples(2)]
    data, marks = samples(2)[which]
    for at, width in marks:
        for edge in EDGES:
            if edge < 256**width:
                good[which] = data[:at] + edge.to_bytes(width, "little") + data[at + width :]
                read_shards(tmp_path, good)


@given(st.data())
def test_any_bytes_of_any_shards_may_be_wrong(tmp_path_factory, data):
    """Some bytes overwritten, cut out or put in, in any of three shards, or shards in other places."""
    folder = tmp_path_factory.getbasetemp() / "shards"
    good = [raw for raw, _ in samples(3)]
    shards = [good[i] for i in data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=3))]
    if data.draw(st.booleans()):
        shards = good
    for _ in range(data.draw(st.integers(0, 3))):
        which = data.draw(st.integers(0, 2))
        raw = shards[which]
        at = data.draw(st.integers(0, len(raw)))
        changed = raw[:at] + data.draw(st.binary(max_size=9)) + raw[at + data.draw(st.integers(0, 9)) :]
        shards = [changed if i == which else s for i, s in enumerate(shards)]
    read_shards(folder, shards)


def test_a_huge_number_of_shards_costs_neither_memory_nor_time(tmp_path):
    """65,535 shards, and none but the first is there."""
    data, _ = samples(1)[0]
    data = data.replace(b"split.count\x02\0\0\0\1\0", b"split.count\x02\0\0\0\xff\xff")
    path = tmp_path / shard_name(0, 65_535)
    path.write_bytes(data)
    began = time.process_time()
    with pytest.raises(GGUFError, match=r"65534 of 65535 are missing: model-00002-of-65535.gguf, .* \.\.\.$"):
        open_gguf(path)
    assert time.process_time() - began < 5


# Size: a claim costs nothing, and the whole file costs less than twice its own size.

MIB = 2**20
CLAIMS = {
    "keys": bytes(files.head(0, 2**62).data),
    "tensors": bytes(files.head(2**62, 0).data),
    "both": bytes(files.head(2**63, 2**63).data),
    "string": keys((b"a", STRING, struct.pack("<Q", 2**62))),
    "bytes": keys((b"a", ARRAY, struct.pack("<IQ", UINT8, 2**62))),
    "int32": keys((b"a", ARRAY, struct.pack("<IQ", INT32, 2**62))),
    "strings": keys((b"a", ARRAY, struct.pack("<IQ", STRING, 2**62))),
    "arrays": keys((b"a", ARRAY, struct.pack("<IQ", ARRAY, 2**62))),
    "strings in arrays": keys((b"a", ARRAY, struct.pack("<IQIQ", ARRAY, 1, STRING, 2**62))),
    "dimension": files.tensors((b"x", [2**62], 24, 0)),
    "empty tensor": files.tensors((b"x", [0, 2**62], 24, 0)),
}


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("size", [0, 4 * MIB])
def test_a_huge_claim_costs_neither_memory_nor_time(path, name, size):
    """2^62 of anything, alone and with 4 MiB behind it that could pass for the beginning of it."""
    began = time.process_time()
    assert memory_of(path, CLAIMS[name] + bytes(size)) < 2**18
    assert time.process_time() - began < 2


BULK = {
    "empty strings": (STRING, 8, b""),
    "strings of 12 bytes": (STRING, 20, struct.pack("<Q", 12) + b"abcdefghijkl"),
    "bytes": (UINT8, 1, b"\1"),
    "numbers": (INT32, 4, b"\1\2\3\4"),
    "empty arrays": (ARRAY, 12, struct.pack("<IQ", UINT8, 0)),
}


@pytest.mark.parametrize("name", BULK)
def test_opening_a_full_file_costs_less_than_twice_its_size(path, name):
    """Half a MiB of items, and a claim of one more than there are: refused, at no higher price."""
    item, size, unit = BULK[name]
    n = MIB // 2 // size
    body = (unit or bytes(8)) * n
    for claim in (n, n + 1):
        data = keys((b"a", ARRAY, struct.pack("<IQ", item, claim) + body))
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        began = time.process_time()
        tracemalloc.start()
        if claim == n:
            assert len(open_gguf(path).metadata) == 1
        else:
            with pytest.raises(GGUFError, match="reading"):
                open_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * len(data) + 2**18
        assert time.process_time() - began < 20  # a second or two; the bound is for slow machines


def test_numbers_are_read_with_one_copy(path):
    data = keys((b"a", ARRAY, struct.pack("<IQ", INT32, MIB) + bytes(4 * MIB)))
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    f = open_gguf(path)
    tracemalloc.start()
    assert len(f.metadata.ints("a")) == MIB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) + 2**18


def test_a_key_or_a_tensor_costs_a_bounded_amount(path):
    """Below 1 KiB each; refembed takes at most 65,536 of either."""
    n = 4_096
    body = files.head(n, n)
    for i in range(n):
        body.data += struct.pack("<Q8sIB", 8, b"%08d" % i, UINT8, 1)
    for i in range(n):
        body.data += struct.pack("<Q8sIIQ", 8, b"%08d" % i, 0, 24, 32 * i)
    body.pad()
    path.unlink(missing_ok=True)
    path.write_bytes(bytes(body.data) + bytes(32 * n))
    tracemalloc.start()
    f = open_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(f.metadata) == len(f.tensors) == n
    assert peak < 2 * n * 1024
