"""Records what PyTorch computes in the precisions of GPUs: tests/data/precisions.npz, which tests of `verify` read.

    .venv-peers/bin/python -m tests.record_precisions            # PyTorch and transformers; two minutes on two cores

MiniLM and a small Qwen 3 with random weights, run by transformers, with GELU as the GGUF file has it. `half`,
`bfloat16` and `autocast` are PyTorch's own. TF32 needs a GPU; so the operands of each product are rounded here, by
integer operations of PyTorch's, before the product is made in float32: to the nearest with halves away from zero (PTX's
cvt.rna.tf32.f32), or cut off, as tensor cores read a float32 that nothing has rounded. `float16-sums` rounds sums to
float16 after every 16 channels, as CUBLAS_COMPUTE_16F allows. Faults are planted in the PyTorch model.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refembed import Embedder
from refembed.gguf import open_gguf
from refembed.hub import resolve, source_folder
from refembed.testing.synthetic import synthetic
from refembed.verify.texts import default_texts

FILE = Path(__file__).parent / "data" / "precisions.npz"
LONGEST = 48  # tokens of the longest text
CUT = 16  # tokens of a text that is cut
QWEN3: dict[str, Any] = {"C": 64, "H": 4, "K": 2, "D": 16, "F": 160, "P": 128, "V": 300, "n_layer": 6, "pooling": 1}
MODELS = ("minilm", "minilm-f16", "qwen3", "qwen3-bf16")  # and the type that their matrices have in the file


class Engine(NamedTuple):
    """One recording."""

    model: str  # of MODELS
    precision: str  # of PRECISIONS
    fault: str = ""  # of `broken`

    @property
    def id(self) -> str:
        """`minilm tf32 causal`."""
        return " ".join(filter(None, self))


PRECISIONS = ("float32", "tf32", "tf32-linear", "tf32-cut", "float16-inputs", "float16-sums", "bfloat16-inputs",
              "float16-autocast", "bfloat16-autocast", "half", "bfloat16")  # fmt: skip
FAULTS = {"minilm": ("cls", "no-norm", "causal", "eps-1e-5", "eps-1e-3", "cut"),
          "qwen3": ("last", "no-qk-norm", "bidirectional", "eps-1e-3", "cut")}  # fmt: skip
IN_FAULTS = ("tf32", "bfloat16-autocast", "half", "bfloat16")
ENGINES = [
    *(Engine("qwen3", p) for p in PRECISIONS),
    *(Engine("qwen3-bf16", p) for p in ("float32", "bfloat16-inputs", "bfloat16-autocast", "bfloat16")),
    *(Engine("qwen3", p, fault) for fault in FAULTS["qwen3"] for p in IN_FAULTS),
    *(Engine("minilm", p) for p in ("float32", "tf32", "float16-sums", "bfloat16-autocast", "half", "bfloat16")),
    *(Engine("minilm", p, fault) for fault in FAULTS["minilm"] for p in ("tf32", "bfloat16")),
    *(Engine("minilm-f16", p) for p in ("float32", "tf32")),
]


def model_file(name: str, folder: Path) -> Path:
    """The GGUF file of one of MODELS."""
    arch, _, kind = name.partition("-")
    if arch == "qwen3":
        return synthetic(folder / f"{name}.gguf", "qwen3", type_name=(kind or "f32").upper(), **QWEN3)
    if not kind:
        return resolve("minilm")
    from refembed.convert.quantize import quantize_file

    quantize_file(resolve("minilm"), folder / f"{name}.gguf", kind.upper())
    return folder / f"{name}.gguf"


# -- numbers of fewer bits -------------------------------------------------------------------------------------------


def rna_tf32(x: Any) -> Any:
    """float32 to 10 bits of mantissa, halves away from zero."""
    import torch

    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def cut_tf32(x: Any) -> Any:
    """The last 13 bits of mantissa not read."""
    import torch

    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def product_of(round_: Callable[[Any], Any], name: str) -> Callable[..., Any]:
    """A product of matrices whose operands are rounded."""

    def product(func: Any, args: Sequence[Any], kwargs: Any) -> Any:
        return func(*args[:-2], *map(round_, args[-2:]), **kwargs)

    return product


def half_sums(func: Any, args: Sequence[Any], kwargs: Any) -> Any:
    """A product in float16 whose sums are rounded to float16 after every 16 channels."""
    import torch

    bias, (a, b) = args[:-2], (x.half().float() for x in args[-2:])
    total = torch.zeros((*a.shape[:-1], b.shape[-1]))
    for k in range(0, a.shape[-1], 16):
        total = (total + torch.matmul(a[..., k : k + 16], b[..., k : k + 16, :])).half().float()
    return total + bias[0] if bias else total


def changed_products(product: Callable[..., Any], linear_alone: bool = False) -> Any:
    """While it lasts, PyTorch's products of matrices are made by `product`."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names = ("mm", "addmm") if linear_alone else ("mm", "addmm", "bmm", "baddbmm")

    class Mode(TorchDispatchMode):  # type: ignore[misc]  # PyTorch is not where types are checked
        inside = False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if self.inside or func.overloadpacket.__name__ not in names:
                return func(*args, **(kwargs or {}))
            self.inside = True
            try:
                return product(func, args, kwargs or {})
            finally:
                self.inside = False

    return Mode()


def in_precision(precision: str) -> Any:
    """A context in which a float32 model computes so."""
    import contextlib

    import torch

    rounded = {
        "tf32": rna_tf32, "tf32-linear": rna_tf32, "tf32-cut": cut_tf32,
        "float16-inputs": lambda x: x.half().float(), "bfloat16-inputs": lambda x: x.bfloat16().float(),
    }  # fmt: skip
    if precision in rounded:
        return changed_products(product_of(rounded[precision], precision), precision.endswith("linear"))
    if precision == "float16-sums":
        return changed_products(half_sums)
    if precision.endswith("autocast"):
        return torch.autocast("cpu", dtype=getattr(torch, precision.split("-")[0]))
    return contextlib.nullcontext()


