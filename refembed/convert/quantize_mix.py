"""Which tensor of a model is stored as which type, when llama-quantize is asked for "Q4_K_M".

    TYPES      what a user types: general.file_type, and the type most weights get
    MIXES      the exceptions, by the role of a tensor and the layer it stands in
    FALLBACK   where a type's block does not divide the rows

Mirrors tensor_allows_quantization, llama_tensor_get_type_impl and tensor_type_fallback of llama.cpp's llama-quant.cpp.
Left out of its rules: Falcon, GLM, Bailing, and the wider attn_v of models with 80 layers. Types that need an
importance matrix (Q2_K_S) or a codebook (IQ1 to IQ3) cannot be written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from refembed.errors import RequestError
from refembed.gguf import BY_NAME, Metadata, Tensor

When: TypeAlias = Callable[[int, int, int], bool]  # layer, layers, heads per kv head: does a row of MIXES hold?

# what a user types -> general.file_type (enum llama_ftype), and the tensor type most weights get
TYPES = {
    "F32":    ( 0, "F32"),  "F16":    ( 1, "F16"),  "BF16":   (32, "BF16"),
    "Q4_0":   ( 2, "Q4_0"), "Q4_1":   ( 3, "Q4_1"), "Q5_0":   ( 8, "Q5_0"), "Q5_1": (9, "Q5_1"), "Q8_0": (7, "Q8_0"),
    "Q2_K":   (10, "Q2_K"),
    "Q3_K_S": (11, "Q3_K"), "Q3_K_M": (12, "Q3_K"), "Q3_K_L": (13, "Q3_K"),
    "Q4_K_S": (14, "Q4_K"), "Q4_K_M": (15, "Q4_K"),
    "Q5_K_S": (16, "Q5_K"), "Q5_K_M": (17, "Q5_K"),
    "Q6_K":   (18, "Q6_K"),
    "IQ4_NL": (25, "IQ4_NL"), "IQ4_XS": (30, "IQ4_XS"),
    "TQ1_0":  (36, "TQ1_0"), "TQ2_0": (37, "TQ2_0"), "MXFP4_MOE": (38, "MXFP4"),
    "Q1_0":   (40, "Q1_0"), "Q2_0": (41, "Q2_0"),
}  # fmt: skip
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

# where a row is not a multiple of the type's block: the type instead; F16 where that does not divide it either
FALLBACK = {
    "IQ4_XS": "IQ4_NL", "Q2_0": "Q4_0", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip

# Tensors that stay as they are, by their whole name or a part of it
NEVER = ("position_embd.weight", "token_types.weight")
NEVER_IN = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight",
    "time_mix_first.weight", "time_mix_lerp_fused.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    *(f"time_mix_{letter}{i}.weight" for letter, n in (("w", 3), ("v", 3), ("a", 3)) for i in range(n)),
    "time_mix_g1.weight", "time_mix_g2.weight",
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip

# What a part of a tensor's name says of its role; the first that fits. llama.cpp: tensor_get_category
ROLES = (
    ("attn_qkv.weight", "attn_v"), ("attn_kv_b.weight", "attn_v"), ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"), ("attn_q.weight", "attn_q"), ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"), ("ffn_gate", "ffn_gate"), ("ffn_down", "ffn_down"),
)  # fmt: skip
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


def always(i: int, n: int, gqa: int) -> bool:
    """In every layer."""
    return True


def more_bits(i: int, n: int, gqa: int) -> bool:
    """In the first and the last eighth of the layers, and in every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def shared_kv(i: int, n: int, gqa: int) -> bool:
    """Where four query heads or more share a kv head."""
    return gqa >= 4


def first(count: int) -> When:
    """In the first `count` layers that have such a tensor."""
    return lambda i, n, gqa: i < count


def first_part(parts: int) -> When:
    """In the first n/parts layers."""
    return lambda i, n, gqa: i < n // parts


# (role, what the user typed) -> tensor types other than TYPES says, the first whose condition holds.
# llama.cpp: llama_tensor_get_type_impl
MIXES: dict[tuple[str, str], tuple[tuple[str, When], ...]] = {
    ("attn_v", "Q2_K"):        (("Q4_K", shared_kv), ("Q3_K", always)),
    ("attn_v", "Q3_K_M"):      (("Q5_K", first(2)), ("Q4_K", always)),
    ("attn_v", "Q3_K_L"):      (("Q5_K", always),),
    ("attn_v", "Q4_K_S"):      (("Q5_K", first(4)),),
    ("attn_v", "Q4_K_M"):      (("Q6_K", more_bits),),
    ("attn_v", "Q5_K_M"):      (("Q6_K", more_bits),),
    ("attn_v", "IQ4_NL"):      (("Q5_K", shared_kv),),
    ("attn_v", "IQ4_XS"):      (("Q5_K", shared_kv),),
    ("ffn_down", "Q2_K"):      (("Q3_K", always),),
    ("ffn_down", "Q3_K_M"):    (("Q5_K", first_part(16)), ("Q4_K", always)),
    ("ffn_down", "Q3_K_L"):    (("Q5_K", always),),
    ("ffn_down", "Q4_K_S"):    (("Q5_K", first_part(8)),),
    ("ffn_down", "Q4_K_M"):    (("Q6_K", more_bits),),
    ("ffn_down", "Q5_K_M"):    (("Q6_K", more_bits),),
    ("ffn_down", "IQ4_NL"):    (("Q5_K", first_part(8)),),
    ("ffn_down", "IQ4_XS"):    (("Q5_K", first_part(8)),),
    ("attn_output", "Q2_K"):   (("Q3_K", always),),
    ("attn_output", "Q3_K_M"): (("Q4_K", always),),
    ("attn_output", "Q3_K_L"): (("Q5_K", always),),
}  # fmt: skip

