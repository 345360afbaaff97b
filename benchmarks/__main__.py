"""python -m benchmarks [name [options]]: one benchmark, or all of them one after another."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    here = Path(__file__).parent
    names = sorted(p.stem for p in here.glob("*.py") if not p.stem.startswith("_"))
    wanted = sys.argv[1:2] or names
    for name in wanted:
        if name not in names:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(names)}")
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
