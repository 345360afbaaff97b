"""A model's file that changes while it is served."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.server.servers import Client, refembed

pytestmark = pytest.mark.system


@pytest.fixture
def path(tiny: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copy(tiny, tmp_path / "model.gguf"))


def damage(path: Path, how: str) -> None:
    if how == "written into":
        with path.open("r+b") as f:
            f.seek(-64, os.SEEK_END)
            f.write(bytes(64))
    elif how == "truncated":
        os.truncate(path, 4096)
    else:
        copy = path.with_suffix(".new")
        shutil.copy(path, copy)
        copy.replace(path)


def lines(client: Client, what: str) -> list[str]:
    """Of the log."""
    return [line for line in client.log if what in line]


@pytest.mark.parametrize("how", ["written into", "truncated"])
def test_a_file_that_is_changed_is_not_computed_with(path: Path, how: str) -> None:
    """503 with what to do, again and again; the process lives, and the log has one line."""
    with refembed("-m", path) as client:
        assert client.post("/embedding", {"content": "a"}).status == 200
        damage(path, how)
        for _ in range(3):
            refused = client.post("/embedding", {"content": ["a", "b"]})
            assert refused.status == 503
            assert "has changed since it was loaded; restart the server" in refused.json["error"]["message"]
        assert client.get("/health").status == 200
    assert len(lines(client, "was written to")) == 1


def test_a_file_that_is_replaced_goes_on_being_served(path: Path) -> None:
    """The old one is still there; one line says so. Large bodies are tokenized with the old one too."""
    with refembed("-m", path) as client:
        before = client.embed("a")
        damage(path, "replaced")
        large = b'{"input": "a"}' + b" " * (1 << 17)
        until = time.monotonic() + 30
        for n in itertools.count():  # the path is looked at once a second
            assert client.embed("a") == before
            assert client.post("/v1/embeddings", large).json["data"][0]["embedding"] == before[0]
            if n >= 2 and (lines(client, "was replaced") or time.monotonic() > until):
                break
    assert len(lines(client, "was replaced")) == 1


@pytest.mark.parametrize("how", ["written into", "truncated"])
def test_a_copy_in_memory_does_not_change(path: Path, how: str) -> None:
    with refembed("-m", path, "--no-mmap") as client:
        before = client.embed(["a", "b c"])
        damage(path, how)
        assert client.embed(["a", "b c"]) == before
    assert len(lines(client, "its copy in memory is served")) == 1
