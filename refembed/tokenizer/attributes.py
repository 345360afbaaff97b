"""What a token is: bits that start as its type and are corrected by its text and the model's name.

Mirrors llama_vocab::impl::load from "auto-detect special tokens by text" on. An encoder has to know, because these bits
decide which texts are cut out as special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntFlag
from typing import TypeAlias

import numpy as np

from refembed.arrays import I32
from refembed.errors import ModelError
from refembed.gguf import Metadata

Roles: TypeAlias = dict[str, "int | None"]  # "bos" -> id


class Attribute(IntFlag):
    """enum llama_token_attr: those bits that are ever set. A token can be several things at once."""

    UNKNOWN = 1
    UNUSED = 2
    NORMAL = 4
    CONTROL = 8
    USER_DEFINED = 16
    BYTE = 32
    LSTRIP = 128  # a special token that takes the white space on its left with it
    RSTRIP = 256  # likewise on its right


A = Attribute
BY_TYPE = (0, A.NORMAL, A.UNKNOWN, A.CONTROL, A.USER_DEFINED, A.UNUSED, A.BYTE)  # index: tokenizer.ggml.token_type

# Role -> texts that llama.cpp takes for it where the file names no id; the one it takes becomes CONTROL.
CANDIDATES = {
    "fim_pre": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
                "<|code_prefix|>", "<|prefix|>", "<|plamo:fim_prefix|>"),
    "fim_suf": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
                "<|code_suffix|>", "<|suffix|>", "<|plamo:fim_suffix|>"),
    "fim_mid": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
                "<|code_middle|>", "<|middle|>", "<|plamo:fim_middle|>"),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>", "<|plamo:file_separator|>"),
}  # fmt: skip

# Texts that end a generation: CONTROL, whatever the file says.
EOG = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
    "<|ifm|im_end|>",
)  # fmt: skip
ENDING_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")  # their tokens end a generation as well
ALWAYS_USER_DEFINED = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")  # always USER_DEFINED


def by_type(types: I32) -> I32:
    """`tokenizer.ggml.token_type` (V) -> bits (V). A number that is no type has none."""
    known = np.where((types >= 0) & (types < len(BY_TYPE)), types, 0)
    return np.array(BY_TYPE, np.int32)[known]


def by_text(attributes: I32, tokens: list[bytes], ids: Mapping[bytes, int], roles: Roles) -> None:
    """Correct the bits (V) in place by what the tokens' texts reveal."""

    def found(texts: Iterable[str]) -> list[int]:
        return [ids[t.encode()] for t in texts if t.encode() in ids]

    ends = set(found(EOG))
    for role, texts in CANDIDATES.items():
        # Of several candidates llama.cpp takes the one its hash map meets first; here it is the first of the row.
        if roles[role] is None and (candidates := found(texts)):
            roles[role] = candidates[0]
            attributes[candidates[0]] |= A.CONTROL
    for i in np.flatnonzero(attributes & A.CONTROL):
        if b"unused" in tokens[i]:
            attributes[i] |= A.UNUSED
    attributes[list(ends)] |= A.CONTROL
    attributes[found(ALWAYS_USER_DEFINED)] = A.USER_DEFINED
    ends.update(id for role in ENDING_ROLES if (id := roles[role]) is not None)
    ending = {tokens[i] for i in ends}
    calls = bool(ending & {b"<|call|>", b"<|calls|>"})
    if calls and ending & {b"<|return|>", b"<|flush|>"} and b"<|end|>" in ending:
        attributes[ids[b"<|end|>"]] = A.USER_DEFINED
    if ending & {b"<|tool_response>", b"<|plamo:eos|>"} and b"</s>" in ending:
        attributes[ids[b"</s>"]] = A.NORMAL


def by_name(attributes: I32, ids: Mapping[bytes, int], metadata: Metadata, where: str) -> None:
    """Set the strip bits (V) in place: GGUF keeps none, so llama.cpp goes by names. The first rule that fits counts."""
    name = metadata.string("general.name", "").lower()
    pre = metadata.string("tokenizer.ggml.pre", "")
    architecture = metadata.string("general.architecture", "")

    def contains(text: str, *parts: str) -> bool:
        return any(part in text for part in parts)

    jina = contains(pre, "jina-v2-de", "jina-v2-es", "jina-v2-code", "mmbert")
    if jina or contains(architecture, "nomic-bert-moe", "jina-bert-v3"):
        if b"<mask>" in ids:
            attributes[ids[b"<mask>"]] |= A.LSTRIP
    elif contains(name, "phi-3", "phi3"):
        for needed in (b"</s>", b"<unk>", b"<s>", b"<|endoftext|>"):
            if needed not in ids:
                raise ModelError(
                    f"{where}: general.name says Phi-3, but there is no token {needed.decode()}",
                    hint="llama.cpp refuses it too; correct general.name",
                )
        attributes[(attributes & (A.CONTROL | A.USER_DEFINED | A.UNKNOWN)) != 0] |= A.RSTRIP
        attributes[ids[b"</s>"]] |= A.RSTRIP
        attributes[[ids[t] for t in (b"<unk>", b"<s>", b"<|endoftext|>")]] &= ~A.RSTRIP
    elif contains(name, "modern-bert") and b"[MASK]" in ids:
        attributes[ids[b"[MASK]"]] |= A.LSTRIP
