"""Files that ask for composed texts, in the first build of llama.cpp here that reads the key, and in the pinned one."""

from __future__ import annotations

import pytest

from conformance.builds import load_builds, open_build, package_path
from refembed.tokenizer import load_tokenizer
from refembed.tokenizer.base import as_bytes
from refembed.tokenizer.bpe import TOO_HIGH
from refembed.tokenizer.compose import characters
from refembed.tokenizer.unicode import decode
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.tokenizer import vocabs
from tests.tokenizer.bpe_vocabs import write_bpe
from tests.tokenizer.kinds_live import NASTY, assert_equal_ids
from tests.tokenizer.kinds_vocabs import VARIANTS, write_vocab
from tests.tokenizer.test_compose import texts

pytestmark = [pytest.mark.slow, pytest.mark.oracle]

NFC = vocabs.flag("normalizer.nfc", True)
TEXTS = [*map(as_bytes, texts(4000)), *map(as_bytes, NASTY)]
UNIGRAM = [name for name, variant in VARIANTS.items() if variant[0] == "t5"]
OTHERS = {
    "bert": lambda path: vocabs.write_vocab(path, None, NFC),
    "gpt2": lambda path: write_bpe(path, "qwen2", NFC),
    "gemma4": lambda path: write_bpe(path, None, NFC, kind="gemma4"),
    **{name: lambda path, v=v: write_vocab(path, v, NFC)
       for name, v in {v[0]: v for v in VARIANTS.values() if v[0] != "t5"}.items()},
}  # fmt: skip


@pytest.fixture(scope="module")
def newest():
    build = load_builds()["llama-cpp-py-sync 0.11739"]
    if not package_path(build).is_file():
        pytest.skip(f"{build.id}: its package is not fetched (`python -m conformance builds fetch b11739`)")
    return build


@pytest.mark.parametrize("name", UNIGRAM)
def test_texts_that_are_composed_have_its_ids(name, newest, tmp_path):
    path = write_vocab(tmp_path / "m.gguf", VARIANTS[name], NFC)
    with open_build(newest, path, vocab_only=True) as engine:
        assert_equal_ids(engine, load_tokenizer(path), TEXTS)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_pass_the_key_over(kind, newest, tmp_path):
    """Of bytes that are UTF-8, or that both builds take for the same: overlong forms are read only by older ones."""
    path = OTHERS[kind](tmp_path / "m.gguf")
    same = [t for t in TEXTS if not TOO_HIGH.search(t) and characters(t) == decode(t)]
    assert len(TEXTS) - len(same) < 10
    with open_build(newest, path, vocab_only=True) as engine:
        assert_equal_ids(engine, load_tokenizer(path), same)


def test_the_pinned_build_passes_the_key_over(tmp_path):
    """So its ids are those of the file without the key, which docs/tokenizers.md says."""
    variant = VARIANTS[UNIGRAM[0]]
    path, without = (write_vocab(tmp_path / f"{i}.gguf", variant, *keys) for i, keys in enumerate([[NFC], []]))
    with LlamaCpp(path, vocab_only=True) as engine:
        assert_equal_ids(engine, load_tokenizer(without), TEXTS)
