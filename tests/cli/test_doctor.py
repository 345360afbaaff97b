"""refembed doctor: findings for people and programs, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refembed.gguf import open_gguf
from refembed.testing.synthetic import synthetic
from tests.cli.conftest import Cli
from tests.verify.doctor.test_doctor import changed


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return changed(
        synthetic(tmp_path / "raw.gguf", "bert", pooling=1), tmp_path / "m.gguf", {"general.file_type": (0, "UINT32")}
    )


@pytest.fixture
def sick(healthy: Path, tmp_path: Path) -> Path:
    """A NaN among the weights, and no pooling."""
    t = open_gguf(healthy).tensors["blk.0.ffn_up.weight"]
    x = np.array(t.dequantize())
    x[1, 2] = np.nan
    return changed(healthy, tmp_path / "sick.gguf", {"bert.pooling_type": None}, swap={t.name: (x, "F32")})


def test_a_healthy_file_ends_with_0(cli: Cli, healthy: Path) -> None:
    r = cli("doctor", healthy)
    assert (r.code, r.out, r.err) == (0, f"✓ {healthy}: nothing to complain about\n", "")


def test_errors_end_with_3_and_each_finding_says_what_to_do(cli: Cli, sick: Path) -> None:
    r = cli("doctor", sick)
    assert r.code == 3
    lines = r.out.splitlines()
    assert lines[0] == f"✗ {sick}: its vectors will be wrong, or there will be none (1 error, 1 warning)"
    assert lines[2].startswith("✗ error: weights: blk.0.ffn_up.weight (F32): 1 of 1,800 weights are not finite")
    assert lines[5].startswith(
        "! warning: pooling: the file names no pooling, so each token has a vector [bert.pooling_type]"
    )
    assert [line.startswith("    do: ") for line in lines] == [False, False, False, True, False, False, True]
    assert lines[1] == lines[4] == ""


def test_warnings_alone_end_with_0(cli: Cli, sick: Path) -> None:
    r = cli("doctor", sick, "--no-weights")
    assert r.code == 0
    assert r.out.startswith(f"! {sick}: its vectors may be wrong")
    assert "(1 warning)" in r.out


def test_json_is_one_object(cli: Cli, sick: Path) -> None:
    r = cli("doctor", sick, "--json")
    found = json.loads(r.out)
    assert (r.code, found["healthy"], found["counts"]) == (3, False, {"error": 1, "warning": 1, "note": 0})
    assert [set(x) for x in found["findings"]] == [{"severity", "check", "says", "do", "where"}] * 2


def test_what_is_no_model_file_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing of the kind")
    for name in ("x.gguf", "nosuch.gguf"):
        r = cli("doctor", tmp_path / name)
        assert r.code == 2
        assert r.raw == b""
        assert r.err.startswith("error: ")


def test_a_hostile_name_does_not_reach_the_terminal(cli: Cli, healthy: Path, tmp_path: Path) -> None:
    bad = changed(healthy, tmp_path / "a.gguf", {"general.architecture": ("x\x1b[2J", "STRING")})
    assert "\x1b[2J" not in cli("doctor", bad).out
