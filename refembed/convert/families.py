"""Every architecture that `convert` knows next to BERT and DistilBERT: tables of recipes.py and of checkpoints_*.py."""

from __future__ import annotations

from typing import Any

from refembed.convert import recipes
from refembed.convert.checkpoint import Checkpoint
from refembed.convert.checkpoints_classic import CLASSIC
from refembed.convert.checkpoints_dense import DENSE
from refembed.convert.checkpoints_encoders import ENCODERS
from refembed.convert.checkpoints_experts import WITH_EXPERTS
from refembed.convert.checkpoints_gemma import GEMMAS
from refembed.convert.checkpoints_states import STATES
from refembed.convert.recipes import Recipe

CHECKPOINTS: dict[str, Checkpoint] = CLASSIC | DENSE | ENCODERS | STATES | WITH_EXPERTS | GEMMAS
RECIPES: dict[str, Recipe] = recipes.RECIPES | {stem: one.recipe for stem, one in CHECKPOINTS.items()}
ARCHITECTURES: dict[str, str] = recipes.ARCHITECTURES | {  # class -> key of RECIPES
    stem + end: stem for stem, one in CHECKPOINTS.items() for end in one.classes
}
VARIANTS = {  # a class that several models share -> the key of config.json that only one of them has, and its recipe
    "NomicBert": ("moe_every_n_layers", "NomicBertMoe"), "XLMRoberta": ("lora_adaptations", "JinaBertV3"),
}  # fmt: skip


def stem_of(architecture: str, raw: dict[str, Any]) -> str:
    """The key of RECIPES for a class and what config.json says.

    >>> stem_of("NomicBertModel", {"moe_every_n_layers": 2})
    'NomicBertMoe'
    """
    stem = ARCHITECTURES[architecture]
    key, variant = VARIANTS.get(stem, ("", ""))
    return variant if raw.get(key) else stem
