"""Hypotheses about multi-head latent attention, and about K2's norms and values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.model.deepseek2 import rope_of_latent, yarn_length
from refembed.verify.hypotheses.changes import Row, named, replaced, scaled
from refembed.verify.hypotheses.experts import nothing_of
from refembed.verify.reference import Reference


def latent_rows(reference: Reference, names: set[str]) -> Iterator[Row]:
    """Scores of keys that a short vector makes; norms by groups; values that experts make."""
    hp = reference.model.hparams
    mla = hp.latent
    if mla is not None:
        shared = mla.n_lora_kv + mla.n_rot
        if mla.absorbed and shared != mla.n_key:
            yield "scale-latent", "scales scores by the width of the key that heads share, not by that of a head", (
                replaced(attention=scaled(math.sqrt(mla.n_key / shared)))), "scale"  # fmt: skip
        if mla.yarn_log_mul and hp.rope_scaling == "yarn":
            length = float(yarn_length(rope_of_latent(hp, mla), np.float32(mla.yarn_log_mul)))
            yield "scale-yarn-missing", "leaves YaRN's multiplier out of the scores", replaced(
                attention=scaled(length**-2)), "scale"  # fmt: skip
    if hp.n_norm_group > 1:
        yield "norm-groups-missing", "takes RMS norms over all channels, not over each group of them", replaced(
            rms_norm=over_all), "norm"  # fmt: skip
    if hp.arch == "k2-horizon" and "attn_gate.weight" in names:
        yield "output-gate-missing", "does not gate what the heads of attention give", replaced(
            linear=nothing_of("attn_gate")), "gate"  # fmt: skip  # log2(1 + 2^0) is 1
        yield "output-gate-base", "has softplus to the base of e, not of 2, in attention's gate", replaced(
            scale=without_base), "gate"  # fmt: skip


def over_all(true: Any, x: Float, w: Tensor | None, eps: float, *rest: Any) -> Float:
    """RMS norms of groups (T, G, C/G) over all channels: operations keep a weight in the shape they first saw it in."""
    if x.ndim < 3 or not named(w, "attn_norm", "ffn_norm", "output_norm"):
        return cast(Float, true.rms_norm(x, w, eps, *rest))
    y = true.rms_norm(x.reshape(len(x), -1), None, eps).reshape(x.shape)
    return cast(Float, (y * true.weight(w)).astype(x.dtype))


def without_base(true: Any, x: Float, by: float) -> Float:
    """Neither ln 2 before a softplus nor its inverse behind it."""
    return x if any(math.isclose(by, c) for c in (math.log(2), 1 / math.log(2))) else cast(Float, true.scale(x, by))
