"""Every architecture's variants, small random models, against live llama.cpp: tensors, bits, names, planted faults.

A variant is an architecture with some of its options; tables of variants and faults, and bounds with the numbers that
were measured, are in the files of their families: test_decoders.py, test_encoders_pre.py, test_encoders_post.py,
test_gemmas_phi_t5.py, test_granite_lfm2.py, test_mla.py, test_moe_decoders.py and test_recurrent.py. What holds of one
architecture alone is tested there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from refembed.testing.synthetic import synthetic
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.model import (
    test_decoders,
    test_dense_decoders,
    test_encoders_post,
    test_encoders_pre,
    test_gemmas_phi_t5,
    test_granite_lfm2,
    test_mla,
    test_moe_decoders,
    test_recurrent,
)
from tests.model.bits import Bits, some_ids
from tests.model.facts import (
    bits_do_not_depend_on_the_batch,
    differs_by_rounding_alone,
    places_changed_by_token_20,
    public_path_has_llama_cpps_bits_and_names,
)
from tests.model.family import Family
from tests.model.faults import Fault, Traced, broken, first_wrong, traced_by
from tests.model.keys import PATTERN, SEES_ALL
from tests.model.live import Both

FAMILIES = tuple(
    module.FAMILY
    for module in (
        test_decoders,
        test_dense_decoders,
        test_encoders_pre,
        test_encoders_post,
        test_gemmas_phi_t5,
        test_granite_lfm2,
        test_mla,
        test_moe_decoders,
        test_recurrent,
    )
)
CASES = [
    pytest.param((family, variant), marks=pytest.mark.slow if variant in family.slow else (), id=variant)
    for family in FAMILIES
    for variant in family.variants
]
NUMBERS = {"none": 0, "mean": 1, "cls": 2, "last": 3}  # {arch}.pooling_type
WINDOW = "attention.sliding_window"


class Case:
    """A variant, its file, and llama.cpp with it, started when it is asked for."""

    def __init__(self, family: Family, variant: str, folder: Path) -> None:
        self.family, self.variant, self.path = family, variant, family.write(variant, folder)

    @cached_property
    def both(self) -> Both:
        """Both engines: flash attention off, a cache of float32."""
        return Both(self.path, self.family.pooling)

    @contextmanager
    def bits(self, flash: bool) -> Iterator[tuple[Bits, LlamaCpp]]:
        """The `ggml` numerics, and llama.cpp; flash: with flash attention and interleaved weights."""
        pooling = self.family.flash if flash else self.family.classic
        bits = self.family.bits(self.path, pooling, flash_attn=flash, repack=flash)
        if not (flash or self.family.cached):  # then a cache of float32 is none
            yield bits, self.both.engine
            return
        with bits.engine() as engine:
            yield bits, engine

    def close(self) -> None:
        """End llama.cpp, if it was started."""
        if "both" in vars(self):
            self.both.engine.close()


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    family, variant = request.param
    case = Case(family, variant, tmp_path_factory.mktemp("variant"))
    yield case
    case.close()


@pytest.mark.oracle
def test_every_tensor_is_llama_cpps_but_for_rounding(case: Case) -> None:
    """Nothing is left over on either side, and no operation of `exact` and `fast` is further off than its bound."""
    family, variant = case.family, case.variant
    if family.rounds_to_8_bits(variant) and not family.quantized:
        pytest.skip("llama.cpp rounds activations to 8 bits: `ggml` alone can follow")
    whole = family.whole_of(variant)
    differs_by_rounding_alone(case.both, lambda d: family.bound_of(variant, d), whole, but=family.unordered)


@pytest.mark.oracle
@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash, repacked"])
def test_bits_are_llama_cpps(case: Case, flash: bool) -> None:
    """Of texts alone and in a batch, and of every tensor by itself on llama.cpp's inputs."""
    with case.bits(flash) as (bits, engine):
        assert bits.differing(engine) == {}
        for n in case.family.lengths(case.variant, flash):
            assert bits.wrong(engine.trace(some_ids(n))) == [], n


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("family", "arch", "pooling"),
    [
        pytest.param(family, arch, pooling, id=f"{arch}, {pooling}")
        for family in FAMILIES
        for arch in family.archs
        for pooling in family.poolings
    ],
)
def test_pooling_and_names_are_llama_cpps(family: Family, arch: str, pooling: str, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", arch, **family.small(arch), pooling=NUMBERS[pooling])
    public_path_has_llama_cpps_bits_and_names(path, pooling != "none")


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize(
    ("family", "arch"), [pytest.param(family, arch, id=arch) for family in FAMILIES for arch in family.archs]
)
def test_a_texts_bits_do_not_depend_on_its_batch(family: Family, arch: str, numerics: str, tmp_path: Path) -> None:
    bits_do_not_depend_on_the_batch(synthetic(tmp_path / "m.gguf", arch, **family.small(arch)), numerics)


@pytest.mark.parametrize(
    ("arch", "keys", "reach"),
    [
        ("gemma3", {PATTERN: (0, "UINT32")}, range(20, 30)),
        ("gemma3", {}, range(20, 30)),
        ("modern-bert", {PATTERN: (0, "UINT32")}, range(14, 27)),
        ("gemma-embedding", {}, range(14, 27)),
        ("gemma-embedding2", {}, range(14, 27)),
        ("modern-bert", {}, range(40)),
        ("neo-bert", {}, range(40)),
        ("eurobert", {}, range(40)),
        ("llama-embed", {}, range(20, 40)),
        ("llama-embed", SEES_ALL, range(40)),
        ("gemma", {}, range(20, 40)),
        ("gemma2", {PATTERN: (0, "UINT32")}, range(20, 30)),
        ("gemma2", {}, range(20, 40)),
        ("phi3", {WINDOW: (4, "UINT32")}, range(20, 40)),
        ("t5encoder", {}, range(20, 40)),
        ("t5encoder", SEES_ALL, range(40)),
    ],
)
def test_a_token_changes_what_sees_it(arch: str, keys: Any, reach: range, tmp_path: Path) -> None:
    """Three layers with windows of 4 carry a token's influence 9 places on, 6 either way; one without, all the way."""
    path = synthetic(tmp_path / "m.gguf", arch, keys=keys, window=4)
    assert places_changed_by_token_20(path) == list(reach)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Traced]:
    """For each family: variant -> our model and llama.cpp's trace, each made once."""
    return {id(family): traced_by(family.write, tmp_path_factory, family.traced) for family in FAMILIES}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("family", "fault", "planted_in"),
    [
        pytest.param(family, fault, planted_in, id=f"{fault.variant}: {fault.name}")
        for family in FAMILIES
        for fault, planted_in in family.faults
    ],
)
def test_a_fault_is_found_where_it_is(family: Family, fault: Fault, planted_in: Any, traced: dict[int, Traced]) -> None:
    """The first tensor that is not llama.cpp's is the one that the fault computes."""
    bits, theirs = traced[id(family)](fault.variant)
    architecture = bits.model.module
    if planted_in is None:
        module = broken(architecture, fault.right, fault.wrong)
    else:  # a module that the architecture's imports, or its function of that name; or another function
        name = planted_in.__name__.rpartition(".")[2]
        module = broken(architecture, f"import {name}", f"import {name}")
        home = planted_in if isinstance(planted_in, ModuleType) else sys.modules[planted_in.__module__]
        other = broken(home, fault.right, fault.wrong)
        module.__dict__[name] = getattr(other, name, other)
    assert first_wrong(bits, theirs, module) == fault.first
