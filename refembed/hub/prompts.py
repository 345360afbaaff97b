"""What models were trained to read before a text: a table of known models, and what a folder says of its own.

A prompt is never added unasked. `find` says which prompts a model has, `Prompts.choose` gives the one that was asked
for, and `add` puts it before a text.

How a model is known: the name in its file (general.name, general.basename and its parts, general.base_model.*.name)
or of the file, and general.architecture, which must be one that such a model has. A fine-tuned model that kept the
name counts as well; its authors know whether the prompts still hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refembed.errors import RequestError
from refembed.gguf import GGUFFile
from refembed.parse_json import parse_json

CARD = "https://huggingface.co/"
CONFIG = "config_sentence_transformers.json"  # of sentence-transformers: prompts, default_prompt_name
MOST = 4  # prompts that a remark spells out; of more, only those for queries and documents
NOTHING = "none"  # the name that stands for no prompt, in every model
SAME = {  # what people also call them
    "query": "query", "queries": "query", "search_query": "query", "retrieval.query": "query",
    "document": "document", "documents": "document", "passage": "document", "doc": "document",
    "search_document": "document", "retrieval.passage": "document",
}  # fmt: skip


@dataclass(frozen=True)
class Prompts:
    """The prompts of a model."""

    model: str  # what it was recognized as
    prompts: Mapping[str, str]  # name -> what goes before a text; "" for nothing
    source: str  # the model card, or the file, that says so
    default: str | None = None  # sentence-transformers would add the one of that name unasked

    def choose(self, name: str) -> str:
        """The prompt of that name, in any case; "passage" is "document", "none" is nothing. RequestError otherwise."""
        by_name = {known.lower(): text for known, text in self.prompts.items()}
        wanted = name.lower()
        for candidate in (wanted, SAME.get(wanted, wanted), *(k for k in SAME if SAME[k] == SAME.get(wanted))):
            if candidate in by_name:
                return by_name[candidate]
        if wanted == NOTHING:
            return ""
        names = ", ".join((*self.prompts, NOTHING))
        raise RequestError(f"{self.model} has no prompt {name!r}", hint=f"one of {names}; --prefix takes any text")

    def says(self) -> str:
        """Which prompts it was trained with."""
        shown = [name for name in self.prompts if SAME.get(name.lower(), name) in ("query", "document")]
        shown = shown if len(self.prompts) > MOST and shown else list(self.prompts)
        listed = ", ".join(f"{name} {spell(self.prompts[name])}" for name in shown)
        listed += ", and others" if len(shown) < len(self.prompts) else ""
        return f"{self.model} was trained with prompts: {listed} ({self.source})"

    def remark(self) -> str:
        """One sentence for a user who gave none."""
        names = "|".join((*self.prompts, NOTHING))
        return f"{self.says()}; none is added (--prompt-name {names})"


@dataclass(frozen=True)
class Known:
    """A row of the table."""

    name: str  # regular expression over a whole name in lower case, `-` for whatever is no letter, digit or dot
    architectures: tuple[str, ...]  # general.architecture of its GGUF files
    prompts: Mapping[str, str]
    card: str  # of the model that the row was read from, at CARD


SEARCH = "Represent this sentence for searching relevant passages: "
WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
NOMIC = {
    "query": "search_query: ",
    "document": "search_document: ",
    "clustering": "clustering: ",
    "classification": "classification: ",
}
E5 = {"query": "query: ", "document": "passage: "}
GEMMA = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "question": "task: question answering | query: ",
    "fact": "task: fact checking | query: ",
    "classification": "task: classification | query: ",
    "clustering": "task: clustering | query: ",
    "similarity": "task: sentence similarity | query: ",
    "code": "task: code retrieval | query: ",
}
CODE = "Represent this query for searching relevant code: "
ZH = "为这个句子生成表示以用于检索相关文章："

TABLE = (  # the first row that fits counts
    Known("(multilingual-)?e5-(large-instruct|mistral-7b-instruct)", ("bert", "llama"),
          {"query": WEB + " ", "document": ""}, "intfloat/multilingual-e5-large-instruct"),
    Known("multilingual-e5-(small|base|large)", ("bert",), E5, "intfloat/multilingual-e5-base"),
    Known("e5-(small|base|large)(-v2)?", ("bert",), E5, "intfloat/e5-base-v2"),
    Known("bge-(small|base|large)-en(-v1.5)?", ("bert",), {"query": SEARCH, "document": ""}, "BAAI/bge-base-en-v1.5"),
    Known("bge-(small|base|large)-zh(-v1.5)?", ("bert",), {"query": ZH, "document": ""}, "BAAI/bge-base-zh-v1.5"),
    Known("nomic-embed-text-v1(.5)?", ("nomic-bert",), NOMIC, "nomic-ai/nomic-embed-text-v1.5"),
    Known("nomic-embed-text-v2-moe", ("nomic-bert-moe",), NOMIC, "nomic-ai/nomic-embed-text-v2-moe"),
    # what config_sentence_transformers.json of both calls query, as programs that embed with them quote it
    Known("coderankembed", ("nomic-bert",), {"query": CODE, "document": ""}, "nomic-ai/CodeRankEmbed"),
    Known("nomic-embed-code", ("qwen2",), {"query": CODE, "document": ""}, "nomic-ai/nomic-embed-code"),
    Known("modernbert-embed-base", ("modern-bert",), NOMIC, "nomic-ai/modernbert-embed-base"),
    Known("gte-qwen2-(1.5b|7b)-instruct", ("qwen2",), {"query": WEB + " ", "document": ""},
          "Alibaba-NLP/gte-Qwen2-1.5B-instruct"),
    Known("qwen3-embedding-(0.6b|4b|8b)", ("qwen3",), {"query": WEB, "document": ""}, "Qwen/Qwen3-Embedding-0.6B"),
    # the question is that of the authors' entry in mteb (codefuse_models.py), around which the card puts these words
    Known("f2llm-v2-(80m|160m|330m|0.6b|1.7b|4b|8b|14b)", ("qwen3",),
          {"query": "Instruct: Given a question, retrieve passages that can help answer the question.\nQuery: ",
           "document": ""}, "codefuse-ai/F2LLM-v2-4B"),
    # what config_sentence_transformers.json of the three calls web_search_query, sts_query and bitext_query
    Known("harrier-oss-v1-(270m|0.6b|27b)", ("qwen3", "gemma3", "gemma-embedding"),
          {"query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
           "document": "", "sts": "Instruct: Retrieve semantically similar text\nQuery: ",
           "bitext": "Instruct: Retrieve parallel sentences\nQuery: "}, "microsoft/harrier-oss-v1-0.6b"),
    # the words of the cards, which are those of the authors' entries in mteb (kalm_models.py)
    Known("kalm-embedding-multilingual-mini-instruct-v2(.5)?", ("qwen2",),
          {"query": "Instruct: Given a query, retrieve documents that answer the query \n Query: ", "document": ""},
          "KaLM-Embedding/KaLM-embedding-multilingual-mini-instruct-v2.5"),
    Known("kalm-embedding-gemma3-12b-2511", ("gemma-embedding", "gemma3"),
          {"query": "Instruct: Given a query, retrieve documents that answer the query \nQuery: ", "document": ""},
          "tencent/KaLM-Embedding-Gemma3-12B-2511"),
    Known("embedding-?gemma-300m(-qat-q[48]-0(-unquantized)?)?", ("gemma-embedding",), GEMMA,
          "google/embeddinggemma-300m"),
    Known("embedding-?gemma-2", ("gemma-embedding2",), GEMMA, "google/embeddinggemma-2"),
    Known("snowflake-arctic-embed-[ml]-v2.0", ("bert",), {"query": "query: ", "document": ""},
          "Snowflake/snowflake-arctic-embed-l-v2.0"),
    Known("snowflake-arctic-embed-(xs|s|m|l|m-long|m-v1.5)", ("bert", "nomic-bert"), {"query": SEARCH, "document": ""},
          "Snowflake/snowflake-arctic-embed-m-v1.5"),
    Known("mxbai-embed-large-v1", ("bert",), {"query": SEARCH, "document": ""}, "mixedbread-ai/mxbai-embed-large-v1"),
    Known("jina-embeddings-v3", ("jina-bert-v3",),
          {"query": "Represent the query for retrieving evidence documents: ",
           "document": "Represent the document for retrieval: "}, "jinaai/jina-embeddings-v3"),
    Known("jina-embeddings-v4-text-(retrieval|code)", ("qwen2vl",), {"query": "Query: ", "document": "Passage: "},
          "jinaai/jina-embeddings-v4-text-retrieval-GGUF"),
    Known("jina-embeddings-v5-text-(small|nano)(-retrieval)?", ("qwen3", "eurobert"),
          {"query": "Query: ", "document": "Document: "}, "jinaai/jina-embeddings-v5-text-small"),
)  # fmt: skip

# What may follow a name without making it another model's: types, shards, "gguf", a date
ENDING = r"([-.](gguf|imat|imatrix|ud|hf|onnx|f32|f16|bf16|fp16|fp32|i?q[0-9][a-z0-9-]*|[0-9]{5}-of-[0-9]{5}))*"


def find(f: GGUFFile, source: str | Path | None = None) -> Prompts | None:
    """The prompts of a model, if it is known to have any.

    source  the folder it was converted from, or a file in it: what CONFIG says there comes before the table; also
            read next to the GGUF file itself
    Raises RequestError where CONFIG is there and cannot be read.
    """
    for folder in folders(f, source):
        if (folder / CONFIG).is_file() and (own := read_config(folder / CONFIG)) is not None:
            return own
    arch = f.metadata.string("general.architecture", "")
    for name in names(f):
        for row in TABLE:
            if arch in row.architectures and is_called(name, row.name):
                return Prompts(bare(name), row.prompts, CARD + row.card)
    return None


def is_called(name: str, pattern: str) -> bool:
    """Whether a name, as `names` gives it, is that of a model: `Known.name`, and whatever else a file's name has."""
    return re.fullmatch(pattern.replace(".", r"\.") + ENDING, name) is not None


