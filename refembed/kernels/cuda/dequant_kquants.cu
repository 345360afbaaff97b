// K-quants, 256 weights with a scale for each 16 or 32: quant/dequant_kquants.py has the formulas.
#include "common.cuh"
#include "blocks.cuh"

// scales, qs 16, d 80, dmin 82
__device__ __forceinline__ float q2_k_weight(Block b, int j) {
    int sc = b[j / 16];
    return f16_at(b + 80) * (float)(sc & 15) * (float)two_bits(b + 16, j) - f16_at(b + 82) * (float)(sc >> 4);
}

// hmask, qs 32, scales 96, d 108
__device__ __forceinline__ float q3_k_weight(Block b, int j) {
    int q = two_bits(b + 32, j) - (b[j % 32] >> j / 32 & 1 ? 0 : 4), s = j / 16;
    int sc = nibble(b + 96, s, 8) | (b[104 + s % 4] >> s / 4 * 2 & 3) << 4;
    return f16_at(b + 108) * (float)(sc - 32) * (float)q;
}

// Scale s and minimum s of 8, six bits each, of 12 bytes (Q4_K, Q5_K).
__device__ __forceinline__ int scale_of(Block b, int s) {
    return s < 4 ? b[s] & 63 : (b[s + 4] & 15) | b[s - 4] >> 6 << 4;
}
__device__ __forceinline__ int minimum_of(Block b, int s) {
    return s < 4 ? b[s + 4] & 63 : b[s + 4] >> 4 | b[s] >> 6 << 4;
}

// d, dmin 2, scales 4; q a code of the s-th 32 weights
__device__ __forceinline__ float scaled(Block b, int s, int q) {
    return f16_at(b) * (float)scale_of(b + 4, s) * (float)q - f16_at(b + 2) * (float)minimum_of(b + 4, s);
}

// qs 16
__device__ __forceinline__ float q4_k_weight(Block b, int j) {
    return scaled(b, j / 32, nibble(b + 16 + j / 64 * 32, j % 64, 32));
}

// qh 16, qs 48
__device__ __forceinline__ float q5_k_weight(Block b, int j) {
    return scaled(b, j / 32, nibble(b + 48 + j / 64 * 32, j % 64, 32) | (b[16 + j % 32] >> j / 32 & 1) << 4);
}

// ql, qh 128, scales 192, d 208
__device__ __forceinline__ float q6_k_weight(Block b, int j) {
    int q = nibble(b + j / 128 * 64, j % 128, 64) | two_bits(b + 128, j) << 4;
    return f16_at(b + 208) * (float)i8_at(b + 192 + j / 16) * (float)(q - 32);
}

// d, of four bytes, qs 4
__device__ __forceinline__ float q8_k_weight(Block b, int j) { return f32_at(b) * (float)i8_at(b + 4 + j); }

DECODER(q2_k, 256, 84)
DECODER(q3_k, 256, 110)
DECODER(q4_k, 256, 144)
DECODER(q5_k, 256, 176)
DECODER(q6_k, 256, 210)
DECODER(q8_k, 256, 292)
