"""The shapes that a text may have in a body, and its token ids.

    "text"                                      one text
    [12, 34, 56]                                one text of token ids; nothing is added
    [12, "text", 34]                            one text of both; special tokens are added if it begins with a string
    {"prompt_string": ...}                      one text, any of the above but an object
    {"content": [{"type": "text", "text": ...}]}   one text, its parts joined
    [ ... ]                                     several of these, if no element is an integer

Mirrors tokenize_input_subprompt, tokenize_mixed and tokenize_oai_content_array of tools/server/server-common.cpp.
"""

from __future__ import annotations

from typing import Any

from refembed.pipeline.inputs import unknown_id
from refembed.pipeline.truncate import truncate as truncate_ids
from refembed.server.errors import NOT_A_PROMPT, ApiError
from refembed.server.json_errors import field, is_integer, to_int, to_string
from refembed.server.state import State
from refembed.tokenizer import Tokenizer

MEDIA = {"image_url": "image", "input_audio": "audio", "input_video": "video", "video_url": "video"}


def read_inputs(state: State, prompt: Any, truncate: bool = False) -> list[list[int]]:
    """Token ids of the texts of a request, checked. truncate: a text that is too long is cut, not refused."""
    tokenizer = state.embedder.tokenizer
    several = isinstance(prompt, list) and not any(map(is_integer, prompt))
    state.check_inputs(len(prompt) if several else 1)
    ids = [read_input(tokenizer, p) for p in (prompt if several else [prompt])]
    if not ids:
        raise ApiError('"input" must not be empty')
    if not all(ids):
        raise ApiError("Input content cannot be empty")
    return [truncate_or_raise(state, i, truncate) for i in ids]


def read_input(tokenizer: Tokenizer, prompt: Any) -> list[int]:
    """Token ids of one text of any shape."""
    if isinstance(prompt, dict) and "content" in prompt:
        return tokenizer.encode(read_parts(prompt["content"]), add_special=True, parse_special=True)
    if isinstance(prompt, list):
        kinds = [is_integer(p) for p in prompt]
        if all(kinds) or (any(kinds) and any(isinstance(p, str) for p in prompt)):
            return tokenize_mixed(tokenizer, prompt)
    if isinstance(prompt, str):
        return tokenize_mixed(tokenizer, prompt)
    if isinstance(prompt, dict) and "prompt_string" in prompt:
        if "multimodal_data" in prompt:
            message = "Multimodal data provided, but model does not support multimodal requests."
            raise ApiError(message, "server_error")
        return tokenize_mixed(tokenizer, prompt["prompt_string"])
    raise ApiError(NOT_A_PROMPT)


def tokenize_mixed(
    tokenizer: Tokenizer, prompt: Any, add_special: bool = True, parse_special: bool = True
) -> list[int]:
    """Token ids of a string, or of an array of strings and ids, of which only a first string gets special tokens."""
    if not isinstance(prompt, list):
        return tokenizer.encode(to_string(prompt), add_special=add_special, parse_special=parse_special)
    ids: list[int] = []
    for i, p in enumerate(prompt):
        if isinstance(p, str):
            ids += tokenizer.encode(p, add_special=add_special and i == 0, parse_special=parse_special)
        else:
            ids.append(to_int(p))
    return ids


def read_parts(content: Any) -> str:
    """The text of OpenAI's content parts."""
    if not isinstance(content, list):
        raise ApiError('"content" must be an array')
    for part in content:
        kind = field(part, "type", "")
        if kind in MEDIA:
            hint = "hint: if this is unexpected, you may need to provide the mmproj"
            raise ApiError(f"{MEDIA[kind]} input is not supported - {hint}", "server_error")
        if kind != "text":
            raise ApiError("unsupported content[].type")
    return "".join(field(part, "text", "") for part in content)


def truncate_or_raise(state: State, ids: list[int], truncate: bool) -> list[int]:
    """The ids, if the vocabulary has them and they are not too many, or else cut: a closing special token stays."""
    check_vocabulary(state, ids)
    if truncate:
        ids = truncate_ids(ids, state.limits.longest, keep_last=state.embedder.tokenizer.vocab.is_closed(ids))
    state.limits.check(len(ids))
    return ids


def check_vocabulary(state: State, ids: list[int]) -> None:
    """ApiError where an id is none of the vocabulary's."""
    if unknown_id(ids, state.embedder.info.n_vocab) is not None:
        raise ApiError("Prompt contains invalid tokens")
