"""Which module of a Hugging Face model computes which tensor of llama.cpp's graph: one table, read by forward hooks.

A row is (module's name, what to take, the tap). `{}` is the layer. To take:

    in       the module's first input
    out      its output
    product  x Wᵀ without the bias, and then the output, both under the names given: llama.cpp shows both. PyTorch adds
             the bias inside the product, so the product alone is computed once more, after the run
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.model.trace import TracedTensor

Row = tuple[str, str, tuple[str, ...]]

BERT: tuple[Row, ...] = (  # BERT, RoBERTa, XLM-RoBERTa
    (r"embeddings\.word_embeddings",                       "out",     ("embd",)),
    (r"embeddings\.LayerNorm",                             "in",      ("inp_embd",)),
    (r"embeddings\.LayerNorm",                             "out",     ("inp_norm-0",)),
    (r"encoder\.layer\.(\d+)\.attention\.self\.query",     "product", ("Qcur-{}", "Qcur-{}")),
    (r"encoder\.layer\.(\d+)\.attention\.self\.key",       "product", ("Kcur-{}", "Kcur-{}")),
    (r"encoder\.layer\.(\d+)\.attention\.self\.value",     "product", ("Vcur-{}", "Vcur-{}")),
    (r"encoder\.layer\.(\d+)\.attention\.self",            "weights", ("kq_soft_max-{}",)),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense",   "in",      ("kqv_out-{}",)),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense",   "out",     ("kqv_out-{}",)),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm", "out",   ("ffn_inp-{}",)),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense",        "product", ("ffn_up-{}", "ffn_up_b-{}")),
    (r"encoder\.layer\.(\d+)\.intermediate",               "out",     ("ffn_gelu-{}",)),
    (r"encoder\.layer\.(\d+)\.output\.dense",              "product", ("ffn_down-{}", "ffn_out-{}")),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm",          "out",     ("l_out-{}",)),
)  # fmt: skip
DECODER: tuple[Row, ...] = (  # Llama, Mistral, Qwen 2 and 3
    (r"embed_tokens",                             "out",     ("embd",)),
    (r"layers\.(\d+)\.input_layernorm",           "out",     ("attn_norm-{}",)),
    (r"layers\.(\d+)\.self_attn\.q_proj",         "product", ("Qcur-{}", "Qcur-{}")),
    (r"layers\.(\d+)\.self_attn\.k_proj",         "product", ("Kcur-{}", "Kcur-{}")),
    (r"layers\.(\d+)\.self_attn\.v_proj",         "product", ("Vcur-{}", "Vcur-{}")),
    (r"layers\.(\d+)\.self_attn\.q_norm",         "out",     ("Qcur_normed-{}",)),
    (r"layers\.(\d+)\.self_attn\.k_norm",         "out",     ("Kcur_normed-{}",)),
    (r"layers\.(\d+)\.self_attn\.o_proj",         "in",      ("kqv_out-{}",)),
    (r"layers\.(\d+)\.self_attn\.o_proj",         "out",     ("attn_out-{}",)),
    (r"layers\.(\d+)\.post_attention_layernorm",  "in",      ("ffn_inp-{}",)),
    (r"layers\.(\d+)\.post_attention_layernorm",  "out",     ("ffn_norm-{}",)),
    (r"layers\.(\d+)\.mlp\.gate_proj",            "out",     ("ffn_gate-{}",)),
    (r"layers\.(\d+)\.mlp\.up_proj",              "out",     ("ffn_up-{}",)),
    (r"layers\.(\d+)\.mlp\.down_proj",            "in",      ("ffn_swiglu-{}",)),
    (r"layers\.(\d+)\.mlp\.down_proj",            "out",     ("ffn_out-{}",)),
    (r"layers\.(\d+)",                            "out",     ("l_out-{}",)),
    (r"norm",                                     "out",     ("result_norm",)),
)  # fmt: skip
GEMMA = {  # Gemma 2 and 3: the rows of DECODER that mean another tensor there
    r"embed_tokens":                             ("inp_scaled",),
    r"layers\.(\d+)\.post_attention_layernorm":  ("attn_post_norm-{}",),
    r"layers\.(\d+)\.mlp\.down_proj in":         ("ffn_geglu-{}",),
}  # fmt: skip
SANDWICH: tuple[Row, ...] = (
    (r"layers\.(\d+)\.pre_feedforward_layernorm",  "in",  ("sa_out-{}",)),
    (r"layers\.(\d+)\.pre_feedforward_layernorm",  "out", ("ffn_norm-{}",)),
    (r"layers\.(\d+)\.post_feedforward_layernorm", "out", ("ffn_post_norm-{}",)),
)  # fmt: skip


PERMUTED = ("Llama", "Mistral")  # converters reorder the rows of their Q and K, for llama.cpp's other pairing in RoPE


def rows_for(names: list[str], architecture: str) -> tuple[Row, ...]:
    """The table for a model whose modules have these names, and whose class this is."""
    if architecture.startswith(PERMUTED):
        return tuple(row for row in DECODER if not row[0].endswith(("q_proj", "k_proj")))
    if any(n.endswith(".pre_feedforward_layernorm") for n in names):
        rows = [
            (module, take, GEMMA.get(f"{module} {take}", GEMMA.get(module, taps) if take == "out" else taps))
            for module, take, taps in DECODER
            if (take, module[-24:]) != ("in", "post_attention_layernorm")  # the residual is not added yet
        ]
        return (*rows, *SANDWICH)
    return BERT + DECODER


@contextmanager
def watched(model: Any, taps: list[TracedTensor]) -> Iterator[None]:
    """While the block runs, what the model's modules compute is put into `taps`, in the order of execution."""
    modules = dict(model.named_modules())
    last = sum(bool(re.fullmatch(r"encoder\.layer\.\d+", name)) for name in modules) - 1
    rows, handles = rows_for(list(modules), type(model).__name__), []
    try:
        for name, module in modules.items():
            for pattern, take, given in rows:
                if found := re.fullmatch(pattern, name):
                    spoken = tuple(tap.format(*found.groups()) for tap in given)
                    if spoken == (f"l_out-{last}",) and name.startswith("encoder."):
                        spoken = ("result_embd",)
                    handles.append(hook(module, take, spoken, taps))
        yield
    finally:
        for handle in handles:
            handle.remove()


def hook(module: Any, take: str, names: tuple[str, ...], taps: list[TracedTensor]) -> Any:
    """Attach one row's hook; the handle that takes it off again."""

    def seen(_: Any, inputs: tuple[Any, ...]) -> None:
        if inputs:
            taps.append(TracedTensor(names[0], array(inputs[0])))

    def made(linear: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if take == "weights":
            if isinstance(output, tuple) and len(output) > 1 and output[1] is not None:
                taps.append(TracedTensor(names[0], array(output[1])))
            return
        bias = getattr(linear, "bias", None)
        if take == "product" and bias is not None:
            taps.append(TracedTensor(names[0], array(inputs[0].detach() @ linear.weight.detach().T), "MUL_MAT"))
        taps.append(TracedTensor(names[-1], array(first(output))))

    if take == "in":
        return module.register_forward_pre_hook(seen)
    attach: Callable[[Any], Any] = module.register_forward_hook
    return attach(made)


def first(output: Any) -> Any:
    """A layer's hidden states, which may come in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def array(x: Any) -> F32:
    """A tensor of one text, (1, T, ..) or (1, H, T, T), as float32 without the batch's axis."""
    found: F32 = np.array(x.detach().float().cpu().numpy(), np.float32)
    return found[0] if found.ndim > 2 and found.shape[0] == 1 else found
