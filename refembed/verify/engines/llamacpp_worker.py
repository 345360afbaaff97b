"""The process that runs llama.cpp for `LlamaCpp`: reads requests from stdin, answers on stdout, logs to stderr.

    python -m refembed.verify.engines.llamacpp_worker

A process of its own because two builds of ggml in one process corrupt each other, because llama.cpp aborts the process
on inputs it does not expect, and because the caller's thread pools are none of its business. When stdin closes, the
parent is gone: the worker ends at once, also in the middle of a C call.
"""

from __future__ import annotations

import ctypes as ct
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.errors import EngineError, RefembedError
from refembed.verify.engines import llamacpp_abi as abi
from refembed.verify.engines.llamacpp_lib import NORMALIZE, Library
from refembed.verify.engines.llamacpp_mtmd import Images, keep_inputs
from refembed.verify.engines.llamacpp_tensor import read_tensor
from refembed.verify.engines.llamacpp_wire import receive, send

POOLINGS = {"native": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}  # enum llama_pooling_type
FLASH = {"auto": -1, False: 0, True: 1}  # enum llama_flash_attn_type
CAUSAL = {None: -1, True: 0, False: 1}  # enum llama_attention_type
KV_TYPES = {"f32": 0, "f16": 1}  # enum ggml_type
OVERFLOW = -(2**31)  # llama_tokenize's answer where the count fits no int32
LOG_LIMIT = 1 << 20  # bytes of log kept on disk; a long-lived worker must not fill it


class Graph:
    """What the evaluation callback has seen of one run: every node in the order of execution."""

    def __init__(self, lib: Library) -> None:
        self.lib, self.failure = lib, ""
        self.nodes: list[dict[str, Any]] = []
        self.places: dict[int, int] = {}  # address of a ggml_tensor -> its place in nodes
        self.factors: dict[int, str] = {}  # address of a LoRA factor -> its name with its adapter's place
        self.leaves: set[int] = set()  # addresses of the weights and inputs of this run
        self.inputs: dict[str, Any] | None = None  # where it is a table, the values of inputs are kept in it
        self.callback = abi.EVAL_CALLBACK(self.seen)

    def clear(self) -> None:
        """Forget the last run."""
        self.nodes, self.places, self.leaves, self.failure, self.inputs = [], {}, set(), "", None

    def seen(self, tensor: int, ask: bool, _: Any) -> bool:
        """ggml's callback. An exception must not vanish in C: it is kept, and the run ends here."""
        try:
            if not ask:
                self.keep(tensor)
            elif self.inputs is not None:  # before the node runs: it may write where its input lies
                keep_inputs(self, tensor)
            return not self.failure
        except Exception:
            self.failure = self.failure or traceback.format_exc()
            return False

    def keep(self, address: int) -> None:
        """Copy a node: name, operation, values, and where its operands come from."""
        t = abi.tensor_at(address)
        node = {
            "name": name_at(address),
            "op": self.lib.ggml_op_desc(address).decode(),
            "type": self.lib.ggml_type_name(t.type).decode(),
            "array": read_tensor(self.lib, address),
            "sources": [self.reference(s) for s in t.src if s and s != address],
            "view_of": self.reference(t.view_src) if t.view_src else None,
        }
        self.places[address] = len(self.nodes)
        self.nodes.append(node)

    def reference(self, address: int) -> int | str:
        """A node's place; the name of a leaf (a weight or an input)."""
        if address in self.places:
            return self.places[address]
        self.leaves.add(address)
        return self.factors.get(address) or name_at(address)


def put(struct: Any, **values: Any) -> bool:
    """Set those fields that this build's structure has. Whether it has them all."""
    names = {name for name, *_ in struct._fields_}
    for name, value in values.items():
        if name in names:
            setattr(struct, name, value)
    return names >= values.keys()


def name_at(address: int) -> str:
    """A tensor's own name."""
    name: str = abi.tensor_at(address).name.decode(errors="replace")
    return name


