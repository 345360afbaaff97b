"""Layouts of llama.cpp's structures: what one leaves in memory passes for no other, and older ones are what they were.

The sizes are those of C: llama.h's declarations of that build, compiled by hand into sums of field sizes.
"""

import ctypes as ct

import pytest

from refembed.errors import EngineError
from refembed.verify.engines import llamacpp_layouts as layouts
from refembed.verify.engines.llamacpp_abi import ANY, defaults_of, layout_misfits, matching_layout, structure

TABLES = {"model": layouts.MODEL_LAYOUTS, "context": layouts.CONTEXT_LAYOUTS}


class Library:
    """A library of one function, which fills a structure as a build with these fields does."""

    def __init__(self, fields, which=0):
        made = structure("made", fields)
        self.value = made(*(4 if d is ANY else defaults_of(d)[which] for _, _, d in fields))

    def __getitem__(self, name):
        return self

    def __call__(self, address=None):
        """As C returns a large structure: into memory of the caller's, or as ctypes hands it on."""
        if address is not None:
            ct.memmove(address, ct.addressof(self.value), ct.sizeof(self.value))
            return address
        room = self.restype()
        ct.memmove(ct.addressof(room), ct.addressof(self.value), ct.sizeof(self.value))
        return room


def misfits(fields, library):
    return layout_misfits(library, "default_params", structure("seen", fields), fields)


@pytest.mark.parametrize(("table", "label"), [(t, label) for t, known in TABLES.items() for label in known])
def test_a_layout_fits_what_it_describes(table, label):
    fields = TABLES[table][label]
    assert misfits(fields, Library(fields)) == []


@pytest.mark.parametrize(("table", "made"), [(t, label) for t, known in TABLES.items() for label in known])
@pytest.mark.parametrize("which", [0, -1])
def test_the_first_layout_that_fits_has_every_field_where_it_is(table, made, which):
    """Layouts are tried from the newest: one that takes an older one's defaults for its own has the same places."""
    library, own = Library(TABLES[table][made], which), structure("made", TABLES[table][made])
    _, found = matching_layout(library, "default_params", TABLES[table])
    at = layouts.places(TABLES[table][made])
    assert {name: getattr(found, name).offset for name in at} == at
    assert ct.sizeof(found) == ct.sizeof(own)


@pytest.mark.parametrize("table", TABLES)
def test_a_layout_of_the_future_is_refused(table):
    """With one field more, wherever it is put in, unless it is a bool that is 0 where there was padding."""
    newest = next(iter(TABLES[table].values()))
    for i in range(len(newest)):
        library = Library([*newest[:i], ("new", ct.c_uint64, 7), *newest[i:]])
        with pytest.raises(EngineError, match="fits no layout known here"):
            matching_layout(library, "default_params", TABLES[table])


@pytest.mark.parametrize(
    ("table", "label", "size"),
    [
        ("model", "b4291", 72),  # a pointer 8, three int32 and padding 16, five pointers 40, four bools and padding 8
        (
            "context",
            "b4291",
            120,
        ),  # 18 numbers of 32 bits 72, two pointers 16, two types 8, five bools 8, two pointers 16
    ],
)
def test_sizes_are_those_of_the_header(table, label, size):
    assert ct.sizeof(structure("made", TABLES[table][label])) == size


def test_every_layout_names_a_field_once():
    for known in TABLES.values():
        for fields in known.values():
            names = [name for name, _, _ in fields]
            assert len(names) == len(set(names))


def test_a_change_of_a_field_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no such field: flash_atn"):
        layouts.changed(layouts.CONTEXT_NEWEST, "flash_atn")
    with pytest.raises(ValueError, match="no such field: vocab"):
        layouts.changed(layouts.MODEL_NEWEST, put={"vocab": layouts.u8(new=0)})
