"""A Hugging Face folder as an engine that takes images: its image processor, its tower and its projector.

    TransformersImages("gemma-3-4b-it")          # a folder with config.json and preprocessor_config.json

Shows the rows that the text model would get: `get_image_features` of Gemma 3, Gemma 4, Qwen3-VL and others that have it.
Texts with images are not asked of it, and a folder of a tower alone (SiglipVisionModel) has no rows: the projector is
part of the whole model.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32, U8
from refembed.errors import EngineError
from refembed.verify.engines.base import need
from refembed.verify.engines.images import ShowsNothing, rows_of
from refembed.verify.engines.sentence_transformers import class_of, opening, patient_threads


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
        try:
            with self.torch.inference_mode():
                given = dict(self.processor(images=image, return_tensors="pt"))
                known = inspect.signature(self.model.get_image_features).parameters
                out = self.model.get_image_features(**{k: v for k, v in given.items() if k in known})
        except Exception as e:  # a library's errors have many faces
            raise EngineError(f"{self.info['model']} failed on an image: {type(e).__name__}: {e}") from e
        parts = [first(getattr(out, "pooler_output", out)), *map(first, getattr(out, "deepstack_features", None) or [])]
        return rows_of(np.concatenate([x.float().cpu().numpy() for x in parts], axis=-1), self.info["model"])


def first(x: Any) -> Any:
    """Rows of the one image: of a list of images' rows, or of a tensor (1, n, E)."""
    one = x[0] if isinstance(x, (list, tuple)) else x
    return one[0] if one.ndim == 3 else one
