"""Processor time of one 896 x 896 image through two layers of each vision tower, `fast` compared with libmtmd.

    python -m benchmarks towers [gemma3 gemma4v qwen3vl_merger] [--rounds 2]

Random weights in F16, of the published widths; one thread in both; the least of the rounds. libmtmd's time is that of
the process it runs in, with flash attention and without, read before and after the call.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.kernels.threads import configure
from refembed.model.vision import load_tower
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.engines.llamacpp import MARKER, LlamaCpp
from refembed.verify.images.pictures import drawn

SIZES = {
    "gemma3": {"C": 1152, "H": 16, "F": 4304, "P": 14, "image_size": 896, "n_merge": 4},
    "gemma4v": {"C": 768, "H": 12, "D": 64, "F": 3072, "P": 16, "n_merge": 3, "S": 256},
    "qwen3vl_merger": {"C": 1024, "H": 16, "F": 4096, "P": 16, "S": 2304},
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="towers", description=__doc__.splitlines()[0])
    parser.add_argument("towers", nargs="*", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args(arguments)
    configure(1)
    image = drawn(896, 896)
    for kind in args.towers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            mmproj = synthetic_mmproj(folder / "mmproj.gguf", kind, n_layer=2, type_name="F16", **SIZES[kind])
            tower, ops = load_tower(open_gguf(mmproj)), load_ops("fast")  # weights are kept by name: one each
            ours = []
            for _ in range(args.rounds + 1):
                start = time.process_time()
                tower.rows(image, ops)
                ours.append(time.process_time() - start)
            model = text_model(folder, kind, tower.n_further)
            theirs = [of_libmtmd(model, mmproj, image, flash, args.rounds) for flash in (True, False)]
        print(
            f"{kind}: fast {min(ours[1:]):.2f} s, libmtmd {theirs[0]:.2f} s with flash attention, {theirs[1]:.2f} s "
            f"without; {theirs[0] / min(ours[1:]):.2f} times as fast"
        )


def text_model(folder, kind, n_further):
    """A small text model of the tower's width, which libmtmd wants."""
    if kind == "qwen3vl_merger":
        keys = {"n_deepstack_layers": (n_further, "UINT32")}
        return synthetic(folder / "text.gguf", "qwen3vl", C=36, n_layer=3, P=256, keys=keys)
    keys = {"attention.sliding_window_pattern": (2, "UINT32")}
    return synthetic(folder / "text.gguf", "gemma-embedding", C=36, n_layer=2, P=256, keys=keys)


def of_libmtmd(model, mmproj, image, flash_attn, rounds):
    """Seconds of the worker's processor time, the least of the rounds behind the first."""
    with LlamaCpp(model, mmproj=mmproj, flash_attn=flash_attn, threads=1) as engine:
        found = []
        for _ in range(rounds + 1):
            start = processor_time(engine.worker.pid)
            engine.image_chunks(MARKER, [image])
            found.append(processor_time(engine.worker.pid) - start)
    return min(found[1:])


def processor_time(pid):
    """Seconds that a process has had so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
