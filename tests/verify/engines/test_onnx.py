"""ONNX Runtime on MiniLM as PyTorch exports it: its own numbers, and the tensors of its nodes by our names."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from refembed.errors import EngineError, RequestError
from refembed.verify.compare.align import align
from refembed.verify.compare.arrays import compare
from refembed.verify.engines.base import Engine, open_engine
from refembed.verify.engines.onnx import OnnxEngine

TEXTS = ["Hello, llama!", "café", "The quick brown fox jumps over the lazy dog."]
IDS = [101, 7592, 1010, 2222, 8067, 999, 102]  # [CLS] hello , ll ##ama ! [SEP], by the published vocab.txt
NAMES = ["input_ids", "attention_mask", "token_type_ids"]


def peers(test):
    return pytest.mark.peers(pytest.mark.filterwarnings("ignore")(test))  # PyTorch's warnings are not ours to mend


@pytest.fixture(scope="module")
def files(minilm_folder, tmp_path_factory):
    """MiniLM exported by PyTorch: {"rows": .., "pooled": ..}; the latter gives rows as well, and first."""
    import torch
    from transformers import AutoModel

    class Model(torch.nn.Module):
        def __init__(self, pools):
            super().__init__()
            self.bert = AutoModel.from_pretrained(
                str(minilm_folder), attn_implementation="eager", local_files_only=True
            )
            self.pools = pools

        def forward(self, ids, mask, segments):
            x = self.bert(input_ids=ids, attention_mask=mask, token_type_ids=segments).last_hidden_state
            if not self.pools:
                return x
            weight = mask.unsqueeze(-1).float()
            return x, (x * weight).sum(1) / weight.sum(1)

    ids = torch.tensor([IDS, [101, 1037, 102, 0, 0, 0, 0]])
    example = (ids, (ids != 0).long(), torch.zeros_like(ids))
    folder, made = tmp_path_factory.mktemp("onnx"), {}
    for name, outputs in {"rows": ["last_hidden_state"], "pooled": ["last_hidden_state", "sentence_embedding"]}.items():
        made[name] = folder / f"{name}.onnx"
        axes = {n: {0: "batch", 1: "tokens"} for n in [*NAMES, "last_hidden_state"]}
        torch.onnx.export(
            Model(name == "pooled").eval(), example, str(made[name]),
            input_names=NAMES, output_names=outputs, dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def rows(files):
    """Last hidden states of each text from ONNX Runtime itself, one text at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(files["rows"]), providers=["CPUExecutionProvider"])

    def run(ids):
        x = np.array([ids])
        return session.run(None, {"input_ids": x, "attention_mask": np.ones_like(x), "token_type_ids": x * 0})[0][0]

    return run


def test_a_package_that_is_absent_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = r"needs the package onnxruntime: .*\n  hint: pip install onnxruntime, into refembed's environment"
    with pytest.raises(EngineError, match=message):
        OnnxEngine(tmp_path / "model.onnx")


