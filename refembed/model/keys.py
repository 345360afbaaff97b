"""Keys `{arch}.*` of a GGUF file, read and checked one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from refembed.errors import ModelError
from refembed.gguf import GGUFFile

LARGEST = 1 << 20  # of heads and channels; far beyond any model


class Keys:
    """The keys of one architecture in one file."""

    def __init__(self, f: GGUFFile) -> None:
        self.md, self.path = f.metadata, f.path
        self.arch = f.metadata.string("general.architecture")

    def uint(self, key: str, default: Any = None, least: int = 0, most: int = LARGEST) -> int:
        """{arch}.key, required where there is no default: a number, or one a layer if all are the same."""
        full = f"{self.arch}.{key}"
        if full in self.md and self.md.type_name(full).startswith("ARRAY"):
            values = sorted({int(n) for n in self.md.ints(full)})
            if len(values) != 1:
                raise ModelError(f"{self.path}: {full} is {values}: layers that differ are not computed yet")
            value = values[0]
        else:
            value = self.md.uint(full) if default is None else self.md.uint(full, default)
        if not least <= value <= most:
            raise ModelError(f"{self.path}: {full} is {value}", hint=f"{least} to {most} make sense")
        return value

    def float(self, key: str, default: Any = None, sound: Callable[[Any], bool] = math.isfinite) -> Any:
        """{arch}.key, a finite number, required where there is no default."""
        full = f"{self.arch}.{key}"
        value = self.md.float(full) if default is None else self.md.float(full, default)
        if not sound(value):
            raise ModelError(f"{self.path}: {full} is {value}")
        return value


def positive(x: float) -> bool:
    """Whether x can be the base of a power or a divisor."""
    return 0 < x < math.inf
