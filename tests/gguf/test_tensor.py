"""Tensor: shapes, rows, and the decoder behind it. gguf-py stands in for refembed.kernels.quant.dequant here."""

from __future__ import annotations

import sys
import types

import gguf
import numpy as np
import pytest

from refembed.errors import RequestError
from refembed.gguf import BY_NAME, GGUFWriter, open_gguf


@pytest.fixture
def calls(monkeypatch):
    """Install gguf-py's decoder where refembed's is expected; the list holds the bytes it was asked to decode."""
    sizes = []

    def dequantize(raw, type, byteorder):
        sizes.append(raw.size)
        assert byteorder == "<"
        assert raw.ndim == 1
        return gguf.dequantize(raw.reshape(-1, type.nbytes), gguf.GGMLQuantizationType(type.id)).reshape(-1)

    decoder = types.ModuleType("refembed.kernels.quant.dequant")
    decoder.dequantize = dequantize
    monkeypatch.setitem(sys.modules, "refembed.kernels", types.ModuleType("refembed.kernels"))
    monkeypatch.setitem(sys.modules, "refembed.kernels.quant.dequant", decoder)
    return sizes


@pytest.fixture
def tensor(tmp_path):
    """A tensor of a written file, and its values as gguf-py decodes them."""

    def make(type, shape):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        blocks = gguf.quantize(x, gguf.GGMLQuantizationType[type])
        w = GGUFWriter("bert")
        w.add_tensor("x", blocks.tobytes(), shape, type)
        t = open_gguf(w.write(tmp_path / "x.gguf")).tensors["x"]
        return t, gguf.dequantize(blocks, gguf.GGMLQuantizationType[type]).reshape(shape)

    return make


@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "TQ1_0", "MXFP4"])
@pytest.mark.parametrize("shape", [(256,), (6, 256), (2, 3, 256), (2, 1, 3, 512)])
def test_dequantize_gives_the_tensor_in_its_shape(calls, tensor, type, shape):
    t, x = tensor(type, shape)
    found = t.dequantize()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x)
    assert calls == [t.nbytes]


@pytest.mark.parametrize("type", ["F32", "BF16", "Q8_0", "TQ2_0"])
@pytest.mark.parametrize("indices", [[0], [5, 0, 5, 2], [], range(6), np.array([3, 1], np.uint8)])
def test_rows_are_the_rows_of_the_whole_and_nothing_else_is_decoded(calls, tensor, type, indices):
    t, x = tensor(type, (6, 512))
    found = t.rows(indices)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x[np.asarray(indices, int)])
    assert sum(calls) == len(indices) * t.nbytes // 6


def test_rows_of_more_axes_are_along_the_first(calls, tensor):
    t, x = tensor("Q8_0", (4, 3, 64))
    np.testing.assert_array_equal(t.rows([2, 0]), x[[2, 0]])


@pytest.mark.parametrize(
    "indices",
    [[6], [-1], [0, 10**30], [0.0], [True], 3, [[0, 1]], ["a"], [[0], [1, 2]], [None], np.array([2**63], np.uint64)],
)
def test_row_numbers_that_are_none_are_refused(tensor, indices):
    t, _ = tensor("F32", (6, 256))
    with pytest.raises(RequestError, match=r"^x: row"):
        t.rows(indices)


def test_a_vector_has_no_rows(tensor):
    t, _ = tensor("F32", (256,))
    with pytest.raises(RequestError, match=r"x has no rows to take: its shape is \(256,\)"):
        t.rows([0])


def test_an_empty_tensor_decodes_to_nothing_without_a_decoder(tmp_path, calls):
    w = GGUFWriter("bert")
    w.add_tensor("x", b"", (0, 32), "Q8_0")
    t = open_gguf(w.write(tmp_path / "x.gguf")).tensors["x"]
    assert t.dequantize().shape == (0, 32)
    assert t.rows([]).shape == (0, 32)
    with pytest.raises(RequestError, match="row"):
        t.rows([0])
    assert calls == []


def test_one_number_decodes_to_a_scalar(tmp_path, calls):
    w = GGUFWriter("bert")
    w.add_tensor("x", np.array([2.5], np.float32), (), "F32")
    found = open_gguf(w.write(tmp_path / "x.gguf")).tensors["x"].dequantize()
    assert found.shape == ()
    assert found == 2.5


def test_repr_leaves_the_bytes_out(tensor):
    t, _ = tensor("F32", (2, 256))
    assert "array" not in repr(t)
    assert "name='x', shape=(2, 256)" in repr(t)
    assert t.type is BY_NAME["F32"]
