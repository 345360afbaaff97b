"""A query and a document as one sequence of ids: what a reranker (a cross-encoder) reads.

GGUF has no key for the form of a pair, and llama.cpp's callers build it themselves, each in its way:

    "server"  llama-server, /rerank     format_prompt_rerank of tools/server/server-common.cpp
    "cli"     llama-embedding, --pooling rank, query and document with a TAB between them
              examples/embedding/embedding.cpp

With a template, `tokenizer.chat_template.rerank`, both put the two texts into it and tokenize the result, special
tokens parsed; the CLI adds BOS and EOS around it, the server does not. Without one the server encodes the two texts on
their own and puts ids between them, so that nothing in a text becomes a special token; the CLI joins the texts by the
spelling of those tokens and parses all of it, whatever the texts hold.

    server  [BOS] query [EOS] [SEP] document [EOS]     each where add_bos_token, add_eos_token, add_sep_token say so;
                                                       SEP stands in for an EOS that the model has not
    cli     query + "</s>" + "[SEP]" + document        the first if add_eos_token, the second if add_sep_token; then as
                                                       any text: BERT gets [CLS] and [SEP] around it whatever they say
"""

from __future__ import annotations

import re

from refembed.errors import ModelError, RequestError
from refembed.tokenizer.base import Tokenizer, as_bytes

TEMPLATE = "tokenizer.chat_template.rerank"
CALLERS = ("server", "cli")
INSTRUCTION = re.compile(rb"(?<=<Instruct>: )[^\n]*(?=\n<Query>: \{query\})")  # of Qwen3-Reranker's template


def encode_pair(
    tokenizer: Tokenizer,
    query: str | bytes,
    document: str | bytes,
    caller: str = "server",
    instruction: str | bytes | None = None,
) -> list[int]:
    """Token ids of a query and a document together.

    caller       "server" or "cli": whose form of a pair, see above
    instruction  what the reranker is to look for, in place of what its template says; None: that

    RequestError for a text that is neither str nor bytes, for another caller, and for an instruction where the template
    has no place for one; ModelError where the file says that a token has to be added which it does not name.
    """
    if caller not in CALLERS:
        raise RequestError(f"caller={caller!r}: must be one of {', '.join(map(repr, CALLERS))}")
    texts = as_bytes(query), as_bytes(document)
    template = rerank_template(tokenizer)
    place = None if instruction is None else place_of_instruction(tokenizer, template)
    if template is not None:
        cuts = (len(template),) * 2 if place is None else place.span()
        before, behind = (
            part.replace(b"{query}", texts[0]).replace(b"{document}", texts[1])
            for part in (template[: cuts[0]], template[cuts[1] :])
        )
        filled = before + as_bytes("" if instruction is None else instruction) + behind
        return tokenizer.encode(filled, add_special=caller == "cli", parse_special=True)
    return joined_ids(tokenizer, *texts) if caller == "server" else joined_text(tokenizer, *texts)


def place_of_instruction(tokenizer: Tokenizer, template: bytes | None) -> re.Match[bytes]:
    """Where a template says what to look for. RequestError where it has no such place."""
    found = INSTRUCTION.search(template or b"")
    if found is None:
        hint = "Qwen3-Reranker's has one, behind <Instruct>: in its template; without an instruction this model works"
        raise RequestError(f"{tokenizer.where}: this reranker takes no instruction", hint=hint)
    return found


def rerank_template(tokenizer: Tokenizer) -> bytes | None:
    """`tokenizer.chat_template.rerank`, None where the file has none. A text ends at its first NUL, as in C."""
    metadata = tokenizer.vocab.metadata
    if TEMPLATE not in metadata or metadata.type_name(TEMPLATE).startswith("ARRAY"):
        return None
    return metadata.raw_string(TEMPLATE).partition(b"\0")[0]


def joined_ids(tokenizer: Tokenizer, query: bytes, document: bytes) -> list[int]:
    """As the server joins them: ids between ids."""
    vocab = tokenizer.vocab
    end = vocab.eos if vocab.eos is not None else vocab.sep
    ids: list[int | None] = [vocab.bos] if vocab.add_bos else []
    ids += tokenizer.encode(query, add_special=False, parse_special=False)
    ids += [end] if vocab.add_eos else []
    ids += [vocab.sep] if vocab.add_sep else []
    ids += tokenizer.encode(document, add_special=False, parse_special=False)
    ids += [end] if vocab.add_eos else []
    if None in ids:
        raise ModelError(
            f"{tokenizer.where}: the file wants a special token added that it does not name",
            hint="llama-server refuses such pairs; see tokenizer.ggml.add_*_token and tokenizer.ggml.*_token_id",
        )
    return [i for i in ids if i is not None]


def joined_text(tokenizer: Tokenizer, query: bytes, document: bytes) -> list[int]:
    """As llama-embedding joins them: text with the spelling of special tokens between."""
    return tokenizer.encode(query + separator(tokenizer) + document, add_special=True, parse_special=True)


def separator(tokenizer: Tokenizer) -> bytes:
    """The spelling of the special tokens that llama-embedding puts between two texts."""
    vocab = tokenizer.vocab
    between = [role for role, added in (("eos", vocab.add_eos), ("sep", vocab.add_sep)) if added]
    return b"".join(vocab.tokens[tokenizer.role(role)] for role in between)
