"""Kernels by name: where their source is, what their arguments are, and how a launch packs them.

A kernel's arguments are read from its source, so that there is one place where they are written down. What is passed
is checked against them: their number, arrays against the type that a pointer points to. Numbers become NumPy scalars
of the very size that the kernel reads, pointers 64 bits, in this order; every `Device` is given the same list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HOME = Path(__file__).parent
SOURCES = (
    "activations", "arithmetic", "attention", "conv", "dequant_iquants", "dequant_kquants", "dequant_legacy", "matmul",
    "norms", "recurrent", "rope", "sums", "tensor_cores",
)  # fmt: skip

SCALARS: dict[str, type[np.generic]] = {"int": np.int32, "long long": np.int64, "float": np.float32}
POINTERS: dict[str, type[np.generic]] = SCALARS | {
    "unsigned char": np.uint8, "signed char": np.int8, "unsigned int": np.uint32
}  # fmt: skip

INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)
ENTRY = r'extern "C" __global__ void (?:__launch_bounds__\(\d+\)\s+)?(\w+)\(([^()]*)\)'
KERNEL = re.compile(f"^{ENTRY}", re.MULTILINE)
MACRO = re.compile(rf"^#define (\w+)\([^()]*\) {ENTRY}", re.MULTILINE)


class Parameter(NamedTuple):
    """One argument of a kernel."""

    name: str
    type: type[np.generic]  # of the number; of a pointer, what it points to
    pointer: bool


class Kernel(NamedTuple):
    """A kernel, and the file that it is in."""

    name: str
    source: str  # one of SOURCES
    parameters: tuple[Parameter, ...]


class Memory(NamedTuple):
    """Numbers in a device's memory."""

    pointer: int
    dtype: np.dtype[Any]
    owner: Any  # what keeps the memory allocated

    def at(self, index: int) -> Memory:
        """The same memory, from a later number on."""
        return self._replace(pointer=self.pointer + index * self.dtype.itemsize)


def source_text(source: str) -> str:
    """The text of a file of kernels, with what it includes in its place.

    >>> "#include" in source_text("norms"), "warp_sum" in source_text("norms")
    (False, True)
    """
    text = (HOME / f"{source}.cu").read_text(encoding="utf-8")
    return INCLUDE.sub(lambda match: (HOME / match[1]).read_text(encoding="utf-8"), text)


@cache
def kernels_of(source: str) -> dict[str, Kernel]:
    """The kernels of a file, by name, those that macros make among them.

    >>> list(kernels_of("norms")), [p.name for p in kernels_of("norms")["rms_norm"].parameters][:3]
    (['layer_norm', 'rms_norm'], ['x', 'w', 'eps'])
    """
    text = re.sub(r"\s*\\\n\s*", " ", source_text(source))  # a macro's lines in one
    found = dict(KERNEL.findall(text))
    for macro, _, arguments in MACRO.findall(text):
        found |= dict.fromkeys(re.findall(rf"^{macro}\((\w+),", text, re.MULTILINE), arguments)
    return {name: Kernel(name, source, parameters_of(arguments)) for name, arguments in found.items()}


def parameters_of(arguments: str) -> tuple[Parameter, ...]:
    """What stands between a kernel's parentheses.

    >>> parameters_of("const float* x, long long n")[1]
    Parameter(name='n', type=<class 'numpy.int64'>, pointer=False)
    """
    parameters = []
    for argument in arguments.split(","):
        declared, name = argument.replace("const ", "").strip().rsplit(None, 1)
        pointer = declared.endswith("*")
        types = POINTERS if pointer else SCALARS
        parameters.append(Parameter(name, types[declared.removesuffix("*").strip()], pointer))
    return tuple(parameters)


@cache
def kernel_of(name: str) -> Kernel:
    """The kernel of that name. KeyError where there is none.

    >>> kernel_of("rope").source
    'rope'
    """
    return next(kernels_of(source)[name] for source in SOURCES if name in kernels_of(source))


def packed(kernel: Kernel, arguments: Sequence[Any]) -> list[np.generic]:
    """Arguments as a launch passes them. TypeError for a wrong number of them, or an array of another type.

    arguments  for a pointer `Memory`, or None for null; else a number

    >>> packed(kernel_of("scale"), [None, 0.5, 3, None])
    [np.uint64(0), np.float32(0.5), np.int64(3), np.uint64(0)]
    """
    if len(arguments) != len(kernel.parameters):
        raise TypeError(f"kernel {kernel.name} takes {len(kernel.parameters)} arguments, not {len(arguments)}")
    values: list[np.generic] = []
    for parameter, value in zip(kernel.parameters, arguments, strict=True):
        if parameter.pointer:
            if value is not None and value.dtype != parameter.type:
                expected = np.dtype(parameter.type)
                raise TypeError(f"kernel {kernel.name}: {parameter.name} is of {expected}, not of {value.dtype}")
            values.append(np.uint64(0 if value is None else value.pointer))
        else:
            values.append(parameter.type(value))
    return values
