"""What the compat modules share, and what they say where a library is absent."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.compat.common import Source, text_list
from refembed.errors import ModelError, RequestError, TooLongError
from tests.child import answer_to_code
from tests.tiny import tiny_bert

LIBRARIES = [
    ("langchain", "langchain_core", "langchain-core", "langchain"),
    ("llama_index", "llama_index", "llama-index-core", "llama-index"),
    ("chroma", "chromadb", "chromadb", "chroma"),
    ("haystack", "haystack", "haystack-ai", "haystack"),
]


@pytest.mark.parametrize(("module", "library", "package", "extra"), LIBRARIES)
def test_a_missing_library_is_one_sentence(module: str, library: str, package: str, extra: str) -> None:
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {library!r} or name.startswith({library!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
try:
    import refembed.compat.{module}
except ImportError as error:
    print(error)
"""
    said = answer_to_code(code)
    assert said == f"refembed.compat.{module} needs {package}: pip install '{package}'\n"


@pytest.mark.parametrize("module", ["mullama", "llama_crab", "llama_cpp", "sentence_transformers"])
def test_the_others_need_no_library(module: str) -> None:
    code = f"import refembed.compat.{module}, sys; print('torch' in sys.modules, 'numba' in sys.modules)"
    said = answer_to_code(code)
    assert said == "False False\n"


def test_prompts_stand_before_texts_of_their_kind(tiny: Path) -> None:
    source, bare = Source(tiny, prompts={"query": "the ", "passage": "a "}), Embedder.load(tiny)
    assert np.array_equal(source.vectors(["cat", "dog"], "query"), bare.embed(["the cat", "the dog"]))
    assert np.array_equal(source.vectors(["cat"], "document"), bare.embed(["a cat"]))
    assert np.array_equal(Source(tiny).vectors(["cat"], "query"), bare.embed(["cat"]))


def test_options_reach_the_embedder(tiny: Path) -> None:
    source = Source(tiny, pooling="cls", normalize=1, dimensions=8, truncate=True, load={"numerics": "exact"})
    wanted = Embedder.load(tiny, numerics="exact").embed(
        ["the cat", "a " * 99], pooling="cls", normalize=1, dimensions=8, truncate=True
    )
    assert np.array_equal(source.vectors(["the cat", "a " * 99], "document"), wanted)
    assert Source(tiny, dimensions=8).vectors([], "document").shape == (0, 8)


def test_a_source_is_copied_and_sent_to_other_processes(tiny: Path) -> None:
    source = Source(tiny, prompts={"query": "the "})
    vectors = source.vectors(["cat"], "query")
    assert copy.deepcopy(source) is source
    assert np.array_equal(pickle.loads(pickle.dumps(source)).vectors(["cat"], "query"), vectors)
    with pytest.raises(RequestError, match="a loaded Embedder cannot be written down"):
        pickle.dumps(Source(Embedder.load(tiny)))


def test_threads_take_turns(tiny: Path) -> None:
    source, found = Source(tiny), {}

    def work(i: int) -> None:
        found[i] = source.vectors([f"the cat {i}", "a dog"], "document")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert np.array_equal(found[i], source.embedder.embed([f"the cat {i}", "a dog"]))


def test_what_cannot_be_had_is_one_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="an index wants one a text"):
        Source(tiny, pooling="none")
    with pytest.raises(RequestError, match="come too late"):
        Source(Embedder.load(tiny), load={"numerics": "exact"})
    with pytest.raises(TypeError, match="a path, a name or an Embedder, not int"):
        Source(5)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="prompts: 'query': 5"):
        Source(tiny, prompts={"query": 5})  # type: ignore[dict-item]
    with pytest.raises(ModelError, match="the file names no pooling"):
        _ = Source(tiny_bert(tmp_path / "none.gguf", pooling=None)).embedder
    with pytest.raises(RequestError, match="dimensions 99"):
        _ = Source(tiny, dimensions=99).embedder
    with pytest.raises(TypeError, match="x takes a list of texts, not one"):
        text_list("cat", "x")
    with pytest.raises(TypeError, match="x: text 1 is of type NoneType"):
        text_list(["cat", None], "x")  # type: ignore[list-item]


def test_a_models_own_prompts_are_taken_where_they_are_asked_for(tmp_path: Path) -> None:
    """Prompts as sentence-transformers publishes them, next to the file; and none known is an error."""
    from refembed.compat.sentence_transformers import SentenceTransformer

    path = tiny_bert(tmp_path / "m.gguf")
    with pytest.raises(RequestError, match="no prompts of this model are known"):
        _ = Source(path, prompts="model").embedder
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "the ", "document": "a "}}')
    e = Embedder.load(path)
    source = Source(path, prompts="model")
    assert np.array_equal(source.vectors(["cat"], "query"), e.embed(["the cat"]))
    assert np.array_equal(source.vectors(["cat"], "document"), e.embed(["a cat"]))
    assert source.config()["prompts"] == "model"
    model = SentenceTransformer(e, prompts="model")
    assert np.array_equal(model.encode_query("cat"), e.embed("the cat"))
    assert np.array_equal(Source(path).vectors(["cat"], "query"), e.embed(["cat"]))
    with pytest.raises(RequestError, match="prompts 'own'"):
        Source(path, prompts="own")
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"retrieval.query": "the "}}')
    again = Source(path, prompts="model")
    assert np.array_equal(again.vectors(["cat"], "query"), e.embed(["the cat"]))
    assert np.array_equal(again.vectors(["cat"], "document"), e.embed(["cat"]))


def test_a_text_that_is_too_long_names_the_argument_of_the_adapter(tiny: Path) -> None:
    with pytest.raises(TooLongError, match=r"make this with truncate=True") as found:
        Source(tiny, load={"numerics": "exact"}).vectors(["cat " * 99], "query")
    assert "--truncate" not in str(found.value)
