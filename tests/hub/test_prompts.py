"""Prompts: known models by the names that converters write, none added unasked, what a folder says comes first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refembed.errors import RequestError
from refembed.gguf import GGUFFile, GGUFWriter, open_gguf
from refembed.hub.prompts import CONFIG, TABLE, add, find, prefix_for, spell

SEARCH = "Represent this sentence for searching relevant passages: "
TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

# file name, general.architecture, general.* as llama.cpp's converter fills them -> prompt for a query, for a document
# Read off the models' cards, as are the prompts
MODELS = [
    ("m.gguf", "bert", {"name": "Bge Small En v1.5"}, SEARCH, ""),
    ("m.gguf", "bert", {"name": "BAAI/bge-large-en-v1.5"}, SEARCH, ""),
    ("m.gguf", "bert", {"name": "?", "basename": "bge", "size_label": "base", "finetune": "en", "version": "v1.5"},
     SEARCH, ""),
    ("bge-base-zh-v1.5-q8_0.gguf", "bert", {}, "为这个句子生成表示以用于检索相关文章：", ""),
    ("m.gguf", "bert", {"name": "E5 Base v2"}, "query: ", "passage: "),
    ("multilingual-e5-small.Q4_K_M.gguf", "bert", {}, "query: ", "passage: "),
    ("m.gguf", "bert", {"name": "Multilingual E5 Large Instruct"}, TASK + " ", ""),
    ("m.gguf", "llama", {"name": "e5-mistral-7b-instruct"}, TASK + " ", ""),
    ("m.gguf", "nomic-bert", {"name": "nomic-embed-text-v1.5"}, "search_query: ", "search_document: "),
    ("m.gguf", "nomic-bert-moe", {"name": "Nomic Embed Text v2 Moe"}, "search_query: ", "search_document: "),
    ("m.gguf", "nomic-bert", {"name": "CodeRankEmbed"}, "Represent this query for searching relevant code: ", ""),
    ("nomic-embed-code.Q4_K_M.gguf", "qwen2", {}, "Represent this query for searching relevant code: ", ""),
    ("m.gguf", "qwen2", {"name": "Gte Qwen2 1.5B Instruct"}, TASK + " ", ""),
    ("Qwen3-Embedding-0.6B-Q8_0.gguf", "qwen3", {"name": "qwen3"}, TASK, ""),
    ("m.gguf", "qwen3", {"name": "F2LLM v2 0.6B"},
     "Instruct: Given a question, retrieve passages that can help answer the question.\nQuery: ", ""),
    ("F2LLM-v2-4B-Q4_K_M.gguf", "qwen3", {},
     "Instruct: Given a question, retrieve passages that can help answer the question.\nQuery: ", ""),
    ("harrier-oss-v1-0.6b-Q8_0.gguf", "qwen3", {}, TASK + " ", ""),
    ("m.gguf", "gemma3", {"name": "Harrier Oss v1 270m"}, TASK + " ", ""),
    ("m.gguf", "qwen2", {"name": "KaLM Embedding Multilingual Mini Instruct v2.5"},
     "Instruct: Given a query, retrieve documents that answer the query \n Query: ", ""),
    ("KaLM-Embedding-Gemma3-12B-2511.Q4_K_M.gguf", "gemma-embedding", {},
     "Instruct: Given a query, retrieve documents that answer the query \nQuery: ", ""),
    ("embeddinggemma-300m-qat-Q8_0.gguf", "gemma-embedding", {},
     "task: search result | query: ", "title: none | text: "),
    ("m.gguf", "gemma-embedding2", {"name": "Embeddinggemma 2"},
     "task: search result | query: ", "title: none | text: "),
    ("embeddinggemma-2-Q8_0.gguf", "gemma-embedding2", {}, "task: search result | query: ", "title: none | text: "),
    ("m.gguf", "bert", {"name": "snowflake-arctic-embed-l-v2.0"}, "query: ", ""),
    ("m.gguf", "bert", {"name": "Snowflake Arctic Embed M v1.5"}, SEARCH, ""),
    ("m.gguf", "nomic-bert", {"name": "snowflake-arctic-embed-m-long"}, SEARCH, ""),
    ("mxbai-embed-large-v1_fp16.gguf", "bert", {}, SEARCH, ""),
    ("m.gguf", "jina-bert-v3", {"name": "Jina Embeddings v3"},
     "Represent the query for retrieving evidence documents: ", "Represent the document for retrieval: "),
    ("v5-small-retrieval-F16-00001-of-00002.gguf", "qwen3", {"name": "Jina Embeddings v5 Text Small Retrieval"},
     "Query: ", "Document: "),
]  # fmt: skip

STRANGERS = [
    ("m.gguf", "bert", {"name": "all-MiniLM-L6-v2"}),
    ("m.gguf", "bert", {"name": "bge-m3"}),  # its card: no instruction
    ("m.gguf", "llama", {"name": "bge-small-en-v1.5"}),  # no such architecture
    ("m.gguf", "bert", {"name": "e5-small-unsupervised"}),
    ("m.gguf", "bert", {"name": "bge-reranker-base"}),
    ("m.gguf", "qwen3", {"name": "Jina Embeddings v5 Text Small Text Matching"}),
    ("m.gguf", "qwen3", {"name": "Qwen3 Reranker 0.6B"}),
    ("m.gguf", "qwen3", {"name": "F2LLM 0.6B"}),  # the first version has a card of its own
    ("m.gguf", "qwen3", {"name": "pplx-embed-v1-0.6b"}),  # its card: no instruction
    ("m.gguf", "qwen2", {"name": "KaLM embedding multilingual mini v1"}),  # no instruct in its name, and none for it
    ("m.gguf", "bert", {}),
]


def gguf(path: Path, arch: str, general: dict[str, str]) -> GGUFFile:
    w = GGUFWriter(arch)
    for key, value in general.items():
        w.add(f"general.{key}", value, "STRING")
    w.write(path)
    return open_gguf(path)


@pytest.mark.parametrize(("name", "arch", "general", "query", "document"), MODELS)
def test_a_known_model_is_known_by_its_names(
    tmp_path: Path, name: str, arch: str, general: dict[str, str], query: str, document: str
) -> None:
    found = find(gguf(tmp_path / name, arch, general))
    assert found is not None
    assert (found.choose("query"), found.choose("document")) == (query, document)
    assert found.choose("passage") == found.choose("Document")
    assert found.choose("none") == ""
    assert found.source.startswith("https://huggingface.co/")
    assert found.source in found.remark()
    assert spell(query) in found.remark()


@pytest.mark.parametrize(("name", "arch", "general"), STRANGERS)
def test_other_models_are_not_known(tmp_path: Path, name: str, arch: str, general: dict[str, str]) -> None:
    assert find(gguf(tmp_path / name, arch, general)) is None


def test_no_row_hides_behind_an_earlier_one(tmp_path: Path) -> None:
    """The card that each row names is recognized, and as that row."""
    for row in TABLE:
        found = find(gguf(tmp_path / "m.gguf", row.architectures[0], {"name": row.card}))
        name = row.card.removesuffix("-GGUF")
        found = found or find(gguf(tmp_path / "m.gguf", row.architectures[0], {"name": name}))
        assert found is not None, row
        assert found.prompts == row.prompts


@pytest.mark.parametrize("place", ["next to the file", "the folder it was made of"])
def test_what_a_folder_says_comes_before_the_table(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    content = {"prompts": {"query": "Q ", "passage": "P "}, "default_prompt_name": "query"}
    (folder / CONFIG).write_text(json.dumps(content))
    next_to = place == "next to the file"
    f = gguf((folder if next_to else tmp_path) / "m.gguf", "bert", {"name": "e5-base-v2"})
    found = find(f, None if next_to else folder)
    assert found is not None
    assert found.prompts == content["prompts"]
    assert found.choose("document") == "P "
    assert found.source == str(folder / CONFIG)
    assert found.default == "query"


@pytest.mark.parametrize("content", ['{"prompts": {}}', '{"prompts": {"query": ""}}', "{}", "[]", '{"prompts": 3}'])
def test_a_folder_without_prompts_leaves_it_to_the_table(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIG).write_text(content)
    found = find(gguf(tmp_path / "m.gguf", "bert", {"name": "e5-base-v2"}))
    assert found is not None
    assert found.source.endswith("intfloat/e5-base-v2")


@pytest.mark.parametrize("content", ["{", '{"prompts": {"query": 3}}', '{"prompts": {"query": ["a"]}}'])
def test_a_damaged_config_is_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(RequestError, match=CONFIG):
        find(gguf(tmp_path / "m.gguf", "bert", {}))


def test_nothing_is_added_unasked(tmp_path: Path) -> None:
    found = find(gguf(tmp_path / "m.gguf", "bert", {"name": "e5-base-v2"}))
    assert prefix_for(found, None, None, "m") == ""
    assert prefix_for(found, "query", None, "m") == "query: "
    assert prefix_for(found, None, "x ", "m") == "x "
    assert prefix_for(None, "none", None, "m") == ""
    with pytest.raises(RequestError, match="begins with one of them"):
        prefix_for(found, "query", "x", "m")
    with pytest.raises(RequestError, match=r"has no prompt 'title'(.|\n)*query, document, none"):
        prefix_for(found, "title", None, "m")
    with pytest.raises(RequestError, match="not known to have prompts"):
        prefix_for(None, "query", None, "m")


def test_a_prefix_goes_before_characters_and_bytes() -> None:
    assert add("für ", "a") == "für a"
    assert add("für ", b"\xff") == "für ".encode() + b"\xff"
    assert add("", b"\xff") == b"\xff"
