"""refembed.verify.doctor: each mistake in a file is found, and a healthy file has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.cli import run
from refembed.gguf import GGUFWriter, open_gguf
from refembed.testing.synthetic import synthetic
from refembed.verify.doctor import SEVERITIES, examine
from refembed.verify.doctor.finding import Finding
from refembed.verify.doctor.weights import check_weights, measure

Keys = Mapping[str, tuple[Any, str] | None]


def changed(source: Path, target: Path, keys: Keys | None = None, **options: Any) -> Path:
    """A copy of a file with some keys set (value, type) or taken away (None).

    options  drop: a tensor's name; swap: name -> (array, type name); alignment; trailing: bytes at the end
    """
    f, keys = open_gguf(source), dict(keys or {})
    w = GGUFWriter(None, alignment=options.get("alignment", 32))
    w.copy_keys(f.metadata, keys)
    for key, given in keys.items():
        if given is not None:
            w.add(key, *given)
    for t in f.tensors.values():
        if t.name == options.get("drop"):
            continue
        x, kind = options.get("swap", {}).get(t.name, (t.raw, t.type.name))
        w.add_tensor(t.name, x, t.shape, kind)
    w.write(target)
    with target.open("ab") as out:
        out.write(options.get("trailing", b""))
    return target


def found(path: Path, severity: str | None = None) -> set[tuple[str, str]]:
    """(severity, check) of what is found, weights included."""
    f = open_gguf(path)
    findings = [*examine(f), *check_weights(f)]
    assert all(x.severity in SEVERITIES and x.says and x.do for x in findings)
    return {(x.severity, x.check) for x in findings if severity in (None, x.severity)}


def finding(path: Path, check: str) -> Finding:
    """The one of that check."""
    f = open_gguf(path)
    (one,) = [x for x in [*examine(f), *check_weights(f)] if x.check == check]
    return one


TYPE = {"general.file_type": (0, "UINT32")}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy encoder."""
    folder = tmp_path_factory.mktemp("doctor")
    return changed(synthetic(folder / "b0.gguf", "bert", pooling=1), folder / "bert.gguf", TYPE)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy decoder: byte-pair tokens, the last token pooled, EOS added."""
    folder = tmp_path_factory.mktemp("doctor")
    raw = synthetic(folder / "q0.gguf", "qwen3", pooling=3)
    tokens = [bytes([c]) for c in range(33, 127)] + [b"<|endoftext|>", b"<|im_end|>"]
    tokens += [f"w{i}".encode() for i in range(101 - len(tokens))]
    keys: Keys = {
        "tokenizer.ggml.model": ("gpt2", "STRING"),
        "tokenizer.ggml.pre": ("qwen2", "STRING"),
        "tokenizer.ggml.tokens": (tokens, "ARRAY[STRING]"),
        "tokenizer.ggml.token_type": ([1] * 94 + [3, 3] + [1] * (101 - 96), "ARRAY[INT32]"),
        "tokenizer.ggml.merges": ([b"w 1"], "ARRAY[STRING]"),
        "tokenizer.ggml.add_eos_token": (True, "BOOL"),
        "tokenizer.ggml.eos_token_id": (94, "UINT32"),
        "tokenizer.ggml.bos_token_id": None,
        "tokenizer.ggml.seperator_token_id": None,
    }
    return changed(raw, folder / "qwen3.gguf", keys | TYPE)


def test_healthy_files_have_no_findings(bert: Path, qwen3: Path, minilm: Path) -> None:
    assert found(bert) == found(qwen3) == found(minilm) == set()


U32, F32, FLAG, TEXT = "UINT32", "FLOAT32", "BOOL", "STRING"

BERT_FAULTS: list[tuple[Keys, tuple[str, str]]] = [
    ({"bert.pooling_type": None}, ("warning", "pooling")),
    ({"bert.pooling_type": None, "general.name": ("Some-Embedding-v1", TEXT)}, ("error", "pooling")),
    ({"bert.pooling_type": (3, U32)}, ("warning", "pooling")),
    ({"bert.pooling_type": (7, U32)}, ("error", "loading")),
    ({"bert.pooling_type": (4, U32)}, ("error", "head")),
    ({"bert.attention.causal": (True, FLAG)}, ("warning", "attention")),
    ({"bert.context_length": (0, U32)}, ("error", "context")),
    ({"bert.context_length": (200, U32)}, ("error", "context")),
    ({"bert.attention.layer_norm_epsilon": (0.1, F32)}, ("warning", "norms")),
    ({"bert.attention.layer_norm_epsilon": (0.0, F32)}, ("error", "norms")),
    ({"tokenizer.ggml.seperator_token_id": (9, U32)}, ("error", "special tokens")),
    ({"tokenizer.ggml.seperator_token_id": (4000, U32)}, ("warning", "special tokens")),
    ({"tokenizer.ggml.bos_token_id": None}, ("error", "special tokens")),
    ({"general.file_type": (7, U32)}, ("warning", "file type")),
    ({"general.file_type": None}, ("note", "file type")),
    ({"general.architecture": ("rwkv6", TEXT)}, ("warning", "architecture")),
    ({"general.architecture": ("nosuch", TEXT)}, ("error", "architecture")),
    ({"bert.attention.head_count": (7, U32)}, ("error", "loading")),
]


@pytest.mark.parametrize(("keys", "expected"), BERT_FAULTS, ids=lambda x: str(x)[:60])
def test_a_mistake_in_an_encoder_is_found(bert: Path, tmp_path: Path, keys: Keys, expected: tuple[str, str]) -> None:
    assert expected in found(changed(bert, tmp_path / "m.gguf", keys))


QWEN3_FAULTS: list[tuple[Keys, tuple[str, str]]] = [
    ({"qwen3.pooling_type": None}, ("warning", "pooling")),
    ({"qwen3.pooling_type": (2, U32)}, ("error", "pooling")),
    ({"qwen3.pooling_type": (1, U32)}, ("note", "pooling")),
    ({"qwen3.attention.causal": (False, FLAG)}, ("note", "attention")),
    ({"tokenizer.ggml.add_eos_token": (False, FLAG)}, ("error", "special tokens")),
    ({"tokenizer.ggml.add_eos_token": None}, ("error", "special tokens")),
    ({"tokenizer.ggml.eos_token_id": (95, U32)}, ("warning", "special tokens")),
    ({"tokenizer.ggml.pre": None}, ("error", "pre-tokenizer")),
    ({"tokenizer.ggml.pre": ("default", TEXT)}, ("warning", "pre-tokenizer")),
    ({"tokenizer.ggml.pre": ("nosuch", TEXT)}, ("error", "pre-tokenizer")),
    ({"qwen3.context_length": (32, U32)}, ("warning", "context")),
    ({"qwen3.context_length": (1 << 30, U32)}, ("warning", "context")),
    ({"qwen3.pooling_type": (4, U32)}, ("error", "head")),
]


@pytest.mark.parametrize(("keys", "expected"), QWEN3_FAULTS, ids=lambda x: str(x)[:60])
def test_a_mistake_in_a_decoder_is_found(qwen3: Path, tmp_path: Path, keys: Keys, expected: tuple[str, str]) -> None:
    assert expected in found(changed(qwen3, tmp_path / "m.gguf", keys))


def test_a_reranking_decoder_needs_its_template(qwen3: Path, tmp_path: Path) -> None:
    where = {x.where for x in examine(open_gguf(changed(qwen3, tmp_path / "m.gguf", {"qwen3.pooling_type": (4, U32)})))}
    assert {"tokenizer.chat_template.rerank", "cls.*"} <= where


def test_a_t5_file_without_a_causal_key_is_a_finding(tmp_path: Path) -> None:
    silent = changed(synthetic(tmp_path / "a.gguf", "t5encoder", pooling=1), tmp_path / "b.gguf", TYPE)
    assert ("error", "attention") in found(silent)
    flagged = changed(silent, tmp_path / "c.gguf", {"t5encoder.attention.causal": (False, FLAG)})
    assert ("error", "attention") not in found(flagged)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("qwen2", "gte Qwen2 7B Instruct"),
        ("qwen3", "Giga-Embeddings-instruct-3B-0826"),
        ("deepseek2", "ai-sage/Giga-Embeddings-instruct-10B-A1.8B-0826"),
        ("qwen2", "KaLM Embedding Multilingual Mini Instruct v2.5"),
    ],
)
def test_a_model_that_was_trained_to_see_the_whole_text_has_to_say_so(arch: str, name: str, tmp_path: Path) -> None:
    """Converters that do not know it write a decoder; its name is all that is left. Others may look back."""
    named: Keys = {"general.name": (name, TEXT), **TYPE}
    silent = changed(synthetic(tmp_path / "a.gguf", arch, pooling=1), tmp_path / "b.gguf", named)
    assert "whole text" in finding(silent, "attention").says
    right = changed(silent, tmp_path / "c.gguf", {f"{arch}.attention.causal": (False, FLAG)})
    assert ("error", "attention") not in found(right)
    other = changed(silent, tmp_path / "d.gguf", {"general.name": (f"{name} distilled", TEXT)})
    assert ("error", "attention") not in found(other)


def test_embeddinggemma_without_its_dense_layers_is_found(tmp_path: Path) -> None:
    assert ("error", "dense layers") in found(synthetic(tmp_path / "a.gguf", "gemma-embedding", pooling=1))
    whole = synthetic(
        tmp_path / "b.gguf", "gemma-embedding", pooling=1, optional={"dense_2.weight", "dense_3.weight"},
        keys={"dense_2_feat_out": (72, U32), "dense_3_feat_in": (72, U32)},
    )  # fmt: skip
    assert ("error", "dense layers") not in found(whole)


def test_only_embeddinggemma_has_dense_layers(tmp_path: Path) -> None:
    """KaLM's model of this architecture has none behind pooling: its modules.json says so."""
    bare = synthetic(tmp_path / "a.gguf", "gemma-embedding", pooling=3)
    named: Keys = {"general.name": ("KaLM Embedding Gemma3 12B 2511", TEXT)}
    assert ("error", "dense layers") not in found(changed(bare, tmp_path / "b.gguf", named))
    colbert: Keys = {"general.name": ("LFM2 ColBERT 350M", TEXT)}
    lfm2 = changed(synthetic(tmp_path / "c.gguf", "lfm2", pooling=0), tmp_path / "d.gguf", colbert)
    assert finding(lfm2, "dense layers").where == "dense_2.weight"


