"""A Hugging Face folder as an engine that takes images: its image processor, its tower and its projector.

    TransformersImages("gemma-3-4b-it")          # a folder with config.json and preprocessor_config.json

Shows the rows that the text model would get: `get_image_features` of Gemma 3, Gemma 4, Qwen3-VL and others that have
it, and of these three what the layers of their towers compute, by forward hooks (TABLES, read as `hooks` has it). Texts
with images are not asked of it, and a folder of a tower alone (SiglipVisionModel) has no rows: the projector is part of
the whole model.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32, U8
from refembed.errors import EngineError
from refembed.model.trace import Trace, TracedTensor
from refembed.verify.engines.base import need
from refembed.verify.engines.hooks import Row, hook
from refembed.verify.engines.images import ShowsNothing, rows_of
from refembed.verify.engines.sentence_transformers import class_of, opening, patient_threads

BLOCK: tuple[Row, ...] = (  # of SigLIP and Qwen3-VL alike
    (r".*mlp\.(?:linear_)?fc1",                   "product", ("ffn_up-{}", "ffn_up_b-{}")),
    (r".*mlp\.(?:linear_)?fc2",                   "in",      ("ffn_gelu-{}",)),
    (r".*mlp\.(?:linear_)?fc2",                   "product", ("ffn_down-{}", "ffn_out-{}")),
    (r".*(?:layer_norm2|norm2)",                  "in",      ("ffn_inp-{}",)),
    (r".*(?:layer_norm2|norm2)",                  "out",     ("ffn_inp_normed-{}",)),
)  # fmt: skip
SIGLIP: tuple[Row, ...] = (
    (r".*layer_norm1",                            "out",     ("layer_inp_normed-{}",)),
    (r".*self_attn\.q_proj",                      "product", ("Qcur_product-{}", "Qcur-{}")),
    (r".*self_attn\.k_proj",                      "product", ("Kcur_product-{}", "Kcur-{}")),
    (r".*self_attn\.v_proj",                      "product", ("Vcur_product-{}", "Vcur-{}")),
    (r".*self_attn\.out_proj",                    "in",      ("kqv_out-{}",)),
    (r".*self_attn\.out_proj",                    "product", ("attn_out_product-{}", "attn_out-{}")),
    *BLOCK,
)  # fmt: skip
GEMMA4: tuple[Row, ...] = (
    (r".*\.input_layernorm",                      "out",     ("layer_inp_normed-{}",)),
    (r".*self_attn\.q_proj",                      "out",     ("Qcur_product-{}",)),
    (r".*self_attn\.k_proj",                      "out",     ("Kcur_product-{}",)),
    (r".*self_attn\.v_proj",                      "out",     ("Vcur_product-{}",)),
    (r".*self_attn\.q_norm",                      "out",     ("Qcur-{}",)),
    (r".*self_attn\.k_norm",                      "out",     ("Kcur-{}",)),
    (r".*self_attn\.v_norm",                      "out",     ("Vcur_normed-{}",)),
    (r".*self_attn\.o_proj",                      "in",      ("kqv_out-{}",)),
    (r".*self_attn\.o_proj",                      "out",     ("attn_out-{}",)),
    (r".*post_attention_layernorm",               "out",     ("attn_post_normed-{}",)),
    (r".*pre_feedforward_layernorm",              "in",      ("ffn_inp-{}",)),
    (r".*pre_feedforward_layernorm",              "out",     ("ffn_inp_normed-{}",)),
    (r".*mlp\.gate_proj",                         "out",     ("ffn_gate-{}",)),
    (r".*mlp\.up_proj",                           "out",     ("ffn_up-{}",)),
    (r".*mlp\.down_proj",                         "out",     ("ffn_out-{}",)),
    (r".*post_feedforward_layernorm",             "out",     ("ffn_post_normed-{}",)),
)  # fmt: skip
QWEN: tuple[Row, ...] = (
    (r".*\.norm1",                                "out",     ("ln1-{}",)),
    (r".*attn\.qkv",                              "product", ("qkv_product-{}", "qkv-{}")),
    (r".*attn\.proj",                             "in",      ("kqv_out-{}",)),
    (r".*attn\.proj",                             "product", ("attn_out_product-{}", "attn_out-{}")),
    *BLOCK,
)  # fmt: skip
TABLES: dict[str, tuple[str, tuple[Row, ...]]] = {  # class -> its tower's layers, and what they show
    "Gemma3Model": (r"vision_tower(?:\.vision_model)?\.encoder\.layers\.(\d+)", SIGLIP),
    "Gemma4Model": (r"vision_tower\.encoder\.layers\.(\d+)", GEMMA4),
    "Qwen3VLModel": (r"visual\.blocks\.(\d+)", QWEN),
}


class TransformersImages(ShowsNothing):
    """Rows of an image, as transformers computes them.

    dtype    torch's name: "float32", "float64", "bfloat16"; "auto": as stored
    threads  of PyTorch, for the whole process

    EngineError where the packages are absent or refuse, or the folder is of no model that takes images.
    """

    name = "transformers"

    def __init__(self, folder: str | Path, *, dtype: str = "float32", threads: int | None = None) -> None:
        path = Path(folder)
        with patient_threads():
            self.torch = need("torch", "torch")
        if threads:
            self.torch.set_num_threads(threads)
        library = need("transformers", "transformers")
        with opening(path, self.name):
            opener = class_of(path, library)
            self.model = opener.from_pretrained(os.fspath(path), local_files_only=True, dtype=dtype).eval()
            self.processor = library.AutoImageProcessor.from_pretrained(os.fspath(path), local_files_only=True)
        if not hasattr(self.model, "get_image_features"):
            hint = "the folder of the whole model, such as Gemma3ForConditionalGeneration, has the projector too"
            raise EngineError(f"{path}: {type(self.model).__name__} gives no rows of an image", hint=hint)
        super().__init__(
            {
                "model": str(path),
                "architecture": type(self.model).__name__,
                "processor": type(self.processor).__name__,
                "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers")},
                "dtype": str(self.model.dtype).removeprefix("torch."),
            }
        )

    def image_rows(self, image: U8) -> F32 | None:
        """Rows (n, E), and what DeepStack adds to further layers behind them."""
        out, _ = self.run(image)
        parts = [first(getattr(out, "pooler_output", out)), *map(first, getattr(out, "deepstack_features", None) or [])]
        return rows_of(np.concatenate([x.float().cpu().numpy() for x in parts], axis=-1), self.info["model"])

    def trace_image(self, image: U8) -> Trace | None:
        """What the tower's layers compute; None for a model that TABLES does not know."""
        found: list[TracedTensor] = []
        handles: list[Any] = []
        try:
            for layer, module, take, names in hooked(self.model):
                handles.append(hook(module, take, tuple(name.format(layer) for name in names), found))
            if not handles:
                return None
            out, given = self.run(image)
        finally:
            for handle in handles:
                handle.remove()
        if "image_position_ids" in given:  # filled up to a budget: what is no patch is cut off
            n = int((given["image_position_ids"][0, :, 0] >= 0).sum())
            longest = given["image_position_ids"].shape[1]
            found = [t._replace(array=t.array[:n]) if len(t.array) == longest else t for t in found]
        rows = first(getattr(out, "pooler_output", out)).float().cpu().numpy()
        planes = TracedTensor("inp_raw", planes_of(given))
        return Trace([planes, *found, TracedTensor("projected", rows)], {"engine": self.name})

    def run(self, image: U8) -> tuple[Any, dict[str, Any]]:
        """What get_image_features gives, and what the processor made of the image."""
        try:
            with self.torch.inference_mode():
                given = dict(self.processor(images=image, return_tensors="pt"))
                known = inspect.signature(self.model.get_image_features).parameters
                return self.model.get_image_features(**{k: v for k, v in given.items() if k in known}), given
        except Exception as e:  # a library's errors have many faces
            raise EngineError(f"{self.info['model']} failed on an image: {type(e).__name__}: {e}") from e


