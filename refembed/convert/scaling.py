"""RoPE for texts longer than a model was first trained on: what config.json may ask for, and the keys that say so.

    linear     all pairs turn `factor` times as slowly
    yarn       pairs that turn seldom do, those that turn often do not; queries and keys grow a little
    dynamic    texts beyond the context alone: the file says nothing, and a remark says that
    llama3     by pairs, in a tensor (rope.py)
    longrope   by pairs, in two tensors, for short contexts and for long ones (rope.py)

The keys are those of set_gguf_parameters in llama.cpp's conversion/base.py. llama.cpp's graphs read the kind, the
factor and the original context; the finer settings of YaRN they take for granted, so others are refused (USUAL).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refembed.convert.checkpoint import STRETCHED
from refembed.convert.families import CHECKPOINTS
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

if TYPE_CHECKING:
    from refembed.convert.config import Config

LAYER_KINDS = ("full_attention", "sliding_attention")  # tables of rope_parameters, names in layer_types
SCALINGS: dict[str, tuple[str, ...]] = {  # of architectures in recipes.py; checkpoints_*.py say it of theirs
    "Qwen2": STRETCHED, "Qwen3": STRETCHED, "Llama": (*STRETCHED, "llama3"), "Olmo2": STRETCHED, "SeedOss": STRETCHED,
    "Qwen2Moe": STRETCHED, "Qwen3Moe": STRETCHED, "Olmoe": STRETCHED, "Exaone4": (*STRETCHED, "llama3"),
    "Starcoder2": STRETCHED, "Ernie4_5": STRETCHED, "Gemma3": ("linear",), "Gemma3Text": ("linear",),
}  # fmt: skip
OTHER_NAMES = {"su": "longrope", "mrope": "default"}  # of older files; M-RoPE is said by its sections
USUAL: dict[str, tuple[Any, ...]] = {  # settings of YaRN that llama.cpp computes
    "beta_fast": (32,), "beta_slow": (1,), "truncate": (True,), "extrapolation_factor": (1,),
}  # fmt: skip


def check_rope(path: Path, stem: str, raw: dict[str, Any]) -> None:
    """Refuse RoPE that is scaled or turns a part of each head where the file cannot say so, whichever way it is
    spelled, for any kind of layer.

    path  of config.json, for the message
    stem  the architecture, a key of graph.COMPUTED
    raw   what config.json says
    """
    known = CHECKPOINTS.get(stem)
    scalings = ("default", *(known.scalings if known else SCALINGS.get(stem, ())))
    for name in ("rope_parameters", "rope_scaling"):
        found = table_of(path, raw, name)
        for layers in LAYER_KINDS:
            table_of(path, found, layers)
        kinds = {key: part for key, part in found.items() if isinstance(part, dict)}
        if len(kinds) < len(found) or not found:  # settings of all layers, perhaps next to a table
            kinds[""] = found
        for layers, part in kinds.items():
            kind = kind_of(part)
            if kind not in scalings or (layers == LAYER_KINDS[1] and kind != "default"):
                hint = "refembed converts this architecture without RoPE scaling: llama.cpp's file of it has none"
                if len(scalings) > 1:
                    hint = f"refembed converts RoPE of this architecture that is {' or '.join(scalings)}"
                raise ModelError(f"{path}: rope_type is {quote(kind)}", hint=hint)
            if kind in ("linear", "yarn"):
                factor: Any = part.get("factor")
                if type(factor) not in (int, float) or not 1 <= factor < 1e6:
                    found_factor = f"{path}: rope_type is {kind}, and its factor {quote(str(factor))}"
                    raise ModelError(found_factor, hint="a number, 1 or above")
            if kind == "yarn":
                check_yarn(path, part, latent=bool(known and known.latent_yarn), rounded=stem not in UNROUNDED)
            if part.get("partial_rotary_factor") not in (None, 1) and not (known and known.turns):
                hint = "llama.cpp turns whole heads in this architecture"
                found_part = quote(str(part["partial_rotary_factor"]))
                raise ModelError(f"{path}: partial_rotary_factor is {found_part}", hint=hint)


UNROUNDED = ("GptOss",)  # published so


def kind_of(table: dict[str, Any]) -> str:
    """rope_type, by its newest name; "default" where the table is silent."""
    kind = str(table.get("rope_type", table.get("type")) or "default")
    return OTHER_NAMES.get(kind, kind)


def check_yarn(path: Path, table: dict[str, Any], *, latent: bool = False, rounded: bool = True) -> None:
    """Refuse settings of YaRN that no graph of llama.cpp reads, where they are not the usual ones.

    latent   mscale and mscale_all_dim are the same number, which the file has
    rounded  the ramp begins and ends at whole pairs; else that is said, not refused
    """
    hint = "llama.cpp computes YaRN with the paper's settings only; the vectors would be another model's"
    for key, usual in USUAL.items():
        if table.get(key) is not None and table[key] not in usual and (rounded or key != "truncate"):
            raise ModelError(f"{path}: {key} of rope_type yarn is {quote(str(table[key]))}", hint=hint)
    usual_length, length = magnitude(table["factor"]), table.get("attention_factor", table.get("attn_factor"))
    scales = [table.get("mscale"), table.get("mscale_all_dim")]
    numbers = [n for n in scales if type(n) in (int, float) and n]
    if latent:
        if len(numbers) < len(scales) or numbers[0] != numbers[1] or length not in (None, 1):
            found = f"{path}: mscale and mscale_all_dim of rope_type yarn are {quote(str(scales))}"
            raise ModelError(found, hint="llama.cpp computes this architecture where they are the same number")
        return
    if length is None and len(numbers) == len(scales):
        above, below = (magnitude(table["factor"], n) for n in numbers)
        length = above / below
    if length is not None and not (type(length) in (int, float) and math.isclose(length, usual_length, rel_tol=1e-6)):
        found = f"{path}: queries and keys of rope_type yarn grow by {quote(str(length))} (attention_factor or mscale)"
        raise ModelError(found, hint=f"llama.cpp lets them grow by 1 + 0.1 ln(factor) only, {usual_length:.6g} here")


def magnitude(factor: float, scale: float = 1.0) -> float:
    """What YaRN multiplies queries and keys by: 1 + 0.1 s ln(factor).

    >>> round(magnitude(4.0), 4)
    1.1386
    """
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def scaling_keys(c: Config) -> Iterator[tuple[str, Any, str]]:
    """Keys without {arch}., values and types of a scaling, of layers that see the whole text."""
    table = c.rope
    kind = kind_of(table)
    if kind not in ("linear", "yarn"):
        return
    yield "rope.scaling.type", kind, "STRING"
    yield "rope.scaling.factor", float(table["factor"]), "FLOAT32"
    if kind == "yarn":
        yield "rope.scaling.original_context_length", c.original_context, "UINT32"
        for key, names in (
            ("ext_factor", ("extrapolation_factor",)), ("attn_factor", ("attention_factor", "attn_factor")),
            ("beta_fast", ("beta_fast",)), ("beta_slow", ("beta_slow",)),
        ):  # fmt: skip
            value = next((table[n] for n in names if table.get(n) is not None), None)
            if value is not None:
                yield f"rope.scaling.yarn_{key}", float(value), "FLOAT32"


def remarks_on(c: Config) -> list[str]:
    """What a user should know of a scaling that llama.cpp computes otherwise than `transformers`."""
    kind, found = kind_of(c.rope), []
    if kind == "dynamic" and c.stem != "HunYuanDenseV1":
        found.append(
            f"rope_type is dynamic: `transformers` turns texts of more than {c.sizes['P']} tokens more slowly, and "
            "llama.cpp all alike: such texts get other vectors"
        )
    if kind == "yarn" and c.rope.get("truncate") is False:
        found.append(
            "truncate of rope_type yarn is false: the ramp begins and ends between two pairs, in llama.cpp at one, so "
            "that vectors are a little off those of `transformers`"
        )
    if kind == "longrope":
        found.append(
            f"rope_type is longrope: `transformers` turns texts of up to {c.original_context} tokens by short_factor, "
            f"llama.cpp by long_factor, as all texts in a context of {c.sizes['P']}; `--semantics original` has both"
        )
    return found


def table_of(path: Path, holder: dict[str, Any], key: str) -> dict[str, Any]:
    """The table under a key of config.json, {} where it is absent or null. ModelError where it is anything else."""
    found = holder.get(key)
    if found is not None and not isinstance(found, dict):
        raise ModelError(f"{path}: {key} is {quote(str(found))}, not a table", hint="is the file whole?")
    return found or {}
