"""Images in llama.cpp: libmtmd's C API (tools/mtmd/mtmd.h), for `llamacpp_worker`. It runs in that process only.

An image is raw RGB pixels; libmtmd resizes and normalizes them, runs the vision tower of an mmproj file, and gives a
row of embeddings for each of the image's tokens. Those rows go to the text model among the tokens of the text, as
llama-server sends them (tools/server/server-context.cpp): with all else in one batch where the model has no KV cache or
is not causal, otherwise chunk by chunk, an image without the causal mask where `mtmd_decode_use_non_causal` says so.
"""

from __future__ import annotations

import ctypes as ct
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from refembed.arrays import F32, U8
from refembed.errors import EngineError
from refembed.verify.engines import llamacpp_abi as abi
from refembed.verify.engines.llamacpp_tensor import read_tensor

if TYPE_CHECKING:
    from refembed.verify.engines.llamacpp_worker import Graph, Session

Chunk: TypeAlias = "list[int] | F32"  # tokens of a text, or the rows of an image (n, C)

PTR, INT, STR, BOOL, SIZE = ct.c_void_p, ct.c_int32, ct.c_char_p, ct.c_bool, ct.c_size_t
FLOATS = ct.POINTER(ct.c_float)
IMAGE, DECODE = 1, 1  # enum mtmd_input_chunk_type; enum llama_process_type
IS_INPUT, F32_TYPE = 1, 0  # GGML_TENSOR_FLAG_INPUT; enum ggml_type

PARAMS: list[abi.Field] = [
    *abi.rows(ct.c_uint8, use_gpu=1),
    *abi.rows(PTR, device=None),
    *abi.rows(ct.c_uint8, print_timings=1),
    *abi.rows(INT, n_threads=4),
    *abi.rows(PTR, image_marker=None, media_marker=abi.ANY),
    *abi.rows(INT, flash_attn_type=-1),
    *abi.rows(ct.c_uint8, warmup=1),
    *abi.rows(INT, image_min_tokens=-1, image_max_tokens=-1),
    *abi.rows(PTR, cb_eval=None, cb_eval_user_data=None),
    *abi.rows(INT, batch_max_tokens=1024),
    *abi.rows(PTR, progress_callback=None, progress_callback_user_data=None),
]
LAYOUTS: dict[str, Sequence[abi.Field]] = {"mtmd.h 2026-10": PARAMS}


class InputText(ct.Structure):
    """mtmd_input_text."""

    _fields_ = (("text", STR), ("text_len", SIZE), ("add_special", BOOL), ("parse_special", BOOL))


class Embd(ct.Structure):
    """llama_embd: rows of embeddings."""

    _fields_ = (("data", FLOATS), ("n_rows", SIZE), ("n_embd", SIZE))


class DecoderPos(ct.Structure):
    """mtmd_decoder_pos: where a row of an image stands, for models that turn by several streams of positions."""

    _fields_ = tuple((name, ct.c_uint32) for name in "txyz")


# name: result, arguments
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "mtmd_log_set": (None, abi.LOG_CALLBACK, PTR),
    "mtmd_support_vision": (BOOL, PTR),
    "mtmd_decode_use_non_causal": (BOOL, PTR, PTR),
    "mtmd_decode_use_mrope": (BOOL, PTR),
    "mtmd_bitmap_init": (PTR, ct.c_uint32, ct.c_uint32, PTR),
    "mtmd_bitmap_free": (None, PTR),
    "mtmd_input_chunks_init": (PTR,),
    "mtmd_input_chunks_size": (SIZE, PTR),
    "mtmd_input_chunks_get": (PTR, PTR, SIZE),
    "mtmd_input_chunks_free": (None, PTR),
    "mtmd_input_chunk_get_type": (ct.c_int, PTR),
    "mtmd_input_chunk_get_tokens_text": (abi.I32P, PTR, ct.POINTER(SIZE)),
    "mtmd_input_chunk_get_tokens_image": (PTR, PTR),
    "mtmd_input_chunk_get_n_tokens": (SIZE, PTR),
    "mtmd_input_chunk_get_n_pos": (INT, PTR),
    "mtmd_image_tokens_get_decoder_pos": (DecoderPos, PTR, INT, SIZE),
    "mtmd_tokenize": (INT, PTR, PTR, ct.POINTER(InputText), ct.POINTER(PTR), SIZE),
    "mtmd_encode_chunk": (INT, PTR, PTR),
    "mtmd_get_output_embd": (FLOATS, PTR),
    "llama_model_n_embd_inp": (INT, PTR),
    "llama_set_causal_attn": (None, PTR, BOOL),
    "llama_batch_ext_init": (PTR, PTR),
    "llama_batch_ext_free": (None, PTR),
    "llama_batch_ext_add_token": (INT, PTR, INT, INT),
    "llama_batch_ext_add_embd": (INT, PTR, INT, Embd),
    "llama_batch_ext_set_pos": (BOOL, PTR, INT, abi.I32P),
    "llama_batch_ext_set_output_embd": (BOOL, PTR, INT, BOOL),
    "llama_process": (INT, PTR, ct.c_int, PTR),
    "stbi_load_from_memory": (PTR, STR, ct.c_int, *[ct.POINTER(ct.c_int)] * 3, ct.c_int),
    "stbi_image_free": (None, PTR),
    "stbi_failure_reason": (STR,),
}


