"""Noise floors of other runtimes: how far ONNX Runtime, OpenVINO and PyTorch are from themselves, and from float64.

    python -m conformance runtimes --onnx minilm.onnx --write     # what is installed here of the three

MiniLM is run in every setting that changes no more than rounding: threads, texts alone and in padded batches, graph
optimizations, attention kernels; in each precision that the runtime has. `spread` is what settings of one precision are
apart, `exact` what the worst setting is from the definition in float64 with the published model's own GELU. The numbers
go into runtimes.toml; `refembed.verify.compare.runtimes` has them for `refembed verify`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance import FOLDER
from conformance.environment import cpu_name
from conformance.toml import read_toml, write_whole
from refembed import Embedder
from refembed.errors import RequestError
from refembed.hub import source_folder
from refembed.verify.compare.arrays import cosine_distance
from refembed.verify.texts import default_texts

PATH = FOLDER / "runtimes.toml"
HEAD = """# Written by `python -m conformance runtimes --write`. A table is <runtime>.<precision>.
# Numbers are 1 - cos of MiniLM's vectors:
#   spread  settings that change no more than rounding, furthest apart: median and worst text
#   exact   the worst setting to float64 with the published model's GELU: median and worst text
"""
LONGEST = 80  # tokens of the longest text
Vectors = npt.NDArray[np.float64]  # (N, D)
Table = dict[str, dict[str, dict[str, Any]]]  # runtime -> precision -> numbers
Batch = dict[str, npt.NDArray[np.int64]]


def padded(ids: Sequence[Sequence[int]]) -> Batch:
    """Texts as one batch, filled up with [PAD] = 0 and masked."""
    blank = np.zeros((len(ids), max(map(len, ids))), np.int64)
    found = {"input_ids": blank, "attention_mask": blank.copy(), "token_type_ids": blank.copy()}
    for row, given in enumerate(ids):
        found["input_ids"][row, : len(given)], found["attention_mask"][row, : len(given)] = given, 1
    return found


def in_batches(run: Callable[[Batch], Any], ids: Sequence[Sequence[int]], size: int) -> Vectors:
    """All texts, so many at a time, those of like length together."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: list[Any] = [None] * len(ids)
    for at in range(0, len(order), size):
        part = order[at : at + size]
        for i, vector in zip(part, np.asarray(run(padded([ids[i] for i in part])), np.float64), strict=True):
            found[i] = vector
    return np.stack(found)


# -- the runtimes: (precision, setting in words, run) ----------------------------------------------------------------

Setting = tuple[str, str, Callable[[Batch], Any], int]  # and texts in a batch
SIZES = (1, 8)


