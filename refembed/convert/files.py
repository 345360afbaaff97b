"""The files of a Hugging Face folder that `convert` reads: one list for the reader, the cache and the hub.

convert     opens no other file: its readers call `check_listed`
the cache   converts a folder again when one of them is changed, added or removed: `states`
the hub     fetches them, and no others, of a repository
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath
from typing import Any

from refembed.errors import ModelError

CONFIGS = ("config.json", "generation_config.json", "README.md", "adapter_config.json")
SENTENCE_TRANSFORMERS = (
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "*/sentence_bert_config.json",
    "*_Pooling/config.json", "*/config.json",
    "*_Dense/model.safetensors", "artifact.metadata",
)  # fmt: skip
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
TOKENIZERS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
TEMPLATES = ("chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja")

FILES = CONFIGS + SENTENCE_TRANSFORMERS + WEIGHTS + TOKENIZERS + TEMPLATES
"""Patterns of paths below the folder."""


def is_listed(path: str) -> bool:
    """Whether a path below the folder, "1_Pooling/config.json" say, is one of FILES."""
    return any(pattern.count("/") == path.count("/") and PurePath(path).match(pattern) for pattern in FILES)


def check_listed(path: Path) -> Path:
    """The path, if FILES has its name; converters open nothing else, or a change of it would go unnoticed.

    RuntimeError otherwise: the remedy is a pattern more in FILES.
    """
    if not is_listed(path.name) and not is_listed(f"{path.parent.name}/{path.name}"):
        raise RuntimeError(f"{path} is to be read, but no pattern of convert_files.FILES matches it")
    return path


def check_named(path: Path) -> Path:
    """The path of a file that another file names, if it is one of FILES or not there. ModelError otherwise."""
    if path.exists() and not is_listed(path.name):
        names = ", ".join(pattern for pattern in WEIGHTS if pattern.endswith(".safetensors"))
        raise ModelError(f"{path}: not a name that refembed reads weights from", hint=f"rename it: {names}")
    return path


def listed(folder: Path) -> list[Path]:
    """Those of the files that are there, in order of their paths."""
    return sorted({file for pattern in FILES for file in folder.glob(pattern) if file.is_file()})


def states(folder: Path) -> list[list[Any]]:
    """What shows that a file is another one: of each its path, size, and digest; of weights their times of change.

    Weights have gigabytes and are not read for this: what replaces them has another size, or other times.
    """
    found: list[list[Any]] = []
    for file in listed(folder):
        name = file.relative_to(folder).as_posix()
        try:
            state = file.stat()
            if file.suffix == ".safetensors":
                found.append([name, state.st_size, state.st_mtime_ns, state.st_ctime_ns])
            else:
                found.append([name, state.st_size, hashlib.sha256(file.read_bytes()).hexdigest()])
        except OSError as e:
            raise ModelError(f"{file} cannot be read: {e.strerror or e}", hint="check its permissions") from None
    return found
