"""Vision towers against live libmtmd: every tensor, in every numerics, and faults found where they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from refembed.arrays import U8
from refembed.gguf import GGUFWriter, open_gguf
from refembed.kernels.numerics import load_ops
from refembed.model.trace import Trace
from refembed.model.vision import gemma4v, load_tower, qwen3vl, siglip
from refembed.testing.synthetic_mmproj import EVERY_BIAS, USUAL, synthetic_mmproj
from refembed.verify.compare.replay import LocalDifference
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.model.bits import unequal
from tests.model.faults import Fault, broken
from tests.model.vision.towers import Towers, picture, text_model

pytestmark = pytest.mark.oracle

G4: dict[str, Any] = {"projector": "gemma4v", "P": 4, "n_merge": 3, "n_layer": 1}
Q3: dict[str, Any] = {"projector": "qwen3vl_merger", "P": 6, "C": 24, "S": 25, "n_layer": 1}
SECOND = {name.replace(".0.", ".2.") for name in USUAL["qwen3vl_merger"]}
QUICK, SILU = ({f"use_{name}": (name == "silu", "BOOL") for name in ("gelu", "silu") if name in names}
               for names in (("gelu",), ("gelu", "silu")))  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "gemma3": {},
    "gemma3, F16": {"type_name": "F16"},
    "gemma3, no biases": {"optional": {"post_ln.weight"}},
    "gemma3, no last norm": {"optional": EVERY_BIAS - {"v.post_ln.bias"}},
    "gemma3, quick GELU": {"keys": QUICK, "n_layer": 1},
    "gemma3, SiLU": {"keys": SILU, "n_layer": 1},
    "gemma3, wide": {"C": 64, "H": 2, "F": 96, "E": 48, "n_layer": 1, "type_name": "F16"},
    "gemma3, many patches": {"image_size": 70, "P": 5, "n_merge": 7, "n_layer": 1},  # 196: flash attention has tiles
    "gemma3, one token": {"image_size": 28, "P": 7, "n_merge": 4, "n_layer": 1},
    "gemma4v": G4 | {"n_layer": 2},
    "gemma4v, F16": G4 | {"type_name": "F16"},
    "gemma4v, limits": G4 | {"limits": True},
    "gemma4v, standardized": G4 | {"optional": USUAL["gemma4v"] | {"v.std_bias", "v.std_scale", "out_scale.weight"}},
    "gemma4v, fewest tensors, last norm": G4 | {"optional": {"post_ln.weight"}, "n_merge": 2},
    "gemma4v, tanh GELU": G4 | {"keys": {"use_gelu": (True, "BOOL")}},
    "qwen3vl": Q3 | {"n_layer": 2},
    "qwen3vl, F16": Q3 | {"type_name": "F16"},
    "qwen3vl, no DeepStack": Q3 | {"optional": (), "H": 1},
    "qwen3vl, DeepStack of two layers": Q3 | {"n_layer": 3, "optional": USUAL["qwen3vl_merger"] | SECOND},
    "gemma4v, SiLU": G4 | {"keys": {"use_silu": (True, "BOOL")}},
}
IMAGES = {
    "gemma3": [(30, 20), (42, 42), (1, 1)],
    "gemma4v": [(120, 70), (1, 1)],
    "qwen3vl": [(60, 70), (60, 60), (300, 7)],
}
FEW = (
    "gemma3",
    "gemma3, SiLU",
    "gemma4v",
    "gemma4v, limits",
    "gemma4v, tanh GELU",
    "qwen3vl",
)  # whose rounding is measured


def images(variant: str) -> list[U8]:
    return [picture(*size) for size in IMAGES.get(variant, [(50, 31)])]


def written(variant: str, folder: Path, flash_attn: bool = False) -> Towers:
    return Towers(folder, flash_attn, seed=len(variant), **VARIANTS[variant])


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ggml_has_the_bits_of_every_tensor(variant: str, flash_attn: bool, tmp_path: Path) -> None:
    with written(variant, tmp_path, flash_attn) as both:
        for image in images(variant):
            theirs = both.engine.trace_image(image)
            assert both.unpaired(image, theirs) == ([], [])
            assert [f"{d.name}[{d.k}]" for d in both.local(image, "ggml", theirs) if not d.difference.identical] == []
            assert unequal(both.rows(image, "ggml"), theirs.meta["rows"]) == 0


# of one operation on llama.cpp's own inputs, over the largest value; measured with xllamacpp 2026.10.11549
LOCAL = 6e-7  # 2.7e-7, a product
LOCAL_BY_NAME = {
    "patch_product": 7e-4,  # 3.4e-4: pixels and the patch kernel in float16
    "patch_product_1": 7e-4,
    "ffn_gelu": 1e-3,  # 3.7e-4: a table of float16, as the next two
    "ffn_geglu": 1e-3,  # 3.8e-4
    "ffn_geglu_quick": 1.5e-3,  # 7.3e-4
}
WHOLE = 6e-3  # 2.9e-3, of any tensor in a whole run
ROWS = 8e-4  # 3.4e-4, of the rows that come out


def bound_of(d: LocalDifference) -> float:
    return LOCAL_BY_NAME.get(d.name.split("-")[0], LOCAL)


@pytest.mark.parametrize("variant", FEW)
def test_exact_and_fast_differ_by_rounding_alone(variant: str, tmp_path: Path) -> None:
    with written(variant, tmp_path) as both:
        image = images(variant)[0]
        theirs = both.engine.trace_image(image)
        for numerics in ("exact", "fast"):
            for d in both.local(image, numerics, theirs):
                assert d.difference.rel_peak <= bound_of(d), f"{d.name}[{d.k}] ({numerics}): {d.difference}"
            whole = both.propagated(image, numerics, theirs)
            assert max(whole.values()) <= WHOLE
            assert whole["projected"] <= ROWS


def test_files_with_ffn_up_and_down_the_other_way_around_are_the_same_tower(tmp_path: Path) -> None:
    """As early converters wrote them."""
    usual = open_gguf(synthetic_mmproj(tmp_path / "usual.gguf", n_layer=1))
    w = GGUFWriter(None)
    w.copy_keys(usual.metadata)
    swap = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
    for name, t in usual.tensors.items():
        part = name.split(".")[-2]
        w.add_tensor(name.replace(part, swap.get(part, part)), t.raw, t.shape, t.type.name)
    path = w.write(tmp_path / "swapped.gguf")
    tower = load_tower(open_gguf(path))
    ours = tower.rows(picture(20, 20), load_ops("ggml", flash_attn=False))
    for file in (tmp_path / "usual.gguf", path):
        with LlamaCpp(text_model(tmp_path), mmproj=file, flash_attn=False) as engine:
            assert unequal(ours, engine.trace_image(picture(20, 20)).meta["rows"]) == 0


FAULTS: list[tuple[ModuleType, Fault]] = [
    (siglip, Fault("another filter", "gemma3", '_size, "bilinear")', '_size, "bicubic")', "inp_raw[0]")),
    (siglip, Fault("blue for red", "gemma3", "normalized(fit(image,", "normalized(fit(image[..., ::-1],",
                   "inp_raw[0]")),
    (siglip, Fault("places from the end", "gemma3", "weight(w.position_embd)", "weight(w.position_embd)[::-1]",
                   "pos_embed[0]")),
    (siglip, Fault("scale by all channels", "gemma3", "math.sqrt(hp.n_embd_head)", "math.sqrt(hp.n_embd)",
                   "kq_soft_max-0[0]")),
    (siglip, Fault("quick GELU", "gemma3", "activate[hp.activation](h)", "ops.gelu_quick(h)", "ffn_gelu-0[0]")),
    (siglip, Fault("one patch of a square", "gemma3", "ops.pool_2d(planes, hp.n_merge)",
                   "np.ascontiguousarray(planes[:, :: hp.n_merge, :: hp.n_merge])", "pool_2d[0]")),
    (siglip, Fault("columns for rows", "gemma3", "hp.n_side, hp.n_side)", "hp.n_side, hp.n_side).transpose(0, 2, 1)",
                   "pool_2d[0]")),
    (siglip, Fault("no residual", "gemma3", 'tap("ffn_inp", ops.add(a, x))', 'tap("ffn_inp", a)', "ffn_inp-0[0]")),
    (gemma4v, Fault("pixels from 0 to 2", "gemma4v", "x * 2 - 1", "x * 2", "inp_raw_scaled[0]")),
    (gemma4v, Fault("rows for columns", "gemma4v", "    column, row = np", "    row, column = np", "embd_x[0]")),
    (gemma4v, Fault("another base", "gemma4v", "ROPE_BASE = 100.0", "ROPE_BASE = 10000.0", "Qcur_pos_x-0[0]")),
    (gemma4v, Fault("all turned by columns", "gemma4v", "half:]), row, rope)", "half:]), column, rope)",
                    "Qcur_pos-0[0]")),
    (gemma4v, Fault("values as they are", "gemma4v", "ops.rms_norm(v, None, eps)", "v", "Vcur_normed-0[0]")),
    (gemma4v, Fault("scores scaled", "gemma4v", "hp.n_head, 1.0)", "hp.n_head, D**-0.5)", "kq_soft_max-0[0]")),
    (gemma4v, Fault("tanh GELU", "gemma4v", "ops.multiply(ops.gelu_quick(gate), up)", "ops.geglu(gate, up)",
                    "ffn_geglu_quick-0[0]")),
    (gemma4v, Fault("no limits going in", "gemma4v, limits", "np.clip(x, least, most)", "x",
                    "Qcur_product_clamped-0[0]")),
    (gemma4v, Fault("not scaled behind the mean", "gemma4v", "ops.scale(x, np.sqrt(ops.dtype(hp.n_embd)))", "x",
                    "pooled[0]")),
    (qwen3vl, Fault("the first frame twice", "qwen3vl", "ops.conv_2d(x, w.patch_embd_1)",
                    "ops.conv_2d(x, w.patch_embd)", "patch_product_1[0]")),
    (qwen3vl, Fault("patches row by row", "qwen3vl", "transpose(1, 3, 2, 4, 0)", "transpose(1, 2, 3, 4, 0)",
                    "patch_bias[0]")),
    (qwen3vl, Fault("rows for columns", "qwen3vl", "enumerate((row, column))", "enumerate((column, row))",
                    "Qcur_rope-0[0]")),
    (qwen3vl, Fault("neighbors turn together", "qwen3vl", 'pairs="neox"', 'pairs="norm"', "Qcur_rope-0[0]")),
    (qwen3vl, Fault("embeddings in another grid", "qwen3vl", "ops.interpolate(places, ny, nx)",
                    "ops.interpolate(places, ny, nx)[:, ::-1]", "interpolated[0]")),
    (qwen3vl, Fault("DeepStack of the last layer", "qwen3vl", "zip(w.deepstack, left, strict=True)",
                    "zip(w.deepstack, left[::-1], strict=True)", "norm-0[2]")),
    (qwen3vl, Fault("no norm behind the layers", "qwen3vl", "norm(x, w.post_ln, hp, ops, at_layer(taps, hp.n_layer))",
                    'taps("norm_b-2", x)', "norm_b-2[0]")),
]  # fmt: skip


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Towers, U8, Trace]]:
    """variant -> both engines, an image, and llama.cpp's trace of it; each made once."""

    @cache
    def make(variant: str) -> tuple[Towers, U8, Trace]:
        image = picture(40, 61)
        with written(variant, tmp_path_factory.mktemp("fault")) as both:
            return both, image, both.engine.trace_image(image)

    return make


@pytest.mark.parametrize(("module", "fault"), FAULTS, ids=[fault.name for _, fault in FAULTS])
def test_a_fault_is_found_at_its_tensor(
    module: ModuleType, fault: Fault, traced: Callable[[str], tuple[Towers, U8, Trace]]
) -> None:
    both, image, theirs = traced(fault.variant)
    assert both.first_wrong(image, theirs, broken(module, fault.right, fault.wrong)) == fault.first
