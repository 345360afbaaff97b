"""GGUF to GGUF: whole files against those that llama.cpp's llama_model_quantize wrote (tests/data/quantize.json)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import tracemalloc
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.convert.folder import convert
from refembed.convert.quantize import quantize_file
from refembed.convert.quantize_mix import ALIASES, TYPES, canonical
from refembed.errors import ModelError, RefembedError, RequestError
from refembed.gguf import GGUFWriter, open_gguf
from refembed.kernels.quant.quantize import CHUNK
from tests.quantize_models import MODELS, build
from tests.record_quantize import FILE, kinds, label, sha256

FAST = ("Q8_0", "Q4_K_M", "Q6_K")  # of the real model; the small ones go through every type


@cache
def recorded() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small models, each once."""
    folder = tmp_path_factory.mktemp("models")
    return {name: build(name, folder / f"{name}.gguf") for name in MODELS}


def same_as_recorded(model: str, source: Path, out: Path, name: str, *, pure: bool) -> None:
    """Quantize and compare with what llama.cpp made of the same file; where it refuses, so does refembed."""
    record = recorded()[model]
    assert sha256(source) == record["input"], "another file was recorded"
    expected = record[label(name, pure)]
    if expected is None:
        with pytest.raises(RefembedError):
            quantize_file(source, out, name, pure=pure, allow_requantize=True)
        assert not out.exists()
        return
    quantize_file(source, out, name, pure=pure, allow_requantize=True)
    assert kinds(out) == expected[1]
    assert sha256(out) == expected[0], "the types are the same, but not the bytes"


@pytest.mark.parametrize("pure", [False, True], ids=["mix", "pure"])
@pytest.mark.parametrize("model", MODELS)
def test_the_file_is_the_one_llama_quantize_writes(
    model: str, pure: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    for name in TYPES:
        same_as_recorded(model, models[model], tmp_path / f"{name}.gguf", name, pure=pure)


@pytest.mark.parametrize("name", FAST)
def test_minilm_becomes_the_file_llama_quantize_writes(name: str, minilm: Path, tmp_path: Path) -> None:
    same_as_recorded("minilm", minilm, tmp_path / "out.gguf", name, pure=False)


@pytest.mark.slow
@pytest.mark.parametrize("pure", [False, True], ids=["mix", "pure"])
@pytest.mark.parametrize("name", TYPES)
def test_minilm_becomes_the_file_llama_quantize_writes_for_every_type(
    name: str, pure: bool, minilm: Path, tmp_path: Path
) -> None:
    same_as_recorded("minilm", minilm, tmp_path / "out.gguf", name, pure=pure)


def test_the_record_holds_every_type_of_every_model() -> None:
    wanted = {"input", *(label(name, pure) for name in TYPES for pure in (False, True))}
    assert set(recorded()) == {"provenance", "minilm", *MODELS}
    assert all(set(recorded()[model]) == wanted for model in ("minilm", *MODELS))


def test_names_are_taken_in_any_case_and_k_quants_without_a_size() -> None:
    assert [canonical(n) for n in ("q4_k", "Q5_K", "iq4_nl", "f16")] == ["Q4_K_M", "Q5_K_M", "IQ4_NL", "F16"]
    assert all(canonical(alias) == name for alias, name in ALIASES.items())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("IQ2_XS", "'IQ2_XS' needs an importance matrix or a codebook"),
        ("q2_k_s", "'q2_k_s' needs an importance matrix"),
        ("Q9", r"(?s)'Q9' is no type of model file.*one of F32, F16"),
        ("", "'' is no type"),
    ],
)
def test_a_type_that_cannot_be_written_is_a_request_error(name: str, found: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=found):
        quantize_file(tiny, tmp_path / "out.gguf", name)


def test_tensors_that_are_kept_keep_type_and_bytes_and_change_no_other(models: dict[str, Path], tmp_path: Path) -> None:
    source, plain, kept = models["bert"], tmp_path / "plain.gguf", tmp_path / "kept.gguf"
    quantize_file(source, plain, "Q4_K_M")
    quantize_file(source, kept, "Q4_K_M", keep=["token_embd.*", "blk.?.attn_v.weight"])
    before, without, found = (open_gguf(p).tensors for p in (source, plain, kept))
    assert set(found) == set(before)
    for name, t in found.items():
        is_kept = name.startswith("token_embd.") or (name.endswith("attn_v.weight") and name[5] == ".")
        assert t.type == (before if is_kept else without)[name].type, name
        assert bytes(t.raw) == bytes((before if is_kept else without)[name].raw), name


