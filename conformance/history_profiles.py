"""Which profile of the `ggml` numerics has a build's bits: refembed's own vectors, in every profile, as digests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from conformance.cases import load_texts
from conformance.history import MODELS, TEXTS, Answers, Digests, History, digest_of
from conformance.models import model_path
from refembed import Embedder
from refembed.kernels.ggml.profile import PROFILES


@dataclass(frozen=True)
class Choice:
    """A profile and its two switches."""

    profile: str
    flash_attn: bool
    repack: bool

    @property
    def id(self) -> str:
        """`avx2`, `avx2 flash repack`."""
        return " ".join(filter(None, (self.profile, "flash" * self.flash_attn, "repack" * self.repack)))


def choices() -> Iterator[Choice]:
    """All of them; where several have a build's bits, the first says so."""
    x86 = [p.name for p in PROFILES.values() if p.lanes > 4]
    for profile, flash_attn, repack in product(x86, (True, False), (True, False)):
        yield Choice(profile, flash_attn, repack)


def compute(model: str, choice: Choice) -> Digests:
    """Digests of refembed's vectors of the texts, as llama.cpp has them before it normalizes."""
    switches: dict[str, Any] = {"profile": choice.profile, "flash_attn": choice.flash_attn, "repack": choice.repack}
    embedder = Embedder.load(model_path(model), numerics="ggml", **switches)
    ids = [embedder.tokenize(load_texts()[name].data.decode()) for name in TEXTS]
    return [digest_of(v) for v in embedder.embed(ids, normalize=-1)]


def compute_all() -> dict[str, dict[str, Digests]]:
    """Every model in every choice."""
    return {model: {c.id: compute(model, c) for c in choices()} for model in MODELS}


def choices_of(history: History, answers: Answers, model: str, setting: str) -> list[Choice]:
    """Those that have all bits of a build's vectors."""
    theirs = answers.vectors.get(model, {}).get(setting)
    return [c for c in choices() if theirs and history.profiles.get(model, {}).get(c.id) == theirs]


def profile_of(history: History, answers: Answers) -> str:
    """The profile that has a build's bits for every model and setting; "" where none has."""
    found: set[str] | None = None
    for model, settings in answers.vectors.items():
        for setting in settings if model in MODELS else ():
            names = {c.profile for c in choices_of(history, answers, model, setting)}
            found = names if found is None else found & names
    return next((name for name in PROFILES if name in (found or ())), "")
