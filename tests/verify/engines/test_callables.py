"""A Python function as an engine: what it may give, and what is said when it gives something else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from refembed.errors import EngineError, RequestError
from refembed.model.trace import Trace, TracedTensor
from refembed.verify.engines.base import Engine, open_engine
from refembed.verify.engines.callables import CallableEngine

X = np.arange(6, dtype=np.float32).reshape(2, 3)
GIVES = {
    "an array": lambda texts: X,
    "float64": lambda texts: X.astype(np.float64),
    "lists": lambda texts: X.tolist(),
    "a list of arrays": lambda texts: list(X),
    "a generator": lambda texts: (row for row in X),
}


class Mine:
    """An engine with more doors."""

    def encode(self, texts):
        return [[float(len(t))] * 3 for t in texts]

    def tokenize(self, text):
        return np.arange(len(text))

    def trace(self, text):
        return Trace([TracedTensor("embd", np.ones((2, 3), np.float32))])


@pytest.mark.parametrize("function", GIVES.values(), ids=GIVES)
def test_what_a_function_may_give(function):
    engine = open_engine(function, Path("model.gguf"))
    assert isinstance(engine, Engine)
    found = engine.embed(["a", "b"])
    assert [v.dtype for v in found] == [np.float32] * 2
    assert np.array_equal(found, X)


def test_rows_of_tokens():
    found = CallableEngine(lambda texts: [np.ones((len(t), 4)) for t in texts]).embed(["a", "bcd"])
    assert [v.shape for v in found] == [(1, 4), (3, 4)]


def test_tensors_are_converted():
    """Like PyTorch's: detach, cpu, numpy."""

    class Tensor:
        def detach(self):
            return self

        cpu = detach

        def numpy(self):
            return np.array([1.0, 2.0])

    assert np.array_equal(CallableEngine(lambda texts: [Tensor()]).embed(["a"])[0], [1.0, 2.0])


def test_the_whole_list_goes_in_one_call():
    seen = []
    CallableEngine(lambda texts: seen.append(texts) or X).embed(("a", "b"))
    assert seen == [["a", "b"]]


def test_a_method_of_an_object_with_more_doors():
    engine = CallableEngine(Mine().encode)
    assert (engine.can_tokenize, engine.can_trace, engine.can_take_ids) == (True, True, False)
    assert engine.tokenize("abc") == [0, 1, 2]
    assert "embd" in engine.trace("abc")
    assert engine.info["model"].endswith(":Mine.encode")


def test_a_function_alone_has_no_other_doors():
    engine = CallableEngine(GIVES["an array"])
    assert (engine.can_tokenize, engine.can_trace) == (False, False)
    with pytest.raises(EngineError, match="callable shows no token ids"):
        engine.tokenize("a")
    with pytest.raises(EngineError, match="takes texts, not token ids"):
        engine.embed([[1, 2]])
    assert CallableEngine(GIVES["an array"], takes_ids=True).embed([[1, 2], "a"])


def test_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_engine_of_a_test.py").write_text(
        "def embed(texts):\n    return [[1.0, 2.0] for _ in texts]\n"
        "class Model:\n    @staticmethod\n    def encode(texts):\n        return [[3.0] for _ in texts]\nnumber = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    engine = open_engine("my_engine_of_a_test:embed", Path("model.gguf"))
    assert engine.embed(["a"])[0].tolist() == [1.0, 2.0]
    assert engine.info["model"] == "my_engine_of_a_test:embed"
    assert engine.info["file"].endswith("my_engine_of_a_test.py")
    assert CallableEngine("my_engine_of_a_test:Model.encode").embed(["a"])[0].tolist() == [3.0]
    with pytest.raises(EngineError, match="has no 'nothing'"):
        CallableEngine("my_engine_of_a_test:nothing")
    with pytest.raises(EngineError, match="is int, nothing that can be called"):
        CallableEngine("my_engine_of_a_test:number")
    (tmp_path / "my_broken_engine.py").write_text("1 / 0\n")
    with pytest.raises(EngineError, match="importing my_broken_engine failed: ZeroDivisionError"):
        CallableEngine("my_broken_engine:embed")
    with pytest.raises(EngineError, match="importing no_such_module_here failed: ModuleNotFoundError") as missing:
        CallableEngine("no_such_module_here:embed")
    assert missing.value.hint == "run in the folder of no_such_module_here.py, or name it in PYTHONPATH"
    (tmp_path / "my_engine_that_imports.py").write_text("import no_such_module_here\n")
    with pytest.raises(EngineError, match="importing my_engine_that_imports failed: ModuleNotFoundError") as missing:
        CallableEngine("my_engine_that_imports:embed")
    assert not missing.value.hint
    with pytest.raises(RequestError, match=r"a module is named without \.py") as file:
        CallableEngine("my_engine_of_a_test.py:embed")
    assert file.value.hint == "my_engine_of_a_test:embed"


BAD = {
    "none": (lambda texts: None, "gave NoneType where a list of vectors is meant"),
    "a word": (lambda texts: "vector", "gave str where a list of vectors is meant"),
    "one flat vector": (lambda texts: [1.0, 2.0], "one flat vector for a list of one text"),
    "too few": (lambda texts: [], "gave 0 vectors for 1 texts"),
    "nan": (lambda texts: [[1.0, float("nan")]], "1 of 2 numbers are not finite, the first at 1"),
    "empty": (lambda texts: [[]], "an empty vector"),
    "three axes": (lambda texts: np.zeros((1, 2, 3, 4)), r"shape \(2, 3, 4\) where \(D\) or \(T, D\) is meant"),
    "words": (lambda texts: [["a"]], "not a list of numbers"),
    "an exception": (lambda texts: 1 / 0, "raised ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_a_bad_answer_is_one_sentence(case):
    function, message = case
    with pytest.raises(EngineError, match=message):
        CallableEngine(function).embed(["a"])


def test_a_trace_that_is_none():
    class Odd(Mine):
        def trace(self, text):
            return {}

    with pytest.raises(EngineError, match=r"trace gave dict, not a refembed\.Trace"):
        CallableEngine(Odd().encode).trace("a")


def test_what_stands_for_no_engine(tmp_path):
    model = Path("model.gguf")
    for spec, message in {
        "gone/": "stands for no engine: no such folder",
        "model.gguf": "a GGUF file is no engine\n  hint: --against llamacpp",
        "ftp://x": "stands for no engine",
        str(tmp_path): "neither config.json nor modules.json in it",
        "gone.onnx": "no such file",
        ":embed": "a callable is named module:callable",
        "module:": "a callable is named module:callable",
    }.items():
        with pytest.raises(RequestError, match=message):
            open_engine(spec, model)
    with pytest.raises(RequestError, match=r"has no option 'batch'\n  hint: it takes takes_ids"):
        open_engine(GIVES["lists"], model, batch=3)
