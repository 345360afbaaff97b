// What refembed/kernels/cuda/mma.cuh has of tensor cores, on a CPU (cuda_on_cpu.h): the same functions, by arithmetic.
//
// Which lane has which numbers of a fragment is the PTX ISA's ("Matrix Fragments for mma.m16n8k8", "... m16n8k16").
// Lanes of a warp meet at a product of fragments as they do at a shuffle.
#pragma once
#include <algorithm>

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

namespace on_cpu {

// How a step is added. False: its products in order, in double, rounded to float32 once. True: as coarsely as was found
// of any GPU (V100: Fasi, Higham, Mikaitis & Pranesh 2021, "Numerical behavior of NVIDIA tensor cores"): four products
// and the sum so far are cut off below the 24th bit of the largest, and so is what they add up to.
static bool cut_off = false;  // static: of this library alone, where the linker makes one of all that is inline

static float added(float sum, const double* products, int n) {
    if (!cut_off) {
        double total = sum;
        for (int i = 0; i < n; i++) total += products[i];
        return (float)total;
    }
    for (int i = 0; i < n; i += 4) {
        double largest = std::fabs(sum), total = 0;
        for (int j = i; j < i + 4; j++) largest = std::max(largest, std::fabs(products[j]));
        if (largest == 0) continue;
        double unit = std::ldexp(1.0, std::ilogb(largest) - 23);
        for (int j = i; j < i + 4; j++) total += std::trunc(products[j] / unit);
        total += std::trunc(sum / unit);
        double coarser = total == 0 ? 1 : std::max(1.0, std::ldexp(1.0, std::ilogb(total) - 23));
        sum = (float)(std::trunc(total / coarser) * coarser * unit);
    }
    return sum;
}

// A number in a format of `bits` bits of mantissa and exponents from `least` to 1 - least, as that writes it.
inline unsigned encoded(float x, int bits, int least, bool away) {
    int fraction = bits - 1, all = 2 * (1 - least) + 1, wide = std::ilogb((double)all) + 1;
    unsigned sign = (unsigned)std::signbit(x) << (wide + fraction);
    if (std::isnan(x)) return sign | (unsigned)all << fraction | 1u << (fraction - 1);
    if (std::isinf(x)) return sign | (unsigned)all << fraction;
    double size = std::fabs(x);
    int e = size == 0 ? least : std::max(std::ilogb(size), least);
    double steps = size / std::ldexp(1.0, e - fraction);  // from 0 to 2^bits
    int n = (int)(away ? std::floor(steps + 0.5) : std::nearbyint(steps));
    unsigned fields = ((unsigned)(e - least + 1) << fraction) + (unsigned)n - (1u << fraction);  // 2^bits: the next e
    return sign | std::min(fields, (unsigned)all << fraction);
}

inline float half_of_bits(unsigned bits) {
    int e = bits >> 10 & 31, m = bits & 1023;
    float size = e == 31 ? (m ? NAN : INFINITY) : e ? std::ldexp(1024.0f + m, e - 25) : std::ldexp((float)m, -24);
    return bits & 0x8000 ? -size : size;
}

inline float fragments[2][1024][6][2];  // of each thread: words of a[4] and b[2], one or two numbers each

// NUMBERS  in a word
// decoded  a word -> its number `half`
template <int NUMBERS, class Decoded>
static void multiply(float* c, const unsigned* a, const unsigned* b, Decoded decoded) {
    unsigned turn = threads[current]->shuffles++ % 2, lane = current % WARP_SIZE, warp = current - lane;
    for (int i = 0; i < 6; i++)
        for (int half = 0; half < NUMBERS; half++)
            fragments[turn][current][i][half] = decoded(i < 4 ? a[i] : b[i - 4], half);
    wait_at(AT_SHUFFLE);
    for (int i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double products[8 * NUMBERS];
        for (unsigned word = 0; word < 8; word++)
            for (int half = 0; half < NUMBERS; half++) {
                float x = fragments[turn][warp + row % 8 * 4 + word % 4][row / 8 + word / 4 * 2][half];
                float y = fragments[turn][warp + column * 4 + word % 4][4 + word / 4][half];
                products[word * NUMBERS + half] = (double)x * y;
            }
        c[i] = added(c[i], products, 8 * NUMBERS);
    }
}

}  // namespace on_cpu

inline unsigned tf32_of(float x) { return on_cpu::encoded(x, 11, -126, true) << 13; }
inline unsigned fp16_pair(float low, float high) {
    return on_cpu::encoded(low, 11, -14, false) | on_cpu::encoded(high, 11, -14, false) << 16;
}
inline unsigned bf16_pair(float low, float high) {
    return on_cpu::encoded(low, 8, -126, false) | on_cpu::encoded(high, 8, -126, false) << 16;
}

// A word of tf32 has 19 bits; the others are not looked at.
static void mma_tf32(float* c, const unsigned* a, const unsigned* b) {
    on_cpu::multiply<1>(c, a, b, [](unsigned word, int) { return on_cpu::bits_as<float>(word & 0xffffe000u); });
}
static void mma_fp16(float* c, const unsigned* a, const unsigned* b) {
    on_cpu::multiply<2>(c, a, b, [](unsigned w, int half) { return on_cpu::half_of_bits(w >> 16 * half & 0xffff); });
}
static void mma_bf16(float* c, const unsigned* a, const unsigned* b) {
    on_cpu::multiply<2>(c, a, b, [](unsigned w, int half) { return on_cpu::bits_as<float>(w >> 16 * half << 16); });
}
