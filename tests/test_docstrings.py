"""What is public has a docstring with an example, and the example does what it shows.

Public are (CONTRIBUTING.md): the names in `__all__` of PACKAGES, the errors, what `docs/verify.md` calls from Python
(VERIFY), each class's methods without underscore, in `kernels/exact` each operation of `Ops` and each formula, in
`kernels/quant` each decoder and encoder. A method's example may stand in the docstring of its class.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import refembed
from refembed.kernels.activation_ops import ActivationOps
from refembed.kernels.image_ops import ImageOps
from refembed.kernels.ops import Ops
from refembed.kernels.quant import dequant, quantize
from refembed.kernels.state_ops import StateOps
from refembed.testing.contract import Property
from tools.site.public_names import INTERNAL, PACKAGES, VERIFY

FORMULAS = {  # what the operations in kernels/exact are made of
    "attention": ("slopes", "reach", "mask_scores"),
    "integer": ("quantize_rows", "multiply_codes", "fused"),
    "matmul": ("matmul",),
    "rope": ("pairs", "turns", "angles", "ramp", "pair_that_turns", "magnitude"),
    "sums": ("ordered_sum", "means"),
    "tensor_cores": (
        "round_tf32",
        "round_fp16",
        "round_bf16",
        "matmul_tf32",
        "matmul_fp16",
        "matmul_bf16",
        "multiply_steps",
    ),
}


def exact_functions() -> Iterator[str]:
    """The operations of `Ops` that have a function of their own in kernels/exact, and the formulas."""
    operations = [
        n
        for c in (Ops, ActivationOps, StateOps, ImageOps)
        for n, value in vars(c).items()
        if isinstance(value, FunctionType)
    ]
    for path in sorted(Path(refembed.__file__).parent.glob("kernels/exact/*.py")):
        module = importlib.import_module(f"refembed.kernels.exact.{path.stem}".removesuffix(".__init__"))
        for name in (*operations, *FORMULAS.get(path.stem, ())):
            if getattr(getattr(module, name, None), "__module__", None) == module.__name__:
                yield f"{module.__name__}.{name}"


def public_names() -> dict[str, Any]:
    """Dotted name -> function or class."""
    names = [f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__]
    names += [f"refembed.{name}" for name in refembed.ERRORS]
    found = {}
    for name in (*names, *VERIFY, *exact_functions()):
        module, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(module), attribute)
        if inspect.isclass(value) or inspect.isfunction(value):
            found[f"{value.__module__}.{value.__qualname__}"] = value
    for function in (*map(dequant.definition, dequant.FAMILY), *quantize.QUANTIZERS.values()):
        found[f"{function.__module__}.{function.__qualname__}"] = function
    return found


PUBLIC = public_names()


def parts(cls: type) -> list[type]:
    """A class, and those that it is made of: `Embedder`'s methods stand by subject in bases of its own room."""
    room = "refembed.embedder."
    return [c for c in cls.__mro__ if c is cls or (cls.__module__.startswith(room) and c.__module__.startswith(room))]


def public_methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties of a class that it defines itself and that users call."""
    left_out = INTERNAL.get(cls.__name__, "").split()
    for name, value in (item for part in parts(cls) for item in vars(part).items()):
        wrapped = getattr(value, "__func__", value)
        callable_ = isinstance(wrapped, FunctionType) or isinstance(value, property)
        if callable_ and not name.startswith(("_", "test_")) and name not in left_out:
            yield name, getattr(wrapped, "fget", None) or wrapped


def examples_of(value: Any) -> list[doctest.Example]:
    """The examples in a docstring."""
    return doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in FORMULAS.items() for name in names])
def test_a_formula_that_is_listed_exists(module: str, name: str) -> None:
    """Otherwise its docstring would go unread without a word."""
    full = f"refembed.kernels.exact.{module}"
    formula = getattr(importlib.import_module(full), name, None)
    assert getattr(formula, "__module__", None) == full, f"FORMULAS: {full} defines no {name}"
    assert f"{full}.{name}" in PUBLIC


@pytest.mark.parametrize("name", INTERNAL)
def test_a_method_that_is_left_out_exists(name: str) -> None:
    classes = [value for value in PUBLIC.values() if inspect.isclass(value) and value.__name__ == name]
    assert classes, f"INTERNAL: no public class {name}"
    missing = [
        method
        for method in INTERNAL[name].split()
        if not any(method in vars(part) for cls in classes for part in parts(cls))
    ]
    assert not missing, f"INTERNAL: {name} does not define {missing}"


def test_every_kind_of_public_object_is_collected() -> None:
    """Otherwise the tests below could pass for want of objects."""
    wanted = {
        "refembed.embedder.embedder.Embedder", "refembed.errors.GGUFError", "refembed.gguf.writer.GGUFWriter",
        "refembed.kernels.exact.rope.rope", "refembed.kernels.exact.attention.softmax",
        "refembed.kernels.exact.attention.slopes", "refembed.kernels.quant.dequant_kquants.q4_k",
        "refembed.kernels.quant.dequant_iquants.iq1_m", "refembed.kernels.quant.quantize_flat.q8_0",
        "refembed.corpus.vector_cache.Cache", "refembed.hub.resolve", "refembed.similarity.hamming",
    }  # fmt: skip
    assert wanted <= set(PUBLIC)
    assert len(PUBLIC) > 110  # 122 on 30 November 2026


@pytest.mark.parametrize("name", PUBLIC)
def test_public_object_has_an_example(name: str) -> None:
    value = PUBLIC[name]
    examples = examples_of(value)
    assert examples, f"{name} has no example (>>>) in its docstring"
    assert any(example.want for example in examples), f"{name}: no example shows a result"
    assert not any(doctest.SKIP in example.options for example in examples), f"{name}: an example is skipped"
    if inspect.isclass(value):
        source = "".join(example.source for example in examples)
        for method, function in public_methods(value):
            shown = examples_of(function) or re.search(rf"\b{method}\b", source)
            assert shown, f"{name}.{method} has no example, in its docstring or in its class's"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_example_gives_what_it_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples write files
    value = PUBLIC[name]
    finder = doctest.DocTestFinder(exclude_empty=True)
    module = importlib.import_module(value.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    with np.printoptions(precision=8, threshold=1000, edgeitems=3, linewidth=120, suppress=False, floatmode="maxprec"):
        for part in parts(value) if inspect.isclass(value) else [value]:
            space = vars(importlib.import_module(part.__module__)) | vars(module)
            for test in finder.find(part, name, module=False, globs=space):
                runner.run(test, out=report.append)
    assert runner.tries > 0, f"{name}: no example ran"
    assert runner.failures == 0, "".join(report)


def test_properties_are_not_taken_for_public_methods() -> None:
    """A property that `for_all` makes is a test of its own: its docstring is its formula."""
    from refembed.testing import PoolingContract

    made = {name for name, value in vars(PoolingContract).items() if isinstance(value, Property)}
    assert made
    assert made.isdisjoint(name for name, _ in public_methods(PoolingContract))
