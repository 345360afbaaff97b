"""refembed/cli/options.py: the ways to write a norm."""

from __future__ import annotations

import pytest

from refembed.cli.options import bind_norms
from tests.cli.conftest import Cli


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        (["a", "--normalize"], ["a", "--normalize=2"]),
        (["--normalize", "Hello!"], ["--normalize=2", "Hello!"]),
        (["--normalize", "-1", "a"], ["--normalize=-1", "a"]),
        (["--normalize", "max", "a"], ["--normalize=max", "a"]),
        (["--embd-normalize", "0", "a"], ["--normalize=0", "a"]),
        (["--normalize", "--json", "a"], ["--normalize=2", "--json", "a"]),
        (["--normalize=7", "a"], ["--normalize=7", "a"]),
        (["--", "--normalize", "1"], ["--", "--normalize", "1"]),
        (["--normalize", "--", "1"], ["--normalize=2", "--", "1"]),
        (["a", "-1"], ["a", "-1"]),
        (["--normalize", "2.5", "a"], ["--normalize=2.5", "a"]),
        (["--normalize", "1e3", "a"], ["--normalize=1e3", "a"]),
        (["--normalize", "l3", "a"], ["--normalize=l3", "a"]),
        (["--normalize", "false", "a"], ["--normalize=false", "a"]),
        (["--normalize", "2.5 kg", "a"], ["--normalize=2", "2.5 kg", "a"]),
    ],
)
def test_a_norm_takes_what_follows_only_if_it_is_one(given: list[str], bound: list[str]) -> None:
    assert bind_norms(given) == bound


@pytest.mark.parametrize(
    ("word", "number"),
    [("none", "-1"), ("max", "0"), ("taxicab", "1"), ("L1", "1"), ("euclid", "2"), ("l2", "2"), ("false", "-1")],
)
def test_names_of_norms(embed: Cli, word: str, number: str) -> None:
    assert embed("--normalize", word, "hello").raw == embed("--normalize", number, "hello").raw


@pytest.mark.parametrize("norm", ["-2", "1.5", "two", ""])
def test_what_is_no_norm_is_refused(embed: Cli, norm: str) -> None:
    r = embed(f"--normalize={norm}", "hello")
    assert (r.code, r.raw) == (1, b"")
    assert "is neither a whole number from -1 nor one of none, max" in r.err


def test_a_text_that_begins_with_a_dash(embed: Cli) -> None:
    r = embed("-5 degrees")
    assert r.code == 1
    assert "goes after `--`" in r.err
    assert embed("--format", "csv", "--", "-5 degrees").out.splitlines()[1].startswith("0,-5 degrees,")
