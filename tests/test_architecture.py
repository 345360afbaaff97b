"""What the layout promises: small files, public names, cheap imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import refembed

ROOT = Path(__file__).parent.parent
FILES = sorted(p for d in ("refembed", "conformance", "tests", "benchmarks", "tools") for p in (ROOT / d).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", [p for p in FILES if "refembed" in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_public_names_exist_and_are_sorted() -> None:
    assert refembed.__all__ == sorted(refembed.__all__)
    for name in refembed.__all__:
        assert getattr(refembed, name) is not None
    assert set(refembed.__all__) <= set(dir(refembed))
    with pytest.raises(AttributeError, match="no attribute 'embedder_'"):
        refembed.embedder_  # noqa: B018


def test_the_name_normalize_is_the_function_though_a_module_has_it_too() -> None:
    code = "import refembed.embedder, refembed, refembed.pooling.normalize; assert callable(refembed.normalize)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import refembed", {"numpy", "numba", "gguf", "rich", "click", "refembed.embedder"}),
        ("from refembed import Embedder", {"numba", "llvmlite", "gguf", "rich"}),
        (
            "from refembed import open_gguf",
            {"numba", "gguf", "refembed.kernels.quant.dequant", "refembed.kernels.ops", "refembed.model"},
        ),
        (
            "from refembed import load_tokenizer",
            {"numba", "gguf", "refembed.kernels.quant.dequant", "refembed.kernels.ops", "refembed.model"},
        ),
        ("from refembed.kernels.numerics import load_ops; load_ops('exact')", {"numba", "gguf"}),
    ],
)
def test_an_import_brings_only_what_it_needs(statement: str, unwanted: set[str]) -> None:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert not loaded & unwanted


def test_reading_a_file_needs_no_math(tiny: Path) -> None:
    """docs/decisions/001: metadata and raw bytes are had where the decoders cannot even be imported."""
    code = f"""
import sys
sys.modules["refembed.kernels.quant.dequant"] = None
from refembed import open_gguf
f = open_gguf({str(tiny)!r})
assert f.metadata["general.architecture"] == "bert"
assert f.tensors["token_embd.weight"].raw.nbytes
"""
    subprocess.run([sys.executable, "-c", code], check=True)
