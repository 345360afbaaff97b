# ruff: noqa: E501  (a table)
"""More of the list of `verify_faults`: routers with biases and groups, multi-head latent attention, K2's norms and gates."""

from __future__ import annotations

from dataclasses import replace

from conformance import architectures_faults
from conformance.mutants import model
from conformance.verify_mutants import Broken, Fault, written
from refembed.model import Model, routed

BASE_OF_E = "math = __import__('types').SimpleNamespace(log=lambda x: 1.0, sqrt=math.sqrt)\n\n\ndef output_gate("
WEIGHTS = "np.take_along_axis(p, chosen, axis=1))"


def in_routed(right: str, wrong: str) -> Broken:
    """One piece of `refembed.model.routed` written wrongly, for the architecture that uses it."""

    def change(m: Model) -> Model:
        same = architectures_faults.Fault("", "", "", "def layers(", "def layers(", "")
        module = architectures_faults.broken(m.module, same)  # a copy
        fault = architectures_faults.Fault("", "", "", right, wrong, "")
        module.__dict__.update(routed=architectures_faults.broken(routed, fault))
        return replace(m, module=module)

    return model(change)


# fmt: off
FAULTS_ROUTED: tuple[Fault, ...] = (
    Fault("lfm2moe-weights", "weights of experts as they are", ("router-not-normalized",), model="lfm2moe",
          tensor="ffn_moe_weighted-1", broken=written("lfm2moe", "normed(", "(lambda weights, tap: weights)(")),
    Fault("lfm2moe-softmax", "softmax in the router", ("router-softmax",), model="lfm2moe", tensor="ffn_moe_probs-1",
          broken=written("lfm2moe", "ops.sigmoid(logits) if", "ops.softmax(logits) if")),
    Fault("deepseek2-bias", "experts chosen without their bias", ("router-bias-missing",), model="deepseek2",
          tensor="ffn_moe_probs_biased-1", broken=in_routed("ops.add_bias(p, bias)", "p")),
    Fault("deepseek2-weighs", "the bias weighs experts too", ("router-bias-weighs",), model="deepseek2",
          tensor="ffn_moe_weights-1", broken=in_routed(WEIGHTS, WEIGHTS.replace("(p,", "(ops.add_bias(p, bias),"))),
    Fault("deepseek2-groups", "experts of all groups", ("router-groups-missing",), model="deepseek2", tensor="",
          broken=in_routed("if how.n_group > 1:", "if how.n_group > 10:")),
    Fault("deepseek2-unscaled", "weights of experts not scaled", ("router-weights-unscaled",), model="deepseek2",
          tensor="", broken=in_routed("ops.scale(weights, how.scale)", "weights")),
    Fault("deepseek2-scale", "scores scaled by the width of the shared key", ("scale-latent",), model="deepseek2",
          tensor="kq_soft_max-0", broken=written("deepseek2", "np.sqrt(f32(mla.n_key))", "np.sqrt(f32(mla.n_lora_kv + mla.n_rot))")),
    Fault("deepseek2-yarn", "scores without YaRN's multiplier", ("scale-yarn-missing",), model="deepseek2",
          tensor="kq_soft_max-0", broken=written("deepseek2", "yarn_length(rope, f32(mla.yarn_log_mul))", "f32(1)")),
    Fault("k2-horizon-gate", "attention without its gate", ("output-gate-missing",), model="k2-horizon",
          tensor="attn_out_gated-0", broken=written("k2-horizon", "ops.multiply(a, output_gate(y, blk.attn_gate, ops, tap))", "a")),
    Fault("k2-horizon-base", "a softplus to the base of e", ("output-gate-base",), model="k2-horizon", tensor="",
          broken=written("k2-horizon", "def output_gate(", BASE_OF_E)),
    Fault("k2-horizon-groups", "norms over all channels", ("norm-groups-missing",), model="k2-horizon", tensor="",
          broken=written("k2-horizon", "x.reshape(len(x), hp.n_norm_group, -1)", "x.reshape(len(x), 1, -1)")),
    Fault("k2-horizon-values", "experts of values chosen without their bias", ("value-router-bias-missing",),
          model="k2-horizon", tensor="", broken=written("k2-horizon", "ops.add_bias(p, blk.attn_v_gate.bias)", "p")),
)
# fmt: on
