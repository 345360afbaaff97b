"""`python -m conformance repin`: its steps, what it reads out of a library, and that a check writes nothing."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from conformance import builds, builds_probe, repin
from conformance.__main__ import main
from conformance.builds import load_builds, package_path
from refembed.errors import RequestError
from refembed.verify.engines.llamacpp_lib import PINNED, wheel_file

RODATA = b"\0llama\0bert\0new-arch\0(unknown)\0%s.rope.scale\0tokenizer.ggml.pre\0blk.%d.attn_q\0printf %s\0"


def test_names_are_read_out_of_the_librarys_strings():
    found = repin.names_in(RODATA)
    assert found["architectures"] == {"llama", "bert", "new-arch"}
    assert found["metadata keys"] == {"%s.rope.scale", "tokenizer.ggml.pre"}
    assert found["tensors"] == {"blk.%d.attn_q"}


def test_new_and_gone_names(tmp_path):
    old, new = tmp_path / "old.so", tmp_path / "new.so"
    old.write_bytes(RODATA.replace(b"new-arch\0", b""))
    new.write_bytes(RODATA.replace(b"bert\0", b"").replace(b"pre\0", b"normalizer.nfc\0"))
    found = repin.new_names(old, new)
    assert found["architectures"] == (["new-arch"], ["bert"])
    assert found["metadata keys"] == (["tokenizer.ggml.normalizer.nfc"], ["tokenizer.ggml.pre"])
    assert found["tensors"] == ([], [])


@pytest.mark.oracle
def test_the_pinned_library_names_what_it_is_known_to_have():
    """Names from llama.cpp's own constants (src/llama-arch.cpp)."""
    found = repin.names_in(wheel_file().read_bytes())
    assert {"tokenizer.ggml.pre", "general.architecture", "%s.context_length", "%s.pooling_type"} <= found[
        "metadata keys"
    ]
    assert {"blk.%d.attn_kv_a_mqa", "blk.%d.ffn_gate_inp", "blk.%d.ssm_conv1d"} <= found["tensors"]
    assert {"llama", "modern-bert", "gemma-embedding2", "qwen3", "nomic-bert-moe"} <= found["architectures"]


def test_a_check_takes_no_step_that_writes():
    assert [s.id for s in repin.chosen(True, (), None)] == ["names", "verdict", "bits", "suite", "tokenizers", "tests"]
    everything = repin.chosen(False, (), None)
    assert everything[:6] == repin.chosen(True, (), None)
    assert [s.id for s in everything].index("pin") == 6
    assert next(s.id for s in repin.chosen(False, (), "measure")) == "measure"
    assert [s.id for s in repin.chosen(True, ("bits",), None)] == ["bits"]
    with pytest.raises(RequestError, match="'bytes' is no step\n  hint: steps are names, verdict"):
        repin.chosen(True, ("bytes",), None)


def test_each_step_says_what_to_look_at():
    assert [s.id for s in repin.STEPS if not s.look] == []
    listed = CliRunner().invoke(main, ["repin", "--list"])
    assert listed.exit_code == 0
    assert listed.output.count("look: ") == len(repin.STEPS)
    assert "python -m conformance run ggml/*" in listed.output


