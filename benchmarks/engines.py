"""The engines as a worker drives them. Each has

    about               its builds, for the report
    ways(ids)           the ways in which it can compute these texts; the fastest is looked for before the rounds
    prepare(ids, way)   a function that computes their vectors, in the order of the texts; its inputs are made here

Each imports its packages when it is made: a worker holds one of them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Ids = Sequence[Sequence[int]]
Run = Callable[[], Iterable[Any]]

N_BATCH = (512, 1024, 2048)  # tokens that llama.cpp is given at a time
AS_PUBLISHED = "as published"  # the model's own formulas where llama.cpp's differ: GELU by erf, not by tanh
PADDED = (32, 64)  # texts that are padded together


def in_groups(ids: Ids, tokens: int, texts: int) -> list[list[int]]:
    """Places of texts in order, as many together as have at most so many tokens."""
    groups: list[list[int]] = []
    left = 0
    for i, one in enumerate(ids):
        if not groups or len(one) > left or len(groups[-1]) == texts:
            groups.append([])
            left = tokens
        groups[-1].append(i)
        left -= len(one)
    return groups


def by_length(ids: Ids, texts: int) -> list[list[int]]:
    """Places of texts, the longest first, so many together: what is padded with them is short."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    return [order[i : i + texts] for i in range(0, len(order), texts)]


def padded(ids: Ids, group: list[int]) -> dict[str, Any]:
    """Arrays (texts, longest) as BERT takes them."""
    import numpy as np

    x = np.zeros((len(group), max(len(ids[i]) for i in group)), np.int64)
    mask = np.zeros_like(x)
    for row, i in enumerate(group):
        x[row, : len(ids[i])], mask[row, : len(ids[i])] = ids[i], 1
    return {"input_ids": x, "attention_mask": mask, "token_type_ids": np.zeros_like(x)}


def in_order(groups: list[list[int]], found: list[Any]) -> list[Any]:
    """Vectors of groups, back in the order of the texts."""
    vectors: list[Any] = [None] * sum(map(len, groups))
    for group, some in zip(groups, found, strict=True):
        for i, vector in zip(group, some, strict=True):
            vectors[i] = vector
    return vectors


class Refembed:
    """refembed, through `Embedder.embed`; packing texts and normalizing vectors are timed with the rest.

    bits: of the activations of `fast` where weights are quantized, 0 for float32; None: as the CPU has it.
    """

    def __init__(
        self, model: str, threads: int, numerics: str = "fast", pooling: str = "native", bits: int | None = None
    ) -> None:
        from refembed import Embedder
        from refembed.kernels import threads as pool

        if bits is not None:
            from refembed.kernels.fast.ops import Fast

            Fast.bits = bits
        pool.use(threads)
        self.model, self.pooling = model, pooling
        self.embedder = Embedder.load(model, numerics=numerics)
        self.about = {name: importlib.metadata.version(name) for name in ("numpy", "numba", "llvmlite")}

    def ways(self, ids: Ids) -> list[str]:
        return [""]

    def prepare(self, ids: Ids, way: str) -> Run:
        """AS_PUBLISHED: what PyTorch's vectors are compared with; it is not timed."""
        if way == AS_PUBLISHED:
            from refembed import Embedder

            published = Embedder.load(self.model, semantics="original")
            return lambda: published.embed(ids, pooling=self.pooling)
        return lambda: self.embedder.embed(ids, pooling=self.pooling)


