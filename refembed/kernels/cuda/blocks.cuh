// What decoders of tensor types share. A decoder is a function that gives weight j of a block; DECODER makes a kernel
// of it. Fields are read byte by byte, as blocks of 18 or 210 bytes are not aligned. Files of the other byte order are
// swapped by the host.

typedef const unsigned char* Block;

__device__ __forceinline__ unsigned int u16_at(Block b) { return b[0] | (unsigned int)b[1] << 8; }
__device__ __forceinline__ unsigned int u32_at(Block b) { return u16_at(b) | u16_at(b + 2) << 16; }
__device__ __forceinline__ float f32_at(Block b) { return __uint_as_float(u32_at(b)); }
__device__ __forceinline__ int i8_at(Block b) { return (signed char)b[0]; }

// A float of two bytes, by its bits; subnormal ones are m 2^-24.
__device__ __forceinline__ float half_of(unsigned int bits) {
    unsigned int sign = (bits & 0x8000u) << 16, e = bits >> 10 & 31u, m = bits & 1023u;
    if (e == 31u) return __uint_as_float(sign | 0x7f800000u | m << 13);
    if (e == 0u) return (sign ? -1.0f : 1.0f) * ((float)m * 5.9604644775390625e-8f);
    return __uint_as_float(sign | (e + 112u) << 23 | m << 13);
}
__device__ __forceinline__ float f16_at(Block b) { return half_of(u16_at(b)); }

// Code j of n bytes that hold 2n: all low halves, then all high halves.
__device__ __forceinline__ int nibble(Block b, int j, int n) { return j < n ? b[j] & 15 : b[j - n] >> 4; }

// Half j of bytes whose halves are neighbors: low, high, low, high ...
__device__ __forceinline__ int half_byte(Block b, int j) { return j % 2 ? b[j / 2] >> 4 : b[j / 2] & 15; }

__device__ __forceinline__ int bit(Block b, int j) { return b[j / 8] >> j % 8 & 1; }

// Code j of 32 bytes that hold 128 of two bits: bits 0 and 1 of every byte, then bits 2 and 3 ...; two such, 256.
__device__ __forceinline__ int two_bits(Block b, int j) { return b[j / 128 * 32 + j % 32] >> j % 128 / 32 * 2 & 3; }

// Raw rows of `blocks` blocks each -> out (rows, blocks * weights). Row t is row ids[t] of raw, or t where ids is null.
#define DECODER(name, weights, nbytes)                                                                         \
    extern "C" __global__ void name(const unsigned char* raw, const long long* ids, long long rows,            \
                                    long long blocks, float* out) {                                            \
        long long i = thread_number();                                                                         \
        if (i >= rows * blocks * weights) return;                                                              \
        long long block = i / weights, row = block / blocks;                                                   \
        long long from = (ids ? ids[row] : row) * blocks + block % blocks;                                     \
        out[i] = name##_weight(raw + from * nbytes, (int)(i % weights));                                       \
    }

// The same for types with a codebook.
#define CODEBOOK_DECODER(name, weights, nbytes)                                                                \
    extern "C" __global__ void name(const unsigned char* raw, const long long* ids, const signed char* grid,   \
                                    long long rows, long long blocks, float* out) {                            \
        long long i = thread_number();                                                                         \
        if (i >= rows * blocks * weights) return;                                                              \
        long long block = i / weights, row = block / blocks;                                                   \
        long long from = (ids ? ids[row] : row) * blocks + block % blocks;                                     \
        out[i] = name##_weight(raw + from * nbytes, grid, (int)(i % weights));                                 \
    }

// What a code of 4 bits stands for: FP4 is twice an E2M1, NL is "non-linear".
__device__ __forceinline__ float fp4_of(int q) {
    int magnitude = q & 7;
    int value = magnitude < 5 ? magnitude : magnitude == 5 ? 6 : magnitude == 6 ? 8 : 12;
    return (float)(q & 8 ? -value : value);
}
__device__ __forceinline__ float nl_of(int q) {
    const signed char NL[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return (float)NL[q];
}
