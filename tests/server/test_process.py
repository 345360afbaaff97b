"""The server as a process: many clients at once, clients that leave, signals, flags, a model that cannot be loaded."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from refembed.cli import run
from tests.server.servers import Client, refembed

pytestmark = pytest.mark.system

TEXTS = ["hello world", "", "the cat sat on the mat " * 8, "Größe, café!", "a", "b c d e f", "x " * 100, "東京"]


@pytest.fixture(scope="module")
def server(minilm: Path) -> Iterator[Client]:
    with refembed("-m", minilm, "--metrics") as client:
        yield client


NORMS = (2, -1, 1)


def hammer(
    client: Client, wanted: dict[Any, list[float]], seconds: float, wrong: list[object], asked: list[int], seed: int
) -> None:
    """Ask for one text, or several, over and over on one connection."""
    end, connection, i = time.monotonic() + seconds, client.connect(), seed
    try:
        while time.monotonic() < end:
            i += 1
            texts, norm = [TEXTS[(i + k) % len(TEXTS)] for k in range(1 + i % 3)], NORMS[i // 3 % 3]
            connection.request("POST", "/v1/embeddings", json.dumps({"input": texts, "embd_normalize": norm}))
            response = connection.getresponse()
            body = json.loads(response.read())
            asked.append(len(texts))
            if response.status != 200 or [d["embedding"] for d in body["data"]] != [wanted[t, norm] for t in texts]:
                wrong.append((response.status, texts, norm, body.get("error")))
    except Exception as e:
        wrong.append(e)
    finally:
        connection.close()


def load(client: Client, clients: int, seconds: float) -> tuple[int, float]:
    """Every vector of every client is bit for bit the one a request alone gets, whatever norm others ask for.

    Returns how many texts they asked for, and how many passes that took.
    """
    wanted = {(text, norm): client.embed(text, embd_normalize=norm)[0] for text in TEXTS for norm in NORMS}
    wrong: list[object] = []
    asked: list[int] = []
    before = metrics(client)["n_decode_total"]
    threads = [
        threading.Thread(target=hammer, args=(client, wanted, seconds, wrong, asked, seed)) for seed in range(clients)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    return sum(asked), metrics(client)["n_decode_total"] - before


def test_sixteen_clients_get_the_bits_a_client_alone_gets(server: Client) -> None:
    """And they were computed together: more texts than passes."""
    texts, passes = load(server, 16, 2)
    assert 0 < passes < texts / 2


@pytest.mark.slow
def test_sixty_four_clients_for_a_minute(server: Client) -> None:
    """No error, and memory does not grow after the first ten seconds by more than it sways: 9 MiB in nine windows."""
    load(server, 64, 10)
    before = resident(server)
    load(server, 64, 50)
    assert resident(server) < before + 32 * 1024


def metrics(client: Client) -> dict[str, float]:
    lines = client.get("/metrics").body.decode().splitlines()
    return {n.removeprefix("llamacpp:"): float(v) for n, v in (x.split() for x in lines if not x.startswith("#"))}


def resident(client: Client) -> int:
    """KiB of memory."""
    status = Path(f"/proc/{client.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_a_long_request_does_not_hold_up_a_short_one(server: Client) -> None:
    """Texts of waiting requests are taken in turn."""
    long = threading.Thread(target=server.post, args=("/embedding", {"content": ["word " * 200] * 30}))
    long.start()
    while not metrics(server)["requests_processing"]:
        time.sleep(0.01)
    server.embed("hello")
    assert long.is_alive()
    long.join()


@pytest.mark.parametrize("numerics", ["fast", "ggml"])
def test_small_requests_next_to_a_giant_one_get_the_same_bits(minilm: Path, numerics: str) -> None:
    """Two threads compute them; most small ones are answered before the giant one."""
    with refembed("-m", minilm, "--numerics", numerics, "--metrics") as client:
        wanted = {text: client.embed(text)[0] for text in TEXTS}
        many = TEXTS * (30 if numerics == "fast" else 8)
        answers: list[Any] = []
        giant = threading.Thread(target=lambda: answers.append(client.embed(many)))
        giant.start()
        while not metrics(client)["requests_processing"]:
            time.sleep(0.01)
        found, before = [], 0
        for text in TEXTS * 3:
            found.append(client.embed(text)[0] == wanted[text])
            before += giant.is_alive()
        giant.join()
        assert all(found)
        assert before > len(TEXTS)
        assert answers == [[wanted[text] for text in many]]


def test_a_client_that_leaves_leaves_nothing_behind(server: Client) -> None:
    """What it asked for is dropped, not computed."""

    def quiet() -> bool:
        """No request at work, and none computed for a second."""
        before = metrics(server)
        time.sleep(1.0)
        after = metrics(server)
        return not after["requests_processing"] and before["prompt_tokens_total"] == after["prompt_tokens_total"]

    at = urlsplit(server.address)
    body = json.dumps({"content": ["word " * 400] * 400}).encode()  # 160 000 tokens: half a minute and more
    with socket.create_connection((at.hostname, at.port)) as s:
        s.sendall(b"POST /embedding HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while not metrics(server)["requests_processing"]:
            time.sleep(0.01)
    assert any(quiet() for _ in range(8))
    assert len(server.embed("hello")[0]) == 384


def test_an_answer_leaves_at_once(server: Client) -> None:
    """On a connection that stays open too, where TCP would hold back its second packet until the first is confirmed."""
    connection, took = server.connect(), []
    for _ in range(30):
        begin = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        took.append(time.perf_counter() - begin)
    connection.close()
    assert statistics.median(took[5:]) < 0.03  # 0.001 measured, 0.044 where TCP waits


def test_half_a_body_is_no_request(server: Client) -> None:
    at = urlsplit(server.address)
    with socket.create_connection((at.hostname, at.port)) as s:
        s.sendall(b'POST /embedding HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"input"')
    assert server.get("/health").status == 200


def test_a_body_of_more_than_100_mib_is_refused_unread(server: Client) -> None:
    at = urlsplit(server.address)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=10)
    connection.putrequest("POST", "/embedding")
    connection.putheader("Content-Length", str(100 * 1024 * 1024 + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == 413
    connection.close()


def test_deep_nesting_is_refused(server: Client) -> None:
    for depth in (500, 100_000):
        answer = server.post("/v1/embeddings", b'{"input":' + b"[" * depth + b"]" * depth + b"}")
        assert answer.status == 400
    assert server.get("/health").status == 200


def test_dimensions_cut_and_then_normalize(server: Client) -> None:
    """The first k numbers, of unit length again."""
    whole = server.embed("hello", embd_normalize=-1)[0]
    cut = server.embed("hello", dimensions=16)[0]
    length = sum(x * x for x in whole[:16]) ** 0.5
    assert cut == pytest.approx([x / length for x in whole[:16]], abs=1e-6)
    for wrong in (0, 385, -1, "x"):
        assert server.post("/v1/embeddings", {"input": "a", "dimensions": wrong}).status == 400


def test_truncate_cuts_what_is_too_long(server: Client) -> None:
    """To what fits, the closing token kept; unasked it is an error."""
    answer = server.post("/v1/embeddings", {"input": "a " * 600, "truncate": True})
    assert (answer.status, answer.json["usage"]["prompt_tokens"]) == (200, 512)
    assert answer.json["data"][0]["embedding"] == server.embed([101] + [1037] * 510 + [102])[0]
    assert server.post("/v1/embeddings", {"input": "a " * 600}).status == 500


@pytest.mark.parametrize("norm", [-2, -100])
def test_a_norm_that_is_none_is_refused(server: Client, norm: int) -> None:
    answer = server.post("/v1/embeddings", {"input": "a", "embd_normalize": norm})
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


def test_what_writes_text_is_not_implemented(server: Client) -> None:
    for path in ("/completion", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/infill"):
        answer = server.post(path, {"prompt": "hi"})
        assert (answer.status, answer.json["error"]["type"]) == (501, "not_supported_error")


# signals, flags, failures


def test_while_the_model_is_loaded_every_path_says_so(minilm: Path) -> None:
    """503, health as well; llama-server's words, in its order."""
    with refembed("-m", minilm, wait=False) as client:
        answers = [client.get(path) for path in ("/health", "/v1/models", "/nope")]
        assert [a.status for a in answers] == [503] * 3
        assert answers[0].body == b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
        while client.get("/health").status == 503:
            time.sleep(0.05)
        assert len(client.embed("hello")[0]) == 384


