"""Builds next to the last of them: letters for equal bits, how far vectors moved, texts whose tokens changed."""

import math
from pathlib import Path

import numpy as np
import pytest

from refembed.errors import EngineError, RequestError
from refembed.verify import history
from refembed.verify.engines.llamacpp_lib import PINNED
from refembed.verify.history import Answer, compare_builds, number_in, rows

NUMBER = int(PINNED.split(".")[2])  # of the installed wheel's llama.cpp


def vectors(*lists):
    return [np.array(x, np.float32) for x in lists]


def test_letters_follow_the_bits_from_the_last_build_back():
    """3/5 and 4/5 are the unit vector of (3, 4); (4, 3) turns them round: 0.2 apart, cos 24/25."""
    old = Answer("old", 1, [[1, 2]], vectors([4, 3]))
    same = Answer("same", 2, [[1, 2]], vectors([3, 4]))
    last = Answer("last", 3, [[1, 2]], vectors([3, 4]))
    found = list(rows([old, same, last]))
    assert [r.group for r in found] == ["B", "A", "A"]
    assert [r.moved for r in found] == pytest.approx([0.2, 0.0, 0.0])
    assert [r.distance for r in found] == pytest.approx([1 - 24 / 25, 0.0, 0.0])


def test_more_builds_than_letters():
    """Twenty-eight sets of bits have twenty-eight names."""
    found = list(rows([Answer(str(n), None, [[1]], vectors([1, n])) for n in range(28)]))
    assert [r.group for r in found] == ["AB", "AA", *"ZYXWVUTSRQPONMLKJIHGFEDCBA"]


def test_a_bit_is_enough_for_another_letter():
    one = np.float32(1)
    a, b = (Answer(n, None, [[0]], vectors([x, 0])) for n, x in (("a", np.nextafter(one, np.float32(2))), ("b", one)))
    found = list(rows([a, b]))
    assert [r.group for r in found] == ["B", "A"]
    assert found[0].moved == 0.0  # unit vectors of the same direction


def test_thirty_builds_with_thirty_sets_of_bits_have_thirty_names():
    answers = [Answer(str(i), None, [[0]], vectors([1, i])) for i in range(30)]
    found = [r.group for r in rows(answers)]
    assert len(set(found)) == 30
    assert found[-1:] + found[:5] == ["A", "AD", "AC", "AB", "AA", "Z"]


def test_texts_whose_tokens_changed_are_counted():
    a = Answer("a", None, [[1], [2, 3], [4]], vectors([1, 0], [1, 0], [0, 1]))
    b = Answer("b", None, [[1], [2], [5]], vectors([1, 0], [0, 1], [0, 1]))
    found = list(rows([a, b]))
    assert [r.tokens for r in found] == [2, 0]
    assert found[0].moved == 1.0


def test_a_build_that_fails_has_no_letter_and_the_one_before_is_the_last():
    a, b = Answer("a", 1, [[1]], vectors([1, 0])), Answer("b", 2, failed="does not load")
    found = list(rows([a, b]))
    assert [(r.group, r.moved, r.failed) for r in found] == [("A", 0.0, ""), ("", None, "does not load")]
    with pytest.raises(EngineError, match=r"no build gives vectors:\n  b: does not load"):
        list(rows([b]))


def test_vectors_of_other_lengths_have_no_distance():
    found = list(rows([Answer("a", 1, [[1]], vectors([1, 0, 0])), Answer("b", 2, [[1]], vectors([1, 0]))]))
    assert (found[0].group, found[0].moved, found[0].distance) == ("B", None, None)


def test_rows_a_token_are_compared_row_by_row():
    a, b = (Answer(n, None, [[1, 2]], vectors([[1, 0], [x, 1]])) for n, x in (("a", 1), ("b", 0)))
    assert next(rows([a, b])).moved == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("llama_cpp_py_sync-0.11739-1cpu-py3-none-manylinux2014_x86_64.whl", 11739),
        ("xllamacpp-2026.10.11549-cp310-abi3-manylinux2014_x86_64.whl", 11549),
        ("xllamacpp-2026.4.8672.1-cp310-abi3-manylinux2014_x86_64.whl", 8672),
        ("xllamacpp-0.2.14-cp310-abi3-manylinux2014_x86_64.whl", None),
        ("build", None),
    ],
)
def test_the_number_in_a_package_s_name(name, number):
    assert number_in(name) == number


def test_what_is_asked_reaches_the_engine(monkeypatch):
    asked = []

    class Engine:
        facts = {"build_number": 7}  # noqa: RUF012

        def __init__(self, model, **options):
            asked.append((model, options))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def tokenize_many(self, texts, *_):
            return [[1]] * len(texts)

        def embed(self, texts):
            return vectors(*[[1, 0]] * len(texts))

    monkeypatch.setattr(history, "LlamaCpp", Engine)
    found = compare_builds("m.gguf", [Path("a.whl"), None], ["x"], pooling="cls", cpu="haswell")
    assert [(r.name, r.number, r.group) for r in found] == [("a.whl", 7, "A"), ("installed", NUMBER, "A")]
    unasked = {"flash_attn": "auto", "extra_buffer_types": True, "pooling": "cls"}
    assert asked == [
        ("m.gguf", {"lib": Path("a.whl"), "cpu": "haswell", **unasked}),
        ("m.gguf", {"lib": None, "cpu": None, **unasked}),
    ]


def test_no_builds_and_no_texts_are_refused():
    with pytest.raises(RequestError):
        compare_builds("m.gguf", [], ["x"])
    with pytest.raises(RequestError):
        compare_builds("m.gguf", [None], [])


@pytest.mark.oracle
def test_the_installed_wheel_and_its_own_file_have_the_same_bits(minilm):
    from refembed.verify.engines.llamacpp_lib import wheel_file

    found = compare_builds(minilm, [wheel_file(), None], ["hello", "a longer text of a few words"])
    assert [(r.group, r.moved, r.tokens) for r in found] == [("A", 0.0, 0), ("A", 0.0, 0)]
    assert found[1].number == NUMBER
