"""replay: each operation on the other engine's inputs, on a forward pass of three operations."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.errors import RequestError
from refembed.model.trace import Recorder, Trace, TracedTensor
from refembed.verify.compare.align import align
from refembed.verify.compare.replay import ReplayTap, replay

X = np.arange(6, dtype=np.float64).reshape(2, 3)


def forward(tap, *, double=2.0):
    """x -> doubled -> plus one -> squared."""
    x = tap("doubled", X * double)
    x = tap("plus", x + 1)
    return tap("squared", x * x)


def other(*, double=2.0, plus=1.0):
    """The same by another engine, in float32 and under another name for the sum."""
    a = (X * double).astype(np.float32)
    b = a + np.float32(plus)
    return Trace(
        [TracedTensor("doubled", a, "SCALE"), TracedTensor("node_1", b, "ADD"), TracedTensor("squared", b * b, "SQR")]
    )


def test_engines_that_agree_differ_nowhere():
    assert [d.difference.max_abs for d in replay(forward, other())] == [0, 0, 0]


def test_an_error_shows_where_it_is_made_and_nowhere_else():
    """Their doubling is wrong; their sum and square of it are right."""
    found = replay(forward, other(double=3.0))
    assert [(d.name, d.difference.max_abs) for d in found] == [("doubled", 5), ("plus", 0), ("squared", 0)]


def test_an_error_in_an_unnamed_node_shows_at_its_place():
    found = replay(forward, other(plus=1.5))
    assert [d.difference.max_abs for d in found] == [0, 0.5, 0]
    assert (found[1].name, found[1].theirs, found[1].op, found[1].k) == ("plus", "node_1", "ADD", 0)


def test_ours_is_the_reference():
    """rel_peak is relative to ours: 1 of 1, not of 3."""
    theirs = Trace([TracedTensor("x", np.array([3.0]), "ADD")])
    assert replay(lambda tap: tap("x", np.array([1.0])), theirs)[0].difference.rel_peak == 2


def test_what_has_no_partner_passes_through():
    """The operation behind it then gets our value, so its local error covers both."""
    theirs = other(double=3.0)
    theirs = Trace([theirs.tensors[1]._replace(name="plus"), theirs.tensors[2]])
    found = replay(forward, theirs)
    assert [(d.name, d.difference.max_abs) for d in found] == [("plus", 5), ("squared", 0)]


def test_theirs_comes_back_in_our_type_and_shape():
    """Also where theirs has one axis more, and without sharing memory with the trace."""
    theirs = Trace([TracedTensor("x", np.full((1, 3), 7, np.float32), "ADD")])
    ours = Recorder()
    ours("x", np.zeros(3))
    tap = ReplayTap(ours.trace, theirs, align(ours.trace, theirs))
    y = tap("x", np.zeros(3))
    assert (y.dtype, y.shape, y.tolist()) == (np.float64, (3,), [7, 7, 7])
    assert not np.shares_memory(y, theirs.tensors[0].array)
    assert tap.active


def test_names_that_repeat_are_replayed_by_occurrence():
    theirs = Trace([TracedTensor("q", np.zeros(3), "MUL_MAT"), TracedTensor("q", np.ones(3), "ADD")])
    found = replay(lambda tap: tap("q", tap("q", np.zeros(3)) + 1), theirs)
    assert [(d.k, d.op, d.difference.max_abs) for d in found] == [(0, "MUL_MAT", 0), (1, "ADD", 0)]


def test_a_forward_pass_that_changes_its_taps_is_refused():
    names = iter(["a", "b"])
    with pytest.raises(RequestError, match="shows 'b' where its first run showed 'a'"):
        replay(lambda tap: tap(next(names), np.zeros(3)), Trace([]))
