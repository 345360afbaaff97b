"""A first word that looks like a model: `refembed embed llama3.2:1b "Hello"`, as Mullama and Ollama have it.

the first word is                                and texts follow            it stands alone
a GGUF file, a model's folder, a known name      the model, with a note      a text, with a warning
a name that such tools use, NAME.gguf            an error: -m, or `--`       a text, with a warning
anything else, or -m was given, or `--`          a text                      a text
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import click
from click.core import ParameterSource

from refembed.cli.show import escape, note
from refembed.errors import ModelError, RequestError

# NAME:TAG of Ollama, whose tag is a size, a version or a quantized type
TAGGED = re.compile(
    r"[a-z][\w.-]*(/[\w.-]+)*:(latest|text|instruct|\d+x\d+b\S*|[eE]?\d+(\.\d+)?[bBmM](-[\w.-]+)?|v\d[\w.-]*"
    r"|(\S+-)?(fp16|f16|f32|bf16|i?q\d_\w+))",
    re.IGNORECASE,
)
# names of embedding models, and of the chat models that guides embed with: alone, and behind an organization
FAMILIES = re.compile(
    r"([\w.-]+/)?(nomic-embed|mxbai-embed|snowflake-arctic-embed|bge-|e5-|multilingual-e5|gte-|all-minilm|all-mpnet"
    r"|paraphrase-|embeddinggemma|qwen\d?-embedding|qwen3-reranker|granite-embedding|jina-embeddings|llama-?\d|qwen\d"
    r"|gemma-?\d|mistral-?\d|phi-?\d)[\w.-]*",
    re.IGNORECASE,
)


def take_model(
    ctx: click.Context, model: str, words: Sequence[str], *, more: bool = False, least: int = 1, quiet: bool = False
) -> tuple[str, tuple[str, ...]]:
    """The model, and the words that are texts.

    ctx    of a command with an option `model`; TextCommand noted in it whether `--` was written
    more   whether texts come from elsewhere too: --file, --prompt
    least  how many texts there must be besides the model
    RequestError for a first word that looks like a model and is none that is known.
    """
    first, texts = (words[0] if words else ""), tuple(words)
    given = ctx.get_parameter_source("model") not in (ParameterSource.DEFAULT, None)
    kind = "" if ctx.meta.get("refembed.literal") else kind_of(first)
    if not kind:
        return model, texts
    spelled = escape(first, 80)
    if given:
        if kind == "model" and len(texts) > 1:
            note(f"note: {spelled!r} is taken as a text; the model is {escape(model, 80)}", quiet=quiet)
        return model, texts
    if len(texts) <= least and not more:
        note(f"warning: {spelled!r} is taken as a text; if it is the model: {ctx.command_path} -m {spelled} TEXT")
        return model, texts
    if kind == "model":
        note(f"note: {spelled} is taken as the model, as with -m; `--` before it makes it a text", quiet=quiet)
        return first, texts[1:]
    raise RequestError(
        f"{spelled!r} looks like a model, and there is no such file, nor a known model of that name",
        hint=advice(first, spelled, ctx.command_path),
    )


def kind_of(word: str) -> str:
    """ "model" for a file, a folder or a name that can be opened; "perhaps" for what looks like one; "" for a text."""
    if not word or len(word) > 4096 or "\n" in word or "\0" in word:
        return ""
    from refembed.hub import find

    try:
        if find(word)[0] is not None:
            return "model"
    except ModelError:  # a known model, and a type that it cannot be had in: opening it says so
        return "model"
    if word.lower().endswith(".gguf"):
        return "model" if os.path.isfile(word) else "" if re.search(r"\s", word) else "perhaps"  # noqa: PTH113
    if os.path.isfile(os.path.join(word, "config.json")):  # noqa: PTH113, PTH118  # these never raise
        return "model"
    return "perhaps" if TAGGED.fullmatch(word) or FAMILIES.fullmatch(word) else ""


def advice(word: str, spelled: str, command: str) -> str:
    """What to write instead."""
    if word.lower().endswith(".gguf"):
        return f"check the path; as a text: {command} -- {spelled} ..."
    if "/" in word:
        return f"from Hugging Face: -m {spelled} (pip install huggingface_hub); as a text: {command} -- {spelled} ..."
    return (
        f"-m FILE.gguf names its file (`ollama show --modelfile {spelled}` prints where Ollama keeps it); "
        f"as a text: {command} -- {spelled} ..."
    )
