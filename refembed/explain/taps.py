"""What each tensor of a trace is: formula, paper, and the GGUF tensors and keys that go into it. ONE table.

Names are llama.cpp's (cb() in src/models/*.cpp and src/llama-graph.cpp), less the layer's number. x stands for what
came before, W for the tensor named, · for each number with its own. `{arch}` is general.architecture, `{il}` the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

VASWANI = "Vaswani et al. 2017, Attention Is All You Need"
DEVLIN = "Devlin et al. 2018, BERT"
BA = "Ba, Kiros & Hinton 2016, Layer Normalization"
ZHANG = "Zhang & Sennrich 2019, Root Mean Square Layer Normalization"
SU = "Su et al. 2021, RoFormer: rotary position embedding"
HENDRYCKS = "Hendrycks & Gimpel 2016, Gaussian Error Linear Units"
SHAZEER = "Shazeer 2020, GLU Variants Improve Transformer"
MOE = "Shazeer et al. 2017, Outrageously Large Neural Networks"
HE = "He et al. 2015, Deep Residual Learning"
RAFFEL = "Raffel et al. 2019, T5"
GEMMA2 = "Gemma Team 2024, Gemma 2"
LFM2 = "Liquid AI 2025, LFM2"
HU = "Hu et al. 2024, MiniCPM"
QK_NORM = "Henry et al. 2020, Query-Key Normalization for Transformers"
REIMERS = "Reimers & Gurevych 2019, Sentence-BERT"


@dataclass(frozen=True)
class Meaning:
    """One line of the table."""

    title: str
    formula: str
    source: str = ""
    reads: str = ""  # GGUF tensors and keys, comma between


def row(title: str, formula: str, source: str = "", reads: str = "") -> Meaning:
    """A line."""
    return Meaning(title, formula, source, reads)


EPS = "{arch}.attention.layer_norm_epsilon"
RMS_EPS = "{arch}.attention.layer_norm_rms_epsilon"
HEADS = "{arch}.attention.head_count"
BLK = "blk.{il}."

NORMS = {  # Traits.norm -> what `norm` and the names behind it mean
    "layer": ("(x - mean(x)) / sqrt(var(x) + eps)", BA, EPS),
    "rms": ("x / sqrt(mean(x²) + eps)", ZHANG, RMS_EPS),
}


def normed(title: str, reads: str) -> Meaning:
    """A norm with its weight: filled in by the architecture's kind of norm."""
    return Meaning(title, "{norm} · W", "{norm_source}", f"{reads}, {{norm_eps}}")


