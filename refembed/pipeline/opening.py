"""The two lower doors, by name or by path: a GGUF file, and the tokenizer in it.

`refembed.gguf.open_gguf` and `refembed.tokenizer.load_tokenizer` read files and know no names; these ask `refembed.hub`
for the file first, as `Embedder.load` and `-m` do.
"""

from __future__ import annotations

import os
from pathlib import Path

from refembed.errors import RequestError
from refembed.gguf import GGUFFile, Metadata
from refembed.gguf import open_gguf as open_file
from refembed.tokenizer import Tokenizer
from refembed.tokenizer import load_tokenizer as load_from

__all__ = ["load_tokenizer", "open_gguf"]


def open_gguf(model: str | os.PathLike[str], mmap: bool = True) -> GGUFFile:
    """Open a GGUF file for reading: its metadata, and its tensors as they are stored.

    model    a path; a folder as Hugging Face publishes them; or a name that `refembed.hub` knows, such as "minilm"
             (fetched and converted once). The same that `Embedder.load` takes
    mmap     the file is mapped; False reads all of it into memory
    returns  the file: `metadata[key]`, `tensors[name]`; a context manager, and it may be kept open

    Raises ModelError where there is no such file or model, DownloadError where it cannot be fetched, GGUFError for a
    file that is no GGUF, RequestError for what is no path.

    >>> from refembed import open_gguf
    >>> f = open_gguf("minilm")
    >>> f.metadata["general.architecture"]
    'bert'
    >>> f.tensors["blk.0.attn_q.weight"].dequantize().shape
    (384, 384)
    """
    return open_file(path_of(check_model(model)), mmap)


def load_tokenizer(model: str | os.PathLike[str] | GGUFFile | Metadata) -> Tokenizer:
    """Load the tokenizer of a model; a GGUF file with a vocabulary and no tensors will do.

    model    as `open_gguf` takes it; or an open file, or its metadata
    returns  `encode(text, add_special=True, parse_special=False)` gives a list of token ids, `decode(ids)` their text

    Raises what `open_gguf` does, and ModelError for a kind of tokenizer that refembed does not know.

    >>> from refembed import load_tokenizer
    >>> load_tokenizer("minilm").encode("Hello, world!")
    [101, 7592, 1010, 2088, 999, 102]
    """
    if isinstance(model, (GGUFFile, Metadata)):
        return load_from(model)
    with open_gguf(model) as f:
        return load_from(f)


def path_of(model: str) -> Path:
    """The file of a model: that path, or what `refembed.hub` has under that name."""
    if model.endswith(".gguf") and (path := Path(model)).is_file():
        return path
    from refembed.hub import resolve

    return resolve(model)


def check_model(model: object) -> str:
    """A path or a name as text; RequestError for anything else."""
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        return path if isinstance(path, str) else os.fsdecode(path)
    found = "None" if model is None else f"{model!r:.60} of type {type(model).__name__}"
    raise RequestError(f"model: a path or a name is wanted, not {found}", hint='"minilm", or "model.gguf"')
