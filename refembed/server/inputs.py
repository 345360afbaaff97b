"""The shapes that a text may have in a body, and its token ids.

    "text"                                      one text
    [12, 34, 56]                                one text of token ids; nothing is added
    [12, "text", 34]                            one text of both; special tokens are added if it begins with a string
    {"prompt_string": ...}                      one text, any of the above but an object
    {"content": [{"type": "text", "text": ...}]}   one text, its parts joined
    {"prompt_string": "... <__media__> ...", "multimodal_data": [base64]}, {"content": [..., {"type": "image_url",
        "image_url": {"url": "data:image/png;base64,..."}}]}   one text with images, where the server has a vision tower
    [ ... ]                                     several of these, if no element is an integer

Mirrors tokenize_input_subprompt, tokenize_mixed and tokenize_oai_content_array of tools/server/server-common.cpp.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from refembed.model.vision import Tower
from refembed.pipeline.images import MARKER, ImageInput, image_input
from refembed.pipeline.inputs import unknown_id
from refembed.pipeline.multimodal import token_ids
from refembed.pipeline.truncate import truncate as truncate_ids
from refembed.server.errors import NOT_A_PROMPT, ApiError
from refembed.server.json_text import field, is_integer, to_int, to_string
from refembed.server.settings import Limits, Settings
from refembed.tokenizer import Tokenizer

MEDIA = {"image_url": "image", "input_audio": "audio", "input_video": "video", "video_url": "video"}
COUNTED_FIRST = 16 * 1024  # bytes of a text from which on its fewest tokens are counted before it is tokenized


@dataclass(frozen=True)
class Rules:
    """What a body is read by: the tokenizer and the limits."""

    tokenizer: Tokenizer
    settings: Settings
    limits: Limits
    how: str  # the pooling
    n_vocab: int
    width: int  # numbers of a vector
    tower: Tower | None = None  # what images go through; its weights are not read here

    def check_inputs(self, n: int) -> None:
        """ApiError for a request of n texts, if they are more than one request may have."""
        if n > self.settings.max_inputs:
            raise ApiError(f"{n} inputs in one request, at most {self.settings.max_inputs} (--max-inputs)")

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text with its special tokens, those spelled in the text included."""
        return self.tokenizer.encode(text, add_special=True, parse_special=True)

    def surely(self, text: str, truncate: bool) -> int:
        """Tokens that a text has at least, where these are too many to tokenize it at all. 0: it may fit, or is cut.

        Short texts are tokenized in any case, so that an error has the number itself.
        """
        if truncate or len(text) <= COUNTED_FIRST:
            return 0
        fewest = self.tokenizer.fewest_tokens(text)
        return fewest if fewest > self.limits.longest else 0

    def check_fewest(self, text: str, truncate: bool) -> None:
        """ApiError for a text that is `surely` too long, as llama-server answers it."""
        if n := self.surely(text, truncate):
            self.limits.check(n, at_least=True)


class ImageIds(list[int]):
    """Token ids of a text with images, and the text and the images themselves."""

    def __init__(self, ids: Iterable[int], given: ImageInput) -> None:
        super().__init__(ids)
        self.given = given


def read_inputs(rules: Rules, prompt: Any, truncate: bool = False) -> list[list[int]]:
    """Token ids of the texts of a request, checked. truncate: a text that is too long is cut, not refused."""
    several = isinstance(prompt, list) and not any(map(is_integer, prompt))
    rules.check_inputs(len(prompt) if several else 1)
    ids = [read_input(rules, p, truncate) for p in (prompt if several else [prompt])]
    if not ids:
        raise ApiError('"input" must not be empty')
    if not all(ids):
        raise ApiError("Input content cannot be empty")
    return [truncate_or_raise(rules, i, truncate and not isinstance(i, ImageIds)) for i in ids]


