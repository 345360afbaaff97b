"""refembed/model/published.py: what the published models compute, by mathematics. PyTorch itself is asked in
tests/peers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import ModelError, RequestError
from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.model.batch import pack
from refembed.model.published import PUBLISHED, segments
from refembed.testing.synthetic import synthetic
from tests.copies import copied
from tests.model.family import Family
from tests.model.test_variants import FAMILIES

TEXT = "the cat sat on the mat and it was a dog"


def vector(path: Path, semantics: str = "llama.cpp", numerics: str = "exact", text: Any = TEXT) -> Any:
    return Embedder.load(path, numerics=numerics, semantics=semantics).embed([text], pooling="mean", normalize=-1)[0]


def rewritten(source: Path, target: Path, change: Callable[[str, Any], Any]) -> Path:
    """The file with some of its tensors changed."""
    tensors = open_gguf(source).tensors.items()
    changed = {name: np.ascontiguousarray(change(name, t.dequantize()), np.float32) for name, t in tensors}
    return copied(source, target, tensors=changed)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("arch", ["qwen3", "gemma3", "modern-bert", "nomic-bert"])
def test_where_no_difference_is_known_no_bit_differs(arch: str, numerics: str, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", arch, pooling=1)
    assert vector(path, "original", numerics).tobytes() == vector(path, numerics=numerics).tobytes()


@pytest.mark.parametrize("arch", ["bert", "jina-bert-v3", "jina-bert-v2"])
def test_gelu_is_gelu_itself(arch: str, tmp_path: Path, monkeypatch: Any) -> None:
    """With the tanh form replaced by x Phi(x), llama.cpp's graph is the published one."""
    path = synthetic(tmp_path / "m.gguf", arch, pooling=1, optional=("token_types.weight", "ffn_gate.weight"))
    published, tanh = vector(path, "original"), vector(path)
    phi = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)
    ops = type(load_ops("exact"))
    monkeypatch.setattr(ops, "gelu", lambda self, x: phi(x))
    monkeypatch.setattr(ops, "geglu", lambda self, gate, up: phi(gate) * up)
    np.testing.assert_allclose(published, vector(path), rtol=0, atol=2e-7)
    assert 1e-5 < np.abs(published - tanh).max() < 1e-1


def test_qwen2vls_norms_have_the_files_epsilon(tmp_path: Path) -> None:
    """Where all pairs of channels turn, its text part as published is Qwen 2, to the bit."""
    sizes: dict[str, Any] = {"C": 40, "H": 4, "K": 2, "D": 10, "pooling": 1}
    qwen2vl, qwen2 = (synthetic(tmp_path / f"{arch}.gguf", arch, **sizes) for arch in ("qwen2vl", "qwen2"))
    assert vector(qwen2vl, "original").tobytes() == vector(qwen2).tobytes()
    assert 1e-9 < np.abs(vector(qwen2vl) - vector(qwen2)).max() < 1e-4


def test_neo_berts_matrix_is_cut_head_by_head(tmp_path: Path) -> None:
    """A file whose rows stand q, k, v for each head in turn is, as published, the file with all of q first."""
    H, D, C = 6, 6, 36
    plain = synthetic(tmp_path / "plain.gguf", "neo-bert", C=C, H=H, D=D, pooling=1)

    def by_head(name: str, x: Any) -> Any:
        return x.reshape(3, H, D, C).swapaxes(0, 1).reshape(3 * C, C) if name.endswith("attn_qkv.weight") else x

    published = rewritten(plain, tmp_path / "published.gguf", by_head)
    assert vector(published, "original").tobytes() == vector(plain).tobytes()
    assert np.abs(vector(published) - vector(plain)).max() > 1e-2


