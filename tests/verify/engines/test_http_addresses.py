"""Addresses that are slightly wrong, and servers that are not ready: one sentence, at once, with what to try."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from refembed.errors import EngineError, RequestError
from refembed.verify.engines.base import open_engine, which
from tests.verify.engines.stand_in import Answer, stand_in

VECTOR = {"data": [{"index": 0, "embedding": [0.6, 0.8]}]}
ROUTES = {"GET /v1/models": {"data": [{"id": "m"}]}, "POST /v1/embeddings": VECTOR}


@pytest.fixture
def silent():
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:8101", "http://localhost:8101"),
        ("127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("api.example.org:443/v1/embeddings", "https://api.example.org:443/v1/embeddings"),
    ],
)
def test_an_address_without_a_scheme_is_http(text, address):
    assert which(text) == ("http", "HttpEngine", address)


def test_a_module_and_its_function_are_no_address():
    assert which("my_engine:embed")[0] == "callables"
    assert which("package.module:embed")[0] == "callables"


def test_a_host_without_a_port_is_asked_about():
    with pytest.raises(RequestError, match=r"stands for no engine.*\n  hint: for a server, http://localhost/v1"):
        which("localhost/v1")


def test_the_scheme_that_was_taken_is_in_about(tiny):
    with stand_in(ROUTES) as server:
        engine = open_engine(server.url.removeprefix("http://"), tiny)
        assert engine.info["url"] == server.url
        assert engine.info["scheme assumed"] == "http"


def test_https_against_plain_http_is_an_error_within_seconds(tiny):
    with stand_in(ROUTES) as server:
        begin = time.monotonic()
        with pytest.raises(EngineError, match=r"speaks plain HTTP, not TLS\n  hint: write the address as http://") as e:
            open_engine(server.url.replace("http:", "https:"), tiny)
        assert time.monotonic() - begin < 10
    assert server.url in str(e.value)


@pytest.fixture
def waits_for_a_line():
    """The port of a server that answers GET, and takes any other first bytes for a line that has not ended yet."""

    def serve():
        while True:
            connection, _ = server.accept()
            open_connections.append(connection)
            first = connection.recv(5)
            if not first and not serving.is_set():
                return
            if first.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")
                connection.shutdown(socket.SHUT_RDWR)

    open_connections = []
    serving = threading.Event()
    serving.set()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        serving.clear()
        socket.create_connection(server.getsockname()).close()  # wakes the thread
        thread.join()
        for connection in open_connections:
            connection.close()


def test_https_against_a_server_that_waits_fails_within_seconds(tiny, waits_for_a_line):
    """As llama-server: it takes the TLS greeting for a request line that has not ended yet."""
    begin = time.monotonic()
    with pytest.raises(EngineError, match="speaks plain HTTP"):
        open_engine(f"https://127.0.0.1:{waits_for_a_line}", tiny)
    assert time.monotonic() - begin < 10


def test_a_wrong_port_asks_whether_the_server_runs(tiny):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(EngineError, match=r"cannot be reached: .*refused.*\n  hint: is the server running"):
        open_engine(f"http://127.0.0.1:{port}", tiny)


def test_a_server_that_never_answers_ends_at_the_time_limit(tiny, silent):
    with pytest.raises(EngineError, match=r"gave no answer in 0.3 s\n  hint: --timeout SECONDS"):
        open_engine(f"http://127.0.0.1:{silent}", tiny, timeout=0.3)


def test_a_path_too_much_is_named_in_the_error(tiny):
    with stand_in(ROUTES) as server, pytest.raises(EngineError, match="hint: leave the path /v1/chat/completions out"):
        open_engine(f"{server.url}/v1/chat/completions", tiny)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer({"error": {"message": "Invalid API Key"}}, 401), r"401: Invalid API Key\n  hint: --api-key KEY"),
        (Answer({"error": {"message": "Loading model"}}, 503), r"503: Loading model\n  hint: .*still loading"),
        (Answer({"error": {"message": "no embeddings"}}, 501), r"501: no embeddings\n  hint: .*--embeddings"),
        (Answer(b"", 302, headers={"Location": "http://else/"}), r"302 and sends elsewhere: http://else/"),
        (Answer(b"<html><title>Hi</title>", 200, "text/html"), r"an HTML page 'Hi', not with JSON"),
        ({"data": [{"index": 0, "embedding": [0.6, None]}]}, r"1 of 2 numbers are not finite.*\n  hint: null in JSON"),
        ({"data": [{"index": 0, "embedding": [[0.6], [0.8, 1]]}]}, r"not a list of numbers"),
    ],
)
def test_servers_that_are_not_ready_say_why(tiny, answer, words):
    with stand_in({**ROUTES, "POST /v1/embeddings": answer}) as server, pytest.raises(EngineError, match=words):
        open_engine(server.url, tiny).embed(["a"])
