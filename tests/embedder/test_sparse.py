"""Sparse and many-vector heads: their formulas in plain Python, a file that llama.cpp loads, what is refused."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.cli import run
from refembed.convert import convert
from refembed.convert.pickled import read_tensors
from refembed.errors import ModelError, RequestError
from refembed.gguf import open_gguf
from refembed.pipeline.sparse import SparseVector
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied
from tests.hf_folders import (
    PIECES,
    SETTINGS,
    SIZES,
    bert_config,
    bert_shapes,
    small,
    weights,
    write_json,
    write_weights,
)

C, V = SIZES[0], len(PIECES)
RNG = np.random.default_rng(2)
TEXTS = ["the cat sat", "a dog on a mat !", ""]


def masked(folder: Path, **shapes: tuple[int, ...] | None) -> Path:
    """A BertForMaskedLM with its whole head; shapes: other tensors, None for none."""
    head: dict[str, tuple[int, ...] | None] = {
        "transform.dense.weight": (C, C), "transform.dense.bias": (C,), "transform.LayerNorm.weight": (C,),
        "transform.LayerNorm.bias": (C,), "bias": (V,), **shapes,
    }  # fmt: skip
    named = {f"cls.predictions.{name}": shape for name, shape in head.items() if shape}
    folder.mkdir()
    write_json(folder / "config.json", bert_config(*SIZES, architectures=["BertForMaskedLM"]))
    write_weights(folder, {f"bert.{n}": s for n, s in bert_shapes(*SIZES).items()} | named, "F32")
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", SETTINGS)
    return folder


def splade_modules(folder: Path, strategy: str) -> None:
    """modules.json of sentence-transformers' SparseEncoder."""
    package = "sentence_transformers.sparse_encoder.modules"
    kinds = (("", "mlm_transformer.MLMTransformer"), ("1_SpladePooling", "splade_pooling.SpladePooling"))
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"{package}.{k}"} for i, (path, k) in enumerate(kinds)]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_SpladePooling" / "config.json", {"pooling_strategy": strategy})


def test_splade_is_its_formula(tmp_path: Path) -> None:
    """max_t log(1 + ReLU(E norm(gelu(W h_t + b)) + c)), a number at a time. Largest difference measured: 4e-7."""
    folder = masked(tmp_path / "hf")
    splade_modules(folder, "max")
    e = Embedder.load(convert(folder, tmp_path / "m.gguf", outtype="f32", heads=True), numerics="exact")
    w = {
        n: weights(f"cls.predictions.transform.{n}", s).astype(float).tolist()
        for n, s in (
            ("dense.weight", (C, C)),
            ("dense.bias", (C,)),
            ("LayerNorm.weight", (C,)),
            ("LayerNorm.bias", (C,)),
        )
    }
    table = weights("bert.embeddings.word_embeddings.weight", (V, C)).astype(float).tolist()
    bias = weights("cls.predictions.bias", (V,)).astype(float).tolist()
    compared = 0
    for text, found in zip(TEXTS, e.embed_sparse(TEXTS), strict=True):
        logits = []
        for h in e.embed(text, pooling="none", normalize=-1).astype(float).tolist():
            pairs = zip(w["dense.weight"], w["dense.bias"], strict=True)
            z = [sum(a * b for a, b in zip(row, h, strict=True)) + b for row, b in pairs]
            z = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in z]
            mean = sum(z) / C
            deviation = math.sqrt(sum((x - mean) ** 2 for x in z) / C + 1e-12)
            z = [
                (x - mean) / deviation * g + b
                for x, g, b in zip(z, w["LayerNorm.weight"], w["LayerNorm.bias"], strict=True)
            ]
            logits.append(
                [sum(a * b for a, b in zip(row, z, strict=True)) + b for row, b in zip(table, bias, strict=True)]
            )
        wanted = {i: math.log1p(max(x)) for i, x in enumerate(zip(*logits, strict=True)) if max(x) > 0}
        assert found.ids.tolist() == sorted(wanted)
        assert found.weights == pytest.approx([wanted[i] for i in sorted(wanted)], abs=2e-6)
        compared += len(wanted)
    assert compared > 20


