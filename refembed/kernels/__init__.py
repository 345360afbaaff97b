"""Arrays in, arrays out: every operation of a forward pass, in several numerics. Nothing here knows a model.

ops          the interface; numerics has `load_ops(name)`
exact        float64 NumPy: the number the formulas mean
fast         float32: compiled kernels of our own (llvm/gemm, fast/attention, fast/elementwise ...),
             shared among cores (threads, blas, fast/thread_pool), replayed for short texts (fast/graph)
ggml         float32, rounded where llama.cpp rounds
cuda         float32 on a GPU: `cupy`
norms, activations, attention    the definitions, in readable NumPy
matmul       a product by BLAS whose rows do not depend on their neighbors, for `exact`
dequant      blocks of a GGUF tensor to float32
"""