class LlamaCpp:
    """llama.cpp's C API, in this process: from the wheel, or from a folder of libraries with one CPU backend of it.

    Weights are repacked as it likes. Batches are filled beforehand; llama_decode and fetching the vectors are timed.
    """

    def __init__(
        self, model: str, threads: int, pooling: str = "native", lib: str | None = None, cpu: str | None = None
    ) -> None:
        from refembed.verify.engines.llamacpp_worker import Session

        self.session: Any = Session({
            "path": model, "pooling": pooling, "n_ctx": None, "n_batch": N_BATCH[0], "threads": threads,
            "flash_attn": False, "extra_buffer_types": True, "type_kv": None, "causal": None, "n_seq_max": 64,
            "lora": [], "lib": lib, "cpu": cpu, "vocab_only": False,
        })  # fmt: skip
        self.made: tuple[str, Any] | None = None  # the context that was used last, and its way
        self.context("flash off, batch 512")
        wheel = "" if lib else f"xllamacpp {importlib.metadata.version('xllamacpp')}, "
        said = self.session.lib.llama_print_system_info().decode().strip(" |")
        self.about = {"llama.cpp": wheel + " ".join(said.split())}

    def context(self, way: str) -> Any:
        """A context, kept until another one is asked for: each has room for a decoder's logits, gigabytes for Gemma."""
        if self.made is None or self.made[0] != way:
            options, lib = self.session.options, self.session.lib
            options["flash_attn"] = way.startswith("flash on")
            options["n_ctx"] = options["n_batch"] = int(way.split()[-1])
            if self.made is not None:
                lib.llama_free(self.made[1])
                self.made = None
            made = lib.llama_init_from_model(self.session.model, self.session.context_params(False))
            if not made:
                raise RuntimeError(f"llama.cpp made no context: {way}")
            self.made = way, made
        return self.made[1]

    def ways(self, ids: Ids) -> list[str]:
        longest, total = max(map(len, ids)), sum(map(len, ids))
        sizes = [n for n in N_BATCH if n >= longest]
        sizes = [n for n in sizes if n == sizes[0] or n < 2 * total]  # larger ones hold no more
        return [f"flash {flash}, batch {n}" for flash in ("off", "on") for n in sizes]

    def batch(self, sequences: list[list[int]]) -> Any:
        """A filled llama_batch."""
        lib = self.session.lib
        batch = lib.llama_batch_init(sum(map(len, sequences)), 0, 1)
        rows = ((s, pos, token) for s, ids in enumerate(sequences) for pos, token in enumerate(ids))
        for i, (s, pos, token) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, pos, 1, 1
            batch.seq_id[i][0] = s
            batch.n_tokens = i + 1
        return batch

    def prepare(self, ids: Ids, way: str) -> Run:
        lib, session, context = self.session.lib, self.session, self.context(way)
        memory = lib.llama_get_memory(context)
        groups = in_groups(ids, int(way.split()[-1]), session.options["n_seq_max"])
        texts = [[list(ids[i]) for i in group] for group in groups]
        batches = [self.batch(sequences) for sequences in texts]

        def run() -> list[Any]:
            found: list[Any] = []
            for sequences, batch in zip(texts, batches, strict=True):
                if memory:
                    lib.llama_memory_clear(memory, True)
                status = lib.llama_decode(context, batch)
                if status:
                    raise RuntimeError(f"llama_decode answers {status}")
                found += session.outputs(context, sequences)
            return found

        return run


class SentenceTransformers:
    """sentence-transformers on PyTorch's CPU: its own modules one after the other, pooling and normalizing too."""

    def __init__(self, model: str, threads: int, precision: str = "f32") -> None:
        self.torch: Any = importlib.import_module("torch")
        library: Any = importlib.import_module("sentence_transformers")
        self.torch.set_num_threads(threads)
        self.model: Any = library.SentenceTransformer(model, device="cpu", local_files_only=True).eval()
        if precision == "bf16":
            self.model = self.model.bfloat16()
        versions = [f"{n} {importlib.metadata.version(n)}" for n in ("torch", "transformers", "sentence-transformers")]
        capability = self.torch.backends.cpu.get_cpu_capability()
        self.about = {"PyTorch": f"{', '.join(versions)}; {capability}, {threads} threads"}

    def ways(self, ids: Ids) -> list[str]:
        return [f"batch {n}" for n in PADDED] if len(ids) > 1 else ["batch 1"]

    def prepare(self, ids: Ids, way: str) -> Run:
        torch, groups = self.torch, by_length(ids, int(way.split()[-1]))
        features = [{k: torch.from_numpy(x) for k, x in padded(ids, g).items()} for g in groups]

        def run() -> list[Any]:
            with torch.inference_mode():
                return in_order(groups, [self.model(dict(f))["sentence_embedding"].float().numpy() for f in features])

        return run


