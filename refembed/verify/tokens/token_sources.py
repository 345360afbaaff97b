"""Other tokenizers to compare with: another GGUF file, a Hugging Face tokenizer.json, a server that tokenizes.

open_other("other.gguf")                   refembed on another vocabulary
open_other("tokenizer.json")               the library `tokenizers` (the extra `hf`)
open_other("http://127.0.0.1:8080")        POST /tokenize, as llama-server answers it
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from refembed.errors import EngineError, ModelError, RequestError
from refembed.parse_json import parse_json
from refembed.tokenizer import load_tokenizer
from refembed.tokenizer.base import WORD_START, Tokenizer
from refembed.tokenizer.explain import stages

TIMEOUT = 60.0  # seconds a server may take for one text
MOST = 1 << 28  # bytes of an answer that are read
INSTALL = "pip install tokenizers (refembed's extra `hf`)"


class Other(Protocol):
    """What a comparison asks of the other side."""

    name: str

    def encode(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids. EngineError where none can be had, RequestError for a text the other side cannot be given."""

    def token(self, id: int) -> bytes | None:
        """A token as a GGUF vocabulary spells it; None where the other side does not say."""

    def cuts(self, text: bytes, parse_special: bool) -> list[bytes] | None:
        """The special tokens that are cut out of a text; None where that cannot be observed."""

    def words(self, fragment: bytes) -> list[bytes] | None:
        """A text without special tokens, normalized and cut into pre-tokens; None where that cannot be observed."""


def open_other(source: str, ours: Tokenizer) -> Other:
    """The other side. ModelError or EngineError, in one sentence, where it cannot be opened.

    source  a URL, a tokenizer.json or the folder it is in, or a GGUF file
    ours    the tokenizer it is compared with: its kind says how tokens are spelled
    """
    if source.startswith(("http://", "https://")):
        return Server(source)
    path = Path(source)
    if path.is_dir() and (path / "tokenizer.json").is_file():
        path = path / "tokenizer.json"
    if path.suffix == ".json":
        return HuggingFace(path, ours)
    return Gguf(path)