TAPS: dict[str, Meaning] = {
    # from ids to the first hidden states
    "embd": row(
        "A row of the table for each id",
        "x[t] = token_embd[id[t]]",
        "Bengio et al. 2003, A Neural Probabilistic Language Model",
        "token_embd.weight",
    ),
    "model.embed_tokens": row("A row of the table for each id", "x[t] = token_embd[id[t]]", LFM2, "token_embd.weight"),
    "inp_rows": row("A row of the table for each id", "x[t] = token_embd[id[t]]", HU, "token_embd.weight"),
    "inp_embd": row(
        "What goes into the model",
        "token_embd[id[t]], plus rows for the kind of token and for its place, where the model has them",
        DEVLIN,
        "token_embd.weight, token_types.weight, position_embd.weight",
    ),
    "inp_scaled": row(
        "Made longer", "x · scale, sqrt(C) in Gemma", VASWANI + ", section 3.4", "{arch}.embedding_scale"
    ),
    "inp_norm": normed("Normalised, token by token", "token_embd_norm.weight, token_embd_norm.bias"),
    # norms
    "norm": row("Brought to one size, token by token", "{norm}", "{norm_source}", "{norm_eps}"),
    "norm_w": row("Each channel times its weight", "x · W", "{norm_source}", "the norm's weight"),
    "attn_norm": normed("Normalised, before attention", BLK + "attn_norm.weight"),
    "ffn_norm": normed("Normalised, before feed-forward", BLK + "ffn_norm.weight"),
    "attn_post_norm": normed("Normalised, behind attention", BLK + "post_attention_norm.weight"),
    "ffn_post_norm": normed("Normalised, behind feed-forward", BLK + "post_ffw_norm.weight"),
    "model.layers.{}.operator_norm": normed("Normalised, before attention or convolution", BLK + "attn_norm.weight"),
    "model.layers.{}.ffn_out": normed("Normalised, before feed-forward", BLK + "ffn_norm.weight"),
    # attention
    "wqkv": row("Queries, keys and values by one matrix", "x Wᵀ", VASWANI, BLK + "attn_qkv.weight"),
    "wqkv_b": row("Queries, keys and values, with the bias", "x Wᵀ + b", VASWANI, BLK + "attn_qkv.bias"),
    "Qcur": row("Queries: what each token asks for", "Q = x Wᵀ", VASWANI, BLK + "attn_q.weight"),
    "Kcur": row("Keys: what each token can be found by", "K = x Wᵀ", VASWANI, BLK + "attn_k.weight"),
    "Vcur": row("Values: what each token hands over", "V = x Wᵀ", VASWANI, BLK + "attn_v.weight"),
    "Qcur_normed": normed("Queries normalised, head by head", BLK + "attn_q_norm.weight"),
    "Kcur_normed": normed("Keys normalised, head by head", BLK + "attn_k_norm.weight"),
    "model.layers.{}.self_attn.q_layernorm": normed("Queries normalised, head by head", BLK + "attn_q_norm.weight"),
    "model.layers.{}.self_attn.k_layernorm": normed("Keys normalised, head by head", BLK + "attn_k_norm.weight"),
    "Qcur_roped": row(
        "Queries turned by their place",
        "each pair of channels by t · base^(-2i/D)",
        SU,
        "{arch}.rope.freq_base, {arch}.rope.dimension_count",
    ),
    "Kcur_roped": row(
        "Keys turned by their place",
        "each pair of channels by t · base^(-2i/D)",
        SU,
        "{arch}.rope.freq_base, {arch}.rope.dimension_count",
    ),
    "Qcur_scaled": row("Queries, scaled before the product", "Q / sqrt(D)", VASWANI, "{arch}.attention.key_length"),
    "v_cont": row(
        "Values laid out head by head", "V as (heads, D, T): the same numbers in another order", VASWANI, HEADS
    ),
    "pos_bias": row(
        "A number for each distance",
        "b[head, bucket(j - i)]",
        RAFFEL,
        "enc.blk.0.attn_rel_b.weight, {arch}.attention.relative_buckets_count",
    ),
    "kq": row("Scores: every query with every key", "S = Q Kᵀ, of each head", VASWANI, HEADS),
    "kq_plus_kq_b": row("Scores, plus what their distance adds", "S + b", RAFFEL, "enc.blk.0.attn_rel_b.weight"),
    "kq_scaled_1": row("Scores made small", "S / c", GEMMA2, "{arch}.attn_logit_softcapping"),
    "kq_tanh": row("Scores held between -1 and 1", "tanh(S / c)", GEMMA2, "{arch}.attn_logit_softcapping"),
    "kq_scaled_2": row("Scores held between -c and c", "c tanh(S / c)", GEMMA2, "{arch}.attn_logit_softcapping"),
    "kq_soft_max": row(
        "Attention: shares that add up to 1",
        "A = softmax(scale · S + mask), row by row; scale is mostly 1/sqrt(D), mask -inf where a token may not look",
        VASWANI + ", equation 1",
        "{arch}.attention.key_length, {arch}.attention.causal",
    ),
    "kqv": row("Values, mixed by those shares", "A V, of each head", VASWANI, HEADS),
    "kqv_out": row("Heads side by side", "concat(head 1, ..., head H)", VASWANI + ", section 3.2.2", HEADS),
    "attn_out": row("Heads mixed", "a Wᵀ", VASWANI, BLK + "attn_output.weight"),
    "model.layers.{}.self_attn.out_proj": row("Heads mixed", "a Wᵀ", VASWANI, BLK + "attn_output.weight"),
    "attn_scaled": row(
        "What attention adds, scaled",
        "a · 1.4 / sqrt(number of layers), unless the file says otherwise",
        HU,
        "{arch}.residual_scale",
    ),
    "sa_out": row("Added to what came into the layer", "x + a", HE),
    "ffn_inp": row(
        "Added to what came into the layer", "x + a; where the model normalises behind each step, normalised", HE
    ),
    # feed-forward
    "ffn_up": row("Made wide, each token on its own", "x Wᵀ", VASWANI + ", equation 2", BLK + "ffn_up.weight"),
    "ffn_up_b": row("Made wide, with the bias", "x Wᵀ + b", VASWANI + ", equation 2", BLK + "ffn_up.bias"),
    "ffn_gate": row("The gate, each token on its own", "x Wᵀ", SHAZEER, BLK + "ffn_gate.weight"),
    "ffn_gelu": row("Small numbers cut, smoothly", "x Φ(x), by tanh as llama.cpp computes it", HENDRYCKS),
    "ffn_relu": row("Negative numbers cut", "max(x, 0)", RAFFEL),
    "ffn_swiglu": row("Gated", "silu(gate) · up, silu(x) = x / (1 + e^-x)", SHAZEER),
    "ffn_geglu": row("Gated", "gelu(gate) · up", SHAZEER),
    "ffn_geglu_erf": row("Gated", "gelu(gate) · up, gelu by erf", SHAZEER),
    "ffn_down": row("Made narrow again", "h Wᵀ", VASWANI + ", equation 2", BLK + "ffn_down.weight"),
    "ffn_out": row(
        "What feed-forward adds",
        "h Wᵀ, with the bias where the model has one",
        VASWANI + ", equation 2",
        BLK + "ffn_down.weight, " + BLK + "ffn_down.bias",
    ),
    "ffn_scaled": row(
        "What feed-forward adds, scaled",
        "h · 1.4 / sqrt(number of layers), unless the file says otherwise",
        HU,
        "{arch}.residual_scale",
    ),
    "l_out": row("The layer's output", "x + h; where the model normalises behind each step, normalised", HE),
    # mixture of experts
    "ffn_moe_logits": row("How well each expert suits each token", "x Wᵀ", MOE, BLK + "ffn_gate_inp.weight"),
    "ffn_moe_probs": row("The same as shares", "softmax over the experts", MOE),
    "ffn_moe_argsort": row("Experts, the best first", "argsort", MOE, "{arch}.expert_count"),
    "ffn_moe_weights": row("Shares of those that are taken", "the first so many", MOE, "{arch}.expert_used_count"),
    "ffn_moe_weights_sum": row("Their sum", "Σ w", MOE),
    "ffn_moe_weights_sum_clamped": row("Their sum, kept from 0", "max(Σ w, 2^-14)", MOE),
    "ffn_moe_weights_norm": row("Shares that add up to 1", "w / Σ w", MOE),
    "ffn_moe_up": row("Made wide by each expert", "x Wᵀ", MOE, BLK + "ffn_up_exps.weight"),
    "ffn_moe_gate": row("Each expert's gate", "x Wᵀ", MOE, BLK + "ffn_gate_exps.weight"),
    "ffn_moe_gelu": row("Small numbers cut, smoothly", "x Φ(x)", HENDRYCKS),
    "ffn_moe_silu": row("Small numbers cut, smoothly", "x / (1 + e^-x)", SHAZEER),
    "ffn_moe_swiglu": row("Gated", "silu(gate) · up", SHAZEER),
    "ffn_moe_down": row("Made narrow by each expert", "h Wᵀ", MOE, BLK + "ffn_down_exps.weight"),
    "ffn_moe_weighted": row("Each expert's answer times its share", "w · h", MOE),
    "ffn_moe_out": row("Experts added up", "Σ w · h", MOE),
    # convolution
    "model.layers.{}.conv.in_proj": row(
        "Two gates and what they let through", "x Wᵀ", LFM2, BLK + "shortconv.in_proj.weight"
    ),
    "conv_gated": row("Gated", "B · x", LFM2),
    "model.layers.{}.conv.conv": row(
        "Each channel over the last few tokens",
        "Σ w[k] x[t-k]",
        LFM2,
        BLK + "shortconv.conv.weight, {arch}.shortconv.l_cache",
    ),
    "conv_gated_again": row("Gated again", "C · x", LFM2),
    "model.layers.{}.conv.out_proj": row("Channels mixed", "x Wᵀ", LFM2, BLK + "shortconv.out_proj.weight"),
    # behind the last layer
    "result_embd": row("The last hidden states", "one vector a token", DEVLIN),
    "result_norm": normed("The last hidden states, normalised", "output_norm.weight"),
    "final_norm_out": normed("The last hidden states, normalised", "output_norm.weight"),
    "result_embd_pooled": row("Pooled: one vector for the text", "see pooling", REIMERS, "{arch}.pooling_type"),
    "dense_2": row("A matrix behind pooling", "p Wᵀ", REIMERS, "dense_2.weight"),
    "cls_pooled": row(
        "What the head stands on", "the first token, the last, or the mean", DEVLIN, "{arch}.classifier.pooling_type"
    ),
    "cls": row("The head's first matrix", "p Wᵀ", DEVLIN, "cls.weight"),
    "cls_b": row("The head's first matrix, with its bias", "p Wᵀ + b", DEVLIN, "cls.bias"),
    "cls_tanh": row("Held between -1 and 1", "tanh(p)", DEVLIN),
    "cls_gelu_erf": row("Small numbers cut, smoothly", "x Φ(x)", HENDRYCKS),
    "cls_norm": normed("The head's norm", "cls.norm.weight"),
    "cls_output": row("The head's outputs", "p Wᵀ", DEVLIN, "cls.output.weight"),
    "cls_output_b": row("The head's outputs, with the bias", "p Wᵀ + b", DEVLIN, "cls.output.bias"),
}  # a name that is not here is shown with its shape and numbers alone

