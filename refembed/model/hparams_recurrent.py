"""Sizes of layers that keep a state from token to token: keys `{arch}.ssm.*` and `{arch}.wkv.*`, and which layers do;
and heads of keys, whose numbers may say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from refembed.errors import ModelError
from refembed.model.keys import LARGEST, Keys

if TYPE_CHECKING:
    from refembed.model.hparams import Traits


@dataclass(frozen=True)
class Ssm:
    """A state space model, or a delta rule. The letter in brackets is the one that shapes use."""

    n_conv: int  # (conv) {arch}.ssm.conv_kernel: tokens that the convolution in front sees
    n_inner: int  # (I) {arch}.ssm.inner_size: channels that are scanned, of all heads
    n_state: int  # (N) {arch}.ssm.state_size: of each channel; of a delta rule, the width of a head
    dt_rank: int  # (dt) {arch}.ssm.time_step_rank: heads; of Mamba 1, what the step is projected from
    n_group: int  # (G) {arch}.ssm.group_count: of heads that share B and C; of a delta rule, heads of keys
    dt_b_c_rms: bool = False  # {arch}.ssm.dt_b_c_rms: step, B and C are normed (Falcon Mamba)

    @property
    def sizes(self) -> dict[str, int]:
        """Letter -> number, for the shapes that architectures declare."""
        INNER, N, G, dt = self.n_inner, self.n_state, self.n_group, self.dt_rank
        sizes = {"conv": self.n_conv, "I": INNER, "2I": 2 * INNER, "N": N, "dt": dt, "2dt": 2 * dt, "G": G}
        sizes |= {"I/G": INNER // G, "I+2GN": INNER + 2 * G * N, "dt+2N": dt + 2 * N}
        return sizes | {"2I+2GN": 2 * (INNER + G * N), "2I+2GN+dt": 2 * (INNER + G * N) + dt}


@dataclass(frozen=True)
class Wkv:
    """RWKV-7's time mixing. The letter in brackets is the one that shapes use."""

    head_size: int  # {arch}.wkv.head_size
    n_decay: int  # (decay) {arch}.attention.decay_lora_rank
    n_iclr: int  # (iclr) {arch}.attention.iclr_lora_rank: of the rate at which the state learns
    n_value: int  # (value) {arch}.attention.value_residual_mix_lora_rank
    n_gate: int  # (gate) {arch}.attention.gate_lora_rank

    @property
    def sizes(self) -> dict[str, int]:
        """Letter -> number, for the shapes that architectures declare."""
        return {"decay": self.n_decay, "iclr": self.n_iclr, "value": self.n_value, "gate": self.n_gate, "6": 6}


def read_ssm(keys: Keys, traits: Traits) -> Ssm | None:
    """{arch}.ssm.*, or None for an architecture without. A delta rule has square states."""
    if traits.ssm == "none":
        return None
    one = traits.ssm == "mamba"  # has no groups
    ssm = Ssm(
        n_conv=keys.uint("ssm.conv_kernel", least=2),
        n_inner=keys.uint("ssm.inner_size", least=1),
        n_state=keys.uint("ssm.state_size", least=1),
        dt_rank=keys.uint("ssm.time_step_rank", least=1),
        n_group=1 if one else keys.uint("ssm.group_count", least=1),
        dt_b_c_rms=one and keys.md.flag(f"{keys.arch}.ssm.dt_b_c_rms", False),
    )
    where = f"{keys.path}: {keys.arch}.ssm"
    heads = ssm.n_inner if one else ssm.dt_rank
    if ssm.n_inner % heads or heads % ssm.n_group or ssm.n_inner % ssm.n_group:
        hint = "channels divide into heads, and heads into groups"
        raise ModelError(f"{where}: {ssm.n_inner} channels, {heads} heads, {ssm.n_group} groups", hint=hint)
    if traits.ssm == "delta" and ssm.n_inner != heads * ssm.n_state:
        hint = "a delta rule has as many channels of values as of keys in a head"
        raise ModelError(f"{where}: {ssm.n_inner} channels, but {heads} heads of {ssm.n_state}", hint=hint)
    if traits.ssm in ("mamba", "granite") and ssm.n_inner != 2 * keys.uint("embedding_length"):
        hint = "llama.cpp refuses it too: twice the model's channels"
        raise ModelError(f"{where}.inner_size is {ssm.n_inner}", hint=hint)
    return ssm


