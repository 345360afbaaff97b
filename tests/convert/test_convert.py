"""refembed/convert/folder.py against what llama.cpp's own converter wrote (tests/data), and on folders that are not
whole.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.convert.folder import OUTTYPES, convert
from refembed.errors import RequestError
from refembed.gguf import open_gguf
from refembed.tokenizer import load_tokenizer
from tests.hf_folders import FOLDERS, NAMES, PIECES, SIZES, bert_shapes, build, small, write_json, write_weights
from tests.record_converter import describe, inputs, unfold

DATA = Path(__file__).parents[1] / "data"

# Keys that llama.cpp's converter leaves out of these folders, which do not name them or have no tokenizer.json
TOKENIZER = "tokenizer.ggml."
IDS = [f"{TOKENIZER}{name}_token_id" for name in ("bos", "eos", "unknown", "seperator", "padding", "mask")]
MORE = {
    "masked": {
        *IDS,
        *(f"{TOKENIZER}add_{name}_token" for name in ("bos", "eos", "sep")),
        f"{TOKENIZER}normalizer.lowercase",
    },
    "odd-small": {f"{TOKENIZER}{name}_token_id" for name in ("unknown", "seperator", "mask")},
}


def record(name: str) -> Any:
    """What was recorded of all-MiniLM-L6-v2 or of a tiny folder."""
    file = "converter-tiny.json" if name in FOLDERS else "converter-minilm.json"
    return json.loads((DATA / file).read_text(encoding="utf-8"))[name]


def same_as_recorded(folder: Path, outtype: str, out: Path) -> None:
    """Convert, and hold the file against the record: its bytes, or else tensors, keys and values in their order."""
    recorded, more = record(folder.name), MORE.get(folder.name, set())
    assert inputs(folder) == recorded["inputs"], "another folder was recorded"
    expected = unfold(recorded, outtype)
    convert(folder, out, outtype=outtype)
    if not more and hashlib.sha256(out.read_bytes()).hexdigest() == expected["sha256"]:
        return
    found = json.loads(json.dumps(describe(out)))
    assert found["tensors"] == expected["tensors"]
    assert set(found["keys"]) - set(expected["keys"]) == more
    keys = {key: value for key, value in found["keys"].items() if key not in more}
    assert list(keys.items()) == list(expected["keys"].items())
    assert more, "tensors and keys are the same, but not the bytes"


@pytest.mark.parametrize("outtype", OUTTYPES)
@pytest.mark.parametrize("name", FOLDERS)
def test_tiny_folders_become_what_llama_cpps_converter_makes_of_them(name: str, outtype: str, tmp_path: Path) -> None:
    same_as_recorded(build(name, tmp_path), outtype, tmp_path / "out.gguf")


@pytest.mark.parametrize("outtype", OUTTYPES)
def test_minilm_becomes_what_llama_cpps_converter_makes_of_it(
    outtype: str, minilm_folder: Path, tmp_path: Path
) -> None:
    same_as_recorded(minilm_folder, outtype, tmp_path / "out.gguf")


def test_the_keys_that_are_written_beyond_the_converters_are_those_of_the_vocabulary(tmp_path: Path) -> None:
    pieces = {
        "bos": "[CLS]",
        "eos": "[SEP]",
        "unknown": "[UNK]",
        "seperator": "[SEP]",
        "padding": "[PAD]",
        "mask": "[MASK]",
    }
    for name, keys in MORE.items():
        md = open_gguf(convert(build(name, tmp_path), tmp_path / "out.gguf")).metadata
        for key in keys & set(IDS):
            assert md[key] == PIECES.index(pieces[key.removeprefix(TOKENIZER).removesuffix("_token_id")])


@pytest.mark.parametrize("name", FOLDERS)
def test_the_file_is_one_its_own_reader_and_tokenizer_take(name: str, tmp_path: Path) -> None:
    path = convert(build(name, tmp_path), tmp_path / "out.gguf")
    assert open_gguf(path).metadata["general.architecture"] == "bert"
    tokens = load_tokenizer(path).encode("hello cats", add_special=True)
    assert tokens == [PIECES.index(t) for t in ("[CLS]", "hello", "cat", "##s", "[SEP]")]


@pytest.mark.oracle
@pytest.mark.parametrize("outtype", ["f32", "q8_0"])
@pytest.mark.parametrize("name", FOLDERS)
def test_llama_cpp_loads_the_file_and_tokenizes_with_it(name: str, outtype: str, tmp_path: Path) -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    path = convert(build(name, tmp_path), tmp_path / "out.gguf", outtype=outtype)
    with LlamaCpp(path, threads=1) as engine:
        tokens = engine.tokenize("hello cats")
    assert tokens == [PIECES.index(t) for t in ("[CLS]", "hello", "cat", "##s", "[SEP]")]


def two_classes(folder: Path) -> Path:
    """A classifier with two unnamed classes: llama.cpp's converter makes a file llama.cpp cannot load."""
    small(folder, architectures=["BertForSequenceClassification"])
    head: dict[str, tuple[int, ...]] = {"classifier.weight": (2, 32), "classifier.bias": (2,)}
    write_weights(folder, bert_shapes(*SIZES) | head, "F32")
    return folder


