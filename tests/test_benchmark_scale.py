"""`python -m benchmarks scale`: what its tables say of the figures they were given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale, scale_runs
from benchmarks.tables import MARKED, filled

RESULTS: dict[str, Any] = {
    "machine": {"processor": "A processor, family 1", "cores": "2"}, "load": [0.1, 0.2],
    "when": "2026-11-30T20:10:00+00:00", "model": "minilm:q8_0, fast", "texts": 1000, "tokens a text": 27.0,
    "seconds": {"`EmbedBatch`, 1 x 1": [4.0, 5.0], "1 x 2": [2.0, 4.0], "2 x 1": [2.5, 4.0]},
    "computed": {"`EmbedBatch`, 1 x 1": [4.0, 4.0], "1 x 2": [4.0, 4.2], "2 x 1": [4.0, 4.0]},
    "memory": {"2 x 1": {"Private_Clean": 1024, "Private_Dirty": 2048, "Shared_Clean": 4096, "Shared_Dirty": 0,
                         "Pss": 5120, "model": 2048}},
    "tokenizers": {"tokenized here": {"that computes nothing": 4e5}, "`tokenizers=1`": {"that computes nothing": 5e5}},
    "engines": {"no engine": [100, 2.0, 1100, 12.0], "Spark": [100, 12.0, 1100, 32.0]}, "absent": {"Dask": "it fled"},
}  # fmt: skip


def test_rates_are_of_rounds_and_ratios_within_them() -> None:
    assert "| 1 x 2 | 375 | 250 to 500 | 4.10 |" in scale.shapes_table(RESULTS)
    assert scale.shapes_line(RESULTS).endswith("round by round: 0.90 (0.80 to 1.00).")


def test_an_engine_is_its_start_and_what_each_text_takes() -> None:
    """(1100 - 100) / (12 - 2) = 100 texts/s, and 100 of them take 1 of the first 2 s; Spark: 50/s, 2 of 12 s."""
    table = scale.engines_table(RESULTS)
    assert "| no engine | 1.0 | 100 | 1.00 | 12.0 |" in table
    assert "| Spark | 10.0 | 50 | 0.50 | 32.0 |" in table
    assert "1,100 texts, s" in table
    assert table.endswith("Not measured: Dask: it fled.")
    assert scale.engines_table({k: v for k, v in RESULTS.items() if k != "engines"}) == "Not measured."


def test_a_speed_that_the_start_hides_is_not_made_up() -> None:
    engines = {"no engine": [100, 2.0, 1100, 12.0], "Dask": [100, 44.0, 1100, 31.0], "Spark": [100, 12.0, 1100, 12.0]}
    table = scale.engines_table(RESULTS | {"engines": engines})
    assert "| Dask | 31.0 | too few texts |  | 31.0 |" in table
    assert "| Spark | 12.0 | too few texts |  | 12.0 |" in table
    table = scale.engines_table(RESULTS | {"engines": dict(reversed(engines.items()))})
    assert "| no engine | 1.0 | 100 |  | 12.0 |" in table


def test_memory_is_in_mib_and_tokens_are_a_second() -> None:
    assert "| 2 x 1 | 3 | 4 | 2 | 5 |" in scale.memory_table(RESULTS)
    assert "| `tokenizers=1` | 500,000 |" in scale.tokenizers_table(RESULTS)


def test_the_page_has_every_table_and_those_of_the_results_that_are_kept() -> None:
    page = scale.PAGE.read_text(encoding="utf-8")
    assert sorted(name for _, name, _ in MARKED.findall(page)) == sorted(scale.TABLES)
    new = filled(page, RESULTS, "p", scale.TABLES)
    assert filled(new, RESULTS, "p", scale.TABLES) == new
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in scale.FOLDER.glob("scale-*.json")]
    assert any(filled(page, results, "p", scale.TABLES) == page for results in kept or [{}])


def test_of_several_machines_the_results_measured_last_are_taken(tmp_path: Path) -> None:
    """Whatever the files' own times, which a checkout sets anew."""
    for i, when in enumerate(("2026-11-29T23:59:00+00:00", "2026-11-30T20:10:00+00:00", "2025-12-31T08:00:00+00:00")):
        path = tmp_path / f"scale-{i}.json"
        path.write_text(json.dumps(RESULTS | {"when": when}), encoding="utf-8")
        os.utime(path, (1000 - i, 1000 - i) if i < 2 else None)
    assert scale.newest(tmp_path)["when"] == RESULTS["when"]
    assert ", 30 November 2026 (" in scale.source_line(RESULTS)
    with pytest.raises(SystemExit, match="no results are kept"):
        scale.newest(tmp_path / "none")


@pytest.mark.parametrize("cores", [1, 2, 4, 6])
def test_shapes_use_all_cores(cores: int) -> None:
    first, *others = scale_runs.shapes(cores)
    assert first == (1, 1)
    assert all(n * t == cores for n, t in others)


def test_what_a_program_said_last_is_its_reason() -> None:
    assert scale_runs.last_line(b"a\nb: no Java\n\n") == "b: no Java"
    assert scale_runs.last_line(b"") == "it said nothing"
