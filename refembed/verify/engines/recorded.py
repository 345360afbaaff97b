"""A recorded run as an engine: what another machine, another year or another program left in a file.

| file             | holds                                                        | engine          |
|------------------|--------------------------------------------------------------|-----------------|
| .npz             | a Trace (`refembed trace --save`)                            | RecordedTrace   |
| .npz             | `embeddings` (N, D), and if it has them `texts`, `meta`    | RecordedVectors |
| .npy             | (N, D), or (D) for one text                                  | RecordedVectors |
| .jsonl           | lines of {"text": .., "embedding": [..]}, or of lists        | RecordedVectors |
| .json            | any server's answer, or a list of the objects above          | RecordedVectors |
| any text         | `embedding 0:  0.1 ..` or rows of numbers (llama-embedding)  | RecordedVectors |
| any text         | llama.cpp's eval-callback                                    | RecordedDump    |
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.atomic_write import opened_zip, reading_arrays
from refembed.errors import EngineError, RequestError
from refembed.model.trace import Trace
from refembed.parse_json import parse_json
from refembed.tokenizer import load_tokenizer
from refembed.verify.engines.base import Item, Plain, checked
from refembed.verify.engines.dump import is_dump, read_dump
from refembed.verify.engines.http_shapes import embeddings, in_order

VECTORS = ("embeddings", "embedding", "vectors", "vector", "sentence_embedding", "arr_0")
TEXTS = ("texts", "text", "input", "inputs", "sentences", "sentence", "content", "prompt")
IDS = ("tokens", "ids", "input_ids")
RESULTS = ("result_embd_pooled", "result_embd_proj", "result_embd", "result_norm")  # what a run ends with, pooled first
LISTED = re.compile(r"^embedding +(\d+): +(.*\S)\s*$")  # llama-embedding's own format
FLOAT = r"[-+]?(?:\d+\.\d+(?:[eE][-+]?\d+)?|nan|inf)"
ROW = re.compile(rf"{FLOAT}(?: +{FLOAT})+$")  # its format raw


def open_recording(path: str | Path, *, texts: Sequence[str] | None = None, gguf: str | Path | None = None) -> Plain:
    """The engine behind a file (table above).

    texts   what was embedded, in order, where the file does not say; without, the first `embed` says what they are
    gguf    lends refembed's tokenizer to a trace that names its ids but not its text, to see whether it is of a text

    RequestError when there is no such file; EngineError when nothing in it can be compared.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as e:
        raise RequestError(f"{path}: {e.strerror or 'no such file'}") from None
    if not path.is_file() or size == 0:
        raise EngineError(f"{path}: {'empty' if path.is_file() else 'not a file'}: no recorded run")
    ending = path.suffix.lower()
    if ending == ".npz" and is_trace(path):
        return RecordedTrace(path, gguf)
    if ending in (".npz", ".npy"):
        return RecordedVectors(path, *from_numpy(path), texts=texts)
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError as e:
        raise EngineError(f"{path}: neither text nor .npz, .npy: byte {e.start} is no UTF-8") from None
    if is_dump(content):
        return RecordedDump(path, content, gguf)
    reader = {".jsonl": from_jsonl, ".json": from_json}.get(ending, from_text)
    return RecordedVectors(path, *reader(content, path), texts=texts)


