"""--device, -ngl and --main-gpu: on a GPU where they say so, never on the CPU without a word."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from refembed.testing.synthetic_mmproj import synthetic_mmproj
from tests.cli.conftest import Cli
from tests.kernels.cuda.conftest import built
from tests.kernels.cuda.fake_cupy import FakeCupy
from tests.kernels.cuda.on_cpu import OnCpu
from tests.model.vision.towers import picture, text_model

__all__ = ["built"]  # a fixture


@pytest.fixture
def fake(built: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """Two GPUs that are none."""
    module = FakeCupy(OnCpu(built), gpus=2)
    monkeypatch.setitem(sys.modules, "cupy", module)  # type: ignore[arg-type]
    return module


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy is not installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("args", [["--device", "cuda"], ["--numerics", "cupy"], ["-dev", "CUDA0"]])
def test_without_cupy_a_gpu_is_one_error(cli: Cli, tiny: Path, args: list[str]) -> None:
    r = cli("embed", "-m", tiny, *args, "the cat")
    assert (r.code, r.raw) == (1, b"")
    assert r.err.startswith("error: numerics 'cupy' needs CuPy, which is not installed\n  hint: pip install")


@pytest.mark.usefixtures("without")
def test_without_cupy_layers_on_a_gpu_are_computed_on_the_cpu_with_a_warning(cli: Cli, tiny: Path) -> None:
    plain = cli("embed", "-q", "-m", tiny, "the cat")
    for args in (["-ngl", "99"], ["--gpu-layers=all"], ["-ngl", "1", "-mg", "1"]):
        r = cli("embed", "-q", "-m", tiny, *args, "the cat")
        assert (r.code, r.raw) == (0, plain.raw)
        assert "computed on the CPU, as CuPy is not installed: pip install 'refembed[cuda]'\n" in r.err
    for args in (["-ngl", "0"], ["--device", "cpu"], ["--device", "none"], ["-ngl", "99", "--device", "cpu"]):
        r = cli("embed", "-q", "-m", tiny, *args, "the cat")
        assert (r.code, r.raw, r.err) == (0, plain.raw, "")


@pytest.mark.parametrize(
    ("args", "gpu"),
    [
        (["--device", "cuda"], 0), (["--device", "cuda:1"], 1), (["-dev", "CUDA1"], 1), (["--numerics", "cupy"], 0),
        (["-ngl", "99"], 0), (["--n_gpu_layers", "all", "--main-gpu", "1"], 1), (["-ngl=3", "-mg=1"], 1),
        (["--numerics", "cupy", "-mg", "1"], 1), (["-ngl", "99", "--device", "cuda:1"], 1),
    ],
)  # fmt: skip
def test_a_gpu_computes_where_it_is_asked_for(fake: FakeCupy, cli: Cli, tiny: Path, args: list[str], gpu: int) -> None:
    r = cli("embed", "-m", tiny, *args, "the cat")
    assert r.code == 0, r.err
    assert fake.used[0] == gpu
    assert "numerics cupy" in r.err
    assert "warning" not in r.err


@pytest.mark.parametrize("args", [[], ["-ngl", "0"], ["--device", "cpu"], ["-ngl", "99", "--numerics", "ggml"]])
def test_the_cpu_computes_where_nothing_or_it_is_asked_for(
    fake: FakeCupy, cli: Cli, tiny: Path, args: list[str]
) -> None:
    assert cli("embed", "-m", tiny, *args, "the cat").code == 0
    assert fake.used == []


def test_words_behind_two_dashes_are_texts(fake: FakeCupy, cli: Cli, tiny: Path) -> None:
    r = cli("embed", "-m", tiny, "--format", "jsonl", "--", "-ngl", "99")
    assert [line.split('"')[5] for line in r.out.splitlines()] == ["-ngl", "99"]
    assert fake.used == []


def test_a_gpu_that_is_not_there_is_one_error(fake: FakeCupy, cli: Cli, tiny: Path) -> None:
    r = cli("embed", "-m", tiny, "-ngl", "99", "-mg", "2", "the cat")
    assert (r.code, r.err) == (1, "error: device 2: there is no such GPU\n  hint: there are 2, 0 to 1\n")


@pytest.mark.usefixtures("fake")
def test_an_image_goes_through_the_tower_on_the_gpu(cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "photo.npy", picture(30, 20))
    model, tower = text_model(tmp_path, pooling=1), synthetic_mmproj(tmp_path / "mmproj.gguf", n_layer=1)
    given = ("-m", model, "--mmproj", tower, "--image", tmp_path / "photo.npy", "--json")
    got, want = (
        np.array(json.loads(cli("embed", "-q", *given, *how).out)["embeddings"][0])
        for how in (["--device", "cuda:1"], ["--numerics", "exact"])
    )
    assert got.shape == (36,)
    assert 0 < np.abs(got - want).max() <= 1e-6  # measured: tests/kernels/cuda/test_towers.py
