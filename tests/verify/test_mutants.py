"""Engines broken on purpose: `verify` names the fault, and the first wrong tensor."""

from __future__ import annotations

import pytest

from conformance.verify_faults import FAULTS, SAMPLE
from conformance.verify_models import models
from conformance.verify_mutants import good, line, run_all, run_fault, summary
from refembed import Embedder
from refembed.testing.synthetic import synthetic

pytestmark = pytest.mark.system

BIASES = {f"{part}.bias" for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")}
ON_A_SMALL_BERT = ("sep-missing", "key-bias-missing", "scaled", "reversed", "batch-padding")  # a tenth of MiniLM's time


@pytest.fixture(scope="module")
def embedders(tmp_path_factory, minilm):
    folder = tmp_path_factory.mktemp("models")
    optional = BIASES | {"token_types.weight"}
    bert = synthetic(folder / "bert.gguf", "bert", pooling=1, V=600, P=512, optional=optional)
    return models(folder) | {"bert": Embedder.load(bert, numerics="fast")}


@pytest.mark.parametrize("name", SAMPLE)
def test_the_fault_is_named(name, embedders):
    fault = next(f for f in FAULTS if f.id == name)
    outcome = run_fault(fault, embedders["bert" if name in ON_A_SMALL_BERT else fault.model], longest=0)
    assert outcome.visible, line(outcome)
    assert outcome.named, line(outcome)
    assert outcome.tensor_named, line(outcome)


def test_there_are_enough_faults_and_each_has_one_name():
    assert len(FAULTS) >= 40
    assert len({f.id for f in FAULTS}) == len(FAULTS)
    assert set(ON_A_SMALL_BERT) < set(SAMPLE) <= {f.id for f in FAULTS}
    assert sum(bool(f.tensor) for f in FAULTS) >= 20


@pytest.mark.slow
def test_all_faults_are_named():
    """At least 95 % of those that show, and the first wrong tensor of every engine that shows tensors."""
    outcomes = run_all()
    missed = "\n".join(line(o) for o in outcomes if not o.named or not o.tensor_named)
    assert good(outcomes), f"{summary(outcomes)}\n{missed}"