def hooked(model: Any) -> Iterator[tuple[str, Any, str, tuple[str, ...]]]:
    """The modules of a tower that show a tensor: layer, module, what to take, names."""
    pattern, rows = TABLES.get(type(model).__name__, ("(?!)", ()))
    for name, module in model.named_modules():
        if layer := re.match(pattern, name):
            if layer.end() == len(name):
                yield layer[1], module, "out", ("layer_out-{}",)
            for row, take, names in rows:
                if re.fullmatch(row, name[layer.end() :]):
                    yield layer[1], module, take, names


def planes_of(given: dict[str, Any]) -> F32:
    """What a processor made of an image, as planes (3, height, width): it may have cut them into patches.

    Those of Gemma 4 are (N, P P 3), a row of patches after the other; those of Qwen3-VL (N, 3 2 P P), in squares of
    2 x 2, and twice, as frames of a film.
    """
    x: F32 = given["pixel_values"].float().cpu().numpy()
    if "image_position_ids" in given:
        places = given["image_position_ids"][0].cpu().numpy()
        nx, ny = (int(n) + 1 for n in places.max(axis=0))
        P = math.isqrt(x.shape[-1] // 3)
        return x[0, : nx * ny].reshape(ny, nx, P, P, 3).transpose(4, 0, 2, 1, 3).reshape(3, ny * P, nx * P)
    if "image_grid_thw" in given:
        _, ny, nx = (int(n) for n in given["image_grid_thw"][0])
        P = math.isqrt(x.shape[-1] // 6)
        squares = x.reshape(ny // 2, nx // 2, 2, 2, 3, 2, P, P)[:, :, :, :, :, 0]
        return squares.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, ny * P, nx * P)
    return x[0]


def first(x: Any) -> Any:
    """Rows of the one image: of a list of images' rows, or of a tensor (1, n, E)."""
    one = x[0] if isinstance(x, (list, tuple)) else x
    return one[0] if one.ndim == 3 else one
