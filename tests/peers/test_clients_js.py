"""The clients of OpenAI and Ollama for JavaScript against a running `refembed serve`, and against llama-server."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.conftest import TEXTS, Served

pytestmark = pytest.mark.peers

PACKAGES = ("openai@6.49.0", "ollama@0.6.3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clients are installed; npm keeps what it fetched, so that it does so once."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("needs Node.js and npm")
    path = tmp_path_factory.mktemp("npm")
    (path / "package.json").write_text('{"private": true}')
    command = [npm, "install", "--prefer-offline", "--no-audit", "--no-fund", "--no-save", *PACKAGES]
    try:
        done = subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    if done.returncode:
        pytest.skip(f"npm cannot install {' '.join(PACKAGES)}: {done.stderr.strip().splitlines()[-1:]}")
    shutil.copy(Path(__file__).with_name("clients.mjs"), path)
    return path


def run(folder: Path, address: str, *more: str) -> Any:
    """What clients.mjs says."""
    command = ["node", "clients.mjs", address, json.dumps(TEXTS), *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def both(served: Served, folder: Path) -> tuple[Any, Any]:
    return run(folder, served.address, "ollama"), run(folder, served.theirs.address)


def test_javascript_embeds(served: Served, both: tuple[Any, Any]) -> None:
    """Unasked (base64, which the client decodes), as floats, as base64 left alone, one text, all at once, ids."""
    ours = both[0]
    served.check([d["embedding"] for d in ours["unasked"]["data"]], TEXTS)
    served.check([d["embedding"] for d in ours["floats"]["data"]], TEXTS)
    served.check([np.frombuffer(base64.b64decode(v), "<f4") for v in ours["base64"]], TEXTS)
    served.check([ours["one"]], TEXTS[1:2])
    served.check(ours["atOnce"], TEXTS)
    served.check([ours["ids"]["data"][0]["embedding"]], [[101, 7592, 102]])


def test_javascript_gets_the_same_answers_as_from_llama_server(both: tuple[Any, Any]) -> None:
    """In addition to the vectors: the model's name, usage, order, and the errors with their classes."""

    def rest(answer: Any) -> Any:
        data = [{k: v for k, v in d.items() if k != "embedding"} for d in answer["data"]]
        return {**answer, "data": data}

    ours, theirs = both
    for name in ("unasked", "floats", "ids"):
        assert rest(ours[name]) == rest(theirs[name])
    assert [d["index"] for d in ours["unasked"]["data"]] == [*range(len(TEXTS))]
    for name in ("models", "empty", "long"):
        assert ours[name] == theirs[name]
    assert (ours["empty"]["name"], ours["long"]["name"]) == ("BadRequestError", "InternalServerError")
    assert (ours["chat"]["name"], ours["chat"]["status"]) == ("InternalServerError", 501)


def test_ollamas_javascript_client_embeds(served: Served, both: tuple[Any, Any]) -> None:
    ours = both[0]
    served.check(ours["ollama"]["embeddings"], TEXTS)
    assert ours["ollama"]["model"] == "some-model"
    assert ours["ollama"]["prompt_eval_count"] == both[1]["unasked"]["usage"]["prompt_tokens"]
    served.check([ours["older"]["embedding"]], TEXTS[:1], scale=10.0, embd_normalize=-1)
    assert [m["model"] for m in ours["listed"]["models"]] == [str(served.path)]
    assert ours["refused"]["status"] == 400
    assert "the input length exceeds the context length" in ours["refused"]["message"]