@pytest.mark.parametrize("name", ["KaLM-Embedding-Gemma3-12B-2511", "embeddinggemma-300m"])
def test_an_embedder_that_is_stored_as_a_language_model_is_found(name: str, tmp_path: Path) -> None:
    """ollama#13571: such files were published. Its tokens look back only, whatever the key says of windows."""
    plain = synthetic(tmp_path / "a.gguf", "gemma3", pooling=1)
    assert ("error", "architecture") not in found(plain)
    stored = changed(plain, tmp_path / "b.gguf", {"general.name": (name, TEXT)})
    one = finding(stored, "architecture")
    assert (one.severity, one.where) == ("error", "general.architecture")
    assert "gemma-embedding" in one.says


def test_a_reranker_without_its_head_is_found_by_its_name(qwen3: Path, tmp_path: Path) -> None:
    """llama.cpp#16407: converted as a language model it embeds, and scores nothing."""
    named = changed(qwen3, tmp_path / "a.gguf", {"general.name": ("Qwen3 Reranker 0.6B", TEXT)})
    assert finding(named, "head").where == "cls.output"


@pytest.mark.parametrize(
    ("key", "letter"), [("lowercase", "W"), ("strip_accents", "é")], ids=["capital letters", "accents"]
)
def test_letters_that_no_text_can_reach_are_found(bert: Path, tmp_path: Path, key: str, letter: str) -> None:
    tokens = [bytes(t) for t in open_gguf(bert).metadata.strings("tokenizer.ggml.tokens").to_bytes()]
    for i in range(90, 100):
        tokens[i] = f"▁{letter}ord{i}".encode()
    cased: Keys = {"tokenizer.ggml.tokens": (tokens, "ARRAY[STRING]")}
    assert ("error", "letters") in found(changed(bert, tmp_path / "a.gguf", cased))
    keys = cased | {f"tokenizer.ggml.normalizer.{key}": (False, FLAG)}
    assert ("error", "letters") not in found(changed(bert, tmp_path / "b.gguf", keys))


