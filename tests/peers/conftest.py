"""A server for other people's clients: refembed's, and llama-server on the same model."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.jobs import Corpus, make_corpus
from tests.server.servers import Client, llama, refembed

# Largest difference of a unit vector's numbers. `ggml` has llama.cpp's bits; `fast` was at most 8.3e-5 away on an AMD
# EPYC, nearly all of it llama.cpp's GELU, which reads a table of float16
BOUNDS = {"ggml": 0.0, "fast": 1.5e-4}
FLAGS = {"ggml": ("--numerics", "ggml", "-fa", "off", "--no-repack"), "fast": ()}

TEXTS = ["hello world", "Größe, café! 東京", "the cat sat on the mat " * 8, "a", "How do I cook pasta?"]


@dataclass
class Served:
    """The same model by two servers."""

    ours: Client
    theirs: Client
    bound: float
    path: Path

    @property
    def address(self) -> str:
        return self.ours.address

    def wanted(self, texts: list[Any], **options: Any) -> Any:
        """llama-server's vectors (S, D), each text on its own: its numbers do not move then."""
        return np.array([self.theirs.embed(text, **options)[0] for text in texts])

    def check(self, vectors: Any, texts: list[Any], scale: float = 1.0, **options: Any) -> None:
        """These are llama-server's. scale: the vectors' length, where it is not 1."""
        wanted = self.wanted(texts, **options)
        found = np.array(vectors, np.float64)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= self.bound * scale


@pytest.fixture(scope="session", params=["ggml", "fast"])
def served(request: pytest.FixtureRequest, minilm: Path) -> Iterator[Served]:
    """The default model, once in each numerics."""
    with refembed("-m", minilm, *FLAGS[request.param]) as ours, llama(minilm) as theirs:
        yield Served(ours, theirs, BOUNDS[request.param], minilm)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Texts for engines, and what must become of them."""
    pytest.importorskip("pyarrow")
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def swept() -> Iterator[None]:
    """Connections that clients leave to the garbage collector are closed here, where a warning is no error."""
    yield
    gc.collect()
