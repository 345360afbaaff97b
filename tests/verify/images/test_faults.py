"""Towers broken on purpose: `verify` names the fault and the first wrong tensor; a sound one raises no alarm."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest

from refembed import Embedder
from refembed.verify.run import verify
from tests.model.faults import broken
from tests.verify.images.engine import MODULES, Faulty, faulty, files, inputs

pytestmark = pytest.mark.system

RESIZE = '__import__("refembed.model.vision.preprocess", fromlist=["resize"]).resize(image,'


class Fault(NamedTuple):
    """One piece of a tower's file, written wrongly."""

    tower: str
    right: str  # stands once in the file
    wrong: str
    cause: str  # the id that names it
    first: str | None  # the first wrong tensor; None: the tower is right, its rows are handed on otherwise


FAULTS = [
    Fault("gemma3", "normalized(fit(image,", "normalized(fit(image[..., ::-1],", "bgr", "inp_raw"),
    Fault("gemma3", '_size, "bilinear")', '_size, "bicubic")', "filter-bicubic", "inp_raw"),
    Fault("gemma3", "fit(image,", RESIZE, "stretched", "inp_raw"),
    Fault("gemma3", "hp.mean, hp.std)", "hp.std, hp.mean)", "mean-std-swapped", "inp_raw"),
    Fault("gemma3", "ops.weight(w.position_embd)", "np.roll(ops.weight(w.position_embd), -1, 0)", "places-from-one",
          "pos_embed"),
    Fault("gemma3", "activate[hp.activation](h)", "ops.gelu_quick(h)", "gelu-quick", "ffn_gelu-0"),
    Fault("gemma3", "math.sqrt(hp.n_embd_head)", "math.sqrt(hp.n_embd)", "scores-by-width", "kq_soft_max-0"),
    Fault("gemma3", "ops.pool_2d(planes, hp.n_merge)",
          "np.ascontiguousarray(planes[:, :: hp.n_merge, :: hp.n_merge])", "pool-first", "pool_2d"),
    Fault("gemma3", "for il, blk in enumerate(w.blk):", "for il, blk in enumerate(w.blk[:-1]):",
          "last-layer-left-out", "norm"),
    Fault("gemma3", '("<start_of_image>", "<end_of_image>")', '("", "")', "marks-left-out", None),
    Fault("gemma3", "takes_swapped=True", "takes_swapped=True, causal=True", "image-causal", None),
    Fault("gemma4v", "ops.multiply(ops.gelu_quick(gate), up)", "ops.geglu(gate, up)", "gelu-tanh", "ffn_geglu_quick-0"),
    Fault("gemma4v", "TOKENS = (70, 1120)", "TOKENS = (140, 1120)", "at-least-140-tokens", "inp_raw"),
    Fault("gemma4v", "x * 2 - 1", "x", "pixels-from-0-to-1", "inp_raw_scaled"),
    Fault("gemma4v", "ROPE_BASE = 100.0", "ROPE_BASE = 10000.0", "rope-base-10000", "Qcur_pos_x-0"),
    Fault("gemma4v", 'pairs="neox"', 'pairs="norm"', "rope-neighbors", "Qcur_pos_x-0"),
    Fault("gemma4v", "ops.rms_norm(v, None, eps)", "v", "v-norm-left-out", "Vcur_normed-0"),
    Fault("gemma4v", "hp.n_head, 1.0)", "hp.n_head, D**-0.5)", "scores-by-head", "kq_soft_max-0"),
    Fault("gemma4v", "normalized(fit(image,", "normalized(fit(image[:, ::-1],", "mirrored", "inp_raw"),
    Fault("gemma4v", '("<|image>", "<image|>")', '("<|image>", "")', "end-left-out", None),
    Fault("qwen3vl", "np.concatenate([x, further], axis=1)", "np.concatenate([x, 0 * further], axis=1)",
          "deepstack-left-out", "concatenated"),
    Fault("qwen3vl", "zip(w.deepstack, left, strict=True)", "zip(w.deepstack, left[::-1], strict=True)",
          "deepstack-layer-behind", "norm-0"),
    Fault("qwen3vl", "ops.interpolate(places, ny, nx)", "np.ascontiguousarray(places[:, :ny, :nx])",
          "places-not-interpolated", "interpolated"),
    Fault("qwen3vl", "enumerate((row, column))", "enumerate((column, row))", "rope-swapped", "Qcur_rope-0"),
    Fault("qwen3vl", "ops.conv_2d(x, w.patch_embd_1)", "ops.conv_2d(x, w.patch_embd)", "first-frame-twice",
          "patch_product_1"),
    Fault("qwen3vl", "ops.conv_2d(x, w.patch_embd_1)", "0 * ops.conv_2d(x, w.patch_embd_1)", "one-frame",
          "patch_product_1"),
    Fault("qwen3vl", 'width, height, "bicubic"', 'width, height, "bilinear"', "filter-bilinear", "inp_raw"),
    Fault("qwen3vl", "mrope=True, causal=True", "mrope=True", "image-sees-all", None),
    Fault("qwen3vl", "mrope=True, causal=True", "causal=True", "mrope-left-out", None),
    Fault("qwen3vl", '("<|vision_start|>", "<|vision_end|>")', '("", "<|vision_end|>")', "begin-left-out", None),
]  # fmt: skip
NAMES = [f"{f.tower}-{f.cause}" for f in FAULTS]


