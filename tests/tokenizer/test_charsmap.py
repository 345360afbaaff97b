"""The charsmap: SentencePiece's table of replacements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import EngineError, ModelError
from refembed.gguf import open_gguf
from refembed.tokenizer import load_tokenizer
from refembed.tokenizer.charsmap import Charsmap, read_charsmap
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.tokenizer.kinds_charsmap import BROKEN_PAIRS, nfkc_pairs, write_charsmap
from tests.tokenizer.kinds_vocabs import T5_HEAD, charsmap, write_vocab

Read = Callable[..., "Charsmap | None"]
PAIRS = nfkc_pairs() | BROKEN_PAIRS


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """read(blob): the charsmap of a file with that value."""

    def read(blob: bytes, kind: str = "UINT8") -> Charsmap | None:
        path = write_vocab(tmp_path / "map.gguf", ("t5", T5_HEAD, [charsmap(blob, kind)]))
        with open_gguf(path) as file:
            return read_charsmap(file.metadata, "map.gguf")

    return read


def longest(pairs: Mapping[bytes, bytes], text: bytes) -> tuple[bytes, int] | None:
    """The definition: of all keys that the text begins with, the longest."""
    key = max((k for k in pairs if text.startswith(k)), key=len, default=None)
    return None if key is None else (pairs[key], len(key))


@pytest.mark.parametrize("kind", ["UINT8", "INT8"])
def test_every_key_is_found_with_its_replacement(read: Read, kind: str) -> None:
    found = read(write_charsmap(PAIRS), kind)
    assert found
    for key, replacement in PAIRS.items():
        assert found.longest(b"__" + key, 2) == (replacement, len(key))
        assert found.longest(key + b"\xc3\x9f", 0) == longest(PAIRS, key + b"\xc3\x9f")


KEYS = st.binary(min_size=1, max_size=5).filter(lambda key: 0 not in key)
FEW = st.lists(st.sampled_from([b"a", b"b", b"\xe2", b"\x81", b"\xff"]), min_size=1, max_size=4).map(b"".join)
NO_NUL = st.binary(max_size=4).filter(lambda value: 0 not in value)


@given(
    pairs=st.dictionaries(KEYS | FEW, NO_NUL, min_size=1),
    text=st.binary() | st.lists(FEW | st.just(b"\0")).map(b"".join),
)
def test_the_longest_key_wins_for_any_map_and_text(pairs: dict[bytes, bytes], text: bytes) -> None:
    blob = write_charsmap(pairs)
    size = int.from_bytes(blob[:4], "little")
    units = [int.from_bytes(blob[i : i + 4], "little") for i in range(4, 4 + size, 4)]
    found = Charsmap(units, blob[4 + size :], "the model")
    for at in range(len(text)):
        assert found.longest(text, at) == longest(pairs, text[at:])
    for begin in {text[:2], *(k[:1] for k in pairs)}:
        after = {k[len(begin)] for k in pairs if k.startswith(begin) and len(k) > len(begin)}
        assert found.after(begin) == (None if any(begin.startswith(k) for k in pairs) else after)


def test_a_file_without_a_charsmap_has_none(tmp_path: Path) -> None:
    with open_gguf(write_vocab(tmp_path / "vocab.gguf", ("t5", T5_HEAD, []))) as file:
        assert read_charsmap(file.metadata, "the model") is None


def test_a_charsmap_without_units_replaces_nothing(read: Read) -> None:
    assert read(b"\0\0\0\0x\0") is None
    assert read(b"\3\0\0\0abcx\0") is None


BLOB = write_charsmap({b"a": b"x", b"bc": b"y"})
REFUSED = {
    "short": b"\0\0",
    "nothing behind the trie": BLOB[:-4],
    "a trie beyond the end": b"\xff\xff\xff\x7f" + BLOB[4:],
}


@pytest.mark.parametrize("blob", REFUSED.values(), ids=REFUSED)
def test_parts_that_do_not_fit_are_an_error(read: Read, blob: bytes) -> None:
    with pytest.raises(ModelError, match=r"map\.gguf: tokenizer\.ggml\.precompiled_charsmap: .* cannot hold"):
        read(blob)


def test_a_charsmap_of_another_type_is_an_error(tmp_path: Path) -> None:
    key = ("precompiled_charsmap", [1, 2], "ARRAY[INT32]")
    with pytest.raises(ModelError, match=r"precompiled_charsmap: ARRAY\[INT32\], not ARRAY\[UINT8\]"):
        load_tokenizer(write_vocab(tmp_path / "map.gguf", ("t5", T5_HEAD, [key])))


def with_unit(at: int, unit: int) -> bytes:
    """BLOB with another unit."""
    return BLOB[: 4 + 4 * at] + unit.to_bytes(4, "little") + BLOB[8 + 4 * at :]


def test_a_trie_that_leads_out_of_itself_is_an_error_when_a_text_follows_it(read: Read) -> None:
    found = read(with_unit(0, 0x1FFFFF << 10))
    assert found
    with pytest.raises(ModelError, match=r"charsmap: the trie leads to unit \d+ of 256"):
        found.longest(b"a", 0)


def test_a_replacement_that_does_not_end_is_an_error_when_a_text_has_its_key(read: Read) -> None:
    found = read(BLOB.rstrip(b"\0"))
    assert found
    assert found.longest(b"a", 0) == (b"x", 1)
    with pytest.raises(ModelError, match=r"charsmap: a replacement at 2 of 3 bytes does not end"):
        found.longest(b"bc", 0)


@pytest.mark.oracle
def test_llama_cpp_refuses_what_is_an_error(tmp_path: Path) -> None:
    for blob in REFUSED.values():
        path = write_vocab(tmp_path / "bad.gguf", ("t5", T5_HEAD, [charsmap(blob)]))
        with pytest.raises(EngineError):
            LlamaCpp(path, vocab_only=True)


@pytest.mark.oracle
@pytest.mark.parametrize(("blob", "text"), [(with_unit(0, 0x1FFFFF << 10), "a"), (BLOB.rstrip(b"\0"), "bc")])
def test_llama_cpp_ends_on_texts_that_are_an_error(tmp_path: Path, blob: bytes, text: str) -> None:
    path = write_vocab(tmp_path / "bad.gguf", ("t5", T5_HEAD, [charsmap(blob)]))
    with pytest.raises(EngineError), LlamaCpp(path, vocab_only=True) as engine:
        engine.tokenize(text)  # or sooner: it looks for a line feed when it loads
    with pytest.raises(ModelError):
        load_tokenizer(path).encode(text)
