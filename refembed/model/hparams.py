"""The numbers a model is built from: keys `{arch}.*` of a GGUF file as one frozen record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from refembed.errors import ModelError
from refembed.gguf import GGUFFile
from refembed.model.hparams_experts import (
    Routing,
    check_experts,
    read_expert_width,
    read_moe_layers,
    read_routing,
    read_shared_width,
    read_value_experts,
)
from refembed.model.hparams_latent import Latent, read_latent
from refembed.model.hparams_recurrent import (
    Ssm,
    Wkv,
    read_block_count,
    read_head_count,
    read_head_count_kv,
    read_ssm,
    read_wkv,
)
from refembed.model.keys import LARGEST, Keys, positive
from refembed.model.traits import Traits as Traits
from refembed.tokenizer.vocab import NO_VOCAB

POOLING_NAMES = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}  # enum llama_pooling_type; -1 is "unspecified"
SCALINGS = ("none", "linear", "yarn", "longrope")  # enum llama_rope_scaling_type
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
STREAMS = {"S": 4, "S-1": 3, "SS": 16, "rank": 64}  # gemma3n: llama_hparams' n_altup, laurel_rank
WIDTH_PER_LAYER = 256  # ... and n_embd_altup


@dataclass(frozen=True)
class Hparams:
    """Sizes and constants. The letter in brackets is the one that shapes use."""

    arch: str  # general.architecture
    n_vocab: int  # (V) length of tokenizer.ggml.tokens
    n_embd: int  # (C) {arch}.embedding_length
    n_ctx: int  # (P) {arch}.context_length: the longest text the model was trained on, in tokens
    n_layer: int  # {arch}.block_count
    n_head: int  # (H) {arch}.attention.head_count
    n_head_kv: int  # (K) {arch}.attention.head_count_kv, else H; where layers differ, the most: see `n_head_kv_of`
    n_embd_head: int  # (D) width of a head: {arch}.attention.key_length, else C/H
    n_ff: int  # (F) {arch}.feed_forward_length
    n_token_types: int  # tokenizer.ggml.token_type_count
    n_cls_out: int  # (R) length of {arch}.classifier.output_labels, 1 where there are none
    norm_eps: float  # {arch}.attention.layer_norm_epsilon, or layer_norm_rms_epsilon
    pooling: str | None  # {arch}.pooling_type; None where the key is absent
    causal: bool  # {arch}.attention.causal, else true; llama.cpp's encoders see all whatever it says

    n_swa: int  # {arch}.attention.sliding_window in tokens; 0: none
    swa_layers: tuple[bool, ...]  # which layers have the window: {arch}.attention.sliding_window_pattern

    n_rot: int  # channels of a head that turn: {arch}.rope.dimension_count, else D; 0 without RoPE
    rope_pairs: Literal["norm", "neox"]  # the architecture's
    rope_freq_base: float  # {arch}.rope.freq_base, else 10000
    rope_freq_base_swa: float  # {arch}.rope.freq_base_swa: of layers with a window
    rope_scaling: str  # {arch}.rope.scaling.type: one of SCALINGS, else linear
    rope_factor: float  # {arch}.rope.scaling.factor, else 1; not for layers with a window
    rope_factor_swa: float  # ... unless the architecture says so; llama.cpp then does not ask for the type
    rope_attn_factor: float  # {arch}.rope.scaling.attn_factor, else 1
    n_ctx_orig: int  # {arch}.rope.scaling.original_context_length, else P

    n_expert: int = 0  # (X) {arch}.expert_count, else 0: no mixture of experts
    n_expert_used: int = 0  # {arch}.expert_used_count: experts of a token
    moe_layers: tuple[bool, ...] = ()  # which layers are mixtures of experts
    expert_gating_func: int = 0  # {arch}.expert_gating_func (lfm2moe): required; 1 softmax, 2 sigmoid
    n_ff_exp: int = 0  # {arch}.expert_feed_forward_length: of one expert, where it is not F

    soft_cap: float = 0.0  # {arch}.attn_logit_softcapping, else 50 (gemma2): c tanh(score / c)
    n_buckets: int = 0  # {arch}.attention.relative_buckets_count (t5encoder)
    hidden_activation: str = ""  # {arch}.hidden_activation (modern-bert): of the gate
    dense_2_feat_out: int = 0  # {arch}.dense_2_feat_out (gemma-embedding): rows of the first matrix after pooling
    dense_3_feat_in: int = 0  # {arch}.dense_3_feat_in: columns of the second
    labels: tuple[str, ...] = ()  # {arch}.classifier.output_labels: what a reranker's outputs stand for
    pooling_cls: str | None = None  # {arch}.classifier.pooling_type: what a reranker's head stands on (`heads`)

    # None where the key is absent: granite then leaves the step out, minicpm has numbers of its own
    embedding_scale: float | None = None  # {arch}.embedding_scale: of rows of token_embd
    residual_scale: float | None = None  # {arch}.residual_scale: of what a layer adds
    attention_scale: float = 0.0  # {arch}.attention.scale: of scores; 0 is 1/sqrt(D)
    rope_finetuned: bool = True  # {arch}.rope.scaling.finetuned: false turns RoPE off (granite)
    n_ff_shexp: int = 0  # {arch}.expert_shared_feed_forward_length: of the expert that every token takes
    yarn_beta_fast: float = 32.0  # {arch}.rope.scaling.yarn_beta_fast (mistral3)
    yarn_beta_slow: float = 1.0  # {arch}.rope.scaling.yarn_beta_slow
    yarn_log_mul: float = 0.0  # {arch}.rope.scaling.yarn_log_multiplier (mistral3)
    attn_temp_scale: float = 0.0  # {arch}.attention.temperature_scale (mistral3): how queries grow with the place
    max_alibi_bias: float = 0.0  # ALiBi: 8 (bloom), {arch}.attention.max_alibi_bias (mpt); 0: none
    clamp_kqv: float = 0.0  # {arch}.attention.clamp_kqv (mpt): largest magnitude of queries, keys, values; 0: any
    parallel_residual: bool = False  # {arch}.use_parallel_residual (gptneox): feed-forward does not wait for attention
    rope_sections: tuple[int, ...] = ()  # {arch}.rope.dimension_sections (qwen2vl, qwen3vl): pairs of each stream
    n_deepstack_layers: int = 0  # {arch}.n_deepstack_layers (qwen3vl): layers that images are added behind
    n_shortconv_l_cache: int = 0  # {arch}.shortconv.l_cache (lfm2): required; width of the convolution
    recurrent_layers: tuple[bool, ...] = ()  # which layers keep a state in place of attention
    ssm: Ssm | None = None  # {arch}.ssm.* (mamba, qwen35 ...): required
    wkv: Wkv | None = None  # {arch}.wkv.* (rwkv7): required
    latent: Latent | None = None  # keys and values of one short vector (deepseek2): required
    n_norm_group: int = 1  # {arch}.attention.group_norm_groups (k2-horizon), else 1: of channels that are normed apart
    n_value_expert: int = 0  # (VX) {arch}.attention.value_expert_count (k2-horizon), else 0: experts that make values
    n_value_used: int = 0  # {arch}.attention.value_expert_used_count
    routing: Routing | None = None  # how a router chooses and weighs, where the file says so (deepseek2, k2-horizon)
    n_embd_out: int = 0  # {arch}.embedding_length_out, else C: length of a vector
    n_embd_per_layer: int = 0  # (E) {arch}.embedding_length_per_layer_input (gemma-embedding2, gemma4): required
    n_layer_shared_kv: int = 0  # {arch}.attention.shared_kv_layers (gemma4), else 0: so many last layers have no keys

    # Of layers that are not like the others (gemma-embedding2, gemma4). Empty or 0: all are alike
    head_counts_kv: tuple[int, ...] = ()  # K of each layer
    n_ffs: tuple[int, ...] = ()  # F of each layer (gemma4)
    n_embd_head_swa: int = 0  # {arch}.attention.key_length_swa (gemma-embedding2, gemma4), else D: with the window
    n_rot_swa: int = 0  # {arch}.rope.dimension_count_swa (gemma-embedding2, gemma4), else rot: where the window is

    def n_head_kv_of(self, il: int) -> int:
        """K, the heads of keys, of layer il."""
        return self.head_counts_kv[il] if self.head_counts_kv else self.n_head_kv

    def n_embd_head_of(self, il: int) -> int:
        """D, the width of a head, of layer il."""
        return self.n_embd_head_swa if self.n_embd_head_swa and self.swa_layers[il] else self.n_embd_head

    def n_rot_of(self, il: int) -> int:
        """Channels of a head that turn in layer il."""
        return self.n_rot_swa if self.n_rot_swa and self.swa_layers[il] else self.n_rot

    @property
    def sizes(self) -> dict[str, int]:
        """Letter -> number, for the shapes that architectures declare; of layers that differ, see `sizes_of`."""
        C = self.n_embd
        sizes = {"V": self.n_vocab, "C": C, "P": self.n_ctx, "F": self.n_ff, "3C": 3 * C, "2F": 2 * self.n_ff}
        sizes |= self.head_sizes(self.n_head_kv, self.n_embd_head)
        sizes |= {"H": self.n_head, "rot/2": self.n_rot // 2, "buckets": self.n_buckets}
        sizes |= {"E": self.n_embd_per_layer, "LE": self.n_layer * self.n_embd_per_layer}
        sizes |= {"dense_2": self.dense_2_feat_out, "dense_3": self.dense_3_feat_in}
        sizes |= {"shexp": self.n_ff_shexp, "conv": self.n_shortconv_l_cache, "out": self.n_embd_out}
        for own in (self.ssm, self.wkv, self.latent):
            sizes |= own.sizes if own else {}
        sizes |= STREAMS if self.arch == "gemma3n" else {}
        sizes |= {"VX": self.n_value_expert, "exp": self.n_ff_exp, "2exp": 2 * self.n_ff_exp}
        return sizes | {"types": self.n_token_types, "R": self.n_cls_out, "X": self.n_expert, "1": 1}

    def head_sizes(self, K: int, D: int) -> dict[str, int]:
        """Letter -> number, of those that depend on K and D."""
        HD, KD = self.n_head * D, K * D
        sizes = {"K": K, "D": D, "D/2": D // 2, "HD": HD, "2HD": 2 * HD, "KD": KD, "HD+2KD": HD + 2 * KD}
        return sizes | {"2HD+2KD": 2 * (HD + KD), "C+2KD": self.n_embd + 2 * KD}

    def sizes_of(self, il: int) -> dict[str, int]:
        """Letter -> number, for the shapes of layer il."""
        own = {"F": self.n_ffs[il]} if self.n_ffs else {}
        return self.sizes | own | self.head_sizes(self.n_head_kv_of(il), self.n_embd_head_of(il))

    @property
    def layers(self) -> dict[str, frozenset[int]]:
        """Kind of layer -> their numbers, for declarations that are for some layers only."""
        moe = frozenset(il for il in range(self.n_layer) if self.moe_layers[il])
        every = frozenset(range(self.n_layer))
        recurrent = frozenset(il for il in every if self.recurrent_layers[il])
        kinds = {"moe": moe, "dense": every - moe, "shared": moe if self.n_ff_shexp else frozenset()}
        kinds["keys"] = frozenset(range(self.n_layer - self.n_layer_shared_kv))
        kinds["sees all"] = frozenset(il for il in every if not self.swa_layers[il])
        kinds["per layer"] = every if self.n_embd_per_layer else frozenset()
        longrope = every if self.rope_scaling == "longrope" else frozenset()
        kinds |= {"of 64 or more": every if self.n_layer >= 64 else frozenset()}  # command-r
        kinds |= {"recurrent": recurrent, "attention": every - recurrent}
        kinds |= self.latent.layers(every) if self.latent else {}
        mova = moe if self.n_value_expert else frozenset()
        kinds |= {"value experts": mova, "one value": every - mova}
        return kinds | {"longrope": longrope, "not longrope": every - longrope}


def not_negative(x: float) -> bool:
    """Whether x is a number from 0 on."""
    return 0 <= x < math.inf


def read_hparams(f: GGUFFile, traits: Traits) -> Hparams:
    """Read and check the record. A missing or mistyped key is a GGUFError, an impossible value a ModelError."""
    keys, md = Keys(f), f.metadata
    arch = keys.arch
    n_embd, n_head = keys.uint("embedding_length", least=1), read_head_count(keys, traits)
    if n_embd % n_head and f"{arch}.attention.key_length" not in md:
        raise ModelError(f"{f.path}: {n_embd} channels do not divide into {n_head} heads")
    n_ctx = keys.uint("context_length", least=1, most=2**32 - 1)
    n_layer = read_block_count(keys, traits)
    norm = "layer_norm_rms_epsilon" if traits.norm == "rms" else "layer_norm_epsilon"
    n_swa = read_window(keys, traits, n_layer)
    head_counts_kv, recurrent_layers = read_head_count_kv(keys, n_layer, n_head, traits)
    n_expert, n_expert_used = keys.uint("expert_count", 0, most=MAX_EXPERTS), keys.uint("expert_used_count", 0)
    if arch == "hunyuan-dense" and n_expert == 1:  # as converters write it for models without experts
        n_expert = n_expert_used = 0
    n_embd_head = keys.uint("attention.key_length", n_embd // n_head, least=1)
    n_ffs, n_vocab = read_n_ffs(keys, n_layer, traits), read_n_vocab(keys)
    n_ff_exp = read_expert_width(keys, max(n_ffs), traits)
    hp = Hparams(
        arch=arch,
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_ctx=n_ctx,
        n_layer=n_layer,
        n_head=n_head,
        n_head_kv=max(head_counts_kv),
        n_embd_head=n_embd_head,
        n_ff=max(n_ffs),
        n_token_types=md.uint("tokenizer.ggml.token_type_count", 0),
        n_cls_out=len(md.strings(f"{arch}.classifier.output_labels", ())) or 1,
        norm_eps=keys.float(f"attention.{norm}") if traits.epsilon else 0.0,
        pooling=read_pooling(keys),
        causal=not traits.encoder and md.flag(f"{arch}.attention.causal", True),
        n_swa=n_swa,
        swa_layers=read_pattern(keys, n_layer, traits) if n_swa and traits.recurrent == "none" else (False,) * n_layer,
        n_expert=n_expert,
        n_expert_used=n_expert_used,
        moe_layers=read_moe_layers(keys, n_layer, traits),
        expert_gating_func=keys.uint("expert_gating_func", least=1, most=2) if arch == "lfm2moe" else 0,
        soft_cap=keys.float("attn_logit_softcapping", 50.0, positive) if arch == "gemma2" else 0.0,
        n_buckets=read_buckets(keys) if arch == "t5encoder" else 0,
        hidden_activation=md.string(f"{arch}.hidden_activation", ""),
        dense_2_feat_out=keys.uint("dense_2_feat_out", 0),
        dense_3_feat_in=keys.uint("dense_3_feat_in", 0),
        labels=tuple(md.strings(f"{arch}.classifier.output_labels", ())),
        pooling_cls=read_pooling(keys, "classifier.pooling_type"),
        recurrent_layers=recurrent_layers,
        ssm=read_ssm(keys, traits),
        wkv=read_wkv(keys, traits),
        latent=read_latent(keys, n_layer, n_vocab, traits),
        routing=read_routing(keys, traits, n_layer, n_vocab) if n_expert else None,
        **read_rope(keys, n_ctx, n_embd_head, traits),
        n_ff_exp=n_ff_exp,
        n_ff_shexp=read_shared_width(keys, n_ff_exp, traits),
        n_ffs=n_ffs if traits.shares_kv else (),
        **read_rare(keys, n_embd, traits),
        **(read_heads_swa(keys, n_embd_head, head_counts_kv) if traits.heads_by_layer else {}),
    )
    check(hp, keys)
    check_experts(hp, keys, traits)
    check_heads(hp, keys, traits)
    check_rare(hp, keys)
    check_rope(hp, keys, traits)
    return hp


def read_n_vocab(keys: Keys) -> int:
    """V: as many as there are tokens; {arch}.vocab_size, or 0, of a model without a vocabulary."""
    if keys.md.of_type("tokenizer.ggml.model", str) in NO_VOCAB:
        return keys.uint("vocab_size", 0, most=2**31 - 1)
    return len(keys.md.strings("tokenizer.ggml.tokens"))


def read_n_ffs(keys: Keys, n_layer: int, traits: Traits) -> tuple[int, ...]:
    """{arch}.feed_forward_length of each layer; but for gemma4 all have as much. Where all have experts it may be 0."""
    key = f"{keys.arch}.feed_forward_length"
    if not (traits.shares_kv and key in keys.md and keys.md.type_name(key).startswith("ARRAY")):
        return (keys.uint("feed_forward_length", 0 if traits.experts == "required" else None),) * n_layer
    widths = tuple(int(n) for n in keys.md.ints(key))
    if len(widths) != n_layer or not 0 < min(widths) <= max(widths) <= LARGEST:
        raise ModelError(f"{keys.path}: {key} is {list(widths)}", hint=f"a number for each of {n_layer} layers")
    return widths


def read_heads_swa(keys: Keys, n_embd_head: int, head_counts_kv: tuple[int, ...]) -> dict[str, Any]:
    """Heads that differ by layer, by their names in `Hparams`."""
    return {
        "head_counts_kv": head_counts_kv,
        "n_embd_head_swa": keys.uint("attention.key_length_swa", n_embd_head, least=1),
        "n_rot_swa": keys.uint("rope.dimension_count_swa", keys.uint("rope.dimension_count", n_embd_head)),
    }


def read_rope(keys: Keys, n_ctx: int, n_embd_head: int, traits: Traits) -> dict[str, Any]:
    """What {arch}.rope.* says, by its name in `Hparams`."""
    freq_base = keys.float("rope.freq_base", 10000.0, positive)
    if keys.arch == "hunyuan-dense" and (alpha := keys.float("rope.scaling.alpha", 0.0)) > 0:  # NTK-aware scaling
        freq_base = float(np.float32(freq_base) * np.float32(alpha) ** np.float32(n_embd_head / (n_embd_head - 2)))
    factor = keys.float("rope.scaling.factor", keys.float("rope.scale_linear", 0.0)) or 1.0
    return {
        "n_rot": keys.uint("rope.dimension_count", n_embd_head) if traits.rope != "none" else 0,
        "rope_pairs": "norm" if traits.rope == "norm" else "neox",
        "rope_freq_base": freq_base,
        "rope_freq_base_swa": keys.float("rope.freq_base_swa", traits.freq_base_swa or freq_base, positive),
        "rope_scaling": keys.md.string(f"{keys.arch}.rope.scaling.type", "linear"),
        "rope_factor": factor,
        "rope_factor_swa": factor if traits.scaled_swa else 1.0,
        "rope_attn_factor": keys.float("rope.scaling.attn_factor", 1.0),
        "n_ctx_orig": keys.uint("rope.scaling.original_context_length", n_ctx, most=2**32 - 1),
    }


def read_rare(keys: Keys, n_embd: int, traits: Traits) -> dict[str, Any]:
    """What few architectures have, by its name in `Hparams`. None of it says anything to the others."""
    md, arch = keys.md, keys.arch
    scales = {
        name: keys.float(name) if f"{arch}.{name}" in md else None for name in ("embedding_scale", "residual_scale")
    }
    yarn = {
        "yarn_beta_fast": keys.float("rope.scaling.yarn_beta_fast", 32.0, positive),
        "yarn_beta_slow": keys.float("rope.scaling.yarn_beta_slow", 1.0, positive),
        "yarn_log_mul": keys.float("rope.scaling.yarn_log_multiplier", 0.0) if arch == "mistral3" else 0.0,
    }
    alibi = 8.0 if arch == "bloom" else 0.0
    if arch == "mpt":
        alibi = keys.float("attention.max_alibi_bias", 0.0, not_negative)
    sections: tuple[int, ...] = ()
    if traits.mrope:
        sections = tuple(int(n) for n in md.ints(f"{arch}.rope.dimension_sections"))
        if len(sections) != 4 or min(sections) < 0 or not 0 < sum(sections[:3]) <= sum(sections) <= LARGEST:
            hint = "four streams of positions, the first three with pairs of channels"
            raise ModelError(f"{keys.path}: {arch}.rope.dimension_sections is {list(sections)}", hint=hint)
    return {
        **scales,
        **yarn,
        "attention_scale": keys.float("attention.scale", 0.0),
        "rope_finetuned": md.flag(f"{arch}.rope.scaling.finetuned", True),
        "attn_temp_scale": keys.float("attention.temperature_scale", 0.0),
        "max_alibi_bias": alibi,
        "clamp_kqv": keys.float("attention.clamp_kqv", 0.0) if arch == "mpt" else 0.0,
        "parallel_residual": arch == "gptneox" and md.flag(f"{arch}.use_parallel_residual"),
        "rope_sections": sections,
        "n_deepstack_layers": keys.uint("n_deepstack_layers", 0),
        "n_shortconv_l_cache": keys.uint("shortconv.l_cache", least=2) if traits.short_conv else 0,
        "n_embd_out": keys.uint("embedding_length_out", 0) or n_embd,
        "n_embd_per_layer": read_per_layer(keys, traits),
        **(read_value_experts(keys) if traits.value_experts else {}),
        "n_layer_shared_kv": keys.uint("attention.shared_kv_layers", 0) if traits.shares_kv else 0,
    }


def read_per_layer(keys: Keys, traits: Traits) -> int:
    """{arch}.embedding_length_per_layer_input; gemma4 may have none, which is 0; gemma3n's is fixed."""
    if traits.streams:
        return WIDTH_PER_LAYER
    key = "embedding_length_per_layer_input"
    return keys.uint(key, least=0 if traits.shares_kv else 1) if traits.per_layer_inputs else 0


