"""read_tensor on ggml tensors laid out by hand: types, strides, quantized bytes, memory elsewhere."""

from __future__ import annotations

import ctypes as ct

import numpy as np
import pytest

from refembed.verify.engines.llamacpp_abi import GgmlTensor
from refembed.verify.engines.llamacpp_tensor import read_tensor


class NoLibrary:
    """No function may be needed for tensors in our own memory."""


class OtherMemory:
    """A backend whose buffers cannot be read where they lie."""

    def __init__(self, data):
        self.data = data

    def ggml_backend_buffer_is_host(self, buffer):
        return False

    def ggml_backend_tensor_get(self, address, to, offset, size):
        ct.memmove(ct.addressof(to) + offset, self.data[offset : offset + size], size)


def tensor(kind, x, *, ne=None, nb=None, offset=0):
    """A ggml_tensor over x's memory, x given in NumPy order."""
    t = GgmlTensor(type=kind, data=x.ctypes.data + offset)
    ne = ne or [*x.shape[::-1], 1, 1, 1, 1][:4]
    nb = nb or [*x.strides[::-1], x.nbytes, x.nbytes, x.nbytes, x.nbytes][:4]
    t.ne[:], t.nb[:] = ne, nb
    return t


def read(t, lib=None):
    return read_tensor(lib or NoLibrary(), ct.addressof(t))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(0, np.float32), (1, np.float16), (24, np.int8), (25, np.int16), (26, np.int32), (27, np.int64), (28, np.float64)],
)
def test_plain_types_come_as_they_are(kind, dtype):
    x = np.arange(-6, 6).reshape(3, 4).astype(dtype)
    y = read(tensor(kind, x))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)


def test_bf16_comes_as_the_float32_it_stands_for():
    x = np.array([[1.0, -2.5, 2.0**-126, np.inf]], np.float32)  # all exact in bfloat16
    y = read(tensor(30, (x.view(np.uint32) >> 16).astype(np.uint16)))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, x)


def test_a_copy_is_made():
    """ggml uses the memory again at once."""
    x = np.zeros((2, 3), np.float32)
    y = read(tensor(0, x))
    x[:] = 9
    assert not y.any()
    assert y.flags.owndata or y.base.flags.owndata


def test_strides_are_obeyed():
    """A permuted tensor, and a view of the middle third of fused rows."""
    x = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    t = tensor(0, x, ne=[4, 2, 3, 1], nb=[4, 48, 16, 96])
    np.testing.assert_array_equal(read(t), x.transpose(1, 0, 2))
    fused = np.arange(5 * 9, dtype=np.float32).reshape(5, 9)
    np.testing.assert_array_equal(
        read(tensor(0, fused, ne=[3, 5, 1, 1], nb=[4, 36, 180, 180], offset=12)), fused[:, 3:6]
    )
    np.testing.assert_array_equal(read(tensor(0, fused, ne=[5, 9, 1, 1], nb=[36, 4, 180, 180])), fused.T)


@pytest.mark.parametrize(
    ("ne", "shape"),
    [
        ([6, 1, 1, 1], (1, 6)),
        ([3, 2, 1, 1], (2, 3)),
        ([1, 6, 1, 1], (6, 1)),
        ([1, 2, 3, 1], (3, 2, 1)),
        ([1, 1, 1, 6], (6, 1, 1, 1)),
    ],
)
def test_shapes_are_reversed_and_at_least_two_axes(ne, shape):
    nb = [4 * int(np.prod(ne[:i])) for i in range(4)]
    assert read(tensor(0, np.zeros(6, np.float32), ne=ne, nb=nb)).shape == shape


def test_an_axis_of_length_zero_reads_nothing():
    """Such a tensor has no memory."""
    t = tensor(0, np.zeros(6, np.float32), ne=[6, 0, 1, 1], nb=[4, 24, 0, 0])
    t.data = None
    assert read(t).shape == (0, 6)
    assert read(t).dtype == np.float32


def test_quantized_weights_come_as_their_bytes():
    """Two blocks of Q8_0: 34 bytes each."""

    class Sizes:
        def ggml_nbytes(self, address):
            return 68

    x = np.arange(68, dtype=np.uint8)
    y = read(tensor(8, x, ne=[64, 1, 1, 1], nb=[34, 68, 68, 68]), Sizes())
    assert y.dtype == np.uint8
    np.testing.assert_array_equal(y, x)


def test_memory_elsewhere_is_fetched():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    t = tensor(0, x)
    t.buffer, t.data = 1, 8  # an address that must not be touched
    np.testing.assert_array_equal(read(t, OtherMemory(x.tobytes())), x)