class Images:
    """The vision tower of an mmproj file, next to a session's text model. Methods are what the parent may ask."""

    def __init__(self, session: Session, mmproj: str) -> None:
        self.session, self.lib, self.mmproj = session, session.lib, mmproj
        self.functions = {name: session.declared(name, *types) for name, types in FUNCTIONS.items()}
        self.label, self.params = abi.matching_layout(self.lib, "mtmd_context_params_default", LAYOUTS)
        self.call("mtmd_log_set", session.log.callback, None)
        self.contexts: dict[bool, int] = {}

    def call(self, name: str, *arguments: Any) -> Any:
        """One of FUNCTIONS."""
        return self.functions[name](*arguments)

    def context(self, watched: bool = False) -> int:
        """The mtmd context for this kind of run, made when first needed."""
        if watched not in self.contexts:
            made = self.session.declared("mtmd_context_params_default", self.params)()
            made.use_gpu = made.print_timings = made.warmup = 0
            made.n_threads = self.session.options["threads"]
            made.flash_attn_type = self.session.flash_attn_type
            if watched:
                made.cb_eval = ct.cast(self.session.graph.callback, PTR)
            init = self.session.declared("mtmd_init_from_file", PTR, STR, PTR, self.params)
            context = init(os.fsencode(self.mmproj), self.session.model, made)
            if not context:
                raise EngineError(f"{self.mmproj}: llama.cpp cannot load this mmproj file for this model")
            self.contexts[watched] = context
        return self.contexts[watched]

    # -- what the parent may ask -------------------------------------------------------------------------------------

    def decode(self, data: bytes) -> U8:
        """The pixels (H, W, 3) of an image file's bytes, as mtmd_helper_bitmap_init_from_buf gets them: stb_image."""
        nx, ny, n = ct.c_int(), ct.c_int(), ct.c_int()
        pixels = self.call("stbi_load_from_memory", data, len(data), ct.byref(nx), ct.byref(ny), ct.byref(n), 3)
        if not pixels:
            raise EngineError(f"stb_image cannot read this: {self.call('stbi_failure_reason').decode()}")
        raw = ct.string_at(pixels, nx.value * ny.value * 3)
        self.call("stbi_image_free", pixels)
        return np.frombuffer(raw, np.uint8).reshape(ny.value, nx.value, 3)

    def chunks(self, text: bytes, images: list[U8], watched: bool = False) -> list[Chunk]:
        """The text's tokens, and the rows of its images (n, C), in order."""
        with self.tokenized(text, images, watched) as chunks:
            return [self.content(chunk, watched) for chunk in chunks]

    def trace(self, text: bytes, images: list[U8]) -> dict[str, Any]:
        """Every node of the vision tower's run on the images of a text, its inputs before what reads them first."""
        graph = self.session.graph
        graph.clear()
        graph.inputs = {}
        chunks = self.chunks(text, images, watched=True)
        nodes = with_inputs(graph)
        graph.clear()
        self.session.check_graph()
        return {"nodes": nodes, "chunks": chunks}

    def embed(self, text: bytes, images: list[U8], watched: bool = False) -> F32:
        """The vector of a text with images, as llama-server has it; (T, C) where nothing is pooled."""
        session = self.session
        context = session.context(watched)
        session.graph.clear()
        memory = self.lib.llama_get_memory(context)
        if memory:
            self.lib.llama_memory_clear(memory, True)
        causal = session.declared("llama_get_causal_attn", BOOL, PTR)
        with self.tokenized(text, images) as chunks:
            rows = [(chunk, self.content(chunk)) for chunk in chunks]
            found = []
            if not memory or not causal(context):
                found = self.process(context, self.rows(rows))
            else:
                first = 0
                for chunk, content in rows:
                    image = isinstance(content, np.ndarray)
                    free = image and self.call("mtmd_decode_use_non_causal", self.context(), chunk)
                    if free:
                        self.call("llama_set_causal_attn", context, False)
                    found += self.process(context, self.rows([(chunk, content)], first))
                    if free:
                        self.call("llama_set_causal_attn", context, True)
                    first += self.call("mtmd_input_chunk_get_n_pos", chunk)
        if self.lib.llama_pooling_type(context) == 0:
            return np.concatenate(found)
        return found[-1]

    def trace_text(self, text: bytes, images: list[U8]) -> dict[str, Any]:
        """Every node of the text model's run on a text with images."""
        vector = self.embed(text, images, watched=True)
        nodes = self.session.graph.nodes
        self.session.graph.clear()
        return {"nodes": nodes, "vector": vector}

    # -- how ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def tokenized(self, text: bytes, images: list[U8], watched: bool = False) -> Iterator[list[int]]:
        """The chunks of mtmd_tokenize: addresses, good within the block."""
        bitmaps = []
        for x in images:
            x = np.ascontiguousarray(x, np.uint8)
            bitmaps.append(self.call("mtmd_bitmap_init", x.shape[1], x.shape[0], x.ctypes.data))
        chunks = self.call("mtmd_input_chunks_init")
        try:
            given = InputText(text, len(text), True, True)
            array = (PTR * max(len(bitmaps), 1))(*bitmaps)
            status = self.call("mtmd_tokenize", self.context(watched), chunks, ct.byref(given), array, len(bitmaps))
            if status:
                raise EngineError(f"mtmd_tokenize answers {status} to a text with {len(images)} images")
            n = self.call("mtmd_input_chunks_size", chunks)
            yield [self.call("mtmd_input_chunks_get", chunks, i) for i in range(n)]
        finally:
            self.call("mtmd_input_chunks_free", chunks)
            for bitmap in bitmaps:
                self.call("mtmd_bitmap_free", bitmap)

    def content(self, chunk: int, watched: bool = False) -> Chunk:
        """A chunk's tokens, or what the tower makes of its image."""
        if self.call("mtmd_input_chunk_get_type", chunk) != IMAGE:
            n = SIZE()
            tokens = self.call("mtmd_input_chunk_get_tokens_text", chunk, ct.byref(n))
            return [int(i) for i in tokens[: n.value]]
        context = self.context(watched)
        if status := self.call("mtmd_encode_chunk", context, chunk):
            raise EngineError(f"mtmd_encode_chunk answers {status}")
        shape = (
            self.call("mtmd_input_chunk_get_n_tokens", chunk),
            self.call("llama_model_n_embd_inp", self.session.model),
        )
        rows: F32 = np.ctypeslib.as_array(self.call("mtmd_get_output_embd", context), shape)
        return rows.copy()

    def rows(self, chunks: Sequence[tuple[int, Chunk]], first: int = 0) -> list[tuple[int | F32, list[int]]]:
        """Each row of these chunks, a token or an embedding (C), and its positions."""
        mrope, found = self.call("mtmd_decode_use_mrope", self.context()), list[Any]()
        for chunk, content in chunks:
            for i, row in enumerate(content):
                pos = [first + i] * 4
                if mrope and not isinstance(content, list):
                    tokens = self.call("mtmd_input_chunk_get_tokens_image", chunk)
                    place = self.call("mtmd_image_tokens_get_decoder_pos", tokens, first, i)
                    pos = [place.t, place.y, place.x, place.z]
                found.append((row, pos))
            first += self.call("mtmd_input_chunk_get_n_pos", chunk)
        return found

    def process(self, context: int, rows: list[tuple[int | F32, list[int]]]) -> list[F32]:
        """All rows in one llama_process: the pooled vector, or a vector of each row."""
        batch = self.call("llama_batch_ext_init", context)
        kept = []  # memory that the batch may point at
        try:
            for row, pos in rows:
                if isinstance(row, np.ndarray):
                    x = np.ascontiguousarray(row, np.float32)
                    kept.append(x)
                    i = self.call("llama_batch_ext_add_embd", batch, 0, Embd(x.ctypes.data_as(FLOATS), 1, len(x)))
                else:
                    i = self.call("llama_batch_ext_add_token", batch, 0, row)
                if i < 0:
                    raise EngineError(f"llama_batch_ext answers {i} to row {len(kept)} of {len(rows)}")
                self.call("llama_batch_ext_set_pos", batch, i, (INT * 4)(*pos))
                self.call("llama_batch_ext_set_output_embd", batch, i, True)
            status = self.call("llama_process", context, DECODE, batch)
        finally:
            self.call("llama_batch_ext_free", batch)
        self.session.check_graph()
        if status:
            raise EngineError(f"llama_process answers {status} to {len(rows)} rows")
        return self.session.outputs(context, [[0] * len(rows)])


def with_inputs(graph: Graph) -> list[dict[str, Any]]:
    """The input tensors of a run, and behind them its nodes; places in `sources` and `view_of` count both."""
    inputs = graph.inputs or {}
    leaves = [
        {"name": name, "op": "NONE", "type": "f32", "array": x, "sources": [], "view_of": None}
        for name, x in inputs.items()
    ]
    n = len(leaves)

    def moved(place: int | str | None) -> int | str | None:
        return place + n if isinstance(place, int) else place

    return leaves + [
        node | {"sources": [moved(s) for s in node["sources"]], "view_of": moved(node["view_of"])}
        for node in graph.nodes
    ]


def keep_inputs(graph: Graph, node: int) -> None:
    """Copy those operands of a node that are float inputs of the graph: an image's pixels."""
    for address in filter(None, abi.tensor_at(node).src):
        t = abi.tensor_at(address)
        name = t.name.decode(errors="replace")
        if graph.inputs is not None and t.flags & IS_INPUT and t.type == F32_TYPE and name not in graph.inputs:
            graph.inputs[name] = read_tensor(graph.lib, address)
