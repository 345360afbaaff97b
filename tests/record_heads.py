"""Records what llama.cpp's converter makes of the folders of hf_heads.py: tests/data/converter-heads.json.

V/bin/python -m tests.record_heads LLAMA_CPP_SOURCE          (V as in record_models.py)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.hf_heads import FOLDERS
from tests.record_converter import convert, fold, inputs, save

FILE = "converter-heads.json"
OUTTYPES = ("f32", "f16")


def main() -> None:
    source = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(source / "gguf-py"))
    records: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (make, flags) in FOLDERS.items():
            folder = Path(scratch) / name
            make(folder)
            files = {kind: convert(source, folder, kind, patched=True, flags=flags) for kind in OUTTYPES}
            records[name] = {"inputs": inputs(folder)} | fold(files)
    save(FILE, source, records, patched="get_vocab_base_pre gives 'default'")


if __name__ == "__main__":
    main()
