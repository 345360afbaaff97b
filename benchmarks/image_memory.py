"""Memory while many images are embedded, one after the other: python -m benchmarks image_memory [--images 1000]

Images of different sizes, as pixels and, where Pillow is installed, as PNG files in turn, each with a text, go through
a small tower of each kind; `embed_iter` hands their vectors on. What is printed is the process's own
memory (RssAnon) after each tenth of the images. It must stay flat: behind the first fifth it may grow by GROWTH. Linux
only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.memory import Watch
from benchmarks.towers import text_model
from refembed import Embedder
from refembed.html.picture import png
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.images.pictures import drawn

TOWERS = {
    "gemma3": {"P": 14, "image_size": 224, "n_merge": 4, "C": 96, "H": 4, "F": 192},
    "gemma4v": {"P": 8, "n_merge": 3, "C": 96, "H": 4, "F": 192, "S": 256},
    "qwen3vl_merger": {"P": 8, "C": 96, "H": 4, "F": 192, "S": 64},
}
SIZES = 40  # different ones, which come again and again
GROWTH = 8  # MiB


def files():
    """Images of different sizes: pixels, and bytes of files."""
    rng = np.random.default_rng(1)
    with_pillow = importlib.util.find_spec("PIL") is not None
    found = []
    for i in range(SIZES):
        width, height = (int(n) for n in rng.integers(30, 400, 2))
        image = drawn(width, height)
        found.append(png(image) if with_pillow and i % 2 else image)
    return found


def own(pid="self"):
    """MiB of the process's own memory."""
    watch = Watch(pid)
    watch.once()
    return watch.most["own"]


def embed(kind, images):
    """Memory after each tenth of the images, in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mmproj = synthetic_mmproj(folder / "mmproj.gguf", kind, **TOWERS[kind])
        model = text_model(folder, kind, int(kind == "qwen3vl_merger"), P=1024)
        e = Embedder.load(model, mmproj=mmproj, numerics="fast")
        given, found, step = files(), [], max(images // 10, 1)
        inputs = ({"text": f"picture {i}", "image": given[i % len(given)]} for i in range(images))
        for i, vector in enumerate(e.embed_iter(inputs, pooling="mean"), 1):
            assert np.isfinite(vector).all()
            if i % step == 0:
                found.append(own())
    return found


def growth(found):
    """MiB by which memory grew behind the first fifth."""
    first = found[len(found) // 5 - 1]
    return max(found[len(found) // 5 :]) - first


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", type=int, default=1000)
    p.add_argument("--towers", nargs="*", default=list(TOWERS), choices=list(TOWERS))
    p.add_argument("--one", choices=list(TOWERS), help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if args.one:
        print(json.dumps(embed(args.one, args.images)))
        return
    failed = []
    for kind in args.towers:
        command = [sys.executable, "-m", "benchmarks.image_memory", "--one", kind, "--images", str(args.images)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(run.stdout.splitlines()[-1])
        print(f"{kind:16}MiB after each tenth of {args.images} images: {found}; grew by {growth(found)}", flush=True)
        failed += [kind] if growth(found) > GROWTH else []
    if failed:
        sys.exit(f"memory grows with the number of images: {', '.join(failed)}")


if __name__ == "__main__":
    main()
