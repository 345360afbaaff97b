"""Pairs of servers, refembed's and llama-server, that serve the same model with the same flags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refembed.testing.synthetic import synthetic
from tests.copies import copied
from tests.pooling.test_rerank import FLAGS, HEAD
from tests.server.servers import Client, llama, refembed

Pair = tuple[Client, Client]  # refembed, llama-server

GGML = ("--numerics", "ggml", "-fa", "off", "--no-repack", "-np", "1", "-c", "512")


@pytest.fixture(scope="session")
def pair(minilm: Path) -> Iterator[Pair]:
    """The default model, mean pooling."""
    with refembed("-m", minilm, *GGML, "--metrics") as ours, llama(minilm, endpoint_metrics=True) as theirs:
        yield ours, theirs


@pytest.fixture(scope="session")
def per_token(minilm: Path) -> Iterator[Pair]:
    """Pooling none, and no metrics."""
    args = ("-m", minilm, *GGML, "--pooling", "none", "--no-slots")
    with refembed(*args) as ours, llama(minilm, "NONE", endpoint_slots=False) as theirs:
        yield ours, theirs


@pytest.fixture(scope="session")
def guarded(tiny: Path) -> Iterator[Pair]:
    """API keys, aliases, two slots of 256 tokens each would get, but the model reads 64; passes of 40 tokens."""
    args = ("-m", tiny, "--numerics", "ggml", "-fa", "off", "-nr", "--api-key", "k1,k2", "-a", "zeta,alpha")
    args += ("-np", "2", "-ub", "40", "--tags", "t,s")
    more = {"api_keys": ["k1", "k2"], "model_alias": ["zeta", "alpha"], "model_tags": ["t", "s"]}
    with refembed(*args) as ours, llama(tiny, n_parallel=2, n_ctx=0, n_batch=2048, n_ubatch=40, **more) as theirs:
        yield ours, theirs


@pytest.fixture(scope="session")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A model with a classifier head and random weights."""
    folder = tmp_path_factory.mktemp("rerankers")
    path = copied(synthetic(folder / "a.gguf", "bert", pooling=4, optional=HEAD), folder / "b.gguf", FLAGS)
    args = ("-m", path, "--rerank", "--numerics", "ggml", "-fa", "off", "--no-repack", "-np", "1")
    with refembed(*args) as ours, llama(path, "RANK", n_ctx=0) as theirs:
        yield ours, theirs
