"""Whole models in the `cupy` numerics on the CPU: near `exact`, the same bits in any batch, every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.cases import load_texts
from refembed import Embedder
from refembed.errors import RequestError
from refembed.gguf import open_gguf
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.numerics import load_ops
from refembed.kernels.taps import NO_TAP
from refembed.model import ARCHITECTURES, load_model
from refembed.model.batch import pack
from refembed.model.trace import Recorder
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_lora import synthetic_lora
from refembed.verify.compare.arrays import cosine_distance
from refembed.verify.engines.base import open_engine
from refembed.verify.engines.callables import CallableEngine
from refembed.verify.run import verify
from tests.kernels.cuda.fake_cupy import FakeCupy
from tests.kernels.cuda.on_cpu import OnCpu
from tests.model.bits import some_ids
from tests.pooling.test_rerank import HEAD

TEXTS = ["a cat sat on the mat", "x", "Der schnelle braune Fuchs.", "Hello, world!", ""]
NEAR = 3e-12  # 1 - cos to `exact`; measured: 1.1e-12 on these texts, 1.8e-12 on all of the suite. 1e-6 is promised
FAR = 1.2e-5  # largest difference of hidden states over the largest value; measured 5.9e-6 (qwen3next), as for `fast`
SOME = ("bert", "modern-bert", "qwen3", "gemma3", "gpt-oss", "bloom", "t5encoder", "qwen3next", "mamba2", "rwkv7")


def on_cpu(path: Path, built: Path) -> Embedder:
    """The model with the `cupy` numerics on the CPU."""
    e = Embedder.load(path, numerics="exact")
    return Embedder(e.info, e.tokenizer, e.model, Cupy(OnCpu(built)))


def test_minilm_is_near_the_definition_and_texts_stand_alone(minilm: Path, built: Path) -> None:
    exact, e = Embedder.load(minilm, numerics="exact"), on_cpu(minilm, built)
    got: Any = e.embed(TEXTS)
    far = [cosine_distance(x.astype(float), y.astype(float)) for x, y in zip(exact.embed(TEXTS), got, strict=True)]
    assert max(far) <= NEAR
    for i in (1, 3):
        assert e.embed(TEXTS[i]).tobytes() == got[i].tobytes()
    backwards: Any = e.embed(TEXTS[::-1])
    assert backwards[::-1].tobytes() == got.tobytes()


@pytest.mark.slow
def test_minilm_is_near_the_definition_on_every_text_of_the_suite(minilm: Path, built: Path) -> None:
    exact, e = Embedder.load(minilm, numerics="exact"), on_cpu(minilm, built)
    texts = [text.data for text in load_texts().values()]
    pairs = zip(exact.embed(texts, truncate=True), e.embed(texts, truncate=True), strict=True)
    assert max(cosine_distance(x.astype(float), y.astype(float)) for x, y in pairs) <= NEAR


def check(path: Path, built: Path) -> None:
    """Hidden states near `exact`'s; the bits of each text alone, and with a trace."""
    model, texts = load_model(open_gguf(path)), [some_ids(n) for n in (9, 1, 19)]
    ops = Cupy(OnCpu(built))
    want = load_model(open_gguf(path)).forward(pack(texts), load_ops("exact"), NO_TAP)
    got = np.asarray(model.forward(pack(texts), ops, NO_TAP))
    assert np.abs(got - want).max() <= FAR * np.abs(want).max()
    for text, part in zip(texts, np.split(got, np.cumsum([len(t) for t in texts])[:-1]), strict=True):
        assert np.asarray(model.forward(pack([text]), ops, NO_TAP)).tobytes() == part.tobytes()
    recorder, definition = Recorder(), Recorder()
    traced = np.asarray(model.forward(pack(texts[:1]), ops, recorder))
    assert traced.tobytes() == got[:9].tobytes()
    load_model(open_gguf(path)).forward(pack(texts[:1]), load_ops("exact"), definition)
    assert [t.name for t in recorder.trace.tensors] == [t.name for t in definition.trace.tensors]
    for ours, theirs in zip(recorder.trace.tensors, definition.trace.tensors, strict=True):
        assert ours.array.shape == theirs.array.shape, ours.name