def read_pooling(keys: Keys, key: str = "pooling_type") -> str | None:
    """{arch}.pooling_type by name; None where it is absent or -1, "unspecified"."""
    number = keys.md.uint(f"{keys.arch}.{key}", None)
    if number is not None and number not in POOLING_NAMES and number not in (-1, 2**32 - 1):
        known = ", ".join(f"{i} {name}" for i, name in POOLING_NAMES.items())
        raise ModelError(f"{keys.path}: {keys.arch}.{key} is {number}", hint=f"llama.cpp knows {known}")
    return None if number is None else POOLING_NAMES.get(number)


def read_window(keys: Keys, traits: Traits, n_layer: int) -> int:
    """{arch}.attention.sliding_window; 0: none."""
    if traits.window == "none" or traits.window_n_layer not in (0, n_layer):
        return 0
    if traits.window_default:
        return keys.uint("attention.sliding_window", traits.window_default, least=1, most=2**32 - 1)
    if traits.window_required:
        return keys.uint("attention.sliding_window", least=1, most=2**32 - 1)
    return keys.uint("attention.sliding_window", 0, most=2**32 - 1)


def read_buckets(keys: Keys) -> int:
    """{arch}.attention.relative_buckets_count: half of them for either direction, half of those for one distance each.

    Below 4, and from 512 on, llama.cpp's logarithm of a distance divides by zero.
    """
    return keys.uint("attention.relative_buckets_count", least=4, most=511)


