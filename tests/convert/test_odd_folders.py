"""Folders as strangers bring them: quantized, of another library, an adapter, half a repository; and sound ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert.folder import convert
from refembed.errors import ModelError
from refembed.hub import resolve
from tests import hf_encoders
from tests.hf_folders import PIECES, SIZES, bert_shapes, safetensors, small, stored, weights, write_json, write_weights

QUERY = "encoder.layer.0.attention.self.query"


def config(**values: Any) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", raw | values)

    return do


def in_place_of_a_matrix(*tensors: tuple[str, str, tuple[int, ...], int]) -> Callable[[Path], None]:
    """Parts of a quantized matrix, (end of a name, type, shape, bytes of a number), where the matrix was."""

    def do(folder: Path) -> None:
        plain = {n: s for n, s in bert_shapes(*SIZES).items() if n != f"{QUERY}.weight"}
        whole = {n: ("F32", s, stored(weights(n, s), "F32")) for n, s in plain.items()}
        parts = {f"{QUERY}.{end}": (kind, s, bytes(size * int(np.prod(s)))) for end, kind, s, size in tensors}
        (folder / "model.safetensors").write_bytes(safetensors(whole | parts))

    return do


def only(*names: str) -> Callable[[Path], None]:
    """Keep these files of a folder."""

    def do(folder: Path) -> None:
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink()

    return do


def adapter(folder: Path) -> None:
    """What PEFT saves."""
    only()(folder)
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4})
    (folder / "adapter_model.safetensors").write_bytes(safetensors({}))


def float8(folder: Path) -> None:
    tensors = {n: ("F8_E4M3", s, bytes(int(np.prod(s)))) for n, s in bert_shapes(*SIZES).items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))


def nested(folder: Path) -> None:
    """An older sentence-transformers folder: the model is in a folder of its own."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(inner / path.name)


def onnx(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"?")


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def consolidated(folder: Path) -> None:
    only()(folder)
    write_json(folder / "params.json", {})
    (folder / "consolidated.safetensors").write_bytes(b"?")


def marked(folder: Path) -> None:
    """A file that begins with the mark of UTF-8, as editors on Windows write it."""
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


GPTQ = (("qweight", "I32", (4, 32), 4), ("qzeros", "I32", (1, 4), 4), ("scales", "F16", (1, 32), 2))
MLX = (("weight", "U32", (32, 4), 4), ("scales", "F16", (32, 1), 2), ("biases", "F16", (32, 1), 2))
ODD: dict[str, tuple[Callable[[Path], Any], str]] = {  # what is done to a sound folder, and the sentence
    "GPTQ": (config(quantization_config={"quant_method": "gptq"}), r"weights are quantized \(quantization_config\)"),
    "AWQ that config.json does not name": (in_place_of_a_matrix(*GPTQ), r"weights are quantized \(tensor .*q"),
    "MLX": (config(quantization={"group_size": 64, "bits": 4}), r"weights are quantized \(quantization\)"),
    "MLX that config.json does not name": (in_place_of_a_matrix(*MLX), "quantized|stored as U32"),
    "float8": (float8, "dtype F8_E4M3"),
    "an adapter": (adapter, "(?s)a LoRA adapter, not a model.*org/base"),
    "pickled": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "(?s)save_pretrained"),
    "ONNX": (onnx, "(?s)no model.safetensors.*ONNX only"),
    "in a folder": (nested, "(?s)without config.json.*there is one in .*0_Transformer"),
    "as Mistral publishes": (consolidated, "(?s)without config.json.*for `transformers`"),
    "no architectures": (config(architectures=None), "(?s)no architectures.*BertModel"),
    "a pointer of Git LFS": (pointer, "(?s)Git LFS pointer.*git lfs pull"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json and no vocab.txt"),
    "another size": (config(hidden_size=48), r"is \[32\], config.json says \[48\]"),
    "a mark in front, which `transformers` does not take either": (marked, "Unexpected UTF-8 BOM"),
    "another class": (config(architectures=["MPNetModel"]), "(?s)MPNetModel.*converts BertModel"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_folder_is_one_clear_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path_factory.mktemp("cache")))
    folder = small(tmp_path / "odd")
    change, message = ODD[kind]
    change(folder)
    for take in (lambda: convert(folder, tmp_path / "x.gguf"), lambda: resolve(folder)):
        with pytest.raises(ModelError, match=message) as caught:
            take()
        assert caught.value.hint
        assert len(str(caught.value)) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["odd"]


def shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_weights(folder, bert_shapes(*SIZES), "F32", shards=3)


def lines(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8", newline="\n")


def next_to_it(name: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"?")

    return do


SOUND: dict[str, tuple[Callable[[Path], None], float]] = {  # and how far its vectors may be from those of float32
    "shards": (shards, 0.0),
    "float64": (lambda f: write_weights(f, bert_shapes(*SIZES), "F64"), 0.0),
    "float16": (lambda f: write_weights(f, bert_shapes(*SIZES), "F16"), 4e-3),
    "bfloat16": (lambda f: write_weights(f, bert_shapes(*SIZES), "BF16"), 4e-2),
    "ONNX next to it": (next_to_it("onnx/model.onnx"), 0.0),
    "pickled next to it": (next_to_it("pytorch_model.bin"), 0.0),
    "a GGUF file next to it": (next_to_it("model-q8_0.gguf"), 0.0),
    "a vocabulary of lines": (lines, 0.0),
}


@pytest.mark.parametrize("kind", SOUND)
def test_an_odd_folder_that_is_sound_gives_the_same_vectors(kind: str, tmp_path: Path) -> None:
    plain = Embedder.load(convert(small(tmp_path / "plain"), tmp_path / "a.gguf"), numerics="exact")
    folder = small(tmp_path / "odd")
    change, far = SOUND[kind]
    change(folder)
    odd = Embedder.load(convert(folder, tmp_path / "b.gguf"), numerics="exact")
    error = np.abs(plain.embed("hello cats", pooling="mean") - odd.embed("hello cats", pooling="mean")).max()
    assert error <= far, error
    assert far == 0.0 or error > 0


def test_what_a_nomic_folder_of_transformers_5_says_is_read_too(tmp_path: Path) -> None:
    """The library's own class for Nomic BERT has other keys, and saves the checkpoint's names."""
    native = {
        "hidden_size": hf_encoders.C, "intermediate_size": hf_encoders.F, "num_attention_heads": hf_encoders.H,
        "num_hidden_layers": hf_encoders.L, "vocab_size": hf_encoders.V, "max_position_embeddings": 512,
        "hidden_act": "silu", "layer_norm_eps": 1e-12, "type_vocab_size": 2, "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert", "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    }  # fmt: skip
    published = convert(hf_encoders.build("nomic-bert", tmp_path / "a"), tmp_path / "a.gguf")
    folder = hf_encoders.build("nomic-bert", tmp_path / "b")
    write_json(folder / "config.json", native)
    ours = convert(folder, tmp_path / "b.gguf")
    a, b = (Embedder.load(path, numerics="exact") for path in (published, ours))
    assert np.array_equal(a.forward([[3, 4, 5]]), b.forward([[3, 4, 5]]))
    assert (a.info.n_ctx, b.info.n_ctx) == (2048, 512)