POOLINGS: dict[str, Meaning] = {
    "mean": row("Mean of the tokens", "p = Σ x[t] / T", REIMERS, "{arch}.pooling_type = 1"),
    "cls": row("The first token", "p = x[0]", DEVLIN, "{arch}.pooling_type = 2"),
    "last": row(
        "The last token",
        "p = x[T-1]",
        "Wang et al. 2023, Improving Text Embeddings with Large Language Models",
        "{arch}.pooling_type = 3",
    ),
    "rank": row(
        "A reranker's head",
        "score = head(p)",
        "Nogueira & Cho 2019, Passage Re-ranking with BERT",
        "{arch}.pooling_type = 4, cls.weight, cls.output.weight",
    ),
    "none": row("No pooling: a vector a token", "p[t] = x[t]", "", "{arch}.pooling_type = 0, or absent"),
    "max": row("The largest, channel by channel", "p = max over t of x[t]", REIMERS),
    "mean_sqrt_len": row("Sum over the root of the length", "p = Σ x[t] / sqrt(T)", REIMERS),
    "weightedmean": row("Later tokens count more", "p = Σ t x[t] / Σ t, t from 1", "Muennighoff 2022, SGPT"),
}

TOKENIZERS = {  # tokenizer.ggml.model -> how it is called, and where it comes from
    "bert": "WordPiece: Schuster & Nakajima 2012; Wu et al. 2016",
    "gpt2": "byte-pair encoding: Sennrich et al. 2016; of bytes: Radford et al. 2019, GPT-2",
    "gemma4": "byte-pair encoding: Sennrich et al. 2016",
    "llama": "SentencePiece: Kudo & Richardson 2018",
    "t5": "unigram language model: Kudo 2018, Subword Regularization",
    "rwkv": "the longest match: Peng et al. 2023, RWKV",
    "plamo2": "unigram language model: Kudo 2018, Subword Regularization",
}

