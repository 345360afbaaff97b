"""Whole models in each precision of `cupy`, on the CPU; `precision` as an option, and what is said of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.corpus.fingerprint import describe
from refembed.errors import ModelError, RequestError
from refembed.gguf import open_gguf
from refembed.kernels.cuda import precision as precisions
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.numerics import PRECISIONS, check_precision, load_ops
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_lora import synthetic_lora
from refembed.verify.compare.arrays import cosine_distance
from tests.cli.conftest import Cli, cli
from tests.copies import copied
from tests.kernels.cuda.fake_cupy import FakeCupy
from tests.kernels.cuda.on_cpu import OnCpu
from tests.kernels.cuda.test_tensor_cores import CUT_OFF
from tests.model.bits import some_ids

__all__ = ["cli"]  # a fixture

TEXTS = ["Hello, world!", "x"]
# 1 - cos to `exact` on the worse of these texts: half and twice of what was measured, 3.2e-7, 3.1e-7 and 2.0e-5
NEAR = {"tf32": (1.6e-7, 6.4e-7), "fp16": (1.5e-7, 6.2e-7), "bf16": (1e-5, 4.1e-5)}
# largest difference of hidden states over the largest value, as measured: with 11 bits of mantissa, and with 8
FAR = {"bert": (9.3e-4, 7.3e-3), "gpt-oss": (1.3e-3, 8.8e-3), "qwen3next": (5.7e-3, 8.7e-2)}


def on_cpu(path: Path, built: Path, precision: str, changed: dict[str, str] | None = None) -> Embedder:
    """The model in that precision, on the CPU."""
    e = Embedder.load(path, numerics="exact")
    return Embedder(e.info, e.tokenizer, e.model, Cupy(OnCpu(built, changed=changed), precision=precision))


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_minilm_is_as_near_the_definition_as_its_rounding_allows(minilm: Path, built: Path, precision: str) -> None:
    """And texts stand alone."""
    exact, e = Embedder.load(minilm, numerics="exact"), on_cpu(minilm, built, precision)
    want, got = (np.asarray(x.embed(TEXTS), np.float64) for x in (exact, e))
    low, high = NEAR[precision]
    assert low < max(map(cosine_distance, want, got)) < high
    assert np.asarray(e.embed(TEXTS[0])).astype(np.float64).tobytes() == got[0].tobytes()


def test_sums_that_are_cut_off_move_a_vector_within_its_noise(minilm: Path, built: Path) -> None:
    """As coarsely as any GPU's are: a last bit decides now and then to which side an activation is rounded, so what
    comes of it is another sample of the same noise.
    """
    want = np.asarray(Embedder.load(minilm, numerics="exact").embed(TEXTS[0]), np.float64)
    one, cut = (np.asarray(on_cpu(minilm, built, "fp16", c).embed(TEXTS[0]), np.float64) for c in (None, CUT_OFF))
    assert cosine_distance(want, cut) < NEAR["fp16"][1]
    assert 0 < cosine_distance(one, cut) < NEAR["fp16"][1]


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
@pytest.mark.parametrize("arch", FAR)
def test_models_of_several_kinds_run_and_texts_stand_alone(
    arch: str, precision: str, tmp_path: Path, built: Path
) -> None:
    """Experts, gates and states; odd widths throughout."""
    path, texts = synthetic(tmp_path / "m.gguf", arch, n_layer=2), [some_ids(n) for n in (9, 1, 19)]
    exact, e = Embedder.load(path, numerics="exact"), on_cpu(path, built, precision)
    want, got = exact.forward(texts), np.asarray(e.forward(texts))
    measured = FAR[arch][precision == "bf16"]
    assert measured / 2 < np.abs(got - want).max() / np.abs(want).max() < 2 * measured
    for text, part in zip(texts, np.split(got, [9, 10]), strict=True):
        assert e.forward([text]).tobytes() == part.tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_is_an_option_that_is_kept_and_said(fake: FakeCupy, tiny: Path, built: Path, precision: str) -> None:
    """By `Embedder.load`; with an adapter; in what a vector depends on; when an embedder is copied."""
    e = Embedder.load(tiny, numerics="cupy", precision=precision)
    assert e.info.numerics == ("cupy" if precision == "float32" else f"cupy ({precision})")
    assert e.trace("the cat").meta["numerics"] == e.info.numerics
    direct = on_cpu(tiny, built, precision)
    assert e.embed("the cat").tobytes() == direct.embed("the cat").tobytes()
    again = pickle.loads(pickle.dumps(e))
    assert (again.ops.precision, again.info.numerics) == (precision, e.info.numerics)
    assert describe(e)["numerics"] == e.info.numerics
    assert describe(e)["machine"].endswith(" tensor cores 9.0") == (precision != "float32")


def test_an_adapter_is_multiplied_in_the_precision(fake: FakeCupy, tmp_path: Path) -> None:
    model = synthetic(tmp_path / "model.gguf", "jina-bert-v2")
    adapter = synthetic_lora(tmp_path / "adapter.gguf", model)
    e = Embedder.load(model, numerics="cupy", precision="bf16", lora=[adapter])
    assert (e.info.numerics, e.ops.hardware) == ("cupy (bf16)", "tensor cores 9.0")
    vectors = [Embedder.load(model, numerics=n, lora=[adapter]).embed([some_ids(9)])[0] for n in ("exact", "cupy")]
    got = np.asarray(e.embed([some_ids(9)])[0], np.float64)
    assert cosine_distance(np.float64(vectors[0]), np.float64(vectors[1])) < 1e-10
    assert 1e-7 < cosine_distance(np.float64(vectors[0]), got) < 1e-3


def overflowing(tiny: Path, path: Path) -> Path:
    """The tiny model with a bias of a million in its first layer, in front of GELU and a second matrix."""
    bias = open_gguf(tiny).tensors["blk.0.ffn_up.bias"].dequantize().copy()
    bias[3] = 1e6
    return copied(tiny, path, tensors={"blk.0.ffn_up.bias": bias})


def test_an_activation_beyond_fp16_is_one_error(fake: FakeCupy, tiny: Path, tmp_path: Path) -> None:
    """With what to do about it. bf16 and tf32 go as far as float32."""
    path = overflowing(tiny, tmp_path / "m.gguf")
    with pytest.raises(ModelError, match="the model gave a vector that is not finite") as error:
        Embedder.load(path, numerics="cupy", precision="fp16").embed(["the cat", "a dog"])
    assert error.value.hint.startswith("precision fp16 ends at 65504, and precision bf16 and tf32 go as far as float32")
    want = np.asarray(Embedder.load(path, numerics="exact").embed("the cat"), np.float64)
    for precision in ("tf32", "bf16"):
        got = Embedder.load(path, numerics="cupy", precision=precision).embed("the cat")
        assert cosine_distance(want, np.asarray(got, np.float64)) < 1e-2


@pytest.mark.usefixtures("fake")
def test_a_precision_that_is_none_is_one_error() -> None:
    with pytest.raises(RequestError) as error:
        load_ops("cupy", precision="float16")
    message = "precision 'float16': there is no such precision"
    assert (error.value.message, error.value.hint) == (message, "did you mean 'fp16'?")
    with pytest.raises(RequestError) as error:
        load_ops("cupy", precision="nosuch")
    assert error.value.hint == "one of float32, tf32, fp16, bf16"
    for numerics in ("fast", "exact", "ggml", "bf16", "auto"):
        with pytest.raises(RequestError, match=f"precision 'fp16': numerics '{numerics}' has no choice there"):
            load_ops(numerics, precision="fp16")
        check_precision("float32", numerics)
    assert list(PRECISIONS) == list(precisions.PRECISIONS)


@pytest.mark.usefixtures("fake")
def test_the_command_line_has_it(cli: Cli, tiny: Path) -> None:
    for where in (["--device", "cuda"], ["-ngl", "99"], ["--numerics", "cupy"]):
        r = cli("embed", "-m", tiny, *where, "--precision", "bf16", "the cat")
        assert (r.code, "numerics cupy (bf16)" in r.err) == (0, True)
