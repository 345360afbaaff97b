"""Small files that stand for gigabytes end in one error, without the gigabytes."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.cli import run
from refembed.convert.wordpiece import check_card
from refembed.errors import EngineError, ModelError, RequestError
from refembed.model.trace import Trace
from refembed.verify.engines.recorded import from_numpy

pytestmark = pytest.mark.system

LARGE = 192 << 20  # bytes of zeros
MEMORY = 128 << 20  # bytes that reading may add


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """An address space with room for 128 MiB more, and some seconds."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, old[1]))
    begin = time.monotonic()
    try:
        yield
        assert time.monotonic() - begin < 10
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


def npz(path: Path, **members: Any) -> Path:
    """Members of so many zero bytes, or these bytes, deflated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items():
            with z.open(name.replace("_", "."), "w", force_zip64=True) as member:
                if isinstance(content, bytes):
                    member.write(content)
                else:
                    for _ in range(content >> 20):
                        member.write(bytes(1 << 20))
    return path


def test_a_trace_whose_description_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", meta_json=LARGE)
    assert path.stat().st_size < 1 << 20
    with little_memory(), pytest.raises(RequestError, match=r"meta\.json: \d+ bytes would unpack to 201326592"):
        Trace.load(path)


def test_compressed_vectors_that_unpack_to_gigabytes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "a.npz", meta_json=b"{}", codes_npy=LARGE)
    with little_memory():
        assert run(["compress", str(path), "--to", "float32", "--out", str(tmp_path / "b.npy")]) == 1
    assert "would unpack to" in capsys.readouterr().err


def test_a_dump_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", arr_npy=LARGE)
    with little_memory(), pytest.raises(EngineError, match="would unpack to"):
        from_numpy(path)


def test_an_array_that_claims_more_than_its_file_holds_is_refused(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 384)})
    (tmp_path / "a.npy").write_bytes(head.getvalue() + bytes(384 * 4))
    with little_memory(), pytest.raises(EngineError, match="cannot be read"):
        from_numpy(tmp_path / "a.npy")


def test_a_model_card_that_refers_to_itself_is_refused(tmp_path: Path) -> None:
    """Nine lists, each of nine times the one before: 358 bytes for 400 million strings."""
    rows = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    rows += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    card = "---\n" + "\n".join(rows) + "\n---\n# A model\n"
    (tmp_path / "README.md").write_text(card)
    assert len(card) < 500
    with little_memory(), pytest.raises(ModelError, match="YAML aliases"):
        check_card(tmp_path)


@pytest.mark.parametrize(
    "card", ["# no card", "---\nlicense: mit\ntags: ['*a', b]\n---\n**bold** and *italic*", "---\nx: 'a * b'\n---"]
)
def test_an_ordinary_card_is_read(card: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert check_card(tmp_path) is None


def test_an_endless_card_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\n" + json.dumps({"a": "x" * (5 << 20)}) + "\n---\n")
    with pytest.raises(ModelError, match="characters"):
        check_card(tmp_path)
