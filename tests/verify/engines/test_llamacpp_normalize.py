"""refembed's normalization against llama.cpp's own common_embd_normalize, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refembed.pooling.normalize import normalize
from refembed.verify.engines.llamacpp import LlamaCpp

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def library():
    with LlamaCpp(None) as e:
        yield e


def test_known_vectors(library):
    x = np.array([[3, -4], [0, 0]], np.float32)
    np.testing.assert_array_equal(library.normalize(x), np.array([[0.6, -0.8], [0, 0]], np.float32))
    np.testing.assert_array_equal(library.normalize(x, -1), x)
    np.testing.assert_array_equal(library.normalize(x, 0), np.array([[24570, -32760], [0, 0]], np.float32))
    np.testing.assert_allclose(library.normalize(x, 1), [[3 / 7, -4 / 7], [0, 0]], rtol=1e-7)
    np.testing.assert_allclose(library.normalize(x, 3)[0], x[0] / 91 ** (1 / 3), rtol=1e-7)


def test_shapes_stay(library):
    for shape in ((5,), (2, 5), (2, 3, 5), (0, 5)):
        assert library.normalize(np.ones(shape, np.float32)).shape == shape


@given(
    x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(width=32)),
    p=st.integers(-1, 5),
)
def test_ours_has_the_same_bits(library, x, p):
    """Any floats: denormals, infinities, NaN."""
    want, got = library.normalize(x, p), normalize(x, p)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    ok = ~np.isnan(want)
    assert got[ok].tobytes() == want[ok].tobytes()
