"""What the layout promises: small files, public names, cheap imports. Ruff (D100) asks for a docstring of each file."""

from __future__ import annotations

from pathlib import Path

import pytest

import refembed
from tests.child import answer_to_code

ROOT = Path(__file__).parent.parent
FILES = sorted(p for d in ("refembed", "conformance", "tests", "benchmarks", "tools") for p in (ROOT / d).rglob("*.py"))


def test_no_file_is_longer_than_500_lines() -> None:
    assert len(FILES) > 700
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 500} == {}


def test_json_of_others_is_parsed_in_one_place() -> None:
    """What json.loads raises for deep nesting is no ValueError; bodies of requests are orjson's."""
    parsers = {p.name for p in (ROOT / "refembed").rglob("*.py") if "json.loads(" in p.read_text(encoding="utf-8")}
    assert parsers == {"parse_json.py", "json_text.py"}


def test_public_names_exist_and_are_sorted() -> None:
    assert refembed.__all__ == sorted(refembed.__all__)
    for name in refembed.__all__:
        assert getattr(refembed, name) is not None
    assert set(refembed.__all__) <= set(dir(refembed))
    with pytest.raises(AttributeError, match="no attribute 'embedder_'"):
        refembed.embedder_  # noqa: B018


def test_the_name_normalize_is_the_function_though_a_module_has_it_too() -> None:
    code = "import refembed.embedder, refembed, refembed.pooling.normalize; assert callable(refembed.normalize)"
    answer_to_code(code)


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
    loaded = set(answer_to_code(code).split())
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
    answer_to_code(code)
