"""The wheel's llama-server, which embeds, in a process of its own; alone in its file because it runs as a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def llama_server(path: Path, **options: Any) -> Iterator[str]:
    """A llama-server that listens while the block runs: its address.

    options  of xllamacpp.CommonParams; pooling is the name of a llama_pooling_type
    """
    asked = json.dumps({"path": str(path), "options": options})
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, __file__, asked], **streams) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        try:
            address = next(line for line in iter(run.stdout.readline, b"") if line.startswith(b"@listens "))
            yield address[9:].decode().strip()
        finally:
            run.stdin.close()


def main() -> None:
    import xllamacpp

    about = json.loads(sys.argv[1])
    p = xllamacpp.CommonParams()
    p.model.path, p.embedding, p.warmup, p.n_gpu_layers = about["path"], True, False, 0
    p.n_ctx = p.n_batch = p.n_ubatch = 128
    p.n_parallel = p.cpuparams.n_threads = 1
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    p.no_extra_bufts = True
    for key, value in about["options"].items():
        if key == "pooling":
            p.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{value.upper()}")
        else:
            setattr(p, key, value)
    server = xllamacpp.Server(p)
    print("\n@listens " + server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)  # the server's threads need not say goodbye


if __name__ == "__main__":
    main()
