"""Routers, latent attention and norms by groups taken otherwise: each hypothesis changes something, and none more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conformance.verify_models import DECODERS
from refembed import Embedder
from refembed.testing.synthetic import synthetic
from refembed.verify.hypotheses.latent import latent_rows
from refembed.verify.hypotheses.routers import alike, of_chosen, router_rows, with_bias
from refembed.verify.reference import reference_of

IDS = [[3, 9, 14, 7, 22, 5], [11, 12, 4]]
NAMES = {"exp_probs_b.bias", "attn_v_gate.bias", "attn_gate.weight"}
ROUTER = {"experts-alike", "router-not-normalized", "router-bias-missing", "router-bias-weighs", "router-softmax"}
WANTED = {
    "lfm2moe": ROUTER,
    "deepseek2": ROUTER | {"router-weights-unscaled", "router-groups-missing", "router-groups+1", "router-groups-1",
                           "scale-latent", "scale-yarn-missing"},
    "k2-horizon": ROUTER | {"value-router-bias-missing", "router-weights-unscaled", "norm-groups-missing",
                            "output-gate-missing", "output-gate-base"},
}  # fmt: skip


@pytest.mark.system
@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("arch", WANTED)
def test_each_changes_what_the_model_computes(arch: str, numerics: str, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", arch, P=64, V=40, **DECODERS[arch])
    r = reference_of(Embedder.load(path, numerics="fast"), "mean")
    names = NAMES if arch == "k2-horizon" else {"exp_probs_b.bias"}
    rows = [*router_rows(r, names, {"ffn_moe_weights_norm"}), *latent_rows(r, names)]
    assert {row[0] for row in rows} == WANTED[arch]
    true = r.forward(IDS, numerics)
    for id, _, change, _ in rows:
        other = change(r).forward(IDS, numerics)
        assert np.isfinite(other).all(), id
        assert not np.allclose(other, true, rtol=1e-6, atol=0), id
    assert np.array_equal(r.forward(IDS, numerics), true)  # nothing of it stays


def test_factors_make_other_weights_of_those_that_are() -> None:
    """Two experts of three, which suit a token by 0.5 and 0.25; their biases are 0.1 and 0.4."""
    p, suited = np.array([[0.5, 0.25]]), np.array([[0.6, 0.65]])
    assert (p * alike(p, suited)).tolist() == [[0.375, 0.375]]
    assert p * with_bias(normed=False)(p, suited) == pytest.approx(suited)
    shares = p / p.sum()
    assert shares * with_bias(normed=True)(p, suited) == pytest.approx(suited / suited.sum())


def test_of_chosen_takes_them_in_their_order() -> None:
    p = np.array([[0.1, 0.2, 0.7]])
    assert of_chosen(p, np.array([[2, 0]])).tolist() == [[0.7, 0.1]]
    assert of_chosen(p[:, :2], np.array([[2, 0]])).tolist() == [[0.1, 0.2]]  # gpt-oss: of the chosen alone


def test_a_model_without_routing_has_no_rows_about_it() -> None:
    hp = SimpleNamespace(routing=None, expert_gating_func=0, latent=None, n_norm_group=1, arch="qwen3moe")
    r = SimpleNamespace(model=SimpleNamespace(hparams=hp))
    assert [row[0] for row in router_rows(r, set(), set())] == ["experts-alike", "router-normalized"]  # type: ignore[arg-type]
    assert not list(latent_rows(r, {"attn_gate.weight"}))  # type: ignore[arg-type]
