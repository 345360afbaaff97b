"""Heads on small random models against live llama.cpp: every tensor behind the hidden states, every bit of a score.

Largest error of one operation of a head on llama.cpp's own inputs, over the largest value, in `exact` and `fast`:
measured 2.9e-7 (xllamacpp 2026.10.11549); 1.1e-6 where the head gives one number, in whose sum more may cancel; 7.5e-3
with quantized weights, for which llama.cpp rounds what they are multiplied with to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError, ModelError, RequestError
from refembed.gguf import open_gguf
from refembed.kernels.ggml.ops import Ggml
from refembed.model import load_model
from refembed.pooling import heads
from refembed.testing.synthetic import synthetic
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied, with_keys
from tests.heads_live import Headed
from tests.model.bits import some_ids

LOCAL, LOCAL_ONE, LOCAL_QUANTIZED = 5e-7, 3e-6, 2e-2

CLS, OUT = {"cls.weight", "cls.bias"}, {"cls.output.weight", "cls.output.bias"}
WIDE = {"C": 64, "F": 96, "H": 4}
POOL_CLS = {"classifier.pooling_type": (2, "UINT32")}
POOL_MEAN = {"classifier.pooling_type": (1, "UINT32")}
SEES_ALL = {"attention.causal": (False, "BOOL")}
DENSE_KEYS = {"dense_2_feat_out": (48, "UINT32"), "dense_3_feat_in": (48, "UINT32")}
DENSE = {"K": 2, "n_layer": 7, "keys": DENSE_KEYS, "optional": {"dense_2.weight", "dense_3.weight"}}
DENSE_Q8 = DENSE | WIDE | {"D": 32, "type_name": "Q8_0", "keys": dict.fromkeys(DENSE_KEYS, (96, "UINT32"))}
COLBERT = {"dense_2.weight", "dense_2.bias"}


def labels(n: int) -> dict[str, Any]:
    """{arch}.classifier.output_labels."""
    return {"classifier.output_labels": ([f"label {i}" for i in range(n)], "ARRAY[STRING]")}


# fmt: off
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert":                        ("bert", "rank", {"optional": CLS | OUT}),
    "bert, output alone":          ("bert", "rank", {"optional": {"cls.output.weight"}}),
    "bert, no biases":             ("bert", "rank", {"optional": {"cls.weight", "cls.output.weight"}}),
    "bert, three labels":          ("bert", "rank", {"optional": CLS | OUT, "keys": labels(3)}),
    "bert, on the mean":           ("bert", "rank", {"optional": CLS | OUT, "keys": labels(2) | POOL_MEAN}),
    "bert, a file that says causal": ("bert", "rank", {"optional": OUT, "keys": {"attention.causal": (True, "BOOL")}}),
    "bert, Q8_0":                  ("bert", "rank", WIDE | {"optional": CLS | OUT, "type_name": "Q8_0",
                                                            "keys": labels(3)}),
    "bert, Q4_0, eight labels":    ("bert", "rank", WIDE | {"optional": CLS | OUT, "type_name": "Q4_0",
                                                            "keys": labels(8)}),
    "jina-bert-v2, cls alone":     ("jina-bert-v2", "rank", {"optional": CLS}),
    "neo-bert":                    ("neo-bert", "rank", {"optional": CLS | OUT}),
    "modern-bert":                 ("modern-bert", "rank", {"optional": CLS | OUT | {"cls.norm.weight"}}),
    "modern-bert, on the first":   ("modern-bert", "rank", {"optional": CLS | OUT, "keys": labels(4) | POOL_CLS}),
    "qwen3":                       ("qwen3", "rank", {"K": 2, "optional": {"cls.output.weight"}, "keys": labels(2)}),
    "qwen3, sees all":             ("qwen3", "rank", {"optional": {"cls.output.weight"}, "keys": labels(5) | SEES_ALL}),
    "qwen3vl":                     ("qwen3vl", "rank", {"optional": {"cls.output.weight"}, "keys": labels(2)}),
    "gemma-embedding, dense":      ("gemma-embedding", "mean", DENSE),
    "gemma-embedding, each token": ("gemma-embedding", "none", DENSE),
    "gemma-embedding, dense Q8_0": ("gemma-embedding", "mean", DENSE_Q8),
    "lfm2, dense, a length":       ("lfm2", "cls", {"optional": COLBERT,
                                                    "keys": {"embedding_length_out": (13, "UINT32")}}),
    "lfm2, ColBERT":               ("lfm2", "none", {"optional": COLBERT,
                                                     "keys": {"embedding_length_out": (13, "UINT32")}}),
}
# fmt: on


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a variant, written when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("heads"), {}

    def path(name: str) -> Path:
        if name not in made:
            arch, pooling, sizes = VARIANTS[name]
            number = {"none": 0, "mean": 1, "cls": 2, "rank": 4}[pooling]
            made[name] = synthetic(folder / f"{len(made)}.gguf", arch, seed=len(name), P=256, pooling=number, **sizes)
        return made[name]

    return path


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_are_llama_cpps(variant: str, paths: Callable[[str], Path]) -> None:
    """`ggml`: every bit alone and together; every tensor of the head has its partner and is right on its own inputs."""
    arch, pooling, _ = VARIANTS[variant]
    for switched in (False, True):  # flash attention, and repacked weights
        here = Headed(paths(variant), pooling, flash_attn=switched, repack=switched)
        with here.engine() as engine:
            found = here.differing(engine)
            theirs = engine.trace(some_ids(19))
        if arch == "lfm2":  # its texts run one by one, but share a cache
            found = {name: n for name, n in found.items() if " of " not in name}
        assert found == {}
        assert here.unpaired(theirs) == []
        assert here.wrong(theirs) == []
    for numerics in ("exact", "fast"):
        off = Headed(paths(variant), pooling, numerics=numerics).local(theirs)
        last = [d for d in off if d.name.startswith(("cls", "dense", "result_embd_pooled"))]
        assert len(last) >= (2 if pooling == "rank" else 3)
        bound = LOCAL if "type_name" not in VARIANTS[variant][2] else LOCAL_QUANTIZED
        one = pooling == "rank" and here.model.hparams.n_cls_out == 1
        for d in last:
            assert d.difference.rel_peak <= (LOCAL_ONE if one else bound), f"{d.name}, {numerics}: {d.difference}"


# --- faults, each of which the comparison has to see ----------------------------------------------------------------


def no_bias(model: Any, name: str, found: Any = heads.affine_of) -> Any:
    """A head whose biases are forgotten."""
    affine = found(model, name)
    return affine and affine._replace(bias=None)


def reversed_steps(model: Any, ops: Any, tap: Any, found: Any = heads.classifier) -> Any:
    """cls.norm before the activation."""
    steps = found(model, ops, tap)
    return [steps[0], steps[2], steps[1], *steps[3:]]


def softmax_again(model: Any, ops: Any, tap: Any, found: Any = heads.classifier) -> Any:
    """A softmax that was not asked for."""
    return [*found(model, ops, tap), ("again", ops.softmax)]


# fmt: off
FAULTS: dict[str, tuple[str, Any, str, Any]] = {
    "tanh for gelu":             ("modern-bert", heads, "GELU", ()),
    "gelu by tanh":              ("modern-bert", Ggml, "gelu_erf", Ggml.gelu),
    "gelu for tanh":             ("bert", heads, "GELU", ("bert",)),
    "first token for mean":      ("modern-bert", heads, "MEAN", ()),
    "mean for first token":      ("bert", heads, "MEAN", ("bert",)),
    "the key is not read":       ("modern-bert, on the first", heads, "rank_pooling", lambda hp: "mean"),
    "first token for last":      ("qwen3", heads, "rank_pooling", lambda hp: "cls"),
    "last token for first":      ("qwen3, sees all", heads, "rank_pooling", lambda hp: "last"),
    "no softmax":                ("qwen3", heads, "SOFTMAX", ()),
    "softmax for all":           ("bert, three labels", heads, "classifier", softmax_again),
    "biases forgotten":          ("bert", heads, "affine_of", no_bias),
    "norm before activation":    ("modern-bert", heads, "classifier", reversed_steps),
    "dense layers forgotten":    ("gemma-embedding, dense", heads, "dense", lambda *_: []),
    "dense bias forgotten":      ("lfm2, dense, a length", heads, "affine_of", no_bias),
}
# fmt: on


@pytest.mark.oracle
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, paths: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    variant, where, name, broken = FAULTS[fault]
    here = Headed(paths(variant), VARIANTS[variant][1])
    with here.engine() as engine:
        theirs = engine.trace(some_ids(19))
    assert here.wrong(theirs) == []
    monkeypatch.setattr(where, name, broken)
    try:
        wrong = here.unpaired(theirs) + here.wrong(theirs)
    except ValueError:  # shapes that no longer fit
        return
    assert wrong != []


# --- what a head is, and what is none -------------------------------------------------------------------------------


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("variant", ["bert, three labels", "modern-bert", "qwen3", "gemma-embedding, dense"])
def test_a_texts_bits_do_not_depend_on_its_batch(variant: str, numerics: str, paths: Callable[[str], Path]) -> None:
    e = Embedder.load(paths(variant), numerics=numerics)
    texts = [some_ids(n) for n in (9, 1, 33, 2, 17)]
    together = e.embed(texts)
    assert all(np.array_equal(e.embed([t])[0], v) for t, v in zip(texts, together, strict=True))
    assert np.array_equal(e.embed(texts[::-1])[::-1], together)


def test_pooling_rank_gives_the_heads_outputs_as_they_are(paths: Callable[[str], Path]) -> None:
    e = Embedder.load(paths("bert, three labels"), numerics="exact")
    assert (e.info.pooling, e.info.n_cls_out, e.info.labels[2]) == ("rank", 3, "label 2")
    ids = some_ids(8)
    scores = e.embed([ids])
    assert scores.shape == (1, 3)
    assert np.array_equal(scores, e.embed([ids], pooling="rank", normalize=-1))
    assert np.linalg.norm(e.embed([ids], normalize=2)) == pytest.approx(1)  # if asked to
    assert e.embed([], pooling="rank").shape == (0, 3)
    assert np.array_equal(e.embed([ids], dimensions=1), scores[:, :1])
    with pytest.raises(RequestError, match="dimensions 4: the model's vectors have 3 numbers"):
        e.embed([ids], dimensions=4)
    t = e.trace(ids)
    assert np.array_equal(t["result_embd_pooled"].astype(np.float32), scores)
    assert "cls_tanh" in t
    assert e.embed([ids], pooling="mean").shape == (1, 36)


def test_dense_layers_decide_the_length_of_a_vector(paths: Callable[[str], Path]) -> None:
    e = Embedder.load(paths("lfm2, ColBERT"))
    assert (e.info.n_embd, e.info.n_embd_out, e.info.pooling) == (36, 13, "none")
    assert e.embed([some_ids(5)])[0].shape == (5, 13)
    assert e.embed([some_ids(5)], pooling="last", dimensions=13).shape == (1, 13)
    with pytest.raises(RequestError, match="have 13 numbers"):
        e.embed([some_ids(5)], dimensions=14)
    assert [t.name for t in e.trace(some_ids(5)).tensors[-3:]] == [
        "result_embd_pooled",
        "dense_2",
        "result_embd_pooled",
    ]


@pytest.mark.oracle
def test_without_a_head_llama_cpp_gives_a_number_of_the_hidden_state_and_we_refuse(tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "bert", pooling=4)
    e, ids = Embedder.load(path, numerics="ggml", flash_attn=False, repack=False), some_ids(9)
    with LlamaCpp(path) as engine:
        (score,) = engine.embed([ids])
    assert score.tobytes() == e.embed([ids], pooling="cls", normalize=-1)[0, :1].tobytes()
    for refused in (lambda: e.embed([ids]), lambda: e.embed([ids], pooling="rank"), lambda: e.trace(ids)):
        with pytest.raises(ModelError, match=r"cls\.output\.weight, and this model has none\n  hint: the file calls"):
            refused()
    e = Embedder.load(synthetic(tmp_path / "n.gguf", "bert", pooling=1))
    with pytest.raises(RequestError, match=r"needs a classifier head, .* has none\n  hint: this is no reranker"):
        e.embed([ids], pooling="rank")


@pytest.mark.oracle
@pytest.mark.parametrize(("arch", "keys"), [("jina-bert-v2", labels(3)), ("bert", {})])
def test_a_head_of_another_width_than_its_labels_is_refused(arch: str, keys: Any, tmp_path: Path) -> None:
    """llama.cpp loads it. On a head too narrow it aborts, of one too wide it takes a part for the whole."""
    path = synthetic(tmp_path / "m.gguf", arch, pooling=4, optional=CLS, keys=keys)
    with LlamaCpp(path) as engine:
        if keys:
            with pytest.raises(EngineError, match="tensor read out of bounds"):
                engine.embed([some_ids(9)])
        else:
            assert len(engine.embed([some_ids(9)])[0]) == 1
    with pytest.raises(ModelError, match=r"cls\.weight has \d+ rows for \d labels"):
        Embedder.load(path).embed([some_ids(9)])


DENSE_2, DENSE_3 = DENSE_KEYS.items()


@pytest.mark.parametrize(
    ("arch", "sizes", "message"),
    [
        ("gemma-embedding", {"keys": dict([DENSE_2]), "optional": {"dense_2.weight"}}, "have 48 numbers, not 36"),
        ("bert", {"keys": {"embedding_length_out": (13, "UINT32")}}, "have 36 numbers, not 13"),
        ("gemma-embedding", DENSE | {"keys": dict([DENSE_2, ("dense_3_feat_in", (40, "UINT32"))])}, "takes 40 numbers"),
    ],
)
def test_a_length_that_the_dense_layers_do_not_have_is_refused(
    arch: str, sizes: Any, message: str, tmp_path: Path
) -> None:
    path = synthetic(tmp_path / "m.gguf", arch, pooling=1, **sizes)
    with pytest.raises(ModelError, match=message):
        Embedder.load(path)


@pytest.mark.oracle
def test_a_length_that_is_not_the_models_cuts_a_batch_at_the_wrong_places(tmp_path: Path) -> None:
    """llama.cpp's second vector begins where its first ends: a number of the first text stands in it. Or it aborts."""
    plain = synthetic(tmp_path / "m.gguf", "bert", pooling=1)
    short, long = (with_keys(plain, tmp_path / f"{n}.gguf", {"embedding_length_out": (n, "UINT32")}) for n in (30, 72))
    ids = [some_ids(3), some_ids(4)]
    with LlamaCpp(plain) as right, LlamaCpp(short) as cut:
        whole, found = (np.stack(engine.embed(ids, batched=True)).ravel() for engine in (right, cut))
    assert found.tobytes() == whole[:60].tobytes()
    with pytest.raises(ModelError, match=r"have 36 numbers, not 30\n.*llama\.cpp cuts a batch at the wrong places"):
        Embedder.load(short)
    with pytest.raises(ModelError, match=r"have 36 numbers, not 72\n.*llama\.cpp aborts"):
        Embedder.load(long)
    with LlamaCpp(long) as engine, pytest.raises(EngineError, match="tensor read out of bounds"):
        engine.embed(ids[:1])


@pytest.mark.oracle
def test_a_bias_that_modern_bert_has_not_is_refused_by_both(tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "modern-bert", pooling=4, optional=OUT | {"cls.weight"})
    more = copied(path, tmp_path / "n.gguf", tensors={"cls.bias": np.zeros(36, np.float32)})
    with pytest.raises(ModelError, match=r"unexpected cls\.bias"):
        load_model(open_gguf(more))
    with pytest.raises(EngineError, match="cannot load this model"):
        LlamaCpp(more)
