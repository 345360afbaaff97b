"""Processor time of one 896 x 896 image through two layers of each vision tower, `fast` compared with libmtmd.

    python -m benchmarks towers [gemma3 gemma4v qwen3vl_merger] [--rounds 2]

Random weights in F16, of the published widths; one thread in both; the least of the rounds. libmtmd's time is that of
the process it runs in, with flash attention and without, read before and after the call. Both must compute the same
finite rows: what is further apart than APART ends the run, for a speed of other numbers is none.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import machine
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
APART = 5e-3  # |ours - theirs| / |theirs| of a row: patches in float16, GELU from a table, F16 products


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="towers", description=__doc__.splitlines()[0])
    parser.add_argument("towers", nargs="*", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", type=int, default=896, help="of the image, in pixels")
    args = parser.parse_args(arguments)
    configure(1)
    for name, value in {**machine.facts(), "load": f"{os.getloadavg()[0]:.1f}"}.items():
        print(f"{name:<12}{value}")
    print("\n| tower (F16) | patches | `fast`, s | libmtmd, flash attention | libmtmd without | rows apart |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in args.towers:
        with tempfile.TemporaryDirectory() as name:
            print(row(Path(name), kind, args.side, args.rounds), flush=True)


def row(folder, kind, side, rounds):
    """One tower in all three, as a row of the table. Ends the run where rows are not the same."""
    image = drawn(side, side)
    mmproj = synthetic_mmproj(folder / "mmproj.gguf", kind, n_layer=2, type_name="F16", **SIZES[kind])
    tower, ops = load_tower(open_gguf(mmproj)), load_ops("fast")
    ours = []
    for _ in range(rounds + 1):
        start = time.process_time()
        rows = tower.rows(image, ops)
        ours.append(time.process_time() - start)
    model, theirs, off = text_model(folder, kind, tower.n_further), [], 0.0
    for flash in (True, False):
        seconds, want = of_libmtmd(model, mmproj, image, flash, rounds)
        theirs.append(seconds)
        off = max(off, apart(rows, want))
    if not off <= APART:
        bad = f"{np.count_nonzero(~np.isfinite(rows))} of ours, {np.count_nonzero(~np.isfinite(want))} of theirs"
        sys.exit(f"{kind}: rows are {off:.2g} apart, not finite: {bad}")
    nx, ny = tower.grid(image)
    patches, best = nx * ny * tower.hparams.n_merge**2, min(ours[1:])
    times = " | ".join(f"{t:.2f} ({t / best:.2f}x)" for t in theirs)
    return f"| `{kind}`, {tower.hparams.n_embd} channels | {patches} | {best:.2f} | {times} | {off:.1e} |"


def apart(ours, theirs):
    """The largest difference of a row over its length; infinite where numbers are not finite or not as many."""
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return np.inf
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


def text_model(folder, kind, n_further, P=256):
    """A small text model of the tower's width, which libmtmd wants. P: tokens that it reads."""
    if kind == "qwen3vl_merger":
        keys = {"n_deepstack_layers": (n_further, "UINT32")}
        return synthetic(folder / "text.gguf", "qwen3vl", C=36, n_layer=3, P=P, keys=keys)
    keys = {"attention.sliding_window_pattern": (2, "UINT32")}
    return synthetic(folder / "text.gguf", "gemma-embedding", C=36, n_layer=2, P=P, keys=keys)


def of_libmtmd(model, mmproj, image, flash_attn, rounds):
    """Seconds of the worker's processor time, the least of the rounds behind the first; and the image's rows."""
    with LlamaCpp(model, mmproj=mmproj, flash_attn=flash_attn, threads=1) as engine:
        found = []
        for _ in range(rounds + 1):
            start = processor_time(engine.worker.pid)
            chunks = engine.image_chunks(MARKER, [image])
            found.append(processor_time(engine.worker.pid) - start)
    return min(found[1:]), next(chunk for chunk in chunks if isinstance(chunk, np.ndarray))


def processor_time(pid):
    """Seconds that a process has had so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