def test_sigterm_lets_requests_under_way_finish(minilm: Path) -> None:
    """New connections are refused, the answer comes, the exit code is 0."""
    with refembed("-m", minilm) as client:
        answers: list[Any] = []
        body = {"content": ["word " * 200] * 12}
        asking = threading.Thread(target=lambda: answers.append(client.post("/embedding", body)))
        asking.start()
        time.sleep(0.3)
        client.process.send_signal(signal.SIGTERM)
        asking.join()
        assert client.process.wait(30) == 0
        assert answers[0].status == 200
        assert len(answers[0].json) == 12


def test_flags_of_a_text_generator_are_ignored_with_one_note(tiny: Path) -> None:
    """The command line of llama.cpp's own server tests."""
    flags = "--temp 0.8 --seed 42 --batch-size 32 --ubatch_size 32 --threads 2 -ngl 99 --cont-batching --embedding"
    more = "--metrics --no-slots --ctx-size 64 --parallel 2 -fa on --no-webui --jinja --offline --n-predict=4"
    with refembed("-m", tiny, *flags.split(), *more.split()) as client:
        notes = [line for line in client.log if line.startswith("note:")]
        assert notes == [
            "note: no meaning here, ignored: --temp --seed -ngl --cont-batching -fa --no-webui --jinja "
            "--offline --n-predict"
        ]
        assert client.get("/slots").status == 501
        assert client.post("/embedding", {"content": [5] * 33}).status == 500


