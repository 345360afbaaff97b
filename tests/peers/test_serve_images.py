"""Bodies with images: `refembed serve` answers as llama-server does, to the last bit, and refuses what is no image."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from refembed.arrays import F32
from refembed.pipeline.images import MARKER
from tests.llama_server import llama_server
from tests.model.bits import unequal
from tests.model.vision.towers import picture
from tests.pipeline.test_multimodal import TEXTS, Pair, some_images
from tests.pipeline.test_multimodal_server import file
from tests.server.servers import Client, refembed

pytest.importorskip("PIL.Image", reason="Pillow is not installed: the extra `images`")
pytestmark = [pytest.mark.peers, pytest.mark.oracle]

SWITCHES = ("--numerics", "ggml", "--no-flash-attn", "--no-repack", "--pooling", "mean", "--embd-normalize", "-1")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client]]:
    """Ours, and llama.cpp's."""
    pair = Pair(tmp_path_factory.mktemp("served"), "gemma-embedding2")
    with (
        refembed("-m", pair.model, "--mmproj", pair.mmproj, *SWITCHES) as ours,
        llama_server(pair.model, pair.pooling, mmproj=str(pair.mmproj)) as address,
    ):
        yield ours, Client(address)


def vectors(server: Client, inputs: list[Any]) -> list[F32]:
    """Through /embedding, not normalized."""
    answer = server.post("/embedding", {"content": inputs, "embd_normalize": -1})
    assert answer.status == 200, answer.body
    return [np.array(item["embedding"][0], np.float32) for item in answer.json]


def bodies(server: Client, large: bool = False) -> list[Any]:
    """The texts of TEXTS with their images, and one without, in the marker of this server. large: a body of 64 KiB."""
    marker = server.get("/props").json["media_marker"]
    found: list[Any] = ["the cat sat"]
    for text, n in TEXTS[: 2 if large else None]:
        images = [picture(170, 140, i) for i in range(n)] if large else some_images(n)
        found.append({"prompt_string": text.replace(MARKER, marker), "multimodal_data": [file(x) for x in images]})
    return found


@pytest.mark.parametrize("large", [False, True])
def test_both_servers_answer_the_same_bits(servers: tuple[Client, Client], large: bool) -> None:
    """A large body is read in a process of its own."""
    ours, theirs = servers
    inputs = bodies(ours, large)
    got = vectors(ours, inputs)
    want = [vectors(theirs, [one])[0] for one in bodies(theirs, large)]
    assert [unequal(x, y) for x, y in zip(got[1:], want[1:], strict=True)] == [0] * (len(inputs) - 1)
    assert np.array_equal(got[0], vectors(ours, ["the cat sat"])[0])


def test_parts_of_openais_form_are_the_same_input(servers: tuple[Client, Client]) -> None:
    ours, _ = servers
    (image,) = some_images(1)
    parts = [
        {"type": "text", "text": "the cat "},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{file(image)}"}},
        {"type": "text", "text": " sat"},
    ]
    want = {"prompt_string": f"the cat {MARKER} sat", "multimodal_data": [file(image)]}
    got = ours.embed([{"content": parts}, want])
    assert got[0] == got[1]


def test_what_the_server_can_read_is_in_its_description(servers: tuple[Client, Client]) -> None:
    for server in servers:
        assert server.get("/props").json["modalities"]["vision"] is True
    model = servers[0].get("/v1/models").json["data"][0]
    assert model["architecture"]["input_modalities"] == ["text", "image"]


def prompt(text: str, *data: Any) -> dict[str, Any]:
    return {"prompt_string": text, "multimodal_data": list(data)}


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        (prompt(MARKER, "***"), 400, "image 0 is not base64"),
        (prompt(MARKER, base64.b64encode(b"a text").decode()), 400, "6 bytes that are no image"),
        (prompt(MARKER, base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()), 400, "no image"),
        (
            prompt("a", file(picture(2, 2))),
            400,
            "number of media markers in text (0) does not match number of images (1)",
        ),
        (prompt(MARKER), 400, "number of media markers in text (1) does not match number of images (0)"),
        (prompt(MARKER, 5), 400, "must be an array of base64 strings"),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]},
            400,
            "nothing is fetched",
        ),
        ({"content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}, 400, "nothing is fetched"),
        ({"content": [{"type": "image_url"}]}, 400, "nothing is fetched"),
        ({"content": [{"type": "input_audio"}]}, 500, "audio input is not supported"),
    ],
)
def test_what_is_no_image_is_refused(servers: tuple[Client, Client], given: Any, status: int, message: str) -> None:
    answer = servers[0].post("/embedding", {"content": [given]})
    assert (answer.status, message in answer.json["error"]["message"]) == (status, True), answer.body
