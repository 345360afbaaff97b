"""Seconds of `refembed verify`: python -m benchmarks verify [--folder all-MiniLM-L6-v2] [--rounds N]

Rows: every tensor of a 128-token text against live llama.cpp's; 50 texts from an engine that shows vectors only, right
or with one fault, by a Python callable and over HTTP; and where the packages are installed and a folder is given, a
sentence-transformers folder with refembed's own texts. `process` is the whole command from the shell, `within` the same
in a process that has run it before; `CPU` is what either spent on processors, which a busy machine stretches less. The
engines answer with refembed's own `fast` numerics; in the rows of a callable that time is counted too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from refembed import Embedder, hub
from refembed.verify.compare.local import compare_traces
from refembed.verify.engines.base import Engine, open_engine
from refembed.verify.reference import reference_of
from refembed.verify.run import verify
from refembed.verify.texts import text_of

TOKENS, TEXTS = 128, 50
WORDS = "One of the fifty texts is number {}, and it says a little more than the one before about {} and the weather."
THINGS = ("ships", "prices", "café tables", "a Fox", "old letters", "numbers like 3.14", "the harbour")
ASKED = {"tensors": 3.0, "texts": 10.0, "folder": 15.0}  # seconds, on two cores
PATH = "/v1/embeddings"
loaded: dict[str, Embedder] = {}


def embedder() -> Embedder:
    """What the engines here answer with."""
    if "minilm" not in loaded:
        loaded["minilm"] = Embedder.load("minilm", numerics="fast")
    return loaded["minilm"]


def right(texts: list[str]) -> Any:
    """A right engine, for --against benchmarks.verify:right."""
    return embedder().embed(texts)


def faulty(texts: list[str]) -> Any:
    """An engine that pools the first token."""
    return embedder().embed(texts, pooling="cls")


def texts() -> list[str]:
    """TEXTS texts of some 25 tokens."""
    return [WORDS.format(i, THINGS[i % len(THINGS)]) for i in range(TEXTS)]


@contextmanager
def server(answer: Callable[[list[str]], Any]) -> Iterator[str]:
    """An OpenAI-shaped endpoint on this machine: its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != PATH:
                self.send_error(404)
                return
            asked = sent["input"]
            vectors = answer([asked] if isinstance(asked, str) else asked)
            rows = [{"index": i, "embedding": [float(x) for x in v]} for i, v in enumerate(vectors)]
            body = json.dumps({"object": "list", "data": rows}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{web.server_address[1]}{PATH}"
    finally:
        web.shutdown()
        web.server_close()


Times = tuple[list[float], list[float]]  # on the clock and on processors, of each round


def seconds(run: Callable[[], object], rounds: int) -> Times:
    found: Times = [], []
    for _ in range(rounds):
        start, spent = time.perf_counter(), processors()
        run()
        found[0].append(time.perf_counter() - start)
        found[1].append(processors() - spent)
    return found


def processors() -> float:
    """Seconds that this process and its children have spent."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def command(*arguments: str) -> Callable[[], object]:
    """`refembed verify minilm ...` as a process. Its verdict is not looked at, but it is to be one."""

    def run() -> None:
        done = subprocess.run([sys.executable, "-m", "refembed", "verify", "minilm", *arguments], capture_output=True)
        assert done.returncode in (0, 3), done.stderr.decode()

    return run


def row(name: str, process: Times, within: Times, asked: float, says: str) -> None:
    cells = "".join(f"{statistics.median(x):9.2f}" for both in (process, within) for x in both)
    print(f"{name:42}{cells}{asked:8.0f}   {says}", flush=True)


def black_box(name: str, spec: str, path: Path, file: Path, rounds: int) -> None:
    """An engine that shows vectors only, as a process and within this one."""
    items = texts()
    process = seconds(command("--against", spec, "--texts", str(file)), rounds)
    engine = open_engine(spec, path)
    verdict = verify(embedder(), engine, items)
    within = seconds(lambda: verify(embedder(), engine, items), rounds)
    row(name, process, within, ASKED["texts"], spell(verdict))


def spell(verdict: Any) -> str:
    """Kind and cause."""
    return verdict.kind + (f": {verdict.causes[0].id}" if verdict.causes else "")


def tensors(engine: Engine, file: Path, text: str, rounds: int) -> None:
    """All tensors of one text: the engine's run, and ours in three arithmetics, each as it is and on its tensors."""
    reference = reference_of(embedder())
    ids = reference.ids_of(text)
    file.write_text(text + "\n", encoding="utf-8")

    def run() -> Any:
        return compare_traces(reference, ids, engine.trace(ids))

    found = run()
    within = seconds(run, rounds)
    process = seconds(command("--against", "llamacpp", "--texts", str(file)), rounds)
    wrong = found.first_wrong or "none wrong"
    row(f"{len(found.rows)} tensors, {len(ids)} tokens, llamacpp", process, within, ASKED["tensors"], str(wrong))


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", help="all-MiniLM-L6-v2 as published: sentence-transformers is compared too")
    p.add_argument("--rounds", type=int, default=3)
    args = p.parse_args(argv)
    path = hub.resolve("minilm")
    tokenizer = embedder()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.txt"
        print(f"{'':42}{'process':>9}{'CPU':>9}{'within':>9}{'CPU':>9}{'asked':>8}   seconds, medians of {args.rounds}")
        if importlib.util.find_spec("xllamacpp"):
            long = text_of(TOKENS, lambda t: len(tokenizer.tokenize(t)))
            with open_engine("llamacpp", path) as live:  # type: ignore[attr-defined]
                tensors(live, file, long, args.rounds)
        file.write_text("\n".join(texts()) + "\n", encoding="utf-8")
        for name in ("right", "faulty"):
            black_box(f"{TEXTS} texts, callable, {name}", f"benchmarks.verify:{name}", path, file, args.rounds)
        for engine in (right, faulty):
            with server(engine) as url:
                black_box(f"{TEXTS} texts, HTTP, {engine.__name__}", url, path, file, args.rounds)
        if args.folder and importlib.util.find_spec("sentence_transformers"):
            peer = open_engine(args.folder, path)
            verdict = verify(embedder(), peer)
            within = seconds(lambda: verify(embedder(), peer), args.rounds)
            process = seconds(command("--against", args.folder), args.rounds)
            row("sentence-transformers, refembed's texts", process, within, ASKED["folder"], spell(verdict))
