"""Faults planted in an architecture's file, each with the first tensor that is then not llama.cpp's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeAlias

import pytest

from refembed.kernels.ops import AttentionMask
from refembed.model import Model
from refembed.model.trace import Trace
from tests.model.bits import Bits, some_ids

Traced: TypeAlias = Callable[[str], tuple[Bits, Trace]]


class Fault(NamedTuple):
    """One piece of a file's text, written wrongly."""

    name: str
    variant: str  # of the test's VARIANTS: the model that shows it
    right: str  # stands once in the file
    wrong: str  # may use dataclasses.replace and AttentionMask
    first: str  # "name[k]", as in trace[name, k]


def broken(module: ModuleType, right: str, wrong: str) -> ModuleType:
    """A copy of the module with one piece of its text replaced."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(right) == 1
    copy = ModuleType(module.__name__)
    copy.__dict__.update(replace=dataclasses.replace, AttentionMask=AttentionMask)
    exec(compile(source.replace(right, wrong), "fault", "exec"), copy.__dict__)
    return copy


def traced_by(model_of: Callable[[str, Path], Path], folders: pytest.TempPathFactory, pooling: str = "mean") -> Traced:
    """variant -> our model, and llama.cpp's trace of 33 tokens; each made once. model_of writes a variant's file."""

    @cache
    def make(variant: str) -> tuple[Bits, Trace]:
        bits = Bits(model_of(variant, folders.mktemp("fault")), pooling)
        with bits.engine() as engine:
            return bits, engine.trace(some_ids(33))

    return make


def first_wrong(bits: Bits, theirs: Trace, module: ModuleType) -> str:
    """The first tensor that the model gets wrong, as "name[k]", when it is computed by that module."""
    faulty = Bits(bits.path, bits.pooling)
    faulty.model = Model(bits.model.hparams, bits.model.weights, module)
    return faulty.wrong(theirs)[0].split()[0]
