"""Hypothesis strategies for texts: what `texts.random_texts` draws from a seed, drawn so that failures shrink.

@given(text=texts())
def test_mine(text):
    my_tokenizer.encode(text)
"""

from __future__ import annotations

try:
    from hypothesis import strategies as st
except ImportError as error:  # an optional dependency
    raise ImportError("refembed.testing needs Hypothesis\n  hint: pip install hypothesis") from error

from refembed.testing.texts import BROKEN, CODE, EMOJI, LETTERS, MARKS, SPACES, SPECIAL, TOO_HIGH_SHAPE, WORDS


def parts() -> st.SearchStrategy[str]:
    """A word, marks, an emoji, a special token, code, white space, or any characters at all."""
    fixed = [*WORDS, *EMOJI, *SPECIAL, *CODE, *SPACES, *LETTERS, *map(chr, MARKS)]
    return st.one_of(st.sampled_from(fixed), st.text(max_size=8))


def texts(max_parts: int = 12) -> st.SearchStrategy[str]:
    """Text without surrogates: what can be written as UTF-8."""
    return st.lists(parts(), max_size=max_parts).map("".join)


def raw_texts(max_parts: int = 12) -> st.SearchStrategy[bytes]:
    """Bytes, most of them text, some no UTF-8; no code point above U+10FFFF."""
    pieces = st.one_of(parts().map(lambda s: s.encode()), st.sampled_from(BROKEN), st.binary(max_size=6))
    return st.lists(pieces, max_size=max_parts).map(b"".join).filter(lambda raw: not TOO_HIGH_SHAPE.search(raw))
