"""A text with images through the wheel's own llama-server: base64 of image files, its marker, its answer."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.arrays import F32, U8
from refembed.pipeline.images import MARKER
from tests.llama_server import llama_server
from tests.model.bits import unequal
from tests.pipeline.test_multimodal import MODELS, TEXTS, Pair, some_images
from tests.pngs import png

pytestmark = [pytest.mark.oracle, pytest.mark.system]


def asked(address: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, data), timeout=60) as answer:
        return json.load(answer)


def file(image: U8) -> str:
    """A PNG file with these pixels, in base64."""
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    return base64.b64encode(png(image.shape[1], image.shape[0], 8, 2, rows)).decode()


def served(address: str, text: str, images: list[U8]) -> F32:
    """llama-server's vector, whose numbers it writes with as many digits as a float needs."""
    marker = asked(address, "/props")["media_marker"]
    prompt = {"prompt_string": text.replace(MARKER, marker), "multimodal_data": [file(x) for x in images]}
    answer = asked(address, "/embedding", {"content": prompt, "embd_normalize": -1})
    (row,) = answer[0]["embedding"]
    return np.array(row, np.float32)


@pytest.mark.parametrize("arch", MODELS)
def test_ggml_has_the_bits_that_llama_server_answers(arch: str, tmp_path: Path) -> None:
    pair = Pair(tmp_path, arch)
    e = pair.embedder("ggml")
    with llama_server(pair.model, pair.pooling, mmproj=str(pair.mmproj)) as address:
        for text, n in TEXTS:
            images = some_images(n)
            want = served(address, text, images)
            got = e.embed({"text": text, "image": images}, pooling=pair.pooling, normalize=-1)
            assert unequal(got, want) == 0, text
