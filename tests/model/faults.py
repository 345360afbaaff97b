"""Faults planted in an architecture's file, each with the first tensor that is then not llama.cpp's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from refembed.kernels.ops import Mask


class Fault(NamedTuple):
    """One piece of a file's text, written wrongly."""

    name: str
    variant: str  # of the test's VARIANTS: the model that shows it
    right: str  # stands once in the file
    wrong: str  # may use dataclasses.replace and Mask
    first: str  # "name[k]", as in trace[name, k]


def broken(module: ModuleType, right: str, wrong: str) -> ModuleType:
    """A copy of the module with one piece of its text replaced."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(right) == 1
    copy = ModuleType(module.__name__)
    copy.__dict__.update(replace=dataclasses.replace, Mask=Mask)
    exec(compile(source.replace(right, wrong), "fault", "exec"), copy.__dict__)
    return copy