def test_a_prefix_stands_in_front_of_every_path(tiny: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# mine\nsecret\n\n")
    with refembed("-m", tiny, "--api-prefix", "/llm", "--api-key-file", keys, "--cors-origins", "localhost") as client:
        assert client.get("/llm/props", Authorization="Bearer secret").status == 200
        assert client.get("/props", Authorization="Bearer secret").status == 404
        assert client.get("/llm/props").status == 401
        for origin, allowed in (("http://localhost:3000", True), ("http://x.y", False)):
            headers = client.get("/health", Origin=origin).headers
            assert (headers.get("access-control-allow-origin") == origin) is allowed


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        (["-m", "BAD"], 2, "bad.gguf"),
        (["-m", "TINY", "--rerank"], 1, "pooling 'rank' needs a classifier head"),
        (["--pooling", "median"], 1, "median"),
        (["--no-such-flag"], 1, "No such option"),
        (["--override-kv", "a=bool:true"], 1, "No such option"),
        (["--embd-normalize", "-2"], 1, "-2"),
        (["--ssl-key-file", "x"], 1, "go together"),
        (["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1"),
        (["--api-key-file", "BAD.keys"], 1, "no API keys in it"),
    ],
    ids=repr,
)
def test_a_server_that_cannot_serve_ends_with_one_error(
    args: list[str], code: int, what: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with the exit code of its kind."""
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    (tmp_path / "keys").write_text("# none\n")
    files = {"BAD": tmp_path / "bad.gguf", "BAD.keys": tmp_path / "keys", "TINY": tiny}
    assert run(["serve", "--port", "0", *(str(files.get(a, a)) for a in args)]) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith(("listening on", "  hint"))]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert what in lines[0]
    assert out == ""


def test_a_unix_socket_is_an_address(tiny: Path, tmp_path: Path) -> None:
    """Next to another one; it is gone afterwards."""
    path = tmp_path / "s.sock"
    with refembed("-m", tiny, "--host", f"127.0.0.1,{path}") as client:
        assert f"listening on unix:{path}" in client.log
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(path))
            s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert s.makefile("rb").read().endswith(b'{"status":"ok"}')
        assert client.get("/health").status == 200
    assert not path.exists()


def test_the_example_finds_the_pasta(server: Client) -> None:
    example = Path(__file__).parents[2] / "examples" / "server_search.py"
    done = subprocess.run([sys.executable, str(example), server.address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line[8:] for line in done.stdout.splitlines()][-1] == "The stock market fell today"