def read_wkv(keys: Keys, traits: Traits) -> Wkv | None:
    """{arch}.wkv.* and the ranks, or None for an architecture without."""
    if not traits.wkv:
        return None
    wkv = Wkv(
        head_size=keys.uint("wkv.head_size", least=1),
        n_decay=keys.uint("attention.decay_lora_rank", least=1),
        n_iclr=keys.uint("attention.iclr_lora_rank", least=1),
        n_value=keys.uint("attention.value_residual_mix_lora_rank", least=1),
        n_gate=keys.uint("attention.gate_lora_rank", 0, least=1),
    )
    C = keys.uint("embedding_length")
    if C % wkv.head_size or wkv.head_size % 32:
        hint = f"a multiple of 32 that divides the {C} channels; llama.cpp reads past the end of others"
        raise ModelError(f"{keys.path}: {keys.arch}.wkv.head_size is {wkv.head_size}", hint=hint)
    if (shifted := keys.uint("token_shift_count", 0)) != 2:
        raise ModelError(f"{keys.path}: {keys.arch}.token_shift_count is {shifted}", hint="llama.cpp wants 2")
    return wkv


def read_head_count(keys: Keys, traits: Traits) -> int:
    """H; 1 where there is no attention, whose files say 0."""
    return 1 if traits.recurrent == "all" else keys.uint("attention.head_count", least=1)


def read_block_count(keys: Keys, traits: Traits) -> int:
    """Layers that are computed: without those that draft further tokens."""
    n = keys.uint("block_count", least=1, most=512)
    drafting = keys.uint("nextn_predict_layers", 0) if traits.nextn else 0
    if drafting >= n:
        raise ModelError(f"{keys.path}: {keys.arch}.nextn_predict_layers is {drafting} of {n} layers")
    return n - drafting


def read_head_count_kv(
    keys: Keys, n_layer: int, n_head: int, traits: Traits
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """{arch}.attention.head_count_kv of each layer, else H; and which layers keep a state: those that have 0.

    Where the architecture says nothing else, layers must have as many heads each; else those with attention, and
    llama.cpp aborts where there are none of either kind.
    """
    key, recurrent = f"{keys.arch}.attention.head_count_kv", read_recurrent_layers(keys, n_layer, traits)
    listed = key in keys.md and keys.md.type_name(key).startswith("ARRAY")
    if traits.recurrent == "all":
        return (n_head,) * n_layer, recurrent
    if traits.recurrent != "heads" and not (traits.heads_by_layer and listed):
        return (keys.uint("attention.head_count_kv", n_head, least=1),) * n_layer, recurrent
    counts = [int(n) for n in keys.md.ints(key)]
    if len(counts) != n_layer:
        raise ModelError(f"{keys.path}: {key} has {len(counts)} numbers for {n_layer} layers")
    if traits.heads_by_layer:
        if not 0 < min(counts) <= max(counts) <= LARGEST:
            raise ModelError(f"{keys.path}: {key} is {sorted(set(counts))}", hint=f"1 to {LARGEST} make sense")
        return tuple(counts), recurrent
    heads = sorted(set(counts) - {0})
    if len(heads) != 1 or not 0 < heads[0] <= LARGEST or 0 not in counts:
        hint = "0 for a layer with a state, and one other number for all layers with attention; both must be there"
        raise ModelError(f"{keys.path}: {key} is {sorted(set(counts))}", hint=hint)
    return tuple(counts), tuple(n == 0 for n in counts)


def read_recurrent_layers(keys: Keys, n_layer: int, traits: Traits) -> tuple[bool, ...]:
    """Which layers keep a state in place of attention, where the architecture has both by a pattern of its own.

    {arch}.attention.recurrent_layers, a flag a layer; else all but every n-th, {arch}.full_attention_interval, else 4
    """
    if traits.recurrent != "interval":
        return (traits.recurrent == "all",) * n_layer
    key = f"{keys.arch}.attention.recurrent_layers"
    if key in keys.md:
        if not keys.md.type_name(key).startswith("ARRAY"):
            return (bool(keys.md[key]),) * n_layer
        flags = tuple(bool(flag) for flag in keys.md[key])  # type: ignore[union-attr]  # an array, as its type says
        if len(flags) < n_layer:
            raise ModelError(f"{keys.path}: {key} has {len(flags)} flags for {n_layer} layers")
        return flags[:n_layer]
    interval = keys.uint("full_attention_interval", 4, least=1)
    return tuple((il + 1) % interval != 0 for il in range(n_layer))
