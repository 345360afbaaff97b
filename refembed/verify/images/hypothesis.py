"""What a hypothesis about images is: one thing that an engine may do otherwise, as a change of the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from refembed.arrays import Float
from refembed.errors import RefembedError
from refembed.kernels.ops import Ops
from refembed.kernels.wrapper import PatchedOps
from refembed.verify.images.reference import ImageReference

Stage: TypeAlias = Literal["pixels", "tower", "text"]
Change: TypeAlias = Callable[[ImageReference], ImageReference]

# what a change may raise where it has no meaning for this tower or this image
FAILURES = (RefembedError, IndexError, ValueError, AttributeError, TypeError, ZeroDivisionError, KeyError)


@dataclass(frozen=True)
class ImageHypothesis:
    """One row of the tables in `pixels`, `towers` and `texts`."""

    id: str  # "gelu-quick"
    stage: Stage
    says: str  # to be read after "the engine"
    change: Change
    advice: str  # what to do about it


def joined(a: ImageHypothesis, b: ImageHypothesis) -> ImageHypothesis:
    """Both, one after the other."""
    first, second = (a, b) if ORDER[a.stage] <= ORDER[b.stage] else (b, a)
    return ImageHypothesis(
        f"{first.id} + {second.id}", first.stage, f"{first.says}, and {second.says}",
        lambda r: second.change(first.change(r)), f"{first.advice}; and {second.advice}",
    )  # fmt: skip


ORDER = {"pixels": 0, "tower": 1, "text": 2}


def hparams(**values: Any) -> Change:
    """Other numbers of the tower."""

    def change(r: ImageReference) -> ImageReference:
        return replace(r, tower=replace(r.tower, hparams=replace(r.tower.hparams, **values)))

    return change


def weights(alter: Callable[[Any], Any]) -> Change:
    """Other weights of the tower."""

    def change(r: ImageReference) -> ImageReference:
        return replace(r, tower=replace(r.tower, weights=alter(r.tower.weights)))

    return change


def traits(**values: Any) -> Change:
    """Another way in which rows stand in the text."""

    def change(r: ImageReference) -> ImageReference:
        own = r.tower.module.TRAITS
        return replace(r, tower=r.tower.changed(TRAITS=replace(own, **values)))

    return change


def operations(**functions: Callable[..., Float]) -> Change:
    """Operations replaced by functions that are given the true operations first."""

    def patched(ops: Ops) -> Ops:
        return PatchedOps(ops, functions)

    return lambda r: r.add(ops=patched)
