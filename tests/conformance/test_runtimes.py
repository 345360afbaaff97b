"""Noise floors of other runtimes: how they are measured, and what `verify` says of what is left."""

from __future__ import annotations

import math

import numpy as np
import pytest

from conformance import runtimes
from conformance.bounds import PATH
from conformance.toml import read_toml
from refembed.verify.compare.runtimes import ENGINES, NAMES, OURS, PRECISIONS, RUNTIMES, rounding_of


def turned(degrees):
    """A runtime whose vectors are (1, 0), turned by that angle times the number of tokens."""

    def run(batch):
        angles = np.radians(degrees) * batch["attention_mask"].sum(axis=1)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    return run


def test_a_floor_is_what_settings_are_apart():
    """Settings at 0, 0.1 and 0.3 degrees a token, texts of 1, 2 and 3 tokens; float64 is at -0.1."""
    ids = [[5, 6, 7], [5], [5, 6]]
    settings = [("f32", str(d), turned(d), size) for d, size in ((0.0, 1), (0.1, 2), (0.3, 8))]
    settings += [("int8", "1", turned(1.0), 1), ("int8", "3", turned(3.0), 1)]
    exact = np.asarray(turned(-0.1)(runtimes.padded(ids)), np.float64)
    found = runtimes.floors(iter(settings), ids, exact)
    of = {n: 1 - math.cos(math.radians(0.3 * n)) for n in (1, 2, 3)}
    assert found["f32"]["spread"] == pytest.approx([of[2], of[3]], rel=1e-2)
    assert found["f32"]["exact"] == pytest.approx([1 - math.cos(math.radians(0.4 * n)) for n in (2, 3)], rel=1e-2)
    assert (found["f32"]["settings"], found["f32"]["texts"]) == (3, 3)
    assert found["int8"]["spread"][1] == pytest.approx(1 - math.cos(math.radians(6.0)), rel=1e-3)


def test_batches_are_padded_masked_and_put_back_in_order():
    ids, seen = [[1, 2, 3, 4], [9], [7, 8]], []

    def run(batch):
        seen.append(batch["attention_mask"].sum(axis=1).tolist())
        return batch["input_ids"][:, :1]

    assert runtimes.in_batches(run, ids, 2)[:, 0].tolist() == [1, 9, 7]
    assert seen == [[1, 2], [4]]


def test_what_verify_knows_is_what_was_measured():
    stored = runtimes.load()
    assert {
        name: {p: row["exact"][1] for p, row in precisions.items()} for name, precisions in stored.items()
    } == RUNTIMES
    assert set(RUNTIMES) == set(NAMES) == {"onnxruntime", "openvino", "pytorch"}
    assert {p for row in RUNTIMES.values() for p in row} <= set(PRECISIONS)
    assert set(ENGINES.values()) <= set(RUNTIMES)


def test_a_rest_is_a_runtimes_own_rounding_or_it_is_not():
    """Two angles add up: 1 - cos of (sqrt(2 a) + sqrt(2 b)) is (sqrt a + sqrt b)^2."""
    limit = (math.sqrt(RUNTIMES["onnxruntime"]["f32"]) + math.sqrt(OURS)) ** 2
    assert "is within ONNX Runtime's rounding in float32: on MiniLM" in rounding_of("onnx", 0.999 * limit)
    assert "in 8 bits" in rounding_of("onnx", 1.001 * limit)
    assert rounding_of("onnx", 0.5) == ""
    assert rounding_of("recorded", 0.0) == ""
    assert "PyTorch's rounding in bfloat16" in rounding_of("sentence-transformers", RUNTIMES["pytorch"]["bf16"])


def test_our_own_share_is_the_bound_that_is_held():
    assert read_toml(PATH)["distance"]["f32"]["any"]["one_minus_cos"]["bound"] == OURS


def test_tables_are_written_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "PATH", tmp_path / "runtimes.toml")
    row = {"spread": [1e-13, 2e-12], "exact": [3e-13, 4e-12], "settings": 8, "texts": 20, "version": "1", "cpu": "x"}
    runtimes.write({"onnxruntime": {"f32": row}})
    runtimes.write({"pytorch": {"bf16": row}})
    assert runtimes.load() == {"onnxruntime": {"f32": row}, "pytorch": {"bf16": row}}
