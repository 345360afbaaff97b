"""Processes that tokenize ahead of what is being computed: `Embedder.embed_iter(tokenizers=N)`.

texts ─► chunks of some kilobytes ─► N processes ─► token ids, in order ─► batches ─► vectors

A tokenizer is Python, of which one thread runs at a time: threads would tokenize no faster, and keep waiting those
that hand out kernels. Each process reads the model's file again, of which it needs the vocabulary alone.
"""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import I32
from refembed.errors import ModelError, RefembedError
from refembed.pipeline.processes import Workers
from refembed.tokenizer import Tokenizer, load_tokenizer

CHUNK_BYTES = 32 << 10  # of texts that a process gets at a time: some 8,000 tokens, 20 ms
CHUNK_TEXTS = 1024
CHUNKS_AHEAD = 4  # for each process: being tokenized, or waiting to be computed

Answer = tuple[I32, I32, "RefembedError | None"]


class TokenizerPool(Workers):
    """N processes with the tokenizer of a file.

    path       of the model's file
    tokenizer  as it was loaded here
    Raises ModelError where the file has another vocabulary by now; RequestError where the processes end at once.
    """

    hint = "is there memory for so many processes? tokenizers=None needs none"

    def __init__(self, path: Path, tokenizer: Tokenizer, processes: int) -> None:
        load = (load_encoder, path.absolute(), checksum(tokenizer))
        super().__init__(load, processes, threads=1, name="pool of tokenizers")

    def stream(self, texts: Iterable[Any]) -> Iterator[tuple[Any, list[int] | None]]:
        """Each input with its token ids, in order; None for what is no text: ids ready made, an image.

        Raises what a text's tokenizing raises behind the texts before it, likewise what `texts` raises.
        """
        given: deque[list[Any]] = deque()  # chunks whose ids are not there yet

        def arguments() -> Iterator[tuple[Any, ...]]:
            for chunk in chunks(texts):
                given.append(chunk)
                yield ([plain(text) for text in chunk],)

        answer: Answer
        for answer in self.answers(arguments(), CHUNKS_AHEAD * self.n):
            flat, lengths, error = answer
            ids, end = flat.tolist(), 0
            for text, length in zip(given.popleft(), lengths.tolist(), strict=False):
                if length < 0:
                    yield text, None
                    continue
                begin, end = end, end + length
                yield text, ids[begin:end]
            if error is not None:
                raise error


def chunks(texts: Iterable[Any]) -> Iterator[list[Any]]:
    """Inputs in lists of at least CHUNK_BYTES, of which the last has fewer. A character counts as a byte."""
    source = iter(texts)
    while True:
        chunk: list[Any] = []
        size = 0
        for text in itertools.islice(source, CHUNK_TEXTS):
            chunk.append(text)
            size += len(text) if isinstance(text, (str, bytes)) else 0
            if size >= CHUNK_BYTES:
                break
        if not chunk:
            return
        yield chunk


def plain(text: Any) -> str | bytes | None:
    """A text as it can be sent; None for any other input."""
    if isinstance(text, (str, bytes)):
        return text
    return bytes(text) if isinstance(text, (bytearray, memoryview)) else None


def checksum(tokenizer: Tokenizer) -> tuple[str, str, int]:
    """Kind and tokens: another file has others."""
    vocab = tokenizer.vocab
    return vocab.kind, vocab.pre, zlib.crc32(b"\0".join(vocab.tokens))


def load_encoder(path: Path, wanted: tuple[str, str, int]) -> Callable[[Sequence[str | bytes | None]], Answer]:
    """What a process does with a chunk, by the tokenizer of a file. ModelError where it is another one."""
    tokenizer = load_tokenizer(path)
    if checksum(tokenizer) != wanted:
        raise ModelError(f"{path}: its vocabulary is another one than when the model was loaded")

    def encode(texts: Sequence[str | bytes | None]) -> Answer:
        """Ids of all texts end to end, how many each has (-1: no text), and why there are no more of them."""
        flat: list[int] = []
        lengths: list[int] = []
        error: RefembedError | None = None
        try:
            for text in texts:
                ids = [] if text is None else tokenizer.encode(text)
                flat += ids
                lengths.append(-1 if text is None else len(ids))
        except RefembedError as e:
            error = e
        return np.array(flat, np.int32), np.array(lengths, np.int32), error

    return encode
