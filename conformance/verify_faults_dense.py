# ruff: noqa: E501  (a table)
"""Faults for `verify_mutants` on decoders whose layers are built otherwise: in parallel, with norms behind, with ALiBi.

Most are an architecture's own file with a line of it rewritten: what someone writes who has read another model's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from conformance.mutants import batch, model, ops
from conformance.verify_mutants import Broken, Fault, mask, rope
from refembed.arrays import I64, Float
from refembed.kernels.ops import AttentionSpec, Ops


def rewritten(*pairs: tuple[str, str]) -> Broken:
    """The model computed by a copy of its architecture's file in which pieces are replaced."""

    def change(m: Any) -> Any:
        source, copy = Path(str(m.module.__file__)).read_text(encoding="utf-8"), ModuleType(m.module.__name__)
        for right, wrong in pairs:
            assert source.count(right) == 1, right
            source = source.replace(right, wrong)
        copy.__dict__.update(replace=dataclasses.replace)
        exec(compile(source, "fault", "exec"), copy.__dict__)
        return replace(m, module=copy)

    return model(change)


def geometric_slopes(
    true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, *rest: Any, **more: Any
) -> Float:
    """ALiBi as if any number of heads were a power of two."""
    places = np.arange(int(np.diff(offsets).max()))
    slopes = 2.0 ** (-8.0 * np.arange(1, spec.n_head + 1) / spec.n_head)
    far = -slopes[:, None, None] * abs(places[:, None] - places)
    spec = replace(spec, mask=replace(spec.mask, max_bias=0.0))
    return true.attention(q, k, v, spec, offsets, *rest, **{**more, "bias": far.astype(q.dtype)})


EACH_HEAD = "tap('norm', ops.rms_norm(heads({0}, hp), None, eps).reshape({0}.shape)) * blk.attn_{0}_norm.dequantize()"
ALL_HEADS = "tap('norm', ops.rms_norm({1}.reshape(len(x), -1), None, eps).reshape(len(x), -1, hp.n_embd_head)) * blk.attn_{0}_norm.dequantize()"

# fmt: off
FAULTS_DENSE: tuple[Fault, ...] = (
    Fault("gptneox-in-turn", "feed-forward waits for attention", ("parallel-in-turn",), model="gptneox", tensor="norm-0[1]",
          broken=rewritten(("if hp.parallel_residual:", "if False:"))),
    Fault("phi2-in-turn", "the same where both halves share a norm", ("parallel-in-turn",), model="phi2", tensor="ffn_up-0",
          broken=rewritten(("gelu_mlp(y, ", "gelu_mlp(ops.layer_norm(a + x, *blk.attn_norm, eps), "))),
    Fault("cohere2-in-turn", "the same with a gate and without biases", ("parallel-in-turn",), model="cohere2",
          tensor="ffn_gate-0", broken=rewritten(
              ("swiglu_mlp(y, ", "swiglu_mlp(ops.layer_norm(ops.linear(a, blk.attn_output) + x, blk.attn_norm, None, eps), "))),
    Fault("gpt2-parallel", "feed-forward does not wait for attention", ("in-turn-parallel",), model="gpt2", tensor="norm-0[1]",
          broken=rewritten(('x = tap("ffn_inp", ops.add(a, x))', 'z, x = x, tap("ffn_inp", ops.add(a, x))'),
                           ("ops.layer_norm(x, *blk.ffn_norm", "ops.layer_norm(z, *blk.ffn_norm"))),
    Fault("gpt2-no-positions", "no vectors for positions", ("position-missing",), model="gpt2", tensor="inpL",
          broken=rewritten(('x + taps("pos_embd", ops.get_rows(w.position_embd, batch.pos))', "x"))),
    Fault("gpt2-position-off", "positions from 1", ("position+1",), model="gpt2", tensor="pos_embd",
          broken=batch(lambda b: replace(b, pos=b.pos + 1))),
    Fault("bloom-slopes", "ALiBi's slopes for six heads as for eight", ("alibi-plain",), model="bloom", tensor="kq_soft_max-0",
          broken=ops(attention=geometric_slopes)),
    Fault("bloom-half", "half of ALiBi's exponent", ("alibi-half",), model="bloom", tensor="kq_soft_max-0",
          broken=mask(lambda m: replace(m, max_bias=4.0))),
    Fault("bloom-no-alibi", "no ALiBi", ("alibi-missing",), model="bloom", tensor="kq_soft_max-0",
          broken=mask(lambda m: replace(m, max_bias=0.0))),
    Fault("cohere2-rope-everywhere", "every layer turns", ("rope-everywhere",), model="cohere2", tensor="kq-3", broken=rewritten(
        ('tap("Qcur", ops.rope(q, batch.pos, rope)) if hp.swa_layers[il] else q', "ops.rope(q, batch.pos, rope)"),
        ('tap("Kcur", ops.rope(k, batch.pos, rope)) if hp.swa_layers[il] else k', "ops.rope(k, batch.pos, rope)"))),
    Fault("olmo2-norm-by-head", "queries and keys normalized head by head", ("qk-norm-by-head",), model="olmo2", tensor="norm-0",
          broken=rewritten(("ops.rms_norm(q, blk.attn_q_norm, eps, tap)", EACH_HEAD.format("q")),
                           ("ops.rms_norm(k, blk.attn_k_norm, eps, tap)", EACH_HEAD.format("k")))),
    Fault("exaone4-norm-whole", "queries and keys normalized all heads at once", ("qk-norm-whole",), model="exaone4",
          tensor="norm-0", broken=rewritten(
              ("ops.rms_norm(qkv.queries(), blk.attn_q_norm, eps, tap)", ALL_HEADS.format("q", "qkv.queries()")),
              ("ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap)", ALL_HEADS.format("k", "qkv.keys()")))),
    Fault("olmo2-norms-in-front", "norms in front, as Llama has them", ("post-norms-in-front",), model="olmo2", tensor="Qcur-0",
          broken=rewritten(("Qkv(x, ", "Qkv(ops.rms_norm(x, blk.post_attention_norm, eps), "),
                           ("ops.rms_norm(a, blk.post_attention_norm, eps, tap)", "a"),
                           ("swiglu_mlp(x, ", "swiglu_mlp(ops.rms_norm(x, blk.post_ffw_norm, eps), "),
                           ("ops.rms_norm(h, blk.post_ffw_norm, eps, taps)", "h"))),
    Fault("nemotron-relu", "ReLU without the square", ("relu",), model="nemotron", tensor="ffn_sqr(relu)-0",
          broken=rewritten(("ops.multiply(h, h)", "h"))),
    Fault("nemotron-gelu", "GELU in the place of squared ReLU", ("gelu",), model="nemotron", tensor="ffn_relu-0",
          broken=rewritten(("ops.relu(h)", "ops.gelu(h)"), ("ops.multiply(h, h)", "h"))),
    Fault("mpt-unclamped", "no limit of queries, keys and values", ("clamp-missing",), model="mpt", tensor="kq-0",
          broken=rewritten(("if hp.clamp_kqv > 0:", "if False:"))),
    Fault("gptneox-rope-whole", "whole heads turn", ("rope-whole",), model="gptneox", tensor="Qcur-0",
          broken=rope(lambda r: replace(r, n_dims=6))),
)
# fmt: on