# The same for models of eight experts, whose attention is a small part of them
EIGHT_EXPERTS = {
    **{("attn_v", name): "Q8_0" for name in TYPES},
    **{("attn_k", name): "Q8_0" for name in TYPES},
    **{("attn_output", name): "Q5_K"
       for name in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")},
}  # fmt: skip


class Mix:
    """Chooses types in the order of the tensors, as the rules count those they have seen.

    md     keys of the model
    names  of all its tensors
    name   a key of TYPES
    """

    def __init__(self, md: Metadata, names: Sequence[str], name: str) -> None:
        self.name, self.wanted = name, TYPES[name][1]
        self.tied = "output.weight" not in names  # then the token embeddings are the output, and weigh more
        arch = md.string("general.architecture", "")
        self.layers = md.uint(f"{arch}.block_count", 0)
        self.experts = md.uint(f"{arch}.expert_count", 0)
        heads, kv_heads = (first_of(md.get(f"{arch}.attention.head_count{kind}")) for kind in ("", "_kv"))
        self.gqa = heads // (kv_heads or heads) if heads else 1
        self.seen = dict.fromkeys(("attn_v", "ffn_down"), 0)
        self.total = {"attn_v": sum(role_of(n) == "attn_v" for n in names), "ffn_down": self.layers}

    def type_of(self, t: Tensor) -> str:
        """The type of the next weight."""
        role = role_of(t.name)
        if role == "output" or (role == "token_embd" and self.tied):
            return self.output_type(t)
        if self.name == "MXFP4_MOE":  # experts only; a matrix for each, one above the other
            return "MXFP4" if len(t.shape) > 2 and t.shape[-3] > 1 else "Q8_0"
        if role == "token_embd":
            return "Q4_K" if self.name in ("TQ1_0", "TQ2_0", "Q2_0") else self.wanted
        i, n = self.layer(t, role)
        if self.experts == 8 and role in ("attn_v", "attn_k", "attn_output"):
            return EIGHT_EXPERTS.get((role, self.name), self.wanted)
        for type, when in MIXES.get((role, self.name), ()):
            if when(i, n, self.gqa):
                return type
        return self.wanted

    def output_type(self, t: Tensor) -> str:
        """The matrix that words are read off in the end: more bits than the rest."""
        if self.name == "MXFP4_MOE" or t.shape[-1] % BY_NAME[self.wanted].weights or self.wanted == "Q8_0":
            return "Q8_0"
        return "Q6_K"

    def layer(self, t: Tensor, role: str) -> tuple[int, int]:
        """The layer a rule of MIXES asks for, and of how many: the count of such tensors seen, where not told apart."""
        if role not in self.seen:
            return 0, self.layers
        i = self.seen[role]
        self.seen[role] += 1
        number = re.match(r"blk\.(\d+)\.", t.name)
        if role == "ffn_down" and self.experts > 1 and number:
            i = int(number[1])
        return i, self.total[role]


def first_of(value: Any) -> int:
    """A whole number, or the first of an array of one a layer; 0 for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.size:
        return int(value[0])
    return value if type(value) is int else 0


def role_of(name: str) -> str:
    """The role of a tensor, "" for none of those that matter."""
    if name == "output.weight":
        return "output"
    if name in EMBEDDINGS:
        return "token_embd"
    return next((role for part, role in ROLES if part in name), "")


def is_weight(t: Tensor) -> bool:
    """Is it a matrix of weights that gets smaller? Norms, biases, positions, segment types and routers do not."""
    matrix = any(n > 1 for n in t.shape[:-1])
    return matrix and t.name.endswith("weight") and t.name not in NEVER and not any(n in t.name for n in NEVER_IN)


def fits(type: str, t: Tensor) -> str:
    """The type, or the one in its place where its block does not divide the rows of `t`."""
    width = t.shape[-1]
    if width % BY_NAME[type].weights == 0:
        return type
    if type not in FALLBACK and BY_NAME[type].weights > 32:
        found = f"tensor {t.name}: rows of {width:,} are not whole {type} blocks of {BY_NAME[type].weights}"
        raise RequestError(found, hint="llama.cpp knows no type in its place either; choose another")
    other = FALLBACK.get(type, type)
    return "F16" if width % BY_NAME[other].weights else other


def canonical(type_name: str) -> str:
    """The name of TYPES a user means, in capitals or not. RequestError for one that cannot be written."""
    name = type_name.upper()
    name = ALIASES.get(name, name)
    if name not in TYPES:
        unable = name == "Q2_K_S" or name[:3] in ("IQ1", "IQ2", "IQ3")
        why = " needs an importance matrix or a codebook" if unable else " is no type of model file"
        raise RequestError(f"{type_name!r}{why}", hint="one of " + ", ".join([*TYPES, *ALIASES]))
    return name
