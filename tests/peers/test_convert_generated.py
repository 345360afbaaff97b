"""Drawn Hugging Face folders (tests/hf_generator.py): what `convert` takes, computes what `transformers` computes.

Measured on 450 folders, an AMD EPYC: the largest relative difference was BOUND_MEASURED; most of it is RoPE's angles
and RMS norms, which PyTorch keeps in float32. The bound is fifty times that: a wrong graph is off by 1e-3
and more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.convert import graph
from tests.hf_generator import BOUND, MODULES, Case, attempt, draw, refuse_unsupported
from tests.hf_generator_models import FAMILIES
from tests.peers.folders import build

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
BOUND_MEASURED = 2e-6


@pytest.mark.parametrize("number", range(24))
def test_a_drawn_folder_is_converted_right_or_refused(number: int, tmp_path: Path) -> None:
    outcome = attempt(draw(number, 2026), tmp_path)
    assert not outcome.wrong, outcome


@pytest.mark.slow
def test_three_hundred_drawn_folders_are_converted_right_or_refused(tmp_path: Path) -> None:
    outcomes = [attempt(draw(number, 0), tmp_path) for number in range(300)]
    assert [o for o in outcomes if o.wrong] == []
    assert sum(o.error is not None for o in outcomes) > 150  # measured: 189


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_folder_of_each_architecture_is_converted(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family]
    config: dict[str, Any] = {key: values[0] for key, values in model.always.items()}
    outcome = attempt(Case(1, family, model.classes[0], config), tmp_path)
    assert outcome.error is not None, outcome.refused
    assert outcome.error < 10 * BOUND_MEASURED


def test_dense_modules_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    config = {"use_bidirectional_attention": True, "query_pre_attn_scalar": 10}
    assert "dense twice" in MODULES
    outcome = attempt(Case(2, "gemma3", "Gemma3TextModel", config, modules="dense twice"), tmp_path)
    assert outcome.error is not None
    assert outcome.error < BOUND


@pytest.mark.parametrize("family", ["qwen3", "llama", "roberta"])
def test_the_comparison_sees_another_activation(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the table of graphs not asked, the vectors would be off, and the generator would say so."""
    monkeypatch.setitem(graph.COMPUTED, {"qwen3": "Qwen3", "llama": "Llama", "roberta": "Roberta"}[family], {})
    model = FAMILIES[family]
    config: dict[str, Any] = {key: values[0] for key, values in model.always.items()}
    outcome = attempt(Case(3, family, model.classes[0], config | {"hidden_act": "relu"}), tmp_path)
    assert outcome.wrong
    assert outcome.error is not None
    assert outcome.error > 1e-3


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    for name, message in refuse_unsupported(tmp_path).items():
        assert f"architecture {name}" in message


def test_verify_opens_a_folder_with_the_class_that_it_names(tmp_path: Path) -> None:
    """AutoModel makes a T5Model of it, which asks for a text to decode."""
    import torch

    from refembed.verify.engines.sentence_transformers import open_folder

    model = build("t5encoder", tmp_path)
    engine = open_folder(tmp_path)
    assert engine.info["architecture"] == "T5EncoderModel"
    with torch.no_grad():
        wanted = model(torch.tensor([[5, 30, 41]])).last_hidden_state[0].numpy()
    assert np.abs(engine.embed([[5, 30, 41]])[0] - wanted).max() < 1e-4
