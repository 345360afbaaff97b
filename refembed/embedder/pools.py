"""Several processes, and kernels that are compiled before they are needed."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from refembed.embedder.base import EmbedderBase
from refembed.errors import RequestError
from refembed.kernels.quant.row_blocks import in_bytes
from refembed.kernels.threads import cores
from refembed.model.batch import pack
from refembed.pipeline.vectors import forward_and_pool

if TYPE_CHECKING:
    from refembed.pipeline.processes import ProcessPool

WARMING = (1, 8, 30, 100, 300)  # tokens: a few rows, panels, rows of panels, longer than captured graphs are


class Pools(EmbedderBase):
    """Methods of `Embedder`."""

    def warm(self) -> None:
        """Compile the kernels that texts of any length need, or load them from Numba's cache.

        Otherwise the first texts do it, which takes 10 to 20 seconds once on a machine. Call it before workers start,
        so that they find the kernels in the cache; `refembed warm` does this from the command line.

        >>> e = Embedder.load("minilm")
        >>> e.warm()
        >>> e.embed("a cat").shape
        (384,)
        """
        V, limit = self.info.n_vocab, self.info.n_ctx
        texts = [[i % V for i in range(n)] for n in WARMING if n <= limit] or [[0]]
        how = self.resolve_options().pooling
        for _ in range(2):  # first without, then with the thread pool that dispatches compiled kernels
            for batch in (*([text] for text in texts), texts):
                forward_and_pool(self.model, self.ops, pack(batch), how)
            if self.ops.one_text_a_core:
                from refembed.kernels.fast.thread_pool import spinning_pool

                spinning_pool.start()

    def start_pool(self, processes: int | None = None, *, threads: int | None = None) -> None:
        """Let several processes compute, until `stop_pool`: `embed`, `embed_iter` and `rerank` then share texts out.

        processes  how many; None: one for each core
        threads    cores of each process; None: the cores of this one divided among them, at least 1

        Texts are tokenized here; vectors come in the same order with the same bits. Each process maps the model's file,
        whose pages they share; what is decoded or packed is its own, and `memory_budget` is divided among them. A
        process that is killed is replaced, its texts are computed again, and the logger "refembed.pool" says so.
        The pool also stops when the Embedder is garbage collected. One text alone, `trace` and `forward` run here.

        Raises RequestError where a pool runs already, where texts that run together change each other's bits (`ggml`
        with n_ubatch), on a GPU, or where processes end as they start; TypeError for an Embedder that `load` did not
        make.

        >>> e = Embedder.load("minilm")
        >>> texts = ["a cat", "a dog", "hello"]
        >>> alone = e.embed(texts)
        >>> e.start_pool(2, threads=1)
        >>> bool((e.embed(texts) == alone).all())
        True
        >>> e.stop_pool()
        """
        from refembed.pipeline.processes import ProcessPool

        n = cores() if processes is None else processes
        if n < 1:
            raise RequestError(f"{n} processes: at least 1")
        if self.running_pool() is not None:
            raise RequestError("a pool of processes is running already", hint="stop_pool() ends it")
        if self.ops.name == "cupy":
            raise RequestError("numerics cupy: several processes would each take most of the one GPU's memory")
        if self.ops.name == "ggml" and self.batch_tokens:
            raise RequestError(
                "texts that are computed together have bits that depend on their batch", hint="n_ubatch=0, no pool"
            )
        load, (path, options, digests) = self.__reduce__()
        share = in_bytes(options["memory_budget"]) // n
        changed = {"threads": None, "memory_budget": share}  # the environment of the processes says how many threads
        self.pool = ProcessPool((load, path, options | changed, digests), n, threads or max(cores() // n, 1))
        weakref.finalize(self, self.pool.close)

    def stop_pool(self) -> None:
        """End the processes of `start_pool`; nothing happens where there are none.

        >>> Embedder.load("minilm").stop_pool()
        """
        pool, self.pool = self.running_pool(), None
        if pool is not None:
            pool.close()

    def running_pool(self) -> ProcessPool | None:
        """The pool of this process; a fork has none."""
        return self.pool if self.pool is not None and self.pool.owner == os.getpid() else None

    def tokenized_ahead(
        self, texts: Iterable[Any], read: Callable[[Any, int, bool], Any], truncate: bool, processes: int
    ) -> Iterator[Any]:
        """What `read` makes of each input and its number, token ids for texts, which other processes tokenize.

        They end with the generator. RequestError for a number of processes that cannot be, and as `read` raises it.
        """
        from refembed.pipeline.tokenizer_pool import TokenizerPool

        if processes < 1:
            raise RequestError(f"tokenizers {processes}: a number of processes, or None to tokenize in this one")
        with contextlib.closing(TokenizerPool(self.file.path, self.tokenizer, processes)) as pool:
            is_closed = self.tokenizer.vocab.is_closed
            for i, (text, ids) in enumerate(pool.stream(texts)):
                if ids is None:
                    yield read(text, i, truncate)
                else:
                    yield self.truncate_or_raise(ids, f"input {i}", truncate, is_closed(ids))