def test_a_pattern_that_fits_no_tensor_is_a_request_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"(?s)no tensor is called token_emb.*did you mean token_embd.weight"):
        quantize_file(tiny, tmp_path / "out.gguf", "Q8_0", keep=["*.bias", "token_emb"])


def test_what_is_quantized_is_not_quantized_again_unasked(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)is Q8_0 already.*--allow-requantize"):
        quantize_file(models["modern-bert-q8_0"], tmp_path / "out.gguf", "Q4_0")
    assert not list(tmp_path.iterdir())


def test_to_the_type_it_has_a_quantized_file_is_copied(models: dict[str, Path], tmp_path: Path) -> None:
    source = models["modern-bert-q8_0"]
    quantize_file(source, tmp_path / "out.gguf", "Q8_0")
    before, after = open_gguf(source).tensors, open_gguf(tmp_path / "out.gguf").tensors
    assert {n: bytes(t.raw) for n, t in after.items()} == {n: bytes(t.raw) for n, t in before.items()}


def model_of(path: Path, x: Any, byteorder: Any = "<") -> Path:
    """A model with one weight and a vector."""
    w = GGUFWriter("bert", byteorder=byteorder)
    w.add_tensor("a.weight", x, x.shape, "F32")
    w.add_tensor("a.bias", np.arange(3, dtype=np.float32), (3,), "F32")
    return w.write(path)


@pytest.mark.parametrize(
    ("value", "error", "found"),
    [
        (np.nan, RequestError, r"(?s)tensor a.weight: NaN or infinity.*damaged"),
        (-np.inf, RequestError, "tensor a.weight: NaN or infinity"),
        (1e7, RequestError, r"tensor a.weight: numbers up to 1e\+07 are beyond Q4_0"),
    ],
)
def test_numbers_a_type_cannot_hold_are_an_error_that_names_the_tensor(
    value: float, error: type[Exception], found: str, tmp_path: Path
) -> None:
    x = np.ones((2, 64), np.float32)
    x[1, 63] = value
    source = model_of(tmp_path / "in.gguf", x)
    with pytest.raises(error, match=found) as e:
        quantize_file(source, tmp_path / "out.gguf", "Q4_0", pure=True)
    assert str(e.value).count("hint:") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_a_big_endian_file_becomes_the_same_little_endian_one(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 4 * 256, dtype=np.float32).reshape(4, 256)
    for order, name in (("<", "little"), (">", "big")):
        quantize_file(model_of(tmp_path / name, x, order), tmp_path / f"{name}.gguf", "Q5_K_M", keep=["*.bias"])
    assert (tmp_path / "big.gguf").read_bytes() == (tmp_path / "little.gguf").read_bytes()


def test_a_split_model_becomes_the_one_file_it_was(models: dict[str, Path], tmp_path: Path) -> None:
    whole = open_gguf(models["modern-bert"])
    for number in range(2):
        w = GGUFWriter(None)
        if number == 0:
            w.copy_keys(whole.metadata)
        for key, value, kind in (("no", number, "UINT16"), ("count", 2, "UINT16"), ("tensors.count", 38, "INT32")):
            w.add(f"split.{key}", value, kind)
        for i, t in enumerate(whole.tensors.values()):
            if i % 2 == number:
                w.add_tensor(t.name, t.raw, t.shape, t.type.name)
        w.write(tmp_path / f"in-{number + 1:05d}-of-00002.gguf")
    with pytest.raises(RequestError, match="is the input file itself"):
        quantize_file(tmp_path / "in-00001-of-00002.gguf", tmp_path / "in-00002-of-00002.gguf", "Q4_K_M")
    quantize_file(tmp_path / "in-00001-of-00002.gguf", tmp_path / "out.gguf", "Q4_K_M")
    assert sha256(tmp_path / "out.gguf") == recorded()["modern-bert"]["Q4_K_M"][0]


