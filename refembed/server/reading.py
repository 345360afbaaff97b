"""Bodies -> texts as token ids, for every endpoint that computes; and the answers that need no model.

Each function takes `Rules` and a body. Small bodies are read in a thread of the server, large ones in a process of
their own (`text_process`): so nothing here knows of HTTP, and what comes back is small, or made of arrays and bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from refembed.pipeline.images import ImageInput
from refembed.server.errors import ApiError
from refembed.server.inputs import ImageIds, Rules, check_vocabulary, read_inputs, tokenize_mixed, truncate_or_raise
from refembed.server.json_text import dumps, is_integer, loads, to_int, to_string, wrong_type
from refembed.server.json_text import field as value_of
from refembed.tokenizer.pairs import encode_pair

MAX_TEI_INPUTS = 2048  # of one request
Body: TypeAlias = "bytes | bytearray | memoryview"


class TokenIds(Sequence["list[int]"]):
    """Token ids of S texts in one array, which goes from process to process as it is."""

    def __init__(self, flat: npt.NDArray[np.int32], ends: npt.NDArray[np.int64]) -> None:
        self.flat, self.ends = flat, ends  # of all texts, one after the other; where each text ends

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]]) -> TokenIds:
        """Put lists together."""
        flat = np.fromiter((i for text in ids for i in text), np.int32)
        return cls(flat, np.cumsum([len(text) for text in ids], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> list[int]: ...
    @overload
    def __getitem__(self, i: slice) -> list[list[int]]: ...
    def __getitem__(self, i: int | slice) -> list[int] | list[list[int]]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.flat[self.ends[i - 1] if i else 0 : self.ends[i]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return np.diff(self.ends, prepend=0).tolist()


@dataclass
class Reading:
    """A request that has been read."""

    ids: Sequence[list[int]]  # of its texts
    options: dict[str, Any] = field(default_factory=dict)  # what the answer needs to know: numbers and truths
    model: Body = b'""'  # what the request calls the model, as JSON
    texts: list[Body] = field(default_factory=list)  # that the answer repeats, as JSON
    images: dict[int, ImageInput] = field(default_factory=dict)  # of those texts that have some

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrays and bytes are not copied on the way to another process."""
        ids = self.ids if isinstance(self.ids, TokenIds) else TokenIds.of(self.ids)
        model, *texts = map(pickle.PickleBuffer, (self.model, *self.texts))
        return Reading, (ids, self.options, model, texts, self.images)


def read_embed(rules: Rules, raw: Body) -> Reading:
    """llama-server's and OpenAI's embeddings. Options: normalize, dimensions, base64, openai."""
    body = loads(raw)
    if not isinstance(body, dict) or not ("input" in body or "content" in body):
        raise ApiError('"input" or "content" must be provided')
    encoding = to_string(body.get("encoding_format", "float"))
    if encoding not in ("float", "base64"):
        raise ApiError("The format to return the embeddings in. Can be either float or base64")
    prompt = body["input"] if "input" in body else body["content"]
    ids = read_inputs(rules, prompt, value_of(body, "truncate", False))
    dimensions = body.get("dimensions")
    options = {
        "normalize": to_int(body.get("embd_normalize", rules.settings.embd_normalize)),
        "dimensions": None if dimensions is None else to_int(dimensions),
        "base64": encoding == "base64",
        "openai": "input" in body,  # "content" is not OpenAI's word
    }
    images = {i: text.given for i, text in enumerate(ids) if isinstance(text, ImageIds)}
    return Reading(ids, options, model_name(rules, body), images=images)


def model_name(rules: Rules, body: dict[str, Any]) -> bytes:
    """What an answer calls the model: what the request does, else the server's name for it."""
    return dumps(value_of(body, "model", rules.settings.name))


def read_rerank(rules: Rules, raw: Body) -> Reading:
    """A query with each of several documents. Options: tei, top_n, texts: documents that the answer repeats."""
    body = loads(raw)
    if not isinstance(body, dict) or "query" not in body:
        raise ApiError('"query" must be provided')
    query = body["query"]
    if not isinstance(query, str):
        raise ApiError('"query" must be a string')
    documents = next((d for key in ("documents", "texts") if strings(d := body.get(key))), None)
    if not documents:
        raise ApiError('"documents" must be a non-empty string array')
    rules.check_inputs(len(documents))
    if value_of(body, "top_n", 0) < 0:
        raise ApiError('"top_n" must not be negative')
    truncate = value_of(body, "truncate", False)
    pairs = [read_pair(rules, query, document, truncate) for document in documents]
    if not all(pairs):
        raise ApiError("Input content cannot be empty")
    tei = "texts" in body
    repeats = value_of(body, "return_text" if tei else "return_documents", False)
    return Reading(
        [truncate_or_raise(rules, pair, truncate) for pair in pairs],
        {"tei": tei, "top_n": value_of(body, "top_n", len(documents))},
        model_name(rules, body),
        [dumps(document) for document in documents] if repeats else [],
    )


