"""`refembed quantize`: what it writes is quantize_file()'s business (tests/convert/test_quantize.py); here, the
command.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from refembed.convert.quantize_mix import ALIASES, TYPES
from refembed.gguf import open_gguf
from tests.cli.conftest import Cli, program


def test_a_file_becomes_a_smaller_one_and_stderr_says_which(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    found = cli("quantize", tiny, out, "q8_0")
    assert found.code == 0
    assert found.raw == b""
    size = f"{out.stat().st_size:,} bytes"
    assert f"{out}: {size}" in found.err
    assert " Q8_0" in found.err
    assert open_gguf(out).metadata["general.file_type"] == 7


def test_the_summary_counts_the_tensors_that_fell_back(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """The tiny model's rows are shorter than a super-block, so none of them can be Q4_K."""
    found = cli("quantize", tiny, tmp_path / "out.gguf", "Q4_K_S")
    types = {t.type.name for t in open_gguf(tmp_path / "out.gguf").tensors.values()}
    assert "Q4_K" not in types
    fallen = sum(t.type.name in ("Q5_0", "Q5_1", "F16") for t in open_gguf(tmp_path / "out.gguf").tensors.values())
    assert fallen
    assert f"{fallen} tensors got another type, as Q4_K_S blocks do not divide their rows" in found.err


def test_options_reach_the_function(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one.gguf", "two.gguf", "three.gguf"))
    assert cli("quantize", tiny, one, "Q4_0", "--pure", "--keep", "blk.0.*", "--keep", "*.ffn_up.weight").code == 0
    for name, t in open_gguf(one).tensors.items():
        if name.startswith("blk.0.") or "ffn_up" in name:
            assert t.type.name == "F32"
    assert open_gguf(one).tensors["token_embd.weight"].type.name == "Q4_0"  # without --pure it is Q8_0
    assert cli("quantize", one, two, "Q8_0").code == 2
    assert cli("quantize", one, two, "Q8_0", "--allow-requantize").code == 0
    assert cli("quantize", two, three, "F16", "--keep", "nothing.*").code == 1


def test_a_file_that_is_there_is_kept(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.gguf"
    out.write_bytes(b"precious")
    found = cli("quantize", tiny, out, "Q8_0")
    assert found.code == 1
    assert "is there already\n  hint: --force" in found.err
    assert out.read_bytes() == b"precious"
    assert cli("quantize", tiny, out, "Q8_0", "--force").code == 0
    assert out.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (("{tiny}", "out.gguf", "Q9"), 1, "'Q9' is no type of model file"),
        (("{tiny}", "out.gguf", "IQ2_XS"), 1, "needs an importance matrix or a codebook"),
        (("nowhere.gguf", "out.gguf", "Q8_0"), 2, "nowhere.gguf: no such file"),
        (("{tiny}", "no/such/folder.gguf", "Q8_0"), 1, "cannot be written"),
        (("{tiny}", "out.gguf"), 1, "Missing argument 'TYPE'"),
        ((__file__, "out.gguf", "Q8_0"), 2, "not b'GGUF'"),
    ],
)
def test_what_cannot_be_done_is_one_error_with_a_hint(
    arguments: tuple[str, ...],
    code: int,
    found: str,
    cli: Cli,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("quantize", *(a.format(tiny=tiny) for a in arguments))
    assert result.code == code
    assert found in result.err
    assert result.err.count("error:") == 1
    assert result.err.count("hint:") == 1
    assert not list(tmp_path.iterdir())


def test_help_names_every_type(cli: Cli) -> None:
    words = cli("quantize", "--help").out.replace(",", " ").split()
    assert set(TYPES) | set(ALIASES) <= set(words)


def test_it_runs_as_a_program(tiny: Path, tmp_path: Path) -> None:
    run = program("quantize", tiny, tmp_path / "out.gguf", "bf16")
    assert run.returncode == 0
    assert run.stdout == b""
    assert open_gguf(tmp_path / "out.gguf").metadata["general.file_type"] == 32
