"""Folders that are not whole: each is one clear error, which says what is wrong and where."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.convert.folder import convert
from refembed.errors import ModelError, RefembedError
from tests.hf_folders import (
    PIECES,
    SIZES,
    bert_shapes,
    pooling,
    safetensors,
    small,
    stored,
    weights,
    write_json,
    write_weights,
)


def edit(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a JSON file of the folder."""

    def do(folder: Path) -> None:
        value = json.loads((folder / file).read_text(encoding="utf-8"))
        write_json(folder / file, change(value) or value)

    return do


def text(file: str, content: str | bytes) -> Callable[[Path], None]:
    """Put something into a file of the folder."""

    def do(folder: Path) -> None:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return do


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def shapes(change: Callable[[dict[str, tuple[int, ...]]], Any], dtype: str = "F32") -> Callable[[Path], None]:
    """Change the tensors of the folder."""

    def do(folder: Path) -> None:
        table = bert_shapes(*SIZES)
        change(table)
        write_weights(folder, table, dtype)

    return do


def numbers(name: str, value: float, dtype: str = "F32") -> Callable[[Path], None]:
    """One number of one tensor."""

    def do(folder: Path) -> None:
        tensors = {}
        for n, shape in bert_shapes(*SIZES).items():
            values = weights(n, shape)
            if n == name:
                values.flat[3] = value
            tensors[n] = (dtype, shape, stored(values, dtype))
        (folder / "model.safetensors").write_bytes(safetensors(tensors))

    return do


