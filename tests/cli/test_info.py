"""refembed info: what the file says, held against what tests/tiny.py wrote and gguf-py reads."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from refembed.gguf import GGUFWriter
from refembed.testing.synthetic import synthetic
from tests.cli.conftest import Cli
from tests.gguf.shards import split


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture that is not known, with values of every kind."""
    w = GGUFWriter("frob", byteorder=">")
    w.add("frob.embedding_length", 7, "UINT32")
    w.add("frob.attention.head_count", [1, 2], "ARRAY[UINT32]")
    w.add("frob.pooling_type", 77, "UINT32")
    w.add("frob.eps", 1e-12, "FLOAT32")
    w.add("frob.scores", [float("nan"), float("-inf"), 0.1], "ARRAY[FLOAT32]")
    w.add("frob.template", "\x1b[31m\n" + "x" * 300, "STRING")
    w.add("frob.words", [b"a", b"\xff", b"c", b"d", b"e"], "ARRAY[STRING]")
    w.add("frob.flag", True, "BOOL")
    w.add_tensor("w", np.ones((3, 2), np.float32), (3, 2), "F32")
    path = tmp_path_factory.mktemp("odd") / "odd.gguf"
    w.write(path)
    return path


def rows(content: str) -> dict[str, str]:
    """First column -> the rest."""
    return dict(re.split("   *", line, maxsplit=1) for line in content.splitlines()[1:])


def test_the_table(cli: Cli, tiny: Path) -> None:
    r = cli("info", tiny)
    assert (r.code, r.err) == (0, "")
    found = rows(r.out)
    size = tiny.stat().st_size
    assert found["name"] == "tiny"
    assert found["file"] == str(tiny)
    assert f"({size:,} bytes)" in found["file size"]
    assert found["vector length"] == "32 numbers"
    assert found["longest text"] == "64 tokens"
    assert (found["layers"], found["heads"], found["feed-forward width"]) == ("2", "4", "48")
    assert found["parameters"] == "20,000"
    assert found["tensor types"] == "F32 (37)"
    assert (found["pooling"], found["tokenizer"], found["vocabulary"]) == ("mean", "bert", "88 tokens")
    assert found["refembed runs it"] == "yes"
    assert "sha256" not in found


def test_vectors_may_be_longer_than_the_model_is_wide(cli: Cli, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "gemma-embedding2", keys={"embedding_length_out": (64, "UINT32")})
    found = rows(cli("info", path).out)
    assert (found["channels"], found["vector length"], found["refembed runs it"]) == ("36", "64 numbers", "yes")


def test_json_has_the_same_and_numbers_are_numbers(cli: Cli, tiny: Path) -> None:
    about = json.loads(cli("info", tiny, "--json", "--sha256").out)
    reader = gguf.GGUFReader(tiny)
    assert about["n_params"] == sum(int(t.n_elements) for t in reader.tensors)
    assert about["n_tensors"] == len(reader.tensors)
    assert (about["n_embd"], about["n_ctx"], about["n_ff"], about["quant_types"]) == (32, 64, 48, {"F32": 37})
    assert about["sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()


def test_sha256_of_a_split_model_is_of_all_shards(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    paths = split(tiny, tmp_path, 3)
    whole = hashlib.sha256(b"".join(p.read_bytes() for p in paths)).hexdigest()
    assert json.loads(cli("info", paths[0], "--json", "--sha256").out)["sha256"] == whole


def test_sha256_on_request(cli: Cli, tiny: Path) -> None:
    assert hashlib.sha256(tiny.read_bytes()).hexdigest() in cli("info", "-m", tiny, "--sha256").out


def test_tensors_are_those_gguf_py_sees(cli: Cli, tiny: Path) -> None:
    expected = [
        (t.name, [int(n) for n in reversed(t.shape)], t.tensor_type.name, int(t.data_offset), int(t.n_bytes))
        for t in gguf.GGUFReader(tiny).tensors
    ]
    about = json.loads(cli("info", tiny, "--tensors", "--json").out)
    assert [tuple(t.values()) for t in about["tensors"]] == expected
    lines = [line.split() for line in cli("info", tiny, "--tensors").out.splitlines()]
    assert lines[0] == ["tensor", "shape", "type", "offset", "bytes"]
    assert lines[1:] == [[n, "x".join(map(str, s)), k, str(o), str(b)] for n, s, k, o, b in expected]


def test_metadata_are_those_gguf_py_sees(cli: Cli, tiny: Path) -> None:
    about = json.loads(cli("info", tiny, "--metadata", "--json").out)["metadata"]
    fields = {k: v for k, v in gguf.GGUFReader(tiny).fields.items() if not k.startswith("GGUF.")}
    assert list(about) == list(fields)
    for key, field in fields.items():
        wanted = field.contents()
        assert about[key]["value"] == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), key


def test_long_values_are_shortened_in_the_table(cli: Cli, odd: Path) -> None:
    lines = {line.split()[0]: line for line in cli("info", odd, "--metadata").out.splitlines()}
    assert lines["frob.eps"].split() == ["frob.eps", "FLOAT32", "1e-12"]
    assert lines["frob.words"].endswith(" [a, \ufffd, c, d, ...] (5 items)")
    assert lines["frob.scores"].endswith("[nan, -inf, 0.1] (3 items)")
    assert "\\x1b[31m\\nxxx" in lines["frob.template"]
    assert max(map(len, lines.values())) < 180


def test_json_has_whole_values_and_no_nan(cli: Cli, odd: Path) -> None:
    about = json.loads(cli("info", odd, "--metadata", "--json").out, parse_constant=pytest.fail)["metadata"]
    assert about["frob.scores"] == {"type": "ARRAY[FLOAT32]", "value": ["nan", "-inf", 0.1]}
    assert about["frob.words"]["value"] == ["a", "\ufffd", "c", "d", "e"]
    assert about["frob.template"]["value"] == "\x1b[31m\n" + "x" * 300
    assert about["frob.flag"] == {"type": "BOOL", "value": True}


def test_a_model_that_refembed_cannot_run_is_described(cli: Cli, odd: Path) -> None:
    r = cli("info", odd)
    found = rows(r.out)
    assert r.code == 0
    assert (found["architecture"], found["byte order"], found["heads"]) == ("frob", "big", "[1, 2]")
    assert found["refembed runs it"].startswith("no: refembed does not compute architecture 'frob'")
    assert found["pooling"] == "unknown (77)"
    assert "layers" not in found


def test_a_model_is_given_once(cli: Cli, tiny: Path) -> None:
    r = cli("info", tiny, "-m", tiny)
    assert r.code == 1
    assert "once" in r.err


def test_what_is_no_model_ends_with_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04")
    r = cli("info", tmp_path / "x.gguf")
    assert (r.code, r.raw) == (2, b"")
    assert "zip archive" in r.err
