"""What if it were otherwise: the page's switches, and PyTorch with the same change made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.playground.answers import Answers
from refembed.playground.switches import Workbench

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers(Workbench(Embedder.load("minilm", numerics="exact")), [TEXT])


def states(folder: Path, **config: Any) -> Any:
    """Hidden states of BERT, (layers + 1, T, C), in float64, with something of its configuration changed."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, attn_implementation="eager", **config).double()
    with torch.no_grad():
        found = model(**AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt"), output_hidden_states=True)
    return np.stack([h[0].numpy() for h in found.hidden_states])


def distance(x: Any, y: Any) -> float:
    """1 - cos, as half of |x/|x| - y/|y||²: no digits cancel."""
    return float(((x / np.linalg.norm(x) - y / np.linalg.norm(y)) ** 2).sum() / 2)


TANH = {"hidden_act": "gelu_pytorch_tanh"}  # as llama.cpp has it, and the reference with it


@pytest.mark.parametrize(
    ("fault", "config"),
    [("gelu-erf", {"hidden_act": "gelu"}), ("relu", {"hidden_act": "relu"}), ("silu", {"hidden_act": "silu"}),
     ("eps-0.001", TANH | {"layer_norm_eps": 1e-3})],
)  # fmt: skip
def test_a_fault_moves_vector_and_states_as_far_as_in_pytorch(
    answers: Answers, minilm_folder: Path, fault: str, config: Any
) -> None:
    before, after = states(minilm_folder, **TANH), states(minilm_folder, **config)
    found = answers.answer("explain", {"text": TEXT, "fault": fault})["moved"]
    expected = distance(after[-1].mean(axis=0), before[-1].mean(axis=0))
    assert found["distance"] == pytest.approx(expected, rel=1e-10)  # measured: 3e-14
    for off, x, y in zip(found["layers"], before, after, strict=True):
        assert off == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-10)  # 1e-13


def test_planes_are_those_of_pytorchs_states(answers: Answers, minilm_folder: Path) -> None:
    """Principal components by scikit-learn."""
    from sklearn.decomposition import PCA

    for x, plane in zip(
        states(minilm_folder, **TANH), answers.answer("explain", {"text": TEXT})["planes"], strict=True
    ):
        pca = PCA(2, svd_solver="full")
        expected, points = pca.fit_transform(x), np.array(plane["points"])
        far = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (expected, points)]
        np.testing.assert_allclose(far[1], far[0], atol=1e-12 * np.abs(expected).max())  # measured: 7e-15
        assert plane["kept"] == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-12)
