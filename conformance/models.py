"""The models of models.toml, as files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from conformance import FOLDER
from conformance.toml import read_toml
from refembed.errors import RequestError
from refembed.hub import resolve


@cache
def load_models() -> dict[str, dict[str, Any]]:
    """models.toml."""
    return read_toml(FOLDER / "models.toml")


@cache
def model_path(name: str) -> Path:
    """The GGUF file, fetched and converted if it is not there yet. DownloadError where it cannot be had."""
    models = load_models()
    if name not in models:
        raise RequestError(f"{name!r} is no model of models.toml", hint=f"there are {', '.join(models)}")
    return resolve(models[name]["hub"], outtype=models[name]["outtype"])
