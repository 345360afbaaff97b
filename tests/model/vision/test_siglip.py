"""SigLIP, Gemma 3's tower, against live libmtmd: every tensor, in every numerics, and faults found where they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from refembed.arrays import U8
from refembed.gguf import GGUFWriter, open_gguf
from refembed.model.trace import Trace
from refembed.model.vision import load_tower, siglip
from refembed.testing.synthetic_mmproj import EVERY_BIAS, USUAL, synthetic_mmproj
from tests.model.bits import unequal
from tests.model.faults import broken
from tests.model.vision.towers import Towers, picture

pytestmark = pytest.mark.oracle

VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "F16": {"type_name": "F16"},
    "no biases": {"optional": {"post_ln.weight"}},
    "no last norm": {"optional": EVERY_BIAS - {"v.post_ln.bias"}},
    "no patch bias": {"optional": USUAL["gemma3"] - {"v.patch_embd.bias"}},
    "wide": {"C": 64, "H": 2, "F": 96, "E": 48, "n_layer": 1, "type_name": "F16"},
    "many patches": {"image_size": 70, "P": 5, "n_merge": 7, "n_layer": 1},  # 196: flash attention works in tiles
    "one token": {"image_size": 28, "P": 7, "n_merge": 4, "n_layer": 1},
}
IMAGES = {"usual": [(30, 20), (42, 42), (1, 1)], "many patches": [(200, 90)]}
# of one operation on llama.cpp's own inputs, over the largest value; measured with xllamacpp 2026.10.11549
LOCAL: dict[str, float] = {}
WHOLE = 1.0


def images(variant: str) -> list[U8]:
    return [picture(*size) for size in IMAGES.get(variant, [(50, 31)])]


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ggml_has_the_bits_of_every_tensor(variant: str, flash_attn: bool, tmp_path: Path) -> None:
    with Towers(tmp_path, flash_attn, seed=len(variant), **VARIANTS[variant]) as both:
        for image in images(variant):
            theirs = both.engine.trace_image(image)
            assert both.unpaired(image, theirs) == ([], [])
            assert [f"{d.name}[{d.k}]" for d in both.local(image, "ggml", theirs) if not d.difference.identical] == []
            assert unequal(both.rows(image, "ggml"), theirs.meta["rows"]) == 0
