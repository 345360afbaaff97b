"""Records what llama.cpp's converter makes of tiny models that are no BERT: tests/data/converter-models.json.

    V/bin/pip install torch==2.13.0 transformers==5.23.0 sentencepiece numpy pyyaml     (V as in record_converter.py)
    V/bin/python -m tests.record_models LLAMA_CPP_SOURCE [NAME ...]     names: these alone, the others stay as they are

EmbeddingGemma 2 is newer than that source: its record is of the converter that xllamacpp==2026.10.11549 has under
thirdparty/llama.cpp.

The folders are those of tests/peers/folders.py, saved by `transformers`, with weights that follow from their names
(hf_folders.weights). The record holds the folders' files and shapes, so that the test needs no PyTorch.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.hf_folders import safetensors, stored, weights
from tests.record_converter import DATA, convert, fold, provenance

FILE = "converter-models.json"
OUTTYPES = ("f32", "f16")
PACKED = ("_blocks", "_scales")  # ends of tensors that are no numbers
DTYPE = "BF16"  # which most such models are published in
FLAGS = dict.fromkeys(
    ("qwen3next", "qwen35", "qwen35-images", "qwen35moe"), ("--no-mtp",)
)  # of layers that guess further tokens there are none


def build(record: dict[str, Any], folder: Path) -> Path:
    """The folder of a record: its small files, and weights by their names and shapes."""
    folder.mkdir()
    for name, content in record["files"].items():
        (folder / name).write_bytes(base64.b64decode(content["base64"]) if "base64" in content else as_json(content))
    tensors = {
        name: packed(name, tuple(shape))
        if name.endswith(PACKED)
        else (DTYPE, tuple(shape), stored(weights(name, tuple(shape)), DTYPE))
        for name, shape in record["shapes"].items()
    }
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


def packed(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], bytes]:
    """Bytes of MXFP4: any pairs of numbers, and exponents about 2^-7 to 2^0, which are no NaN."""
    values = ((weights(name, shape) + 0.5) * 256).astype(np.uint8)
    return "U8", shape, (120 + values % 8 if name.endswith("_scales") else values).astype(np.uint8).tobytes()


def pack(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """The tensors of a gpt-oss whose experts are MXFP4: blocks of 32 numbers in 16 bytes, and an exponent for each."""
    found = {}
    for name, shape in shapes.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, columns, rows = shape
            found[f"{name}_blocks"] = [experts, rows, columns // 32, 16]
            found[f"{name}_scales"] = [experts, rows, columns // 32]
        else:
            found[name] = shape
    return found


def as_json(content: Any) -> bytes:
    return json.dumps(content["json"], ensure_ascii=False).encode()


def take(folder: Path) -> dict[str, Any]:
    """The record of a folder."""
    from safetensors import safe_open

    files: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            files[path.name] = {"json": json.loads(path.read_text())}
        elif path.suffix == ".model":
            files[path.name] = {"base64": base64.b64encode(path.read_bytes()).decode()}
    with safe_open(folder / "model.safetensors", "np") as f:
        shapes = {name: list(f.get_slice(name).get_shape()) for name in f.keys()}  # noqa: SIM118  # no Mapping
    return {"files": files, "shapes": pack(shapes) if folder.name.startswith("gpt-oss-mxfp4") else shapes}


def main() -> None:
    from tests.peers.folders import RECORDED
    from tests.peers.folders import build as build_with_torch

    source = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(source / "gguf-py"))
    records: dict[str, Any] = {"provenance": provenance(source) | {"patched": "get_vocab_base_pre gives 'default'"}}
    if sys.argv[2:]:
        records = json.loads((DATA / FILE).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        for name in sys.argv[2:] or RECORDED:
            saved = Path(scratch) / f"{name}-saved"
            build_with_torch(name, saved)
            record = take(saved)
            folder = build(record, Path(scratch) / name)
            try:
                flags = FLAGS.get(name, ())
                written = {outtype: convert(source, folder, outtype, patched=True, flags=flags) for outtype in OUTTYPES}
            except Exception as e:
                print(f"{name}: {e}")
                continue
            records[name] = record | {"written": fold(written)}
    lines = (f" {json.dumps(name)}: {json.dumps(record, ensure_ascii=False)}" for name, record in records.items())
    (DATA / FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