@pytest.mark.parametrize("arch", SOME)
def test_models_of_many_kinds_are_near_the_definition_and_texts_stand_alone(
    arch: str, tmp_path: Path, built: Path
) -> None:
    check(synthetic(tmp_path / "m.gguf", arch, n_layer=2), built)


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - set(SOME)))
def test_every_architecture_is_near_the_definition_and_texts_stand_alone(
    arch: str, tmp_path: Path, built: Path
) -> None:
    check(synthetic(tmp_path / "m.gguf", arch), built)


@pytest.mark.system
def test_verify_takes_it_for_sound_and_names_what_is_wrong_with_it(minilm: Path, built: Path) -> None:
    e = on_cpu(minilm, built)
    sound = verify(minilm, CallableEngine(lambda texts: e.embed(list(texts))), TEXTS[:4])
    assert sound.kind == "within rounding"
    faulty = verify(minilm, CallableEngine(lambda texts: e.embed(list(texts), pooling="cls")), TEXTS[:4])
    assert (faulty.kind, faulty.cause) == ("differs", "the engine pools the first token")


@pytest.mark.system
def test_verify_against_cupy_compares_vectors_tokens_and_tensors(fake: FakeCupy, tiny: Path) -> None:
    """As `refembed verify MODEL --against cupy` opens it; the stand-in has one GPU."""
    texts = ["hello world", "the cat sat on the mat", "a [SEP] b"]
    engine = open_engine("cupy", tiny)
    assert (engine.name, engine.can_tokenize, engine.can_trace) == ("cupy", True, True)
    sound = verify(tiny, engine, texts)
    assert (sound.kind, sound.cause, sound.first_wrong_tensor) == ("within rounding", "", None)
    assert len(sound.evidence.tensors) > 40
    faulty = verify(tiny, open_engine("cupy:0", tiny, pooling="cls"), texts)
    assert (faulty.kind, faulty.cause) == ("differs", "the engine pools the first token")
    with pytest.raises(RequestError, match="device 1: there is no such GPU"):
        open_engine("cupy:1", tiny)


def test_heads_adapters_and_published_models_are_near_the_definition(fake: FakeCupy, tmp_path: Path) -> None:
    """By `Embedder.load`, which finds a stand-in for CuPy."""
    ranker = synthetic(tmp_path / "ranker.gguf", "modern-bert", pooling=4, optional=HEAD)
    scores = [Embedder.load(ranker, numerics=n).rerank("the cat", ["a dog", "the mat"]) for n in ("cupy", "exact")]
    assert np.abs(scores[0] - scores[1]).max() <= FAR * np.abs(scores[1]).max()
    model = synthetic(tmp_path / "model.gguf", "jina-bert-v2")
    adapter = synthetic_lora(tmp_path / "adapter.gguf", model)
    for options in ({"lora": [adapter]}, {"semantics": "original"}):
        near(model, **options)
    for how in ("mean", "cls", "last", "max", "none"):
        near(model, pooling=how)


def near(path: Path, pooling: str = "mean", **options: Any) -> None:
    """The vectors of two texts in `cupy` and in `exact`."""
    texts = [some_ids(7), some_ids(20)]
    got, want = (
        Embedder.load(path, numerics=numerics, **options).embed(texts, pooling=pooling, normalize=-1)
        for numerics in ("cupy", "exact")
    )
    for x, y in zip(got, want, strict=True):
        assert isinstance(x, np.ndarray)
        assert np.abs(x - y).max() <= FAR * np.abs(y).max()


@pytest.mark.parametrize("type_name", ["F16", "Q4_0", "Q8_0"])
def test_quantized_weights_are_decoded_on_the_device(type_name: str, tmp_path: Path, built: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "qwen3", C=64, D=32, F=96, n_layer=2, type_name=type_name)
    check(path, built)
    e = on_cpu(path, built)
    e.embed("the cat", pooling="mean")
    assert type_name.lower() in e.ops.device.launched  # type: ignore[attr-defined]