def read_input(rules: Rules, prompt: Any, truncate: bool) -> list[int]:
    """Token ids of one text of any shape."""
    if isinstance(prompt, dict) and "content" in prompt:
        text, images = read_parts(prompt["content"], rules.tower is not None)
        return with_images(rules, text, images) if images else tokenize_checked(rules, text, truncate)
    if isinstance(prompt, list):
        kinds = [is_integer(p) for p in prompt]
        if all(kinds) or (any(kinds) and any(isinstance(p, str) for p in prompt)):
            return tokenize_checked(rules, prompt, truncate)
    if isinstance(prompt, str):
        return tokenize_checked(rules, prompt, truncate)
    if isinstance(prompt, dict) and "prompt_string" in prompt:
        if "multimodal_data" in prompt:
            if rules.tower is None:
                message = "Multimodal data provided, but model does not support multimodal requests."
                raise ApiError(message, "server_error")
            data = prompt["multimodal_data"]
            if not isinstance(data, list) or not all(isinstance(x, str) for x in data):
                raise ApiError('"multimodal_data" must be an array of base64 strings')
            return with_images(rules, to_string(prompt["prompt_string"]), data)
        return tokenize_checked(rules, prompt["prompt_string"], truncate)
    raise ApiError(NOT_A_PROMPT)


def tokenize_checked(rules: Rules, prompt: Any, truncate: bool) -> list[int]:
    """`tokenize_mixed`, without tokenizing what surely is too long."""
    for text in prompt if isinstance(prompt, list) else [prompt]:
        if isinstance(text, str):
            rules.check_fewest(text, truncate)
    return tokenize_mixed(rules.tokenizer, prompt)


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


def with_images(rules: Rules, text: str, images: list[str]) -> ImageIds:
    """A text with a marker for each image, and the images in base64. ApiError for what is no such thing."""
    tower = rules.tower
    assert tower is not None
    markers = text.count(MARKER)
    if markers != len(images):
        raise ApiError(f"number of media markers in text ({markers}) does not match number of images ({len(images)})")
    given = image_input({"text": text, "image": [unpacked(x, i) for i, x in enumerate(images)]}, 0)
    ids, _ = token_ids(text, [tower.n_tokens(image) for image in given.images], tower, rules.tokenizer)
    return ImageIds(ids, given)


def unpacked(data: str, index: int) -> bytes:
    """The bytes of base64."""
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise ApiError(f"image {index} is not base64") from None


def read_parts(content: Any, with_tower: bool = False) -> tuple[str, list[str]]:
    """The text of OpenAI's content parts, a marker where an image stands; and the images in base64."""
    if not isinstance(content, list):
        raise ApiError('"content" must be an array')
    images: list[str] = []
    text = ""
    for part in content:
        kind = field(part, "type", "")
        if kind == "image_url" and with_tower:
            images.append(
                data_of(field(part["image_url"] if isinstance(part.get("image_url"), dict) else {}, "url", ""))
            )
            text += MARKER
            continue
        if kind in MEDIA:
            hint = "hint: if this is unexpected, you may need to provide the mmproj"
            raise ApiError(f"{MEDIA[kind]} input is not supported - {hint}", "server_error")
        if kind != "text":
            raise ApiError("unsupported content[].type")
        text += field(part, "text", "")
    return text, images


def data_of(url: str) -> str:
    """The base64 of a data URL. No other URL is fetched."""
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise ApiError('an image\'s "url" must be "data:image/...;base64,...": nothing is fetched')
    return data


def truncate_or_raise(rules: Rules, ids: list[int], truncate: bool) -> list[int]:
    """The ids, if the vocabulary has them and they are not too many, or else cut: a closing special token stays."""
    check_vocabulary(rules, ids)
    if truncate:
        ids = truncate_ids(ids, rules.limits.longest, keep_last=rules.tokenizer.vocab.is_closed(ids))
    rules.limits.check(len(ids))
    return ids


def check_vocabulary(rules: Rules, ids: list[int]) -> None:
    """ApiError where an id is none of the vocabulary's."""
    if unknown_id(ids, rules.n_vocab) is not None:
        raise ApiError("Prompt contains invalid tokens")
