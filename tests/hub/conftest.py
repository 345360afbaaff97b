"""A cache of its own for every test, and a model that no other machine is needed for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refembed import hub
from refembed.hub import sources
from tests.hub.shelf import Shelf, published, serving, tiny_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """REFEMBED_CACHE: an empty folder that does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REFEMBED_CACHE", str(folder))
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tiny model's files."""
    return published(tmp_path_factory.mktemp("published") / "tiny")


@pytest.fixture
def shelf(files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """The server; "tiny" is a known name, and all it takes is on the shelf. Failures are given up soon."""
    monkeypatch.setattr(hub, "MODELS", (tiny_model(files),))
    monkeypatch.setattr(sources, "TIMEOUT", 0.3)
    monkeypatch.setattr(sources, "PAUSE", 0.01)
    with serving(files) as shelf:
        monkeypatch.setenv("HF_ENDPOINT", shelf.url + "/")
        yield shelf
