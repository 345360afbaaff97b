"""A job on Ray, with something else in Ray's place; Ray itself is in tests/peers/test_embed_files.py."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from refembed.batch.ray_job import connect
from refembed.errors import RequestError

SLOW = (
    "The current node timed out during startup. This could happen because of some reasons"  # a bare Exception of Ray's
)


@pytest.mark.parametrize("error", [Exception(SLOW), OSError(24, "Too many open files"), ValueError("no port\nat all")])
@pytest.mark.parametrize(
    ("address", "said"), [("local", "Ray does not start here: "), ("auto", "no Ray cluster at auto: ")]
)
def test_where_ray_cannot_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch, error: Exception, address: str, said: str
) -> None:
    def init(**settings: Any) -> None:
        raise error

    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(RequestError) as e:
        connect(SimpleNamespace(init=init), address, 1)
    assert e.value.message == said + str(error).partition("\n")[0]