def test_jinas_code_model_has_its_gate_second(tmp_path: Path) -> None:
    """With the halves of ffn_up the other way round, the models with and without a second norm gate alike."""
    parts = ("attn_norm_2.weight", "attn_norm_2.bias")
    one = synthetic(tmp_path / "one.gguf", "jina-bert-v2", wide=True, pooling=1, optional=parts)

    def swapped(name: str, x: Any) -> Any:
        return np.roll(x, len(x) // 2, axis=0) if name.endswith("ffn_up.weight") else x

    other = rewritten(one, tmp_path / "other.gguf", swapped)
    code, plain = Embedder.load(one, numerics="exact", semantics="original"), Embedder.load(other, numerics="exact")
    erf = type(plain.ops).gelu_erf
    plain.ops.geglu = lambda gate, up: erf(plain.ops, gate) * up  # type: ignore[method-assign]
    a, b = (e.embed([TEXT], pooling="mean", normalize=-1)[0] for e in (code, plain))
    assert a.tobytes() == b.tobytes()
    assert np.abs(a - vector(one)).max() > 1e-2


@pytest.mark.parametrize("arch", ["t5encoder", "llama-embed"])
def test_encoders_see_all_unless_the_file_says_otherwise(arch: str, tmp_path: Path) -> None:
    silent = synthetic(tmp_path / "silent.gguf", arch, pooling=1)
    says = {flag: synthetic(tmp_path / f"{flag}.gguf", arch, pooling=1, keys={"attention.causal": (flag, "BOOL")})
            for flag in (True, False)}  # fmt: skip
    assert vector(silent, "original").tobytes() == vector(says[False]).tobytes()
    assert vector(silent).tobytes() == vector(says[True]).tobytes() == vector(says[True], "original").tobytes()
    assert np.abs(vector(silent) - vector(says[False])).max() > 1e-2


def test_phi3_looks_back_a_window(tmp_path: Path) -> None:
    """A token beyond the windows of all layers together does not matter, and one within does."""
    path = synthetic(
        tmp_path / "m.gguf", "phi3", n_layer=2, pooling=3, keys={"attention.sliding_window": (4, "UINT32")}
    )
    e = Embedder.load(path, numerics="exact", semantics="original")
    ids = list(range(20, 40))
    last = [e.embed([[*ids[:i], 11, *ids[i + 1 :]]], pooling="last", normalize=-1)[0] for i in range(20)]
    same = [i for i in range(20) if last[i].tobytes() == last[0].tobytes()]
    assert same == list(range(20 - 1 - 2 * 3))  # two layers look back three tokens each
    assert np.abs(vector(path) - vector(path, "original")).max() > 1e-3


def test_phi3_turns_by_the_length_of_the_text(tmp_path: Path) -> None:
    """Texts up to the original context turn by the short factors, longer ones by the long, in one batch."""
    keys = {"rope.scaling.original_context_length": (8, "UINT32")}
    factors = ("rope_factors_long.weight", "rope_factors_short.weight")
    path = synthetic(tmp_path / "m.gguf", "phi3", P=64, pooling=1, optional=factors, keys=keys)
    short = rewritten(path, tmp_path / "s.gguf", lambda name, x: x * 0 + 1 if "factors_long" in name else x)
    long = rewritten(path, tmp_path / "l.gguf", lambda name, x: x * 0 + 1 if "factors_short" in name else x)
    texts = [list(range(20, 28)), list(range(20, 29))]
    both = Embedder.load(path, numerics="exact", semantics="original").embed(texts, pooling="mean")
    for i, (here, gone) in enumerate([(short, long), (long, short)]):
        a, b = (vector(p, "original", text=texts[i]) for p in (here, gone))
        assert a.tobytes() == vector(path, "original", text=texts[i]).tobytes() != b.tobytes()
        np.testing.assert_allclose(both[i], a / np.linalg.norm(a), atol=1e-7)


def test_segments_begin_behind_the_first_separator_of_a_pair(tmp_path: Path) -> None:
    found = segments(pack([[2, 9, 3, 8, 8, 3], [2, 3], [2, 7], [3, 3, 3]]), sep=3)
    assert found.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1]
    head = ("token_types.weight", "cls.output.weight")
    ranks = synthetic(tmp_path / "rank.gguf", "bert", pooling=4, optional=head)
    alone = synthetic(tmp_path / "plain.gguf", "bert", pooling=1, optional=head[:1])
    one_kind = rewritten(ranks, tmp_path / "one.gguf", lambda name, x: x[[0, 0]] if "token_types" in name else x)
    pair = [2, 9, 10, 3, 11, 12, 3]
    assert np.abs(vector(ranks, "original", text=pair) - vector(one_kind, "original", text=pair)).max() > 1e-2
    single = [2, 9, 10, 3]
    assert vector(ranks, "original", text=single).tobytes() == vector(one_kind, "original", text=single).tobytes()
    e = Embedder.load(alone, numerics="exact", semantics="original")
    assert e.model.sep is None  # type: ignore[attr-defined]  # without a head no text is a pair


def test_what_cannot_be_had_is_refused(tiny: Path) -> None:
    with pytest.raises(RequestError, match="semantics 'original' cannot be had in numerics 'ggml'"):
        Embedder.load(tiny, numerics="ggml", semantics="original")
    with pytest.raises(RequestError, match="semantics 'torch': there is none of that name"):
        Embedder.load(tiny, semantics="torch")


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        pytest.param(family, variant, id=variant, marks=pytest.mark.slow if variant in family.slow else ())
        for family in FAMILIES
        for variant, (arch, _) in family.variants.items()
        if arch in PUBLISHED
    ],
)
def test_every_variant_has_a_vector_or_is_refused(family: Family, variant: str, tmp_path: Path) -> None:
    """NeoBERT was published with one matrix of 3C rows: with fewer heads of keys there is nothing to compute."""
    path = family.write(variant, tmp_path)
    arch, sizes = family.variants[variant]
    if arch == "neo-bert" and "K" in sizes:
        with pytest.raises(ModelError, match=rf"neo-bert.attention.head_count_kv is {sizes['K']} for ") as e:
            Embedder.load(path, semantics="original")
        assert "semantics 'llama.cpp' computes this file" in (e.value.hint or "")
        return
    assert np.isfinite(vector(path, "original", text=list(range(20, 50)))).all()


@pytest.mark.parametrize("arch", PUBLISHED)
def test_exact_and_fast_agree_about_the_published_model(arch: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"X": 4} if arch == "nomic-bert-moe" else {}
    path = synthetic(tmp_path / "m.gguf", arch, pooling=1, D=6, C=36, H=6, **more)
    exact, fast = (vector(path, "original", numerics) for numerics in ("exact", "fast"))
    assert np.abs(exact - fast).max() < 1e-5


def test_a_trace_has_the_published_tensors(tiny: Path) -> None:
    """The tap that llama.cpp's graph calls ffn_gelu holds GELU itself."""
    trace = Embedder.load(tiny, numerics="exact", semantics="original").trace("hello")
    x, y = trace["ffn_up_b-0"], trace["ffn_gelu-0"]
    phi = np.vectorize(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)
    np.testing.assert_allclose(y, phi(x), rtol=0, atol=1e-14)
