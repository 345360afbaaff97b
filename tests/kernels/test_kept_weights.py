"""What operations keep of weights: by tensor, so that two models in one set of operations never mix, and no longer."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.gguf import Tensor, open_gguf
from refembed.kernels.numerics import load_ops
from refembed.model import Model, load_model
from refembed.model.batch import pack
from refembed.testing.synthetic import synthetic

IDS = [[1, 5, 9, 2], [3, 4]]


@pytest.mark.parametrize("numerics", ["exact", "ggml", "fast", "int8", "bf16"])
@pytest.mark.parametrize("architecture", ["bert", "qwen3moe", "k2-horizon", "gemma3n"])
@pytest.mark.parametrize("type_name", ["F16", "Q8_0"])
def test_two_models_with_the_same_names_keep_weights_apart(
    tmp_path: Path, architecture: str, type_name: str, numerics: str
) -> None:
    """Tensors of the same names and shapes: each model's rows are those that operations of its own give."""

    def model(seed: int) -> Model:
        file = synthetic(tmp_path / f"{seed}.gguf", architecture, seed=seed, type_name=type_name)
        return load_model(open_gguf(file))

    models, ops, batch = [model(1), model(2)], load_ops(numerics), pack(IDS)
    alone = [m.forward(batch, load_ops(numerics)) for m in models]
    assert not np.array_equal(*alone)
    for turn in (0, 1, 0, 1):  # kept by now, and replayed
        assert np.array_equal(models[turn].forward(batch, ops), alone[turn])


@pytest.mark.parametrize("numerics", ["exact", "ggml", "fast", "int8"])
def test_what_is_kept_goes_with_its_tensor(numerics: str) -> None:
    ops: Any = load_ops(numerics)
    x, w = np.ones((3, 64), ops.dtype), Tensor.of(np.ones((32, 64)))
    assert ops.linear(x, w)[0, 0] == 64
    kept = [d for d in (*vars(ops).values(), *vars(getattr(ops, "panels", ops)).values()) if hasattr(d, "keyrefs")]
    assert any(len(d) for d in kept)
    del w
    gc.collect()
    assert not any(len(d) for d in kept)


def test_entries_and_other_shapes_are_one_object_each() -> None:
    """What an architecture makes anew in each forward pass would be decoded anew in each."""
    w = Tensor.of(np.arange(24).reshape(2, 3, 4), "w")
    for i in range(2):
        assert w.entry(i) is w.entry(i)
        assert np.array_equal(w.entry(i).dequantize(), np.arange(24).reshape(2, 3, 4)[i])
        assert w.entry(i).name == f"w[{i}]"
    assert w.reshape(6, 4) is w.reshape(6, 4)
    assert np.array_equal(w.reshape(4, 6).dequantize(), np.arange(24).reshape(4, 6))
