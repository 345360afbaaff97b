"""Bodies above 64 KiB are read in processes of their own: the same answers, and nothing else waits for them."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from refembed.server.errors import ApiError
from refembed.server.model_files import stamp_of
from refembed.server.reading import tokens_answer
from refembed.server.settings import Limits, Settings
from refembed.server.text_process import BodyReader, Setup, TextProcesses
from tests.server.conftest import Pair
from tests.server.health import watched
from tests.server.large_bodies import MIB, large_bodies
from tests.server.servers import Client, refembed

pytestmark = pytest.mark.system

PADDING = b" " * (1 << 17)  # white space behind a body makes it a large one
ENDPOINTS: list[tuple[str, Any]] = [
    ("/embedding", {"content": ["a b", [5, 6]], "embd_normalize": 1}),
    ("/embedding", {"content": []}),
    ("/v1/embeddings", {"input": ["a", "é"], "model": "mine", "encoding_format": "base64"}),
    ("/v1/embeddings", {"input": "a", "embd_normalize": -5}),
    ("/v1/embeddings", {"input": ["a " * 600]}),
    ("/tokenize", {"content": "a é 日", "with_pieces": True, "add_special": True}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
    ("/detokenize", {"tokens": [-1]}),
    ("/api/embed", {"input": ["a", "b"], "dimensions": 8}),
    ("/api/embeddings", {"prompt": "a b"}),
    ("/embed", {"inputs": ["a", "b c"], "normalize": False}),
    ("/embed", {"inputs": 5}),
    ("/embed_all", {"inputs": "a b"}),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["a", "b"]}}),
    ("/props", {}),
]


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Client]:
    with refembed("-m", tiny) as client:
        yield client


def children(client: Client) -> list[int]:
    """Processes that the server has started."""
    tasks = Path(f"/proc/{client.process.pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def resident(pid: int) -> int:
    """MiB of memory; 0 once the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int((status.partition("VmRSS:")[2].split() or ["0"])[0]) // 1024


@pytest.mark.parametrize(("path", "body"), ENDPOINTS, ids=lambda x: json.dumps(x)[:50])
def test_a_large_body_has_the_answer_of_a_small_one(server: Client, path: str, body: Any) -> None:
    """Errors as well."""
    raw = json.dumps(body).encode()
    small, large = server.post(path, raw), server.post(path, raw + PADDING)
    assert small.status == large.status
    if path == "/api/embed":
        assert small.json["embeddings"] == large.json["embeddings"]
    else:
        assert small.body == large.body


def test_large_pairs_have_the_scores_of_small_ones(rerankers: Pair) -> None:
    for body in (
        {"query": "a", "documents": ["b", "c é"], "return_documents": True},
        {"query": "a", "texts": ["b", "c"], "return_text": True},
        {"query": "a", "documents": ["b"] * 3, "top_n": 2, "model": "m"},
    ):
        raw = json.dumps(body).encode()
        small, large = rerankers[0].post("/rerank", raw), rerankers[0].post("/rerank", raw + PADDING)
        assert (small.status, small.body) == (200, large.body)


def test_a_large_answer_arrives_whole(server: Client) -> None:
    """/tokenize sends a length; vectors come in chunks as they are written."""
    tokens = server.post("/tokenize", {"content": "a b c " * 100_000})
    assert int(tokens.headers["content-length"]) == len(tokens.body) > 700_000
    assert len(tokens.json["tokens"]) >= 300_000
    vectors = server.post("/v1/embeddings", {"input": ["a", "b"] * 1000})
    assert vectors.headers["transfer-encoding"] == "chunked"
    alone = [server.embed(text)[0] for text in "ab"]
    assert [d["embedding"] for d in vectors.json["data"]] == alone * 1000


def test_a_text_that_cannot_fit_is_not_tokenized(server: Client) -> None:
    """Two million words take seconds to tokenize, and no time to count."""
    text = "the cat " * 1_000_000
    for path, body, status in (
        ("/v1/embeddings", {"input": text}, 500),
        ("/embed", {"inputs": text}, 422),
        ("/api/embed", {"input": text, "truncate": False}, 400),
    ):
        refused = server.post(path, body)
        assert refused.status == status
        assert path == "/api/embed" or "at least 2000000" in refused.body.decode()
    cut = server.post("/v1/embeddings", {"input": "the cat " * 20_000, "truncate": True})
    assert cut.json["usage"]["prompt_tokens"] == 64


def test_clients_that_leave_take_their_work_along(server: Client) -> None:
    """Six send a word that takes long to tokenize, and go: what reads for them is ended, and others are read."""
    at = urlsplit(server.address)
    body = b'{"content": "%b"}' % (b"x" * (24 * MIB))
    for _ in range(6):
        with socket.create_connection((at.hostname, at.port)) as s:
            s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.3)
    begin = time.monotonic()
    assert server.post("/tokenize", b'{"content": "a"}' + PADDING).status == 200
    assert time.monotonic() - begin < 10  # one of the six would take a minute
    assert len(children(server)) <= 2


@pytest.mark.slow
def test_a_body_that_takes_too_much_memory_is_refused(tiny: Path) -> None:
    """33 million empty lists would be 2.6 GB of objects; a process that reads may have 1 GiB."""
    with refembed("-m", tiny) as client:
        idle, most = resident(client.process.pid), 0
        with (
            watched(client.address) as health,
            socket.create_connection(urlsplit(client.address).netloc.split(":")) as s,
        ):
            body = b'{"content": [' + b"[]," * (32 * MIB) + b"[]]}"
            s.sendall(b"POST /embedding HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            s.settimeout(0.05)
            answer = b""
            while not answer:
                most = max(most, resident(client.process.pid) + sum(map(resident, children(client))))
                try:
                    answer = s.recv(1000)
                except TimeoutError:
                    continue
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"1024 MiB of memory" in answer
        assert most < 2 * idle + 1024 + 256 + 100
        assert health.failed == 0


def test_a_body_that_takes_too_long_is_refused(tiny: Path) -> None:
    """With half a second in place of a minute; the next body is read by a new process."""
    info = ("mean", 100_000, 32)
    setup = Setup(tiny, stamp_of(tiny), Settings(), Limits(512, 512, False, 4), *info, logging.WARNING)
    processes = TextProcesses(setup, read_seconds=0.5)
    with pytest.raises(ApiError, match=r"more than 0\.5 seconds") as refused:
        BodyReader(processes, tokens_answer, b'{"content": "%b"}' % (b"x" * (24 * MIB))).run()
    assert refused.value.status == 413
    processes.read_seconds = 60.0
    assert BodyReader(processes, tokens_answer, b'{"content": "a"}').run().tobytes().startswith(b'{"tokens":[')
    processes.close()


def test_processes_end_with_their_server(tiny: Path) -> None:
    """Also where the server is killed while they work."""
    with refembed("-m", tiny) as client:
        assert client.post("/tokenize", b'{"content": "a"}' + PADDING).status == 200
        ended = children(client)
        assert len(ended) == 1
    assert not any(map(alive, ended))


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_no_body_holds_up_other_requests(tiny: Path) -> None:
    """Every endpoint with the largest body it takes; the figures are `python -m benchmarks stalls`."""
    with refembed("-m", tiny, "--max-inputs", "1000") as client:
        for path, what, body in large_bodies(99 * MIB, 1000):
            with watched(client.address) as health:
                client.post(path, body)
            assert health.failed == 0, (path, what)
            assert health.median < 0.1, (path, what)
            assert health.slowest < 1.0, (path, what)  # two cores may be busy with other tests
