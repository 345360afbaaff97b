"""Many clients, some of which leave: python -m benchmarks soak [--seconds 60] [--clients 64]

`refembed serve --numerics ggml` and llama-server serve the same file, one thread each, and are measured in turns,
`--rounds` times `--seconds` / rounds each. Every client sends one text after the other on a connection that it keeps
open; one request in ten it leaves before the answer comes, and connects again. Every vector that arrives is compared,
bit for bit, with the one that a request alone gets from the same server, and those of the two servers with each other.

Printed: answers, answers that were wrong or failed (0 is wanted), disconnects, p50 / p99 in milliseconds, and the ratio
of the two p99 (llama-server / refembed).
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import statistics
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from refembed import hub
from tests.server.servers import Client, llama, refembed

TEXTS = ("hello world", "", "the cat sat on the mat " * 8, "Größe, café!", "a", "b c d e f", "x " * 100, "東京")
LEAVES = 0.1  # of the requests
# one text is computed at a time in both: llama-server moves a text's bits with its batch
GGML = ("--numerics", "ggml", "-fa", "off", "--no-repack", "-np", "1", "-c", "512", "--threads", "1")


@dataclass
class Found:
    """Of one server, all its rounds."""

    wanted: dict[str, list[float]] = field(default_factory=dict)  # text -> its vector, asked for alone
    took: list[float] = field(default_factory=list)  # seconds
    wrong: list[str] = field(default_factory=list)
    left: int = 0


def leave(client: Client, body: bytes) -> None:
    """Send a request and close the connection before its answer."""
    connection = client.connect()
    try:
        connection.request("POST", "/v1/embeddings", body)
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
    finally:
        connection.close()


def ask(client: Client, found: Found, end: float, seed: int) -> None:
    """One client."""
    rng, connection = random.Random(seed), client.connect()
    while time.monotonic() < end:
        text = rng.choice(TEXTS)
        body = json.dumps({"input": text}).encode()
        try:
            if rng.random() < LEAVES:
                leave(client, body)
                found.left += 1
                continue
            begin = time.perf_counter()
            connection.request("POST", "/v1/embeddings", body)
            response = connection.getresponse()
            answer: Any = json.loads(response.read())
            found.took.append(time.perf_counter() - begin)
            if response.status != 200 or answer["data"][0]["embedding"] != found.wanted[text]:
                found.wrong.append(f"{response.status} {text[:20]!r}")
        except (OSError, http.client.HTTPException) as e:
            found.wrong.append(repr(e))
            connection.close()
            connection = client.connect()
    connection.close()


def turn(client: Client, found: Found, clients: int, seconds: float, seed: int) -> None:
    """All clients of one server for so long."""
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=ask, args=(client, found, end, seed * 1000 + i)) for i in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def soak(servers: dict[str, Client], clients: int, seconds: float, rounds: int) -> dict[str, Found]:
    """All turns."""
    found = {name: Found({text: client.embed(text)[0] for text in TEXTS}) for name, client in servers.items()}
    for i in range(rounds):
        for name, client in servers.items():
            turn(client, found[name], clients, seconds / rounds, i)
    return found


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="minilm")
    p.add_argument("--clients", type=int, default=64)
    p.add_argument("--seconds", type=float, default=60.0, help="of each server")
    p.add_argument("--rounds", type=int, default=4)
    args = p.parse_args(argv)
    path = hub.resolve(args.model)
    with ExitStack() as stack:
        ours = stack.enter_context(refembed("-m", path, *GGML))
        theirs = stack.enter_context(llama(path, n_threads_http=args.clients + 8))
        found = soak({"refembed": ours, "llama-server": theirs}, args.clients, args.seconds, args.rounds)
    p99 = {}
    for name, f in found.items():
        cuts = statistics.quantiles(f.took, n=100)
        p99[name] = cuts[98]
        times = f"p50 / p99 {1000 * cuts[49]:.0f} / {1000 * cuts[98]:.0f} ms"
        print(f"{name:<13}{len(f.took):>7} answers, {len(f.wrong)} wrong or failed, {f.left} left, {times}")
        for line in f.wrong[:5]:
            print("   ", line)
    a, b = (f.wanted for f in found.values())
    ratio = p99["llama-server"] / p99["refembed"]
    print(f"vectors bit-equal: {a == b}; p99 llama-server / refembed {ratio:.2f}")


if __name__ == "__main__":
    main()
