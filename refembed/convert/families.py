"""Every architecture that `convert` knows next to BERT and DistilBERT: tables of recipes.py and of checkpoints_*.py."""

from __future__ import annotations

from refembed.convert import recipes
from refembed.convert.checkpoint import Checkpoint
from refembed.convert.checkpoints_classic import CLASSIC
from refembed.convert.checkpoints_dense import DENSE
from refembed.convert.checkpoints_experts import WITH_EXPERTS
from refembed.convert.checkpoints_gemma import GEMMAS
from refembed.convert.checkpoints_states import STATES
from refembed.convert.recipes import Recipe

CHECKPOINTS: dict[str, Checkpoint] = CLASSIC | DENSE | STATES | WITH_EXPERTS | GEMMAS
RECIPES: dict[str, Recipe] = recipes.RECIPES | {stem: one.recipe for stem, one in CHECKPOINTS.items()}
ARCHITECTURES: dict[str, str] = recipes.ARCHITECTURES | {  # class -> key of RECIPES
    stem + end: stem for stem, one in CHECKPOINTS.items() for end in one.classes
}
