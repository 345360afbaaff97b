"""Taps and traces."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.errors import RequestError
from refembed.kernels.ops import NO_TAP
from refembed.model.trace import Recorder, Trace, at_layer


def sample() -> Trace:
    r = Recorder({"model": "m"})
    r("Qcur-0", np.arange(6, dtype=np.float32).reshape(2, 3))
    r("kq-0", np.array([[np.nan, -0.0]]))
    r("Qcur-0", np.ones((2, 3), np.float32))
    return r.trace


def test_names_repeat_and_are_counted() -> None:
    t = sample()
    assert list(t) == ["Qcur-0", "kq-0"]
    assert len(t) == 3
    assert t["Qcur-0", 0][1, 2] == 5
    assert t["Qcur-0"][1, 2] == t["Qcur-0", 1][1, 2] == 1
    assert "kq-0" in t
    with pytest.raises(KeyError, match="occurs 2 times"):
        t["Qcur-0", 2]


def test_a_recorder_keeps_a_copy() -> None:
    r, x = Recorder(), np.zeros(3)
    assert r("x", x) is x
    x[:] = 7
    assert (r.trace["x"] == 0).all()


def test_a_saved_trace_is_the_same_bits_in_the_same_order(tmp_path: Path) -> None:
    t = sample()
    back = Trace.load(t.save(tmp_path / "run.npz"))
    assert back.meta == {"model": "m"}
    assert [x.name for x in back.tensors] == [x.name for x in t.tensors]
    for a, b in zip(back.tensors, t.tensors, strict=True):
        assert a.array.dtype == b.array.dtype
        assert a.array.tobytes() == b.array.tobytes()


def test_names_of_nodes_may_hold_any_character(tmp_path: Path) -> None:
    r = Recorder()
    for name in ("result_embd (transposed) (cont)", "a/b", "..", " (reshaped)", ""):
        r(name, np.zeros(1))
    back = Trace.load(r.trace.save(tmp_path / "odd.npz"))
    assert [t.name for t in back.tensors] == [t.name for t in r.trace.tensors]


def test_what_is_no_trace_is_said_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(RequestError, match="not a trace"):
            Trace.load(tmp_path / name)
    with pytest.raises(RequestError, match="no such file"):
        Trace.load(tmp_path / "none.npz")


def test_a_trace_cut_short_anywhere_is_a_request_error(tmp_path: Path) -> None:
    whole = sample().save(tmp_path / "run.npz").read_bytes()
    for n in range(0, len(whole), 7):
        (tmp_path / "cut.npz").write_bytes(whole[:n])
        with pytest.raises(RequestError):
            Trace.load(tmp_path / "cut.npz")


def test_nothing_is_left_where_saving_fails(tmp_path: Path) -> None:
    t = Trace(meta={"bad": {1, 2}})  # a set is no JSON
    with pytest.raises(TypeError):
        t.save(tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_tap_puts_the_number_behind_the_name() -> None:
    r = Recorder()
    at_layer(r, 4)("kq", np.zeros(1))
    at_layer(r, 4)("", np.zeros(1))
    assert list(r.trace) == ["kq-4"]
    assert at_layer(NO_TAP, 4) is NO_TAP


@pytest.mark.parametrize(
    "about",
    [
        [], None, {"ops": []}, {"ops": [], "meta": []}, {"ops": "", "meta": {}}, {"ops": [1], "meta": {}},
        {"ops": [], "meta": {"text": 5}}, {"ops": [], "meta": {"tokens": "1"}}, {"ops": [], "meta": {"tokens": [True]}},
    ],
)  # fmt: skip
def test_a_description_of_another_shape_is_refused(about: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "run.npz", "w") as z:
        z.writestr("meta.json", json.dumps(about))
    with pytest.raises(RequestError, match=r"not a trace: meta\.json"):
        Trace.load(tmp_path / "run.npz")
