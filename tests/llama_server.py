"""The wheel's real llama-server, in a process of its own.

Run as a program this file is that process: one line of JSON on stdin says what to serve, the end of stdin ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def llama_server(path: Path, pooling: str = "unspecified", **params: Any) -> Iterator[str]:
    """A llama-server that listens while the block runs: its address.

    One thread, one slot of 512 tokens, no flash attention, no repacked weights, by default.

    pooling  the name of a llama_pooling_type, in any case
    params   other fields of the wheel's CommonParams
    """
    with started({"path": str(path), "pooling": pooling, "params": params}) as (_, address):
        yield address


def server_scores(path: Path, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
    """The score of each pair; None where the server answers with an error.

    The server shows no token ids. But the score of a model with random weights is as good as a fingerprint of the ids
    it was given: they are those whose score, asked of llama.cpp directly, is the same.
    """
    size = {"n_ctx": 64, "n_batch": 64, "n_ubatch": 64}
    with started({"path": str(path), "pooling": "rank", "params": size, "pairs": pairs}) as (_, scores):
        return json.loads(scores)


@contextmanager
def started(about: dict[str, Any]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process, and what it says first: its address, or the scores it was asked for. The end closes its stdin."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(about).encode() + b"\n")
        process.stdin.flush()
        lines = (line for line in process.stdout if line.startswith(b"@says "))  # its log goes to stdout as well
        said = next(lines, None)
        assert said, f"llama-server ended with {process.wait()}"
        yield process, said[6:].decode().strip()


def main() -> None:
    import xllamacpp

    about = json.loads(sys.stdin.readline())
    p = xllamacpp.CommonParams()
    p.model.path, p.embedding, p.warmup, p.n_gpu_layers = about["path"], True, False, 0
    p.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{about['pooling'].upper()}")
    p.n_ctx = p.n_batch = p.n_ubatch = 512
    p.n_parallel = p.cpuparams.n_threads = 1
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    p.no_extra_bufts = True
    for name, value in about["params"].items():
        if name == "n_threads":
            p.cpuparams.n_threads = value
        elif name == "flash_attn":
            p.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{value.upper()}")
        elif name == "mmproj":
            p.mmproj.path, p.mmproj_use_gpu = value, False
        else:
            setattr(p, name, value)
    server = xllamacpp.Server(p)
    if "pairs" in about:
        say(json.dumps([score(server, *pair) for pair in about["pairs"]]))
    else:
        say(server.listening_address)
        sys.stdin.read()
    os._exit(0)  # the server's threads need not say goodbye


def say(text: str) -> None:
    print(f"\n@says {text}", flush=True)


def score(server: Any, query: str, document: str) -> float | None:
    try:
        return server.handle_rerank({"query": query, "documents": [document]})["results"][0]["relevance_score"]
    except Exception:  # the wheel's own type: the request is refused
        return None


if __name__ == "__main__":
    main()