def test_keys_of_splitting_go_and_the_alignment_stays(tmp_path: Path) -> None:
    w = GGUFWriter("bert", alignment=64)
    w.add("split.count", 1, "UINT16")
    w.add_tensor("a.weight", np.ones((3, 32), np.float32), (3, 32), "F32")
    w.add_tensor("b.weight", np.ones((3, 32), np.float32), (3, 32), "F32")
    quantize_file(w.write(tmp_path / "in.gguf"), tmp_path / "out.gguf", "Q4_0")
    file = open_gguf(tmp_path / "out.gguf")
    assert file.alignment == 64
    assert list(file.metadata) == [
        "general.alignment",
        "general.architecture",
        "general.quantization_version",
        "general.file_type",
    ]


def test_the_input_is_never_written_over(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.gguf"
    source.write_bytes(tiny.read_bytes())
    (tmp_path / "link.gguf").symlink_to(source)
    for out in (source, tmp_path / "link.gguf"):
        with pytest.raises(RequestError, match="is the input file itself"):
            quantize_file(source, out, "Q8_0")
    assert source.read_bytes() == tiny.read_bytes()


def test_a_folder_converted_to_a_type_is_the_file_converted_and_then_quantized(
    minilm_folder: Path, tmp_path: Path
) -> None:
    """The record is of the model in F32, which tests/convert/test_convert.py holds against llama.cpp's converter."""
    convert(minilm_folder, tmp_path / "out.gguf", outtype="q4_k_m")
    assert sha256(tmp_path / "out.gguf") == recorded()["minilm"]["Q4_K_M"][0]
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]
    with pytest.raises(RequestError, match="cannot be written"):
        convert(minilm_folder, tmp_path / "nowhere" / "out.gguf", outtype="q4_k_m")


def test_progress_ends_at_the_total(tiny: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    quantize_file(tiny, tmp_path / "out.gguf", "Q8_0", progress=lambda *call: calls.append(call))
    total = sum(t.nbytes for t in open_gguf(tiny).tensors.values())
    assert calls[0] == ("quantizing", 0, total)
    assert calls[-1] == ("quantizing", total, total)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K_M"])
def test_memory_grows_with_the_largest_tensor_not_with_the_model(name: str, tmp_path: Path) -> None:
    w = GGUFWriter("bert")
    w.add("bert.block_count", 16, "UINT32")
    x = np.tile(np.linspace(-1, 1, 1024, dtype=np.float32), (512, 1))
    for i in range(16):  # 34 MB of weights, of which no matrix has more than 2.1
        w.add_tensor(f"blk.{i}.ffn_up.weight", x, x.shape, "F32")
    source = w.write(tmp_path / "in.gguf")
    quantize_file(source, tmp_path / "warm.gguf", name)
    tracemalloc.start()
    try:
        quantize_file(source, tmp_path / "out.gguf", name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # a thread works on a chunk, with some twenty arrays of its size in between
    assert peak < 2 * x.nbytes + min(os.cpu_count() or 1, x.size // CHUNK) * 20 * 4 * CHUNK


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_disk_that_fills_up_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for the disk."""
    code = f"""
        import resource, signal
        from refembed.convert.quantize import quantize_file
        from refembed.errors import RequestError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
        try:
            quantize_file({str(tiny)!r}, {str(tmp_path / "out.gguf")!r}, "F16")
        except RequestError as e:
            print(e)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "out.gguf cannot be written: File too large" in run.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "most"), [("Q8_0", 4e-4), ("Q4_K_M", 1e-2), ("IQ4_XS", 2.5e-2)])
def test_llama_cpp_loads_the_file_and_embeds_with_it(name: str, most: float, minilm: Path, tmp_path: Path) -> None:
    """The type's own error is all that is left: 1 - cosine of 2.6e-4, 7.0e-3 and 1.8e-2 as measured."""
    from refembed.verify.engines.llamacpp import LlamaCpp

    quantize_file(minilm, tmp_path / "out.gguf", name)
    vectors = []
    for path in (minilm, tmp_path / "out.gguf"):
        with LlamaCpp(path, threads=1) as engine:
            vectors.append(np.asarray(engine.embed(["A cat sat on the mat."])[0], np.float64))
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    assert 1 - cosine < most