def folders(f: GGUFFile, source: str | Path | None) -> Iterator[Path]:
    """Where CONFIG may be."""
    if source is not None:
        path = Path(source)
        yield path if path.is_dir() else path.parent
    yield f.path.parent


def names(f: GGUFFile) -> Iterator[str]:
    """What the file calls its model, most telling first, as TABLE spells names."""
    md = f.metadata
    parts = [md.string(f"general.{key}", "") for key in ("basename", "size_label", "finetune", "version")]
    base = parts[0]
    joined = [f"{base}-{'-'.join(p for p in order if p)}" for order in (parts[1:], (parts[2], parts[1], parts[3]))]
    listed = [
        md.string("general.name", ""),
        *(joined if base else ()),
        base,
        md.string("general.base_model.0.name", ""),
    ]
    for name in (*listed, f.path.stem):
        if name:
            yield plain(name)


def plain(name: str) -> str:
    """`BGE Small EN v1.5` and `org/bge-small-en-v1.5` are `bge-small-en-v1.5`."""
    return re.sub(r"[^a-z0-9.]+", "-", name.rpartition("/")[2].lower()).strip("-.")


def bare(name: str) -> str:
    """A name without what follows it in a file's."""
    return re.sub(ENDING + "$", "", name)


def read_config(path: Path) -> Prompts | None:
    """What CONFIG says; None where no prompt in it has any text. RequestError where it is damaged."""
    try:
        content: Any = parse_json(path.read_bytes())
    except (OSError, ValueError) as e:
        raise RequestError(f"{path}: {e}", hint="mend the file, or move it away") from None
    listed = content.get("prompts") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not any(listed.values()):
        return None
    if not all(isinstance(text, str) for text in listed.values()):
        raise RequestError(f"{path}: prompts: each must be a string", hint="mend the file, or move it away")
    default = content.get("default_prompt_name")
    known = isinstance(default, str) and default in listed
    return Prompts(path.parent.name or str(path.parent), listed, str(path), default if known else None)


def prefix_for(found: Prompts | None, name: str | None, prefix: str | None, model: str) -> str:
    """What to put before each text: prompt `name` of the model, or `prefix`, or nothing.

    Raises RequestError for both, and for the prompt of a model that is not known to have any.
    """
    if prefix is not None and name is not None:
        raise RequestError("a prompt and a prefix were given; a text begins with one of them")
    if prefix is not None or name is None:
        return prefix or ""
    if found is not None:
        return found.choose(name)
    if name.lower() == NOTHING:
        return ""
    raise RequestError(
        f"{model}: not known to have prompts", hint="--prefix TEXT gives one, --prompt-name none gives none"
    )


def add(prefix: str, text: str | bytes) -> str | bytes:
    """The text behind its prefix; bytes stay bytes."""
    if not prefix:
        return text
    return prefix.encode() + text if isinstance(text, bytes) else prefix + text


def spell(text: str) -> str:
    """A prompt as one reads it: quoted, `\\n` for a line's end; "nothing" where it is empty."""
    return '"' + text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') + '"' if text else "nothing"
