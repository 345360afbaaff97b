"""`python -m benchmarks tradeoff`: what its page says of the figures it was given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tradeoff
from benchmarks.processes import Worker
from refembed import Embedder

pytestmark = pytest.mark.system

RESULTS: dict[str, Any] = {
    "machine": {"processor": "A processor, family 1", "features": "avx2", "cores": "2"},
    "threads": 2, "when": "30 November 2026", "load": [0.1, 0.2],
    "errors": {"refembed F32 fast": [1e-13, 2e-13], "OpenVINO F32": [3e-13, 1e-12], "OpenVINO INT8": [7e-3, 4e-2]},
    "absent": {"PyTorch F32": "no interpreter"},
    "rows": {
        "256x32": {
            "refembed F32 fast": {"tokens a second": 8192.0, "seconds": [1.0, 1.0, 2.0]},
            "OpenVINO F32": {"tokens a second": 4096.0, "seconds": [2.0, 2.0, 2.0]},
            "OpenVINO INT8": {"tokens a second": 16384.0, "seconds": [0.5, 0.5, 0.5]},
        }
    },
}  # fmt: skip


def test_the_page_has_errors_speeds_and_ratios_round_by_round() -> None:
    page = tradeoff.page([RESULTS])
    assert "| refembed F32 fast | 1.0e-13 / 2.0e-13 | 8,192 |" in page
    assert "| refembed F32 fast / OpenVINO F32 | 2.00 |" in page
    assert "fast / OpenVINO INT8" not in page, "a kind that is compared with others"
    assert "Not measured: PyTorch F32: no interpreter." in page


def test_rows_of_an_earlier_run_stay_where_the_same_builds_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tradeoff, "FOLDER", tmp_path)
    row = RESULTS["rows"]["256x32"]

    def kept(**changed: Any) -> list[str]:
        tradeoff.keep(RESULTS | {"builds": {"OpenVINO": "1"}} | changed)
        (file,) = tmp_path.glob("*.json")
        return list(json.loads(file.read_text())["rows"])

    assert kept(rows={"1x512": row}) == ["1x512"]
    assert kept() == ["256x32", "1x512"]
    assert kept(builds={"OpenVINO": "2"}) == ["256x32"]
    assert kept(rows={"1x8": row}, builds={"OpenVINO": "2"}, threads=1) == ["1x8"]


def test_errors_are_one_less_the_cosine(tiny: Path) -> None:
    """Of an engine that computes the very same, and of one that is compared with something else."""
    ids = [[4, 5, 6], [7, 8]]
    exact = np.stack(Embedder.load(tiny, numerics="exact").embed(ids)).astype(np.float64)
    with Worker("refembed") as worker:
        worker.open("Refembed", model=str(tiny), threads=1)
        median, worst = tradeoff.errors(worker, ids, exact)
        assert 0 <= median <= worst < 1e-10
        turned = np.roll(exact, 1, axis=1)
        cosines = (turned * exact).sum(1) / (exact * exact).sum(1)
        median, worst = tradeoff.errors(worker, ids, turned)
    assert worst == pytest.approx(1 - cosines.min(), rel=1e-5)
    assert median == pytest.approx(1 - np.median(cosines), rel=1e-5)


def test_every_contender_has_a_name_of_its_own() -> None:
    names = [c.name for c in tradeoff.CONTENDERS]
    assert len(set(names)) == len(names)
    assert all(c.name.startswith(c.family) for c in tradeoff.CONTENDERS)
