"""Engines that compute in TF32, float16 or bfloat16: a sound one is not accused, and what is planted in one is named.

What they computed is recorded (tests/record_precisions.py): PyTorch's own half, bfloat16 and autocast, and models of
transformers whose products PyTorch made of rounded numbers. Nothing of it comes from refembed's roundings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.verify.reference import Reference, reference_of
from refembed.verify.run import verify
from refembed.verify.verdict import Verdict
from tests.record_precisions import ENGINES, FILE, Engine, model_file
from tests.verify.engine import Stub

pytestmark = pytest.mark.system

NAMED = {  # precision of an engine -> ids that name it
    "tf32": ("inputs-tf32",),
    "tf32-linear": ("inputs-tf32",),
    "tf32-cut": ("inputs-tf32-truncated",),
    "float16-inputs": ("inputs-tf32",),  # float16 has as many bits of mantissa
    "float16-sums": ("sums-float16",),
    "bfloat16-inputs": ("inputs-bfloat16",),
    "float16-autocast": ("results-float16", "hidden-float16"),
    "bfloat16-autocast": ("results-bfloat16", "hidden-bfloat16"),
    "half": ("results-float16", "hidden-float16"),
    "bfloat16": ("results-bfloat16", "hidden-bfloat16"),
}
CAUSES = {  # fault -> ids that name it
    "cls": ("pooling-cls",), "last": ("pooling-last",), "cut": ("cut-16-closed",), "causal": ("causal",),
    "bidirectional": ("bidirectional",), "eps-1e-5": ("eps-1e-05",), "eps-1e-3": ("eps-0.001",),
    "no-qk-norm": ("qk-norm-missing",), "no-norm": ("token_embd_norm-missing",),
}  # fmt: skip


@pytest.fixture(scope="module")
def recorded() -> Iterator[Any]:
    with np.load(FILE) as found:
        yield found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """The model of an engine, opened once."""
    folder: Path = tmp_path_factory.mktemp("precisions")
    kept: dict[str, Reference] = {}

    def opened(model: str) -> Reference:
        if model not in kept:
            kept[model] = reference_of(Embedder.load(model_file(model, folder), numerics="fast"), "mean")
        return kept[model]

    return opened


def asked(engine: Engine, recorded: Any, r: Reference, change: Callable[[Any], Any] = lambda y: y) -> Verdict:
    """What `verify` says of a recording."""
    arch = engine.model.split("-")[0]
    texts = json.loads(str(recorded[f"{arch} texts"]))
    assert [r.ids_of(t) for t in texts] == json.loads(str(recorded[f"{arch} ids"]))
    answers = dict(zip(texts, change(recorded[engine.id]), strict=True))
    return verify(r, Stub(lambda items: [answers[i] for i in items]), texts, budget=45)


HEALTHY = [e for e in ENGINES if not e.fault and e.precision != "float32"]
FAULTY = [e for e in ENGINES if e.fault]


@pytest.mark.parametrize("engine", HEALTHY, ids=lambda e: e.id)
def test_a_sound_engine_is_within_its_own_rounding(engine, recorded, reference):
    v = asked(engine, recorded, reference(engine.model))
    assert (v.kind, v.exit_code) == ("within rounding", 0)
    assert v.causes[0].id in NAMED[engine.precision]


@pytest.mark.parametrize("engine", FAULTY, ids=lambda e: e.id)
def test_a_fault_in_such_an_engine_is_named(engine, recorded, reference):
    v = asked(engine, recorded, reference(engine.model))
    assert v.kind == "differs"
    assert v.causes[0].id.split(" + ")[0] in CAUSES[engine.fault]