class Session:
    """One library, one model, and its contexts: a plain one, and one that is watched node by node."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.lib = Library(options["lib"], options["cpu"])
        self.log = Log()
        self.lib.llama_log_set(self.log.callback, None)
        self.lib.llama_backend_init()
        self.graph = Graph(self.lib)
        self.contexts: dict[bool, int] = {}
        self.adapters: list[int] = []  # LoRA, one a file
        self.model = self.vocab = self.images = None
        if options["path"] is not None:
            self.load(options["path"])
        if options.get("mmproj") is not None:
            self.images = Images(self, options["mmproj"])
            self.images.context()

    def load(self, path: str) -> None:
        """Open the model, on the CPU only."""
        params = self.lib.llama_model_default_params()
        no_devices = (ct.c_void_p * 1)()  # an empty list, which is not the same as none given: no GPU takes part
        put(params, devices=ct.addressof(no_devices), n_gpu_layers=0, vocab_only=self.options["vocab_only"])
        if (
            not put(params, use_extra_bufts=self.options["extra_buffer_types"])
            and not self.options["extra_buffer_types"]
        ):
            self.leave_weights_as_they_are(params)
        self.model = self.lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self.model:
            raise EngineError(f"{path}: llama.cpp cannot load this model")
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        init = self.declared("llama_adapter_lora_init", ct.c_void_p, ct.c_void_p, ct.c_char_p)
        for file, _ in self.options.get("lora", ()):
            adapter = init(self.model, os.fsencode(file))
            if not adapter:
                raise EngineError(f"{file}: llama.cpp refuses this adapter")
            self.adapters.append(adapter)

    def leave_weights_as_they_are(self, params: Any) -> None:
        """Keep llama.cpp from repacking weights where there is no switch: every tensor in plain memory, by name.

        Builds before b5129 have neither: theirs are repacked, whatever the option says.
        """
        make = "ggml_backend_cpu_buffer_type"
        if make in self.lib and put(params, tensor_buft_overrides=None):
            plain = self.declared(make, ct.c_void_p)()
            end = abi.BufferOverride()
            self.overrides = (abi.BufferOverride * 2)(abi.BufferOverride(b".*", plain), end)  # it outlives the load
            params.tensor_buft_overrides = ct.addressof(self.overrides)

    def declared(self, name: str, result: Any, *arguments: Any) -> Any:
        """A function that only few sessions need, and that not every build has under this name; an error when used."""
        if name not in self.lib:
            return lambda *_: self.refuse(f"this llama.cpp build does not export {name}")
        function = self.lib[name]
        function.restype, function.argtypes = result, arguments
        return function

    def refuse(self, message: str) -> None:
        """Raise EngineError."""
        raise EngineError(message)

    def adapt(self, context: int, places: Sequence[int]) -> None:
        """Put the adapters in these places on a context, in place of those that it had."""
        n = len(places)
        if n:
            scales = (ct.c_float * n)(*(self.options["lora"][i][1] for i in places))
            arguments = (ct.c_void_p, ct.POINTER(ct.c_void_p), ct.c_size_t, ct.POINTER(ct.c_float))
            put = self.declared("llama_set_adapters_lora", ct.c_int32, *arguments)
            if put(context, (ct.c_void_p * n)(*(self.adapters[i] for i in places)), n, scales):
                raise EngineError("llama_set_adapters_lora failed")

    def name_factors(self, context: int) -> None:
        """Learn which LoRA factor is which adapter's: one token with each adapter alone on the watched context.

        The tensors of several adapters share their names; in a trace they are `lora 1: blk.0.attn_q.weight.lora_a`.
        """
        for i, (_, scale) in enumerate(self.options["lora"]):
            if scale:
                self.graph.clear()
                self.adapt(context, [i])
                self.run(context, [[0]])
                found = [a for a in self.graph.leaves if name_at(a).endswith((".lora_a", ".lora_b"))]
                self.graph.factors |= {a: f"lora {i}: {name_at(a)}" for a in found}
        self.graph.clear()

    def context(self, watched: bool = False) -> int:
        """The context for this kind of run, made when first needed."""
        if self.model is None:
            raise EngineError("this engine was opened without a model")
        if self.options["vocab_only"]:
            raise EngineError("this engine was opened with vocab_only: it can tokenize, nothing else")
        if watched not in self.contexts:
            made = self.lib.llama_init_from_model(self.model, self.context_params(watched))
            if not made:
                raise EngineError(f"llama.cpp made no context from {self.options}")
            if watched and len(self.adapters) > 1:
                self.name_factors(made)
            self.adapt(made, range(len(self.adapters)))
            self.contexts[watched] = made
        return self.contexts[watched]

    def context_params(self, watched: bool) -> Any:
        """Our options as llama_context_params."""
        o, p = self.options, self.lib.llama_context_default_params()
        n_ctx = o["n_ctx"] or min(self.lib.llama_model_n_ctx_train(self.model), 2048)
        n_batch = o["n_batch"] or n_ctx
        n_batch += -n_batch % o["n_seq_max"]  # llama.cpp aborts on mean pooling when n_seq_max does not divide n_ubatch
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = max(n_ctx, n_batch), n_batch, n_batch, o["n_seq_max"]
        p.n_threads = p.n_threads_batch = o["threads"]
        p.pooling_type, p.attention_type = POOLINGS[o["pooling"]], CAUSAL[o["causal"]]
        p.embeddings, p.offload_kqv = True, False
        put(p, kv_unified=True, op_offload=False)
        if not put(p, flash_attn_type=self.flash_attn_type) and o["flash_attn"] != "auto":  # a bool before b6325
            put(p, flash_attn=o["flash_attn"])
        if o["type_kv"] is not None:
            p.type_k = p.type_v = KV_TYPES[o["type_kv"]]
        if watched:
            p.cb_eval = ct.cast(self.graph.callback, ct.c_void_p)
        return p

    @property
    def flash_attn_type(self) -> int:
        """enum llama_flash_attn_type."""
        return FLASH[self.options["flash_attn"]]

    # -- what the parent may ask -------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """The library's and the model's particulars."""
        lib = self.lib
        facts: dict[str, Any] = {
            "files": [os.fspath(f) for f in lib.files],
            "system_info": lib.llama_print_system_info().decode().strip(" |"),
            "layouts": lib.layouts,
            "build_number": lib.build_number(),
            "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("GGML_", "LLAMA_"))},
        }
        if self.model is not None:
            pooling = -1 if self.options["vocab_only"] else lib.llama_pooling_type(self.context())
            facts |= {
                "n_vocab": lib.llama_vocab_n_tokens(self.vocab),
                "n_embd": lib.llama_model_n_embd(self.model),
                "n_embd_out": lib.llama_model_n_embd_out(self.model),
                "n_ctx_train": lib.llama_model_n_ctx_train(self.model),
                "pooling": {number: name for name, number in POOLINGS.items()}[pooling],
            }
        return facts

    def image(self, name: str, *arguments: Any) -> Any:
        """One of the methods of `Images`."""
        if self.images is None:
            raise EngineError("this engine was opened without an mmproj file")
        return getattr(self.images, name)(*arguments)

    def tokenize_many(self, texts: list[bytes], add_special: bool, parse_special: bool) -> list[list[int]]:
        """Token ids of each text."""
        return [self.tokenize(text, add_special, parse_special) for text in texts]

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        """llama_tokenize, with room for what it needs."""
        room = len(text) + 16
        while True:
            ids = (ct.c_int32 * room)()
            n = self.lib.llama_tokenize(self.need_vocab(), text, len(text), ids, room, add_special, parse_special)
            if n >= 0:
                return ids[:n]
            if n == OVERFLOW or -n <= room:
                raise EngineError(f"llama_tokenize answers {n} to a text of {len(text)} bytes")
            room = -n

    def need_vocab(self) -> Any:
        """The vocabulary, where there is a model."""
        if self.vocab is None:
            raise EngineError("this engine was opened without a model")
        return self.vocab

    def piece(self, token: int, special: bool) -> bytes:
        """llama_token_to_piece."""
        self.check_ids([token])
        return self.fill(lambda text, room: self.lib.llama_token_to_piece(self.vocab, token, text, room, 0, special))

    def detokenize(self, ids: list[int], remove_special: bool, unparse_special: bool) -> bytes:
        """llama_detokenize."""
        self.check_ids(ids)
        c = (ct.c_int32 * len(ids))(*ids)
        return self.fill(
            lambda text, room: self.lib.llama_detokenize(
                self.vocab, c, len(ids), text, room, remove_special, unparse_special
            )
        )

    def fill(self, write: Callable[[Any, int], int]) -> bytes:
        """Bytes of a function that answers how many it wrote, or minus how many it needs."""
        room = 256
        while True:
            text = ct.create_string_buffer(room)
            n = write(text, room)
            if n >= 0:
                return text.raw[:n]
            if -n <= room:
                raise EngineError(f"llama.cpp answers {n} where it had room for {room} bytes")
            room = -n

    def check_ids(self, ids: list[int]) -> None:
        """Refuse ids that are not of this vocabulary; llama.cpp would throw through C."""
        n_vocab = self.lib.llama_vocab_n_tokens(self.need_vocab())
        for token in ids:
            if not 0 <= token < n_vocab:
                raise EngineError(f"token id {token} is not in the vocabulary of {n_vocab}")

    def embed(self, texts: list[bytes | list[int]], batched: bool) -> list[F32]:
        """One vector for each text, or one row for each token where nothing is pooled."""
        ids = [self.ids_of(t) for t in texts]
        if batched and ids:
            return self.run(self.context(), ids)
        return [self.run(self.context(), [one])[0] for one in ids]

    def trace(self, text: bytes | list[int]) -> dict[str, Any]:
        """Every node of one run."""
        ids = self.ids_of(text)
        self.graph.clear()
        self.run(self.context(watched=True), [ids])
        nodes = self.graph.nodes
        self.graph.clear()
        return {"nodes": nodes, "ids": ids}

    def ids_of(self, text: bytes | list[int]) -> list[int]:
        """Token ids ready made, or those of a text, special tokens parsed and added as llama-embedding does."""
        return text if isinstance(text, list) else self.tokenize(text, True, True)

    def run(self, context: int, sequences: list[list[int]]) -> list[F32]:
        """All sequences in one llama_decode, which is what llama-embedding and llama-server call for every model."""
        lib, n_tokens = self.lib, sum(map(len, sequences))
        self.check_batch(context, sequences, n_tokens)
        batch = lib.llama_batch_init(n_tokens, 0, 1)
        try:
            rows = ((s, pos, token) for s, ids in enumerate(sequences) for pos, token in enumerate(ids))
            for i, (s, pos, token) in enumerate(rows):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, pos, 1, 1
                batch.seq_id[i][0] = s
            batch.n_tokens = n_tokens
            lib.clear_memory(context)
            status = lib.llama_decode(context, batch)
        finally:
            lib.llama_batch_free(batch)
        self.check_graph()
        if status:
            raise EngineError(f"llama_decode answers {status} to {described(sequences)}")
        return self.outputs(context, sequences)

    def check_graph(self) -> None:
        """EngineError where the callback failed in the last run."""
        if self.graph.failure:
            raise EngineError(f"the evaluation callback failed\n{self.graph.failure}")

    def check_batch(self, context: int, sequences: list[list[int]], n_tokens: int) -> None:
        """Refuse here what llama.cpp would abort on."""
        n_batch, n_seq_max = self.lib.llama_n_batch(context), self.options["n_seq_max"]
        for i, ids in enumerate(sequences):
            self.check_ids(ids)
            if not ids:
                raise EngineError(f"text {i} has no tokens")
        if len(sequences) > n_seq_max:
            hint = "open the engine with a larger n_seq_max, or leave out batched=True"
            raise EngineError(f"{len(sequences)} texts in one batch; this context takes {n_seq_max}", hint=hint)
        if n_tokens > n_batch:
            hint = "open the engine with a larger n_batch"
            raise EngineError(f"{described(sequences)}, {n_tokens} in all; this context takes {n_batch}", hint=hint)

    def outputs(self, context: int, sequences: list[list[int]]) -> list[F32]:
        """What the last run left: a pooled vector for each sequence, or (T, C) for each."""
        lib, pooling = self.lib, self.lib.llama_pooling_type(context)
        ranks = pooling == POOLINGS["rank"]
        n_out = lib.llama_model_n_cls_out(self.model) if ranks else lib.llama_model_n_embd_out(self.model)
        if pooling != POOLINGS["none"]:
            return [vector(lib.llama_get_embeddings_seq(context, s), n_out) for s in range(len(sequences))]
        n_tokens = sum(map(len, sequences))
        rows = np.stack([vector(lib.llama_get_embeddings_ith(context, i), n_out) for i in range(n_tokens)])
        return np.split(rows, np.cumsum([len(ids) for ids in sequences])[:-1])

    def normalize(self, x: F32, p: int) -> F32:
        """common_embd_normalize on each row of x (S, D)."""
        if NORMALIZE not in self.lib:
            raise EngineError("this llama.cpp build does not export common_embd_normalize")
        function, floats = self.lib[NORMALIZE], ct.POINTER(ct.c_float)
        function.restype, function.argtypes = None, (floats, floats, ct.c_int, ct.c_int)
        out = np.empty_like(x)
        for row, to in zip(x, out, strict=True):
            function(row.ctypes.data_as(floats), to.ctypes.data_as(floats), len(row), p)
        return out


def vector(pointer: Any, n: int) -> F32:
    """A copy of n floats that llama.cpp points at."""
    if not pointer:
        raise EngineError("llama.cpp has no embedding where one was expected")
    x: npt.NDArray[Any] = np.ctypeslib.as_array(pointer, (n,))
    return x.copy()


def described(sequences: list[list[int]]) -> str:
    """'3 text(s) of 7, 5, 12 tokens' for messages."""
    more = ", ..." if len(sequences) > 8 else ""
    return f"{len(sequences)} text(s) of {', '.join(str(len(s)) for s in sequences[:8])}{more} tokens"


class Log:
    """llama.cpp's warnings and errors, to stderr: a file that the parent reads when something breaks."""

    WARN, CONTINUED = 3, 5  # enum ggml_log_level

    def __init__(self) -> None:
        self.level = 0
        self.callback = abi.LOG_CALLBACK(self.write)

    def write(self, level: int, text: bytes | None, _: Any) -> None:
        """llama_log_set's callback; a line may come in pieces."""
        self.level = self.level if level == self.CONTINUED else level
        if self.level >= self.WARN:
            if os.fstat(2).st_size > LOG_LIMIT:
                os.ftruncate(2, 0)
            os.write(2, text or b"")