class OnnxRuntime:
    """ONNX Runtime on the CPU, all its optimizations on; the file holds the mean over tokens too.

    precision: "int8" is its dynamic quantization, scales of activations by tensor.
    """

    def __init__(
        self, model: str, threads: int, precision: str = "f32", calibration: Sequence[Sequence[int]] = ()
    ) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")
        if precision == "int8":
            quantization: Any = importlib.import_module("onnxruntime.quantization")
            whole, model = model, model.removesuffix(".onnx") + "-int8.onnx"
            quantization.quantize_dynamic(whole, model, weight_type=quantization.QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.about = {"ONNX Runtime": f"{onnxruntime.__version__}, {threads} threads; file exported by PyTorch"}

    def ways(self, ids: Ids) -> list[str]:
        return [f"batch {n}" for n in PADDED] if len(ids) > 1 else ["batch 1"]

    def prepare(self, ids: Ids, way: str) -> Run:
        groups = by_length(ids, int(way.split()[-1]))
        inputs = [padded(ids, g) for g in groups]
        return lambda: in_order(groups, [self.session.run(None, x)[0] for x in inputs])


class OpenVINO:
    """OpenVINO's CPU plugin, from the ONNX file; "int8" is NNCF's post-training quantization for transformers."""

    def __init__(
        self, model: str, threads: int, precision: str = "f32", calibration: Sequence[Sequence[int]] = ()
    ) -> None:
        openvino: Any = importlib.import_module("openvino")
        graph = openvino.Core().read_model(model)
        if precision == "int8":
            nncf: Any = importlib.import_module("nncf")
            names = [node.get_any_name() for node in graph.inputs]
            rows = [dict(zip(names, padded([ids], [0]).values(), strict=True)) for ids in calibration]
            graph = nncf.quantize(
                graph, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows)
            )
        options = {
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }  # fmt: skip
        self.compiled: Any = openvino.Core().compile_model(graph, "CPU", options)
        self.request: Any = self.compiled.create_infer_request()
        self.about = {"OpenVINO": f"{openvino.__version__}, {precision}, {threads} threads"}

    def ways(self, ids: Ids) -> list[str]:
        return [f"batch {n}" for n in (1, 8, *PADDED)] if len(ids) > 1 else ["batch 1"]

    def prepare(self, ids: Ids, way: str) -> Run:
        groups = by_length(ids, int(way.split()[-1]))
        inputs = [list(padded(ids, g).values()) for g in groups]
        return lambda: in_order(groups, [self.request.infer(x)[0].copy() for x in inputs])


def export(folder: str, file: str) -> str:
    """The BERT of a folder as an ONNX file that gives mean-pooled vectors, made by PyTorch."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")

    class Pooled(torch.nn.Module):  # type: ignore[misc]  # PyTorch may be absent where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.AutoModel.from_pretrained(
                folder, attn_implementation="eager", local_files_only=True
            )

        def forward(self, ids: Any, mask: Any, segments: Any) -> Any:
            x = self.bert(input_ids=ids, attention_mask=mask, token_type_ids=segments).last_hidden_state
            weight = mask.unsqueeze(-1).float()
            return (x * weight).sum(1) / weight.sum(1)

    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.tensor([[101, 7592, 1010, 102], [101, 1037, 102, 0]])
    axes = {n: {0: "texts", 1: "tokens"} for n in names} | {"sentence_embedding": {0: "texts"}}
    torch.onnx.export(
        Pooled().eval(), (ids, (ids != 0).long(), torch.zeros_like(ids)), file + ".new",
        input_names=names, output_names=["sentence_embedding"], dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    Path(file + ".new").replace(file)
    return os.fspath(file)
