"""Any server that answers HTTP with embeddings: llama-server, OpenAI's API and its imitations, Ollama, TEI.

    HttpEngine("http://localhost:8080")                      # what it is, and how it wants to be asked, is found out
    HttpEngine("http://localhost:11434", model_name="minilm")
    HttpEngine("http://localhost:8080/v1/embeddings")        # this route and no other

An address without a known route is probed: GET /props, /api/version, /info, /v1/models say what the server is, then its
routes (`http_shapes.ROUTES`) are asked for the embedding of one letter, and the first that answers stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.errors import EngineError, RequestError
from refembed.verify.engines.base import Item, Plain, checked
from refembed.verify.engines.http_client import Client, NotJsonError, RefusedError
from refembed.verify.engines.http_shapes import OPENAI, ROUTES, SERVERS, Found, Route, embeddings, in_order

PROBE = "a"  # one letter, to see a route's shape
KEY = "REFEMBED_API_KEY"  # environment variable
CLOSED = (401, 403, 503)  # no other route will say better


class HttpEngine(Plain):
    """A server of embeddings.

    url         of the server, or of one of its routes
    api_key     sent as `Authorization: Bearer`; default: the environment variable REFEMBED_API_KEY
    timeout     seconds a request
    batch       texts a request; routes that take one text get one
    model_name  which of the server's models; not needed where it has one
    normalize   True, False: ask the server to normalize or not, where its route has a switch for that; a number is
                llama.cpp's embd_normalize: -1 as they are, 0 largest magnitude to 32760, 1 taxicab, 2 length, p p-norm
    encoding    "float" or "base64", for OpenAI's route
    headers     to be sent in addition
    extra       fields to be added to each body: {"dimensions": 64}

    EngineError when it cannot be reached, refuses, or answers with anything but finite vectors of one length.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        batch: int = 1,
        model_name: str | None = None,
        normalize: bool | int | None = None,
        encoding: str = "float",
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise RequestError(f"batch={batch!r}: must be a positive whole number of texts a request")
        if encoding not in ("float", "base64"):
            raise RequestError(f"encoding={encoding!r}: must be 'float' or 'base64'")
        self.client = Client(url, api_key or os.environ.get(KEY), timeout, headers)
        self.batch, self.normalize, self.encoding, self.extra = batch, normalize, encoding, dict(extra or {})
        self.prefix, asked = split_path(self.client.path)
        self.server, self.props = identify(self.client, self.prefix)
        routes = [r for d in SERVERS[self.server] for r in ROUTES if r.dialect == d]
        if self.client.path.endswith("/v1") or (encoding == "base64" and asked is None):
            routes = [OPENAI]
        self.model_name = model_name or only_model(self.client, self.prefix, self.server)
        self.route, found = self.choose([asked] if asked else routes)
        self.name = f"http {self.server or self.route.dialect}"
        self.can_take_ids = self.route.ids and self.takes_ids()
        self.tokenizer = self.find_tokenizer()
        self.can_tokenize = self.tokenizer is not None
        self.info = {
            "url": self.client.origin + self.prefix,
            "route": self.prefix + self.route.path,
            "server": self.server or "unknown",
            "dialect": self.route.dialect,
            "shape": found.shape,
            "n_embd": numbers_in(found.vectors[0], self.client.origin),
            **provenance(self.client, self.prefix, self.server, self.props, self.model_name),
        }

    # -- finding out -------------------------------------------------------------------------------------------------

    def choose(self, routes: Sequence[Route]) -> tuple[Route, Found]:
        """The first route that answers, and its answer to the probe."""
        refusals: list[EngineError] = []
        for route in routes:
            try:
                return route, self.ask(route, [PROBE])
            except (RefusedError, NotJsonError) as e:
                refusals.append(e)
                if isinstance(e, RefusedError) and e.status in CLOSED:
                    raise
        telling = [e for e in refusals if isinstance(e, RefusedError) and e.status not in (404, 405)]
        if telling or len(refusals) == 1:
            raise (telling or refusals)[0]
        tried = ", ".join(self.prefix + r.path for r in routes)
        hint = "give the address of the route itself, such as http://host:port/v1/embeddings"
        if self.prefix:
            hint = f"leave the path {self.prefix} out: {self.client.origin}; or {hint}"
        raise EngineError(
            f"{self.client.origin} has no route that embeds; tried {tried}; the first: {refusals[0]}", hint=hint
        )

    def takes_ids(self) -> bool:
        """Whether ids in place of a text get a vector."""
        try:
            self.ask(self.route, [[1, 2]])
        except EngineError:
            return False
        return True

    def find_tokenizer(self) -> Callable[[str], Any] | None:
        """A way to ask for token ids, if the server has one."""
        path, name = self.prefix + "/tokenize", {} if self.model_name is None else {"model": self.model_name}
        bodies: tuple[Callable[[str], dict[str, Any]], ...] = (
            lambda text: {"content": text, "add_special": True, "parse_special": True},  # llama-server
            lambda text: {"inputs": text, "add_special_tokens": True},  # TEI
            lambda text: {**name, "prompt": text, "add_special_tokens": True},  # vLLM
        )
        for body in bodies:
            try:
                if token_ids(self.client.post(path, body(PROBE)), path):
                    return lambda text, body=body: self.client.post(path, body(text))  # type: ignore[misc]
            except RefusedError as e:
                if e.status in (404, 405, *CLOSED):
                    return None
            except EngineError:
                continue
        return None

    # -- asking ------------------------------------------------------------------------------------------------------

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """One (D), or (T, D) where the server does not pool, for each item; `batch` items a request."""
        if not self.can_take_ids and any(not isinstance(i, str) for i in items):
            raise EngineError(f"{self.info['url']}{self.route.path} takes texts, not token ids")
        step = self.batch if self.route.many else 1
        vectors = [v for i in range(0, len(items), step) for v in self.vectors(items[i : i + step])]
        return pooled(checked(vectors, items, self.info["url"]))

    def embed_together(self, items: Sequence[Item]) -> list[F32]:
        """As `embed`, all items in one request where the route takes several: what a server does to a batch shows."""
        if not self.route.many:
            return self.embed(items)
        return pooled(checked(self.vectors(items), items, self.info["url"]))

    def embed_raw(self, items: Sequence[Item]) -> list[Any] | None:
        """Vectors in the lengths in which the model gives them, with whatever is not finite in them.

        None where the route has no switch for that.
        """
        if self.route.norm is None:
            return None
        before, self.normalize = self.normalize, False
        try:
            found = [np.asarray(self.vectors([item])[0], np.float64) for item in items]
        finally:
            self.normalize = before
        return [v[0] for v in found] if all(v.ndim == 2 and len(v) == 1 for v in found) else found

    def pieces(self, ids: Sequence[int]) -> list[str] | None:
        """The text of each token in the server's own vocabulary; None where it has no /detokenize (llama-server's)."""
        if self.server != "llama-server":
            return None
        path = f"{self.prefix}/detokenize"
        try:
            found = [self.client.post(path, {"tokens": [int(i)]}).get("content") for i in ids]
        except (EngineError, AttributeError):
            return None
        return found if all(isinstance(piece, str) for piece in found) else None

    def vectors(self, items: Sequence[Item]) -> list[Any]:
        """One request's vectors, in the order of the items."""
        return in_order(self.ask(self.route, items), len(items), self.client.origin + self.prefix + self.route.path)

    def ask(self, route: Route, items: Sequence[Item]) -> Found:
        """Post the items to a route and recognize the answer."""
        extra = dict(self.extra)
        if self.normalize is not None:
            extra |= norm_field(route, self.normalize)
        if self.encoding != "float":
            if route.dialect != "openai":
                raise RequestError(f"encoding={self.encoding!r}: {route.path} gives floats only")
            extra["encoding_format"] = self.encoding
        path = self.prefix + route.path
        answer = self.client.post(path, route.body(items, self.model_name, extra))
        return embeddings(answer, self.client.origin + path)

    def tokenize(self, text: str) -> list[int]:
        """The server's own ids, special tokens included, as it embeds the text."""
        if self.tokenizer is None:
            return super().tokenize(text)
        return token_ids(self.tokenizer(text), f"{self.info['url']}/tokenize")