def read_pair(rules: Rules, query: str, document: str, truncate: bool) -> list[int]:
    """Token ids of a query and a document."""
    for text in (query, document):
        rules.check_fewest(text, truncate)
    return encode_pair(rules.tokenizer, query, document, "server")


def strings(value: Any) -> bool:
    """Whether this is an array of strings."""
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def tokens_answer(rules: Rules, raw: Body) -> bytes:
    """The answer of /tokenize: ids, or with `with_pieces` what they stand for as well."""
    body, tokenizer = loads(raw), rules.tokenizer
    if not isinstance(body, dict) or "content" not in body:
        return dumps({"tokens": []})
    flags = value_of(body, "add_special", False), value_of(body, "parse_special", True)
    ids = tokenize_mixed(tokenizer, body["content"], *flags)
    if not value_of(body, "with_pieces", False):
        return dumps({"tokens": ids})
    check_vocabulary(rules, ids)
    known = {i: dumps({"id": i, "piece": spelled(tokenizer.piece(i))}) for i in set(ids)}
    return b'{"tokens":[%b]}' % b",".join(known[i] for i in ids)


def spelled(piece: bytes) -> str | list[int]:
    """A token's bytes: text where they are UTF-8, else numbers."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def text_answer(rules: Rules, raw: Body) -> bytes:
    """The answer of /detokenize: the tokens' pieces, one after the other."""
    body = loads(raw)
    if not isinstance(body, dict) or "tokens" not in body:
        return dumps({"content": ""})
    if not isinstance(body["tokens"], list):
        raise wrong_type("array", body["tokens"])
    ids = [to_int(i) for i in body["tokens"]]
    check_vocabulary(rules, ids)
    return dumps({"content": b"".join(map(rules.tokenizer.piece, ids)).decode(errors="replace")})


# -- Ollama ----------------------------------------------------------------------------------------------------------


def read_ollama(rules: Rules, raw: Body) -> Reading:
    """/api/embed: one text or several. Options: dimensions."""
    body = ollama_object(raw)
    given: Any = body.get("input")
    texts = [given] if given and isinstance(given, str) else [] if given in (None, "") else given
    if not strings(texts):
        raise ApiError("invalid input type")
    # Go reads no number from a truth, where llama-server does
    dimensions = 0 if isinstance(body.get("dimensions"), bool) else value_of(body, "dimensions", 0)
    if not 0 < dimensions < rules.width:
        dimensions = None  # as there: a number out of range is no cut
    one_vector(rules)
    ids = ollama_ids(rules, texts, value_of(body, "truncate", True))
    return Reading(ids, {"dimensions": dimensions}, model_name(rules, body))


def read_ollama_one(rules: Rules, raw: Body) -> Reading:
    """/api/embeddings: one prompt; none where it is empty."""
    prompt = ollama_object(raw).get("prompt", "")
    if not isinstance(prompt, str):
        raise ApiError("invalid prompt type")
    one_vector(rules)
    return Reading(ollama_ids(rules, [prompt] if prompt else [], True))


def ollama_object(raw: Body) -> dict[str, Any]:
    """The body, which must be an object."""
    if not bytes(raw[:1024]).strip() and not bytes(raw).strip():
        raise ApiError("missing request body")
    body = loads(raw)
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    return body


def one_vector(rules: Rules) -> None:
    """ApiError for a server that gives each token a vector, or scores."""
    if rules.how in ("none", "rank"):
        hint = "start the server with another --pooling"
        raise ApiError(f"pooling {rules.how} gives a text no vector: {hint}", "not_supported_error")


