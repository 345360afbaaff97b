"""The vocabulary: tokens, what each of them is, and the ids that have a role. Mirrors llama_vocab::impl::load.

The order of things is llama.cpp's and matters: defaults of the tokenizer kind; tokens and their types; keys of the file
over the defaults; what the tokens' texts reveal (`attributes`); last the strip rules that go by the model's name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refembed.arrays import F32, I32
from refembed.errors import ModelError
from refembed.gguf import Metadata
from refembed.tokenizer.attributes import Roles, by_name, by_text, by_type

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Defaults:
    """What holds where the file has no key: one row for each `tokenizer.ggml.model`."""

    bos: int | None
    eos: int | None
    unk: int | None
    sep: int | None
    pad: int | None
    mask: int | None
    add_bos: bool
    add_eos: bool
    add_sep: bool
    add_space_prefix: bool
    clean_spaces: bool  # set by the kind alone: no key exists
    lowercase: bool = True
    force_bos: bool = False  # BOS is added even where the file says not to: Gemma 4


# fmt: off
NO: int | None = None
DEFAULTS = {
    #                    bos eos unk  sep  pad mask  add_bos add_eos add_sep prefix clean
    "llama":    Defaults(  1,  2,   0,  NO, NO,  NO,  True,   False,  False,  True,  False),
    "bert":     Defaults(101, NO, 100, 102,  0, 103,  True,   False,  True,   False, True),
    "t5":       Defaults( NO,  1,   2,  NO,  0,  NO,  False,  True,   False,  False, False),
    "rwkv":     Defaults( NO, NO,  NO,  NO, NO,  NO,  False,  False,  False,  False, False),
    "plamo2":   Defaults(  1,  2,   0,  NO,  3,  NO,  False,  False,  False,  False, False),
    "no_vocab": Defaults( NO, NO,  NO,  NO, NO,  NO,  False,  False,  False,  False, False),
    "none":     Defaults( NO, NO,  NO,  NO, NO,  NO,  False,  False,  False,  False, False),
    # byte-pair kinds: what tokenizer.ggml.pre changes of this is in `pretokenize`
    "gpt2":       Defaults(11, 11, NO,  NO, NO,  NO,  False,  False,  False,  False, True),
    "whitespace": Defaults(11, 11, NO,  NO, NO,  NO,  False,  False,  False,  False, True),
    "hybriddna":  Defaults(11, 11, NO,  NO, NO,  NO,  False,  False,  False,  False, True),
    "gemma4":     Defaults(NO, NO, NO,  NO, NO,  NO,  False,  False,  False,  False, True),
}
# fmt: on
BYTE_PAIR = ("gpt2", "whitespace", "hybriddna", "gemma4")
NO_VOCAB = ("no_vocab", "none")
MAX_TOKENS = 1 << 22  # of a vocabulary without texts, which costs a file nothing to claim
KMER = "\ue000".encode()

# Role, key behind `tokenizer.ggml.`; in the order they are read: the last three are old names and go over the new ones.
# "seperator" is how GGUF spells it; cls_token_id is never read: CLS is BOS.
ROLE_KEYS = (
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("eot", "eot_token_id"),
    ("eom", "eom_token_id"),
    ("unk", "unknown_token_id"),
    ("sep", "seperator_token_id"),
    ("pad", "padding_token_id"),
    ("mask", "mask_token_id"),
    ("fim_pre", "fim_pre_token_id"),
    ("fim_suf", "fim_suf_token_id"),
    ("fim_mid", "fim_mid_token_id"),
    ("fim_pad", "fim_pad_token_id"),
    ("fim_rep", "fim_rep_token_id"),
    ("fim_sep", "fim_sep_token_id"),
    ("fim_pre", "prefix_token_id"),
    ("fim_suf", "suffix_token_id"),
    ("fim_mid", "middle_token_id"),
)


@dataclass(frozen=True, eq=False)
class Vocab:
    """V tokens and what the file says of them. Ids are indexes into `tokens`; an id that a model lacks is None."""

    kind: str  # tokenizer.ggml.model
    pre: str  # tokenizer.ggml.pre, "" where absent
    tokens: list[bytes]  # (V) as stored: word starts carry U+2581, or Ġ, by kind
    ids: dict[bytes, int]  # token -> id
    types: I32  # (V) tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
    scores: F32  # (V) tokenizer.ggml.scores, 0 where absent
    attributes: I32  # (V) `attributes.Attribute` bits: the types, corrected by what the texts reveal
    bos: int | None
    eos: int | None
    unk: int | None
    sep: int | None
    pad: int | None
    mask: int | None
    add_bos: bool  # not every kind asks: see its tokenizer
    add_eos: bool
    add_sep: bool
    add_space_prefix: bool
    clean_spaces: bool  # detokenizing drops the space before punctuation
    lowercase: bool  # tokenizer.ggml.normalizer.lowercase
    strip_accents: bool  # tokenizer.ggml.normalizer.strip_accents; as lowercase where absent
    metadata: Metadata  # the file's keys, for what only one kind reads: merges, charsmap ...

    def __len__(self) -> int:
        return len(self.tokens)

    def is_closed(self, ids: Sequence[int]) -> bool:
        """Whether token ids end in SEP or EOS, as texts do in the training of most models."""
        return len(ids) > 0 and ids[-1] in (self.sep, self.eos)


def read_vocab(metadata: Metadata, where: str) -> Vocab:
    """Vocabulary of a file whose `tokenizer.ggml.model` is a row of DEFAULTS.

    metadata  the file's keys
    where     the file's name, for errors

    ModelError for two tokens of the same text, and for types or scores that are fewer than the tokens.
    """
    kind = metadata.string("tokenizer.ggml.model")
    if kind in NO_VOCAB:
        return no_vocab(metadata, kind, where)
    pre = "gemma4" if kind == "gemma4" else metadata.string("tokenizer.ggml.pre", "")
    defaults = defaults_for(kind, pre, where)
    tokens = read_tokens(metadata)
    ids = number(tokens, where)
    types = read_per_token(metadata, "tokenizer.ggml.token_type", len(tokens), 1, where).astype(np.int32)
    scores = read_per_token(metadata, "tokenizer.ggml.scores", len(tokens), 0.0, where).astype(np.float32)
    roles = read_roles(metadata, defaults, len(tokens), where)
    attributes = by_type(types)
    by_text(attributes, tokens, ids, roles)
    by_name(attributes, ids, metadata, where)
    attributes.flags.writeable = False

    def flag(name: str, default: bool) -> bool:
        return metadata.flag(f"tokenizer.ggml.{name}", default)

    lowercase = flag("normalizer.lowercase", defaults.lowercase)
    return Vocab(
        kind=kind,
        pre=pre,
        tokens=without_markers(tokens, ids) if kind == "hybriddna" else tokens,
        ids=ids,
        types=types,
        scores=scores,
        attributes=attributes,
        **{role: roles[role] for role in ("bos", "eos", "unk", "sep", "pad", "mask")},
        add_bos=flag("add_bos_token", defaults.add_bos) or defaults.force_bos,
        add_eos=flag("add_eos_token", defaults.add_eos),
        add_sep=flag("add_sep_token", defaults.add_sep),
        add_space_prefix=flag("add_space_prefix", defaults.add_space_prefix),
        clean_spaces=defaults.clean_spaces,
        lowercase=lowercase,
        strip_accents=flag("normalizer.strip_accents", lowercase),
        metadata=metadata,
    )


def defaults_for(kind: str, pre: str, where: str) -> Defaults:
    """The row of a kind, with what its pre-tokenizer changes. ModelError for a pre-tokenizer that is not known."""
    defaults = DEFAULTS[kind]
    if kind not in BYTE_PAIR:
        return defaults
    from refembed.tokenizer.pretokenize import defaults_of  # its rules are of no use to other kinds

    pre_tokenizer = defaults_of(pre, kind, where)
    return replace(
        defaults,
        bos=None if pre_tokenizer.no_bos else defaults.bos,
        add_bos=pre_tokenizer.add_bos,
        force_bos=pre_tokenizer.force_bos,
        add_sep=pre_tokenizer.add_sep,
        clean_spaces=pre_tokenizer.clean_spaces,
        lowercase=pre_tokenizer.lowercase,
    )


def no_vocab(metadata: Metadata, kind: str, where: str) -> Vocab:
    """A model that takes ids only: `{arch}.vocab_size` tokens without text."""
    architecture = metadata.string("general.architecture", "")
    n_tokens = metadata.uint(f"{architecture}.vocab_size", 0)
    if n_tokens > MAX_TOKENS:
        raise ModelError(f"{where}: {architecture}.vocab_size is {n_tokens:,}", hint=f"at most {MAX_TOKENS:,} are read")
    return Vocab(
        kind=kind,
        pre=metadata.string("tokenizer.ggml.pre", ""),
        tokens=[b""] * n_tokens,
        ids={},
        types=np.zeros(n_tokens, np.int32),
        scores=np.zeros(n_tokens, np.float32),
        attributes=np.zeros(n_tokens, np.int32),
        bos=None,
        eos=None,
        unk=None,
        sep=None,
        pad=None,
        mask=None,
        add_bos=False,
        add_eos=False,
        add_sep=False,
        add_space_prefix=False,
        clean_spaces=False,
        lowercase=False,
        strip_accents=False,
        metadata=metadata,
    )


def read_tokens(metadata: Metadata) -> list[bytes]:
    """`tokenizer.ggml.tokens`. As in llama.cpp a text ends at its first NUL, and an empty one is named after its id."""
    tokens = [t.partition(b"\0")[0] if b"\0" in t else t for t in metadata.strings("tokenizer.ggml.tokens").to_bytes()]
    return tokens if all(tokens) else [t or b"[EMPTY_%d]" % i for i, t in enumerate(tokens)]


def number(tokens: list[bytes], where: str) -> dict[bytes, int]:
    """Token -> id. ModelError where two tokens have the same text."""
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) < len(tokens):
        second = next(i for i, t in enumerate(tokens) if ids[t] != i)
        text = tokens[second]
        raise ModelError(
            f"{where}: tokenizer.ggml.tokens: {second} and {ids[text]} are both {text.decode(errors='replace')!r}",
            hint="token texts must differ; convert the model again",
        )
    return ids


def without_markers(tokens: list[bytes], ids: dict[bytes, int]) -> list[bytes]:
    """hybriddna: the six-letter tokens behind <oov> end in U+E000 for look-up only; their texts lose it."""
    first = ids[b"<oov>"] + 1 if b"<oov>" in ids else len(tokens)
    bare = (t.removesuffix(KMER) if len(t) > len(KMER) else t for t in tokens[first:])
    return [*tokens[:first], *bare]


PER_TOKEN = {  # key -> types that llama.cpp takes
    "tokenizer.ggml.token_type": ("ARRAY[INT32]",),
    "tokenizer.ggml.scores": ("ARRAY[FLOAT32]", "ARRAY[INT32]"),
}


def read_per_token(metadata: Metadata, key: str, n_tokens: int, default: float, where: str) -> Any:
    """An array with one number for each token (V); all `default` where the file has none."""
    if key not in metadata:
        return np.full(n_tokens, default)
    stored = metadata.type_name(key)
    numbers = metadata.floats(key) if "FLOAT" in stored else metadata.ints(key)
    if stored not in PER_TOKEN[key]:
        hint = "llama.cpp refuses it as well; convert the model again"
        raise ModelError(f"{where}: {key}: {stored}, not {' or '.join(PER_TOKEN[key])}", hint=hint)
    if len(numbers) < n_tokens:
        hint = "the file is damaged or was converted wrongly"
        raise ModelError(f"{where}: {key}: {len(numbers)} entries for {n_tokens} tokens", hint=hint)
    return numbers[:n_tokens]


def read_roles(metadata: Metadata, defaults: Defaults, n_tokens: int, where: str) -> Roles:
    """Role -> id, or None. A default beyond the vocabulary is void; so is a key, and then the default stays."""
    roles: Roles = {}
    for role, name in ROLE_KEYS:
        default = getattr(defaults, role, None)
        roles.setdefault(role, default if default is not None and default < n_tokens else None)
        stored = metadata.uint(f"tokenizer.ggml.{name}", None)
        if stored is not None and stored < n_tokens:
            roles[role] = stored
        elif stored is not None:
            log.warning("%s: tokenizer.ggml.%s is %d of %d tokens: ignored", where, name, stored, n_tokens)
    return roles