class Gguf:
    """refembed with the vocabulary of another file."""

    def __init__(self, path: Path) -> None:
        self.name = os.fspath(path)
        if not path.exists():
            raise ModelError(f"{path}: no such file", hint="compare with a .gguf, a tokenizer.json or http://host:port")
        self.tokenizer = load_tokenizer(path)

    def encode(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        return self.tokenizer.encode(text, add_special, parse_special)

    def token(self, id: int) -> bytes | None:
        return self.tokenizer.vocab.tokens[id]

    def cuts(self, text: bytes, parse_special: bool) -> list[bytes] | None:
        found = self.tokenizer.fragments(text, parse_special)
        return [self.tokenizer.vocab.tokens[f] for f in found if isinstance(f, int)]

    def words(self, fragment: bytes) -> list[bytes] | None:
        return words(self.tokenizer, fragment)


def words(tokenizer: Tokenizer, fragment: bytes) -> list[bytes] | None:
    """What is tokenized on its own: the last stage before pieces. None for a kind that shows no such stage."""
    by_name = {s.name: s for s in stages(tokenizer, fragment, add_special=False, parse_special=False)}
    found = by_name.get("pre-tokens") or by_name.get("normalized")
    return [p if isinstance(p, bytes) else tokenizer.vocab.tokens[p] for p in found.parts] if found else None


class HuggingFace:
    """The library `tokenizers` with a tokenizer.json."""

    def __init__(self, path: Path, ours: Tokenizer) -> None:
        self.name, self.kind = os.fspath(path), ours.vocab.kind
        if not path.is_file():
            raise ModelError(f"{path}: no such file", hint="a tokenizer.json is part of a Hugging Face repository")
        try:
            tokenizers: Any = importlib.import_module("tokenizers")
        except ImportError:
            what = f"{path}: to read it, the library `tokenizers` is needed"
            raise EngineError(what, hint=INSTALL) from None
        try:
            self.library: Any = tokenizers.Tokenizer.from_file(self.name)
        except Exception as e:  # the library's own, of no particular type
            reason = " ".join(str(e).split())[:200]
            raise ModelError(f"{path}: the library `tokenizers` cannot read it: {reason}") from None
        self.library.no_truncation()
        self.library.no_padding()
        self.special = {t.content for t in self.library.get_added_tokens_decoder().values()}

    def encode(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        self.library.encode_special_tokens = not parse_special
        return list(self.library.encode(utf8(text), add_special_tokens=add_special).ids)

    def token(self, id: int) -> bytes | None:
        text = self.library.id_to_token(id)
        if text is None or text in self.special or self.kind != "bert":
            return None if text is None else str(text).encode()
        return text[2:].encode() if text.startswith("##") else WORD_START + text.encode()

    def cuts(self, text: bytes, parse_special: bool) -> list[bytes] | None:
        self.library.encode_special_tokens = not parse_special
        chars = utf8(text)
        found = self.library.encode(chars, add_special_tokens=False)
        at = zip(found.tokens, found.offsets, strict=True)  # [UNK] can also stand for what is unknown
        return [t.encode() for t, (a, b) in at if t in self.special and chars[a:b].strip() == t.strip()]

    def words(self, fragment: bytes) -> list[bytes] | None:
        text = utf8(fragment)
        normalizer, pre_tokenizer = self.library.normalizer, self.library.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        found = [word for word, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text]
        return [self.spelled(word) for word in found]

    def spelled(self, word: str) -> bytes:
        """A pre-token in bytes: byte-level ones come in GPT-2's alphabet."""
        if self.kind == "gpt2":
            from refembed.tokenizer.bpe import BYTE_OF_LETTER

            if all(c in BYTE_OF_LETTER for c in word):
                return b"".join(BYTE_OF_LETTER[c] for c in word)
        return word.encode("utf-8", "surrogatepass")


class Server:
    """A server that answers POST /tokenize as llama-server does."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if not parts.hostname:
            raise RequestError(f"{url!r} is not the address of a server", hint="http://127.0.0.1:8080")
        path = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{parts.netloc}{path if path.endswith('/tokenize') else path + '/tokenize'}"
        self.name = self.url
        self.here = parts.hostname in ("localhost", "127.0.0.1", "::1")  # no proxy knows the way there

    def encode(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        body = {"content": utf8(text), "add_special": add_special, "parse_special": parse_special}
        return ids_of(self.ask(json.dumps(body).encode()), self.url)

    def token(self, id: int) -> bytes | None:
        """None: only ids are asked for."""
        return None

    def cuts(self, text: bytes, parse_special: bool) -> list[bytes] | None:
        return None

    def words(self, fragment: bytes) -> list[bytes] | None:
        return None

    def ask(self, body: bytes) -> Any:
        """POST; the JSON that comes back. EngineError for anything else."""
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import ProxyHandler, Request, build_opener

        opener = build_opener(ProxyHandler({})) if self.here else build_opener()
        try:
            request = Request(self.url, body, {"Content-Type": "application/json"})
            with opener.open(request, timeout=TIMEOUT) as response:
                return parse_json(response.read(MOST))
        except HTTPError as e:
            said = " ".join(e.read(500).decode(errors="replace").split())
            raise EngineError(f"{self.url} answers {e.code}: {said[:200]}", hint="llama-server has /tokenize") from None
        except (OSError, HTTPException) as e:
            raise EngineError(f"{self.url} cannot be reached: {getattr(e, 'reason', None) or e}") from None
        except ValueError:
            raise EngineError(f"{self.url} answers with something that is not JSON") from None


def ids_of(answer: Any, url: str) -> list[int]:
    """`{"tokens": [1, 2]}`, or with objects that have an id. EngineError for another shape."""
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    found: list[Any] = [None]
    if isinstance(tokens, list):
        found = [t.get("id") if isinstance(t, dict) else t for t in tokens]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in found):
        raise EngineError(f'{url} answers with something other than {{"tokens": [ids]}}: {json.dumps(answer)[:120]}')
    return found


def utf8(text: bytes) -> str:
    """Characters. RequestError for bytes that are no UTF-8: neither JSON nor a str can carry them."""
    try:
        return text.decode()
    except UnicodeDecodeError as e:
        what = f"the text is no UTF-8 from byte {e.start} on, and the other side takes characters only"
        raise RequestError(what, hint="compare with a GGUF file, or leave such texts out") from None


def spelling(other: Other, ours: Tokenizer, ids: Sequence[int]) -> list[bytes | None]:
    """Tokens of the other side's ids; what it does not say, our vocabulary does, as far as it has such an id."""
    tokens = ours.vocab.tokens
    known = (other.token(i) for i in ids)
    return [
        t if t is not None else tokens[i] if 0 <= i < len(tokens) else None for i, t in zip(ids, known, strict=True)
    ]