def ollama_ids(rules: Rules, texts: list[str], truncate: bool) -> list[list[int]]:
    """Token ids of texts."""
    rules.check_inputs(len(texts))
    too_long = ApiError("the input length exceeds the context length")
    if any(rules.surely(text, truncate) for text in texts):
        raise too_long
    ids = [rules.tokenize(text) for text in texts]
    if not all(ids):
        raise ApiError("an input has no tokens")
    if not truncate and max(map(len, ids), default=0) > rules.limits.longest:
        raise too_long
    return [truncate_or_raise(rules, i, truncate) for i in ids]


# -- Text Embeddings Inference ---------------------------------------------------------------------------------------


def read_tei(rules: Rules, raw: Body) -> Reading:
    """/embed: a text, ids, or a list of such. Options: normalize, dimensions."""
    body, ids = tei_inputs(rules, raw)
    if rules.how == "none":
        raise validation("pooling none gives each token a vector; use /embed_all")
    if rules.how == "rank":
        raise validation("`model is not an embedding model`")
    dimensions = body.get("dimensions")
    if dimensions is not None and not (is_integer(dimensions) and 1 <= dimensions <= rules.width):
        raise validation(f"`dimensions` must be between 1 and {rules.width}")
    return Reading(ids, {"normalize": 2 if value_of(body, "normalize", True) else -1, "dimensions": dimensions})


def read_tei_all(rules: Rules, raw: Body) -> Reading:
    """/embed_all: likewise, without options."""
    return Reading(tei_inputs(rules, raw)[1])


def read_similarity(rules: Rules, raw: Body) -> Reading:
    """/similarity: the first text is the one that the others are compared with."""
    body = tei_object(raw)
    inputs = body.get("inputs")
    source = inputs.get("source_sentence") if isinstance(inputs, dict) else None
    sentences = inputs.get("sentences") if isinstance(inputs, dict) else None
    if not isinstance(source, str) or not isinstance(sentences, list):
        raise validation("`inputs` must have a `source_sentence` and a list of `sentences`")
    if not sentences:
        raise validation("`inputs.sentences` cannot be empty", 400)
    if rules.how in ("none", "rank"):
        raise validation("`model is not an embedding model`")
    given = body.get("parameters")
    truncate = value_of(given if isinstance(given, dict) else {}, "truncate", False)
    return Reading(tei_ids(rules, [source, *sentences], truncate))


def validation(message: str, status: int = 422) -> ApiError:
    """The request is not what the endpoint takes."""
    return ApiError(message, status=status)


def tei_object(raw: Body) -> dict[str, Any]:
    """The body, which must be an object."""
    body = loads(raw)
    if not isinstance(body, dict):
        raise validation("the body must be a JSON object")
    return body


def tei_inputs(rules: Rules, raw: Body) -> tuple[dict[str, Any], list[list[int]]]:
    """The body and the token ids of `inputs`: a text, ids, or a list of such."""
    body = tei_object(raw)
    if "inputs" not in body:
        raise validation("missing field `inputs`")
    inputs = body["inputs"]
    one = isinstance(inputs, str) or (isinstance(inputs, list) and any(map(is_integer, inputs)))
    texts = [inputs] if one else inputs
    if not isinstance(texts, list):
        raise validation("`inputs` must be a text, token ids, or a list of such")
    if not texts:
        raise validation("`inputs` cannot be empty", 400)
    return body, tei_ids(rules, texts, value_of(body, "truncate", False))


def tei_ids(rules: Rules, texts: list[Any], truncate: bool) -> list[list[int]]:
    """Token ids of texts, checked."""
    if len(texts) > MAX_TEI_INPUTS:
        raise validation(f"batch size {len(texts)} > maximum allowed batch size {MAX_TEI_INPUTS}")
    return [tei_ids_of_one(rules, text, truncate) for text in texts]


def tei_ids_of_one(rules: Rules, text: Any, truncate: bool) -> list[int]:
    """Token ids of one text."""
    longest = rules.limits.longest
    if isinstance(text, str):
        if n := rules.surely(text, truncate):
            raise validation(f"`inputs` must have less than {longest} tokens. Given: at least {n}")
        ids = rules.tokenize(text)
    elif isinstance(text, list) and all(map(is_integer, text)):
        ids = text
    else:
        raise validation("`inputs` must be a text, token ids, or a list of such")
    if not ids:
        raise validation("`inputs` cannot be empty", 400)
    if len(ids) > longest and not truncate:
        raise validation(f"`inputs` must have less than {longest} tokens. Given: {len(ids)}")
    return truncate_or_raise(rules, ids, truncate)
