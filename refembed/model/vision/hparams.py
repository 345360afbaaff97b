"""The numbers a vision tower is built from: keys `clip.*` of an mmproj file as one frozen record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from refembed.errors import ModelError
from refembed.gguf import GGUFFile
from refembed.model.keys import Keys

COLORS = ("image_mean", "image_std")
FLT_MAX = float(np.finfo(np.float32).max)
MAX_SIZE = 1 << 14  # pixels to a side of what the tower reads


@dataclass(frozen=True)
class TowerTraits:
    """What llama.cpp fixes for a projector type, or assumes where a file is silent (load_hparams of clip.cpp)."""

    n_merge: int  # patches to a side that become one token, where clip.vision.projector.scale_factor is absent
    marks: tuple[str, str]  # what stands before and behind the image's tokens in the text (mtmd_context::init_vision)
    mrope: bool = False  # rows of an image have places of their own in the text model, by row and column
    causal: bool = False  # rows of an image look back only (mtmd_decode_use_non_causal)
    takes_swapped: bool = False  # files of early converters call ffn_up ffn_down and the other way around


@dataclass(frozen=True)
class VisionHparams:
    """Sizes and constants of a tower. The letter in brackets is the one that shapes use."""

    projector: str  # clip.projector_type, or clip.vision.projector_type
    image_size: int  # clip.vision.image_size: pixels to a side
    patch_size: int  # (P) clip.vision.patch_size
    n_embd: int  # (C) clip.vision.embedding_length
    n_layer: int  # clip.vision.block_count
    n_head: int  # (H) clip.vision.attention.head_count
    n_embd_head: int  # (D) clip.vision.attention.head_dim, else C/H
    n_ff: int  # (F) clip.vision.feed_forward_length
    n_proj: int  # (E) width of the text model: columns of mm.input_projection.weight
    norm_eps: float  # clip.vision.attention.layer_norm_epsilon
    n_merge: int  # clip.vision.projector.scale_factor, or spatial_merge_size
    mean: tuple[float, float, float]  # clip.vision.image_mean: of red, green and blue, each from 0 to 1
    std: tuple[float, float, float]  # clip.vision.image_std
    activation: Literal["gelu", "silu", "gelu_quick"]  # clip.use_gelu, clip.use_silu; neither: gelu_quick
    projector_activation: Literal["gelu", "gelu_erf"] = "gelu"  # of the projections of qwen3vl; erf: as published
    n_pos: int = 0  # (S) columns and rows that v.position_embd.weight has embeddings for (gemma4v), or places (qwen3vl)
    # name of a matrix -> least and most of what it reads, then of what it makes: *.input_min ... (gemma4v)
    limits: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)

    @property
    def n_side(self) -> int:
        """Patches to a side."""
        return self.image_size // self.patch_size

    @property
    def sizes(self) -> dict[str, int]:
        """What the letters of declared shapes stand for; N is the number of patches."""
        return {
            "C": self.n_embd, "F": self.n_ff, "E": self.n_proj, "N": self.n_side**2, "P": self.patch_size,
            "D": self.n_embd_head, "HD": self.n_head * self.n_embd_head, "S": self.n_pos, "1": 1, "2": 2, "3": 3,
            "3C": 3 * self.n_embd, "4C": 4 * self.n_embd,
        }  # fmt: skip


def read_vision_hparams(f: GGUFFile, projector: str, traits: TowerTraits) -> VisionHparams:
    """Read and check the keys of a tower. Raises ModelError for numbers that no tower can have."""
    keys, md = Keys(f), f.metadata
    colors = {}
    for key in COLORS:
        values = [float(x) for x in md.floats(f"clip.vision.{key}")]
        sound = all(math.isfinite(x) and (x or key != "image_std") for x in values[:3])
        if len(values) < 3 or not sound:
            raise ModelError(f"{f.path}: clip.vision.{key} is {values}", hint="a number each for red, green and blue")
        colors[key] = tuple(float(np.float32(x)) for x in values[:3])
    gelu, silu = (md.flag(f"clip.use_{name}", False) for name in ("gelu", "silu"))
    if gelu and silu:
        raise ModelError(f"{f.path}: clip.use_gelu and clip.use_silu are both true", hint="llama.cpp refuses it too")
    n_embd = keys.uint("vision.embedding_length", least=1)
    n_head = keys.uint("vision.attention.head_count", least=1)
    if keys.uint("vision.attention.head_count_kv", n_head) != n_head:
        raise ModelError(f"{f.path}: heads that share keys are not computed yet", hint="clip.vision.attention.*")
    D = keys.uint("vision.attention.head_dim", 0) or n_embd // n_head
    if not D:
        raise ModelError(f"{f.path}: {n_embd} channels for {n_head} heads")
    position = f.tensors.get("v.position_embd.weight")
    hp = VisionHparams(
        projector=projector,
        image_size=keys.uint("vision.image_size", least=1, most=MAX_SIZE),
        patch_size=keys.uint("vision.patch_size", least=1, most=MAX_SIZE),
        n_embd=n_embd,
        n_layer=keys.uint("vision.block_count", most=512),
        n_head=n_head,
        n_embd_head=D,
        n_ff=keys.uint("vision.feed_forward_length"),
        n_proj=keys.uint("vision.projection_dim", least=1),
        norm_eps=keys.float("vision.attention.layer_norm_epsilon", sound=lambda x: 0 <= x < math.inf),
        n_merge=keys.uint(
            "vision.spatial_merge_size" if traits.mrope else "vision.projector.scale_factor", traits.n_merge, least=1
        ),
        mean=colors["image_mean"],  # type: ignore[arg-type]
        std=colors["image_std"],  # type: ignore[arg-type]
        activation="gelu" if gelu else "silu" if silu else "gelu_quick",
        n_pos=position.shape[-2] if position is not None and len(position.shape) > 1 else 0,
        limits=read_limits(f),
    )
    if not hp.n_side:
        raise ModelError(f"{f.path}: patches of {hp.patch_size} pixels in an image of {hp.image_size}")
    return hp


LIMITS = {"input_min": -FLT_MAX, "input_max": FLT_MAX, "output_min": -FLT_MAX, "output_max": FLT_MAX}


def read_limits(f: GGUFFile) -> dict[str, tuple[float, float, float, float]]:
    """Of each matrix that has limits: least and most of what it reads, then of what it makes."""
    names = {name.rpartition(".")[0] for name in f.tensors if name.endswith(tuple(LIMITS))}
    found = {}
    for name in names:
        given = {end: f.tensors.get(f"{name}.{end}") for end in LIMITS}
        if any(t is not None and t.shape != (1,) for t in given.values()):
            raise ModelError(f"{f.path}: limits of {name} that are not one number each")
        numbers = [
            default if (t := given[end]) is None else float(t.dequantize()[0]) for end, default in LIMITS.items()
        ]
        found[f"{name}.weight"] = (numbers[0], numbers[1], numbers[2], numbers[3])
    return found


def is_limit(name: str) -> bool:
    """Whether a tensor is the limit of a matrix (`read_limits`)."""
    return name.endswith(tuple(f".{end}" for end in LIMITS))
