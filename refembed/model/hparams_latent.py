"""Attention whose keys and values come of one short vector of each token: keys of DeepSeek's files (deepseek2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refembed.errors import ModelError
from refembed.model.keys import Keys
from refembed.model.traits import Traits

LITE = (26, 27)  # layers of models that make queries at once, whatever their files say; 48, with so many tokens, too
LITE_48 = (48, 128256)


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention. The letter in brackets is the one that shapes use."""

    n_head: int  # (H)
    n_lora_q: int  # (rq) {arch}.attention.q_lora_rank: what queries are made of; 0: of x at once
    n_lora_kv: int  # (rkv) {arch}.attention.kv_lora_rank: what keys and values are made of
    n_rot: int  # (rot) channels of a key that turn, the same for all heads
    n_key: int  # (Dk) width of a head of keys: {arch}.attention.key_length_mla, else key_length
    n_value: int  # (Dv) of values: {arch}.attention.value_length_mla, else value_length
    absorbed: bool  # whether the file has the two ..._mla, and a matrix for each head: attn_k_b, attn_v_b
    yarn_log_mul: float  # {arch}.rope.scaling.yarn_log_multiplier, times 10 as the converter divides it
    temp_length: int  # {arch}.attention.temperature_length: queries grow with every so many tokens; 0: they do not

    @property
    def n_nope(self) -> int:
        """(nope) channels of a key that do not turn."""
        return self.n_key - self.n_rot

    @property
    def sizes(self) -> dict[str, int]:
        """Letter -> number, for the shapes that architectures declare."""
        H, nope, Dv = self.n_head, self.n_nope, self.n_value
        sizes = {"rq": self.n_lora_q, "rkv": self.n_lora_kv, "rkv+rot": self.n_lora_kv + self.n_rot, "nope": nope}
        return sizes | {"Dv": Dv, "HDk": H * self.n_key, "HDv": H * Dv, "H(nope+Dv)": H * (nope + Dv)}

    def layers(self, every: frozenset[int]) -> dict[str, frozenset[int]]:
        """Kind of layer -> their numbers: all layers are of a kind, or none."""
        return kinds_of(self.n_lora_q, self.absorbed, every)


def kinds_of(n_lora_q: int, absorbed: bool, every: Any) -> dict[str, Any]:
    """Kind of layer -> `every`, or an empty set."""
    kinds = {"queries through a rank": n_lora_q > 0, "queries at once": n_lora_q == 0}
    kinds |= {"absorbed": absorbed, "not absorbed": not absorbed}
    return {kind: every if holds else type(every)() for kind, holds in kinds.items()}


def read_latent(keys: Keys, n_layer: int, n_vocab: int, traits: Traits) -> Latent | None:
    """The record, or None for an architecture without. ModelError for what llama.cpp aborts on."""
    if not traits.latent:
        return None
    where, n_head = f"{keys.path}: {keys.arch}", keys.uint("attention.head_count", least=1)
    lite = n_layer in LITE or (n_layer, n_vocab) == LITE_48
    own = [keys.uint(f"attention.{part}_length_mla", 0) for part in ("key", "value")]
    absorbed = all(own)
    if any(own) and not absorbed:
        raise ModelError(f"{where}: one of attention.key_length_mla and value_length_mla alone", hint="both, or none")
    stored = [keys.uint(f"attention.{part}_length", least=1) for part in ("key", "value")]
    n_key, n_value = own if absorbed else stored
    latent = Latent(
        n_head=n_head,
        n_lora_q=0 if lite else keys.uint("attention.q_lora_rank"),
        n_lora_kv=keys.uint("attention.kv_lora_rank", least=1),
        n_rot=keys.uint("rope.dimension_count", stored[0]),
        n_key=n_key,
        n_value=n_value,
        absorbed=absorbed,
        yarn_log_mul=float(np.float32(keys.float("rope.scaling.yarn_log_multiplier", 0.0)) / np.float32(0.1)),
        temp_length=keys.uint("attention.temperature_length", 0, most=2**31 - 1),
    )
    wide, n_head_kv = latent.n_lora_kv + latent.n_rot, keys.uint("attention.head_count_kv", n_head)
    if absorbed and (stored[0] != wide or n_head_kv != 1):
        hint = f"heads share one key of {wide} channels, kv_lora_rank and what turns; llama.cpp aborts on others"
        raise ModelError(f"{where}: {n_head_kv} heads of keys of {stored[0]}", hint=hint)
    if not absorbed and n_head_kv != n_head:
        hint = "without key_length_mla each head has keys of its own; convert the model again"
        raise ModelError(f"{where}.attention.head_count_kv is {n_head_kv}", hint=hint)
    if latent.n_nope < 1:
        hint = "llama.cpp aborts on it; some channels of a key must stay as they are"
        raise ModelError(f"{where}: {latent.n_rot} of {n_key} channels of a key turn", hint=hint)
    if keys.float("attention.temperature_scale", 0.0) and not latent.temp_length:
        raise ModelError(f"{where}: attention.temperature_scale without a temperature_length", hint="llama.cpp aborts")
    return latent
