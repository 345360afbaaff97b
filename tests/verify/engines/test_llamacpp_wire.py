"""Frames: what goes in comes out, and a broken pipe is an EOFError."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refembed.verify.engines.llamacpp_wire import receive, send

arrays = hnp.arrays(st.sampled_from([np.float32, np.float16, np.int32, np.uint8]), hnp.array_shapes(min_side=0))


def frame(*messages):
    out = io.BytesIO()
    for m in messages:
        send(out, m)
    return out.getvalue()


@given(st.lists(arrays, max_size=4), st.text(), st.binary())
def test_messages_come_out_as_they_went_in(xs, text, data):
    """One after the other, arrays with their type and shape, and free to be written to."""
    source = io.BytesIO(frame({"xs": xs, "text": text}, [data]))
    got = receive(source)
    assert got["text"] == text
    assert len(got["xs"]) == len(xs)
    for x, y in zip(xs, got["xs"], strict=True):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
        assert y.flags.writeable
    assert receive(source) == [data]
    with pytest.raises(EOFError):
        receive(source)


def test_arrays_with_strides_of_their_own_come_out_right():
    x = np.arange(24).reshape(2, 3, 4)
    for view in (x.T, x[:, ::2], x[:, :, 1]):
        np.testing.assert_array_equal(receive(io.BytesIO(frame(view))), view)


def test_a_frame_cut_short_anywhere_is_an_eof_error():
    whole = frame({"x": np.arange(10)})
    for n in range(len(whole)):
        with pytest.raises(EOFError):
            receive(io.BytesIO(whole[:n]))
