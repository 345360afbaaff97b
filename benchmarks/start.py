"""Seconds of whole processes, cold: python -m benchmarks start

`import refembed`, `refembed --help`, and `refembed embed hi` with kernels and model cached, each in a new process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import refembed": ["-c", "import refembed"],
    "import numpy": ["-c", "import numpy"],
    "refembed --help": ["-m", "refembed", "--help"],
    "refembed tokenize hi": ["-m", "refembed", "tokenize", "hi"],
    "refembed embed hi": ["-m", "refembed", "embed", "hi"],
}


def main(argv: list[str] | None = None) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(6):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(f"{name:<22}{statistics.median(values[1:]):7.2f} s   ({min(values[1:]):.2f} to {max(values[1:]):.2f})")


if __name__ == "__main__":
    main()
