"""Coverage-guided fuzzing: `python -m tests.attack.fuzz TARGET [libFuzzer's options]`, with the extra `fuzz` (atheris).

    python -m tests.attack.fuzz gguf -max_total_time=60
    python -m tests.attack.fuzz json -runs=100000
    python -m tests.attack.fuzz safetensors -seed=5

What comes out must be the target's result or one of refembed's errors; anything else is reported with the input that
shows it, which is left in a file `crash-...`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRATCH = Path(tempfile.mkdtemp(prefix="refembed-fuzz-"))


def gguf(data: bytes) -> None:
    """The reader, hyperparameters, weights and tokenizer of a file."""
    from refembed.gguf import open_gguf
    from refembed.model import load_model
    from refembed.tokenizer import load_tokenizer

    path = SCRATCH / "x.gguf"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    f = open_gguf(path)
    for key in f.metadata:
        f.metadata.type_name(key)
    load_tokenizer(f)
    load_model(f)


def body(data: bytes) -> None:
    """The body of a request, and the exact words of what is wrong with it."""
    from refembed.server.errors import ApiError
    from refembed.server.json_text import loads

    with contextlib.suppress(ApiError):
        loads(data)


def safetensors(data: bytes) -> None:
    """The head of a weights file."""
    from refembed.convert.safetensors import SafetensorsFile

    path = SCRATCH / "model.safetensors"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    dict(SafetensorsFile(path))


def config(data: bytes) -> None:
    """config.json of a folder that is sound but for it."""
    from refembed.convert.folder import convert
    from tests.hf_folders import small

    folder = SCRATCH / "folder"
    if not folder.exists():
        small(folder)
    (folder / "config.json").write_bytes(data)
    convert(folder, SCRATCH / "out.gguf")


TARGETS: dict[str, Callable[[bytes], None]] = {"gguf": gguf, "json": body, "safetensors": safetensors, "config": config}


def seeds(name: str) -> list[bytes]:
    """Sound inputs to begin with."""
    from tests.hf_folders import SIZES, bert_config, bert_shapes, write_weights
    from tests.tiny import tiny_bert

    if name == "gguf":
        return [tiny_bert(SCRATCH / "seed.gguf", C=8, F=8, n_layer=1).read_bytes()]
    if name == "safetensors":
        write_weights(SCRATCH, bert_shapes(*SIZES), "F32")
        return [(SCRATCH / "model.safetensors").read_bytes()]
    if name == "config":
        return [json.dumps(bert_config(*SIZES)).encode()]
    return [b'{"input": ["a", "\\ud83d\\ude00"], "n": -1.5e3, "x": null}']


def main() -> None:
    """Fuzz until libFuzzer's options say that it is enough."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        raise SystemExit(f"{__doc__}\nTARGET is one of {', '.join(TARGETS)}")
    try:
        import atheris
    except ImportError:
        raise SystemExit("fuzzing needs atheris: pip install -e .[fuzz], in the virtual environment of make") from None
    from refembed.errors import RefembedError

    with atheris.instrument_imports(include=["refembed"]):
        for seed in seeds(name):  # imports what the target needs
            with contextlib.suppress(RefembedError):
                TARGETS[name](seed)
    corpus = SCRATCH / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(seeds(name)):
        (corpus / str(i)).write_bytes(seed)

    def one(data: bytes) -> Any:
        with contextlib.suppress(RefembedError), contextlib.redirect_stderr(io.StringIO()):
            TARGETS[name](data)

    atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
