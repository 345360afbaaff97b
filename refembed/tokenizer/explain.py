"""What each stage makes of a text on its way to ids: for people who want to know where two tokenizers part.

    text            Hello, [SEP] Welt!
    special tokens  Hello,␣ [SEP] ␣Welt!        cut out first, from the bytes as they are
    normalized      hello , [SEP] welt !
    pre-tokens      hello , [SEP] welt !        what is tokenized on its own
    pieces          ▁hello ▁, [SEP] ▁we lt ▁!   tokens of the vocabulary
    added           [CLS] ... [SEP]
    ids             101 7592 1010 102 ...

A stage that a kind does not have is left out: byte-pair encoding does not normalize, SentencePiece has no pre-tokens.
What encodes is each kind's own `encode`; this asks the same functions again, one stage at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refembed.tokenizer.special import Fragment, partition
from refembed.tokenizer.unicode import SPACES, decode, lower

if TYPE_CHECKING:
    from refembed.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Stage:
    """What a text has become. A special token is its id; all else is bytes, as the vocabulary spells them."""

    name: str  # one of NAMES
    parts: tuple[Fragment, ...]
    rule: str  # what made it so, with the GGUF keys that decide


NAMES = ("text", "special tokens", "normalized", "pre-tokens", "pieces", "added", "ids")


@dataclass(frozen=True)
class Hooks:
    """How one kind is asked for its stages. A function that is None stands for a stage that the kind does not have."""

    pieces: str  # how pieces come about
    normalize: Callable[[Any, bytes], bytes] | None = None  # tokenizer, fragment
    normalized: str = ""
    split: Callable[[Any, bytes], list[bytes]] | None = None  # tokenizer, normalized fragment
    pre_tokens: str = ""


def stages(
    tokenizer: Tokenizer, text: str | bytes, add_special: bool = True, parse_special: bool = False
) -> list[Stage]:
    """What each stage makes of a text. Arguments and errors as in `Tokenizer.encode`."""
    from refembed.tokenizer.base import as_bytes

    raw, vocab = as_bytes(text), tokenizer.vocab
    hooks = HOOKS.get(vocab.kind, Hooks("tokenizer.ggml.model"))
    fragments = partition(raw, tokenizer._specials[bool(parse_special)])
    found = [Stage("text", (raw,) if raw else (), "as UTF-8"), cuts(fragments, parse_special)]
    if hooks.normalize:
        normalize = hooks.normalize
        fragments = [f if isinstance(f, int) else normalize(tokenizer, f) for f in fragments]
        found.append(Stage("normalized", tuple(f for f in fragments if f != b""), rule(hooks.normalized, vocab)))
    if hooks.split:
        words = [w for f in fragments for w in ((f,) if isinstance(f, int) else hooks.split(tokenizer, f))]
        found.append(Stage("pre-tokens", tuple(w for w in words if w != b""), rule(hooks.pre_tokens, vocab)))
    bare = tokenizer.encode(raw, False, parse_special)
    whole = tokenizer.encode(raw, True, parse_special) if add_special else bare
    found.append(Stage("pieces", tuple(vocab.tokens[i] for i in bare), hooks.pieces))
    if add_special:
        found.append(Stage("added", (*tokenizer.front(), *tokenizer.back()), added(tokenizer)))
    return [*found, Stage("ids", tuple(whole), f"{len(whole)} of the {len(vocab)} tokens' ids")]


def cuts(fragments: Iterable[Fragment], parse_special: bool) -> Stage:
    """The stage behind cutting out special tokens."""
    which = (
        "control, unknown and user-defined tokens" if parse_special else "user-defined tokens (parse_special is off)"
    )
    return Stage("special tokens", tuple(fragments), f"{which}, by tokenizer.ggml.token_type, the longest first")


def added(tokenizer: Tokenizer) -> str:
    """Why these special tokens are added."""
    vocab = tokenizer.vocab
    if vocab.kind == "bert":
        return "BOS, which is [CLS], and SEP: always"
    wanted = [name for name, on in (("add_bos_token", vocab.add_bos), ("add_eos_token", vocab.add_eos)) if on]
    return f"tokenizer.ggml.{', tokenizer.ggml.'.join(wanted)}" if wanted else "neither add_bos_token nor add_eos_token"


def rule(text: str, vocab: Any) -> str:
    """A rule with the vocabulary's own values in it: `{pre}` is tokenizer.ggml.pre."""
    return text.format(**{name: getattr(vocab, name) for name in SPELLED})