def with_bge_heads(tiny: Path, target: Path, bias: float = 0.0) -> tuple[Path, Any, Any]:
    """The tiny model with both heads of bge-m3, random; and their weights."""
    rng = np.random.default_rng(2)
    lexical, many = rng.standard_normal(32).astype(np.float32), rng.standard_normal((8, 32)).astype(np.float32)
    keys: dict[str, Any] = {
        "refembed.sparse.kind": ("token", "STRING"), "refembed.sparse.weight": (lexical, "ARRAY[FLOAT32]"),
        "refembed.sparse.bias": ([bias], "ARRAY[FLOAT32]"),
        "refembed.multi_vector.weight": (many.reshape(-1), "ARRAY[FLOAT32]"),
        "refembed.multi_vector.bias": (np.arange(8, dtype=np.float32) / 8, "ARRAY[FLOAT32]"),
    }  # fmt: skip
    return copied(tiny, target, keys), lexical.astype(float), many.astype(float)


def test_bge_m3s_heads_are_their_formulas(tiny: Path, tmp_path: Path) -> None:
    path, lexical, many = with_bge_heads(tiny, tmp_path / "m.gguf", 9.0)
    e = Embedder.load(path, numerics="exact")
    text = "the cat the dog the [UNK]"
    ids, hidden = e.tokenize(text), e.embed(text, pooling="none", normalize=-1).astype(float)
    wanted: dict[int, float] = {}
    for id, h in list(zip(ids, hidden, strict=True))[1:-1]:
        if (w := float(h @ lexical) + 9) > 0 and id != 1:  # [UNK] is 1
            wanted[id] = max(w, wanted.get(id, 0))
    found = e.embed_sparse(text)
    assert found.ids.tolist() == sorted(wanted)
    assert len(wanted) == 3
    assert found.weights == pytest.approx([wanted[i] for i in sorted(wanted)], rel=1e-5)
    rows = hidden[1:] @ many.T + np.arange(8) / 8
    assert e.embed_multi_vector(text) == pytest.approx(rows / np.linalg.norm(rows, axis=1)[:, None], abs=1e-6)
    several = e.embed_multi_vector([text, "a"])
    assert np.array_equal(several[0], e.embed_multi_vector(text))  # alone and in company
    assert [x.shape for x in several] == [(len(ids) - 1, 8), (2, 8)]
    with pytest.raises(RequestError, match="input 0"):
        e.embed_sparse([None])  # type: ignore[list-item]


def test_a_sparse_dot_product_is_over_common_tokens() -> None:
    a = SparseVector(np.array([1, 4, 9]), np.array([1, 2, 3], np.float32))
    b = SparseVector(np.array([0, 4, 9, 10]), np.array([9, 5, 0.5, 9], np.float32))
    assert a.dot(b) == b.dot(a) == 2 * 5 + 3 * 0.5
    assert a.dot(SparseVector(np.array([2]), np.array([1], np.float32))) == 0


@pytest.mark.oracle
def test_llama_cpp_loads_a_file_with_heads_and_gives_the_same_vectors(tmp_path: Path) -> None:
    folder = masked(tmp_path / "hf")
    vectors = []
    for heads in (False, True):
        path = convert(folder, tmp_path / f"{heads}.gguf", outtype="f32", heads=heads)
        with LlamaCpp(path, pooling="mean") as engine:
            vectors.append(engine.embed(["the cat sat"])[0])
    assert np.array_equal(*vectors)