def read_pattern(keys: Keys, n_layer: int, traits: Traits) -> tuple[bool, ...]:
    """Which layers have the window: one flag a layer, or a period whose last layer has none (load_swa_pattern).

    With window_dense_first it is the first layer of a period that has none.
    """
    key = f"{keys.arch}.attention.sliding_window_pattern"
    if key in keys.md and keys.md.type_name(key).startswith("ARRAY"):
        flags = tuple(bool(flag) for flag in keys.md[key])  # type: ignore[union-attr]  # an array, as its type says
        if len(flags) != n_layer:
            raise ModelError(f"{keys.path}: {key} has {len(flags)} flags for {n_layer} layers")
        return flags
    if not traits.window_pattern:
        raise ModelError(f"{keys.path}: {key} must have a flag for each of {n_layer} layers")
    period = keys.uint("attention.sliding_window_pattern", traits.window_pattern)
    dense = 0 if traits.window_dense_first else period - 1
    return tuple(period == 0 or il % period != dense for il in range(n_layer))


def check(hp: Hparams, keys: Keys) -> None:
    """Refuse what no formula has a meaning for, and what is not computed yet."""
    where = f"{keys.path}: {hp.arch}"
    for K in hp.head_counts_kv or (hp.n_head_kv,):
        if hp.n_head % K:
            raise ModelError(f"{where}: {hp.n_head} query heads cannot share {K} heads of keys evenly")
    if not hp.latent and keys.uint("attention.value_length", hp.n_embd // hp.n_head) != hp.n_embd_head:
        raise ModelError(f"{where}: heads of keys and of values that differ in width are not computed")
    if hp.n_rot > hp.n_embd_head or hp.n_rot % 2:
        hint = f"an even number, at most the {hp.n_embd_head} of a head"
        raise ModelError(f"{where}.rope.dimension_count is {hp.n_rot}", hint=hint)
    if hp.rope_scaling not in SCALINGS:
        raise ModelError(f"{where}.rope.scaling.type is {hp.rope_scaling!r}", hint=f"one of {', '.join(SCALINGS)}")


def check_heads(hp: Hparams, keys: Keys, traits: Traits) -> None:
    """Refuse heads that llama.cpp's graph of this architecture has no room for, and those that differ by layer."""
    where = f"{keys.path}: {hp.arch}"
    width = hp.n_head * hp.n_embd_head
    if traits.rope != "none" and not hp.n_rot:
        hint = f"llama.cpp refuses it, aborts or never ends; a head has {hp.n_embd_head} channels"
        raise ModelError(f"{where}.rope.dimension_count is 0: nothing turns", hint=hint)
    if traits.heads in ("fill", "equal") and width != hp.n_embd:
        raise ModelError(f"{where}: {hp.n_head} heads of {hp.n_embd_head} channels do not make up {hp.n_embd}")
    if traits.heads in ("equal", "own") and hp.n_head_kv != hp.n_head:
        raise ModelError(f"{where}: {hp.n_head_kv} heads of keys for {hp.n_head} query heads; they must be as many")
    if traits.heads_by_layer:
        check_heads_swa(hp, keys)
        return
    sizes = {"attention.key_length": hp.n_embd_head, "attention.value_length": hp.n_embd_head}
    for key, size in (sizes | {"rope.dimension_count": hp.n_rot}).items():
        if keys.uint(f"{key}_swa", size) != size:
            raise ModelError(f"{where}.{key}_swa: layers with a window whose heads differ are not computed")


def check_heads_swa(hp: Hparams, keys: Keys) -> None:
    """Refuse heads of layers with a window whose keys and values differ in width, or that cannot turn."""
    where, D, rot = f"{keys.path}: {hp.arch}", hp.n_embd_head_swa, hp.n_rot_swa
    if (values := keys.uint("attention.value_length_swa", hp.n_embd_head)) != D:
        hint = "llama.cpp refuses it too: in layers with a window, as in the others, they must be alike"
        raise ModelError(f"{where}: heads of keys of {D} channels, of values of {values}, with a window", hint=hint)
    if not 0 < rot <= D or rot % 2:
        hint = f"an even number, at most the {D} of a head"
        raise ModelError(f"{where}.rope.dimension_count_swa is {rot}", hint=hint)
    first = hp.n_layer - hp.n_layer_shared_kv  # of those that read the keys of the last or the last but one before
    shared = set(hp.swa_layers[max(first, 0) :])
    if hp.n_layer_shared_kv and (first < 2 or any(hp.swa_layers[first - 1 - swa] != swa for swa in shared)):
        hint = "llama.cpp aborts on it: of the two layers before, the first must have a window and the second none"
        raise ModelError(f"{where}.attention.shared_kv_layers is {hp.n_layer_shared_kv}", hint=hint)


def check_rope(hp: Hparams, keys: Keys, traits: Traits) -> None:
    """Refuse heads that turn in part where llama.cpp's graph turns whole ones."""
    if traits.rope != "none" and traits.turns_whole_heads and hp.n_rot != hp.n_embd_head:
        hint = f"this architecture turns whole heads, {hp.n_embd_head} channels"
        raise ModelError(f"{keys.path}: {hp.arch}.rope.dimension_count is {hp.n_rot}", hint=hint)


def check_rare(hp: Hparams, keys: Keys) -> None:
    """Refuse what some file of one architecture may ask for, and llama.cpp aborts on or refembed does not compute."""
    if hp.arch == "modern-bert" and hp.hidden_activation == "relu":
        hint = "llama.cpp aborts on it; reglu is the gated one"
        raise ModelError(f"{keys.path}: modern-bert.hidden_activation is 'relu', which gates nothing", hint=hint)
    for key in ("dense_2_feat_in", "dense_3_feat_out"):
        if (width := keys.uint(key, 0)) not in (0, hp.n_embd):
            raise ModelError(f"{keys.path}: {hp.arch}.{key} is {width}, but the model has {hp.n_embd} channels")
    if not hp.causal and hp.n_shortconv_l_cache and hp.n_shortconv_l_cache % 2 == 0:
        hint = "llama.cpp aborts on it; an odd one has as many tokens on either side"
        raise ModelError(f"{keys.path}: {hp.arch}.shortconv.l_cache is {hp.n_shortconv_l_cache}", hint=hint)
    if sum(hp.rope_sections) > hp.n_embd_head:
        hint = f"llama.cpp aborts on more pairs than the {hp.n_embd_head} channels of a head"
        raise ModelError(f"{keys.path}: {hp.arch}.rope.dimension_sections is {list(hp.rope_sections)}", hint=hint)
    if (key := f"{hp.arch}.deepstack_mapping") in keys.md and (keys.md.ints(key) >= 0).any():
        raise ModelError(f"{keys.path}: {key}: pictures that enter behind several layers are not computed")
    if hp.arch == "glm4" and sum(n > 0 for n in keys.md.ints(f"{hp.arch}.rope.dimension_sections", ())[:2]) == 2:
        raise ModelError(f"{keys.path}: glm4.rope.dimension_sections: places of pictures (M-RoPE) are not computed")
    if hp.arch == "cohere2":
        keys.float("logit_scale")  # of the next token alone; llama.cpp refuses a file without it
    if keys.uint("decision.block_count", 0):
        raise ModelError(f"{keys.path}: {hp.arch}: a decision model, whose last layers score answers; not computed")