def norm_field(route: Route, normalize: bool | int) -> dict[str, Any]:
    """The field of a route's body that asks for lengths. RequestError where the route has none, or not that one."""
    if route.norm is None:
        raise RequestError(
            f"normalize={normalize}: {route.path} has no switch for it", hint="leave it out: compare cosines"
        )
    field, yes, no = route.norm
    if isinstance(normalize, bool) or normalize in (2, -1):
        return {field: yes if normalize in (True, 2) else no}
    if isinstance(yes, bool):
        raise RequestError(f"normalize={normalize}: {route.path} knows 2 (to length 1) and -1 (as they are) only")
    return {field: normalize}


def split_path(path: str) -> tuple[str, Route | None]:
    """What stands before the routes, and the route if the address names one."""
    for route in sorted(ROUTES, key=lambda r: -len(r.path)):
        if path.endswith(route.path):
            return path[: -len(route.path)], route
    return path.removesuffix("/v1"), None


def peek(client: Client, path: str) -> dict[str, Any]:
    """The JSON object there; nothing where there is none. EngineError where no server is."""
    try:
        found = client.get(path)
    except (RefusedError, NotJsonError):
        return {}
    return found if isinstance(found, dict) else {}


def identify(client: Client, prefix: str) -> tuple[str, dict[str, Any]]:
    """Which server this is, as far as it says, and what it says."""
    props = peek(client, f"{prefix}/props")
    if "build_info" in props or "default_generation_settings" in props:
        return "llama-server", props
    version = peek(client, f"{prefix}/api/version")
    if isinstance(version.get("version"), str):
        return "ollama", version
    info = peek(client, f"{prefix}/info")
    if "model_id" in info and "max_client_batch_size" in info:
        return "tei", info
    models = peek(client, f"{prefix}/v1/models")
    return ("openai", models) if isinstance(models.get("data"), list) else ("", {})


