"""Real llama.cpp: what every other engine, ours included, is measured against.

    with LlamaCpp("model.gguf") as engine:
        engine.tokenize("Hello")             # [101, 7592, 102]
        engine.embed(["Hello"])              # [float32 (n_embd_out)], not normalized
        engine.trace("Hello")["kq-0"]        # any tensor of the graph, by llama.cpp's own name

The library comes from the pinned wheel `xllamacpp`, which exports llama.cpp's whole C API, so no compiler is needed. It
runs in a process of its own (`llamacpp_worker`): an abort there is an EngineError here. The defaults are the most
reproducible configuration of llama.cpp, not its fastest: one thread, flash attention off, no repacked weights.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np

from refembed.arrays import F32, U8
from refembed.errors import EngineError, RequestError
from refembed.gguf.digest import sha256_of
from refembed.model.trace import Trace, TracedTensor
from refembed.verify.compare.align import addition_order
from refembed.verify.engines.llamacpp_packages import is_package, unpack
from refembed.verify.engines.llamacpp_wire import receive, send

Input: TypeAlias = "str | bytes | Sequence[int]"  # one text: characters, UTF-8 bytes, or token ids ready made

MARKER = "<__media__>"  # mtmd_default_marker: where an image stands in a text
NO_BACKTRACE = "GGML_NO_BACKTRACE"  # set for the worker: an abort must not call a debugger

CHOICES: dict[str, tuple[Any, ...]] = {
    "pooling": ("native", "none", "mean", "cls", "last", "rank"),
    "flash_attn": (True, False, "auto"),
    "type_kv": (None, "f32", "f16"),
    "causal": (None, True, False),
}


class LlamaCpp:
    """A model in llama.cpp, or with path None the library alone (`normalize`, `build`).

    path                the GGUF file
    pooling             "native" (the file's own), none, mean, cls, last, rank
    n_ctx, n_batch      tokens; default: what the model was trained for, at most 2048. A text must fit in n_batch
    threads             changes speed, not values
    flash_attn          "auto" is what llama.cpp does unasked: on, which rounds K and V to F16
    extra_buffer_types  True lets llama.cpp repack weights, its own default: faster, sums in another order
    type_kv             of the KV cache of decoders; llama.cpp's default is f16
    causal              None: as the model says
    n_seq_max           texts that fit in one call with batched=True
    lora                (adapter file, scale) each, applied to every run, in the order `lora_order`
    mmproj              the file of a vision tower: `embed_images` and its neighbors then take images
    lib, cpu            another build: a wheel or npm tarball, a folder of libllama and libggml, or one file with all of
                        llama.cpp; and which of its CPU backends ("haswell")
    vocab_only          tokenize only: loads in milliseconds
    python              the command of another Python that runs the library, one for another processor in an emulator,
                        say: ["qemu-aarch64", "-L", ROOT, "ROOT/usr/bin/python3"]; it needs NumPy and the wheel
    timeout             seconds that one request may take

    EngineError when the wheel is absent, the library does not fit, llama.cpp refuses or aborts, or time runs out.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        pooling: str = "native",
        n_ctx: int | None = None,
        n_batch: int | None = None,
        threads: int = 1,
        flash_attn: bool | str = False,
        extra_buffer_types: bool = False,
        type_kv: str | None = None,
        causal: bool | None = None,
        n_seq_max: int = 32,
        lora: Sequence[tuple[str | Path, float]] = (),
        mmproj: str | Path | None = None,
        lib: str | Path | None = None,
        cpu: str | None = None,
        vocab_only: bool = False,
        python: Sequence[str] = (),
        timeout: float = 600.0,
    ) -> None:
        if path is not None and not Path(path).is_file():
            raise EngineError(f"{path}: no such file")
        self.options: dict[str, Any] = {
            "path": None if path is None else os.fspath(Path(path).absolute()),
            "pooling": pooling,
            "n_ctx": n_ctx,
            "n_batch": n_batch,
            "threads": threads,
            "flash_attn": flash_attn,
            "extra_buffer_types": extra_buffer_types,
            "type_kv": type_kv,
            "causal": causal,
            "n_seq_max": n_seq_max,
            "lora": [(os.fspath(Path(file).absolute()), float(scale)) for file, scale in lora],
            "mmproj": None if mmproj is None else os.fspath(Path(mmproj).absolute()),
            "lib": None if lib is None else os.fspath(library_place(Path(lib).absolute())),
            "cpu": cpu,
            "vocab_only": vocab_only,
        }
        check_options(self.options)
        self.timeout, self.known_order = timeout, cast("tuple[int, ...] | None", None)
        self.lock = threading.Lock()  # one request at a time
        self.log = open_log()
        self.worker = start_worker(self.log, python)
        self.to_worker, self.from_worker = pipes(self.worker)
        self.end = weakref.finalize(self, end_worker, self.worker, self.log, os.getpid())
        try:
            self.facts: dict[str, Any] = self.ask("open", {"options": self.options}, f"open {path}")
        except BaseException:
            self.close()
            raise

    # -- text --------------------------------------------------------------------------------------------------------

    def tokenize(self, text: str | bytes, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text (llama_tokenize)."""
        return self.tokenize_many([text], add_special, parse_special)[0]

    def tokenize_many(
        self, texts: Sequence[str | bytes], add_special: bool = True, parse_special: bool = False
    ) -> list[list[int]]:
        """Token ids of many texts in one round trip."""
        arguments = ([utf8(t) for t in texts], add_special, parse_special)
        return self.call(
            "tokenize_many", *arguments, about=f"tokenize {len(texts)} texts, the first {texts[:1]!r:.200}"
        )

    def detokenize(self, ids: Sequence[int], remove_special: bool = False, unparse_special: bool = True) -> str:
        """The text of token ids (llama_detokenize); bytes that are no UTF-8 become U+FFFD."""
        return self.detokenize_bytes(ids, remove_special, unparse_special).decode(errors="replace")

    def detokenize_bytes(self, ids: Sequence[int], remove_special: bool = False, unparse_special: bool = True) -> bytes:
        """The bytes of token ids."""
        arguments = ([int(i) for i in ids], remove_special, unparse_special)
        return self.call("detokenize", *arguments, about=f"detokenize {len(ids)} ids")

    def piece(self, token: int, special: bool = True) -> bytes:
        """One token's bytes (llama_token_to_piece); special=False: control tokens have none."""
        return self.call("piece", int(token), special, about=f"give the piece of token {token}")

    # -- numbers -----------------------------------------------------------------------------------------------------

    def embed(self, texts: Sequence[Input], batched: bool = False) -> list[F32]:
        """Vectors as the C API gives them, not normalized.

        texts    characters, UTF-8 bytes, or token ids; special tokens in a text are parsed, as llama-embedding does
        batched  all texts in one llama_decode, where they influence each other's rounding; otherwise one call a text
        returns  one (n_embd_out) for each text, (R) for pooling rank, (T, n_embd_out) for pooling none
        """
        if isinstance(texts, (str, bytes)):
            raise RequestError("embed takes a list of texts, not one text", hint="embed([text])[0]")
        inputs = [as_input(t) for t in texts]
        return self.call("embed", inputs, batched, about=f"embed {preview(texts)}")

    def trace(self, text: Input) -> Trace:
        """Every node of the graph in the order of execution: one tap each, named and with its operation.

        Names repeat; nodes that llama.cpp leaves unnamed are `node_K`; views (`align.VIEWS`) are there too. Shapes are
        NumPy's (`ne` reversed), at least 2-D. meta["nodes"] says for each tap its type, its sources and what it is a
        view of: an index into the taps, or the name of a weight or input. Names of several LoRA adapters' tensors begin
        with the adapter's place, "lora 1: ". Quantized tensors come as raw bytes.
        """
        found = self.call("trace", as_input(text), about=f"trace {one(text)}")
        shown = None if not isinstance(text, (str, bytes)) else utf8(text).decode(errors="replace")
        return self.trace_of(found["nodes"], {"text": shown, "tokens": found["ids"]})

    def trace_of(self, nodes: list[dict[str, Any]], more: dict[str, Any]) -> Trace:
        """The worker's nodes as a Trace."""
        taps = [TracedTensor(n["name"], n["array"], n["op"]) for n in nodes]
        about = [{"type": n["type"], "sources": n["sources"], "view_of": n["view_of"]} for n in nodes]
        return Trace(taps, {"engine": "llama.cpp", **more, "options": self.options, "nodes": about})

    # -- images, where there is an mmproj file -----------------------------------------------------------------------

    def decode_image(self, data: bytes) -> U8:
        """Pixels (H, W, 3) of an image file's bytes, as llama.cpp reads it: stb_image."""
        return self.call("image", "decode", bytes(data), about=f"decode {len(data)} bytes of an image")

    def image_chunks(self, text: str | bytes, images: Sequence[U8]) -> list[list[int] | F32]:
        """A text with a media marker for each image: token ids, and rows (n, C) of each image, in order.

        images  pixels (H, W, 3)
        """
        return self.call("image", "chunks", utf8(text), list(images), about=f"encode {len(images)} images")

    def embed_images(self, text: str | bytes, images: Sequence[U8]) -> F32:
        """The vector of a text with images, as llama-server has it, not normalized; (T, n_embd_out) unpooled."""
        return self.call("image", "embed", utf8(text), list(images), about=f"embed a text with {len(images)} images")

    def trace_image(self, image: U8) -> Trace:
        """Every node of the vision tower on one image (H, W, 3), and the tensors that are its inputs, as `trace` does.

        meta["rows"] are the embeddings (n, C).
        """
        found = self.call("image", "trace", MARKER.encode(), [image], about="trace an image")
        (rows,) = (chunk for chunk in found["chunks"] if isinstance(chunk, np.ndarray))
        return self.trace_of(found["nodes"], {"rows": rows})

    def trace_images(self, text: str | bytes, images: Sequence[U8]) -> Trace:
        """Every node of the text model on a text with images, as `trace` does; meta["vector"] is what comes out."""
        found = self.call("image", "trace_text", utf8(text), list(images), about="trace a text with images")
        return self.trace_of(found["nodes"], {"vector": found["vector"]})

    def normalize(self, x: F32, p: int = 2) -> F32:
        """Rows of x (..., D) through llama.cpp's own common_embd_normalize; p as in `refembed.normalize`."""
        rows = np.ascontiguousarray(x, np.float32)
        flat = rows.reshape(-1, rows.shape[-1]) if rows.size else rows.reshape(0, 1)
        done: F32 = self.call("normalize", flat, int(p), about=f"normalize {rows.shape} with p={p}")
        return done.reshape(rows.shape)

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def n_embd(self) -> int:
        """{arch}.embedding_length."""
        return self.facts["n_embd"]

    @property
    def n_embd_out(self) -> int:
        """Length of a pooled vector."""
        return self.facts["n_embd_out"]

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return self.facts["n_vocab"]

    @property
    def n_ctx_train(self) -> int:
        """{arch}.context_length."""
        return self.facts["n_ctx_train"]

    @property
    def pooling(self) -> str:
        """The pooling in force: the one asked for, or the file's own; "native" while only the vocabulary is open."""
        return self.facts["pooling"]

    @property
    def build(self) -> dict[str, Any]:
        """Which llama.cpp this is: for reports, and to store with measured bounds.

        wheel: xllamacpp's version, or None for a folder; files: path and sha256; system_info: llama.cpp's own line on
        instruction sets; layouts: the structure layouts that fitted; environment: GGML_* and LLAMA_* variables set.
        """
        wheel = None if self.options["lib"] else importlib.metadata.version("xllamacpp")
        return {
            "wheel": wheel,
            "files": [{"path": f, "sha256": sha256_of([Path(f)])} for f in self.facts["files"]],
            "system_info": self.facts["system_info"],
            "layouts": self.facts["layouts"],
            "environment": {k: v for k, v in self.facts["environment"].items() if k != NO_BACKTRACE},
        }

    @property
    def lora_order(self) -> tuple[int, ...]:
        """The order in which llama.cpp adds this engine's adapters: places in `lora`, those of scale 0 last.

        It keeps them in a hash table keyed by their addresses, so the order may differ between processes. It is read
        from the graph of one token. Of adapters that share no matrix either order is right: no bit depends on it.
        """
        given = self.options["lora"]
        if len(given) < 2:
            return tuple(range(len(given)))
        if self.known_order is None:
            found = addition_order(self.trace([0]))
            self.known_order = (*found, *(i for i in range(len(given)) if i not in found))
        return self.known_order

    # -- the worker --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the worker. Further requests are an EngineError; closing twice is not."""
        self.end()

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def call(self, name: str, *arguments: Any, about: str) -> Any:
        """Ask the worker for one of `llamacpp_worker.Session`'s methods."""
        return self.ask(name, {"arguments": arguments}, about)

    def ask(self, name: str, request: dict[str, Any], about: str) -> Any:
        """One request and its answer. Whatever goes wrong on the way ends the worker: no half-read answer survives."""
        with self.lock:
            if not self.end.alive:
                raise EngineError(f"llama.cpp was asked to {about}, but this engine is closed")
            expired = threading.Event()
            late = threading.Timer(self.timeout, kill_late, (self.worker, expired))
            late.daemon = True
            late.start()
            begin = self.log.seek(0, os.SEEK_END)
            try:
                send(self.to_worker, {"ask": name, **request})
                reply = receive(self.from_worker)
            except (EOFError, OSError):
                raise self.broken(about, begin, timed_out=expired.is_set()) from None
            except BaseException:
                self.close()
                raise
            finally:
                late.cancel()
                late.join()
        if "error" in reply:
            raise EngineError(reply["error"] + self.log_lines(begin), hint=reply["hint"])
        return reply["value"]

    def broken(self, about: str, begin: int, timed_out: bool) -> EngineError:
        """The error for a worker that died: how, over what, and its last words."""
        code = self.worker.wait()
        how = f"gave no answer in {self.timeout:g} s" if timed_out else f"ended with {exit_name(code)}"
        last = self.log_lines(begin)
        self.close()
        return EngineError(f"llama.cpp {how} when asked to {about}{last}")

    def log_lines(self, begin: int) -> str:
        """The last lines that llama.cpp has written since byte `begin`, indented for a message."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(begin if begin <= size else 0, size - 8192))  # the worker cuts a long log short
        lines = [line for line in self.log.read().decode(errors="replace").splitlines() if line.strip()]
        return "".join(f"\n  | {line}" for line in lines[-12:])


def check_options(options: dict[str, Any]) -> None:
    """Refuse options that mean nothing, before a process is started."""
    for name, choices in CHOICES.items():
        if not any(options[name] is c or (isinstance(c, str) and options[name] == c) for c in choices):
            raise RequestError(f"{name}={options[name]!r}: must be one of {', '.join(map(repr, choices))}")
    for name in ("n_ctx", "n_batch", "threads", "n_seq_max"):
        value = options[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise RequestError(f"{name}={value!r}: must be a positive whole number")


def library_place(lib: Path) -> Path:
    """Where a build's libraries are: a package file is unpacked into the cache."""
    return unpack(lib) if is_package(lib) else lib


def utf8(text: str | bytes) -> bytes:
    """A text's bytes."""
    try:
        return text.encode() if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as e:
        raise RequestError(f"a text with a lone surrogate at character {e.start} has no UTF-8 form") from None


def as_input(text: Input) -> bytes | list[int]:
    """A text as the worker takes it."""
    return utf8(text) if isinstance(text, (str, bytes)) else [int(i) for i in text]


def preview(texts: Sequence[Input]) -> str:
    """'2 text(s), the first: "Hello"' for messages."""
    return f"{len(texts)} text(s)" + (f", the first: {one(texts[0])}" if len(texts) else "")


def one(text: Input) -> str:
    """A text, or how many token ids there are and the first of them."""
    return f"{text!r:.200}" if isinstance(text, (str, bytes)) else f"{len(text)} token ids {list(text[:8])}"


def start_worker(log: Any, python: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """A fresh interpreter that finds this very package, with its own thread pools and no debugger to call."""
    root = os.fspath(Path(__file__).resolve().parents[3])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", NO_BACKTRACE: "1"}
    command = [*(python or [sys.executable]), "-m", "refembed.verify.engines.llamacpp_worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env)


def pipes(worker: subprocess.Popen[bytes]) -> tuple[BinaryIO, BinaryIO]:
    """What to write requests to, and what to read answers from."""
    return cast(BinaryIO, worker.stdin), cast(BinaryIO, worker.stdout)


def open_log() -> BinaryIO:
    """A file without a name for llama.cpp's log. Appending: the worker may cut it short, we may read in between."""
    return cast(BinaryIO, tempfile.TemporaryFile("a+b", buffering=0))  # end_worker closes it


def kill_late(worker: subprocess.Popen[bytes], expired: threading.Event) -> None:
    """End a worker whose time is up."""
    expired.set()
    worker.kill()


def end_worker(worker: subprocess.Popen[bytes], log: BinaryIO, owner: int) -> None:
    """End the process and wait for it, so that no zombie stays. In a fork of the owner: nothing."""
    if os.getpid() != owner:
        return
    worker.kill()
    worker.wait()
    for stream in (*pipes(worker), log):
        with contextlib.suppress(OSError):  # a request that could not be flushed to a dead worker
            stream.close()


def exit_name(code: int) -> str:
    """'SIGABRT' for -6, 'exit status 1' for 1."""
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