# -- models ----------------------------------------------------------------------------------------------------------


def minilm(fault: str, kind: str) -> Any:
    """all-MiniLM-L6-v2 as published, with the file's GELU."""
    import torch
    from transformers import AutoModel

    eps = {"eps-1e-5": 1e-5, "eps-1e-3": 1e-3}.get(fault, 1e-12)
    model = AutoModel.from_pretrained(
        str(source_folder("minilm")), attn_implementation="eager", local_files_only=True, dtype=torch.float32,
        layer_norm_eps=eps, hidden_act="gelu_pytorch_tanh",
    ).eval()  # fmt: skip
    if fault == "no-norm":
        model.embeddings.LayerNorm = torch.nn.Identity()
    return model


def qwen3(fault: str, kind: str) -> Any:
    """A Qwen 3 with the weights of the synthetic file."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as folder, open_gguf(model_file("qwen3", Path(folder))) as f:
        tensors = {n: torch.from_numpy(np.array(t.dequantize())) for n, t in f.tensors.items()}
    D = QWEN3
    config = transformers.Qwen3Config(
        vocab_size=len(tensors["token_embd.weight"]), hidden_size=D["C"], intermediate_size=D["F"],
        num_hidden_layers=D["n_layer"], num_attention_heads=D["H"], num_key_value_heads=D["K"], head_dim=D["D"],
        max_position_embeddings=D["P"], rms_norm_eps=1e-3 if fault == "eps-1e-3" else 1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, attn_implementation="eager",
    )  # fmt: skip
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output"}
    names |= {f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"} | {
        f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")
    }
    names |= {f"self_attn.{x}_norm": f"attn_{x}_norm" for x in "qk"}
    state = {"embed_tokens.weight": tensors["token_embd.weight"], "norm.weight": tensors["output_norm.weight"]}
    for i in range(D["n_layer"]):
        state |= {f"layers.{i}.{a}.weight": tensors[f"blk.{i}.{b}.weight"] for a, b in names.items()}
    model = transformers.Qwen3Model(config).eval()
    model.load_state_dict(state, strict=True)
    for layer in model.layers:
        if fault == "no-qk-norm":
            layer.self_attn.q_norm = layer.self_attn.k_norm = torch.nn.Identity()
    return model


def stored(model: Any, kind: str) -> Any:
    """Matrices as a file of that type has them."""
    import torch

    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}.get(kind)
    if dtype is not None:
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and not re.search("position|token_type", name):  # those of BERT stay in float32
                weight.data = weight.data.to(dtype).float()
    return model


def vectors(engine: Engine, ids: Sequence[list[int]]) -> Any:
    """(N, D) of length 1, each text alone."""
    import torch

    arch, _, kind = engine.model.partition("-")
    model = stored({"minilm": minilm, "qwen3": qwen3}[arch](engine.fault, kind), kind)
    causal = (arch == "qwen3") != (engine.fault in ("causal", "bidirectional"))
    pools = {"minilm": "mean", "qwen3": "mean"}[arch] if engine.fault not in ("cls", "last") else engine.fault
    model = {"half": model.half, "bfloat16": model.bfloat16}.get(engine.precision, lambda: model)()
    found = []
    with torch.no_grad(), in_precision(engine.precision):
        for own in ids:
            tokens = own if engine.fault != "cut" or len(own) <= CUT else [*own[: CUT - 1], own[-1]]
            n = len(tokens)
            mask = torch.zeros((1, 1, n, n), dtype=model.dtype)
            if causal:
                mask = mask.masked_fill(torch.ones(n, n).triu(1).bool(), torch.finfo(model.dtype).min)
            x = model(input_ids=torch.tensor([tokens]), attention_mask=mask).last_hidden_state[0].double()
            v = {"mean": x.mean(0), "cls": x[0], "last": x[-1]}[pools]
            found.append((v / v.norm()).numpy())
    return np.stack(found).astype(np.float32)


def texts_of(path: Path) -> tuple[list[str], list[list[int]]]:
    """The texts that `verify` uses, up to LONGEST tokens, and their ids."""
    embedder = Embedder.load(path, numerics="exact")
    texts = default_texts(lambda t: len(embedder.tokenize(t)), LONGEST, LONGEST)
    return texts, [embedder.tokenize(t) for t in texts]


def recorded() -> Iterator[tuple[str, Any]]:
    """Every array of the file."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    meta = {"torch": torch.__version__, "transformers": transformers.__version__}
    with tempfile.TemporaryDirectory() as folder:
        for arch in ("qwen3", "minilm"):
            texts, ids = texts_of(model_file(arch, Path(folder)))
            yield f"{arch} texts", np.array(json.dumps(texts))
            yield f"{arch} ids", np.array(json.dumps(ids))
            base: dict[str, Any] = {}
            for engine in (e for e in ENGINES if e.model.startswith(arch)):
                found = vectors(engine, ids)
                base.setdefault(engine.model, found)  # float32 is the first
                off = ((found.astype(float) - base[engine.model]) ** 2).sum(axis=1) / 2
                print(
                    f"{engine.id:36} 1 - cos to float32: median {np.median(off):.2e}, worst {off.max():.2e}", flush=True
                )
                yield engine.id, found
    yield "meta", np.array(json.dumps(meta))


if __name__ == "__main__":
    np.savez_compressed(FILE, **dict(recorded()))
    print(f"wrote {FILE}: {FILE.stat().st_size} bytes")
