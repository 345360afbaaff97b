"""refembed.explain: numbers are the run's own, formulas mean what the model does, and no tensor is without its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import RequestError
from refembed.explain import explain
from refembed.explain.taps import TAPS
from refembed.explain.walkthrough import Step, base_of, normalized
from refembed.gguf import open_gguf
from refembed.model import ARCHITECTURES
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.contributions import contributions, pooled_parts

TEXT = "Hello, naïve world!"
EXPERTS = ("granitemoe", "nomic-bert-moe")


@pytest.fixture(scope="module")
def e(minilm: Path) -> Embedder:
    return Embedder.load(minilm, numerics="exact")


def step(steps: list[Step], name: str, k: int = 0) -> Step:
    return [s for s in steps if s.name == name][k]


def sums(steps: list[Step]) -> list[str]:
    """Residual sums, which the trace does not hold: llama.cpp's graph leaves them unnamed."""
    return [s.name for s in steps if " + " in s.name]


def test_stages_and_pieces_are_those_of_the_text(e: Embedder) -> None:
    """Ids by Hugging Face's BertTokenizer."""
    j = explain(e, [TEXT])
    assert j.ids == [101, 7592, 1010, 15743, 2088, 999, 102]
    assert j.pieces == ["[CLS]", "▁hello", "▁,", "▁naive", "▁world", "▁!", "[SEP]"]
    assert j.token == 1  # the first that is not special


def test_formulas_hold_of_the_numbers_next_to_them(e: Embedder) -> None:
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
    compared = [s for s in j.inside if s.name in trace and s.name not in ("v_cont-3", "l_out-3")]
    assert len(compared) >= 20  # of MiniLM's layer
    for s in compared:
        k = sum(x.name == s.name for x in j.inside[: j.inside.index(s)])
        array = trace[s.name, k].reshape(s.shape)
        row = array[0, j.token] if s.name.startswith(("kq-", "kq_soft", "kqv-")) else array[j.token]
        np.testing.assert_allclose(s.numbers, row[:4], atol=5e-3, rtol=1e-4)


def test_pooling_and_normalization_by_hand(e: Embedder) -> None:
    j = explain(e, [TEXT, "another"])
    last = e.trace(TEXT)["result_embd"]
    assert j.pooled is not None
    np.testing.assert_allclose(j.pooled, last.mean(axis=0), rtol=1e-12)
    unit = normalized(j)
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
    """... and stands in one part of the walkthrough; tensors that are named as read are in the file."""
    path = synthetic(tmp_path / "m.gguf", arch, pooling=1, X=4 if arch in EXPERTS else 0)
    embedder = Embedder.load(path, numerics="exact")
    n, names = embedder.info.n_layer, embedder.trace("the cat sat")
    seen: list[str] = []
    for layer in range(n):
        j = explain(embedder, ["the cat sat"], layer=layer)
        seen += [s.name for s in (*(j.before if layer == 0 else ()), *j.inside, *(j.behind if layer == n - 1 else ()))]
        for s in (*j.before, *j.inside, *j.behind):
            assert base_of(s.name) in TAPS or s.name in sums([s])
            assert s.title, s.name
            assert s.formula, s.name
            assert "{" not in s.formula + s.source + s.reads.replace("{}", "")
            assert np.isfinite(s.numbers).all()
        assert len(j.hidden) == n + 1
    assert sorted(name for name in seen if " + " not in name) == sorted(t.name for t in names.tensors)
    f, j = open_gguf(path), explain(embedder, ["the cat sat"], layer=1)
    for s in (*j.before, *j.inside, *j.behind):
        items = s.reads.split(", ")
        weights = [item for item in items if item.endswith((".weight", ".bias")) or item in f.tensors]
        assert set(weights) <= set(f.tensors)
        product = "Wᵀ" in s.formula or "· W" in s.formula
        assert weights or not product, s.name


def test_phi3_scales_its_queries_when_they_are_turned(tmp_path: Path) -> None:
    """llama.cpp's src/models/phi3.cpp names both Qcur."""
    j = explain(Embedder.load(synthetic(tmp_path / "m.gguf", "phi3", pooling=3), numerics="exact"), ["the cat"])
    assert [s.title for s in j.inside if s.name == "Qcur-0"][-2:] == [
        "Queries rotated by their position",
        "Queries, scaled before the product",
    ]


def test_a_norm_after_a_residual_shows_the_sum_first(e: Embedder) -> None:
    """BERT norms a sum that llama.cpp's graph leaves unnamed: it stands before its norm, and is what the norm reads."""
    j, trace = explain(e, [TEXT]), e.trace(TEXT)
    names = [s.name for s in j.inside]
    assert sums(j.inside) == ["kqv_out-0 (2nd of 2) + inp_norm-0", "ffn_out-0 + ffn_inp-0"]
    for total, parts in zip(sums(j.inside), (("kqv_out-0", "inp_norm-0"), ("ffn_out-0", "ffn_inp-0")), strict=True):
        i = names.index(total)
        assert names[i + 1] == "norm-0"
        assert j.inside[i + 1].where.startswith(f"x = {total}; eps")
        expected = (trace[parts[0]] + trace[parts[1]])[j.token]
        np.testing.assert_allclose(j.inside[i].numbers, expected[:4], rtol=1e-15)


def test_marks_of_pieces_are_explained_as_bert_spells_them(e: Embedder) -> None:
    """Pieces that continue a word bear ## in BERT's vocab.txt; GGUF marks the others, by ▁ (convert_hf_to_gguf.py)."""
    j = explain(e, ["Hello, embeddings!"])
    assert j.pieces == ["[CLS]", "▁hello", "▁,", "▁em", "bed", "ding", "s", "▁!", "[SEP]"]
    assert j.marks.endswith("Here: [CLS] hello , em ##bed ##ding ##s ! [SEP]")


def test_formulas_of_adapted_products_name_the_adapter(minilm: Path, tmp_path: Path) -> None:
    """x Wᵀ + s (x Aᵀ) Bᵀ + b, evaluated from the adapter's file and the model's."""
    from gguf import GGUFReader

    from refembed.testing.synthetic_lora import synthetic_lora

    path = synthetic(tmp_path / "m.gguf", "llama", pooling=3)
    adapter = synthetic_lora(tmp_path / "a.gguf", path)
    e = Embedder.load(path, numerics="exact", lora=[f"{adapter}:0.5"])
    (s, *_) = [s for s in explain(e, ["the cat"]).inside if s.name == "Qcur-0"]
    assert s.formula == "x Wᵀ + s1 (x A1ᵀ) B1ᵀ"
    where = {o.letter: o.what for o in s.how.operands}
    model, lora = ({t.name: np.array(t.data, np.float64) for t in GGUFReader(p).tensors} for p in (path, adapter))
    x = e.trace("the cat")["attn_norm-0"]
    A, B = (lora[where[letter].removeprefix("lora 0: ")] for letter in ("A1", "B1"))
    y = x @ model[where["W"]].T + float(where["s1"].rpartition(" = ")[2]) * (x @ A.T) @ B.T
    token = explain(e, ["the cat"]).token
    np.testing.assert_allclose(s.numbers, y[token, :4], rtol=1e-9)


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
