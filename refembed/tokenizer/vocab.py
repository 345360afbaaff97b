"""The vocabulary: tokens, what each of them is, and the ids that have a role. Mirrors llama_vocab::impl::load.

The order of things is llama.cpp's and matters: defaults of the tokenizer kind; tokens and their types; keys of the file
over the defaults; what the tokens' texts reveal (`attributes`); last the strip rules that go by the model's name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from refembed.arrays import I32
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
    lowercase: bool


# fmt: off
DEFAULTS = {
    #                bos   eos   unk  sep  pad mask  add_bos add_eos add_sep prefix clean  lowercase
    "bert": Defaults(101, None, 100, 102,   0, 103,  True,   False,  True,   False, True,  True),
}
# fmt: on

# Role -> key, `tokenizer.ggml.` in front. "seperator" is how GGUF spells it; cls_token_id is never read: CLS is BOS.
ROLE_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "fim_pre": "fim_pre_token_id",
    "fim_suf": "fim_suf_token_id",
    "fim_mid": "fim_mid_token_id",
    "fim_pad": "fim_pad_token_id",
    "fim_rep": "fim_rep_token_id",
    "fim_sep": "fim_sep_token_id",
}


@dataclass(frozen=True, eq=False)
class Vocab:
    """V tokens and what the file says of them. Ids are indexes into `tokens`; an id that a model lacks is None."""

    kind: str  # tokenizer.ggml.model
    pre: str  # tokenizer.ggml.pre, "" where absent
    tokens: list[bytes]  # (V) as stored: word starts carry U+2581, or Ġ, by kind
    ids: dict[bytes, int]  # token -> id
    types: I32  # (V) tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
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

    def __len__(self) -> int:
        return len(self.tokens)


def read_vocab(metadata: Metadata, where: str) -> Vocab:
    """Vocabulary of a file whose `tokenizer.ggml.model` is a row of DEFAULTS.

    metadata  the file's keys
    where     the file's name, for errors

    ModelError for two tokens of the same text, and for types or scores that are fewer than the tokens.
    """
    kind = metadata.string("tokenizer.ggml.model")
    defaults = DEFAULTS[kind]
    tokens = read_tokens(metadata)
    ids = number(tokens, where)
    types = read_per_token(metadata, "tokenizer.ggml.token_type", len(tokens), 1, where).astype(np.int32)
    read_per_token(metadata, "tokenizer.ggml.scores", len(tokens), 0.0, where)  # only its length matters so far
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
        pre=metadata.string("tokenizer.ggml.pre", ""),
        tokens=tokens,
        ids=ids,
        types=types,
        attributes=attributes,
        **{role: roles[role] for role in ("bos", "eos", "unk", "sep", "pad", "mask")},
        add_bos=flag("add_bos_token", defaults.add_bos),
        add_eos=flag("add_eos_token", defaults.add_eos),
        add_sep=flag("add_sep_token", defaults.add_sep),
        add_space_prefix=flag("add_space_prefix", defaults.add_space_prefix),
        clean_spaces=defaults.clean_spaces,
        lowercase=lowercase,
        strip_accents=flag("normalizer.strip_accents", lowercase),
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


def read_per_token(metadata: Metadata, key: str, n_tokens: int, default: float, where: str) -> Any:
    """An array with one number for each token (V); all `default` where the file has none."""
    if key not in metadata:
        return np.full(n_tokens, default)
    stored = metadata.type_name(key)
    numbers = metadata.floats(key) if "FLOAT" in stored else metadata.ints(key)
    if len(numbers) < n_tokens:
        hint = "the file is damaged or was converted wrongly"
        raise ModelError(f"{where}: {key}: {len(numbers)} entries for {n_tokens} tokens", hint=hint)
    return numbers[:n_tokens]


def read_roles(metadata: Metadata, defaults: Defaults, n_tokens: int, where: str) -> Roles:
    """Role -> id, or None. A default beyond the vocabulary is void; so is a key, and then the default stays."""
    roles: Roles = {}
    for role, name in ROLE_KEYS.items():
        default = getattr(defaults, role, None)
        roles[role] = default if default is not None and default < n_tokens else None
        stored = metadata.uint(f"tokenizer.ggml.{name}", None)
        if stored is not None and stored < n_tokens:
            roles[role] = stored
        elif stored is not None:
            log.warning("%s: tokenizer.ggml.%s is %d of %d tokens: ignored", where, name, stored, n_tokens)
    return roles
