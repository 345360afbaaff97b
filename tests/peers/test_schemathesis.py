"""Schemathesis reads the OpenAPI document of a running server and asks what it says may be asked, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from refembed.server.openapi import document
from refembed.testing.synthetic import synthetic
from tests.copies import copied
from tests.pooling.test_rerank import FLAGS, HEAD
from tests.server.servers import refembed

schemathesis = pytest.importorskip("schemathesis", reason="the extra `peers` has it")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

# Answers of 500 and more that are as docs/server.md says: what this server does not do, what no pass holds, no text
LISTED = (
    "This server does not support",
    "is too large to process",
    "input is not supported - hint",
    "Multimodal data provided",
    "pooling rank gives a text no vector",
)
EXAMPLES = 15  # of each kind and endpoint


def ask_all(address: str) -> list[tuple[str, str]]:
    """Bodies that the document allows and bodies that it does not, of every endpoint: which answers are not as it says.

    Between them the server is asked whether it is still there; an answer that never comes is an error of the client.
    """
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi import checks

    said = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    faults, asked = [], set()
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    for operation in (found.ok() for found in schema.get_all_operations()):
        modes = [*schemathesis.GenerationMode] if operation.body else [schemathesis.GenerationMode.POSITIVE]
        for mode in modes:
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], derandomize=True,
                suppress_health_check=[*HealthCheck],
            )  # fmt: skip
            @given(case=strategy)
            def ask(case: Any) -> None:
                answer = case.call(timeout=30)
                asked.add(case.operation.label)
                if answer.status_code >= 500 and not any(why in answer.text for why in LISTED):
                    faults.append((case.operation.label, answer.text[:300]))
                try:
                    case.validate_response(answer, checks=said)
                except FailureGroup as e:
                    faults.append((case.operation.label, str(e)[:600]))

            ask()
    wanted = {f"{method.upper()} {path}" for path, entry in document()["paths"].items() for method in entry}
    assert asked == wanted
    return faults


def test_a_server_of_embeddings_is_what_its_document_says(minilm: Path) -> None:
    with refembed("-m", minilm, "--metrics") as server:
        assert ask_all(server.address) == []
        assert len(server.embed("hello")[0]) == 384


def test_a_server_of_scores_is_what_its_document_says(tmp_path: Path) -> None:
    """A classifier with random weights."""
    path = copied(synthetic(tmp_path / "a.gguf", "bert", pooling=4, optional=HEAD), tmp_path / "b.gguf", FLAGS)
    with refembed("-m", path) as server:
        assert ask_all(server.address) == []
        assert server.post("/rerank", {"query": "a", "documents": ["the cat"]}).status == 200
