"""The real llama-cpp-python says what tests/data/llama-cpp-python.json says it does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers


def test_the_record_is_what_llama_cpp_python_gives_now() -> None:
    """It is published as source alone: REFEMBED_LLAMA_CPP_PYTHON names the unpacked folder, nothing is compiled."""
    folder = os.environ.get("REFEMBED_LLAMA_CPP_PYTHON")
    if not folder:
        pytest.skip("REFEMBED_LLAMA_CPP_PYTHON names no folder: see tests/record_llama_cpp_python.py")
    from tests.record_llama_cpp_python import record

    kept = json.loads((Path(__file__).parent.parent / "data" / "llama-cpp-python.json").read_text(encoding="utf-8"))
    assert record(Path(folder)) == kept