def test_prompts_of_a_known_model_are_pointed_out(bert: Path, tmp_path: Path) -> None:
    """By name and architecture; intfloat's model card says these two, and a reranker of that name has none."""
    e5 = {"general.name": ("e5-small-v2", TEXT)}
    x = finding(changed(bert, tmp_path / "e5.gguf", e5), "prompts")
    assert x.severity == "note"
    assert 'query "query: ", document "passage: "' in x.says
    assert "--prompt-name query|document" in x.do
    assert ("note", "prompts") not in found(changed(bert, tmp_path / "r.gguf", {**e5, "bert.pooling_type": (4, U32)}))
    assert ("note", "prompts") not in found(changed(bert, tmp_path / "other.gguf", {"general.name": ("e5ish", TEXT)}))


def test_prompts_next_to_the_file_are_read_and_damage_there_is_a_warning(bert: Path, tmp_path: Path) -> None:
    path, config = changed(bert, tmp_path / "m.gguf"), tmp_path / "config_sentence_transformers.json"
    config.write_text('{"prompts": {"query": "ask: "}}')
    assert 'query "ask: "' in finding(path, "prompts").says
    config.write_text('{"prompts": {"query": 7}}')
    x = finding(path, "prompts")
    assert (x.severity, "each must be a string" in x.says) == ("warning", True)


