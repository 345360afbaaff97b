"""Mixtures of experts: which layers are, how wide their networks are, and how the router of DeepSeek weighs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from refembed.errors import ModelError
from refembed.model.keys import Keys
from refembed.model.traits import Traits

if TYPE_CHECKING:
    from refembed.model.hparams import Hparams

SOFTMAX, SIGMOID = 1, 2  # enum llama_expert_gating_func_type


@dataclass(frozen=True)
class Routing:
    """How a router chooses among experts and weighs them, where the file says so (DeepSeek-AI 2024, V3)."""

    gating: int  # {arch}.expert_gating_func: SOFTMAX or SIGMOID
    norm: bool  # {arch}.expert_weights_norm: the weights of a token's experts are made to add up to 1
    scale: float  # {arch}.expert_weights_scale: what they are then multiplied by; 0 and 1: nothing
    n_group: int  # {arch}.expert_group_count: groups of experts, of which each token takes some; 0 and 1: none
    n_group_used: int  # {arch}.expert_group_used_count


def read_routing(keys: Keys, traits: Traits, n_layer: int, n_vocab: int) -> Routing | None:
    """The record, or None for an architecture whose router is as its graph has it."""
    if traits.routing == "none":
        return None
    gating = keys.uint("expert_gating_func", 0, most=2)
    if not gating:  # older files; GLM 4.7 Flash among them is known by its sizes
        sigmoid = traits.routing == "sigmoid" or (n_layer in (47, 48) and n_vocab == 154880)
        gating = SIGMOID if sigmoid else SOFTMAX
    return Routing(
        gating=gating,
        norm=keys.md.flag(f"{keys.arch}.expert_weights_norm", False),
        scale=keys.float("expert_weights_scale", 0.0),
        n_group=keys.uint("expert_group_count", 0),
        n_group_used=keys.uint("expert_group_used_count", 0),
    )


def read_expert_width(keys: Keys, n_ff: int, traits: Traits) -> int:
    """Feed-forward width of one expert, where the architecture has one of its own; 0 elsewhere."""
    if traits.expert_width == "F" or not (traits.experts == "required" or keys.uint("expert_count", 0)):
        return 0
    if traits.expert_width == "own":
        return keys.uint("expert_feed_forward_length", least=1)
    return keys.uint("expert_feed_forward_length", 0) or n_ff // max(keys.uint("expert_used_count", 0), 1)


def read_value_experts(keys: Keys) -> dict[str, int]:
    """Groups of channels that norms take apart, and experts that make values (k2-horizon), by their names in `Hparams`.

    ModelError for numbers that llama.cpp aborts on.
    """
    groups = keys.uint("attention.group_norm_groups", 0) or 1
    n, used = (keys.uint(f"attention.value_expert_{count}", 0) for count in ("count", "used_count"))
    where = f"{keys.path}: {keys.arch}"
    if keys.uint("embedding_length") % groups:
        raise ModelError(f"{where}.attention.group_norm_groups is {groups}", hint="channels divide into groups")
    if used > n or (n and not used):
        hint = "see attention.value_expert_count and value_expert_used_count"
        raise ModelError(f"{where}: {used} value experts of {n} for a token", hint=hint)
    return {"n_norm_group": groups, "n_value_expert": n, "n_value_used": used}


def read_shared_width(keys: Keys, n_ff_exp: int, traits: Traits) -> int:
    """Feed-forward width of the expert that every token takes: of as many as {arch}.expert_shared_count, in one."""
    own = "expert_shared_feed_forward_length"
    if traits.shared_count == "none":
        return keys.uint(own, keys.uint("feed_forward_length", 0) if traits.shared_as_wide else 0)
    count = keys.uint("expert_shared_count", 0 if traits.shared_count == "optional" else None)
    width = keys.uint(own, 0) if traits.shared_count == "optional" else 0
    return (width or n_ff_exp * count) if count else 0


def read_moe_layers(keys: Keys, n_layer: int, traits: Traits) -> tuple[bool, ...]:
    """Which layers are mixtures of experts: with n = {arch}.moe_every_n_layers, layers 1, n + 1, 2n + 1 ..."""
    if traits.experts in ("all", "required"):
        return (keys.uint("expert_count", 0) > 0,) * n_layer
    if traits.experts.startswith("after dense"):
        none = traits.experts.endswith("if any") and not keys.uint("expert_count", 0)
        n_dense = n_layer if none else keys.uint("leading_dense_block_count", 0)
        return tuple(il >= n_dense for il in range(n_layer))
    n = keys.uint("moe_every_n_layers", 0, most=2**32 - 1) if traits.experts == "every n" else 0
    return tuple(n > 0 and il % n == 1 for il in range(n_layer))


def check_experts(hp: Hparams, keys: Keys, traits: Traits) -> None:
    """Refuse experts where the architecture has none, numbers that do not go together, and missing kinds of token."""
    where, n, used = f"{keys.path}: {hp.arch}", hp.n_expert, hp.n_expert_used
    if n and traits.experts == "none":
        raise ModelError(f"{where}: a mixture of experts; that is not computed yet")
    if used > n or (n and not used) or (any(hp.moe_layers) and not n) or (traits.experts == "required" and not n):
        raise ModelError(f"{where}: {used} experts of {n} for a token", hint="see expert_count and expert_used_count")
    if keys.uint("expert_group_count", 0) > 1 and hp.routing is None:
        raise ModelError(f"{where}: experts in groups are not computed")
    if traits.needs_token_types and not hp.n_token_types:
        hint = "llama.cpp refuses it too: a model of this architecture says how many kinds of token it has"
        raise ModelError(f"{where}: tokenizer.ggml.token_type_count is missing or 0", hint=hint)
    check_groups(hp, keys)


def check_groups(hp: Hparams, keys: Keys) -> None:
    """Refuse groups that experts do not divide into, or of which each token takes all or none: llama.cpp aborts."""
    if hp.routing is None or hp.routing.n_group < 2:
        return
    n, used = hp.routing.n_group, hp.routing.n_group_used
    if hp.n_expert % n or n >= hp.n_expert or not 0 < used < n or hp.n_expert_used > hp.n_expert // n * used:
        hint = "llama.cpp wants groups of equal size, and a token to take some of them that have experts enough"
        raise ModelError(f"{keys.path}: {hp.arch}: {used} groups of {n}, of {hp.n_expert} experts", hint=hint)
