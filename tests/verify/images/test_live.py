"""`verify` of live libmtmd, llama-server, recordings and functions: no false alarm, and what they show."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError, RequestError
from refembed.pipeline.images import MARKER
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.engines.images import open_image_engine
from refembed.verify.engines.llamacpp import LlamaCpp
from refembed.verify.images.run import verify_images
from refembed.verify.run import verify
from tests.cli.conftest import Cli, cli
from tests.llama_server import llama_server
from tests.verify.engine import Stub
from tests.verify.images.engine import MODULES, faulty, files, inputs
from tests.verify.printed import tensor_lines

__all__ = ["cli"]  # a fixture
AGREES = ("identical", "within rounding")


@pytest.mark.oracle
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("tower", MODULES)
def test_live_libmtmd_raises_no_alarm(tower: str, flash_attn: bool, tmp_path: Path) -> None:
    model, mmproj = files(tmp_path, tower)
    e = Embedder.load(model, mmproj=mmproj)
    with closing(open_image_engine("llamacpp", model, mmproj, flash_attn=flash_attn)) as engine:
        verdict = verify_images(e, engine, inputs())
    assert verdict.kind == "identical"
    assert (verdict.causes, verdict.first_wrong_tensor) == ((), None)
    assert len(verdict.evidence.tensors) > 20
    assert {t.text.split(" ")[0] for t in verdict.evidence.texts} >= {"rows", "image"}


@pytest.mark.oracle
@pytest.mark.system
def test_llama_server_with_images_is_compared_by_vectors(tmp_path: Path, cli: Cli) -> None:
    model, mmproj = files(tmp_path, "gemma4v")
    for i, given in enumerate(inputs()):
        np.save(tmp_path / f"{i}.npy", given["image"])
    images = [a for i in range(3) for a in ("--image", str(tmp_path / f"{i}.npy"))]
    with llama_server(model, "mean", mmproj=str(mmproj)) as address:
        r = cli("verify", str(model), "--mmproj", str(mmproj), *images, "--against", address, "--json")
    verdict = json.loads(r.out)
    assert (r.code, verdict["kind"] in AGREES, verdict["causes"]) == (0, True, [])
    assert len(verdict["evidence"]["texts"]) == 3
    with llama_server(model, "mean") as address, pytest.raises(EngineError, match="has no vision tower"):
        open_image_engine(address, model, mmproj)


def test_a_recorded_trace_of_a_tower_is_compared_tensor_by_tensor(tmp_path: Path) -> None:
    model, mmproj = files(tmp_path, "qwen3vl")
    e = Embedder.load(model, mmproj=mmproj)
    (given,) = inputs([(50, 71)])
    file = e.trace_image(given["image"]).save(tmp_path / "run.npz")
    assert verify(e, open_image_engine(file, model, mmproj), [given]).kind == "within rounding"
    wrong = faulty(e, "qwen3vl", "enumerate((row, column))", "enumerate((column, row))")
    file = wrong.embedder.trace_image(given["image"]).save(tmp_path / "wrong.npz")
    verdict = verify(e, open_image_engine(file, model, mmproj), [given])
    assert (verdict.kind, [c.id for c in verdict.causes]) == ("differs", ["rope-swapped"])
    assert verdict.first_wrong_tensor == "Qcur_rope-0"
    small = verify(e, open_image_engine(file, model, mmproj), inputs([(90, 90)]))
    assert (small.kind, small.first_wrong_tensor) == ("differs", "inp_raw")
    with pytest.raises(EngineError, match="no run of a vision tower"):
        open_image_engine(e.trace("a cat").save(tmp_path / "text.npz"), model, mmproj)


def test_recorded_vectors_and_functions_are_compared_in_order(tmp_path: Path) -> None:
    model, mmproj = files(tmp_path, "gemma3")
    e = Embedder.load(model, mmproj=mmproj)
    file = tmp_path / "vectors.npy"
    np.save(file, e.embed(inputs()))
    assert verify(e, open_image_engine(file, model, mmproj), inputs()).kind in AGREES
    with pytest.raises(EngineError, match="3 vectors for 2 images"):
        verify(e, open_image_engine(file, model, mmproj), inputs()[:2])

    def mirrored(items: list[dict[str, Any]]) -> Any:
        return e.embed([item | {"image": [x[:, ::-1] for x in item["image"]]} for item in items])

    assert verify(e, open_image_engine(e.embed, model, mmproj), inputs()).kind in AGREES
    assert [c.id for c in verify(e, open_image_engine(mirrored, model, mmproj), inputs()).causes] == ["mirrored"]


def test_the_command_says_what_differs_and_what_to_do(tmp_path: Path, cli: Cli) -> None:
    model, mmproj = files(tmp_path, "gemma3")
    e = Embedder.load(model, mmproj=mmproj)
    np.save(tmp_path / "photo.npy", inputs()[0]["image"])
    np.save(tmp_path / "vectors.npy", e.embed([{"text": f"a {MARKER}", "image": inputs()[0]["image"][..., ::-1]}]))
    (tmp_path / "texts.txt").write_text(f"a {MARKER}\n")
    args = ["verify", str(model), "--mmproj", str(mmproj), "--image", str(tmp_path / "photo.npy"),
            "--texts", str(tmp_path / "texts.txt"), "--against", str(tmp_path / "vectors.npy")]  # fmt: skip
    r = cli(*args)
    assert r.code == 3
    assert "The engine reads blue, green, red for red, green, blue." in r.out.replace("\n", " ")
    assert "what to do: hand over pixels as red, green and blue" in r.out
    assert "tower: " in r.out
    r = cli("verify", str(model), "--image", "photo.npy", "--against", "llamacpp")
    assert (r.code, "--image needs --mmproj FILE" in r.err) == (1, True)


def test_texts_and_images_are_not_mixed(tmp_path: Path) -> None:
    model, mmproj = files(tmp_path, "gemma3")
    e = Embedder.load(model, mmproj=mmproj)
    with pytest.raises(RequestError, match="compared apart"):
        verify(e, open_image_engine(e.embed, model, mmproj), ["a cat", *inputs()])
    with pytest.raises(EngineError, match="stub takes no images"):
        verify(e, Stub(e.embed), inputs())


@pytest.mark.oracle
def test_a_printed_run_of_a_tower_is_compared_where_it_was_printed(tmp_path: Path) -> None:
    """What llama.cpp's eval-callback prints of live libmtmd; and of a tower whose file asks for another GELU."""
    model, mmproj = files(tmp_path, "gemma3")
    (given,) = inputs([(50, 71)])
    with LlamaCpp(model, mmproj=mmproj) as engine:
        trace = engine.trace_image(given["image"])
    lines = [line for i, t in enumerate(trace.tensors) if t.op != "NONE" for line in tensor_lines(trace, i)]
    (tmp_path / "dump.txt").write_text("\n".join(lines) + "\n")
    for activation, kind, causes, first in (
        ("gelu", "within rounding", [], None),
        ("quick", "differs", ["gelu-tanh", "gelu-erf"], "ffn_down-0"),  # the same to four decimals
    ):
        keys = {"use_gelu": (activation == "gelu", "BOOL")}
        own = synthetic_mmproj(tmp_path / f"{activation}.gguf", keys=keys)
        e = Embedder.load(model, mmproj=own)
        verdict = verify(e, open_image_engine(tmp_path / "dump.txt", model, own), [given])
        assert (verdict.kind, [c.id for c in verdict.causes]) == (kind, causes)
        assert len(verdict.evidence.tensors) > 20
        assert verdict.first_wrong_tensor == first
    with pytest.raises(EngineError, match="nothing to compare"):
        verify(e, open_image_engine(tmp_path / "dump.txt", model, own), [given], trace=False)