def test_options_that_mean_nothing(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    for options in ({"pooling": "max"}, {"batch": 0}):
        with pytest.raises(RequestError, match="must be"):
            OnnxEngine(tmp_path / "model.onnx", **options)


@peers
def test_rows_of_tokens_are_those_of_the_runtime(files, rows, minilm):
    engine = open_engine(str(files["rows"]), minilm)
    assert isinstance(engine, Engine)
    assert engine.info["shape"] == "rows of tokens"
    assert engine.info["output"] == "last_hidden_state"
    np.testing.assert_array_equal(engine.embed([IDS])[0], rows(IDS))
    assert [v.shape for v in engine.embed([TEXTS[0], IDS])] == [(7, 384)] * 2
    for pooling, vector in {"cls": rows(IDS)[0], "last": rows(IDS)[-1], "mean": rows(IDS).mean(axis=0)}.items():
        found = OnnxEngine(files["rows"], pooling=pooling, batch=2).embed([[101, *IDS[1:-1] * 2, 102], IDS])[1]
        np.testing.assert_allclose(found, vector, atol=2e-6)  # padded, in a batch


@peers
def test_a_pooled_output_is_preferred(files, rows):
    engine = OnnxEngine(files["pooled"])
    assert engine.info["outputs"] == ["last_hidden_state", "sentence_embedding"]
    assert engine.info["shape"] == "pooled"
    np.testing.assert_allclose(engine.embed([IDS])[0], rows(IDS).mean(axis=0), atol=1e-6)
    other = OnnxEngine(files["pooled"], output="last_hidden_state")
    np.testing.assert_array_equal(other.embed([IDS])[0], rows(IDS))


@peers
def test_whose_tokenizer_it_is(files, minilm, minilm_folder):
    """refembed's own is lent, and then no tokens are shown: comparing them would compare us with ourselves."""
    borrowed = OnnxEngine(files["pooled"], gguf=minilm)
    own = OnnxEngine(files["pooled"], tokenizer=minilm_folder)
    assert (borrowed.can_tokenize, own.can_tokenize) == (False, True)
    assert own.tokenize(TEXTS[0]) == IDS
    assert len(own.tokenize("word " * 400)) == 402  # not cut, not padded
    for a, b, c in zip(
        borrowed.embed(TEXTS), own.embed(TEXTS), own.embed([own.tokenize(t) for t in TEXTS]), strict=True
    ):
        assert np.array_equal(a, b)
        assert np.array_equal(b, c)
    with pytest.raises(EngineError, match=r"has no tokenizer next to it\n  hint: tokenizer= names"):
        OnnxEngine(files["pooled"]).embed(["a"])
    with pytest.raises(RequestError, match=r"no tokenizer\.json there"):
        OnnxEngine(files["pooled"], tokenizer=files["rows"].parent)


@peers
@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["rows", "pooled"])
def test_every_tensor_is_llama_cpps_of_that_name(files, oracle, kind):
    engine = OnnxEngine(files[kind])
    assert engine.can_trace
    ours, theirs = oracle.trace(IDS), engine.trace(IDS)
    named = [pair for pair in align(ours, theirs).pairs if pair.by == "name"]
    # 3 before the layers, 17 in each, of which the outputs of layers 0 to 4 have no name in llama.cpp's graph
    assert len(theirs) == 3 + 6 * 17 + (kind == "pooled")
    assert len(named) == len(theirs) - 5
    for pair in named:
        a, b = ours.tensors[pair.ours].array, theirs.tensors[pair.theirs].array
        assert compare(a.reshape(b.shape), b).nmse < 2e-5, pair.name


@peers
def test_what_cannot_be_asked_is_one_sentence(files, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match="ONNX Runtime cannot load it: "):
        OnnxEngine(tmp_path / "x.onnx")
    with pytest.raises(EngineError, match="ONNX Runtime failed on 1 texts: "):
        OnnxEngine(files["pooled"]).embed([[999999]])
    with pytest.raises(RequestError, match=r"output='x': .* has last_hidden_state, sentence_embedding"):
        OnnxEngine(files["pooled"], output="x")
    with pytest.raises(EngineError, match="no tokens in "):
        OnnxEngine(files["pooled"]).embed([[]])


def graph(folder, name, operation, **attributes):
    """A file with one input and one node."""
    import onnx
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info(name, TensorProto.INT64, ["s", "t"])
    made = onnx.ValueInfoProto(name="y")
    made.type.tensor_type.elem_type = TensorProto.INT64 if operation == "Shape" else TensorProto.FLOAT
    node = helper.make_node(operation, [name], ["y"], **attributes)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph([node], "g", [given], [made]), opset_imports=opset, ir_version=9)
    onnx.save(model, str(folder / "g.onnx"))
    return folder / "g.onnx"


@peers
def test_files_of_other_shapes(tmp_path):
    engine = OnnxEngine(graph(tmp_path, "input_ids", "Cast", to=1))  # one row a text is taken for pooled
    assert engine.embed([[7, 8, 9]])[0].tolist() == [7, 8, 9]
    assert not engine.can_trace  # its node has no name of a module
    with pytest.raises(EngineError, match="shows no intermediate tensors: that needs the package onnx, and a file"):
        engine.trace([7, 8, 9])
    with pytest.raises(EngineError, match=r"unknown input pixels of tensor\(int64\); known are input_ids"):
        OnnxEngine(graph(tmp_path, "pixels", "Cast", to=1))
    with pytest.raises(EngineError, match=r"no output has the shape of vectors \(S, D\) or rows \(S, T, D\): y \(2,\)"):
        OnnxEngine(graph(tmp_path, "input_ids", "Shape"))
