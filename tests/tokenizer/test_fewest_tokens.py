"""The fewest tokens that a text can have, counted without tokenizing it: never more than it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from refembed.errors import RefembedError
from refembed.tokenizer import load_tokenizer
from tests.tokenizer import kinds_vocabs
from tests.tokenizer.bpe_vocabs import write_bpe
from tests.tokenizer.kinds_live import texts
from tests.tokenizer.vocabs import USER_DEFINED, bert, write_vocab

PRE = ("gpt-2", "llama-bpe", "qwen2", "superbpe", "deepseek-coder", "mmbert", "whitespace")


def vocabularies(folder: Path) -> Iterator[Path]:
    """Every kind of tokenizer, with vocabularies made to be awkward."""
    yield write_vocab(folder / "wordpiece.gguf")
    yield write_vocab(folder / "spaced.gguf", bert("the cat", "ab<", kind=USER_DEFINED))
    for kind in (kinds_vocabs.spm, kinds_vocabs.unigram, kinds_vocabs.rwkv, kinds_vocabs.plamo2):
        for name, variant in kind().items():
            yield kinds_vocabs.write_vocab(folder / f"{kind.__name__}-{name}.gguf".replace(" ", "-"), variant)
    for pre in PRE:
        yield write_bpe(folder / f"{pre}.gguf", pre)


def test_a_text_never_has_fewer_tokens(tmp_path: Path) -> None:
    """Special tokens parsed or not."""
    counted = 0
    for path in vocabularies(tmp_path):
        try:
            tokenizer = load_tokenizer(path)
        except RefembedError:  # a vocabulary that is refused
            continue
        for text in (t for t in texts(tokenizer, 60, 3) if isinstance(t, str)):
            for repeated in (text, text * 40):
                fewest = tokenizer.fewest_tokens(repeated)
                counted += fewest > 1
                try:
                    found = [len(tokenizer.encode(repeated, False, parse)) for parse in (False, True)]
                except RefembedError:  # a byte without a token
                    continue
                assert fewest <= min(found), (path.name, repeated[:80])
    assert counted > 150
