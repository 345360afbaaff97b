"""Small requests while a giant one is computed: python -m benchmarks mixed [--texts 10000] [--address URL ...]

One client sends requests of many texts, one after the other; another sends one text of some words every 30 ms, each on
a connection kept open. For each server: the texts of giant requests per second, without and with small requests; how
long a small one takes, alone and meanwhile. Several servers (--address, else one is started) are measured in turns,
and the ratio of throughputs is the median over the turns of (first / last).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.server import WORDS
from refembed import hub
from tests.server.servers import Client, refembed

PATH = "/v1/embeddings"


@dataclass
class Found:
    """Of one server."""

    rates: list[float] = field(default_factory=list)  # texts a second of giant requests
    mixed: list[float] = field(default_factory=list)  # likewise, with small requests
    alone: list[float] = field(default_factory=list)  # seconds of small requests
    meanwhile: list[float] = field(default_factory=list)


def giant(client: Client, texts: list[str]) -> float:
    """Seconds of one request of many texts."""
    connection = client.connect()
    connection.timeout = 600
    begin = time.perf_counter()
    connection.request("POST", PATH, json.dumps({"input": texts, "encoding_format": "base64"}))
    response = connection.getresponse()
    found = json.loads(response.read())
    took = time.perf_counter() - begin
    connection.close()
    assert response.status == 200, found
    assert len(found["data"]) == len(texts)
    return took


def small(client: Client, over: threading.Event, took: list[float]) -> None:
    """One text every 30 ms until it is over."""
    connection = client.connect()
    body = json.dumps({"input": "the cat sat on the mat"})
    while not over.is_set():
        begin = time.perf_counter()
        connection.request("POST", PATH, body)
        response = connection.getresponse()
        response.read()
        took.append(time.perf_counter() - begin)
        assert response.status == 200
        time.sleep(0.03)
    connection.close()


@contextmanager
def asking(client: Client, took: list[float]) -> Iterator[None]:
    """Small requests while the block runs."""
    over = threading.Event()
    thread = threading.Thread(target=small, args=(client, over, took))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def quantiles(took: list[float]) -> str:
    """p50 / p99 / max in milliseconds."""
    cuts = statistics.quantiles(took, n=100)
    return f"{1000 * cuts[49]:.1f} / {1000 * cuts[98]:.1f} / {1000 * max(took):.0f}"


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="minilm")
    p.add_argument("--address", nargs="*", help="servers that run already, in place of one that is started")
    p.add_argument("--texts", type=int, default=10_000, help="of a giant request")
    p.add_argument("--words", type=int, default=14, help="of each of its texts")
    p.add_argument("--rounds", type=int, default=3)
    args = p.parse_args(argv)
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=args.words)) for _ in range(args.texts)]
    with ExitStack() as stack:
        addresses = args.address or [stack.enter_context(refembed("-m", hub.resolve(args.model))).address]
        found = {address: Found() for address in addresses}
        for _ in range(args.rounds):
            for address, f in found.items():
                client = Client(address)
                f.rates.append(args.texts / giant(client, texts))
                with asking(client, f.alone):
                    time.sleep(2.0)
                with asking(client, f.meanwhile):
                    f.mixed.append(args.texts / giant(client, texts))
        for address, f in found.items():
            rate, mixed = statistics.median(f.rates), statistics.median(f.mixed)
            print(f"{address}: texts/s {rate:.0f}, with small requests {mixed:.0f}")
            print(f"    small ones, p50 / p99 / max ms: alone {quantiles(f.alone)}, meanwhile {quantiles(f.meanwhile)}")
        if len(addresses) > 1:
            rounds = zip(found[addresses[0]].rates, found[addresses[-1]].rates, strict=True)
            print(f"ratio of texts/s, first / last: {statistics.median(a / b for a, b in rounds):.3f}")


if __name__ == "__main__":
    main()