def only_model(client: Client, prefix: str, server: str) -> str | None:
    """The name of the server's one model, where its routes want a name."""
    if server == "ollama":
        listed = peek(client, f"{prefix}/api/tags").get("models") or []
        names = [m.get("name") for m in listed if isinstance(m, dict)]
    elif server == "openai":
        listed = peek(client, f"{prefix}/v1/models").get("data") or []
        names = [m.get("id") for m in listed if isinstance(m, dict)]
    else:
        return None
    if len(names) > 1:
        shown = ", ".join(map(str, names[:8])) + (" ..." if len(names) > 8 else "")
        raise EngineError(
            f"{client.origin}{prefix} serves {len(names)} models: {shown}", hint="model_name= chooses one"
        )
    return names[0] if names else None


def provenance(client: Client, prefix: str, server: str, props: dict[str, Any], model: str | None) -> dict[str, Any]:
    """What the server says of itself, for reports."""
    if server == "llama-server":
        data = peek(client, f"{prefix}/v1/models").get("data") or [{}]
        keys = ("model_alias", "model_path", "model_ftype", "total_slots")
        served = {key: props[key] for key in keys if key in props}
        return {
            "model": props.get("model_path"),
            "version": props.get("build_info"),
            **served,
            **data[0].get("meta", {}),
        }
    if server == "ollama":
        try:
            details = client.post(f"{prefix}/api/show", {"model": model}).get("details", {})
        except (EngineError, AttributeError):
            details = {}
        return {"model": model, "version": props.get("version"), "details": details}
    if server == "tei":
        return {"model": props.get("model_id"), "version": props.get("version"), "info": props}
    return {"model": model}


def token_ids(answer: Any, who: str) -> list[int]:
    """Ids in llama-server's {"tokens": [..]} (also vLLM's), or TEI's [[{"id": ..}]]."""
    found = answer.get("tokens") if isinstance(answer, dict) else answer
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    if isinstance(found, list):
        ids = [t.get("id") if isinstance(t, dict) else t for t in found]
        whole = [i for i in ids if isinstance(i, int) and not isinstance(i, bool)]
        if len(whole) == len(ids):
            return whole
    raise EngineError(f"{who} answered with no token ids: {answer!r:.100}")


def numbers_in(vector: Any, who: str) -> int:
    """How many numbers a vector, or each row of one, has. EngineError where rows are of unequal length."""
    try:
        return int(np.shape(vector)[-1])
    except (ValueError, IndexError):
        raise EngineError(f"{who} answered with a vector that is not a list of numbers: {vector!r:.80}") from None


def pooled(vectors: list[F32]) -> list[F32]:
    """Rows (1, D) as (D) where every text has one row: a pooled vector that came nested."""
    return [v[0] for v in vectors] if all(v.shape[0] == 1 and v.ndim == 2 for v in vectors) else vectors
