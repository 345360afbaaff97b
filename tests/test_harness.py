"""The harness is tested by breaking things: every mutant is caught by some case, and refembed as it is by none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.bounds import Bounds, load_bounds
from conformance.mutants import MUTANTS, Mutant, caught_by, run_mutant
from conformance.oracle import Live

pytestmark = pytest.mark.oracle

REQUIRED = {"gelu-erf", "eps-1e-5", "variance-unbiased"}  # cosine > 0.99999 passes all three


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """llama.cpp with room for all traces of the selection."""
    with Live(engines=4, traces=4) as oracle:
        yield oracle


@pytest.fixture(scope="module")
def bounds() -> Bounds:
    """bounds.toml."""
    return load_bounds()


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_refembed_as_it_is_passes_the_selection(numerics: str, live: Live, bounds: Bounds) -> None:
    results = run_mutant(None, numerics, live, bounds)
    assert not [r.explain() for r in results if r.failed]
    assert {r.test.case.kind for r in results} == {"tokens", "local", "trace", "embed", "batch"}


BROKEN = [(m, "fast") for m in MUTANTS] + [(m, "exact") for m in MUTANTS if m.id in REQUIRED]


@pytest.mark.parametrize(("mutant", "numerics"), BROKEN, ids=lambda p: p.id if isinstance(p, Mutant) else p)
def test_some_case_catches_every_mutant(mutant: Mutant, numerics: str, live: Live, bounds: Bounds) -> None:
    caught = caught_by(run_mutant(mutant, numerics, live, bounds))
    print(f"\n{mutant.id:22} {numerics:5}  {caught}")
    assert caught, f"no case catches {mutant.id}: {mutant.description}"
    assert mutant.shown_by in caught


def test_the_three_faults_that_a_cosine_cannot_see_are_among_them() -> None:
    assert {m.id for m in MUTANTS} >= REQUIRED


def test_ids_of_mutants_are_unique() -> None:
    assert len({m.id for m in MUTANTS}) == len(MUTANTS)