def read_requests(source: BinaryIO, requests: queue.SimpleQueue[Any]) -> None:
    """Hand requests on as they come; when the parent is gone, end the process whatever else it is doing."""
    while True:
        try:
            requests.put(receive(source))
        except (EOFError, OSError):
            os._exit(0)


def answer(session: Session | None, request: dict[str, Any]) -> tuple[Session | None, dict[str, Any]]:
    """Do one request. The first one, "open", makes the session."""
    try:
        if request["ask"] == "open":
            session = Session(request["options"])
            return session, {"value": session.facts()}
        return session, {"value": getattr(session, request["ask"])(*request["arguments"])}
    except RefembedError as e:
        return session, {"error": str(e).removesuffix(f"\n  hint: {e.hint}"), "hint": e.hint}
    except Exception:
        return session, {"error": f"the llama.cpp worker failed\n{traceback.format_exc()}", "hint": ""}


def main() -> None:
    """Serve until the parent closes stdin."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints to stdout from C goes to the log, not between our frames
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    leave_no_core_file()
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(sys.stdin.buffer, requests), daemon=True).start()
    session = None
    while True:
        session, reply = answer(session, requests.get())
        send(out, reply)


def leave_no_core_file() -> None:
    """An abort of llama.cpp is reported, not dumped."""
    try:
        import resource
    except ImportError:  # Windows has none
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
