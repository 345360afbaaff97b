"""A corpus whose process is killed a hundred times, at any moment, is the corpus of one that was left alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import tiny_bert

KILLS = 100
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hello", "world"]


@pytest.mark.limit(3600)
@pytest.mark.attack
def test_a_hundred_kills_change_no_byte(seed: int, tmp_path: Path) -> None:
    rng, model = random.Random(seed), tiny_bert(tmp_path / "model.gguf", C=64, F=128, n_layer=4)
    texts = tmp_path / "texts.txt"
    lines = (" ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 40))) for _ in range(30_000))
    texts.write_text("\n".join(lines) + "\n")

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "refembed", "embed", "-m", str(model), "--file", str(texts), "--quiet"]
        command += ["--output", str(tmp_path / name), "--resume", "--batch-tokens", "512"]
        return subprocess.Popen(command, stderr=subprocess.PIPE)

    with start("alone.npy") as child:
        assert child.wait(600) == 0
    part, kills = tmp_path / "killed.npy.part", 0
    while not (tmp_path / "killed.npy").exists():
        with start("killed.npy") as child:
            grown, until = size(part) + rng.randrange(150_000), time.monotonic() + 60
            while child.poll() is None and size(part) < grown and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(rng.random() * 0.05)
            if kills < KILLS and child.poll() is None:
                child.kill()
                kills += 1
            elif child.wait(600):
                raise AssertionError(child.stderr.read() if child.stderr else "")
    assert (tmp_path / "killed.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()
    assert kills > KILLS // 2


def size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0
