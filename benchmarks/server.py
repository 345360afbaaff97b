"""Requests per second and latency of `refembed serve` and llama-server: python -m benchmarks server [--threads 1]

Both serve the same file with as many threads, refembed with `--numerics fast`, llama-server with its defaults:
flash attention, weights repacked, four slots. Clients are connections kept open, each of which sends POST
/v1/embeddings with one text and waits for the answer before it sends the next; vectors come as base64, as OpenAI's
clients want them. A cell is measured in rounds, both servers in each, and the ratio is the median over rounds of
(llama-server / refembed).
"cpu" is what a request costs the server, milliseconds of all its threads: it moves less than the rest where the
machine has other work, except that idle threads of llama-server spin. Clients run on the same cores as the servers:
the last column says how much of one core they took. Latencies are of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from refembed import hub, load_tokenizer
from refembed.convert.quantize import quantize_file
from tests.llama_server import started
from tests.server.servers import refembed

WORDS = ("the", "of", "and", "house", "water", "light", "music", "river", "stone", "paper", "winter", "garden")
LENGTHS = {"8 tokens": 8, "128 tokens": 128}
CLIENTS = (1, 8, 64)
TYPES = ("F32", "Q8_0")


@dataclass
class Connection:
    """A client that waits for its answer."""

    socket: socket.socket
    sent: float = 0.0
    answer: bytearray = field(default_factory=bytearray)
    need: int = 0  # bytes of the whole answer, once its head is there

    def ask(self, request: bytes) -> None:
        self.sent, self.need = time.perf_counter(), 0
        self.answer.clear()
        self.socket.sendall(request)

    def read(self) -> bool:
        """Take what has come; whether that is all."""
        chunk = self.socket.recv(1 << 16)
        if not chunk:
            raise ConnectionError("the server closed a connection before it answered")
        self.answer += chunk
        if not self.need and (end := self.answer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.answer[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                raise ConnectionError(bytes(self.answer[:500]).decode(errors="replace"))
            self.need = end + 4 + int(head.split(b"content-length:")[1].split()[0])
        return 0 < self.need <= len(self.answer)

    @property
    def closes(self) -> bool:
        return b"connection: close" in bytes(self.answer[:400]).lower()


def requests_of(address: str, texts: Sequence[str]) -> list[bytes]:
    bodies = [json.dumps({"model": "m", "input": t, "encoding_format": "base64"}).encode() for t in texts]
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\nContent-Type: application/json\r\n"
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


def connect(address: str) -> Connection:
    at = urlsplit(address)
    s = socket.create_connection((at.hostname, at.port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(s)


def load(address: str, requests: Sequence[bytes], clients: int, seconds: float) -> tuple[float, list[float]]:
    """So many clients for so long: requests answered per second, and how long each took."""
    took: list[float] = []
    with selectors.DefaultSelector() as selector:
        asked = 0
        begin = time.perf_counter()

        def start(c: Connection) -> None:
            nonlocal asked
            c.ask(requests[asked % len(requests)])
            asked += 1

        for _ in range(clients):
            c = connect(address)
            selector.register(c.socket, selectors.EVENT_READ, c)
            start(c)
        while selector.get_map():
            for key, _ in selector.select():
                c = key.data
                if not c.read():
                    continue
                now = time.perf_counter()
                took.append(now - c.sent)
                more = now - begin < seconds
                if more and not c.closes:
                    start(c)
                    continue
                selector.unregister(c.socket)
                c.socket.close()
                if more:  # after so many requests llama-server wants a new connection
                    c = connect(address)
                    selector.register(c.socket, selectors.EVENT_READ, c)
                    start(c)
        return len(took) / (time.perf_counter() - begin), took


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has had. 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def texts_of(path: Path, tokens: int, count: int = 97) -> list[str]:
    """Different texts of so many tokens."""
    rng, tokenizer = random.Random(tokens), load_tokenizer(path)
    texts = [" ".join(rng.choices(WORDS, k=tokens - 2)) for _ in range(count)]
    assert all(len(tokenizer.encode(text)) == tokens for text in texts)
    return texts


def row(servers: dict[str, tuple[int, str]], texts: Sequence[str], clients: int, rounds: int, seconds: float) -> str:
    """One cell: requests a second, p50 / p99 and CPU in milliseconds of each, the ratio, the clients' own share."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    took: dict[str, list[float]] = {name: [] for name in servers}
    spent = dict.fromkeys(servers, 0.0)
    begin, own = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        for name, (pid, address) in servers.items():
            before = cpu(pid)
            rate, times = load(address, requests_of(address, texts), clients, seconds)
            spent[name] += cpu(pid) - before
            rates[name].append(rate)
            took[name] += times
    share = (time.process_time() - own) / (time.perf_counter() - begin)
    line = ""
    for name in servers:
        cuts = statistics.quantiles(took[name], n=100)
        latency = f"{1000 * cuts[49]:.1f} / {1000 * cuts[98]:.1f}"
        line += f"{statistics.median(rates[name]):9.1f}{latency:>18}{1000 * spent[name] / len(took[name]):8.2f}"
    ours, theirs = rates.values()
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    return f"{line}{ratio:8.2f}{share:9.0%}"


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="minilm")
    p.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=0, help="of each server; 0: as many as there are cores")
    p.add_argument("--clients", type=int, nargs="*", default=CLIENTS)
    p.add_argument("--types", nargs="*", default=TYPES)
    args = p.parse_args(argv)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = args.threads or cores
    print(
        f"{cores} cores, which the clients share; {threads} threads each; load of the machine {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':<26}{'refembed':>35}{'llama-server':>35}")
    titles = f"{'req/s':>9}{'p50 / p99 ms':>18}{'cpu ms':>8}"
    print(f"{'':<26}{titles}{titles}{'ratio':>8}{'clients':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.types:
            path = hub.resolve(args.model)
            if kind != "F32":
                source, path = path, Path(folder) / f"{kind}.gguf"
                quantize_file(source, path, kind)
            own = {"n_threads": threads, "flash_attn": "auto", "no_extra_bufts": False, "n_parallel": 4, "n_ctx": 2048}
            about = {"path": str(path), "pooling": "unspecified", "params": own | {"n_threads_http": 80}}
            with ExitStack() as stack:
                ours = stack.enter_context(refembed("-m", path, "--threads", str(threads)))
                theirs, address = stack.enter_context(started(about))
                servers = {"refembed": (ours.process.pid, ours.address), "llama-server": (theirs.pid, address)}
                for length, tokens in LENGTHS.items():
                    texts = texts_of(path, tokens)
                    for _, address in servers.values():
                        load(address, requests_of(address, texts), 8, 0.5)  # warms up
                    for clients in args.clients:
                        found = row(servers, texts, clients, args.rounds, args.seconds)
                        print(f"{kind:<5}{length:<11}{clients:>3} clients{found}", flush=True)


if __name__ == "__main__":
    main()
