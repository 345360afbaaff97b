"""Heads and modules of a folder: what llama.cpp's converter wrote (tests/data), and what live llama.cpp makes of it."""

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
from refembed.gguf import open_gguf
from tests.hf_folders import safetensors, stored, weights, write_json
from tests.hf_heads import FOLDERS, C, classifier, dense, headed, modules, reranker, roberta
from tests.record_converter import DATA, describe, inputs, unfold

RECORDS = json.loads((DATA / "converter-heads.json").read_text(encoding="utf-8"))
# How words are cut has a name here, which the recorder took from the converter; the others are not the head's
TOKENIZER = ("tokenizer.ggml.", "general.")


@pytest.mark.parametrize("outtype", ["f32", "f16"])
@pytest.mark.parametrize("name", FOLDERS)
def test_heads_are_what_llama_cpps_converter_makes_of_them(name: str, outtype: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    FOLDERS[name][0](folder)
    assert inputs(folder) == RECORDS[name]["inputs"], "another folder was recorded"
    expected = unfold(RECORDS[name], outtype)
    found = json.loads(json.dumps(describe(convert(folder, tmp_path / "out.gguf", outtype=outtype))))
    assert found["tensors"] == expected["tensors"]
    ours, theirs = (
        {k: v for k, v in keys.items() if not k.startswith(TOKENIZER)} for keys in (found["keys"], expected["keys"])
    )
    ours.pop("modern-bert.attention.layer_norm_epsilon", None)  # without which llama.cpp refuses the file
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["reranker-tied", "reranker-untied", "classifier-cls", "classifier-mean"])
def test_scores_are_those_of_llama_cpp_to_the_last_bit(name: str, tmp_path: Path) -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    FOLDERS[name][0](tmp_path / name)
    path = convert(tmp_path / name, tmp_path / "out.gguf")
    texts = [[11, 12, 13], [20, 45, 61, 33, 70]]
    ours = Embedder.load(path, numerics="ggml", flash_attn=False, repack=False).embed(texts, pooling="rank")
    options: dict[str, Any] = {"threads": 1, "flash_attn": False, "extra_buffer_types": False}
    with LlamaCpp(path, pooling="rank", **options) as engine:
        theirs = [engine.embed([ids])[0] for ids in texts]
    for a, b in zip(ours, theirs, strict=True):
        assert a.tobytes() == np.asarray(b, np.float32)[: len(a)].tobytes()


@pytest.mark.parametrize("tied", [True, False])
def test_a_reranker_scores_pairs_in_its_template(tied: bool, tmp_path: Path) -> None:
    """The score is the share of "yes" among the two answers: softmax of two rows of the matrix, in NumPy."""
    reranker(tmp_path / "model", tied=tied)
    path = convert(tmp_path / "model", tmp_path / "out.gguf")
    md, e = open_gguf(path).metadata, Embedder.load(path, numerics="exact")
    assert md["qwen3.pooling_type"] == 4
    assert list(md["qwen3.classifier.output_labels"]) == ["yes", "no"]
    assert "<Query>: {query}\n<Document>: {document}" in str(md["tokenizer.chat_template.rerank"])
    ids = [15, 31, 8]
    last = e.embed([ids], pooling="last", normalize=-1)[0].astype(np.float64)
    bits = stored(weights("lm_head.weight" if not tied else "model.embed_tokens.weight", (120, C)), "BF16")
    table = (np.frombuffer(bits, "<u2").astype("<u4") << 16).view("<f4").reshape(120, C).astype(np.float64)
    yes, no = (md["tokenizer.ggml.tokens"].index(word) for word in ("yes", "no"))  # type: ignore[union-attr]
    logits = table[[yes, no]] @ last
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert np.abs(e.embed([ids], pooling="rank")[0] - share).max() < 1e-6
    assert len(e.rerank("a cat", ["the cat", "dog"])) == 2


