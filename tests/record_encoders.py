"""Records what llama.cpp's converter makes of the folders in hf_encoders.py and hf_scaled.py: converter-encoders.json.

    V/bin/python -m tests.record_encoders LLAMA_CPP_SOURCE [NAME ...]   names: these alone, the others stay as they are

V as in record_models.py. The folders need no PyTorch; of each the record has a digest, so that a test notices when it
builds another one. Files of adapters that the converter writes next to a model's are described with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import hf_encoders, hf_scaled
from tests.record_converter import CONVERT, DATA, describe, fold, inputs, provenance

FILE = "converter-encoders.json"
OUTTYPES = {**dict.fromkeys(hf_encoders.FOLDERS, ("f32", "f16")), **dict.fromkeys(hf_scaled.TABLES, ("f32",))}
BUILDERS = dict.fromkeys(hf_encoders.FOLDERS, hf_encoders.build) | dict.fromkeys(hf_scaled.TABLES, hf_scaled.build)


def convert(source: Path, folder: Path, outtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the converter on a folder, and describe the file and those of adapters."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.gguf"
        arguments = [str(folder.resolve()), "--outtype", outtype, "--outfile", str(out)]
        subprocess.run([sys.executable, "-c", CONVERT, *arguments], cwd=source, check=True)
        adapters = {path.name: describe(path) for path in sorted(Path(scratch).glob("lora-*"))}
        return describe(out), adapters


def record(source: Path, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as parent:
        folder = BUILDERS[name](name, Path(parent))
        files = {outtype: convert(source, folder, outtype) for outtype in OUTTYPES[name]}
        found = {"inputs": inputs(folder)} | fold({outtype: model for outtype, (model, _) in files.items()})
        return found | {"adapters": files["f32"][1]}


def main() -> None:
    source = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(source / "gguf-py"))
    records: dict[str, Any] = {"provenance": provenance(source) | {"patched": "as record_converter.py says"}}
    if sys.argv[2:]:
        records = json.loads((DATA / FILE).read_text(encoding="utf-8"))
    for name in sys.argv[2:] or BUILDERS:
        try:
            records[name] = record(source, name)
        except subprocess.CalledProcessError as e:
            print(f"{name}: {e}")
    lines = (f" {json.dumps(name)}: {json.dumps(record, ensure_ascii=False)}" for name, record in records.items())
    (DATA / FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
