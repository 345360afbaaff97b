"""Small models with random weights: every architecture that refembed computes, without its real weights.

    synthetic("tiny.gguf", "gemma3", H=6, K=2, window=8)

Sizes are odd on purpose: a formula that mixes up two of them fails. llama.cpp loads the files as refembed does, so the
two can be compared tensor by tensor; with float32 weights what differs is rounding alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.errors import RequestError
from refembed.gguf import GGUFWriter
from refembed.gguf.quants import quant_type
from refembed.kernels.quant.quantize import quantize
from refembed.model import ARCHITECTURES
from refembed.model.hparams import STREAMS, WIDTH_PER_LAYER, Traits
from refembed.model.hparams_latent import Latent, kinds_of
from refembed.model.hparams_recurrent import Ssm
from refembed.model.weights import Layers, declared

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "and", "it", "was", "in", "of", "to", "is"]
ALWAYS_F32 = (".bias", ".ssm_a", ".ssm_d", ".ssm_conv1d.weight", "norm.weight", "lerp_fused.weight", "lerp_k.weight")
LIKE_NORMS = ("layer_output_scale.weight", "ffn_norm", "attn_norm_2.weight", "time_mix_ln.weight", "ssm_d")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"


def synthetic(
    path: str | Path,
    arch: str,
    *,
    seed: int = 0,
    n_layer: int = 3,
    C: int = 36,
    H: int = 6,
    K: int | None = None,
    D: int = 10,
    F: int = 50,
    P: int = 128,
    V: int = 101,
    X: int = 0,
    n_used: int = 2,
    n_buckets: int = 32,
    conv: int = 3,
    E: int = 12,
    N: int = 10,
    G: int = 2,
    dt: int = 4,
    wide: bool = False,
    types: int = 2,
    window: int = 8,
    pooling: int | None = None,
    optional: Collection[str] = (),
    keys: Mapping[str, tuple[Any, str]] | None = None,
    type_name: str = "F32",
) -> Path:
    """Write a model of that architecture and return its path.

    seed       of the weights
    C H K D F  channels (rwkv7: at least so many, in heads of 32), heads, heads of keys (None: H), width of a head (BERT
               and similar models: C/H), feed-forward width
    P V        longest text, words: at least those of `vocabulary`
    X n_used   experts, and how many of them a token takes; in all layers or, nomic-bert-moe, in every second; 4
               experts where an architecture has none without them
    n_buckets  of distances (t5encoder)
    conv       width of a convolution (lfm2, mamba, qwen35 ...); in lfm2 layers 1, 4, 7 ... have attention, in qwen35
               layers 2, 5, 8 ..., unless a key says otherwise
    E          width of a per-layer input (gemma-embedding2)
    N G dt     numbers of a state, groups that share them, and heads (mamba2, qwen35); in mamba the rank of the step
    wide       where feed-forward's up may hold the gate as well (jina-bert-v2), it does
    types      kinds of token; XLM-RoBERTa has one
    window     {arch}.attention.sliding_window, where the architecture has one
    pooling    {arch}.pooling_type; None leaves the key out
    optional   which optional tensors to write, by the end of their names: {"attn_q.bias", "output.weight"};
               "attn_qkv.weight" replaces attn_q, attn_k and attn_v; "attn_kv_b.weight" attn_k_b and attn_v_b
    keys       more keys, or others: {"rope.freq_base": (1e6, "FLOAT32")}, without the architecture
    type_name  of matrices whose rows are whole blocks of it; the rest is F32
    Raises RequestError for an architecture that refembed does not compute.

    >>> from refembed import open_gguf
    >>> f = open_gguf(synthetic("tiny.gguf", "bert", n_layer=2, C=36))
    >>> f.metadata["general.architecture"], f.tensors["token_embd.weight"].shape
    ('bert', (101, 36))
    """
    if arch not in ARCHITECTURES:
        raise RequestError(f"there is no architecture {arch!r}", hint=f"one of {', '.join(sorted(ARCHITECTURES))}")
    module, K = ARCHITECTURES[arch], K or H
    X = X or 4 * (module.TRAITS.experts in ("required", "after dense"))
    K = (H if "attn_kv_b.weight" in optional else 1) if module.TRAITS.latent else K
    if arch == "bert" or module.TRAITS.heads in ("fill", "equal"):
        D = C // H
    if module.TRAITS.wkv:
        C = -(-C // 32) * 32
    dims = {"C": C, "H": H, "K": K, "D": D, "F": F, "P": P, "V": V, "X": X, "types": types}
    dims |= {"n_layer": n_layer, "n_used": n_used, "n_buckets": n_buckets, "conv": conv, "window": window, "E": E}
    dims |= {"N": N, "G": G, "dt": dt, "I": dt * N if module.TRAITS.ssm == "delta" else 2 * C}
    dims |= {"E": WIDTH_PER_LAYER} if module.TRAITS.streams else {}
    facts = facts_of(arch, module.TRAITS, dims) | ({} if pooling is None else {"pooling_type": (pooling, "UINT32")})
    facts |= latent_facts(dims, "attn_kv_b.weight" in optional) if module.TRAITS.latent else {}
    facts |= dict(keys or {})
    w = GGUFWriter(arch)
    name = "synthetic " + ("phi 3" if arch == "phi3" else arch)  # of "phi3" llama.cpp expects that model's tokens
    w.add("general.name", name, "STRING")
    for key, (value, kind) in facts.items():
        w.add(f"{arch}.{key}", value, kind)
    add_vocabulary(w, V, types)
    sizes = sizes_of(dims, facts, wide)
    layers = layers_of(module.TRAITS, dims, facts)
    by_layer = [sizes | head_sizes(dims, facts, module.TRAITS, il) for il in range(n_layer)]
    add_tensors(w, module.Weights, n_layer, sizes, optional, seed, type_name, layers, by_layer)
    return w.write(path)


def facts_of(arch: str, traits: Traits, dims: Mapping[str, int]) -> dict[str, tuple[Any, str]]:
    """Keys of the architecture, without its name: the arguments of `synthetic`, as far as it reads them."""
    K, D, n_layer = dims["K"], dims["D"], dims["n_layer"]
    facts: dict[str, tuple[Any, str]] = {
        "block_count": (n_layer, "UINT32"),
        "context_length": (dims["P"], "UINT32"),
        "embedding_length": (dims["C"], "UINT32"),
        "feed_forward_length": (dims["F"], "UINT32"),
        "attention.head_count": (dims["H"], "UINT32"),
        f"attention.layer_norm_{'rms_' if traits.norm == 'rms' else ''}epsilon": (1e-6, "FLOAT32"),
    }
    if traits.rope != "none" or traits.heads == "own":
        facts |= {f"attention.{x}_length": (D, "UINT32") for x in ("key", "value")}
        facts |= {"attention.head_count_kv": (K, "UINT32"), "rope.dimension_count": (D, "UINT32")}
    elif dims["H"] != K:
        facts["attention.head_count_kv"] = (K, "UINT32")
    if traits.window != "none":
        facts["attention.sliding_window"] = (dims["window"], "UINT32")
    if arch == "t5encoder":
        facts["attention.relative_buckets_count"] = (dims["n_buckets"], "UINT32")
    if arch == "gptneox":
        facts["use_parallel_residual"] = (True, "BOOL")
    if arch in ("cohere2", "granite", "granitemoe"):
        facts["logit_scale"] = (8.0, "FLOAT32")
    if traits.mrope:
        facts["rope.dimension_sections"] = ([-(-D // 6)] * 3 + [0], "ARRAY[INT32]")
    if traits.short_conv:
        facts["shortconv.l_cache"] = (dims["conv"], "UINT32")
    facts |= facts_of_states(traits, dims)
    if traits.value_experts:
        facts["attention.group_norm_groups"] = (2, "UINT32")
        counts = {"count": dims["X"], "used_count": dims["n_used"]} if dims["X"] else {}
        facts |= {f"attention.value_expert_{key}": (n, "UINT32") for key, n in counts.items()}
    if traits.per_layer_inputs:
        facts["embedding_length_per_layer_input"] = (dims["E"], "UINT32")
    if dims["X"]:
        facts |= {"expert_count": (dims["X"], "UINT32"), "expert_used_count": (dims["n_used"], "UINT32")}
        facts |= {"moe_every_n_layers": (2, "UINT32")} if traits.experts == "every n" else {}
        facts |= {"expert_feed_forward_length": (dims["F"] - 6, "UINT32")} if traits.expert_width == "own" else {}
        facts |= {"expert_shared_count": (1, "UINT32")} if traits.shared_count != "none" else {}
        if traits.experts.startswith("after dense"):
            facts |= {"leading_dense_block_count": (1, "UINT32"), "expert_gating_func": (2, "UINT32")}
    if not traits.window_pattern:
        facts["attention.sliding_window_pattern"] = ([il % 3 != 2 for il in range(n_layer)], "ARRAY[BOOL]")
        facts |= {f"attention.{x}_length_swa": (D, "UINT32") for x in ("key", "value")}
    return facts


def latent_facts(dims: Mapping[str, int], older: bool) -> dict[str, tuple[Any, str]]:
    """Keys of latent attention, without their architecture. older: as files with attn_kv_b have them."""
    D = dims["D"]
    rot, rank = D // 4 * 2, D + 4
    own = {"attention.key_length": D, "attention.value_length": D - 2}
    if not older:
        own = {f"{key}_mla": n for key, n in own.items()}
        own |= {"attention.key_length": rank + rot, "attention.value_length": rank}
    own |= {"attention.q_lora_rank": D + 6, "attention.kv_lora_rank": rank, "rope.dimension_count": rot}
    return {key: (n, "UINT32") for key, n in own.items()}


def latent_of(dims: Mapping[str, int], facts: Mapping[str, tuple[Any, str]]) -> Latent | None:
    """What these keys say of latent attention, as `read_latent` reads it; None where they say nothing."""
    if "attention.kv_lora_rank" not in facts:
        return None
    n = {key.removeprefix("attention."): value for key, (value, _) in facts.items()}
    n_key, n_value = (n.get(f"{part}_length_mla") or n[f"{part}_length"] for part in ("key", "value"))
    rank_q = 0 if dims["n_layer"] in (26, 27) else n["q_lora_rank"]
    absorbed = bool(n.get("key_length_mla"))
    return Latent(
        dims["H"], rank_q, n["kv_lora_rank"], n["rope.dimension_count"], n_key, n_value, absorbed, 0.0, 0
    )  # fmt: skip


def facts_of_states(traits: Traits, dims: Mapping[str, int]) -> dict[str, tuple[Any, str]]:
    """Keys of an architecture whose layers keep a state, without its name."""
    facts: dict[str, tuple[Any, str]] = {}
    if traits.ssm != "none":
        keys = {"conv_kernel": "conv", "inner_size": "I", "state_size": "N", "time_step_rank": "dt", "group_count": "G"}
        facts |= {f"ssm.{key}": (dims[letter], "UINT32") for key, letter in keys.items()}
        if traits.ssm == "mamba":
            del facts["ssm.group_count"]
    if traits.wkv:
        ranks = {"decay": 7, "iclr": 5, "value_residual_mix": 6, "gate": 9}
        facts |= {f"attention.{name}_lora_rank": (rank, "UINT32") for name, rank in ranks.items()}
        facts |= {"wkv.head_size": (32, "UINT32"), "token_shift_count": (2, "UINT32")}
    if traits.recurrent == "interval":
        facts["full_attention_interval"] = (3, "UINT32")
    if traits.recurrent == "heads":
        counts = [dims["K"] if il % 3 == 1 else 0 for il in range(dims["n_layer"])]
        facts["attention.head_count_kv"] = (counts, "ARRAY[UINT32]")
    if traits.recurrent == "all":
        facts |= {"attention.head_count": (0, "UINT32")}
    return facts


def ssm_sizes(facts: Mapping[str, tuple[Any, str]]) -> dict[str, int]:
    """Letter -> number, of those that {arch}.ssm.* decides."""
    if "ssm.state_size" not in facts:
        return {}
    keys = ("conv_kernel", "inner_size", "state_size", "time_step_rank", "group_count")
    n_conv, n_inner, n_state, dt_rank, n_group = (int(facts.get(f"ssm.{key}", (1, ""))[0]) for key in keys)
    return Ssm(n_conv, n_inner, n_state, dt_rank, n_group).sizes


def sizes_of(dims: Mapping[str, int], facts: Mapping[str, tuple[Any, str]], wide: bool) -> dict[str, int]:
    """Letter -> number, for the shapes that architectures declare, as `Hparams.sizes` has them for a file."""
    C, H, K, D, F = (dims[letter] for letter in "CHKDF")
    sizes = {letter: dims[letter] for letter in ("V", "C", "P", "F", "D", "H", "K", "X", "types", "conv", "E")}
    sizes |= {"HD": H * D, "KD": K * D, "HD+2KD": (H + 2 * K) * D, "C+2KD": C + 2 * K * D, "3C": 3 * C, "2F": 2 * F}
    sizes |= {"LE": dims["n_layer"] * facts.get("embedding_length_per_layer_input", (dims["E"], ""))[0], "D/2": D // 2}
    sizes |= {"2HD": 2 * H * D, "2HD+2KD": 2 * (H + K) * D} | STREAMS | ssm_sizes(facts)
    exp = facts.get("expert_feed_forward_length", (F // max(dims["n_used"], 1), ""))[0]
    sizes |= {"exp": exp, "2exp": 2 * exp}
    sizes |= {"rot/2": D // 2, "buckets": dims["n_buckets"], "F|2F": F << wide, "1": 1}
    sizes |= {f"dense_{i}": facts.get(f"dense_{i}_feat_{end}", (0, ""))[0] for i, end in ((2, "out"), (3, "in"))}
    sizes |= {"R": len(facts.get("classifier.output_labels", ([""], ""))[0])}
    sizes |= {"out": facts.get("embedding_length_out", (C, ""))[0]}
    sizes |= {rank: facts.get(f"attention.{rank}_lora_rank", (0, ""))[0] for rank in ("decay", "iclr", "gate")}
    shared = exp * facts["expert_shared_count"][0] if "expert_shared_count" in facts else F
    latent = latent_of(dims, facts)
    sizes |= latent.sizes if latent else {}
    sizes["VX"] = facts.get("attention.value_expert_count", (0, ""))[0]
    return sizes | {"6": 6, "shexp": facts.get("expert_shared_feed_forward_length", (shared, ""))[0]}


def head_sizes(
    dims: Mapping[str, int], facts: Mapping[str, tuple[Any, str]], traits: Traits, il: int
) -> dict[str, int]:
    """Letter -> number, of those that may differ in layer il, as `Hparams.sizes_of` has them for a file."""
    if traits.wkv:  # the first layer has the tensors of a mixture that it does not make, in a size of their own
        name = "value_residual_mix" if il else "iclr"
        return {"value|iclr": facts[f"attention.{name}_lora_rank"][0]}
    if not traits.heads_by_layer:
        return {}
    F = facts["feed_forward_length"][0]
    pattern = facts.get("attention.sliding_window_pattern", (traits.window_pattern, ""))[0]
    window = pattern[il] if isinstance(pattern, list) else pattern == 0 or il % pattern != pattern - 1
    counts = facts["attention.head_count_kv"][0]
    K = counts[il] if isinstance(counts, list) else counts
    D = facts.get("attention.key_length_swa", facts["attention.key_length"])[0] if window else dims["D"]
    own = {"F": F[il]} if isinstance(F, list) else {}
    return own | {"D": D, "HD": dims["H"] * D, "KD": K * D, "HD+2KD": (dims["H"] + 2 * K) * D}


def layers_of(traits: Traits, dims: Mapping[str, int], facts: Mapping[str, tuple[Any, str]]) -> Layers:
    """Kind of layer -> their numbers, as `Hparams.layers` has them for a file."""
    every = set(range(dims["n_layer"]))
    n = facts.get("moe_every_n_layers", (1, ""))[0]
    moe = {il for il in every if dims["X"] and (traits.experts in ("all", "required") or il % n == 1)}
    if traits.experts.startswith("after dense"):
        moe = {il for il in every if dims["X"] and il >= facts["leading_dense_block_count"][0]}
    heads_kv = facts.get("attention.head_count_kv", (dims["K"], ""))[0]
    recurrent = {il for il, count in enumerate(heads_kv) if not count} if isinstance(heads_kv, list) else set()
    if "full_attention_interval" in facts:
        interval = facts["full_attention_interval"][0]
        flags = facts.get("attention.recurrent_layers", ([(il + 1) % interval for il in sorted(every)], ""))[0]
        recurrent = {il for il in every if flags[il]}
    recurrent = every if traits.recurrent == "all" else recurrent
    own = [facts.get(f"expert_shared_{key}", (0, ""))[0] for key in ("feed_forward_length", "count")]
    shared = moe if own[traits.shared_count != "none"] else set()
    kinds = {"moe": moe, "dense": every - moe, "shared": shared, "recurrent": recurrent, "attention": every - recurrent}
    kinds |= {"of 64 or more": every if len(every) >= 64 else set()}
    mova = moe if facts.get("attention.value_expert_count", (0, ""))[0] else set()
    kinds |= {"value experts": mova, "one value": every - mova}
    latent = latent_of(dims, facts)
    kinds |= kinds_of(latent.n_lora_q, latent.absorbed, every) if latent else {}
    kinds["keys"] = set(range(len(every) - facts.get("attention.shared_kv_layers", (0, ""))[0]))
    kinds["per layer"] = every if facts.get("embedding_length_per_layer_input", (1, ""))[0] else set()
    flags = facts.get("attention.sliding_window_pattern", (1, ""))[0]
    kinds["sees all"] = {il for il in every if not flags[il]} if isinstance(flags, list) else every
    return kinds | {"longrope": {0}, "not longrope": {0}}  # what is asked for is written


def vocabulary(V: int) -> list[str]:
    """Word pieces: special ones, words, letters at the beginning and inside of words, and words to make up V."""
    pieces = [*SPECIAL, *(f"▁{word}" for word in WORDS), *(f"▁{c}" for c in LETTERS if c != "a"), *LETTERS[:26]]
    return pieces[:V] + [f"▁word{i}" for i in range(V - len(pieces))]


def add_vocabulary(w: GGUFWriter, V: int, types: int = 2) -> None:
    """WordPiece, the tokenizer that needs least; llama.cpp takes it for any architecture."""
    pieces = vocabulary(V)
    w.add("tokenizer.ggml.model", "bert", "STRING")
    w.add("tokenizer.ggml.tokens", [p.encode() for p in pieces], "ARRAY[STRING]")
    w.add("tokenizer.ggml.token_type", [3] * len(SPECIAL) + [1] * (V - len(SPECIAL)), "ARRAY[INT32]")
    w.add("tokenizer.ggml.token_type_count", types, "UINT32")
    for name, i in (("padding", 0), ("unknown", 1), ("bos", 2), ("seperator", 3), ("mask", 4)):
        w.add(f"tokenizer.ggml.{name}_token_id", i, "UINT32")


def add_tensors(
    w: GGUFWriter,
    declaration: type,
    n_layer: int,
    sizes: Mapping[str, int],
    optional: Collection[str],
    seed: int,
    type_name: str,
    layers: Layers,
    by_layer: Sequence[Mapping[str, int]],
) -> None:
    """Every tensor that the architecture declares, the optional ones where they are asked for.

    by_layer  the sizes of each layer, where they differ from the others'
    """
    rng = np.random.default_rng(seed)
    fused, older = "attn_qkv.weight" in optional, "ssm_in.weight" in optional
    for name, letters, presence in declared(declaration, n_layer, "", layers):
        il, end = name.split("blk.")[-1].split(".", 1) if "blk." in name else ("", name)
        replaced = fused and end.split(".")[0] in ("attn_q", "attn_k", "attn_v")
        replaced |= end.split(".")[0] in ("ffn_gate_exps", "ffn_up_exps") and "ffn_gate_up_exps.weight" in optional
        replaced |= end in ("attn_qkv.weight", "attn_gate.weight") and presence == "required" and older
        if replaced or (presence == "optional" and end not in optional):
            continue
        shape = tuple((by_layer[int(il)] if il else sizes)[letter] for letter in letters.split())
        add_tensor(w, name, weights(rng, end, shape), type_name)


def weights(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> F32:
    """Numbers of a size that keeps activations near 1."""
    x = rng.standard_normal(shape)
    if name.startswith("rope_f"):
        return np.asarray(1 + 7 * rng.random(shape), np.float32)  # RoPE divides by them
    if re.search(r"norm(_[12])?\.weight|scale", name) or name in LIKE_NORMS:
        return np.asarray(1 + 0.3 * x, np.float32)
    if name == "ssm_a":
        return np.asarray(-np.exp(x), np.float32)  # a state fades
    if name.endswith(".bias"):
        return np.asarray(0.3 * x, np.float32)
    return np.asarray(x if "embd" in name or "token_types" in name else x * 1.5 / math.sqrt(shape[-1]), np.float32)


def add_tensor(w: GGUFWriter, name: str, x: F32, type_name: str) -> None:
    """Store x as that type where it is a matrix of whole blocks; else, and what ggml reads as F32, as F32."""
    always = name == "token_types.weight" or name.endswith(ALWAYS_F32)
    whole = x.ndim >= 2 and x.shape[-1] % quant_type(type_name).weights == 0
    if type_name == "F32" or not whole or always:
        w.add_tensor(name, x, x.shape, "F32")
    else:
        w.add_tensor(name, quantize(x, type_name), x.shape, type_name)
