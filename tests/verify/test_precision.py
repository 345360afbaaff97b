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
from refembed.verify.compare.floor import floor_of
from refembed.verify.precision import precision_of
from refembed.verify.reference import Reference, reference_of
from refembed.verify.report.text import text_report
from refembed.verify.run import verify
from refembed.verify.trials import Case
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
    return verify(r, Stub(lambda items: [answers[i] for i in items]), texts)


SLOW = ("minilm-f16", "minilm float16-sums", "minilm half", "minilm bfloat16-autocast")  # seconds each
# epsilons that move vectors by less than a tenth of what the precision does
BURIED = ("qwen3 bfloat16 eps-1e-3", "qwen3 bfloat16-autocast eps-1e-3", "minilm bfloat16 eps-1e-5")

# faults in bfloat16 that verify finds and may not name: of a last token alone its rounding has a direction of 0.33 and
# 0.39 where 0.4 is asked, and without the first norm vectors have little to do with the reference
UNNAMED = ("qwen3 bfloat16 last", "qwen3 bfloat16-autocast last", "minilm bfloat16 no-norm")


def cases(*, faulty: bool) -> list[Any]:
    """Engines with or without a fault; of MiniLM's most are slow."""
    found = []
    for e in ENGINES:
        if bool(e.fault) is not faulty or e.precision == "float32" or e.id in BURIED or e.id in UNNAMED:
            continue
        slow = e.id.startswith(SLOW) or (faulty and e.model == "minilm" and e.id != "minilm tf32 cls")
        found.append(pytest.param(e, id=e.id, marks=[pytest.mark.slow] if slow else []))
    return found


@pytest.mark.parametrize("engine", cases(faulty=False))
def test_a_sound_engine_is_within_its_own_rounding(engine, recorded, reference):
    v = asked(engine, recorded, reference(engine.model))
    assert (v.kind, v.exit_code) == ("within rounding", 0)
    sized = (
        [*NAMED[engine.precision], "inputs-bfloat16"] if "judged by the size" in v.cause else NAMED[engine.precision]
    )
    assert v.causes[0].id in sized
    assert "is right within the rounding of" in v.cause
    assert v.remedy.startswith("nothing to do; for float32 ")
    assert all(t.agrees for t in v.evidence.texts)


@pytest.mark.parametrize("engine", cases(faulty=True))
def test_a_fault_in_such_an_engine_is_named(engine, recorded, reference):
    v = asked(engine, recorded, reference(engine.model))
    assert (v.kind, v.exit_code) == ("differs", 3)
    assert v.causes[0].id.split(" + ")[0] in CAUSES[engine.fault]


@pytest.mark.slow  # it looks for a cause until its time is up: half a minute each
@pytest.mark.parametrize("name", UNNAMED)
def test_a_fault_that_is_not_named_is_still_a_difference(name, recorded, reference):
    """Never within rounding, and never under another name."""
    engine = next(e for e in ENGINES if e.id == name)
    v = asked(engine, recorded, reference(engine.model))
    assert v.exit_code == 3
    assert v.kind == "unexplained" or v.causes[0].id.split(" + ")[0] in CAUSES[engine.fault]


def test_an_engine_in_float32_has_no_such_precision(recorded, reference):
    """Nor one with noise of that size, which has no direction."""
    r = reference("qwen3")
    v = asked(Engine("qwen3", "float32"), recorded, r)
    assert (v.kind, v.causes, v.evidence.precision) == ("within rounding", (), "")
    draw = np.random.default_rng(0)
    for size in (1e-3, 1e-2):  # 1 - cos 5e-7, as of TF32, and 5e-5, as of bfloat16

        def noisy(y, size=size):
            return y + (draw.normal(size=y.shape) * size / np.sqrt(y.shape[1])).astype(np.float32)

        case = case_of(r, recorded, noisy)
        assert 1e-7 < float(np.median(case.distances)) < 1e-4
        assert precision_of(case) is None


def case_of(r: Reference, recorded: Any, change: Callable[[Any], Any]) -> Case:
    """A float32 engine's vectors, changed, held against the floor."""
    texts = json.loads(str(recorded["qwen3 texts"]))
    vectors = [v.astype(np.float64) for v in change(recorded["qwen3 float32"])]
    floor = floor_of(r, texts)
    return Case(r, texts, vectors, floor, floor.distances(vectors)[0])


def test_the_report_says_which_floor_it_is(recorded, reference):
    v = asked(Engine("qwen3", "bfloat16"), recorded, reference("qwen3"))
    report = " ".join(text_report(v).split())
    assert report.startswith("WITHIN ROUNDING: stub on ")
    assert "The engine is right within the rounding of bfloat16: it computes all of the model in bfloat16." in report
    assert "noise floor: two runs in bfloat16 that add in another order are up to" in report
    assert report.endswith("nothing to do; for float32 load the model so: dtype=torch.float32")
    assert v.as_dict()["evidence"]["precision"] == "bfloat16"