def test_a_language_model_with_another_heading_stays_one(tmp_path: Path) -> None:
    reranker(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# Qwen3-0.6B\nmade into Qwen3-Reranker by others\n")
    file = open_gguf(convert(tmp_path / "model", tmp_path / "out.gguf"))
    assert "cls.output.weight" not in file.tensors
    assert "qwen3.pooling_type" not in file.metadata


@pytest.mark.parametrize("hint", ["folder", "config", "name"])
def test_a_reranker_is_known_by_its_name_too(hint: str, tmp_path: Path) -> None:
    folder = tmp_path / ("my-Qwen3-Reranker-0.6B" if hint == "folder" else "model")
    reranker(folder)
    (folder / "README.md").unlink()
    if hint == "config":
        path = folder / "config.json"
        write_json(path, json.loads(path.read_text()) | {"_name_or_path": "Qwen/Qwen3-Reranker-4B"})
    path = convert(folder, tmp_path / "out.gguf", name="Qwen3-Reranker-8B" if hint == "name" else None)
    assert "cls.output.weight" in open_gguf(path).tensors


def cross_encoder(folder: Path, yes: int, no: int | None) -> None:
    """A reranker as sentence-transformers 5.4 saves it, with a LogitScore of these tokens."""
    reranker(folder)
    package = "sentence_transformers.cross_encoder.modules.logit_score"
    listed = [{"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
    write_json(folder / "modules.json", [*listed, {"path": "1_LogitScore", "type": f"{package}.LogitScore"}])
    write_json(folder / "1_LogitScore" / "config.json", {"true_token_id": yes, "false_token_id": no})


YES, NO = 116, 115  # where hf_heads.words puts them


def test_the_score_of_a_cross_encoder_is_the_rerankers(tmp_path: Path) -> None:
    cross_encoder(tmp_path / "model", YES, NO)
    assert "cls.output.weight" in open_gguf(convert(tmp_path / "model", tmp_path / "out.gguf")).tensors


@pytest.mark.parametrize(("yes", "no"), [(NO, YES), (YES, None), (YES, 3)])
def test_another_score_of_a_cross_encoder_is_refused(yes: int, no: int | None, tmp_path: Path) -> None:
    cross_encoder(tmp_path / "model", yes, no)
    with pytest.raises(ModelError, match=f"LogitScore with tokens {yes} and {no}"):
        convert(tmp_path / "model", tmp_path / "out.gguf")


def test_an_answer_that_the_vocabulary_lacks_is_the_unknown_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    reranker(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "yes"]
    write_json(folder / "tokenizer.json", tokenizer)
    with pytest.raises(ModelError, match="no token 'yes'"):
        convert(folder, tmp_path / "out.gguf")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", settings | {"unk_token": "<s>"})
    convert(folder, tmp_path / "out.gguf")
    assert "no token 'yes': the score is that of '<s>'" in caplog.text


@pytest.mark.parametrize("widths", [(C, 64, C), (C, C)])
def test_dense_modules_are_run_behind_pooling(widths: tuple[int, ...], tmp_path: Path) -> None:
    dense(tmp_path / "model", widths)
    e = Embedder.load(convert(tmp_path / "model", tmp_path / "out.gguf"), numerics="exact")
    rows = np.asarray(e.forward([[11, 12, 40]]), np.float64)
    wanted = rows.mean(axis=0)
    for i in range(len(widths) - 1):
        wanted = weights(f"{i + 2}_Dense", (widths[i + 1], widths[i])).astype(np.float64) @ wanted
    found = e.embed([[11, 12, 40]], normalize=-1)[0]
    assert np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max()


@pytest.mark.oracle
def test_llama_cpp_runs_dense_modules_too(tmp_path: Path) -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    dense(tmp_path / "model")
    path = convert(tmp_path / "model", tmp_path / "out.gguf")
    ours = Embedder.load(path, numerics="ggml", flash_attn=False, repack=False).embed([[11, 12, 40]], normalize=-1)[0]
    options: dict[str, Any] = {"threads": 1, "flash_attn": False, "extra_buffer_types": False}
    with LlamaCpp(path, pooling="mean", **options) as engine:
        assert np.asarray(engine.embed([[11, 12, 40]])[0], np.float32).tobytes() == ours.tobytes()


def test_two_unnamed_classes_of_a_roberta_are_label_0_and_label_1(tmp_path: Path) -> None:
    roberta(tmp_path / "model")
    path = convert(tmp_path / "model", tmp_path / "out.gguf")
    assert list(open_gguf(path).metadata["bert.classifier.output_labels"]) == ["LABEL_0", "LABEL_1"]
    assert Embedder.load(path).embed([[11, 12]], pooling="rank").shape == (1, 2)


def test_two_unnamed_classes_of_a_modern_bert_are_label_0_and_label_1(tmp_path: Path) -> None:
    """llama.cpp's converter writes a file with cls.weight twice."""
    classifier(tmp_path / "model", labels=2)
    path = convert(tmp_path / "model", tmp_path / "out.gguf")
    assert list(open_gguf(path).metadata["modern-bert.classifier.output_labels"]) == ["LABEL_0", "LABEL_1"]
    assert Embedder.load(path).embed([[11, 12]], pooling="rank").shape == (1, 2)


@pytest.mark.parametrize("base", ["t5encoder", "llama", "gemma3", "qwen2", "eurobert", "modern-bert", "roberta"])
def test_pooling_of_every_architecture_is_kept(base: str, tmp_path: Path) -> None:
    for mode, number in (("mean_tokens", 1), ("cls_token", 2), ("lasttoken", 3)):
        folder = headed(base, tmp_path / mode, {}, {})
        modules(folder, modes={f"pooling_mode_{mode}": True})
        md = open_gguf(convert(folder, tmp_path / "out.gguf")).metadata
        assert md[f"{md['general.architecture']}.pooling_type"] == number


def dense_module(folder: Path, **facts: Any) -> None:
    path = folder / "2_Dense" / "config.json"
    write_json(path, json.loads(path.read_text()) | facts)


def extra_tensor(folder: Path) -> None:
    shape = (C, C)
    both = {name: ("F32", shape, stored(weights(name, shape), "F32")) for name in ("linear.weight", "linear.bias")}
    (folder / "2_Dense" / "model.safetensors").write_bytes(safetensors(both))


BAD_DENSE: dict[str, tuple[tuple[int, ...], Callable[[Path], None], str]] = {
    "three": ((C, C, C, C), lambda f: None, "the modules are Transformer, Pooling, Dense, Dense, Dense, Normalize"),
    "narrower": ((C, 24), lambda f: None, "the last Dense module gives 24 numbers"),
    "another width": ((40, C), lambda f: None, "dense_2 takes 40 numbers, but is given 48"),
    "an activation": ((C, C), lambda f: dense_module(f, activation_function="torch.nn.Tanh"), "is torch.nn.Tanh"),
    "the library's activation": (
        (C, C), lambda f: write_json(f / "2_Dense" / "config.json", {"in_features": C, "out_features": C}), "Tanh"
    ),
    "a bias": ((C, C), extra_tensor, "tensor linear.bias"),
    "tokens' rows": ((C, C), lambda f: dense_module(f, module_input_name="token_embeddings"), "module_input_name is"),
    "no weights": ((C, C), lambda f: (f / "2_Dense" / "model.safetensors").unlink(), "no model.safetensors of the"),
    "other sizes": ((C, C), lambda f: dense_module(f, out_features=40), r"config.json says \[40, 48\]"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_DENSE)
def test_a_dense_module_that_gguf_cannot_hold_is_refused(fault: str, tmp_path: Path) -> None:
    widths, damage, message = BAD_DENSE[fault]
    dense(tmp_path / "model", widths)
    damage(tmp_path / "model")
    with pytest.raises(ModelError, match=message) as caught:
        convert(tmp_path / "model", tmp_path / "out.gguf")
    assert caught.value.hint


def test_dense_modules_of_a_t5_are_refused(tmp_path: Path) -> None:
    folder = headed("t5encoder", tmp_path / "model", {}, {})
    modules(folder, ("Dense", "2_Dense"))
    with pytest.raises(ModelError, match="a module of type Dense in 2_Dense"):
        convert(folder, tmp_path / "out.gguf")
