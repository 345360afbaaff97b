"""The table of tensor types against gguf-py and against llama.cpp."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from refembed.errors import RequestError
from refembed.gguf import BY_ID, BY_NAME, QUANT_TYPES
from refembed.gguf.quants import REMOVED, quant_type
from tests.gguf import llamacpp

# gguf-py 0.19 still counts block_q8_1 with the two float32 it had before 2024; llama.cpp stores two float16.
# The type holds activations only and stands in no file.
GGUF_PY_IS_WRONG = {"Q8_1": (32, 40)}


def test_ids_and_names_are_unique():
    assert len(BY_ID) == len(BY_NAME) == len(QUANT_TYPES) == 35
    assert not set(BY_ID) & set(REMOVED)


@pytest.mark.parametrize("name", [t.name for t in gguf.GGMLQuantizationType])
def test_every_type_gguf_py_knows_has_the_same_id_and_sizes(name):
    theirs = gguf.GGMLQuantizationType[name]
    ours = BY_NAME[name]
    assert ours.id == theirs.value
    if name in GGUF_PY_IS_WRONG:
        assert gguf.GGML_QUANT_SIZES[theirs] == GGUF_PY_IS_WRONG[name]
    else:
        assert (ours.weights, ours.nbytes) == gguf.GGML_QUANT_SIZES[theirs]


def test_q2_0_is_the_one_type_gguf_py_does_not_know():
    assert {t.name for t in QUANT_TYPES} - {t.name for t in gguf.GGMLQuantizationType} == {"Q2_0"}


@pytest.mark.oracle
def test_every_id_of_llama_cpp_has_its_name_sizes_and_dot_type():
    """All 43 ids: a row of the table where llama.cpp has a type, and an entry in REMOVED where it has none any more."""
    live = llamacpp.tensor_types()
    assert set(live) == set(BY_ID) | set(REMOVED)
    for id, (name, weights, nbytes, dot) in live.items():
        if id in REMOVED:
            assert (weights, nbytes, dot) == (0, 0, None)
        else:
            ours = BY_ID[id]
            assert (ours.name, ours.weights, ours.nbytes) == (name.upper(), weights, nbytes)
            assert ours.dot == ("" if dot is None else BY_ID[dot].name), name


def test_block_fields_are_packed_and_little_endian():
    """A field begins where the one before it ends, and no field is in the machine's own order."""
    for t in QUANT_TYPES:
        end = 0
        for name in t.block.names:
            dtype, offset = t.block.fields[name]
            assert offset == end, (t.name, name)
            assert dtype.base.str[0] in "<|", (t.name, name)
            end += dtype.itemsize
        assert end == t.nbytes


def decode(type, blocks):
    """Blocks (N, nbytes) -> (N, weights), by gguf-py."""
    with np.errstate(all="ignore"):
        return gguf.dequantize(blocks, gguf.GGMLQuantizationType(type.id)).reshape(len(blocks), type.weights)


def random_blocks(type, n):
    """Blocks (n, nbytes) of random codes, with every stored float set to 1."""
    blocks = np.random.default_rng(type.id).integers(0, 256, (n, type.nbytes), np.uint8)
    for name in FLOATS & set(type.block.names):
        blocks.view(type.block)[name] = 1
    return blocks


FLOATS = {"d", "m", "dmin"}
WITH_FLOATS = [t.name for t in QUANT_TYPES if t.block.names[0] != "x" and t.block.fields.get("d", "-")[0] == "<f2"]
DECODED = {t.name for t in gguf.GGMLQuantizationType if t in gguf.quants._type_traits}


@pytest.mark.parametrize("name", sorted(DECODED & set(WITH_FLOATS)))
def test_the_scales_stand_where_the_fields_say(name):
    """Twice the d, m and dmin is twice every weight, in gguf-py's decoder, which knows nothing of our fields."""
    type = BY_NAME[name]
    blocks = random_blocks(type, 8)
    once = decode(type, blocks)
    for field in FLOATS & set(type.block.names):
        blocks.view(type.block)[field] = 2
    np.testing.assert_array_equal(decode(type, blocks), 2 * once)
    assert once.any()


SUB_BLOCKS = [
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ2_XS",
    "IQ4_XS",
]  # a qh of IQ2_S and IQ3_S serves 4 codes or more


@pytest.mark.parametrize("name", SUB_BLOCKS)
def test_a_byte_of_scales_reaches_far_and_a_byte_of_codes_does_not(name):
    """Turn each bit of each byte: scales change sub-blocks of 16 weights or more, codes at most 8 weights."""
    type = BY_NAME[name]
    reach = np.zeros((type.nbytes, type.weights), bool)
    bits = np.zeros((type.nbytes, 8, type.nbytes), np.uint8)
    bits[np.arange(type.nbytes), :, np.arange(type.nbytes)] = 1 << np.arange(8)
    for block in random_blocks(type, 8):
        changed = decode(type, (block ^ bits).reshape(-1, type.nbytes)) != decode(type, block[None])
        reach |= changed.reshape(type.nbytes, 8, type.weights).any(axis=1)
    for field in set(type.block.names) - FLOATS:
        dtype, offset = type.block.fields[field]
        far = reach[offset : offset + dtype.itemsize].sum(axis=1)
        assert far.min() >= 16 if "scales" in field else far.max() <= 8, field


def test_an_unknown_type_name_is_an_error_with_the_known_ones():
    with pytest.raises(RequestError, match=r"'Q4_k' is no tensor type\n  hint: one of .*Q4_K"):
        quant_type("Q4_k")
