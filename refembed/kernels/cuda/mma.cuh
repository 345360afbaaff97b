// Tensor cores, by PTX: rounding, and products of fragments, from compute capability 8.0 on (PTX ISA: cvt, mma).
//
// A warp multiplies 16 rows of A with 8 columns of B over 8 words of each, and adds that to 16 x 8 sums in float32. A
// word is one tf32 number, or two numbers of 16 bits, the earlier one in the low half. Lane 4 g + t (t from 0 to 3) has
//
//     a[0], a[1], a[2], a[3]   A's rows g, g + 8, g, g + 8, of them words t, t, t + 4, t + 4
//     b[0], b[1]               B's column g, of it words t, t + 4
//     c[0], c[1], c[2], c[3]   of the sums rows g, g, g + 8, g + 8, columns 2 t, 2 t + 1, 2 t, 2 t + 1
//
// tests/kernels/cuda/mma_on_cpu.h has functions of the same names for CPUs.
#ifdef __CUDACC__

// To the nearest, halves away from 0.
__device__ __forceinline__ unsigned int tf32_of(float x) {
    unsigned int y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

// To the nearest, halves to even; infinite beyond the largest.
__device__ __forceinline__ unsigned int fp16_pair(float low, float high) {
    unsigned int y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

__device__ __forceinline__ unsigned int bf16_pair(float low, float high) {
    unsigned int y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

#define MMA(name, kind)                                                                                        \
    __device__ __forceinline__ void name(float* c, const unsigned int* a, const unsigned int* b) {             \
        asm volatile("mma.sync.aligned." kind " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                      \
    }

// c += A B
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
MMA(mma_fp16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")

#endif
