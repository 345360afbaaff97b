"""refembed.explain: numbers are the run's own, formulas mean what the model does, and no tensor is without its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import RequestError
from refembed.explain import explain
from refembed.explain.journey import Step, base_of, normalised
from refembed.explain.taps import TAPS
from refembed.gguf import open_gguf
from refembed.model import ARCHITECTURES
from refembed.testing.synthetic import synthetic
from refembed.verify.contributions import contributions, pooled_parts

TEXT = "Hello, naïve world!"
EXPERTS = ("granitemoe", "nomic-bert-moe")


@pytest.fixture(scope="module")
def e(minilm: Path) -> Embedder:
    return Embedder.load(minilm, numerics="exact")


def step(steps: list[Step], name: str, k: int = 0) -> Step:
    return [s for s in steps if s.name == name][k]


def test_stages_and_pieces_are_those_of_the_text(e: Embedder) -> None:
    """Ids by Hugging Face's BertTokenizer."""
    j = explain(e, [TEXT])
    assert j.ids == [101, 7592, 1010, 15743, 2088, 999, 102]
    assert j.pieces == ["[CLS]", "▁hello", "▁,", "▁naive", "▁world", "▁!", "[SEP]"]
    assert j.token == 1  # the first that is not special


def test_formulas_hold_of_the_numbers_beside_them(e: Embedder) -> None:
    """Layer 0 once more, by what the page says, with NumPy, from the file's tensors as gguf-py reads them."""
    from gguf import GGUFReader

    w = {t.name: np.array(t.data, np.float64) for t in GGUFReader(e.info.path).tensors}
    j = explain(e, [TEXT])
    ids, T = np.array(j.ids), j.n_tokens

    def norm(x, name):
        y = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12)
        return y * w[f"{name}.weight"] + w[f"{name}.bias"]

    def affine(x, name):
        return x @ w[f"{name}.weight"].reshape(-1, x.shape[-1]).T + w[f"{name}.bias"]

    x = w["token_embd.weight"][ids] + w["token_types.weight"][0] + w["position_embd.weight"][:T]
    expected = {"inp_embd": x}
    expected["inp_norm-0"] = x = norm(x, "token_embd_norm")
    q, k, v = (affine(x, f"blk.0.attn_{n}").reshape(T, 12, 32).swapaxes(0, 1) for n in "qkv")
    expected["kq-0"] = kq = q @ k.swapaxes(1, 2)
    a = np.exp(kq / np.sqrt(32))
    expected["kq_soft_max-0"] = a = a / a.sum(axis=-1, keepdims=True)
    expected["kqv-0"] = a @ v
    o = (a @ v).swapaxes(0, 1).reshape(T, 384)
    expected["ffn_inp-0"] = y = norm(x + affine(o, "blk.0.attn_output"), "blk.0.attn_output_norm")
    up = affine(y, "blk.0.ffn_up")
    gelu = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
    expected["ffn_gelu-0"] = gelu
    expected["l_out-0"] = norm(y + affine(gelu, "blk.0.ffn_down"), "blk.0.layer_output_norm")
    for name, array in expected.items():
        s = step([*j.before, *j.inside], name)
        assert s.shape == array.shape
        row = array[0, j.token] if array.ndim == 3 else array[j.token]
        np.testing.assert_allclose(s.numbers, row[:4], rtol=1e-9, atol=1e-12)
        assert s.formula
        assert s.title
    np.testing.assert_allclose(j.attention[0], a, atol=1e-12)


@pytest.mark.oracle
def test_numbers_are_those_of_llamacpp(e: Embedder, oracle) -> None:
    """Measured with the pinned wheel: 2.6e-3 at most, in kq; its GELU table and its cache are F16."""
    j = explain(e, [TEXT], layer=3)
    trace = oracle.trace(j.ids)
    for s in j.inside:
        if s.name in trace and s.name not in ("v_cont-3", "l_out-3"):
            k = sum(x.name == s.name for x in j.inside[: j.inside.index(s)])
            array = trace[s.name, k].reshape(s.shape)
            row = array[0, j.token] if s.name.startswith(("kq-", "kq_soft", "kqv-")) else array[j.token]
            np.testing.assert_allclose(s.numbers, row[:4], atol=5e-3, rtol=1e-4)


def test_pooling_and_normalisation_by_hand(e: Embedder) -> None:
    j = explain(e, [TEXT, "another"])
    last = e.trace(TEXT)["result_embd"]
    assert j.pooled is not None
    np.testing.assert_allclose(j.pooled, last.mean(axis=0), rtol=1e-12)
    unit = normalised(j)
    np.testing.assert_allclose(unit, last.mean(axis=0) / np.sqrt((last.mean(axis=0) ** 2).sum()), rtol=1e-12)
    np.testing.assert_allclose(j.vector, unit, atol=1e-7)


