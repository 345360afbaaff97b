"""tools/check_tests.py finds the kinds of tests that cannot fail, and leaves sound ones alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.check_tests import asserting_functions, check

FAULTY = {
    "T1": "def test_a():\n    assert f(1), f(2) == 3\n",
    "T2": "def test_a():\n    assert (f(1), f(2) == 3)\n",
    "T3": "def test_a():\n    with pytest.raises(Exception):\n        f(1)\n",
    "T4": "def test_a():\n    f(1)\n",
    "T5": "def test_a(trace):\n    if 'kq-0' in trace:\n        assert trace['kq-0'].any()\n",
    "T6": "def test_a(trace):\n    for name in trace.names():\n        assert name\n",
}
SOUND = {
    "a message": "def test_a():\n    assert f(1) == 2, (1, f(1))\n",
    "another branch": "def test_a(x):\n    if x:\n        assert f(1)\n    else:\n        assert f(2)\n",
    "a named error": "def test_a():\n    with pytest.raises(ValueError):\n        f(1)\n",
    "any error with a message": "def test_a():\n    with pytest.raises(Exception, match='two'):\n        f(1)\n",
    "a loop over what is written out": "def test_a():\n    for n in (1, 2):\n        assert f(n)\n",
    "a loop over a parameter": (
        "@pytest.mark.parametrize('n', [(1, 2)])\ndef test_a(n):\n    for i in n:\n        assert i\n"
    ),
    "a helper that asserts": (
        "def agrees(x):\n    assert x\ndef through(x):\n    agrees(x)\ndef test_a():\n    through(f(1))\n"
    ),
    "an excuse": "def test_a():  # may be skipped: it only has to end\n    f(1)\n",
}


def found_in(source: str, folder: Path) -> list[str]:
    """What the tool says of one file."""
    ast.parse(source)
    path = folder / "test_sample.py"
    path.write_text(source)
    return check([path], asserting_functions([path]))


@pytest.mark.parametrize("kind", FAULTY)
def test_a_test_that_cannot_fail_is_found(kind: str, tmp_path: Path) -> None:
    (found,) = found_in(FAULTY[kind], tmp_path)
    assert f": {kind}: " in found


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_test_is_left_alone(kind: str, tmp_path: Path) -> None:
    assert found_in(SOUND[kind], tmp_path) == []