SPELLED = ("pre", "lowercase", "strip_accents", "add_space_prefix")


# -- the kinds -------------------------------------------------------------------------------------------------------


def bert_words(tokenizer: Any, text: bytes) -> bytes:
    """Lower-cased, without accents, words set apart."""
    return b" ".join(
        word.encode("utf-8", "surrogatepass") for word in decode(text).translate(tokenizer.characters).split()
    )


def bpe_text(tokenizer: Any, text: bytes) -> bytes:
    """Valid UTF-8; a space is U+2581 where the pre-tokenizer wants that."""
    spaced = text.replace(b" ", "▁".encode()) if tokenizer.pre.escape_spaces else text
    return decode(spaced).encode("utf-8", "surrogatepass")


def bpe_pieces(tokenizer: Any, text: bytes) -> list[bytes]:
    """What merges on its own."""
    return [piece.encode("utf-8", "surrogatepass") for piece in tokenizer.pre.split(decode(text))]


def folded(tokenizer: Any, text: bytes) -> bytes:
    """White space is one space, letters are lower-cased if the file says so."""
    fold = lower if tokenizer.vocab.lowercase else int
    chars = ("\u0020" if ord(c) in SPACES else chr(fold(ord(c))) for c in decode(text))
    return " ".join("".join(chars).split(" ")).encode("utf-8", "surrogatepass")


def at_spaces(_: Any, text: bytes) -> list[bytes]:
    """Words between spaces."""
    return [word for word in text.split(b" ") if word]


def spm_text(tokenizer: Any, text: bytes) -> bytes:
    """A space in front if the file says so: a fragment begins a text, or follows a special token. U+2581 for each."""
    prefix = b" " if tokenizer.vocab.add_space_prefix else b""
    return (prefix + text).replace(b" ", "▁".encode())


def unigram_text(tokenizer: Any, text: bytes) -> bytes:
    """Characters replaced, spaces as U+2581."""
    normalized: bytes = tokenizer.normalizer(text)
    return normalized


# fmt: off
BYTE_PAIR = Hooks(
    "neighbors merge in the order of tokenizer.ggml.merges",
    bpe_text, "bytes that are no UTF-8 are U+FFFD", bpe_pieces, "tokenizer.ggml.pre = {pre!r}",
)
HOOKS = {
    "bert": Hooks(
        "the longest token from the left, or [UNK] for the whole word",
        bert_words, "tokenizer.ggml.normalizer.lowercase = {lowercase}, strip_accents = {strip_accents}",
        at_spaces, "white space, punctuation and ideographs",
    ),
    "gpt2": BYTE_PAIR,
    "gemma4": BYTE_PAIR,
    "whitespace": Hooks(
        BYTE_PAIR.pieces,
        folded, "tokenizer.ggml.normalizer.lowercase = {lowercase}", at_spaces, "white space, which is lost",
    ),
    "hybriddna": Hooks("as gpt2; six bases to a token between <dna> and </dna>"),
    "llama": Hooks(
        "neighbors merge by tokenizer.ggml.scores, the highest first",
        spm_text, "a space is U+2581; tokenizer.ggml.add_space_prefix = {add_space_prefix}",
    ),
    "t5": Hooks(
        "the highest sum of tokenizer.ggml.scores",
        unigram_text, "tokenizer.ggml.precompiled_charsmap, remove_extra_whitespaces, "
                      "add_space_prefix = {add_space_prefix}",
    ),
    "rwkv": Hooks("the longest token from the left"),
    "plamo2": Hooks("the highest sum of tokenizer.ggml.scores, from the end"),
}
# fmt: on
