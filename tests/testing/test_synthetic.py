"""Synthetic models: reproducible, odd, whole; that llama.cpp loads them is what tests/model shows for every variant."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import RequestError
from refembed.gguf import open_gguf
from refembed.model import ARCHITECTURES, load_model
from refembed.testing.synthetic import synthetic, vocabulary
from refembed.verify.engines.llamacpp import LlamaCpp


@pytest.mark.parametrize("arch", ["bert", "gemma3", "llama", "qwen2", "qwen3"])
def test_a_model_embeds_text(arch: str, tmp_path: Path) -> None:
    """It has a tokenizer, and hidden states of an ordinary size."""
    e = Embedder.load(synthetic(tmp_path / "m.gguf", arch, D=6, pooling=3))
    v = e.embed(["the cat sat on the mat", "dog"], normalize=-1)
    assert v.shape == (2, 36)
    assert 0.1 < np.abs(v).mean() < 10
    assert e.info.architecture == arch


def test_the_seed_decides_the_weights_and_nothing_else(tmp_path: Path) -> None:
    first = synthetic(tmp_path / "a.gguf", "llama", seed=1).read_bytes()
    assert synthetic(tmp_path / "b.gguf", "llama", seed=1).read_bytes() == first
    other = synthetic(tmp_path / "c.gguf", "llama", seed=2).read_bytes()
    assert len(other) == len(first)
    assert other != first


def test_optional_tensors_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    plain = open_gguf(synthetic(tmp_path / "a.gguf", "llama")).tensors
    more = open_gguf(synthetic(tmp_path / "b.gguf", "llama", optional={"attn_q.bias", "output.weight"})).tensors
    assert set(more) - set(plain) == {"output.weight", *(f"blk.{i}.attn_q.bias" for i in range(3))}
    fused = open_gguf(synthetic(tmp_path / "c.gguf", "llama", optional={"attn_qkv.weight"})).tensors
    assert {n.split(".")[2] for n in set(fused) ^ set(plain)} == {"attn_qkv", "attn_q", "attn_k", "attn_v"}


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no architecture 'rwkv6'"):
        synthetic(tmp_path / "m.gguf", "rwkv6")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("V", [5, 30, 101, 400])
def test_a_vocabulary_has_as_many_pieces_as_asked_for_none_twice(V: int) -> None:
    pieces = vocabulary(V)
    assert len(pieces) == V
    assert max(Counter(pieces).values()) == 1


@pytest.mark.oracle
@pytest.mark.parametrize(("type_name", "near"), [("Q8_0", 1e-3), ("F16", 1e-4), ("Q4_0", 1e-3)])
def test_matrices_can_be_quantized(type_name: str, near: float, tmp_path: Path) -> None:
    """llama.cpp rounds activations to 8 bits for these types: vectors point the same way but for that."""
    path = synthetic(tmp_path / "m.gguf", "qwen3", C=64, D=32, F=96, pooling=1, type_name=type_name)
    types = Counter(t.type.name for t in open_gguf(path).tensors.values())
    assert set(types) == {"F32", type_name}
    ids = [5, 6, 7, 8]
    with LlamaCpp(path, type_kv="f32") as engine:
        (theirs,) = engine.embed([ids])
    (ours,) = Embedder.load(path).embed([ids])
    assert 1 - ours @ theirs / np.linalg.norm(theirs) < near


def test_every_architecture_has_a_model(tmp_path: Path) -> None:
    """What refembed computes can be made up."""
    for arch in ARCHITECTURES:
        assert load_model(open_gguf(synthetic(tmp_path / f"{arch}.gguf", arch, D=6))).hparams.arch == arch