def test_a_head_of_two_unnamed_classes_is_stored_as_llama_cpp_reads_heads(tmp_path: Path) -> None:
    file = open_gguf(convert(two_classes(tmp_path / "two"), tmp_path / "out.gguf"))
    assert list(file.metadata["bert.classifier.output_labels"]) == ["LABEL_0", "LABEL_1"]
    assert file.tensors["cls.output.weight"].shape == (2, 32)
    assert "cls.weight" not in file.tensors


@pytest.mark.oracle
def test_llama_cpp_loads_a_head_of_two_unnamed_classes(tmp_path: Path) -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    with LlamaCpp(convert(two_classes(tmp_path / "two"), tmp_path / "out.gguf"), threads=1) as engine:
        assert engine.tokenize("a cat")


def test_a_cased_vocabulary_without_tokenizer_json_is_not_lowercased(tmp_path: Path) -> None:
    folder = small(tmp_path / "cased")
    (folder / "tokenizer.json").unlink()
    pieces = [*PIECES[:-1], "Cat"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8", newline="\r\n")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "strip_accents": False})
    path = convert(folder, tmp_path / "out.gguf")
    md = open_gguf(path).metadata
    assert md["tokenizer.ggml.normalizer.lowercase"] is False
    assert md["tokenizer.ggml.normalizer.strip_accents"] is False
    assert load_tokenizer(path).encode("Cat cat", add_special=False) == [pieces.index("Cat"), pieces.index("cat")]


def test_other_names_of_special_tokens_are_found(tmp_path: Path) -> None:
    pieces = ["<p>", "<u>", "<c>", "<s>", "<m>", *PIECES[5:]]
    folder = small(tmp_path / "named")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    settings = {f"{name}_token": f"<{name[0]}>" for name in NAMES} | {"cls_token": {"content": "<c>", "lstrip": False}}
    write_json(folder / "tokenizer_config.json", settings)
    md = open_gguf(convert(folder, tmp_path / "out.gguf")).metadata
    assert [md[key] for key in IDS] == [2, 3, 1, 3, 0, 4]
    assert list(md["tokenizer.ggml.tokens"])[:6] == ["<p>", "<u>", "<c>", "<s>", "<m>", "▁the"]
    assert md["tokenizer.ggml.token_type"].tolist()[:6] == [3, 3, 3, 3, 3, 1]


def test_added_tokens_without_tokenizer_json_are_found(tmp_path: Path) -> None:
    V = len(PIECES)
    folder = small(tmp_path / "added", vocab_size=V + 2)
    write_weights(folder, bert_shapes(32, 64, 1, V + 2, 16), "F32")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    write_json(folder / "added_tokens.json", {"my▁word": V, "[NEW]": V + 1})
    write_json(
        folder / "tokenizer_config.json", {"added_tokens_decoder": {str(V + 1): {"content": "[NEW]", "special": True}}}
    )
    md = open_gguf(convert(folder, tmp_path / "out.gguf")).metadata
    assert list(md["tokenizer.ggml.tokens"])[-2:] == ["▁my word", "[NEW]"]
    assert md["tokenizer.ggml.token_type"].tolist()[-2:] == [4, 3]


def test_a_name_that_is_given_is_the_name(tmp_path: Path) -> None:
    path = convert(small(tmp_path / "x"), tmp_path / "out.gguf", name="My model")
    assert open_gguf(path).metadata["general.name"] == "My model"


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    convert(small(tmp_path / "x"), tmp_path / "out.gguf", progress=lambda *call: calls.append(call))
    total = sum(4 * int(np.prod(shape)) for name, shape in bert_shapes(*SIZES).items() if "pooler" not in name)
    assert calls[0] == ("converting", 0, total)
    assert calls[-1] == ("converting", total, total)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_an_outtype_that_is_none_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"(?s)q9_0.*F32, F16, BF16, Q4_0"):
        convert(small(tmp_path / "x"), tmp_path / "out.gguf", outtype="q9_0")


def test_a_place_that_cannot_be_written_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written"):
        convert(small(tmp_path / "x"), tmp_path / "nowhere" / "out.gguf")


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: the write fails midway in the same way."""
    folder, out = small(tmp_path / "x"), tmp_path / "out"
    out.mkdir()
    (out / "model.gguf").write_bytes(b"an older file")
    code = f"""
        import resource, signal
        from refembed.convert.folder import convert
        from refembed.errors import RequestError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            convert({str(folder)!r}, {str(out / "model.gguf")!r})
        except RequestError as e:
            print(e)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "model.gguf cannot be written: File too large" in run.stdout
    assert [p.name for p in out.iterdir()] == ["model.gguf"]
    assert (out / "model.gguf").read_bytes() == b"an older file"


@pytest.mark.parametrize(("outtype", "factor"), [("f32", 1.2), ("f16", 2), ("bf16", 2), ("q8_0", 2)])
def test_memory_grows_with_the_largest_tensor_not_with_the_model(outtype: str, factor: float, tmp_path: Path) -> None:
    C, F, L, V, _ = sizes = (256, 2048, 3, 1000, 16)  # 17 MB of weights, of which no matrix has more than 2.1
    folder = small(tmp_path / "large", hidden_size=C, intermediate_size=F, num_hidden_layers=L, vocab_size=V)
    write_weights(folder, bert_shapes(*sizes), "F32")
    convert(folder, tmp_path / "warm.gguf", outtype=outtype)
    tracemalloc.start()
    try:
        convert(folder, tmp_path / "out.gguf", outtype=outtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < factor * 4 * C * F + 1e6
