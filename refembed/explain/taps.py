"""What each tensor of a trace is, and the paper it comes from. ONE table; the formulas are in `formulas`.

Names are llama.cpp's (cb() in src/models/*.cpp and src/llama-graph.cpp), without the layer's number.
"""

from __future__ import annotations

from dataclasses import dataclass

from refembed.explain.operands import base_of
from refembed.explain.taps_of_states import TITLES
from refembed.explain.watch import Run

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
RADFORD = "Radford et al. 2019, GPT-2"
WANG = "Wang & Komatsuzaki 2021, GPT-J"
SO = "So et al. 2021, Primer"
MPT = "MosaicML 2023, MPT"
GEMMA2 = "Gemma Team 2024, Gemma 2"
GEMMA3N = "Google 2025, Gemma 3n: per-layer embeddings"
GEMMA4 = "Google DeepMind 2026, Gemma 4"
GPT_OSS = "OpenAI 2025, gpt-oss-120b & gpt-oss-20b Model Card"
QWEN2 = "Yang et al. 2024, Qwen2 Technical Report"
DEEPSEEK = "DeepSeek-AI 2024, DeepSeek-V2"
K2 = "IFM 2026, K2 Horizon"
LFM2 = "Liquid AI 2025, LFM2"
HU = "Hu et al. 2024, MiniCPM"
REIMERS = "Reimers & Gurevych 2019, Sentence-BERT"


STREAMS = {  # gemma3n: AltUp, LAuReL and sparse gates
    "altup_repeated": "The input, once for each further stream",
    "altup_products": "Further streams: products of the first",
    "squares": "Each number times itself",
    "squares_sum": "Their sum",
    "length": "The length of the vector",
    "altup_added_scaled": "Further streams, times the length of the first",
    "altup_added": "Further streams, as long as the first",
    "inp_stacked": "All streams",
    "router_weighted": "The router's input, normalized",
    "router_scaled": "The router's input, scaled",
    "router": "How well each stream suits each token",
    "modalities": "That, between -1 and 1",
    "all_coefs": "What each stream is multiplied by",
    "correct_coefs": "How much of what the first stream was off each stream takes",
    "predictions_mixed": "Streams mixed, token by token",
    "predictions": "What the layer would leave in each stream",
    "active_prediction": "The stream that the layer computes",
    "laurel_l": "To a low rank",
    "laurel_r": "Back to the model's width",
    "laurel_normed": "The product of low rank, normalized",
    "laurel_out": "The product of low rank and its input, added up",
    "attn_gated": "Attention's output added to the layer's input",
    "attn_laurel_sum": "Both, added up",
    "attn_laurel": "Their sum, scaled",
    "gate_mean": "The mean of each row of the gate",
    "gate_centered": "The gate less its mean",
    "gate_squares": "Each number times itself",
    "gate_squares_sum": "Their sum",
    "gate_variance": "The variance of each row of the gate",
    "gate_deviation": "Its deviation",
    "gate_above": "How far above the mean a gate must be",
    "gate_cutoff": "From where on a gate is let through",
    "gate_less": "The gate less that",
    "gate_top": "What of the gate is let through",
    "ffn_gated": "The gate through GELU, times the other product",
    "attn_ffw_laurel_gated": "Feed-forward's output added to its input",
    "innovation": "How far the first stream was off",
    "innovation_repeated": "That, once for each stream",
    "innovation_weighted": "That, as each stream takes it",
    "corrected": "Streams, corrected",
    "first_prediction_weighted": "The first stream, channel by channel",
    "first_prediction_gate": "The gate of this layer's per-layer input",
    "first_prediction_gated": "The gate through GELU",
    "first_prediction_scaled": "The gate times this layer's per-layer input",
    "first_prediction_proj": "The per-layer input, at the model's width",
    "first_prediction_out": "The per-layer input, normalized",
    "corrected_rest": "Further streams, plus the per-layer input",
    "unembd_products": "Further streams, through a matrix each",
    "altup_unembd_scaled": "These, times the length of the first stream",
    "altup_unembd": "These, as long as the first stream",
    "unembd_sum": "Streams added up, one after the other",
    "unembd_merged": "The mean of all streams",
}