def test_files_with_a_strange_shape_are_found(bert: Path, tmp_path: Path) -> None:
    assert ("note", "alignment") in found(changed(bert, tmp_path / "a.gguf", alignment=64))
    assert ("warning", "alignment") in found(changed(bert, tmp_path / "b.gguf", alignment=8))
    assert ("warning", "files") in found(changed(bert, tmp_path / "c.gguf", trailing=b"\0" * 100))
    assert ("error", "loading") in found(changed(bert, tmp_path / "d.gguf", drop="blk.1.ffn_up.weight"))


# -- weights ---------------------------------------------------------------------------------------------------------


def test_nan_and_infinity_are_found_where_they_are(bert: Path, tmp_path: Path) -> None:
    x = np.array(open_gguf(bert).tensors["blk.1.ffn_up.weight"].dequantize())  # (50, 36)
    x[3, 4], x[7, 0] = np.nan, np.inf
    one = finding(changed(bert, tmp_path / "m.gguf", swap={"blk.1.ffn_up.weight": (x, "F32")}), "weights")
    assert (one.severity, one.where) == ("error", "blk.1.ffn_up.weight")
    assert "2 of 1,800 weights are not finite, the first at [3, 4]" in one.says


@pytest.mark.parametrize(("kind", "field"), [("Q8_0", "d"), ("Q4_1", "m"), ("Q4_0", "d")])
def test_a_scale_that_is_nan_is_found(tmp_path: Path, kind: str, field: str) -> None:
    source = synthetic(tmp_path / "a.gguf", "bert", C=64, H=4, F=128, pooling=1, type_name=kind)
    assert not any(check == "weights" for _, check in found(source))
    t = open_gguf(source).tensors["blk.0.ffn_up.weight"]
    blocks = np.array(t.raw).view(t.type.block)
    blocks[field][5] = np.nan
    swapped = changed(source, tmp_path / "b.gguf", swap={t.name: (blocks.view(np.uint8), kind)})
    one = finding(swapped, "weights")
    # rows of 64 are two blocks of 32: block 5 is the second half of row 2
    assert (
        f"32 of 8,192 weights are not finite, the first at [2, 32], in block 5, whose scale {field} is nan" in one.says
    )


def test_tensors_of_zeros_and_weights_beyond_float16_are_found(bert: Path, tmp_path: Path) -> None:
    t = open_gguf(bert).tensors["blk.0.attn_q.weight"]
    zeros, large = np.zeros(t.shape, np.float32), np.full(t.shape, 7e4, np.float32)
    assert ("error", "weights") in found(changed(bert, tmp_path / "a.gguf", swap={t.name: (zeros, "F32")}))
    assert ("warning", "weights") in found(changed(bert, tmp_path / "b.gguf", swap={t.name: (large, "F32")}))