@pytest.mark.parametrize("how", ["mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean"])
def test_what_tokens_contribute_adds_up(how: str) -> None:
    h = np.random.default_rng(3).normal(size=(5, 7))
    expected = {
        "mean": sum(h) / 5, "cls": h[0], "last": h[4], "max": [max(c) for c in h.T], "mean_sqrt_len": sum(h) / 5**0.5,
        "weightedmean": sum((t + 1) * x for t, x in enumerate(h)) / 15,
    }[how]  # fmt: skip
    np.testing.assert_allclose(pooled_parts(h, how).sum(axis=0), expected, rtol=1e-12)
    assert contributions(h, how).sum() == pytest.approx(1)


def test_a_token_that_cancels_contributes_negatively() -> None:
    shares = contributions(np.array([[3.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]), "mean")
    assert shares.tolist() == pytest.approx([1.5, -0.5, 0.0])
    assert contributions(np.array([[1.0], [-1.0]]), "mean").tolist() == [0.0, 0.0]
    with pytest.raises(RequestError, match="no one vector"):
        contributions(np.ones((2, 2)), "none")


def test_layers_are_described_by_what_they_did(e: Embedder) -> None:
    j, trace = explain(e, [TEXT]), e.trace(TEXT)
    assert len(j.layers) == 6
    x, y = trace["inp_norm-0"], trace["l_out-0"]
    a = trace["kq_soft_max-0"]
    first = j.layers[0]
    assert first.norm == pytest.approx(np.mean([np.sqrt(v @ v) for v in y]))
    assert first.kept == pytest.approx(np.mean([u @ v / np.sqrt((u @ u) * (v @ v)) for u, v in zip(x, y, strict=True)]))
    assert first.to_first == pytest.approx(a[:, :, 0].mean())
    assert first.to_self == pytest.approx(np.mean([np.trace(h) / len(h) for h in a]))
    assert first.entropy == pytest.approx(np.mean([-(p * np.log2(p)).sum() for h in a for p in h]))
    assert 0 <= first.entropy <= np.log2(j.n_tokens)


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_every_tensor_of_every_architecture_has_its_line(arch: str, tmp_path: Path) -> None:
    """... and stands in one part of the journey; tensors that are named as read are in the file."""
    path = synthetic(tmp_path / "m.gguf", arch, pooling=1, X=4 if arch in EXPERTS else 0)
    embedder = Embedder.load(path, numerics="exact")
    n, names = embedder.info.n_layer, embedder.trace("the cat sat")
    seen: list[str] = []
    for layer in range(n):
        j = explain(embedder, ["the cat sat"], layer=layer)
        seen += [s.name for s in (*(j.before if layer == 0 else ()), *j.inside, *(j.behind if layer == n - 1 else ()))]
        for s in (*j.before, *j.inside, *j.behind):
            assert base_of(s.name) in TAPS
            assert s.title, s.name
            assert s.formula, s.name
            assert "{" not in s.formula + s.source.replace("{}", "") + s.reads
            assert np.isfinite(s.numbers).all()
        assert len(j.hidden) == n + 1
    assert sorted(seen) == sorted(t.name for t in names.taps)
    f, j = open_gguf(path), explain(embedder, ["the cat sat"], layer=1)
    for s in (*j.before, *j.inside, *j.behind):
        weights = [item for item in s.reads.split(", ") if item.endswith((".weight", ".bias"))]
        assert set(weights) <= set(f.tensors)
        product = s.formula in ("x Wᵀ", "x Wᵀ + b", "a Wᵀ", "h Wᵀ", "Q = x Wᵀ", "K = x Wᵀ", "V = x Wᵀ")
        assert weights or not product, s.name


def test_phi3_scales_its_queries_when_they_are_turned(tmp_path: Path) -> None:
    """llama.cpp's src/models/phi3.cpp names both Qcur."""
    j = explain(Embedder.load(synthetic(tmp_path / "m.gguf", "phi3", pooling=3), numerics="exact"), ["the cat"])
    assert [s.title for s in j.inside if s.name == "Qcur-0"][-2:] == [
        "Queries turned by their place",
        "Queries, scaled before the product",
    ]


def test_a_run_that_keeps_no_scores_says_so(tiny: Path) -> None:
    j = explain(Embedder.load(tiny, numerics="ggml", flash_attn=True), ["hello"])
    assert j.attention == {}
    assert j.layers[0].entropy is None
    assert any("--no-flash-attn" in note for note in j.notes)


def test_without_pooling_each_token_keeps_its_vector(e: Embedder) -> None:
    j = explain(e, [TEXT, "b"], pooling="none")
    assert j.pooled is None
    assert j.shares is None
    assert j.vectors is None
    assert j.vector.shape == (7, 384)
    assert len(j.notes) == 2


def test_no_text_is_an_error(e: Embedder) -> None:
    with pytest.raises(RequestError, match="no text"):
        explain(e, [])
