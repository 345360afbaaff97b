"""Tests that hang fail (limits.py)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.child import ROOT
from tests.limits import LONG, USUAL, limit_of, limited

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no alarms")


def read_what_never_comes() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()


def wait_for_a_child() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            child.wait()
        finally:
            child.kill()


@pytest.mark.parametrize(
    "wait", [lambda: threading.Event().wait(), lambda: time.sleep(60), read_what_never_comes, wait_for_a_child]
)
def test_a_wait_that_never_ends_is_ended(wait: Callable[[], None]) -> None:
    began = time.monotonic()
    with pytest.raises(pytest.fail.Exception, match=r"^it takes longer than 0\.1 s$"), limited(0.1):
        wait()
    assert time.monotonic() - began < 30


def test_what_is_in_time_passes_and_the_limit_around_it_stays() -> None:
    def wait_behind_another() -> None:
        with limited(60):
            pass
        time.sleep(60)

    with pytest.raises(pytest.fail.Exception, match=r"longer than 0\.3 s"), limited(0.3):
        wait_behind_another()


@pytest.mark.limit(5)
def test_a_marker_sets_the_limit(request: pytest.FixtureRequest) -> None:
    assert limit_of(request.node) == 5
    request.node.add_marker("slow")
    assert limit_of(request.node) == 5


def test_slow_tests_may_take_longer(request: pytest.FixtureRequest) -> None:
    assert limit_of(request.node) == USUAL
    request.node.add_marker("slow")
    assert limit_of(request.node) == LONG


HANGS = """
import pytest, threading

@pytest.mark.limit(0.2)
def test_hangs():
    threading.Event().wait()

def test_does_not():
    pass
"""


@pytest.mark.system
def test_pytest_goes_on_behind_a_test_that_hangs(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HANGS)
    command = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "-p"]
    command += ["no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert "Failed: it takes longer than 0.2 s" in run.stdout, run.stdout + run.stderr
    assert "1 failed, 1 passed" in run.stdout
