"""refembed/cli/completion.py: what a shell offers behind an option."""

from __future__ import annotations

import click
import pytest
from click.shell_completion import ShellComplete

from refembed.cli import COMMANDS, refembed
from refembed.cli.completion import COMPLETERS, FILES


@pytest.fixture(autouse=True)
def completing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_REFEMBED_COMPLETE", "bash_complete")


def offered(*words: str) -> list[tuple[str, str]]:
    """(kind, word) for the last of the words."""
    found = ShellComplete(refembed, {}, "refembed", "_REFEMBED_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("embed --pooling m", ("plain", "mean")),
        ("serve --pooling la", ("plain", "last")),
        ("embed -m min", ("plain", "minilm")),
        ("embed -m some", ("file", "some")),
        ("info m", ("plain", "minilm")),
        ("embed --normalize eu", ("plain", "euclid")),
        ("serve --embd-normalize l", ("plain", "l1")),
        ("embed --numerics g", ("plain", "ggml")),
        ("embed --format j", ("plain", "json")),
        ("embed --file te", ("file", "te")),
        ("embed -o x", ("file", "x")),
        ("verify --texts t", ("file", "t")),
        ("quantize a b q4_k", ("plain", "q4_k_s")),
        ("convert d --outtype q8", ("plain", "q8_0")),
        ("tok", ("plain", "tokenize")),
    ],
)
def test_what_is_offered(words: str, first: tuple[str, str]) -> None:
    assert offered(*words.split(" "))[0] == first


def test_every_name_in_the_tables_is_a_parameter() -> None:
    known = set()
    for verb in COMMANDS:
        command = refembed.get_command(click.Context(refembed), verb)
        assert command is not None
        known |= {param.name for param in command.params}
    assert set(COMPLETERS) | set(FILES) <= known
