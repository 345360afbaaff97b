"""Vision towers in the `cupy` numerics on the CPU: near `exact`, on the device from the pixels to the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.gguf import open_gguf
from refembed.kernels.cuda.launch import source_text
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.numerics import load_ops
from refembed.model.trace import Recorder
from refembed.model.vision import Tower, gemma4v, load_tower
from refembed.pipeline.images import MARKER
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from tests.kernels.cuda.fake_cupy import FakeCupy
from tests.kernels.cuda.on_cpu import OnCpu
from tests.model.vision.test_towers import FEW, VARIANTS, images
from tests.model.vision.towers import picture
from tests.pipeline.test_multimodal import MODELS, Pair, some_images

ROWS = 1.3e-6  # largest difference of a tower's rows over the largest value; measured 6.2e-7
TENSORS = 3e-6  # of any tensor on the way; measured 1.5e-6
VECTORS = 8e-7  # of a vector of a text with images; measured 3.9e-7


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of Gemma 4's tower have 630 patches at least, which take long where threads take turns; here 108."""
    monkeypatch.setattr(gemma4v, "TOKENS", (2, 12))


def tower_of(variant: str, folder: Path) -> Tower:
    return load_tower(open_gguf(synthetic_mmproj(folder / "mmproj.gguf", **{"seed": len(variant)} | VARIANTS[variant])))


def distance(got: Any, want: Any) -> float:
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tower_is_near_the_definition(variant: str, tmp_path: Path, built: Path) -> None:
    """Every image of a tower's tests, one after the other: what the device keeps of one changes no other."""
    tower, ops, exact = tower_of(variant, tmp_path), Cupy(OnCpu(built)), load_ops("exact")
    for image in images(variant):
        got = tower.rows(image, ops)
        assert got.dtype == np.float32
        assert distance(got, tower.rows(image, exact)) <= ROWS
        assert tower.rows(image, Cupy(OnCpu(built))).tobytes() == got.tobytes()


@pytest.mark.parametrize("variant", FEW)
def test_every_tensor_of_a_tower_is_near_the_definition(variant: str, tmp_path: Path, built: Path) -> None:
    tower, image, ops = tower_of(variant, tmp_path), images(variant)[0], Cupy(OnCpu(built))
    ours, definition = Recorder(), Recorder()
    traced = tower.rows(image, ops, ours)
    tower.rows(image, load_ops("exact"), definition)
    assert traced.tobytes() == tower.rows(image, ops).tobytes()
    assert [t.name for t in ours.trace.tensors] == [t.name for t in definition.trace.tensors]
    for got, want in zip(ours.trace.tensors, definition.trace.tensors, strict=True):
        assert got.array.shape == want.array.shape, got.name
        assert distance(got.array, want.array) <= TENSORS, got.name


class CountingReads(OnCpu):
    """A device that counts copies to the host."""

    reads = 0

    def read(self, *given: Any) -> None:
        self.reads += 1
        super().read(*given)


@pytest.mark.parametrize("variant", FEW)
def test_a_tower_leaves_the_device_once(variant: str, tmp_path: Path, built: Path) -> None:
    """At its end, with the rows."""
    tower, device = tower_of(variant, tmp_path), CountingReads(built)
    tower.rows(images(variant)[0], Cupy(device))
    assert device.reads == 1


@pytest.mark.parametrize("arch", MODELS)
def test_texts_with_images_are_near_the_definition_and_stand_alone(arch: str, tmp_path: Path, fake: FakeCupy) -> None:
    """By `Embedder.load`. In a batch with others, in any order, an image has the bits that it has alone."""
    pair = Pair(tmp_path, arch)
    first, second = some_images(2)
    inputs: list[Any] = [
        {"text": f"the cat {MARKER} sat on a mat", "image": first}, "the cat", {"image": second},
        {"text": f"{MARKER} and {MARKER}", "image": [second, first]},
    ]  # fmt: skip
    e, exact = pair.embedder("cupy"), pair.embedder("exact")
    options: Any = {"pooling": pair.pooling, "normalize": -1}
    together = e.embed(inputs, **options)
    for i in (0, 2, 3):
        assert distance(together[i], exact.embed(inputs[i : i + 1], **options)[0]) <= VECTORS
        assert e.embed(inputs[i : i + 1], **options)[0].tobytes() == together[i].tobytes()
    backwards: Any = e.embed(inputs[::-1], **options)
    assert np.asarray(backwards[::-1]).tobytes() == np.asarray(together).tobytes()
    assert e.info.numerics == "cupy"


FAULTS = [
    ("conv", "place % square / size, column", "place % size, column", "gemma3"),
    ("conv", "patch / across * size", "patch % across * size", "gemma4v"),
    ("conv", "sum = sum + from[row * wide + column];", "sum = sum + from[column];", "gemma3"),
    ("conv", "* across * down;", "* across;", "qwen3vl"),
    ("activations", "expf(-1.702f * x)", "expf(-1.7f * x)", "gemma4v"),
    ("arithmetic", "float y = x[i] < low ? low : x[i];", "float y = x[i];", "gemma4v, limits"),
    ("arithmetic", "from += rest % n2 * s2;", "from += rest % n2 * s3;", "qwen3vl"),
    (
        "arithmetic",
        "out[i / width * n + first + i % width] = x[i];",
        "out[i / width * n + i % width] = x[i];",
        "gemma4v",
    ),
]


@pytest.mark.parametrize(("source", "text", "fault", "variant"), FAULTS)
def test_a_fault_in_a_kernel_shows_in_the_rows(
    source: str, text: str, fault: str, variant: str, tmp_path: Path, built: Path
) -> None:
    whole = source_text(source)
    assert whole.count(text) == 1
    tower, image = tower_of(variant, tmp_path), picture(60, 70)
    ops = Cupy(OnCpu(built, changed={source: whole.replace(text, fault)}))
    far = distance(np.nan_to_num(tower.rows(image, ops)), tower.rows(image, load_ops("exact")))
    assert far > 10 * ROWS
