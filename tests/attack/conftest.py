"""`--seed`: other mutants, kills and moments than those of the seed that is printed."""

from __future__ import annotations

import pytest

SEED = 20261130


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option."""
    parser.addoption("--seed", type=int, default=SEED, help="of everything that tests/attack draws")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed, printed where a test fails."""
    chosen = int(request.config.getoption("--seed", SEED))
    print(f"--seed {chosen}")
    return chosen
