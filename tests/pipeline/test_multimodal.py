"""A text with images against live libmtmd and llama.cpp: tokens, vectors, and every tensor of the text model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.arrays import U8
from refembed.model.trace import Recorder
from refembed.pipeline.images import MARKER
from refembed.pipeline.multimodal import token_ids
from refembed.pipeline.vectors import forward_and_pool
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.compare.align import align
from refembed.verify.compare.replay import replay
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.model.bits import unequal
from tests.model.vision.towers import picture, qwen_text_model, text_model

TEXTS = [
    (f"the cat {MARKER} sat on a mat", 1),
    (MARKER, 1),
    (f"{MARKER}{MARKER}", 2),
    (f"a dog and {MARKER} the cat {MARKER}, it was in the mat", 2),
]
GEMMA4V: dict[str, Any] = {"projector": "gemma4v", "P": 4, "n_merge": 3, "n_layer": 1}
QWEN: dict[str, Any] = {"projector": "qwen3vl_merger", "P": 6, "C": 24, "S": 25}
# architecture -> arguments of `synthetic` and of `synthetic_mmproj`, and a pooling by which llama-server has one vector
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "gemma-embedding": ({}, {}, "mean"),
    "gemma-embedding2": ({}, GEMMA4V, "mean"),
    "gemma3": ({"window": 12}, {}, "last"),
    "qwen3vl": ({"D": 24}, QWEN, "last"),
}
# of `exact` and `fast`, the largest difference of a vector over its largest value; measured 8.3e-5, 1.3e-4, 1.3e-4 and
# 4.4e-4
BOUNDS = {"gemma-embedding": 2e-4, "gemma-embedding2": 3e-4, "gemma3": 3e-4, "qwen3vl": 1e-3}


def some_images(n: int) -> list[U8]:
    """The first higher than wide, the second wider than high."""
    return [picture(*size) for size in ((25, 40), (48, 25))[:n]]


class Pair:
    """A text model with a tower, in both engines."""

    def __init__(self, folder: Path, arch: str) -> None:
        sizes, tower, self.pooling = MODELS[arch]
        write = qwen_text_model if arch == "qwen3vl" else partial(text_model, arch=arch)
        self.arch, self.model = arch, write(folder, **sizes)
        self.mmproj = synthetic_mmproj(folder / "mmproj.gguf", **tower)

    def embedder(self, numerics: str, flash_attn: bool = False) -> Embedder:
        more: Any = {"flash_attn": flash_attn, "repack": False}
        return Embedder.load(self.model, mmproj=self.mmproj, numerics=numerics, **more)

    def engine(self, flash_attn: bool = False) -> LlamaCpp:
        more: Any = {"pooling": self.pooling, "flash_attn": flash_attn, "n_ctx": 256}
        return LlamaCpp(self.model, mmproj=self.mmproj, **more)


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), request.param)


@pytest.mark.oracle
def test_tokens_and_places_of_images_are_libmtmds(pair: Pair) -> None:
    e = pair.embedder("exact")
    assert e.tower is not None
    with pair.engine() as engine:
        for text, n in TEXTS:
            images = some_images(n)
            chunks = engine.image_chunks(text, images)
            want: list[int] = []
            places = []
            for chunk in chunks:
                if isinstance(chunk, list):
                    want += chunk
                else:
                    places.append(len(want))
                    want += [0] * len(chunk)
            counts = [e.tower.n_tokens(image) for image in images]
            assert token_ids(text, counts, e.tower, e.tokenizer) == (want, places)


@pytest.mark.oracle
@pytest.mark.parametrize("flash_attn", [False, True])
def test_ggml_has_the_bits_of_vectors_of_text_and_images(pair: Pair, flash_attn: bool) -> None:
    e = pair.embedder("ggml", flash_attn)
    with pair.engine(flash_attn) as engine:
        for text, n in TEXTS:
            images = some_images(n)
            want = engine.embed_images(text, images)
            got = e.embed({"text": text, "image": images}, pooling=pair.pooling, normalize=-1)
            assert unequal(got, want) == 0, text


@pytest.mark.oracle
@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_other_numerics_are_as_close_as_rounding_is(pair: Pair, numerics: str) -> None:
    e, bound = pair.embedder(numerics), BOUNDS[pair.arch]
    with pair.engine() as engine:
        for text, n in TEXTS:
            images = some_images(n)
            want = engine.embed_images(text, images)
            got = e.embed({"text": text, "image": images}, pooling=pair.pooling, normalize=-1)
            assert np.abs(got - want).max() <= bound * np.abs(want).max(), text


@pytest.mark.oracle
@pytest.mark.parametrize("arch", ["gemma-embedding", "gemma-embedding2"])
def test_every_tensor_of_the_text_model_is_llama_cpps(arch: str, tmp_path: Path) -> None:
    """Of models that take tokens and images in one batch: one graph, in which all tensors pair."""
    pair = Pair(tmp_path, arch)
    e, text, images = pair.embedder("ggml"), f"the cat {MARKER} sat", some_images(1)
    batch = e.image_batch({"text": text, "image": images})
    with pair.engine() as engine:
        theirs = engine.trace_images(text, images)
    recorder = Recorder()
    forward_and_pool(e.model, e.ops, batch, pair.pooling, recorder)
    found = align(recorder.trace, theirs)
    assert [recorder.trace.tensors[i].name for i in found.ours_only] == []
    assert [theirs.tensors[i].name for i in found.theirs_only] == []
    assert len(found.pairs) == len(recorder.trace.tensors)
    local = replay(lambda tap: forward_and_pool(e.model, e.ops, batch, pair.pooling, tap), theirs)
    assert [f"{d.name}[{d.k}]" for d in local if not d.difference.identical] == []
