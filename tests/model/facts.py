"""What holds for every architecture: each function asserts one fact of a model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError, ModelError
from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.model import load_model
from refembed.model.batch import pack
from refembed.verify.compare.align import align
from refembed.verify.compare.replay import LocalDifference
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import without
from tests.model.bits import some_ids, unequal
from tests.model.live import Both


def differs_by_rounding_alone(
    both: Both, bound_of: Callable[[LocalDifference], float], whole: float, but: str = "none"
) -> None:
    """No tensor is left over on either side, and none is further off than its bound: alone, and in the whole run.

    whole  the largest difference of any tensor of a run, over its largest value; names with `but` in them do not count
    """
    for length, numerics in ((41, "exact"), (23, "fast"), (1, "fast")):
        _, local, propagated = both.compare(some_ids(length), numerics)
        for d in local:
            where = f"{d.name}[{d.k}] ({length} tokens, {numerics})"
            assert d.difference.rel_peak <= bound_of(d), f"{where}: {d.difference}"
        worst = max((name for name in propagated if but not in name), key=lambda name: propagated[name])
        assert propagated[worst] <= whole, f"{worst}: {propagated[worst]}"


def public_path_has_llama_cpps_bits_and_names(path: Path, pooled: bool) -> None:
    """The file's own pooling: the vector's bits, and the name of every tensor, the last one above all."""
    e, ids = Embedder.load(path, numerics="ggml", flash_attn=False, repack=False), some_ids(20)
    with LlamaCpp(path) as engine:
        (want,), theirs = engine.embed([ids]), engine.trace(ids)
    (got,) = e.embed([ids], normalize=-1)
    assert unequal(got, want) == 0
    ours = e.trace(ids)
    assert ours.tensors[-1].name == "result_embd_pooled"
    found = align(ours, theirs)
    assert (found.ours_only, found.theirs_only, len(found.pairs)) == ((), (), len(ours))
    assert (e.model.output in ours) == (e.model.output in theirs) == pooled


def bits_do_not_depend_on_the_batch(path: Path, numerics: str) -> None:
    """Texts together, alone and in another order."""
    model, ops = load_model(open_gguf(path)), load_ops(numerics)
    texts = [some_ids(n) for n in (9, 1, 33, 2, 17)]
    together = model.forward(pack(texts), ops)
    for text, part in zip(texts, np.split(together, np.cumsum([len(t) for t in texts])[:-1]), strict=True):
        assert model.forward(pack([text]), load_ops(numerics)).tobytes() == part.tobytes()
    reverse = model.forward(pack(texts[::-1]), ops)
    assert reverse[-9:].tobytes() == together[:9].tobytes()


def places_changed_by_token_20(path: Path) -> list[int]:
    """Which of 40 hidden states another token 20 changes."""
    model, ops, ids = load_model(open_gguf(path)), load_ops("exact"), some_ids(40)
    changed = [*ids[:20], (ids[20] + 1) % 101, *ids[21:]]
    differs = (model.forward(pack([ids]), ops) != model.forward(pack([changed]), ops)).any(axis=1)
    return [int(i) for i in np.flatnonzero(differs)]


def neither_loads_it_without(path: Path, name: str) -> None:
    """A file with a tensor too few is no model to either engine."""
    less = without(path, path.with_suffix(".less"), name)
    with pytest.raises(EngineError):
        LlamaCpp(less)
    with pytest.raises(ModelError, match=f"1 tensors do not fit the architecture\n  missing    {name}"):
        load_model(open_gguf(less))


def neither_runs_it(path: Path, message: str) -> None:
    """We refuse the file with this message; llama.cpp refuses it too, or ends when it is to embed."""
    with pytest.raises(ModelError, match=message):
        load_model(open_gguf(path))
    with pytest.raises(EngineError), LlamaCpp(path) as engine:
        engine.embed([[1, 2]])
