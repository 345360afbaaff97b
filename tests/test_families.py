"""`python -m benchmarks families`: synthetic models of five families, refembed and llama.cpp in turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import families
from refembed import Embedder, open_gguf

pytestmark = pytest.mark.system


@pytest.mark.parametrize("family", families.FAMILIES)
def test_each_family_has_a_narrow_model_that_can_be_run(family: str, tmp_path: Path) -> None:
    path, count = families.write(family, "F16", 0.1, tmp_path)
    tensors = open_gguf(path).tensors
    assert count == sum(int(np.prod(t.shape)) for t in tensors.values())
    vector = Embedder.load(path).embed([[5, 6, 7]])
    assert np.isfinite(vector).all()
    assert vector.any()


@pytest.mark.parametrize("family", families.FAMILIES)
def test_whole_sizes_are_what_was_asked_for(family: str) -> None:
    whole = families.FAMILIES[family]
    assert families.scaled(whole, 1) == whole
    narrow = families.scaled(whole, 0.5)
    assert narrow["C"] == narrow["H"] * narrow["D"] == 256
    assert narrow["H"] % narrow["K"] == 0


def test_its_report_names_the_build_of_llama_cpp(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--families", "olmo2", "--types", "F16", "--rows", "1x512", "--engines", "fast"]
    families.main([*short, "--scale", "0.1", "--seconds", "0.1", "--threads", "1"])
    printed = capsys.readouterr().out
    assert "wheel, built for AVX2, not native" in printed
    assert "olmo2 F16" in printed
    assert "1x512" in printed


def test_a_model_that_fails_does_not_end_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_model(family: str, type_name: str, args: object) -> None:
        if family == "qwen3moe":
            raise RuntimeError("no such kernel")
        print(f"measured {family} {type_name}")

    monkeypatch.setattr(families, "measure_model", measure_model)
    with pytest.raises(SystemExit) as end:
        families.main(["--families", "qwen3moe", "olmo2", "--types", "F16"])
    printed = capsys.readouterr().out
    assert end.value.code == 1
    assert "missing: qwen3moe F16: RuntimeError: no such kernel" in printed
    assert "measured olmo2 F16" in printed


def test_no_model_is_begun_that_would_not_be_done_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        families.main(["--families", "olmo2", "--minutes", "0"])
    printed = capsys.readouterr().out
    assert "missing: olmo2 F16: no time left" in printed
    assert "missing: olmo2 Q8_0: no time left" in printed
