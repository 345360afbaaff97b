"""What stands on pooling: a reranker's classifier, and the dense layers of a sentence-transformers model.

    rank    row ─► cls ─► + bias ─► tanh ─► cls.norm ─► cls.output ─► + bias ─► softmax ─► scores (S, R)
    others  pooled ─► dense_2 ─► + bias ─► dense_3 ─► vectors (S, n_embd_out)

Each step is there where the model has its tensors. A score is what the last step gives: a logit, whose scale is the
model's own business, or where the architecture ends in softmax a share of 1. Mirrors build_pooling and build_dense_out
of llama.cpp's src/llama-graph.cpp. LoRA never reaches these tensors.

llama.cpp takes any model for a reranker. Without a head it gives R numbers of the hidden state as scores; of a head
wider than R it takes a part, and on one that is narrower it aborts. All three are refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from refembed.arrays import I64, Float
from refembed.errors import ModelError, RequestError
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.model import Model
from refembed.model.hparams import Hparams
from refembed.model.weights import Affine
from refembed.pooling.poolers import pool

# What some architectures do otherwise than the rest, by general.architecture
GELU = ("modern-bert",)  # after cls, GELU itself (by erf) where others have tanh
MEAN = ("modern-bert",)  # under the head, unless {arch}.classifier.pooling_type says otherwise
SOFTMAX = ("qwen3", "qwen3vl")  # over the labels: the file's matrix is two rows of the language model's, "yes" and "no"

Step: TypeAlias = "tuple[str, Callable[[Float], Float]]"  # its name in a trace, (S, ...) -> (S, ...)


def pooled(hidden: Float, offsets: I64, how: str, model: Model, ops: Ops, tap: Tap = NO_TAP) -> Float | list[Float]:
    """From hidden states to what llama.cpp calls `result_embd_pooled`: pooling, and the model's head.

    hidden   (T, C)  what `model.forward` returned
    offsets  (S+1)   text s is rows offsets[s] to offsets[s+1]
    how      a row of `pooling.POOLERS`, or "rank"
    tap      is shown the pooled states, and each step of the head
    returns  (S, D); rank: (S, R); none: a list of S arrays (T_s, D)
    Raises ModelError or RequestError as `check_rank` does.
    """
    if how == "rank":
        check_rank(model)
        row = pool(hidden, offsets, rank_pooling(model.hparams), ops.mean)
        return run(classifier(model, ops, tap), tap("cls_pooled", row), tap)  # type: ignore[arg-type]  # an array
    states = hidden if how == "none" else pool(hidden, offsets, how, ops.mean)
    vectors = run(dense(model, ops, tap), tap("result_embd_pooled", states), tap)  # type: ignore[arg-type]  # likewise
    return pool(vectors, offsets, "none") if how == "none" else vectors


def run(steps: list[Step], x: Float, tap: Tap) -> Float:
    """One step after the other; the last one's result bears llama.cpp's name for the whole."""
    for i, (name, step) in enumerate(steps):
        x = tap(name if i < len(steps) - 1 else "result_embd_pooled", step(x))
    return x


def classifier(model: Model, ops: Ops, tap: Tap) -> list[Step]:
    """The steps of a reranker's head: (S, C) -> (S, R)."""
    hp, cls, norm, out = model.hparams, *(affine_of(model, name) for name in ("cls", "cls_norm", "cls_output"))
    steps: list[Step] = []
    if cls:
        steps.append(("cls_b" if cls.bias else "cls", lambda x: ops.linear(x, *cls, tap, "cls")))
        steps.append(("cls_gelu_erf", ops.gelu_erf) if hp.arch in GELU else ("cls_tanh", ops.tanh))
        if norm:
            steps.append(("cls_norm", lambda x: ops.layer_norm(x, norm.weight, None, hp.norm_eps, tap)))
    if out:
        name = "cls_output_b" if out.bias else "cls_output"
        steps.append((name, lambda x: ops.linear(x, *out, tap, "cls_output")))
    if hp.arch in SOFTMAX:
        steps.append(("cls_soft_max", ops.softmax))
    return steps


def dense(model: Model, ops: Ops, tap: Tap) -> list[Step]:
    """The dense layers: (S, C) -> (S, n_embd_out). None for most models."""
    two, three = (affine_of(model, name) for name in ("dense_2", "dense_3"))
    steps: list[Step] = []
    if two:
        steps.append(("dense_2", lambda x: ops.linear(x, *two, tap, "dense_2")))
    if three:
        steps.append(("dense_3", lambda x: ops.linear(x, *three)))
    return steps


def affine_of(model: Model, name: str) -> Affine | None:
    """A head's tensor, with its bias where the architecture reads one; None where the model has none."""
    found: Any = getattr(model.weights, name, None)
    return Affine(found, None) if isinstance(found, Tensor) else found


def rank_pooling(hp: Hparams) -> str:
    """What a reranker's head stands on: the mean, else the first token, else, where tokens look back, the last."""
    if hp.pooling_cls == "mean" or (hp.pooling_cls is None and hp.arch in MEAN):
        return "mean"
    return "last" if hp.causal else "cls"


def is_share(hp: Hparams) -> bool:
    """Whether scores are shares of 1 already (softmax over the labels)."""
    return hp.arch in SOFTMAX


def width(hp: Hparams, how: str) -> int:
    """Numbers of a vector: R where `how` is "rank", else n_embd_out."""
    return hp.n_cls_out if how == "rank" else hp.n_embd_out


def check_rank(model: Model) -> None:
    """Refuse to rank by a model without a head, or whose head has not one row a label.

    ModelError where the file calls itself a reranker, RequestError where it does not.
    """
    hp, cls, out = model.hparams, affine_of(model, "cls"), affine_of(model, "cls_output")
    last = out or cls
    if last is None:
        message = "pooling 'rank' needs a classifier head, cls.weight or cls.output.weight, and this model has none"
        if hp.pooling == "rank":
            hint = "the file calls itself a reranker, but its head is lost: convert the model again"
            raise ModelError(message, hint=hint)
        raise RequestError(
            message,
            hint="this is no reranker: load one, or compare texts by the cosine of their vectors (another pooling)",
        )
    if last.weight.shape[0] != hp.n_cls_out:
        hint = f"{hp.arch}.classifier.output_labels counts the labels; where that key is absent there is one"
        raise ModelError(
            f"{last.weight.name} has {last.weight.shape[0]} rows for {hp.n_cls_out} labels: the head does not fit them",
            hint=hint,
        )


def check_dense(model: Model, path: str) -> None:
    """Refuse dense layers that do not end in as many numbers as the file says a vector has. ModelError."""
    hp, two, three = model.hparams, affine_of(model, "dense_2"), affine_of(model, "dense_3")
    widths = [model.width, *(d.weight.shape[0] for d in (two, three) if d)]
    if three and three.weight.shape[1] != widths[-2]:
        raise ModelError(f"{path}: dense_3 takes {three.weight.shape[1]} numbers, but is given {widths[-2]}")
    if widths[-1] != hp.n_embd_out:
        theirs = "llama.cpp aborts" if hp.n_embd_out > widths[-1] else "llama.cpp cuts a batch at the wrong places"
        hint = f"{hp.arch}.embedding_length_out says so, else {hp.arch}.embedding_length; {theirs}"
        raise ModelError(f"{path}: vectors have {widths[-1]} numbers, not {hp.n_embd_out}", hint=hint)