NORM = "the norm's own"  # BA or ZHANG, by the operation
NORM_SOURCES = {"layer_norm": BA, "add_layer_norm": BA, "rms_norm": ZHANG}


@dataclass(frozen=True)
class Meaning:
    """One line of the table."""

    title: str
    source: str = ""  # the paper


@dataclass(frozen=True)
class Pooling:
    """One way of pooling."""

    title: str
    formula: str
    source: str = ""
    reads: str = ""  # GGUF tensors and keys, comma between


TAPS: dict[str, Meaning] = {name: Meaning(*line) for name, line in TITLES.items()} | {
    "embd": Meaning("A row of the table for each id", "Bengio et al. 2003, A Neural Probabilistic Language Model"),
    "model.embed_tokens": Meaning("A row of the table for each id", LFM2),
    "inp_rows": Meaning("A row of the table for each id", HU),
    "inp_embd": Meaning("The input embeddings", DEVLIN),
    "inp_scaled": Meaning("Scaled", VASWANI + ", section 3.4"),
    "pos_embd": Meaning("A row of the table for each position", RADFORD),
    "inpL": Meaning("Embeddings and positions added up", RADFORD),
    "inp_norm": Meaning("Normalized: the input of the first layer", NORM),
    "norm": Meaning("Normalized: before the weight", NORM),
    "norm_w": Meaning("That norm times its weight, channel by channel", NORM),
    "attn_norm": Meaning("Normalized, before attention", NORM),
    "attn_norm_2": Meaning("Normalized by a second norm, for attention alone", NORM),
    "ffn_norm": Meaning("Normalized, before feed-forward", NORM),
    "attn_post_norm": Meaning("Normalized, after attention", NORM),
    "ffn_post_norm": Meaning("Normalized, after feed-forward", NORM),
    "post_attn_norm": Meaning("Normalized, after attention", NORM),
    "post_mlp_norm": Meaning("Normalized, after feed-forward", NORM),
    "model.layers.{}.operator_norm": Meaning("Normalized, before attention or convolution", NORM),
    "model.layers.{}.ffn_out": Meaning("Normalized, before feed-forward", NORM),
    "wqkv": Meaning("Queries, keys and values by one matrix", VASWANI),
    "wqkv_b": Meaning("Queries, keys and values, with the bias", VASWANI),
    "wqkv_clamped": Meaning("Queries, keys and values, held within a limit", MPT),
    "Qcur": Meaning("Queries: what each token asks for", VASWANI),
    "Kcur": Meaning("Keys: what each token can be found by", VASWANI),
    "Vcur": Meaning("Values: what each token hands over", VASWANI),
    "Qcur_normed": Meaning("Queries normalized, head by head", NORM),
    "Kcur_normed": Meaning("Keys normalized, head by head", NORM),
    "Qcur_norm": Meaning("Queries normalized, head by head", NORM),
    "Kcur_norm": Meaning("Keys normalized, head by head", NORM),
    "model.layers.{}.self_attn.q_layernorm": Meaning("Queries normalized, head by head", NORM),
    "model.layers.{}.self_attn.k_layernorm": Meaning("Keys normalized, head by head", NORM),
    "Qcur_roped": Meaning("Queries rotated by their position", SU),
    "Kcur_roped": Meaning("Keys rotated by their position", SU),
    "Vcur_normed": Meaning("Values normalized, head by head", NORM),
    "Qcur_pos": Meaning("Queries rotated by their position", SU),
    "Kcur_pos": Meaning("Keys rotated by their position", SU),
    "Qcur_scaled": Meaning("Queries, scaled before the product", VASWANI),
    "v_cont": Meaning("Values laid out head by head", VASWANI),
    "pos_bias": Meaning("A number for each distance", RAFFEL),
    "kq": Meaning("Scores: every query with every key", VASWANI),
    "kq_plus_kq_b": Meaning("Scores, plus the bias of their distance", RAFFEL),
    "kq_scaled_1": Meaning("Scores over the cap", GEMMA2),
    "kq_tanh": Meaning("Scores held between -1 and 1", GEMMA2),
    "kq_scaled_2": Meaning("Scores held between -cap and cap", GEMMA2),
    "kq_soft_max": Meaning("Attention weights: each row adds up to 1", VASWANI + ", equation 1"),
    "kqv": Meaning("Values, weighted by attention", VASWANI),
    "kqv_out": Meaning("The heads' outputs side by side", VASWANI + ", section 3.2.2"),
    "attn_out": Meaning("Heads mixed by the output matrix", VASWANI),
    "model.layers.{}.self_attn.out_proj": Meaning("Heads mixed by the output matrix", VASWANI),
    "attn_product": Meaning("Heads mixed by the output matrix", VASWANI),
    "attn_scaled": Meaning("What attention adds, scaled", HU),
    "sa_out": Meaning("Attention's output added to the layer's input", HE),
    "ffn_inp": Meaning("Attention's output added to the layer's input", HE),
    "ffn_up": Meaning("To the feed-forward width, each token on its own", VASWANI + ", equation 2"),
    "ffn_up_b": Meaning("To the feed-forward width, with the bias", VASWANI + ", equation 2"),
    "ffn_gate": Meaning("The gate, each token on its own", SHAZEER),
    "ffn_gelu": Meaning("GELU: each number times Φ, the share of a standard normal distribution below it", HENDRYCKS),
    "ffn_relu": Meaning("ReLU: negative numbers become 0", RAFFEL),
    "ffn_sqr(relu)": Meaning("Squared ReLU", SO),
    "ffn_swiglu": Meaning("SwiGLU: the gate through SiLU, times the other product", SHAZEER),
    "ffn_geglu": Meaning("GEGLU: the gate through GELU, times the other product", SHAZEER),
    "ffn_geglu_erf": Meaning("GEGLU: the gate through GELU, times the other product", SHAZEER),
    "ffn_down": Meaning("Back to the model's width", VASWANI + ", equation 2"),
    "ffn_out": Meaning("Feed-forward's output", VASWANI + ", equation 2"),
    "ffn_scaled": Meaning("What feed-forward adds, scaled", HU),
    "parallel_out": Meaning("What attention and feed-forward add, side by side", WANG),
    "ffn_added": Meaning("Feed-forward's output added to the layer's input", WANG),
    "l_out": Meaning("The layer's output: feed-forward's output added to its input", HE),
    "pe_in": Meaning("Feed-forward's output added to its input", HE),
    "inp_per_layer_proj": Meaning("Per-layer inputs, projected from the embeddings", GEMMA3N),
    "inp_per_layer_scaled": Meaning("Per-layer inputs, scaled", GEMMA3N),
    "inp_per_layer": Meaning("Per-layer inputs normalized, layer by layer", NORM),
    "per_layer_gate": Meaning("The gate of this layer's per-layer input", GEMMA3N),
    "per_layer_gelu": Meaning("The gate through GELU", HENDRYCKS),
    "per_layer_gated": Meaning("The gate times this layer's per-layer input", GEMMA3N),
    "per_layer_proj": Meaning("The per-layer input, at the model's width", GEMMA3N),
    "per_layer_embd_out": Meaning("The per-layer input, normalized", NORM),
    "per_layer_added": Meaning("The per-layer input added", HE),
    "per_layer_rows": Meaning("A row for each id, with a part for each layer", GEMMA3N),
    **{name: Meaning(title, GEMMA3N) for name, title in STREAMS.items()},
    "ffn_moe_logits": Meaning("The router: how well each expert suits each token", MOE),
    "ffn_moe_probs": Meaning("The router's scores as probabilities", MOE),
    "ffn_moe_argsort": Meaning("Experts in order of probability", MOE),
    "ffn_moe_weights": Meaning("Weights of the chosen experts", MOE),
    "ffn_moe_weights_sum": Meaning("Their sum", MOE),
    "ffn_moe_weights_sum_clamped": Meaning("Their sum, at least 2^-14", MOE),
    "ffn_moe_weights_norm": Meaning("Weights that add up to 1", MOE),
    "ffn_moe_weights_softmax": Meaning("Weights of the chosen experts, which add up to 1", MOE),
    "ffn_moe_up": Meaning("To the feed-forward width, by each chosen expert", MOE),
    "ffn_moe_gate": Meaning("Each expert's gate", MOE),
    "ffn_moe_gelu": Meaning(
        "GELU: each number times Φ, the share of a standard normal distribution below it", HENDRYCKS
    ),
    "ffn_moe_silu": Meaning("SiLU: each number times its logistic function", SHAZEER),
    "ffn_moe_gate_up": Meaning("Gate and feed-forward width by one matrix, of each chosen expert", MOE),
    "ffn_moe_up_biased": Meaning("To the feed-forward width, with the expert's bias", MOE),
    "ffn_moe_gate_biased": Meaning("Each expert's gate, with its bias", MOE),
    "ffn_moe_down_biased": Meaning("Back to the model's width, with the expert's bias", MOE),
    "ffn_moe_down_scaled": Meaning("Each expert's output times a number of its own", GEMMA4),
    "ffn_moe_swiglu_oai": Meaning("SwiGLU, clamped, and 1 added to what is gated", GPT_OSS),
    "ffn_moe_swiglu": Meaning("SwiGLU: the gate through SiLU, times the other product", SHAZEER),
    "ffn_moe_down": Meaning("Back to the model's width, by each expert", MOE),
    "ffn_moe_weighted": Meaning("Each expert's output times its weight", MOE),
    "ffn_moe_out": Meaning("The chosen experts' outputs added up", MOE),
    "model.layers.{}.conv.in_proj": Meaning("Two gates and what they let through", LFM2),
    "conv_gated": Meaning("Gated: the first part times the third", LFM2),
    "model.layers.{}.conv.conv": Meaning("Each channel over the last few tokens", LFM2),
    "conv_gated_again": Meaning("Gated: the second part times the convolution", LFM2),
    "model.layers.{}.conv.out_proj": Meaning("Channels mixed", LFM2),
    "result_embd": Meaning("The last hidden states", DEVLIN),
    "result_norm": Meaning("The last hidden states, normalized", NORM),
    "final_norm_out": Meaning("The last hidden states, normalized", NORM),
    "result_embd_proj": Meaning("The last hidden states times a matrix: a vector of each token", REIMERS),
    "result_embd_pooled": Meaning("Pooled: one vector for the text", REIMERS),
    "dense_2": Meaning("A matrix after pooling", REIMERS),
    "cls_pooled": Meaning("What the head reads", DEVLIN),
    "cls": Meaning("The head's first matrix", DEVLIN),
    "cls_b": Meaning("The head's first matrix, with its bias", DEVLIN),
    "cls_tanh": Meaning("Held between -1 and 1", DEVLIN),
    "cls_gelu_erf": Meaning(
        "GELU: each number times Φ, the share of a standard normal distribution below it", HENDRYCKS
    ),
    "cls_norm": Meaning("The head's norm", NORM),
    "cls_output": Meaning("The head's outputs", DEVLIN),
    "cls_output_b": Meaning("The head's outputs, with the bias", DEVLIN),
    "Qcur_attn_temp_scaled": Meaning(
        "Queries that grow with the position in a long text", "Nakanishi 2025, Scalable-Softmax"
    ),
    "deepstack_out": Meaning("Where images would be added", ""),
    "attn_out_norm": Meaning("The first of two norms after attention", BA),
    "ffn_moe_sum": Meaning("The first few experts' outputs added up", MOE),
    "ffn_shexp": Meaning("Output of the expert that every token takes", MOE),
    "ffn_shexp_gate_inp": Meaning("How well the shared expert suits each token", QWEN2),
    "ffn_shexp_silu": Meaning("That through SiLU", QWEN2),
    "ffn_shexp_gate": Meaning("How much of the shared expert each token takes", QWEN2),
    "ffn_shexp_out": Meaning("The shared expert's output, as far as its gate lets it in", QWEN2),
    "router_norm": Meaning("The router's input, normalized", NORM),
    "router_scaled": Meaning("The router's input, scaled", GEMMA4),
    "router_weighted": Meaning("The router's input times its weight, channel by channel", GEMMA4),
    "ffn_norm_1": Meaning("Normalized, before feed-forward", NORM),
    "ffn_norm_2": Meaning("Normalized, before the experts", NORM),
    "ffn_mlp": Meaning("Feed-forward's output, normalized", NORM),
    "ffn_moe": Meaning("The experts' output, normalized", NORM),
    "ffn_moe_combined": Meaning("Feed-forward's output and the experts', added up", GEMMA4),
    "inp_per_layer_selected": Meaning("A row for each id, with a part for each layer", GEMMA3N),
    "inp_per_layer_rows": Meaning("Per-layer inputs of the tokens, scaled", GEMMA3N),
    "inp_per_layer_sum": Meaning("Per-layer inputs of tokens and embeddings, added up", GEMMA3N),
    "q": Meaning("Queries, or the short vector that they are made of", DEEPSEEK),
    "kv_cmpr_pe": Meaning("The short vector that keys and values are made of, and a piece of a key", DEEPSEEK),
    "k_pe": Meaning("The piece of a key that turns, the same for all heads, rotated by its position", SU),
    "kv_cmpr": Meaning("The short vector that keys and values are made of, normalized", NORM),
    "kv": Meaning("Keys and values of each head, made of the short vector", DEEPSEEK),
    "q_pe": Meaning("The end of each head's query, rotated by its position", SU),
    "q_nope_absorbed": Meaning("The rest of each head's query, times the matrix that makes its keys", DEEPSEEK),
    "kqv_mla": Meaning("What each head has mixed, times the matrix that makes its values", DEEPSEEK),
    "ffn_moe_probs_masked": Meaning("Scores of the experts in the best groups", DEEPSEEK),
    "ffn_moe_weights_scaled": Meaning("Weights of the chosen experts, times a number", DEEPSEEK),
    "group_norm": Meaning("Normalized, each group of channels by itself: before the weight", NORM),
    "Qcur_product": Meaning("Queries: what each token asks for", VASWANI),
    "Kcur_product": Meaning("Keys: what each token can be found by", VASWANI),
    "Vcur_product": Meaning("Values: what each token hands over", VASWANI),
    "out_gate_product": Meaning("The gate of attention's output", K2),
    "out_gate_ln2": Meaning("The gate, times the logarithm of 2", K2),
    "out_gate_softplus": Meaning("Softplus", K2),
    "out_gate": Meaning("How much of each channel is let through: softplus to the base of 2", K2),
    "attn_out_gated": Meaning("The heads' outputs, as far as the gate lets them through", K2),
    "v_moe_logits": Meaning("How well each expert suits each token, for its values", K2),
    "v_moe_p": Meaning("These scores as probabilities", K2),
    "v_moe_probs_biased": Meaning("Scores and what keeps all experts busy, added up", K2),
    "v_moe_argsort": Meaning("Experts in order of probability", K2),
    "v_moe_values": Meaning("Values, by each chosen expert", K2),
    "v_moe_silu": Meaning("SiLU: each number times its logistic function", SHAZEER),
    "v_moe_chosen": Meaning("Weights of the chosen experts", K2),
    "v_moe_sum": Meaning("Their sum", K2),
    "v_moe_clamped": Meaning("Their sum, at least 2^-14", K2),
    "v_moe_normed": Meaning("Weights that add up to 1", K2),
    "v_moe_weights": Meaning("Weights of the chosen experts", K2),
    "v_moe_weighted": Meaning("Each expert's values times its weight", K2),
    "v_moe_partial": Meaning("The first few experts' values added up", K2),
    "Vcur_routed": Meaning("Values: what each token hands over, of all its experts", K2),
    "cls_soft_max": Meaning("The head's outputs as probabilities", ""),
    "ffn_reglu": Meaning("ReGLU: the gate through ReLU, times the other product", SHAZEER),
    "ffn_gate_b": Meaning("The gate, with its bias", SHAZEER),
    "ffn_moe_geglu": Meaning("GEGLU: the gate through GELU, times the other product", SHAZEER),
    "dense_2_b": Meaning("A matrix after pooling, with its bias", REIMERS),
    "dense_3": Meaning("A second matrix after pooling", REIMERS),
}  # a name that is not here is shown with its formula alone

