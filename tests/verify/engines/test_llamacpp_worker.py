"""The worker's own logic, on libraries made of Python: what C would do only for rare inputs."""

from __future__ import annotations

import pytest

from refembed.errors import EngineError
from refembed.verify.engines.llamacpp_worker import Graph, Session


def test_an_exception_in_the_callback_is_kept():
    """C would swallow it: the run is asked to stop, and the error waits for the caller."""
    graph = Graph(object())
    assert graph.seen(1, True, None) is True
    assert graph.seen(0, False, None) is False
    assert "NULL pointer access" in graph.failure
    first = graph.failure
    assert graph.seen(1, True, None) is False
    assert graph.failure == first
    graph.clear()
    assert graph.seen(1, True, None) is True


class Expanding:
    """A vocabulary whose every byte becomes 30 tokens, as normalization can do to a ligature."""

    def llama_tokenize(self, vocab, text, n, ids, room, add_special, parse_special):
        need = 30 * n
        if need > room:
            return -need
        ids[:need] = [7] * need
        return need


class TooLong:
    """llama_tokenize where the count overflows."""

    def llama_tokenize(self, *arguments):
        return -(2**31)


def session(lib):
    s = Session.__new__(Session)
    s.lib, s.vocab = lib, 1
    return s


def test_a_text_may_have_more_tokens_than_bytes():
    assert session(Expanding()).tokenize(b"abc", True, True) == [7] * 90


def test_a_text_too_long_to_count_is_refused():
    with pytest.raises(EngineError, match="answers -2147483648 to a text of 3 bytes"):
        session(TooLong()).tokenize(b"abc", True, True)
