"""The `ggml` numerics: every operation rounds exactly where llama.cpp's CPU backend rounds (docs/numerics.md).

profile    which build to equal, as rows of a table
ops        the operations, `Ggml`                  lanes      registers: fused multiply-add, sums across lanes
floats     products with float weights             rows       norms, softmax, activations
quantized  products with quantized weights         attention  both ways of attention; rope
"""
