"""What each tensor of a vision tower is: a line for each name of llama.cpp's graphs, with its formula.

Letters: x what a step reads, N patches, n tokens of the image, C channels, E channels of the text model, P patch size.
"""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """One line."""

    title: str
    formula: str = ""


VIT = "Dosovitskiy et al. 2020, An Image is Worth 16x16 Words"
TAPS: dict[str, Meaning] = {
    # from pixels to patches
    "inp_raw": Meaning("Pixels as the tower reads them: planes of red, green, blue", "(pixel / 255 - mean) / std"),
    "inp_raw_scaled": Meaning("Pixels from -1 to 1", "2 x - 1"),
    "patch_product": Meaning(
        "Each square of P x P pixels through one matrix: a patch is a row of C numbers", "W patch"
    ),
    "patch_product_1": Meaning("The same by the kernel of a film's second frame", "W₁ patch"),
    "patch_sum": Meaning("A picture is a film of two equal frames", "W patch + W₁ patch"),
    "patch_bias": Meaning("With its bias", "x + b"),
    "inp": Meaning("Patches, row by row"),
    "interpolated": Meaning("Learned embeddings of places, stretched from their square to this image's grid"),
    "pos_embed": Meaning("Where a patch is: its place's embedding is added", "x + e[place]"),
    "inp_pos_emb": Meaning("Where a patch is: its place's embedding is added", "x + e[place]"),
    "embd_x": Meaning("The embedding of each patch's column", "e[column]"),
    "pos_embd_x": Meaning("With the embedding of its column", "x + e[column]"),
    "embd_y": Meaning("The embedding of each patch's row", "e[row]"),
    "pos_embd": Meaning("With the embeddings of its column and row", "x + e[row]"),
    # attention
    "norm": Meaning(
        "Divided by its size, channel by channel of a patch", "(x - mean(x)) / sqrt(var(x) + eps), or x / rms(x)"
    ),
    "norm_w": Meaning("Times the norm's weights", "x · w"),
    "norm_b": Meaning("The norm's result", "x · w + b"),
    "layer_inp_normed": Meaning("The layer's input, normalized"),
    "ln1": Meaning("The layer's input, normalized"),
    "qkv_product": Meaning("Queries, keys and values side by side, without their bias", "x Wᵀ"),
    "qkv": Meaning("Queries, keys and values side by side", "x Wᵀ + b"),
    "Qcur_product": Meaning("Queries without their bias", "x Wᵀ"),
    "Qcur": Meaning("Queries: what each patch looks for"),
    "Kcur_product": Meaning("Keys without their bias", "x Wᵀ"),
    "Kcur": Meaning("Keys: what each patch offers to be found by"),
    "Vcur_product": Meaning("Values without their bias", "x Wᵀ"),
    "Vcur": Meaning("Values: what each patch gives to those that look at it"),
    "Vcur_normed": Meaning("Values over their size", "v / rms(v)"),
    "Qcur_rope": Meaning("Queries, half of each head turned by the row, half by the column"),
    "Kcur_rope": Meaning("Keys, turned likewise"),
    "Qcur_pos_x": Meaning("Queries, their first half turned by the column"),
    "Qcur_pos": Meaning("Queries, their second half turned by the row"),
    "Kcur_pos_x": Meaning("Keys, their first half turned by the column"),
    "Kcur_pos": Meaning("Keys, their second half turned by the row"),
    "kq": Meaning("How well each key answers each query", "Q Kᵀ"),
    "kq_soft_max": Meaning("Where each patch looks: a row adds up to 1", "softmax(scale · Q Kᵀ)"),
    "kqv": Meaning("What it finds there", "A V"),
    "kqv_out": Meaning("Heads side by side again"),
    "attn_out_product": Meaning("Through a matrix", "x Wᵀ"),
    "attn_out": Meaning("What attention brings to each patch", "x Wᵀ + b"),
    "attn_post_normed": Meaning("The same, normalized"),
    "ffn_inp": Meaning("Added to what the layer read: the residual connection", "x + a"),
    # feed-forward
    "ffn_inp_normed": Meaning("Normalized for the feed-forward layer"),
    "ffn_up": Meaning("A wider layer", "x Wᵀ"),
    "ffn_up_b": Meaning("With its bias", "x Wᵀ + b"),
    "ffn_gate": Meaning("The gate of the wider layer", "x Wᵀ"),
    "ffn_gelu": Meaning("GELU", "x Φ(x), by tanh"),
    "ffn_silu": Meaning("SiLU", "x sigmoid(x)"),
    "ffn_gelu_quick": Meaning("Quick GELU", "x sigmoid(1.702 x)"),
    "ffn_geglu": Meaning("Gated by GELU", "gelu(gate) · up"),
    "ffn_swiglu": Meaning("Gated by SiLU", "silu(gate) · up"),
    "ffn_geglu_quick": Meaning("Gated by quick GELU", "gate sigmoid(1.702 gate) · up"),
    "ffn_down": Meaning("Back to C channels", "x Wᵀ"),
    "ffn_out": Meaning("What the feed-forward layer brings to each patch"),
    "ffn_post_normed": Meaning("The same, normalized"),
    "layer_out": Meaning("The layer's result", "x + h"),
    "layer_out_scaled": Meaning("Times the layer's scale", "x · s"),
    # from patches to tokens
    "pool_2d": Meaning("Each square of patches becomes one: their mean", "mean of k x k patches"),
    "pooled": Meaning("Times sqrt(C)", "x sqrt(C)"),
    "std_shifted": Meaning("Less the mean of the training's tokens", "x - bias"),
    "std_scaled": Meaning("Times its scale", "x · scale"),
    "normed": Meaning("Over its size", "x / rms(x)"),
    "soft_emb_norm": Meaning("Normalized", "x / rms(x) · w"),
    "deepstack": Meaning(
        "DeepStack: what this layer leaves, projected for a layer of the text model", "gelu(x Wᵀ + b) W₂ᵀ + b₂"
    ),
    "deepstack_stacked": Meaning("Those of several layers side by side"),
    "projected": Meaning("Rows of the text model: each is one token of the image"),
    "concatenated": Meaning("With what DeepStack adds to further layers behind it"),
}
ENDS = {"_clamped": "Held between the limits of the matrix that reads it", "_unclamped": "Before the matrix's limits"}


def meaning(name: str) -> Meaning:
    """The line of a tensor: "kq_soft_max-3" has that of "kq_soft_max". KeyError where there is none.

    >>> meaning("kq-3").formula
    'Q Kᵀ'
    """
    base, _, layer = name.rpartition("-")
    base = base if base and layer.isdigit() else name
    for end, title in ENDS.items():
        if base.endswith(end):
            return Meaning(title)
    return TAPS[base]
