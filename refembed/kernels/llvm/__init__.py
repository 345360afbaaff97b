"""What compiled kernels are built from: SIMD vectors, fused multiply-add, the microkernel of products, atomics."""
