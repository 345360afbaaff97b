// Blocks with one scale: quant/dequant_legacy.py has the formulas. Products are taken from left to right, as there.
#include "common.cuh"
#include "blocks.cuh"

// plain numbers, rounded to float32
__device__ __forceinline__ float f32_weight(Block b, int j) { return f32_at(b); }
__device__ __forceinline__ float f64_weight(Block b, int j) {
    return (float)__longlong_as_double((long long)((unsigned long long)u32_at(b + 4) << 32 | u32_at(b)));
}
__device__ __forceinline__ float i8_weight(Block b, int j) { return (float)i8_at(b); }
__device__ __forceinline__ float i16_weight(Block b, int j) { return (float)(short)u16_at(b); }
__device__ __forceinline__ float i32_weight(Block b, int j) { return (float)(int)u32_at(b); }
__device__ __forceinline__ float i64_weight(Block b, int j) {
    return (float)(long long)((unsigned long long)u32_at(b + 4) << 32 | u32_at(b));
}
__device__ __forceinline__ float f16_weight(Block b, int j) { return f16_at(b); }
__device__ __forceinline__ float bf16_weight(Block b, int j) { return __uint_as_float(u16_at(b) << 16); }

// d, qs 2
__device__ __forceinline__ float q4_0_weight(Block b, int j) { return (float)(nibble(b + 2, j, 16) - 8) * f16_at(b); }

// d, m 2, qs 4
__device__ __forceinline__ float q4_1_weight(Block b, int j) {
    return (float)nibble(b + 4, j, 16) * f16_at(b) + f16_at(b + 2);
}

// d, qh 2, qs 6
__device__ __forceinline__ float q5_0_weight(Block b, int j) {
    return (float)((nibble(b + 6, j, 16) | bit(b + 2, j) << 4) - 16) * f16_at(b);
}

// d, m 2, qh 4, qs 8
__device__ __forceinline__ float q5_1_weight(Block b, int j) {
    return (float)(nibble(b + 8, j, 16) | bit(b + 4, j) << 4) * f16_at(b) + f16_at(b + 2);
}

// d, qs 2
__device__ __forceinline__ float q8_0_weight(Block b, int j) { return (float)i8_at(b + 2 + j) * f16_at(b); }

// d, s 2, qs 4
__device__ __forceinline__ float q8_1_weight(Block b, int j) { return (float)i8_at(b + 4 + j) * f16_at(b); }

// d, qs 2
__device__ __forceinline__ float q1_0_weight(Block b, int j) { return bit(b + 2, j) ? f16_at(b) : -f16_at(b); }

// d, qs 2
__device__ __forceinline__ float q2_0_weight(Block b, int j) {
    return (float)((b[2 + j / 4] >> j % 4 * 2 & 3) - 1) * f16_at(b);
}

// e, qs 1
__device__ __forceinline__ float mxfp4_weight(Block b, int j) {
    return fp4_of(nibble(b + 1, j, 16)) * ldexpf(1.0f, (int)b[0] - 128);
}

// Half of a float of 4 exponent and 3 mantissa bits.
__device__ __forceinline__ float ue4m3(int x) {
    int e = x >> 3 & 15, m = x & 7;
    if (x == 127) return 0.0f;
    return e == 0 ? ldexpf((float)m, -10) : ldexpf(1.0f + (float)m / 8.0f, e - 8);
}

// d for each 16, qs 4
__device__ __forceinline__ float nvfp4_weight(Block b, int j) {
    return fp4_of(nibble(b + 4 + j / 16 * 8, j % 16, 8)) * ue4m3(b[j / 16]);
}

// d, qs 2
__device__ __forceinline__ float iq4_nl_weight(Block b, int j) { return f16_at(b) * nl_of(nibble(b + 2, j, 16)); }

// Ternary digit i of the fraction x / 256.
__device__ __forceinline__ int digit(int x, int i) {
    for (int k = 0; k < i; k++) x = x * 3 & 255;
    return x * 3 >> 8;
}

// qs (32 bytes of five digits, then 16), qh 48 (4 bytes of four), d 52
__device__ __forceinline__ float tq1_0_weight(Block b, int j) {
    int q = j < 160   ? digit(b[j % 32], j / 32)
            : j < 240 ? digit(b[32 + (j - 160) % 16], (j - 160) / 16)
                      : digit(b[48 + (j - 240) % 4], (j - 240) / 4);
    return (float)(q - 1) * f16_at(b + 52);
}

// qs, d 64
__device__ __forceinline__ float tq2_0_weight(Block b, int j) { return (float)(two_bits(b, j) - 1) * f16_at(b + 64); }

DECODER(f32, 1, 4)
DECODER(f64, 1, 8)
DECODER(i8, 1, 1)
DECODER(i16, 1, 2)
DECODER(i32, 1, 4)
DECODER(i64, 1, 8)
DECODER(f16, 1, 2)
DECODER(bf16, 1, 2)
DECODER(q4_0, 32, 18)
DECODER(q4_1, 32, 20)
DECODER(q5_0, 32, 22)
DECODER(q5_1, 32, 24)
DECODER(q8_0, 32, 34)
DECODER(q8_1, 32, 36)
DECODER(q1_0, 128, 18)
DECODER(q2_0, 64, 18)
DECODER(mxfp4, 32, 17)
DECODER(nvfp4, 64, 36)
DECODER(iq4_nl, 32, 18)
DECODER(tq1_0, 256, 54)
DECODER(tq2_0, 256, 66)