def test_types_that_cannot_be_multiplied_are_found(bert: Path, tmp_path: Path) -> None:
    t = open_gguf(bert).tensors["blk.0.attn_q.weight"]
    norm = open_gguf(bert).tensors["token_embd_norm.weight"]
    x = np.ones(t.shape, np.int8)
    assert ("error", "types") in found(changed(bert, tmp_path / "a.gguf", swap={t.name: (x, "I8")}))
    half = np.ones(norm.shape, np.float16)
    assert ("warning", "types") in found(changed(bert, tmp_path / "b.gguf", swap={norm.name: (half, "F16")}))


def test_weights_are_measured_alike_in_pieces_and_whole(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t = open_gguf(bert).tensors["token_embd.weight"]
    x = t.dequantize()
    whole = measure(t)
    monkeypatch.setattr("refembed.verify.doctor.weights.CHUNK", 37)
    assert measure(t) == whole == (0, -1, float(np.abs(x).max()))


def test_every_check_may_run_on_any_file(tmp_path: Path) -> None:
    w = GGUFWriter(None)
    w.add("general.name", "nothing", TEXT)
    assert ("error", "architecture") in found(w.write(tmp_path / "m.gguf"))


# -- what llama.cpp makes of the mistakes ----------------------------------------------------------------------------


@pytest.mark.oracle
def test_llamacpp_refuses_the_pre_tokenizer_that_doctor_calls_an_error(qwen3: Path, tmp_path: Path) -> None:
    from refembed.errors import RefembedError
    from refembed.verify.engines.llamacpp import LlamaCpp

    with LlamaCpp(qwen3, threads=1):
        pass
    bad = changed(qwen3, tmp_path / "m.gguf", {"tokenizer.ggml.pre": ("nosuch", TEXT)})
    with pytest.raises(RefembedError), LlamaCpp(bad, threads=1):
        pass


@pytest.mark.oracle
def test_llamacpp_adds_no_eos_where_doctor_says_so(qwen3: Path, tmp_path: Path) -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    with LlamaCpp(qwen3, threads=1) as engine:
        assert engine.tokenize("ab")[-1] == 94
    bad = changed(qwen3, tmp_path / "m.gguf", {"tokenizer.ggml.add_eos_token": None})
    with LlamaCpp(bad, threads=1) as engine:
        assert engine.tokenize("ab")[-1] != 94


def test_nan_is_counted_and_placed_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t = open_gguf(synthetic(tmp_path / "a.gguf", "bert", C=64, H=4, F=128, type_name="Q8_0")).tensors[
        "blk.0.ffn_up.weight"
    ]
    blocks = np.array(t.raw).view(t.type.block)
    blocks["d"][[3, 200]] = np.nan
    broken = replace(t, raw=blocks.view(np.uint8))
    for chunk in (32, 64, 1 << 22):
        monkeypatch.setattr("refembed.verify.doctor.weights.CHUNK", chunk)
        assert measure(broken)[:2] == (2 * 32, 3 * 32)


@pytest.mark.parametrize(
    "given",
    [
        ("a", "STRING"), (7, "UINT8"), (-1, "INT64"), (float("inf"), "FLOAT32"), (True, "BOOL"), ([], "ARRAY[UINT32]"),
        ([1, 2], "ARRAY[INT32]"), ([b"a", b"b"], "ARRAY[STRING]"),
    ],
)  # fmt: skip
def test_any_key_of_another_type_is_a_finding(given: tuple[Any, str], bert: Path, tmp_path: Path) -> None:
    """Or an error of refembed's own where no check could go on; info describes the file all the same."""
    keys = list(open_gguf(bert).metadata)
    assert keys
    for key in keys:
        path = changed(bert, tmp_path / "other.gguf", {key: given})
        for command in (["doctor", str(path)], ["info", str(path), "--json"]):
            assert run(command) in (0, 2, 3), (key, command)