def onnxruntime(file: Path) -> Iterator[Setting]:
    """float32 in all levels of optimization, and weights and activations of 8 bits."""
    ort: Any = importlib.import_module("onnxruntime")
    levels = ort.GraphOptimizationLevel
    files = {"f32": file}
    if importlib.util.find_spec("onnxruntime.quantization") and importlib.util.find_spec("onnx"):
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        files["int8"] = file.with_suffix(".int8.onnx")
        quantization.quantize_dynamic(str(file), str(files["int8"]))
    for (precision, path), level, threads in product(files.items(), ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"), (1, 2)):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        options.graph_optimization_level = getattr(levels, level)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for size in SIZES:
            says = f"{level}, {threads} threads, batches of {size}"
            yield precision, says, partial(first_output, session), size


def first_output(session: Any, batch: Batch) -> Any:
    """A call of ONNX Runtime."""
    return session.run(None, batch)[0]


def inferred(request: Any, batch: Batch) -> Any:
    """A call of OpenVINO."""
    return request.infer(list(batch.values()))[0].copy()


def openvino(file: Path) -> Iterator[Setting]:
    """float32, and the precisions of its hint."""
    ov: Any = importlib.import_module("openvino")
    core = ov.Core()
    graph = core.read_model(str(file))
    for precision, threads in product(("f32", "bf16"), (1, 2)):
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
        try:
            request = core.compile_model(graph, "CPU", options).create_infer_request()
        except RuntimeError:  # a precision that this processor does not have
            continue
        for size in SIZES:
            yield precision, f"{threads} threads, batches of {size}", partial(inferred, request), size


def pytorch(folder: Path) -> Iterator[Setting]:
    """Both kernels of attention, in three types of numbers; float32 on two threads as well."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    for precision, kernel, threads in product(("float32", "bfloat16", "float16"), ("eager", "sdpa"), (1, 2)):
        if threads > 1 and precision != "float32":
            continue
        model = transformers.AutoModel.from_pretrained(
            str(folder), attn_implementation=kernel, local_files_only=True, dtype=getattr(torch, precision)
        ).eval()

        def run(batch: Batch, model: Any = model, threads: int = threads) -> Any:
            torch.set_num_threads(threads)
            with torch.no_grad():
                x = model(**{k: torch.from_numpy(v) for k, v in batch.items()}).last_hidden_state.float()
                weight = torch.from_numpy(batch["attention_mask"]).unsqueeze(-1).float()
                return ((x * weight).sum(1) / weight.sum(1)).numpy()

        for size in SIZES:
            name = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[precision]
            yield name, f"{kernel}, {threads} threads, batches of {size}", run, size


def installed() -> list[str]:
    """Which of the runtimes are here."""
    needs = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",), "pytorch": ("torch", "transformers")}
    return [name for name, packages in needs.items() if all(map(importlib.util.find_spec, packages))]


def export(folder: Path, file: Path) -> Path:
    """MiniLM as ONNX, pooled, made by PyTorch."""
    from benchmarks.engines import export as exported

    return Path(exported(str(folder), str(file)))


# -- measuring -------------------------------------------------------------------------------------------------------


def distances(a: Vectors, b: Vectors) -> npt.NDArray[np.float64]:
    """(N) 1 - cos, text by text."""
    return np.array([cosine_distance(x, y) for x, y in zip(a, b, strict=True)])


def floors(settings: Iterator[Setting], ids: Sequence[Sequence[int]], exact: Vectors) -> dict[str, dict[str, Any]]:
    """Precision -> spread and distance from `exact`, and how many settings there were."""
    found: dict[str, list[Vectors]] = {}
    for precision, _, run, size in settings:
        found.setdefault(precision, []).append(in_batches(run, ids, size))
    rows = {}
    for precision, vectors in found.items():
        apart = np.max([distances(a, b) for a, b in combinations(vectors, 2)], axis=0)
        off = np.max([distances(v, exact) for v in vectors], axis=0)
        rows[precision] = {
            "spread": [float(np.median(apart)), float(apart.max())], "exact": [float(np.median(off)), float(off.max())],
            "settings": len(vectors), "texts": len(ids),
        }  # fmt: skip
    return rows


def measure(
    onnx: Path | None, only: Sequence[str], keep: Callable[[Table], object], say: Callable[[str], object]
) -> None:
    """The floors of the runtimes that are installed, one by one. RequestError where there is none, or no ONNX file."""
    names = [name for name in installed() if not only or name in only]
    if not names:
        raise RequestError("no other runtime is installed here", hint="`make test-peers` has ONNX Runtime and PyTorch")
    folder = source_folder("minilm")
    embedder = Embedder.load("minilm", numerics="exact", semantics="original")
    texts = default_texts(lambda t: len(embedder.tokenize(t)), LONGEST, LONGEST)
    ids = [embedder.tokenize(t) for t in texts]
    exact = np.asarray(embedder.embed(ids, normalize=-1), np.float64)
    if onnx is None or not onnx.is_file():
        if "pytorch" not in names:
            raise RequestError("there is no ONNX file, and no PyTorch to make one", hint="--onnx FILE")
        onnx = export(folder, onnx or PATH.with_suffix(".onnx"))
    for name in names:
        settings = {"onnxruntime": onnxruntime, "openvino": openvino}.get(name)
        found = floors(settings(onnx) if settings else pytorch(folder), ids, exact)
        for precision, row in found.items():
            say(f"{name} {precision}: spread {row['spread'][1]:.2g}, to float64 {row['exact'][1]:.2g}")
            row["version"] = version_of(name)
            row["cpu"] = cpu_name()
        keep({name: found})


def version_of(name: str) -> str:
    """The package's version."""
    from importlib.metadata import version

    return version({"pytorch": "torch"}.get(name, name))


def load() -> Table:
    """runtimes.toml."""
    return read_toml(PATH) if PATH.is_file() else {}


def write(found: Table) -> None:
    """Put these runtimes' tables into runtimes.toml; others stay."""
    lines = [HEAD]
    for name, precisions in sorted((load() | found).items()):
        for precision, row in precisions.items():
            lines.append(f"[{name}.{precision}]")
            for kind in ("spread", "exact"):
                median, worst = row[kind]
                lines.append(f"{kind} = [{median:.2e}, {worst:.2e}]")
            lines += [f"{key} = {row[key]}" for key in ("settings", "texts")]
            lines += [f'{key} = "{row[key]}"' for key in ("version", "cpu")]
            lines.append("")
    write_whole(PATH, "\n".join(lines).encode())


def command(onnx: Path | None, only: Sequence[str], write_: bool, say: Callable[[str], object]) -> None:
    """Measure, print, and with `write_` store."""
    measure(onnx, only, write if write_ else lambda found: None, say)
    if write_:
        say(f"wrote {PATH}")
