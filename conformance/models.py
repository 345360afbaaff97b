"""The models of models.toml, as files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from conformance import FOLDER, vocab_fetch
from conformance.toml import read_toml
from refembed.errors import RequestError
from refembed.hub import resolve


@cache
def load_models() -> dict[str, dict[str, Any]]:
    """models.toml."""
    return read_toml(FOLDER / "models.toml")


@cache
def model_path(name: str) -> Path:
    """The GGUF file, fetched and converted if it is not there yet. DownloadError where it cannot be had.

    name  of models.toml, or a GGUF file itself
    """
    models = load_models()
    if name not in models and Path(name).is_file():
        return Path(name)
    if name not in models:
        raise RequestError(f"{name!r} is no model of models.toml", hint=f"there are {', '.join(models)}")
    if "vocabulary" in models[name]:
        return vocab_fetch.folder() / vocab_fetch.whole_model().name
    return resolve(models[name]["hub"], outtype=models[name]["outtype"])


def why_not(name: str) -> str:
    """Why a model is not at hand, for one that is fetched only on request; "" where it is, or will be when needed."""
    if "vocabulary" in load_models().get(name, {}) and not model_path(name).is_file():
        return "`python -m conformance fetch vocabularies` gets this model, 253 MB"
    return ""
