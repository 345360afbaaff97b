"""Sparse and many-vector heads of random models, next to sentence-transformers and PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert import convert
from refembed.similarity import maxsim
from tests.hf_folders import PIECES
from tests.peers.folders import build, scatter

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXTS = ["the cat sat on the mat", "hello world !", "a dog embedding dogs", "the the the", ""]
SIZES = {"max_position_embeddings": 32, "vocab_size": len(PIECES)}


def splade(kind: str, folder: Path) -> Any:
    """A SPLADE model with random weights, saved by sentence-transformers, and its encoder."""
    import transformers
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    if kind == "bert":
        config = transformers.BertConfig(
            hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, **SIZES
        )
        model = transformers.BertForMaskedLM(config)
    else:
        config = transformers.DistilBertConfig(dim=48, hidden_dim=80, n_layers=3, n_heads=6, **SIZES)
        model = transformers.DistilBertForMaskedLM(config)
    plain = folder / "plain"
    scatter(model).save_pretrained(plain, safe_serialization=True)
    (plain / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    transformers.BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
    encoder = SparseEncoder(modules=[MLMTransformer(str(plain)), SpladePooling()], device="cpu")
    encoder.save(str(folder / "splade"))
    return encoder.double()


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_splade_is_sentence_transformers(kind: str, numerics: str, tmp_path: Path) -> None:
    """Weights reach 3.2. Measured, sentence-transformers 6.2 in float64: exact 1.2e-7, fast 4.7e-6, products 1.6e-7."""
    encoder = splade(kind, tmp_path)
    file = convert(tmp_path / "splade", tmp_path / "m.gguf", heads=True)
    e = Embedder.load(file, semantics="original", numerics=numerics)
    wanted = encoder.encode(TEXTS, convert_to_tensor=True).to_dense().numpy()
    found = e.embed_sparse(TEXTS)
    worst = 0.0
    for vector, dense in zip(found, wanted, strict=True):
        ours = np.zeros_like(dense)
        ours[vector.ids] = vector.weights
        worst = max(worst, np.abs(ours - dense).max())
        assert 3 < len(vector.ids) < len(dense)
    assert worst < {"exact": 5e-7, "fast": 2e-5}[numerics]
    scores = encoder.similarity(wanted, wanted).numpy()
    ours = [[a.dot(b) for b in found] for a in found]
    assert np.abs(np.array(ours) - scores).max() < 1e-6 * np.abs(scores).max()


@pytest.mark.parametrize("half", [False, True])
def test_the_heads_of_bge_m3_are_pytorchs_layers(half: bool, tmp_path: Path) -> None:
    """As torch.save writes sparse_linear and colbert_linear. Measured: 1.9e-7 of weights to 4.1, 1.5e-8 of vectors."""
    import torch

    model = build("xlm-roberta", tmp_path / "m3")
    torch.manual_seed(1)
    lexical, colbert = torch.nn.Linear(48, 1), torch.nn.Linear(48, 24)
    for name, layer in (("sparse", lexical), ("colbert", colbert)):
        layer.weight.data *= 4
        layer.bias.data += 6
        state = {key: x.half() if half else x for key, x in layer.state_dict().items()}
        torch.save(state, tmp_path / "m3" / f"{name}_linear.pt")
        layer.load_state_dict({key: x.float() for key, x in state.items()})
        layer.double()
    file = convert(tmp_path / "m3", tmp_path / "m.gguf", outtype="f32", heads=True)
    e = Embedder.load(file, semantics="original", numerics="exact")
    assert e.model.hparams.arch == "bert"
    seen = 0
    for text in ("the cat sat on the mat", "hello world, hello cat", "one two three"):
        ids = e.tokenize(text)
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
            weights = torch.relu(lexical(hidden))[:, 0].numpy()
            vectors = torch.nn.functional.normalize(colbert(hidden[1:]), dim=-1).numpy()
        vocab = e.tokenizer.vocab
        special = {vocab.bos, vocab.eos, vocab.pad, vocab.unk}
        wanted: dict[int, float] = {}
        for id, w in zip(ids, weights.tolist(), strict=True):
            if id not in special and w > 0:
                wanted[id] = max(w, wanted.get(id, 0))
        found = e.embed_sparse(text)
        assert found.ids.tolist() == sorted(wanted)
        seen += len(wanted)
        assert np.abs(found.weights - [wanted[i] for i in sorted(wanted)]).max(initial=0) < 1e-6
        ours = e.embed_multi_vector(text)
        assert np.abs(ours - vectors).max() < 1e-7
        assert maxsim(ours, ours) == pytest.approx(len(ids) - 1, abs=1e-5)
    assert seen > 6
