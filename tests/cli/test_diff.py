"""refembed diff: two traces, the first difference, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refembed import Trace
from refembed.model.trace import TracedTensor
from refembed.verify.differences import side_by_side
from tests.cli.conftest import Cli

X = np.array([[1.0, 2.0, 4.0], [-1.0, 0.5, 8.0]], np.float32)
ONE_STEP = np.nextafter(X, np.float32(100))  # the next float32 of each


def trace(**arrays: np.ndarray) -> Trace:
    """A trace with these tensors; `Qcur_0__1` is the second Qcur-0."""
    return Trace(
        [TracedTensor(name.split("__")[0].replace("_0", "-0"), x) for name, x in arrays.items()], {"tokens": [1, 2]}
    )


@pytest.fixture
def saved(tmp_path: Path):
    def save(name: str, t: Trace) -> Path:
        return t.save(tmp_path / name)

    return save


def test_equal_traces_agree(cli: Cli, saved) -> None:
    a = saved("a.npz", trace(embd=X, Qcur_0=X, Qcur_0__1=2 * X))
    r = cli("diff", a, a)
    assert (r.code, r.out) == (0, "3 tensors agree\n")


def test_the_first_difference_is_named_with_which_of_its_name(cli: Cli, saved) -> None:
    a = saved("a.npz", trace(embd=X, Qcur_0=X, Qcur_0__1=2 * X, l_out_0=X))
    b = saved("b.npz", trace(embd=X, Qcur_0=X, Qcur_0__1=2 * X + 1, l_out_0=X + 1))
    r = cli("diff", a, b)
    assert r.code == 3
    assert "2 of 4 tensors differ, the first is Qcur-0 (no. 2): " in r.out
    assert "largest difference 1 at (0, 0)" in r.out


@pytest.mark.parametrize(("options", "code"), [((), 3), (("--ulp", "1"), 0), (("--ulp", "0", "--rel", "1e-6"), 0),
                                               (("--rel", "1e-9"), 3)])  # fmt: skip
def test_bounds_are_steps_of_float32_or_a_share_of_the_largest(cli: Cli, saved, options, code) -> None:
    a, b = saved("a.npz", trace(embd=X)), saved("b.npz", trace(embd=ONE_STEP))
    assert cli("diff", a, b, *options).code == code


def test_tensors_of_one_trace_alone_differ_unless_left_out(cli: Cli, saved) -> None:
    a, b = saved("a.npz", trace(embd=X, kq_0=X)), saved("b.npz", trace(embd=X, norm_0=X))
    r = cli("diff", a, b)
    assert r.code == 3
    assert {line.split()[0]: line.split()[-3:] for line in r.out.splitlines()[1:3]} == {
        "kq-0": ["only", "in", "A"], "norm-0": ["only", "in", "B"]
    }  # fmt: skip
    assert cli("diff", a, b, "--common").code == 0


def test_nan_in_the_same_places_agrees_and_in_others_differs(cli: Cli, saved) -> None:
    bad, elsewhere = X.copy(), X.copy()
    bad[0, 0], elsewhere[1, 1] = np.nan, np.nan
    a = saved("a.npz", trace(embd=bad))
    assert cli("diff", a, saved("b.npz", trace(embd=bad))).code == 0
    r = cli("diff", a, saved("c.npz", trace(embd=elsewhere)), "--rel", "1e9", "--ulp", "999999999")
    assert r.code == 3
    assert "not finite: 1 | 1" in r.out


def test_other_shapes_are_no_pair(cli: Cli, saved) -> None:
    a, b = saved("a.npz", trace(embd=X, kq_0=X)), saved("b.npz", trace(embd=X, kq_0=X.T))
    assert [(x.name, x.only) for x in side_by_side(Trace.load(a), Trace.load(b))] == [
        ("embd", ""), ("kq-0", "a"), ("kq-0", "b")
    ]  # fmt: skip


def test_json_has_every_tensor_and_no_infinity(cli: Cli, saved) -> None:
    a, b = saved("a.npz", trace(embd=0 * X, kq_0=X)), saved("b.npz", trace(embd=X, kq_0=X))
    r = cli("diff", a, b, "--json")
    found = json.loads(r.out, parse_constant=lambda name: pytest.fail(name))
    assert (r.code, found["agree"], found["first"]) == (3, False, "embd")
    first, second = found["tensors"]
    assert (first["max_abs"], first["rel_peak"], first["worst"]) == (8.0, None, [1, 2])
    assert (second["identical"], second["agrees"], second["max_ulps"]) == (True, True, 0)


def test_what_is_no_trace_is_one_sentence(cli: Cli, saved, tmp_path: Path) -> None:
    a = saved("a.npz", trace(embd=X))
    (tmp_path / "b.npz").write_bytes(b"no zip")
    for other, words in (("b.npz", "not a trace"), ("c.npz", "no such file")):
        r = cli("diff", a, tmp_path / other)
        assert (r.code, r.raw) == (1, b"")
        assert words in r.err
    r = cli("diff", a, saved("d.npz", trace(other=X)))
    assert (r.code, r.raw) == (1, b"")
    assert "no tensor in common" in r.err
    assert cli("diff", a, a, "--rel", "nan").code == 1


def test_runs_of_other_tokens_are_noted(cli: Cli, saved) -> None:
    a = trace(embd=X)
    b = Trace(a.tensors, {"tokens": [1, 3]})
    assert "different token ids" in cli("diff", saved("a.npz", a), saved("b.npz", b)).err


def test_traces_of_the_command_line_are_compared(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    for name, numerics in (("a", "exact"), ("b", "fast")):
        cli("trace", "-q", "-m", tiny, "--numerics", numerics, "--save", tmp_path / f"{name}.npz", "hello world")
    assert cli("diff", tmp_path / "a.npz", tmp_path / "b.npz").code == 3
    assert cli("diff", tmp_path / "a.npz", tmp_path / "b.npz", "--rel", "1e-5").code == 0


@pytest.mark.oracle
def test_a_trace_of_llamacpp_has_all_tensors_of_ours(cli: Cli, minilm: Path, oracle, tmp_path: Path) -> None:
    """Measured with the pinned wheel: 7.8e-4 (its GELU table and its cache are F16), and none left over."""
    from refembed import Embedder

    ours = Embedder.load(minilm, numerics="exact").trace("Hello, world!")
    theirs = oracle.trace([int(i) for i in ours.meta["tokens"]])
    a, b = ours.save(tmp_path / "a.npz"), Trace(theirs.tensors, {}).save(tmp_path / "b.npz")
    r = cli("diff", a, b, "--rel", "2e-3", "--json")
    found = json.loads(r.out)
    assert r.code == 0
    assert len(found["tensors"]) == len(ours)
    assert cli("diff", a, b).code == 3
