"""How long opening a GGUF file and reading its vocabulary takes, compared with gguf-py's GGUFReader.

    python -m benchmarks gguf_open [MODEL.gguf] [--rounds 7]        (the default model, if none is named)

Each round runs both readers once, in turn, each in a fresh process; the clock starts after the imports. `open` ends
with the tensor table; `+ tokens` adds every string of `tokenizer.ggml.tokens`, as bytes. The ratio is the median of the
rounds' own ratios, so a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

KEY = "tokenizer.ggml.tokens"


def by_refembed(path):
    from refembed.gguf import open_gguf

    start = time.perf_counter()
    f = open_gguf(path)
    opened = time.perf_counter()
    tokens = f.metadata.strings(KEY).to_bytes()
    return start, opened, time.perf_counter(), tokens


def by_gguf_py(path):
    from gguf import GGUFReader

    start = time.perf_counter()
    f = GGUFReader(path)
    opened = time.perf_counter()
    field = f.fields[KEY]
    tokens = [bytes(field.parts[i]) for i in field.data]
    return start, opened, time.perf_counter(), tokens


READERS = {"refembed": by_refembed, "gguf-py": by_gguf_py}


def measure(reader, path):
    """Seconds to open, seconds in all, and a fingerprint of the tokens, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gguf_open", path, "--child", reader]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gguf_open", description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", choices=READERS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        start, opened, end, tokens = READERS[args.child](args.path)
        print(json.dumps([opened - start, end - start, len(tokens), hash_of(tokens)]))
        return
    path = args.path or default_model()
    rounds = [{name: measure(name, path) for name in READERS} for _ in range(args.rounds)]
    a, b = rounds[0].values()
    if a[2:] != b[2:]:
        raise SystemExit(f"the readers disagree: {a[2:]} and {b[2:]}")
    print(f"{path}: {a[2]:,} tokens, median of {args.rounds} rounds, fresh processes")
    print(f"{'':10} {'open':>10} {'+ tokens':>10}")
    for name in READERS:
        print(f"{name:10}" + "".join(f" {statistics.median(r[name][i] for r in rounds):8.3f} s" for i in (0, 1)))
    ratios = [statistics.median(r["gguf-py"][i] / r["refembed"][i] for r in rounds) for i in (0, 1)]
    print(f"{'ratio':10}" + "".join(f" {r:9.1f}x" for r in ratios))


def default_model():
    from refembed.hub import resolve

    return str(resolve("minilm"))


def hash_of(tokens):
    """The same for the same tokens in any process."""
    import hashlib

    return hashlib.sha256(b"\0".join(tokens)).hexdigest()


if __name__ == "__main__":
    main()
