"""Small vision towers with random weights: mmproj files that llama.cpp loads as refembed does.

    synthetic_mmproj("mmproj.gguf", "gemma3", E=36)

Sizes are odd on purpose, as in `refembed.testing.synthetic`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.errors import RequestError
from refembed.gguf import GGUFWriter
from refembed.model import vision
from refembed.model.weights import declared
from refembed.testing.synthetic import weights

EVERY_BIAS = frozenset(f"{name}.bias" for name in ("ln1", "ln2", "attn_q", "attn_k", "attn_v", "attn_out", "ffn_up",
                                                   "ffn_down", "v.post_ln", "v.patch_embd"))  # fmt: skip
USUAL = {  # optional tensors of published files
    "gemma3": EVERY_BIAS | {"v.post_ln.weight"},
    "gemma4v": {"attn_post_norm.weight", "ffn_post_norm.weight"},
    "qwen3vl_merger": {
        "v.deepstack.0." + name
        for name in ("norm.weight", "norm.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    },
}
FLOATS = {"F32": np.float32, "F16": np.float16}
LIMITS = {"input_min": -1.5, "input_max": 1.2, "output_min": -0.9, "output_max": 1.1}
SIZES = {  # key -> the argument that it holds
    "vision.image_size": "image_size",
    "vision.patch_size": "P",
    "vision.embedding_length": "C",
    "vision.feed_forward_length": "F",
    "vision.block_count": "n_layer",
    "vision.attention.head_count": "H",
    "vision.projection_dim": "E",
}


def synthetic_mmproj(
    path: str | Path,
    projector: str = "gemma3",
    *,
    seed: int = 0,
    n_layer: int = 2,
    image_size: int = 42,
    P: int = 7,
    C: int = 30,
    H: int = 3,
    D: int = 0,
    F: int = 44,
    E: int = 36,
    S: int = 64,
    n_merge: int = 2,
    optional: Collection[str] | None = None,
    keys: Mapping[str, tuple[Any, str]] | None = None,
    limits: bool = False,
    type_name: str = "F32",
) -> Path:
    """Write an mmproj file with a vision tower of that projector type and return its path.

    seed        of the weights
    image_size  pixels to a side; P to a side of a patch; n_merge patches to a side become one token
    C H D F     channels, heads, width of a head (0: C/H; gemma4v: 8), feed-forward width
    E           channels of the text model that the file is for
    S           columns and rows that have embeddings (gemma4v), or places (qwen3vl_merger): a square number
    optional    which optional tensors to write, by the end of their names; None: those of published files
    limits      whether matrices of layers limit what they read and make (gemma4v)
    keys        more keys, or others: {"vision.image_mean": ([0.0] * 3, "ARRAY[FLOAT32]")}, without "clip."
    type_name   F32 or F16, of matrices and kernels; the rest is F32
    Raises RequestError for a projector type that refembed does not compute.

    >>> from refembed import open_gguf
    >>> f = open_gguf(synthetic_mmproj("mmproj.gguf", C=30, E=36))
    >>> f.metadata["clip.projector_type"], f.tensors["mm.input_projection.weight"].shape
    ('gemma3', (30, 36))
    """
    if projector not in vision.TOWERS:
        raise RequestError(f"there is no tower {projector!r}", hint=f"one of {', '.join(vision.TOWERS)}")
    module = importlib.import_module(f"{vision.__name__}.{vision.TOWERS[projector]}")
    D = D or (8 if projector == "gemma4v" else C // H)
    optional = USUAL[projector] if optional is None else optional
    w = GGUFWriter("clip")
    w.add("general.name", f"synthetic {projector}", "STRING")
    own = keys_of(projector, n_layer=n_layer, image_size=image_size, P=P, C=C, H=H, D=D, F=F, E=E, n_merge=n_merge)
    for key, (value, kind) in (own | dict(keys or {})).items():
        w.add(f"clip.{key}", value, kind)
    sizes = {"C": C, "F": F, "E": E, "N": (image_size // P) ** 2, "P": P, "D": D, "HD": H * D, "S": S}
    sizes |= {"1": 1, "2": 2, "3": 3, "3C": 3 * C, "4C": 4 * C}
    rng = np.random.default_rng(seed)
    for name, letters, presence in declared(module.Weights, n_layer):
        if presence == "optional" and not name.endswith(tuple(optional)):
            continue
        x = scaled(rng, name, tuple(sizes[letter] for letter in letters.split()))
        if limits and ".blk." in name and x.ndim == 2:
            add_limits(w, name)
        kept = x.ndim == 1 or "position" in name
        w.add_tensor(name, x if kept else x.astype(FLOATS[type_name]), x.shape, "F32" if kept else type_name)
    return w.write(path)


def keys_of(projector: str, **sizes: int) -> dict[str, tuple[Any, str]]:
    """Keys of a tower's file, without "clip."; sizes by their letters."""
    found: dict[str, tuple[Any, str]] = {
        "has_vision_encoder": (True, "BOOL"),
        "projector_type": (projector, "STRING"),
        "vision.attention.layer_norm_epsilon": (1e-6, "FLOAT32"),
        "vision.image_mean": ([0.5, 0.4, 0.45], "ARRAY[FLOAT32]"),
        "vision.image_std": ([0.5, 0.6, 0.55], "ARRAY[FLOAT32]"),
    }
    if projector != "gemma4v":
        found["use_gelu"] = (True, "BOOL")
    merged = "vision.spatial_merge_size" if projector == "qwen3vl_merger" else "vision.projector.scale_factor"
    names = {**SIZES, merged: "n_merge"}
    if sizes["D"] * sizes["H"] != sizes["C"]:
        names["vision.attention.head_dim"] = "D"
    return found | {key: (sizes[letter], "UINT32") for key, letter in names.items()}


def add_limits(w: GGUFWriter, name: str) -> None:
    """Limits of what a matrix reads and makes."""
    for end, limit in LIMITS.items():
        w.add_tensor(f"{name.removesuffix('weight')}{end}", np.array([limit], np.float32), (1,), "F32")


def scaled(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> F32:
    """Numbers of a size that keeps activations near 1."""
    if "patch_embd.weight" in name:
        return np.asarray(rng.standard_normal(shape) * 1.5 / math.sqrt(math.prod(shape[1:])), np.float32)
    if ".ln" in name or "_ln" in name or ".norm." in name or name == "v.std_scale":
        norm = not name.endswith("bias")
        return np.asarray(norm + 0.3 * rng.standard_normal(shape), np.float32)
    return weights(rng, name, shape)