SAMPLE = ("bgr", "image-causal", "at-least-140-tokens", "deepstack-left-out", "mrope-left-out")  # the others are slow


def slow(fault: Fault) -> Any:
    """A row of the slow tier."""
    return pytest.param(fault, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Embedder]:
    @cache
    def make(tower: str) -> Embedder:
        model, mmproj = files(tmp_path_factory.mktemp(tower), tower)
        return Embedder.load(model, mmproj=mmproj, numerics="fast")

    return make


@pytest.mark.parametrize("fault", [f if f.cause in SAMPLE else slow(f) for f in FAULTS], ids=NAMES)
def test_the_fault_is_named_with_its_tensor(fault: Fault, embedder: Callable[[str], Embedder]) -> None:
    e = embedder(fault.tower)
    verdict = verify(e, faulty(e, *fault[:3]), inputs())
    assert verdict.kind == "differs"
    assert [c.id for c in verdict.causes] == [fault.cause], verdict.evidence.trials
    assert (verdict.first_wrong_tensor or "").split("[")[0] == (fault.first or "")
    assert verdict.remedy


BY_VECTORS = [
    f for f in FAULTS if f.first in ("inp_raw", None) or f.cause in ("gelu-quick", "gelu-tanh", "rope-swapped")
]
NAMES_BY_VECTORS = [f"{f.tower}-{f.cause}" for f in BY_VECTORS]


@pytest.mark.parametrize("fault", [f if f.cause in SAMPLE else slow(f) for f in BY_VECTORS], ids=NAMES_BY_VECTORS)
def test_it_is_named_by_vectors_alone(fault: Fault, embedder: Callable[[str], Embedder]) -> None:
    e = embedder(fault.tower)
    verdict = verify(e, faulty(e, *fault[:3], shows="vectors"), inputs())
    assert verdict.kind == "differs"
    assert [c.id for c in verdict.causes] == [fault.cause], verdict.evidence.trials
    assert verdict.first_wrong_tensor is None


@pytest.mark.parametrize("tower", MODULES)
def test_there_are_five_faults_a_tower_and_no_alarm_without_one(
    tower: str, embedder: Callable[[str], Embedder]
) -> None:
    assert len({f.cause for f in FAULTS if f.tower == tower}) >= 5
    e = embedder(tower)
    verdict = verify(e, Faulty(e, MODULES[tower]), inputs())
    assert (verdict.kind, verdict.causes, verdict.first_wrong_tensor) == ("identical", (), None)
    assert verdict.evidence.remarks == ()


@pytest.mark.slow
@pytest.mark.parametrize("shows", ["all", "vectors"])
def test_two_faults_at_once_are_both_named(shows: str, embedder: Callable[[str], Embedder]) -> None:
    e = embedder("gemma3")
    module = broken(MODULES["gemma3"], "activate[hp.activation](h)", "ops.gelu_quick(h)")
    vars(module)["pixels"] = broken(MODULES["gemma3"], "fit(image,", "fit(image[..., ::-1],").pixels
    verdict = verify(e, Faulty(e, module, shows), inputs())
    assert [c.id for c in verdict.causes] == ["bgr + gelu-quick"], verdict.evidence.trials
    assert verdict.first_wrong_tensor == ("inp_raw" if shows == "all" else None)


def test_what_is_below_the_noise_floor_is_a_remark(embedder: Callable[[str], Embedder]) -> None:
    """GELU in its erf form in the projections moves rows by 1.8e-4: 1 - cos is half the square of that."""
    e = embedder("qwen3vl")
    right = '{"gelu": ops.gelu, "gelu_erf"'
    verdict = verify(e, faulty(e, "qwen3vl", right, right.replace("ops.gelu,", "ops.gelu_erf,")), inputs())
    assert (verdict.kind, verdict.causes) == ("within rounding", ())
    assert "projector-gelu-erf" in " ".join(verdict.evidence.remarks)
