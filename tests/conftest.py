"""Fixtures and Hypothesis profiles of every test."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.tiny import tiny_bert

# what a user may have set, and what would change commands, llama.cpp or their output: gone before a test reads it
for name in list(os.environ):
    if name.startswith(("LLAMA_", "GGML_")) or name in (
        "REFEMBED_DEBUG",
        "REFEMBED_THREADS",
        "REFEMBED_API_KEY",
        "FORCE_COLOR",
        "NO_COLOR",
    ):
        del os.environ[name]

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_report_header() -> list[str]:
    """The processor, and which bounds were measured on which."""
    from tests import machine

    return machine.header()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that hangs fails."""
    from tests.limits import limit_of, limited

    with limited(limit_of(item)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails on another processor than the one where bounds were measured says so."""
    report = yield
    if report.when == "call" and report.failed:
        from tests import machine

        if said := machine.warning():
            report.sections.append(("Another processor", said))
    return report


@pytest.fixture(scope="session", autouse=True)
def running_thread_pool() -> None:
    """A process that has work to do loads its workers aside; a test that counts bytes meanwhile would count theirs."""
    from refembed.kernels.fast.thread_pool import spinning_pool

    spinning_pool.start()


@pytest.fixture(scope="module", autouse=True)
def threads_as_they_were() -> Iterator[None]:
    """Models share the number of threads given last: what a file's tests choose is undone behind it, BLAS included."""
    from refembed.kernels import blas, threads

    before, blas_before = list(threads.chosen), list(blas.chosen)
    yield
    if (threads.chosen, blas.chosen) != (before, blas_before):
        blas.limit(blas_before[0] if blas_before else threads.available())
        threads.chosen[:], blas.chosen[:] = before, blas_before
        threads.workers.cache_clear()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights."""
    return tiny_bert(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The default model as published: config.json, safetensors, tokenizer; verified, fetched once."""
    from refembed import hub

    return hub.source_folder("minilm")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The default model as GGUF, F32: real weights."""
    from refembed import hub

    return hub.resolve("minilm")


@pytest.fixture(scope="session")
def oracle(minilm: Path) -> Iterator[Any]:
    """Live llama.cpp with the default model: one thread, flash attention off, no repacked weights."""
    from refembed.verify.engines.llamacpp import LlamaCpp

    with LlamaCpp(minilm, threads=1, flash_attn=False, extra_buffer_types=False) as engine:
        yield engine
