"""What changed texts have in common: found where it fits exactly, silent where luck would do."""

from __future__ import annotations

import pytest

from refembed.verify.upgrade.common import TRAITS, in_common

PLAIN = [f"a plain line of words no. {chr(97 + i)}" for i in range(20)]
WITH = {
    "special tokens spelled out": ["a [sep] b [SEP] c", "x </s>", "<|endoftext|>"],
    "capital letters": ["Paris in may", "rome And oslo", "NASA"],
    "accented letters": ["caf\u00e9", "na\u00efve", "gr\u00f6\u00dfe m\u00fcller"],
    "Chinese, Japanese or Korean": ["日本語", "中文 text", "한국어"],
    "emoji and other symbols": ["hi 😀", "ok 👍", "sun ☀"],
    "digits": ["in 1984", "x 3", "4 of 5"],
    "line breaks or tabs": ["a\nb", "c\td", "e\n"],
}


@pytest.mark.parametrize("name", WITH)
def test_a_trait_that_all_changed_texts_have_and_no_other(name):
    texts = [*PLAIN, *WITH[name]]
    plain = [t.replace(".", "") for t in texts]
    found = in_common(plain, {20, 21, 22})
    assert found == name


def test_the_length_where_no_trait_fits():
    texts = [*PLAIN, *("long " * n for n in (30, 40, 50))]
    texts = [" ".join(t.split()) for t in texts]
    assert in_common(texts, {20, 21, 22}) == f"more than {len(PLAIN[0])} characters"


def test_what_may_be_luck_is_not_said():
    """One of twenty is one choice of twenty, and all of them is no choice."""
    texts = [*PLAIN[:19], "Paris"]
    assert in_common(texts, {19}) == ""
    assert in_common(texts, set(range(20))) == ""
    assert in_common(texts, set()) == ""


def test_a_trait_that_others_have_too_is_none():
    texts = [*PLAIN, "Paris", "Rome", "Oslo", "Bern"]
    texts = [t.replace(".", "") for t in texts]
    assert in_common(texts, {20, 21, 22, 23}) == "capital letters"
    assert in_common(texts, {20, 21, 22}) == ""


def test_every_trait_has_a_name_of_its_own():
    assert len({name for name, _ in TRAITS}) == len(TRAITS) > 10
