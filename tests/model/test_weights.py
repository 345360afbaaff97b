"""Binding tensors: whatever does not fit is said in one error."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.errors import ModelError
from refembed.gguf import BY_NAME, Tensor, open_gguf
from refembed.model import bert, load_model
from refembed.model.hparams import read_hparams
from refembed.model.weights import bind, declared
from tests.tiny import tiny_bert


def bound(path: Path, change: Any) -> bert.Weights:
    """Bind the file's tensors after `change` has had its way with them."""
    f = open_gguf(path)
    hp, tensors = read_hparams(f, bert.TRAITS), dict(f.tensors)
    change(tensors)
    return bind(bert.Weights, tensors, hp.sizes, hp.n_layer, "x.gguf")


def test_every_tensor_of_the_file_finds_its_place(tiny: Path) -> None:
    w = bound(tiny, lambda t: None)
    assert w.blk[1].ffn_up.weight.name == "blk.1.ffn_up.weight"
    assert w.blk[1].ffn_up.weight.shape == (48, 32)
    assert w.blk[1].attn_qkv is None
    assert w.cls_output is None


def test_missing_misshapen_and_unexpected_tensors_are_one_error(tiny: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["blk.1.ffn_up.weight"], tensors["token_embd_norm.bias"]
        tensors["blk.0.ffn_down.weight"] = tensors["blk.0.attn_q.weight"]
        tensors["blk.7.attn_q.weight"] = tensors["blk.0.attn_q.weight"]

    with pytest.raises(ModelError) as e:
        bound(tiny, change)
    message = str(e.value)
    assert message.startswith("x.gguf: 5 tensors do not fit the architecture")
    assert "missing    blk.1.ffn_up.weight (48, 32)" in message
    assert "missing    token_embd_norm.bias (32,)" in message
    assert "mis-shaped blk.0.ffn_down.weight: (32, 32), but the metadata ask for (C F) = (32, 48)" in message
    assert "unexpected blk.7.attn_q.weight (32, 32)" in message
    assert "unexpected blk.1.ffn_up.bias (48,)" in message  # a bias without its weight has no use


def test_optional_tensors_may_be_absent(tiny: Path) -> None:
    w = bound(tiny, lambda t: (t.pop("blk.0.attn_q.bias"), t.pop("token_types.weight")))
    assert w.blk[0].attn_q.bias is None
    assert w.token_types is None


def test_fused_and_separate_projections_exclude_each_other(tiny: Path) -> None:
    fused = Tensor("blk.0.attn_qkv.weight", (96, 32), BY_NAME["F32"], np.zeros(96 * 32 * 4, np.uint8), 0, "<")
    with pytest.raises(ModelError, match=r"unexpected blk.0.attn_q.weight"):
        bound(tiny, lambda t: t.update({fused.name: fused}))


def test_a_declaration_names_every_tensor_it_reads(tiny: Path) -> None:
    names = {name for name, _, _ in declared(bert.Weights, 2)}
    assert set(open_gguf(tiny).tensors) <= names
    assert {"cls.output.bias", "blk.1.attn_qkv.weight"} <= names
    assert "blk.2.attn_q.weight" not in names


def test_an_unknown_architecture_is_refused_by_name(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny.read_bytes().replace(b"\x04\0\0\0\0\0\0\0bert", b"\x04\0\0\0\0\0\0\0bort", 1))
    with pytest.raises(ModelError, match=r"does not compute architecture 'bort'\n  hint: it computes bert"):
        load_model(open_gguf(other))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"n_head": 5}, "32 channels do not divide into 5 heads"), ({"pooling": 9}, "bert.pooling_type is 9")],
)
def test_impossible_sizes_are_refused(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(open_gguf(tiny_bert(tmp_path / "t.gguf", **sizes)))  # type: ignore[arg-type]


def test_declarations_say_what_the_tables_of_the_format_say() -> None:
    """One field per tensor; nothing is declared twice."""
    names = [name for name, _, _ in declared(bert.Weights, 3)]
    assert len(names) == len(set(names))
    assert len(dataclasses.fields(bert.Block)) == 9
