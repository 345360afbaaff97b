"""Vision towers: an image's pixels in, rows of the text model out. One projector type, one flat file.

    f = open_gguf("mmproj.gguf")
    tower = load_tower(f)
    rows = tower.rows(image, ops)      # (n, E): as many as the image has tokens, as wide as the text model

An mmproj file is a GGUF file of its own, made for one text model. Towers are written as the files of text architectures
are, `siglip.py` the plainest; `preprocess.py` has what comes before them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from refembed.arrays import F32, I64, U8, Float
from refembed.errors import ModelError
from refembed.gguf import GGUFFile
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.model.vision.hparams import VisionHparams, is_limit, read_vision_hparams
from refembed.model.vision.preprocess import Size
from refembed.model.vision.weights import with_ffn_in_order
from refembed.model.weights import bind

# clip.projector_type -> the file that computes it: TRAITS, Weights, size, forward ...
TOWERS = {"gemma3": "siglip", "gemma4v": "gemma4v", "qwen3vl_merger": "qwen3vl"}

PARTS = ("v.", "mm.")  # what names of a vision tower's tensors begin with; a file may have an audio tower's too


@dataclass(frozen=True)
class Tower:
    """A vision tower with its weights."""

    path: str
    hparams: VisionHparams
    weights: Any  # the tower's Weights
    module: ModuleType

    @property
    def width(self) -> int:
        """Numbers of a row: the text model's channels."""
        return self.hparams.n_proj

    @property
    def marks(self) -> tuple[str, str]:
        """What stands in the text before and behind an image's tokens."""
        begin, end = self.module.TRAITS.marks
        return str(begin), str(end)

    def grid(self, image: U8) -> Size:
        """Columns and rows of an image's tokens; the image is (height, width, 3)."""
        side = self.hparams.patch_size * self.hparams.n_merge
        width, height = self.module.size(Size(image.shape[1], image.shape[0]), self.hparams)
        return Size(width // side, height // side)

    def n_tokens(self, image: U8) -> int:
        """Tokens of an image (height, width, 3)."""
        nx, ny = self.grid(image)
        return nx * ny

    @property
    def n_further(self) -> int:
        """Layers of the text model that get columns of their own (DeepStack): a row has E (1 + n_further) numbers."""
        return sum(layer.fc1 is not None for layer in getattr(self.weights, "deepstack", ()))

    def pixels(self, image: U8) -> F32:
        """What the tower reads of an image (height, width, 3): planes (3, h, w)."""
        planes: F32 = self.module.pixels(image, self.hparams)
        return planes

    def picture(self, planes: Float) -> U8:
        """What the tower reads, planes (3, h, w), as pixels (h, w, 3) again."""
        x = planes.transpose(1, 2, 0) * np.array(self.hparams.std) + np.array(self.hparams.mean)
        return np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)

    def order(self, patches: Size) -> I64:
        """Of each row of the tower's tensors (N), the number of its patch, counted row by row of the image."""
        places = np.arange(patches.width * patches.height)
        squares = getattr(self.module, "squares", None)
        if squares is None:
            return places
        grid = places.reshape(1, patches.height, patches.width).astype(np.float64)
        return np.asarray(squares(grid)[:, 0], np.int64)

    def changed(self, **names: Any) -> Tower:
        """The same tower computed otherwise. names: functions of its module, or TRAITS, and what takes their place."""
        module = ModuleType(self.module.__name__)
        vars(module).update(vars(self.module) | names)
        return replace(self, module=module)

    def rows(self, image: U8, ops: Ops, tap: Tap = NO_TAP) -> Float:
        """An image (height, width, 3) -> rows (n_tokens, E) of the text model, in the dtype of `ops`."""
        with np.errstate(all="ignore"):  # a vector that is not finite is refused at the end
            x = self.pixels(image).astype(ops.dtype)
            rows = self.module.forward(self.weights, self.hparams, x, ops, tap)
        return np.asarray(rows)  # from a GPU all at once


def load_tower(f: GGUFFile) -> Tower:
    """Read sizes, bind tensors. Raises ModelError for a file that is no tower, one of an unknown kind, or misfits."""
    path, md = str(f.path), f.metadata
    if md.get("general.architecture") != "clip":
        found = md.get("general.architecture", "nothing")
        hint = "the mmproj file stands next to the model's own, mmproj-*.gguf"
        raise ModelError(f"{path}: general.architecture is {found!r}, not 'clip': no vision tower", hint=hint)
    if not md.flag("clip.has_vision_encoder", False):
        raise ModelError(f"{path}: no vision tower in it: clip.has_vision_encoder is not true")
    projector = md.string("clip.projector_type", "") or md.string("clip.vision.projector_type", "")
    if projector not in TOWERS:
        raise ModelError(
            f"{path}: the vision tower {projector!r} is not computed yet", hint=f"there are: {', '.join(TOWERS)}"
        )
    module = importlib.import_module(f"{__name__}.{TOWERS[projector]}")
    hp = read_vision_hparams(f, projector, module.TRAITS)
    tensors = {name: t for name, t in f.tensors.items() if name.startswith(PARTS) and not is_limit(name)}
    if module.TRAITS.takes_swapped:
        tensors = with_ffn_in_order(tensors, hp.n_embd)
    module.check(hp, path)
    weights = bind(module.Weights, tensors, hp.sizes, hp.n_layer, path)
    return Tower(path, hp, weights, module)
