// I-quants, whose numbers are places in a codebook (grid) of 8 or 4 weights each: quant/dequant_iquants.py.
#include "common.cuh"
#include "blocks.cuh"

// x, or -x where bit j of the signs is set.
__device__ __forceinline__ float signed_by(float x, int signs, int j) { return signs >> j & 1 ? -x : x; }

// 7 stored signs -> 8: the eighth makes the number of minus signs even.
__device__ __forceinline__ int eight_signs(int seven) { return seven | (__popc(seven) & 1) << 7; }

// d (1/2 + s) / 4
__device__ __forceinline__ float quarter(Block b, int s) { return f16_at(b) * ((float)s + 0.5f) * 0.25f; }

// d, qs 2: for each 32 weights two words, four places and the signs
__device__ __forceinline__ float iq2_xxs_weight(Block b, const signed char* grid, int j) {
    unsigned int word = u32_at(b + 2 + j / 32 * 8 + 4);
    int part = j % 32 / 8, place = b[2 + j / 32 * 8 + part];
    return signed_by(quarter(b, word >> 28) * (float)grid[place * 8 + j % 8], eight_signs(word >> 7 * part & 127), j % 8);
}

// d, qs 2, scales 66
__device__ __forceinline__ float iq2_xs_weight(Block b, const signed char* grid, int j) {
    int word = u16_at(b + 2 + j / 8 * 2);
    float w = quarter(b, half_byte(b + 66, j / 16)) * (float)grid[(word & 511) * 8 + j % 8];
    return signed_by(w, eight_signs(word >> 9), j % 8);
}

// d, qs 2 (places, then signs), qh 66, scales 74
__device__ __forceinline__ float iq2_s_weight(Block b, const signed char* grid, int j) {
    int part = j / 8, place = b[2 + part] | (b[66 + part / 4] >> part % 4 * 2 & 3) << 8;
    return signed_by(quarter(b, half_byte(b + 74, j / 16)) * (float)grid[place * 8 + j % 8], b[34 + part], j % 8);
}

// d, qs 2, words 66
__device__ __forceinline__ float iq3_xxs_weight(Block b, const signed char* grid, int j) {
    unsigned int word = u32_at(b + 66 + j / 32 * 4);
    float scale = f16_at(b) * ((float)(word >> 28) + 0.5f) * 0.5f;
    float w = scale * (float)grid[b[2 + j / 4] * 4 + j % 4];
    return signed_by(w, eight_signs(word >> j % 32 / 8 * 7 & 127), j % 8);
}

// d, qs 2, qh 66, signs 74, scales 106
__device__ __forceinline__ float iq3_s_weight(Block b, const signed char* grid, int j) {
    int place = b[2 + j / 4] | bit(b + 66, j / 4) << 8;
    float scale = f16_at(b) * (1.0f + 2.0f * (float)half_byte(b + 106, j / 32));
    return signed_by(scale * (float)grid[place * 4 + j % 4], b[74 + j / 8], j % 8);
}

// d, qs 2, qh 34
__device__ __forceinline__ float iq1_s_weight(Block b, const signed char* grid, int j) {
    int word = u16_at(b + 34 + j / 32 * 2);
    int place = b[2 + j / 8] | (word >> j % 32 / 8 * 3 & 7) << 8;
    float scale = f16_at(b) * (2.0f * (float)(word >> 12 & 7) + 1.0f);
    return scale * ((float)grid[place * 8 + j % 8] + (word >> 15 ? -0.125f : 0.125f));
}

// qs, qh 32, scales 48, whose four words have d in their top digits
__device__ __forceinline__ float iq1_m_weight(Block b, const signed char* grid, int j) {
    unsigned int d = 0;
    for (int i = 0; i < 4; i++) d |= u16_at(b + 48 + 2 * i) >> 12 << 4 * i;
    int sub = j / 16, high = half_byte(b + 32, j / 8);
    float scale = half_of(d) * (2.0f * (float)(u16_at(b + 48 + sub / 4 * 2) >> sub % 4 * 3 & 7) + 1.0f);
    int place = b[j / 8] | (high & 7) << 8;
    return scale * ((float)grid[place * 8 + j % 8] + (high >> 3 ? -0.125f : 0.125f));
}

// d, scales_h 2, scales_l 4, qs 8; no codebook
__device__ __forceinline__ float iq4_xs_weight(Block b, int j) {
    int s = half_byte(b + 4, j / 32) | (u16_at(b + 2) >> j / 32 * 2 & 3) << 4;
    return f16_at(b) * (float)(s - 32) * nl_of(nibble(b + 8 + j / 32 * 16, j % 32, 16));
}

CODEBOOK_DECODER(iq2_xxs, 256, 66)
CODEBOOK_DECODER(iq2_xs, 256, 74)
CODEBOOK_DECODER(iq2_s, 256, 82)
CODEBOOK_DECODER(iq3_xxs, 256, 98)
CODEBOOK_DECODER(iq3_s, 256, 110)
CODEBOOK_DECODER(iq1_s, 256, 50)
CODEBOOK_DECODER(iq1_m, 256, 56)
DECODER(iq4_xs, 256, 136)