POOLINGS: dict[str, Pooling] = {
    "mean": Pooling("Mean of the tokens", "p = Σ x[t] / T", REIMERS, "{arch}.pooling_type = 1"),
    "cls": Pooling("The first token", "p = x[0]", DEVLIN, "{arch}.pooling_type = 2"),
    "last": Pooling(
        "The last token",
        "p = x[T-1]",
        "Wang et al. 2023, Improving Text Embeddings with Large Language Models",
        "{arch}.pooling_type = 3",
    ),
    "rank": Pooling(
        "A reranker's head",
        "score = head(p)",
        "Nogueira & Cho 2019, Passage Re-ranking with BERT",
        "{arch}.pooling_type = 4, cls.weight, cls.output.weight",
    ),
    "none": Pooling("No pooling: a vector a token", "p[t] = x[t]", "", "{arch}.pooling_type = 0, or absent"),
    "max": Pooling("The largest, channel by channel", "p = max over t of x[t]", REIMERS),
    "mean_sqrt_len": Pooling("Sum over the root of the length", "p = Σ x[t] / sqrt(T)", REIMERS),
    "weightedmean": Pooling("Later tokens count more", "p = Σ t x[t] / Σ t, t from 1", "Muennighoff 2022, SGPT"),
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


MARKS = {  # tokenizer.ggml.model -> how the vocabulary marks where a word begins
    "bert": "▁ begins a word, as GGUF files spell it; BERT's vocab.txt marks the pieces that continue one, by ##",
    "llama": "▁ stands for a space: a piece with it begins a word",
    "t5": "▁ stands for a space: a piece with it begins a word",
    "gpt2": "▁ stands for a space (Ġ in the vocabulary): a piece with it begins a word; ↵ is a new line (there Ċ)",
    "gemma4": "▁ stands for a space: a piece with it begins a word",
    "plamo2": "▁ stands for a space: a piece with it begins a word",
}


def meaning(run: Run, i: int) -> Meaning:
    """The line of the i-th tensor. One name may stand for several things: the operation that made it decides."""
    name, call = base_of(run.trace.tensors[i].name), run.shown[i].call
    line = TAPS.get(name, Meaning(""))
    if call is None:
        if name == "l_out" and base_of(run.trace.tensors[i - 1].name) == "per_layer_added":
            return Meaning("That sum times a number of the layer: the layer's output")
        if name == "ffn_out" and base_of(run.trace.tensors[i - 1].name) == "ffn_out":
            return TAPS["ffn_added"]  # gptneox
        if name == "Qcur" and base_of(run.trace.tensors[i - 1].name) in ("wqkv", "wqkv_b"):
            return line  # olmo2
        line = Meaning(line.title, ZHANG) if line.source == NORM else line  # phimoe's norms, whose bias comes last
        return {"Qcur": TAPS["Qcur_scaled"], "attn_out": TAPS["sa_out"]}.get(name, line)
    if line.source == NORM:
        whole = call.op == "rms_norm" and call["x"].ndim == 2
        title = line.title.replace("head by head", "all heads at once") if whole else line.title
        return Meaning(title, NORM_SOURCES.get(call.op, ""))
    if call.op in NORM_SOURCES and name not in ("norm", "norm_w"):
        return normalized(name, line, call.op)
    what = {"Qcur": "Queries", "Kcur": "Keys", "Vcur": "Values"}.get(name)
    if call.op == "rope" and what:
        return Meaning(f"{what} rotated by their position", SU)
    if call.op == "linear" and what and call["b"] is not None and not run.shown[i].inner:
        return Meaning(f"{what}, with the bias", VASWANI)
    if call.op == "linear" and name == "result_embd":
        return Meaning("The vector of each token, wider than the model", REIMERS)
    if call.op == "linear" and name == "kqv_out":
        return Meaning("Heads mixed by the output matrix", VASWANI)
    if call.op == "linear" and name == "ffn_out" and call["b"] is not None:
        return Meaning("Back to the model's width, with the bias", VASWANI + ", equation 2")
    return line


def normalized(name: str, line: Meaning, op: str) -> Meaning:
    """A tensor that a norm made, under a name that elsewhere stands for what is normalized."""
    titles = {
        "ffn_inp": "That sum, normalized: attention's half of the layer is done",
        "l_out": "That sum, normalized: the layer's output",
        "result_embd": "The last hidden states, normalized",
        "Qcur": "Queries, normalized",
        "Kcur": "Keys, normalized",
        "attn_out_norm": "That sum, normalized",
    }
    return Meaning(titles.get(name, line.title), NORM_SOURCES[op])