class RecordedVectors(Plain):
    """Vectors that were computed before.

    path, vectors    the file, and (D) or (T, D) for each text
    items            the texts or ids of the vectors, None where the file does not say
    info             what the file says of itself
    texts            overrides items
    """

    name = "recorded"

    def __init__(
        self,
        path: Path,
        vectors: Sequence[Any],
        items: Sequence[Item] | None,
        info: dict[str, Any],
        *,
        texts: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not len(vectors):
            raise EngineError(f"{path}: no vector in it")
        self.path, self.items = path, list(texts) if texts is not None else items
        if self.items is not None and len(self.items) != len(vectors):
            raise EngineError(f"{path}: {len(vectors)} vectors for {len(self.items)} texts")
        self.vectors = checked(vectors, list(vectors), str(path))
        self.can_take_ids = any(not isinstance(i, str) for i in self.items or ())
        self.info = {**info, "file": str(path), "n_embd": int(self.vectors[0].shape[-1]), "count": len(self.vectors)}
        if self.items is not None:
            self.info["texts"] = self.items

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """The vectors of these texts; EngineError for a text that was not recorded."""
        if self.items is None:
            if len(items) != len(self.vectors):
                message = f"{self.path}: {len(self.vectors)} vectors without their texts, asked for {len(items)} texts"
                raise EngineError(message, hint="texts= says which texts they are, one for each vector")
            self.items = list(items)
        known = {key(item): v for item, v in zip(self.items, self.vectors, strict=True)}
        missing = [i for i in items if key(i) not in known]
        if missing:
            hint = "compare on the recorded texts: they are in info['texts']"
            raise EngineError(f"{self.path} holds no vector for {missing[0]!r:.80}", hint=hint)
        return [known[key(i)].copy() for i in items]


class RecordedTrace(Plain):
    """One run of refembed's own format: the text's vector, its ids, and every tensor."""

    name = "recorded"
    can_trace = True

    def __init__(self, path: Path, gguf: str | Path | None = None) -> None:
        super().__init__()
        self.path, self.recorded, self.gguf = path, Trace.load(path), gguf
        if not len(self.recorded):
            raise EngineError(f"{path}: an empty trace, no tensor in it")
        self.info = self.describe()

    def describe(self) -> dict[str, Any]:
        """What the run says of itself; with that, what can be asked of it."""
        meta = self.recorded.meta
        self.text, self.ids = meta.get("text"), meta.get("tokens")
        self.can_tokenize = self.text is not None and self.ids is not None
        self.can_take_ids = self.ids is not None
        known = [i for i in (self.text, self.ids) if i is not None][:1]
        return {**{k: v for k, v in meta.items() if k != "nodes"}, "file": str(self.path), "texts": known}

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """The last tensor: (D) where the run pooled, else (T, D)."""
        return checked([self.result() for item in items if self.is_it(item)], items, str(self.path))

    def result(self) -> F32:
        """What the run ends with."""
        name = next((n for n in RESULTS if n in self.recorded), None)
        if name is None:
            raise EngineError(f"{self.path}: none of {', '.join(RESULTS)} is in this trace")
        x = np.asarray(self.recorded[name])
        return x.reshape(-1) if name == RESULTS[0] else x

    def tokenize(self, text: str) -> list[int]:
        """The ids of the one text."""
        self.is_it(text)
        return list(self.ids) if self.ids is not None else super().tokenize(text)

    def trace(self, item: Item) -> Trace:
        self.is_it(item)
        return self.recorded

    def is_it(self, item: Item) -> bool:
        """True if this is the text that was run; EngineError if it is known to be another."""
        asked: Item = item
        if isinstance(item, str) and self.text is None and self.ids is not None and self.gguf is not None:
            asked = load_tokenizer(self.gguf).encode(item, add_special=True, parse_special=True)
        mine = self.text if isinstance(asked, str) else self.ids
        if mine is not None and key(mine) != key(asked):
            raise EngineError(f"{self.path} is a run of {mine!r:.80}, not of {item!r:.80}")
        return True


class RecordedDump(RecordedTrace):
    """What llama.cpp's eval-callback printed: traces that show a few elements of each tensor, and no vector."""

    def __init__(self, path: Path, content: str, gguf: str | Path | None = None) -> None:
        Plain.__init__(self)
        self.path, self.recorded, self.gguf = path, read_dump(content, str(path)), gguf
        self.info = {k: v for k, v in self.describe().items() if v != []}

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """EngineError: six numbers are no vector."""
        raise EngineError(f"{self.path} shows six numbers of each row, no whole vector", hint="compare its traces")


def key(item: Item) -> Any:
    """A text or ids, to look up."""
    return item if isinstance(item, str) else tuple(int(i) for i in item)


def is_trace(path: Path) -> bool:
    """Whether this .npz is a Trace."""
    try:
        with zipfile.ZipFile(path) as z:
            return "meta.json" in z.namelist()
    except (zipfile.BadZipFile, OSError):
        raise EngineError(f"{path}: damaged, or no .npz at all") from None


# Each reader gives (vectors, their texts or ids or None, what the file says of itself)
Read = tuple[Sequence[Any], "list[Item] | None", dict[str, Any]]


def from_numpy(path: Path) -> Read:
    """.npy and .npz."""
    try:
        if zipfile.is_zipfile(path):
            with reading_arrays(), opened_zip(path):  # looks at the sizes
                pass
        with reading_arrays(), path.open("rb") as f:
            found = np.load(f, allow_pickle=False)
            arrays = {"arr_0": found} if isinstance(found, np.ndarray) else {k: found[k] for k in found.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError, MemoryError) as e:
        raise EngineError(f"{path}: cannot be read as NumPy's format: {e}") from None
    name = next((n for n in VECTORS if n in arrays), None) or (next(iter(arrays)) if len(arrays) == 1 else None)
    if name is None:
        raise EngineError(f"{path}: no array named {', '.join(VECTORS[:3])}; it has {', '.join(arrays) or 'none'}")
    x = arrays[name]
    if x.dtype.kind not in "fiu" or x.ndim not in (1, 2, 3):
        raise EngineError(f"{path}: {name} is {x.dtype} of shape {x.shape}, where numbers (N, D) are meant")
    vectors = list(x[None] if x.ndim == 1 else x)
    named = next((arrays[n] for n in TEXTS if n in arrays and arrays[n].dtype.kind == "U"), None)
    items: list[Item] | None = None if named is None else [str(t) for t in np.atleast_1d(named)]
    return vectors, items, about_of(arrays.get("meta")) | {"dtype": str(x.dtype)}


def about_of(meta: Any) -> dict[str, Any]:
    """The array `meta`: JSON in a string."""
    try:
        found = parse_json(str(meta)) if meta is not None else {}
    except ValueError:
        return {"meta": str(meta)}
    return found if isinstance(found, dict) else {"meta": found}


def from_jsonl(content: str, path: Path) -> Read:
    """One JSON value a line."""
    entries = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                entries.append(parse_json(line))
            except ValueError as e:
                raise EngineError(f"{path}, line {number}: not JSON: {e}") from None
    return from_entries(entries, path)


def from_json(content: str, path: Path) -> Read:
    """One JSON value: a server's answer, or a list of texts with vectors."""
    try:
        found = parse_json(content)
    except ValueError as e:
        raise EngineError(f"{path}: not JSON: {e}") from None
    if isinstance(found, list) and found and all(isinstance(e, dict) and one_of(e, TEXTS + IDS) for e in found):
        return from_entries(found, path)
    answer = embeddings(found, str(path))
    return in_order(answer, len(answer.vectors), str(path)), None, {"shape": answer.shape}


def from_entries(entries: list[Any], path: Path) -> Read:
    """Objects with a text and a vector, or bare vectors."""
    vectors, items = [], []
    for number, entry in enumerate(entries):
        vector = one_of(entry, VECTORS) if isinstance(entry, dict) else entry
        if vector is None:
            raise EngineError(f"{path}, entry {number}: no {', '.join(VECTORS[:3])} in it: {entry!r:.80}")
        vectors.append(vector)
        item = one_of(entry, TEXTS + IDS) if isinstance(entry, dict) else None
        if item is not None and not is_item(item):
            raise EngineError(f"{path}, entry {number}: neither a text nor ids: {item!r:.80}")
        items.append(item)
    named = [i for i in items if i is not None]
    if named and len(named) != len(items):
        raise EngineError(f"{path}: {len(named)} of {len(items)} entries name their text; all or none is meant")
    return vectors, named or None, {}


def is_item(value: object) -> bool:
    """Whether it is a text, or ids."""
    return isinstance(value, str) or (isinstance(value, list) and all(type(i) is int for i in value))


def one_of(entry: dict[str, Any], names: Sequence[str]) -> Any:
    """The first of these fields that is there."""
    return next((entry[n] for n in names if entry.get(n) is not None), None)


def from_text(content: str, path: Path) -> Read:
    """llama-embedding's own format, its format raw, or JSON without the ending."""
    if content.lstrip()[:1] in ("{", "["):
        return from_json(content, path)
    lines = [line.strip() for line in content.splitlines()]
    listed = [m for line in lines if (m := LISTED.match(line))]
    if listed:
        if any("..." in m[2] for m in listed):
            hint = "llama-embedding --embd-output-format json writes all"
            raise EngineError(f"{path}: rows cut short by '...', not whole vectors", hint=hint)
        rows, resolution = [m[2].split() for m in listed], 0.5e-6
        if len(rows) > 1 and len(rows[0]) <= 16:
            hint = "llama-embedding --embd-output-format json writes all"
            raise EngineError(f"{path}: of several texts llama-embedding prints 16 numbers only", hint=hint)
    else:
        rows, resolution = [line.split() for line in lines if ROW.match(line)], 0.5e-7
    if not rows:
        hint = "a dump of llama.cpp's eval-callback, the output of llama-embedding, or rows of numbers"
        raise EngineError(f"{path}: nothing recorded is recognized in this text", hint=hint)
    try:
        return [[float(x) for x in row] for row in rows], None, {"resolution": resolution}
    except ValueError as e:
        raise EngineError(f"{path}: {e}") from None