def test_heads_stay_when_weights_are_quantized(tmp_path: Path) -> None:
    folder = masked(tmp_path / "hf")
    assert run(["convert", str(folder), "--outtype", "q8_0", "--heads", "--output", str(tmp_path / "q.gguf")]) == 0
    exact = Embedder.load(convert(folder, tmp_path / "m.gguf", outtype="f32", heads=True)).embed_sparse("the cat")
    found = Embedder.load(tmp_path / "q.gguf").embed_sparse("the cat")
    assert found.dot(exact) / math.sqrt(found.dot(found) * exact.dot(exact)) > 0.999
    assert not np.array_equal(found.weights, exact.weights)


def test_without_being_asked_nothing_is_added(tmp_path: Path) -> None:
    metadata = open_gguf(convert(masked(tmp_path / "hf"), tmp_path / "m.gguf")).metadata
    assert [key for key in metadata if key.startswith("refembed.")] == []


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"transform.dense.bias": None}, r"dense.bias is missing or odd"),
        ({"transform.LayerNorm.weight": (C + 1,)}, r"norm.weight is missing or odd"),
        ({"bias": (V + 1,)}, "the table or its bias is missing or odd"),
        ({"decoder.weight": (V, C)}, "decoder.weight is not the table of token embeddings"),
    ],
)
def test_a_head_that_cannot_be_kept_is_refused(shapes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        convert(masked(tmp_path / "hf", **shapes), tmp_path / "m.gguf", heads=True)
    assert not (tmp_path / "m.gguf").exists()


def test_splade_that_is_not_asked_for_or_not_known_is_refused(tmp_path: Path) -> None:
    folder = masked(tmp_path / "hf")
    splade_modules(folder, "sum")
    with pytest.raises(ModelError, match="SPLADE with sum and relu"):
        convert(folder, tmp_path / "m.gguf", heads=True)
    with pytest.raises(ModelError, match=r"a module of type .*SpladePooling") as error:
        convert(folder, tmp_path / "m.gguf")
    assert "--heads" in error.value.hint
    with pytest.raises(ModelError, match="no head that --heads knows"):
        convert(small(tmp_path / "plain"), tmp_path / "m.gguf", heads=True)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"refembed.sparse.kind": ("other", "STRING")}, "no sparse head in this file that is known: 'other'"),
        ({"refembed.sparse.weight": ([1.0], "ARRAY[FLOAT32]")}, "refembed.sparse.weight has 1 numbers, not 32"),
        ({"refembed.sparse.bias": ([math.nan], "ARRAY[FLOAT32]")}, "a weight that is not finite"),
    ],
)
def test_a_damaged_head_is_one_error(tiny: Path, keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    path, _, _ = with_bge_heads(tiny, tmp_path / "m.gguf")
    e = Embedder.load(copied(path, tmp_path / "odd.gguf", keys))
    with pytest.raises(ModelError, match=said):
        e.embed_sparse("the cat")


# --- PyTorch's files ---


class Global:
    """What a pickle calls by name."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments


class Writer(pickle._Pickler):
    """A pickle as torch.save writes it: functions by names that need not be there, numbers in other files."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_call(self, obj: Global) -> None:
        module, _, name = obj.name.rpartition(".")
        self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")  # type: ignore[attr-defined]
        if obj.arguments:
            self.save(obj.arguments)  # type: ignore[attr-defined]
            self.write(pickle.REDUCE)  # type: ignore[attr-defined]

    dispatch[Global] = save_call

    def persistent_id(self, obj: Any) -> Any:
        return ("storage", Global(f"torch.{obj[1]}"), obj[0], "cpu", obj[2]) if isinstance(obj, list) else None


def torch_file(path: Path, content: Any, numbers: dict[str, bytes]) -> Path:
    """A zip as torch.save makes it."""
    stream = io.BytesIO()
    Writer(stream, 2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        for name, data in numbers.items():
            archive.writestr(f"archive/data/{name}", data)
    return path


def tensor(key: str, kind: str, count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Global:
    return Global("torch._utils._rebuild_tensor_v2", [key, kind, count], offset, size, stride, False, OrderedDict())


def test_tensors_are_read_in_every_type_and_order(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32) / 4
    bits = (x.view(np.uint32) >> 16).astype("<u2")
    content = {
        "float": tensor("0", "FloatStorage", 6, (2, 3), (3, 1)),
        "turned": tensor("0", "FloatStorage", 6, (3, 2), (1, 3)),
        "half": tensor("1", "HalfStorage", 6, (4,), (1,), 2), "brain": tensor("2", "BFloat16Storage", 6, (6,), (1,)),
    }  # fmt: skip
    numbers = {"0": x.tobytes(), "1": x.astype("<f2").tobytes(), "2": bits.tobytes()}
    found = read_tensors(torch_file(tmp_path / "x.pt", content, numbers))
    assert found["float"].tolist() == x.reshape(2, 3).tolist()
    assert found["turned"].tolist() == x.reshape(2, 3).T.tolist()
    assert found["half"].tolist() == x[2:].tolist()
    assert found["brain"].tolist() == x.tolist()


BAD: dict[str, Callable[[Path], Any]] = {
    "it names os.system": lambda p: torch_file(p, {"x": Global("os.system", f"touch {p}.touched")}, {}),
    "it names builtins.eval": lambda p: torch_file(p, Global("builtins.eval", "1"), {}),
    "no dictionary of tensors": lambda p: torch_file(p, {"x": 3}, {}),
    "data/0 has 1 numbers, not 6": lambda p: torch_file(
        p, {"x": tensor("0", "FloatStorage", 6, (6,), (1,))}, {"0": b"\0" * 4}
    ),
    "a tensor": lambda p: torch_file(p, {"x": tensor("0", "FloatStorage", 1, (9,), (1,))}, {"0": b"\0" * 4}),
    "damaged": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(range(256))),
    "no file of PyTorch's": lambda p: zipfile.ZipFile(p, "w").close(),
    "No such file": lambda p: None,
}


@pytest.mark.parametrize("said", BAD)
def test_a_pickle_runs_nothing(said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    BAD[said](path)
    with pytest.raises(ModelError, match=said):
        read_tensors(path)
    assert not (tmp_path / "x.pt.touched").exists()


def test_bge_m3s_files_become_keys(tmp_path: Path) -> None:
    folder = small(tmp_path / "hf")
    x = RNG.standard_normal((5, C)).astype(np.float32)
    for name, rows in (("sparse", x[:1]), ("colbert", x)):
        n = len(rows)
        content = {
            "weight": tensor("0", "FloatStorage", n * C, (n, C), (C, 1)),
            "bias": tensor("1", "FloatStorage", n, (n,), (1,)),
        }
        torch_file(folder / f"{name}_linear.pt", content, {"0": rows.tobytes(), "1": rows[:, 0].tobytes()})
    md = open_gguf(convert(folder, tmp_path / "m.gguf", heads=True)).metadata
    assert md["refembed.sparse.kind"] == "token"
    assert md["refembed.sparse.weight"].tolist() == x[0].tolist()  # type: ignore[union-attr]
    assert md["refembed.multi_vector.weight"].tolist() == x.reshape(-1).tolist()  # type: ignore[union-attr]
    assert md["refembed.multi_vector.bias"].tolist() == x[:, 0].tolist()  # type: ignore[union-attr]
    notes: list[str] = []
    convert(folder, tmp_path / "n.gguf", say=notes.append)
    assert any("sparse_linear.pt and colbert_linear.pt; --heads keeps" in note for note in notes)
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | {"hidden_size": C})
    torch_file(
        folder / "sparse_linear.pt", {"weight": tensor("0", "FloatStorage", C, (1, C), (C, 1))}, {"0": x[:1].tobytes()}
    )
    with pytest.raises(ModelError, match="not a weight"):
        convert(folder, tmp_path / "o.gguf", heads=True)
