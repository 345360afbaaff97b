"""One list of files: what `convert` opens, what the cache looks at, and what the hub fetches."""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refembed import hub
from refembed.convert.files import FILES, check_listed, is_listed, states
from refembed.convert.wordpiece import load_json
from refembed.errors import ModelError
from refembed.gguf import open_gguf
from tests.hf_folders import FOLDERS, build, pooling, small, write_json
from tests.record_models import DATA, FILE
from tests.record_models import build as build_recorded
from tests.sentencepiece_files import llama_pieces, sentencepiece

RECORDS = json.loads((DATA / FILE).read_text(encoding="utf-8"))

# What a folder can have in addition to what it needs: all of it, so that a reader finds it if it looks
OPTIONAL_FILES: dict[str, Any] = {
    "added_tokens.json": {}, "special_tokens_map.json": {}, "generation_config.json": {}, "merges.txt": "#version\n",
    "config_sentence_transformers.json": {"prompts": {}}, "sentence_bert_config.json": {}, "README.md": "# A card\n",
    "chat_template.jinja": "{{ x }}", "additional_chat_templates/tool.jinja": "{{ y }}", "onnx/config.json": {},
    "tokenizer_config.json": {}, "preprocessor_config.json": {}, "vocab.json": {}, "training_args.bin": "x",
    "model.onnx": "x", "tf_model.h5": "x",
}  # fmt: skip

OPENED = """
import json, os, sys
folder, out, opened = os.path.realpath(sys.argv[1]), sys.argv[2], set()
from refembed.convert.folder import convert
from refembed.errors import RefembedError

def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(folder + os.sep):
            opened.add(os.path.relpath(path, folder).replace(os.sep, "/"))

sys.addaudithook(note)
convert(folder, out)
print(json.dumps(sorted(opened)))
"""


def opened(folder: Path, out: Path) -> list[str]:
    """The files of a folder that a conversion opens, reported by the interpreter itself."""
    run = subprocess.run([sys.executable, "-c", OPENED, str(folder), str(out)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)  # type: ignore[no-any-return]


def lay_beside(folder: Path) -> None:
    for name, content in OPTIONAL_FILES.items():
        path = folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    if not (folder / "modules.json").exists():
        pooling(folder, pooling_mode_mean_tokens=True)


def make(name: str, parent: Path) -> Path:
    return build(name, parent) if name in FOLDERS else build_recorded(RECORDS[name], parent / name)


@pytest.mark.parametrize("name", ["tiny-bert-v1", "masked", "tiny-reranker", "qwen3", "gemma-embedding", "t5encoder"])
def test_convert_opens_no_file_but_those_of_the_list(name: str, tmp_path: Path) -> None:
    folder = make(name, tmp_path)
    lay_beside(folder)
    found = opened(folder, tmp_path / "x.gguf")
    assert [path for path in found if not is_listed(path)] == []
    assert {"config.json", "tokenizer_config.json", "README.md"} <= {*found}
    assert any(path.endswith(".safetensors") for path in found)


def test_a_reader_of_a_file_that_is_not_listed_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"other.json is to be read, but no pattern of convert_files.FILES"):
        load_json(tmp_path / "other.json")
    assert check_listed(tmp_path / "7_Pooling" / "config.json")


EVERY = [
    "config.json", "generation_config.json", "README.md", "modules.json", "config_sentence_transformers.json",
    "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
    "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.json", "chat_template.jinja", "additional_chat_templates/tool.jinja",
]  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_every_file_is_fetched_and_watched(name: str, tmp_path: Path) -> None:
    """Fetched: huggingface_hub picks files with fnmatch."""
    assert any(fnmatch.fnmatch(name, pattern) for pattern in FILES)
    path = tmp_path / name
    before = states(tmp_path)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"one")
    there = states(tmp_path)
    times = path.stat()
    path.write_bytes(b"two")  # as long as before
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # and as old
    changed = states(tmp_path)
    path.unlink()
    assert before != there != changed != states(tmp_path)
    assert states(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["onnx/model.onnx", "pytorch_model.bin", "consolidated.safetensors", "a/b/config.json"]
)
def test_what_is_not_read_is_not_watched(name: str, tmp_path: Path) -> None:
    before = states(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"one")
    assert states(tmp_path) == before


def replace_tokenizer(folder: Path) -> None:
    pieces = llama_pieces()[:100]
    pieces[50] = ("<new>", 0.0, 3)
    path = folder / "tokenizer.model"
    times = path.stat()
    path.write_bytes(sentencepiece(pieces))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_folder_is_converted_again_when_its_tokenizer_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path / "cache"))
    folder = build_recorded(RECORDS["gemma-embedding"], tmp_path / "model")
    before = list(open_gguf(hub.resolve(folder)).metadata["tokenizer.ggml.tokens"])
    replace_tokenizer(folder)
    after = list(open_gguf(hub.resolve(folder)).metadata["tokenizer.ggml.tokens"])
    assert before != after
    assert after[50] == "<new>"


def add_pooling(folder: Path) -> None:
    pooling(folder, pooling_mode_cls_token=True)


def add_added_tokens(folder: Path) -> None:
    write_json(folder / "added_tokens.json", {"[NEW]": 5})


@pytest.mark.parametrize("change", [add_pooling, add_added_tokens])
def test_a_folder_is_converted_again_when_a_file_is_added_and_removed(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path / "cache"))
    folder = small(tmp_path / "model")
    (folder / "vocab.txt").write_text(
        "\n".join(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]),
        encoding="utf-8",
    )
    (folder / "tokenizer.json").unlink()
    first = hub.resolve(folder).read_bytes()
    there = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    change(folder)
    assert hub.resolve(folder).read_bytes() != first
    for path in [p for p in folder.rglob("*") if p.is_file() and p not in there]:
        path.unlink()
    assert hub.resolve(folder).read_bytes() == first


def test_weights_of_a_name_that_is_not_listed_are_refused(tmp_path: Path) -> None:
    from refembed.convert.folder import convert

    folder = small(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    names = open_names(folder / "weights.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": dict.fromkeys(names, "weights.safetensors")})
    with pytest.raises(ModelError, match=r"weights\.safetensors: not a name that refembed reads weights from"):
        convert(folder, tmp_path / "x.gguf")


def open_names(path: Path) -> list[str]:
    from refembed.convert.safetensors import SafetensorsFile

    return list(SafetensorsFile(path))
