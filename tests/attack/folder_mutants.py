"""Mutants of Hugging Face folders: sound ones of every architecture that `convert` takes, with something changed in a
JSON file, the head of the weights, the tokenizer's protobuf, or a whole file.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import refembed.convert
from tests import hf_folders, hf_heads
from tests.attack import draw
from tests.record_models import build

Folder = dict[str, bytes]  # file -> content

# Words that the converter's source has in quotes: most keys that it reads are among them
KEYS = tuple(
    sorted(
        {
            word
            for path in Path(refembed.convert.__file__).parent.glob("*.py")
            for word in re.findall(r'"(_?[a-z][a-z_0-9]{3,40})"', path.read_text(encoding="utf-8"))
        }
    )
)


def taken(folder: Path) -> Folder:
    """The files of a folder, and the folder gone."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    shutil.rmtree(folder)
    return found


def sound(scratch: Path) -> list[Folder]:
    """The folders that mutants are made of."""
    found = []
    for name in hf_folders.FOLDERS:
        found.append(taken(hf_folders.build(name, scratch)))
    for name, record in hf_heads.RECORDS.items():
        if name != "provenance":
            found.append(taken(build(record, scratch / name)))
    for name, (make, _) in hf_heads.FOLDERS.items():
        make(scratch / name)
        found.append(taken(scratch / name))
    return found


def change_head(rng: random.Random, raw: bytes) -> bytes:
    """A safetensors file whose head says something else, or whose length does."""
    (length,) = struct.unpack_from("<Q", raw)
    head, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    if rng.random() < 0.2:
        return struct.pack("<Q", rng.choice(draw.EDGES) % 2**64) + raw[8:]
    text = json.dumps(draw.change_json(rng, head)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def change_file(rng: random.Random, files: Folder, others: Folder) -> None:
    """One file: gone, cut, damaged, empty, of another model, or something that was never there."""
    name = rng.choice(sorted(files))
    what = rng.randrange(5)
    if what == 0:
        del files[name]
    elif what == 1:
        files[name] = draw.damage(rng, files[name])
    elif what == 2:
        files[name] = rng.choice((b"", b"{}", b"[]", b"null", b"0", b"\xff\xfe", b"[" * 5000, b'{"a":' * 5000))
    elif what == 3:
        name = rng.choice(sorted(others))
        files[name] = others[name]
    else:
        card = json.dumps(draw.value(rng))
        name = rng.choice(
            ("README.md", "added_tokens.json", "special_tokens_map.json", "modules.json", "1_Pooling/config.json",
             "sentence_bert_config.json", "config_sentence_transformers.json", "adapter_config.json",
             "generation_config.json", "vocab.txt", "tokenizer.model", "model.safetensors.index.json", "vocab.json")
        )  # fmt: skip
        files[name] = (f"---\n{card}\n---\n" if name.endswith(".md") else card).encode("utf-8", "surrogatepass")


class FolderMutants:
    """Draws mutants of the sound folders, each from its own number."""

    def __init__(self, folder: Path) -> None:
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        self.sound = sound(scratch)

    def mutant(self, rng: random.Random) -> Folder:
        """The files of one folder."""
        files = dict(rng.choice(self.sound))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tables = sorted(name for name in files if name.endswith(".json"))
            weights = sorted(name for name in files if name.endswith(".safetensors"))
            what = rng.random()
            if what < 0.75 and tables:
                name = "config.json" if rng.random() < 0.4 and "config.json" in files else rng.choice(tables)
                self.change_table(rng, files, name)
            elif what < 0.85 and weights:
                try:
                    files[weights[0]] = change_head(rng, files[weights[0]])
                except (ValueError, struct.error, RecursionError):  # damaged before
                    del files[weights[0]]
            elif files:
                change_file(rng, files, rng.choice(self.sound))
        return files

    def change_table(self, rng: random.Random, files: Folder, name: str) -> None:
        """Something in a JSON file."""
        try:
            tree: Any = json.loads(files[name])
        except (ValueError, RecursionError):  # damaged before
            return
        files[name] = json.dumps(draw.change_json(rng, tree, KEYS)).encode("utf-8", "surrogatepass")

    def commands(self, rng: random.Random, folder: Path) -> list[list[str]]:
        """Write a mutant below `folder`; the command lines to run on it."""
        model, target = folder / "model", folder / "converted.gguf"
        shutil.rmtree(model, ignore_errors=True)
        model.mkdir()
        target.unlink(missing_ok=True)
        for name, content in self.mutant(rng).items():
            (model / name).parent.mkdir(exist_ok=True)
            (model / name).write_bytes(content)
        kind = rng.choice(("f32", "f16", "bf16", "q8_0", "q4_k_m"))
        then = ["embed", "-m", str(target), "a cat"] if rng.random() < 0.3 else ["info", str(target)]
        return [["convert", str(model), "--output", str(target), "--outtype", kind], then]