def test_commands_of_steps_are_commands_there_are():
    of_conformance = {s.command[2] for s in repin.STEPS if s.command[:2] == ("-m", "conformance")}
    assert of_conformance == {"run", "measure", "record", "builds", "architectures", "no-false-alarm", "verify-mutants"}
    assert of_conformance <= set(main.commands)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small tree with the pin in it, in place of the repository's own."""
    for name, text in {
        "pyproject.toml": f'"xllamacpp=={PINNED}",\n', "README.md": f"wheel {PINNED}\nother\n",
        "refembed/verify/engines/llamacpp_lib.py": f'PINNED = "{PINNED}"\n', "docs/numerics.md": f"with {PINNED}\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(repin, "ROOT", tmp_path)
    return tmp_path


def test_the_pin_is_written_where_it_is_the_pin_and_nowhere_else(tree):
    said = []
    repin.write_pin("2030.1.1", said.append)
    assert said == [
        "  README.md: 1 line",
        "  pyproject.toml: 1 line",
        "  refembed/verify/engines/llamacpp_lib.py: 1 line",
    ]
    assert (tree / "pyproject.toml").read_text() == '"xllamacpp==2030.1.1",\n'
    assert PINNED in (tree / "docs/numerics.md").read_text()


@pytest.mark.parametrize("pinned", [PINNED, "2030.1.1111"])
def test_comments_that_name_another_version_are_listed_before_the_pin_is_written_and_after(tree, monkeypatch, pinned):
    """A run that goes on at a later step reads the pin that an earlier one wrote."""
    monkeypatch.setattr(repin, "PINNED", pinned)
    (tree / "docs/history.md").write_text(f"every version: {PINNED}\n")
    (tree / "docs/other.md").write_text("with 2030.1.1111, of 2026.11.30\n")
    said = []
    repin.show_comments("2030.1.1111", said.append)
    assert said == [
        "  docs/numerics.md: 1 line",
        "  refembed/verify/engines/llamacpp_lib.py: 1 line",
    ]


def test_the_test_that_is_left_out_is_there():
    file, _, name = repin.PIN_TEST.partition("::")
    assert f"def {name}()" in (repin.ROOT / file).read_text()


def downloads(file):
    """subprocess.run, in which pip brings this file."""
    real = subprocess.run

    def run(command, **how):
        if "download" not in command:
            return real(command, **how)
        shutil.copy(file, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


@pytest.mark.oracle
def test_the_row_of_a_wheel_is_written(tmp_path, monkeypatch):
    """From the pinned wheel's own file: what is in builds.toml, without the profile, which takes its vectors."""
    row = load_builds()[f"xllamacpp {PINNED}"]
    if not package_path(row).is_file():
        pytest.skip("the package of the pinned build is not fetched")
    others = [b for b in load_builds().values() if b != row]
    table, written = tmp_path / "builds.toml", []  # what add_row hands over, and a copy of the file
    monkeypatch.setattr(builds_probe, "load_builds", lambda: {b.id: b for b in others})
    monkeypatch.setattr(builds_probe, "package_path", lambda build: tmp_path / "kept" / build.file)
    monkeypatch.setattr(builds_probe, "write_builds", written.extend)
    monkeypatch.setattr(builds_probe.subprocess, "run", downloads(package_path(row)))
    assert builds_probe.add_row("xllamacpp", PINNED, [].append) == 0
    assert written == [*others, dataclasses.replace(row, profile="")]
    assert (tmp_path / "kept" / row.file).is_file()
    table.write_bytes(builds.PATH.read_bytes())
    builds.write_builds(load_builds().values(), table)
    assert table.read_bytes() == builds.PATH.read_bytes()


@pytest.mark.oracle
def test_the_pinned_wheel_against_itself_has_no_new_names_and_changes_nothing(tree):
    said = []
    assert repin.repin(PINNED, True, ("names",), None, wheel_file().parents[1], said.append)
    assert [line for line in said if "new:" in line or "gone:" in line] == [
        f"  {kind}, {what}: none" for kind in repin.PATTERNS for what in ("new", "gone")
    ]
    assert PINNED in (tree / "pyproject.toml").read_text()


def test_steps_run_with_the_other_wheel_in_front(tmp_path, monkeypatch):
    asked = []

    def run(command, **how):
        asked.append((command[1:], how["env"]["PYTHONPATH"].split(":")[0]))
        return subprocess.CompletedProcess(command, 3 if "run" in command else 0)

    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / "xllamacpp").mkdir()
    (tmp_path / "xllamacpp" / "xllamacpp.so").write_bytes(b"")
    said = []
    assert not repin.repin("1", False, ("verdict", "bits", "suite"), None, tmp_path, said.append)
    assert asked == [(list(s.command), str(tmp_path)) for s in repin.STEPS if s.id in ("verdict", "bits")]
    assert "stopped; after a remedy: python -m conformance repin 1 --from bits" in said[-3]
    assert said[-2] == "where the difference is llama.cpp's own, and named: --from suite"
    asked.clear()
    assert not repin.repin("1", True, ("verdict", "bits", "suite"), None, tmp_path, said.append)
    assert len(asked) == 3
    assert said[-1] == "\n2 of 3 steps differ: bits, suite"


def test_changes_are_looked_for_next_to_a_wheel():
    ids = [b.id for b in builds.select(["xllamacpp"])]
    at = ids.index("xllamacpp 2026.5.9093")
    assert repin.around(ids[at]) == ["xllamacpp 2026.4.8672", "xllamacpp 2026.5.9093", "xllamacpp 2026.6.9538"]
    assert repin.around(ids[0]) == ids[:2]
    with pytest.raises(RequestError, match="xllamacpp 1 has no row\n  hint: --from row writes it"):
        repin.around("xllamacpp 1")


def test_a_folder_without_the_wheel_is_one_sentence(tmp_path):
    with pytest.raises(RequestError, match="no xllamacpp in it"):
        repin.library_in(tmp_path)
