"""A library made by hand, in which number parsers of glibc 2.38 are asked for; and one that asks for more."""

import struct

import pytest

from refembed.verify.engines.older_glibc import elf_hash, for_older_glibc, name_at

SECTIONS = {"strings": 3, "symbols": 11, "versions": 0x6FFFFFFF, "needs": 0x6FFFFFFE}  # types, gABI and LSB


def library(*names):
    """An ELF file whose symbols of version GLIBC_2.38 have these names; its strings, and where its parts begin."""
    strings = b"\0libc.so.6\0GLIBC_2.2.5\0GLIBC_2.38\0" + b"".join(n.encode() + b"\0" for n in names)
    symbols = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", strings.index(b"\0" + n.encode() + b"\0") + 1, 18, 0, 0, 0, 0) for n in names
    )
    versions = struct.pack(f"<{len(names) + 1}H", 0, *[2] * len(names))
    needs = struct.pack("<HHIII", 1, 1, 1, 16, 0)
    needs += struct.pack("<IHHII", elf_hash(b"GLIBC_2.38"), 0, 2, strings.index(b"GLIBC_2.38"), 0)
    parts, at, body = {"strings": strings, "symbols": symbols, "versions": versions, "needs": needs}, {}, bytearray(64)
    for name, part in parts.items():
        at[name] = len(body)
        body += part + bytes(-len(part) % 8)
    table = len(body)
    body += bytes(64)
    for name, part in parts.items():
        body += struct.pack("<IIQQQQIIQQ", 0, SECTIONS[name], 0, 0, at[name], len(part), 1, 0, 8, 0)
    body[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", body, 0x28, table)
    struct.pack_into("<HH", body, 0x3A, 64, len(parts) + 1)
    return bytes(body), strings, at


def test_hashes_are_those_that_linkers_write():
    """As `readelf -V` and glibc's own tables have them."""
    assert elf_hash(b"GLIBC_2.2.5") == 0x09691A75
    assert elf_hash(b"GLIBC_2.17") == 0x06969197


def test_number_parsers_get_their_old_names_and_version():
    data, strings, at = library("__isoc23_strtol", "__isoc23_sscanf")
    made = for_older_glibc(data)
    names = [struct.unpack_from("<I", made, at["symbols"] + 24 * i)[0] for i in (1, 2)]
    assert [name_at(strings, n) for n in names] == [b"strtol", b"sscanf"]
    hashed, _, index, name, _ = struct.unpack_from("<IHHII", made, at["needs"] + 16)
    assert (hashed, index, name_at(strings, name)) == (0x09691A75, 2, b"GLIBC_2.2.5")
    assert len(made) == len(data)
    assert sum(x != y for x, y in zip(made, data, strict=True)) <= 12  # two offsets of names, a hash and a name


@pytest.mark.parametrize("names", [("__isoc23_strtol", "fmod"), ("strlcpy",)])
def test_what_needs_more_stays_as_it_is(names):
    data, _, _ = library(*names)
    assert for_older_glibc(data) == data


@pytest.mark.parametrize("data", [b"", b"MZ and no ELF", b"\x7fELF\x01\x01 of 32 bits"])
def test_what_is_no_elf_file_of_64_bits_stays_as_it_is(data):
    assert for_older_glibc(data) == data


@pytest.mark.parametrize("cut", [16, 64, 200, -1])
def test_a_library_that_is_cut_off_stays_as_it_is(cut):
    data, _, _ = library("__isoc23_strtol")
    assert for_older_glibc(data[:cut]) == data[:cut]


def test_a_table_that_leads_out_of_the_file_leaves_it_as_it_is():
    data, _, at = library("__isoc23_strtol")
    made = bytearray(data)
    struct.pack_into("<I", made, at["needs"] + 8, 1 << 30)  # where the first record of a version is
    assert for_older_glibc(bytes(made)) == bytes(made)