TURNED = "each pair of channels turned by t · base^(-2i/D), t being the token's place"


def meaning(name: str, k: int, ndim: int, biased: bool, turned: bool = False) -> Meaning:
    """The line of a tensor: name without its layer, the how-manyth of that name in its layer, number of axes.

    biased  whether the file has the bias that goes with a repeated Qcur, Kcur or Vcur
    turned  whether this layer's Qcur was turned before: phi3 then scales it
    """
    if name == "Qcur" and turned:
        return TAPS["Qcur_scaled"]
    if name in ("Qcur", "Kcur") and ndim == 3:
        return row(
            f"{'Queries' if name == 'Qcur' else 'Keys'} turned by their place", TURNED, SU, "{arch}.rope.freq_base"
        )
    if name in ("Qcur", "Kcur", "Vcur") and k and biased:
        return row("... plus the bias", "x Wᵀ + b", VASWANI, f"{BLK}attn_{name[0].lower()}.bias")
    if name in ("Qcur", "Kcur", "Vcur") and k:
        return row("... after the next step", "normalised, or laid out by heads")
    if name == "kqv_out" and k:
        return row("Heads mixed", "a Wᵀ + b", VASWANI, f"{BLK}attn_output.weight, {BLK}attn_output.bias")
    return TAPS.get(name, row("", ""))