def sharded(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Cut the weights into two shards and change their index."""

    def do(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write_weights(folder, bert_shapes(*SIZES), "F32", shards=2)
        edit("model.safetensors.index.json", change)(folder)

    return do


def module(kind: str, path: str = "") -> dict[str, str]:
    """An entry of modules.json."""
    return {"path": path, "type": f"sentence_transformers.models.{kind}"}


Q = "encoder.layer.0.attention.self.query.weight"
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (remove("config.json"), "without config.json"),
    "config is no JSON": (text("config.json", "{"), "config.json cannot be read"),
    "config is no UTF-8": (text("config.json", b"\xff\xfe{}"), "config.json cannot be read"),
    "config is a list": (text("config.json", "[]"), r"config.json: \[\], not a JSON object"),
    "config is nested deeply": (text("config.json", "[" * 100_000), "config.json cannot be read"),
    "no architecture": (edit("config.json", lambda c: c.pop("architectures") and None), "no architectures"),
    "ALBERT": (edit("config.json", lambda c: c | {"architectures": ["AlbertModel"]}), "(?s)Albert.*converts Bert"),
    "a base of adapters": (
        edit("config.json", lambda c: c | {"architectures": ["JinaEmbeddingsV5Model"]}), "(?s)Jina.*adapter of a task"
    ),
    "a size of zero": (edit("config.json", lambda c: c | {"hidden_size": 0}), "hidden_size is 0, not a size"),
    "a size that is text": (edit("config.json", lambda c: c | {"vocab_size": "28"}), "vocab_size is 28, not a size"),
    "a true size": (edit("config.json", lambda c: c | {"num_hidden_layers": True}), "num_hidden_layers is True"),
    "an epsilon of one": (edit("config.json", lambda c: c | {"layer_norm_eps": 1}), "layer_norm_eps is 1"),
    "another activation": (edit("config.json", lambda c: c | {"hidden_act": "relu"}), "hidden_act is relu"),
    "relative positions": (
        edit("config.json", lambda c: c | {"position_embedding_type": "relative_key"}),
        "position_embedding_type is relative_key",
    ),
    "a decoder": (edit("config.json", lambda c: c | {"is_decoder": True}), "is_decoder is True"),
    "labels in a list": (edit("config.json", lambda c: c | {"id2label": ["a"]}), "id2label is no table of labels"),
    "no weights": (remove("model.safetensors"), "no model.safetensors"),
    "weights as a pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin") and None,
        "(?s)no model.safetensors.*safe_serialization",
    ),
    "a missing tensor": (shapes(lambda t: t.pop(Q)), "missing tensors: blk.0.attn_q.weight"),
    "a missing bias": (shapes(lambda t: t.pop("embeddings.LayerNorm.bias")), "missing tensors: token_embd_norm.bias"),
    "a layer too few": (
        edit("config.json", lambda c: c | {"num_hidden_layers": 2}),
        r"missing tensors: blk.1.attn_k.bias, blk.1.attn_k.weight, blk.1.attn_output.bias and 13 more",
    ),
    "a layer too many": (
        shapes(lambda t: t.update({Q.replace("0", "1"): (32, 32)})),
        "unexpected tensors: blk.1.attn_q.weight",
    ),
    "an unknown tensor": (shapes(lambda t: t.update({"adapter.weight": (2, 2)})), "tensor adapter.weight"),
    "an unknown kind": (shapes(lambda t: t.update({"embeddings.LayerNorm.x": (32,)})), "tensor embeddings.LayerNorm.x"),
    "a bias of a table": (
        shapes(lambda t: t.update({"embeddings.word_embeddings.bias": (len(PIECES),)})),
        "unexpected tensors: token_embd.bias",
    ),
    "a tensor twice": (
        shapes(lambda t: t.update({"bert." + Q: (32, 32)})),
        r"encoder.layer.0.* and bert.encoder.layer.0.* are both blk.0.attn_q.weight",
    ),
    "another shape": (shapes(lambda t: t.update({Q: (32, 31)})), r"query.weight is \[32, 31\], config.json says"),
    "weights of another vocabulary": (
        edit("config.json", lambda c: c | {"vocab_size": 99}),
        r"word_embeddings.weight is \[28, 32\], config.json says \[99, 32\]",
    ),
    "a head that is not there": (
        edit("config.json", lambda c: c | {"architectures": ["BertForSequenceClassification"]}),
        "missing tensors: cls.output.bias, cls.output.weight",
    ),
    "NaN": (numbers(Q, np.nan), "query.weight holds NaN or infinity"),
    "infinity": (numbers(Q, -np.inf), "query.weight holds NaN or infinity"),
    "a shard elsewhere": (sharded(lambda c: c["weight_map"].update({Q: "../model.safetensors"})), "no weight_map"),
    "no weight_map": (sharded(lambda c: c.pop("weight_map") and None), "no weight_map"),
    "a shard that is not there": (
        sharded(lambda c: c["weight_map"].update({Q: "x"})),
        "it names x, and there is no such file",
    ),
    "a tensor that no shard has": (
        sharded(lambda c: c["weight_map"].update({"x": "model-00001-of-00002.safetensors"})),
        "and the files differ: x",
    ),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer.json and no vocab.txt"),
    "a BPE tokenizer": (edit("tokenizer.json", lambda t: t["model"].update(type="BPE")), "tokenizer of type BPE"),
    "a list of tokens": (edit("tokenizer.json", lambda t: t["model"].update(vocab=["a"])), "is not as `transformers`"),
    "an id as text": (edit("tokenizer.json", lambda t: t["model"]["vocab"].update({"x": "7"})), "is not as .* no id"),
    "an id twice": (edit("tokenizer.json", lambda t: t["model"]["vocab"].update({"x": 7})), "two tokens have the same"),
    "an id beyond the vocabulary": (
        edit("tokenizer.json", lambda t: t["model"]["vocab"].update({"x": 28})),
        "token 28, but config.json has a vocab_size of 28",
    ),
    "tokens spelled alike": (
        edit("tokenizer.json", lambda t: t["model"]["vocab"].update({"##▁the": t["model"]["vocab"].pop("d")})),
        "tokens 5 and 27 are both spelled ▁the",
    ),
    "an empty entry in a template": (
        edit("tokenizer.json", lambda t: t["post_processor"].update(single=[{}, {"Sequence": {"id": "A"}}, {}])),
        "is not as `transformers`",
    ),
    "a template of empty entries": (
        edit("tokenizer.json", lambda t: t["post_processor"].update(single=[{}, {}, {}])),
        "is not as `transformers`",
    ),
    "an added token without content": (
        edit("tokenizer.json", lambda t: t["added_tokens"].append({"id": 3})),
        "is not as .* KeyError",
    ),
    "modules that do more": (
        text("modules.json", '[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]'),
        "a module of type Dense in 2_Dense",
    ),
    "a pooling without its file": (
        text("modules.json", json.dumps([module("Transformer"), module("Pooling", "1_Pooling")])),
        "no config.json",
    ),
    "maximum pooling": (lambda folder: pooling(folder, pooling_mode_max_tokens=True), "no pooling that GGUF knows"),
    "a model card that is no YAML": (text("README.md", "---\na: [\n---\n"), "README.md or config.json"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_folder_that_is_not_whole_is_one_clear_error(fault: str, tmp_path: Path) -> None:
    folder = small(tmp_path / "bad")
    damage, message = BAD[fault]
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        convert(folder, tmp_path / "x.gguf")
    assert caught.value.hint
    assert "bad" in str(caught.value) or "tensor" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]


def test_the_faults_are_faults_of_a_folder_that_is_sound_without_them(tmp_path: Path) -> None:
    assert convert(small(tmp_path / "sound"), tmp_path / "out.gguf").exists()


def test_weights_cut_anywhere_are_one_clear_error(tmp_path: Path) -> None:
    folder = small(tmp_path / "cut")
    raw = (folder / "model.safetensors").read_bytes()
    for n in [*range(40), *range(40, len(raw), 997), len(raw) - 1]:
        (folder / "model.safetensors").write_bytes(raw[:n])
        with pytest.raises(ModelError, match=r"model.safetensors: reading .* at byte 0x"):
            convert(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_number_beyond_f16_is_an_error_only_where_it_is_stored_as_f16(tmp_path: Path) -> None:
    folder = small(tmp_path / "large")
    numbers(Q, 1e5)(folder)
    with pytest.raises(ModelError, match=r"(?s)query.weight: 1e\+05 is beyond F16.*bf16"):
        convert(folder, tmp_path / "f16.gguf", outtype="f16")
    assert [p.name for p in tmp_path.iterdir()] == ["large"]
    convert(folder, tmp_path / "bf16.gguf", outtype="bf16")


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as the keys that lead there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here] + [place for key, inner in items for place in places(inner, (*here, key))]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=3) | st.sampled_from(PIECES),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    data=st.data(),
    file=st.sampled_from(
        ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json"]
    ),
)
def test_a_json_file_with_anything_anywhere_is_converted_or_refused(
    data: st.DataObject, file: str, tmp_path_factory: Any
) -> None:
    """No KeyError, no TypeError, no hang: a file of the wrong shape is an error of refembed's own."""
    folder = tmp_path_factory.getbasetemp() / "anything"
    small(folder)
    pooling(folder, pooling_mode_mean_tokens=True)
    value = json.loads((folder / file).read_text(encoding="utf-8"))
    *way, last = data.draw(st.sampled_from(places(value)[1:]))
    inner = value
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(ANYTHING)
    (folder / file).write_text(json.dumps(value), encoding="utf-8")
    with contextlib.suppress(RefembedError):
        convert(folder, folder.with_suffix(".gguf"))
