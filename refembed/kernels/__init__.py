"""Arrays in, arrays out: every operation of a forward pass, in several numerics. Nothing here knows a model.

ops          the interface, and `load_ops(name)`
exact        float64 NumPy: the number the formulas mean
fast         float32: BLAS for matrices, Numba (jit.py) for the rest
norms, activations, attention    the definitions, in readable NumPy
matmul       a matrix product whose rows do not depend on their neighbours
dequant      blocks of a GGUF tensor to float32
"""
