"""bge-m3's three kinds of vectors and its scores next to its authors' own package, FlagEmbedding, on a random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert import convert
from refembed.similarity import cosine, maxsim
from tests.hf_folders import write_json
from tests.peers.folders import build

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXTS = ["the cat sat on the mat", "hello world, hello cat", "one two three", "the dog"]
PAIRS = [(a, b) for a in TEXTS[:2] for b in TEXTS]
NAMES = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
WEIGHTS = [0.4, 0.2, 0.4]  # dense, sparse, ColBERT: those of bge-m3's card


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as bge-m3's: XLM-RoBERTa with sparse_linear.pt and colbert_linear.pt, random."""
    import torch

    folder = tmp_path_factory.mktemp("m3") / "hf"
    build("xlm-roberta", folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    start, end = ({"SpecialToken": {"id": t, "type_id": 0}} for t in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [start, first, end], "pair": [start, first, end, end, second, end],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("<s>", 0), ("</s>", 2))},
    }  # fmt: skip
    path.write_text(json.dumps(tokenizer))
    settings = {f"{name}_token": token for name, token in NAMES.items()}
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    torch.manual_seed(1)
    for name, rows, shift in (("sparse", 1, 6.0), ("colbert", 48, 0.0)):
        layer = torch.nn.Linear(48, rows)
        layer.weight.data *= 4
        layer.bias.data += shift
        torch.save(layer.state_dict(), folder / f"{name}_linear.pt")
    return folder


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_bge_m3_is_flag_embedding(m3: Path, numerics: str, tmp_path: Path) -> None:
    """Dense, sparse, many vectors, and the scores of pairs, alone and together.

    FlagEmbedding computes in float32. Bounds are about three times the differences measured with 1.4.0.
    """
    flag: Any = pytest.importorskip("FlagEmbedding", reason="the extra `peers` has it")
    model = flag.BGEM3FlagModel(str(m3), use_fp16=False, devices="cpu")
    e = Embedder.load(convert(m3, tmp_path / "m.gguf", heads=True), semantics="original", numerics=numerics)
    ids = model.tokenizer(TEXTS)["input_ids"]
    assert [e.tokenize(text) for text in TEXTS] == ids
    theirs = model.encode(TEXTS, return_dense=True, return_sparse=True, return_colbert_vecs=True, max_length=40)
    dense, sparse = np.asarray(e.embed(TEXTS, pooling="cls")), e.embed_sparse(TEXTS)
    many = e.embed_multi_vector(TEXTS)
    assert np.abs(dense - theirs["dense_vecs"]).max() < 2e-6
    seen = 0
    for ours, weights in zip(sparse, theirs["lexical_weights"], strict=True):
        wanted = {int(i): float(w) for i, w in weights.items()}
        assert ours.ids.tolist() == sorted(wanted)
        assert ours.weights == pytest.approx([wanted[i] for i in sorted(wanted)], abs=2e-5)
        seen += len(wanted)
    assert seen > 20
    for ours, vectors in zip(many, theirs["colbert_vecs"], strict=True):
        assert ours.shape == vectors.shape
        assert np.abs(ours - vectors).max() < 5e-6
    scores = model.compute_score(
        [list(pair) for pair in PAIRS], weights_for_different_modes=WEIGHTS, max_passage_length=40
    )
    for n, (a, b) in enumerate((TEXTS.index(a), TEXTS.index(b)) for a, b in PAIRS):
        found = {"dense": cosine(dense[a], dense[b]), "sparse": sparse[a].dot(sparse[b])}
        found["colbert"] = maxsim(many[a], many[b]) / len(many[a])
        found["colbert+sparse+dense"] = 0.4 * found["dense"] + 0.2 * found["sparse"] + 0.4 * found["colbert"]
        for name, value in found.items():
            assert value == pytest.approx(scores[name][n], rel=1e-5, abs=1e-5), name
