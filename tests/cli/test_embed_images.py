"""`refembed embed --image` and `refembed trace --image`: what `Embedder` computes, in every format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.pipeline.images import MARKER
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from tests.cli.conftest import Cli
from tests.model.vision.towers import picture, text_model


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """A model, its tower and an image."""
    np.save(tmp_path / "photo.npy", picture(30, 20))
    np.save(tmp_path / "gray.npy", picture(9, 40)[..., 0])
    model, tower = text_model(tmp_path, pooling=1), synthetic_mmproj(tmp_path / "mmproj.gguf")
    return ["-m", str(model), "--mmproj", str(tower), "--image", str(tmp_path / "photo.npy")]


def embedder(flags: list[str]) -> Embedder:
    return Embedder.load(flags[1], mmproj=flags[3])


def test_a_text_with_an_image_has_the_vector_of_python(cli: Cli, flags: list[str]) -> None:
    given = {"text": f"the {MARKER} cat", "image": picture(30, 20)}
    want = embedder(flags).embed([given])[0]
    answer = json.loads(cli("embed", *flags, f"the {MARKER} cat", "--json").out)
    assert np.array_equal(np.array(answer["embeddings"][0], np.float32), want)
    (line,) = cli("embed", *flags, f"the {MARKER} cat", "--format", "jsonl").out.splitlines()
    assert json.loads(line)["text"] == f"the {MARKER} cat"


def test_images_alone_need_no_text_and_several_are_taken(cli: Cli, flags: list[str], tmp_path: Path) -> None:
    flags += ["--image", str(tmp_path / "gray.npy")]
    want = embedder(flags).embed([{"image": [picture(30, 20), picture(9, 40)[..., 0]]}])[0]
    answer = json.loads(cli("embed", *flags, "--json").out)
    assert np.array_equal(np.array(answer["embeddings"][0], np.float32), want)


def test_without_pooling_each_row_of_an_image_has_a_vector(cli: Cli, flags: list[str]) -> None:
    rows = cli("embed", *flags, "cat", "--pooling", "none", "--format", "csv").out.splitlines()[1:]
    assert sum("<image>" in row for row in rows) == 9
    assert len(rows) == len(embedder(flags).embed([{"text": "cat", "image": picture(30, 20)}], pooling="none")[0])


def test_texts_without_images_go_through_a_model_with_a_tower_as_ever(cli: Cli, flags: list[str]) -> None:
    want = json.loads(cli("embed", *flags[:2], "the cat", "--json").out)
    assert json.loads(cli("embed", *flags[:4], "the cat", "--json").out) == want


def test_trace_shows_the_tower_or_the_text_model(cli: Cli, flags: list[str]) -> None:
    e, given = embedder(flags), {"text": f"a {MARKER}", "image": picture(30, 20)}
    for args, trace in ((), e.trace_image(picture(30, 20))), ((f"a {MARKER}",), e.trace(given)):
        rows = [json.loads(line) for line in cli("trace", *flags, *args, "--json").out.splitlines()]
        assert [row["name"] for row in rows] == [t.name for t in trace.tensors]
        assert [row["mean"] for row in rows] == [float(t.array.astype(np.float64).mean()) for t in trace.tensors]


def test_trace_without_a_tower_takes_no_image(cli: Cli, flags: list[str]) -> None:
    r = cli("trace", "-m", flags[1], "--image", flags[5])
    assert (r.code, "--image needs --mmproj FILE" in r.err) == (1, True)
