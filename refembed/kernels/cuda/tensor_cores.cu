// x Wᵀ + b with x and W rounded to tf32, fp16 or bf16, sums in float32: exact/tensor_cores.py. x is rounded when it is
// loaded; W is kept rounded, in words, with zeros behind each row up to a multiple of 8 words.
//
// An element is one chain of mma instructions in order of k, 8 words each, from 0 on, whatever the tile; so a row of x
// has the same bits wherever it stands.
//
// A block of 4 warps, DOWN x ACROSS of them, has a tile; a warp has HIGH x WIDE fragments of 16 x 8 sums. 16 words of
// each row are in shared memory at a time, and the next 16 on their way to registers while these are multiplied.
#include "common.cuh"
#include "mma.cuh"

#define THREADS 128
#define STEP 8    // words of one instruction
#define DEPTH 16  // words in shared memory
#define LINE 20   // from one row of shared memory to the next: 8 rows of 4 words are in different banks
#define GROUP 4   // words that a thread moves at once
#define GROUPS (DEPTH / GROUP)

// Numbers in a word, how they are rounded, and from where on a number is nearer to infinity than to any of the format.
struct TF32 {
    enum { NUMBERS = 1 };
    static __device__ __forceinline__ float limit() { return __int_as_float(0x7f7ff000); }
    static __device__ __forceinline__ unsigned int word(const float* x) { return tf32_of(x[0]); }
    static __device__ __forceinline__ void multiply(float* c, const unsigned int* a, const unsigned int* b) {
        mma_tf32(c, a, b);
    }
};

// Infinity becomes NaN.
struct FP16 {
    enum { NUMBERS = 2 };
    static __device__ __forceinline__ float limit() { return 65520.0f; }
    static __device__ __forceinline__ unsigned int word(const float* x) {
        unsigned int pair = fp16_pair(x[0], x[1]);
        if ((pair & 0x7c00u) == 0x7c00u) pair |= 0x0200u;
        if ((pair & 0x7c000000u) == 0x7c000000u) pair |= 0x02000000u;
        return pair;
    }
    static __device__ __forceinline__ void multiply(float* c, const unsigned int* a, const unsigned int* b) {
        mma_fp16(c, a, b);
    }
};

struct BF16 {
    enum { NUMBERS = 2 };
    static __device__ __forceinline__ float limit() { return __int_as_float(0x7f7f8000); }
    static __device__ __forceinline__ unsigned int word(const float* x) { return bf16_pair(x[0], x[1]); }
    static __device__ __forceinline__ void multiply(float* c, const unsigned int* a, const unsigned int* b) {
        mma_bf16(c, a, b);
    }
};

// Words of a row of K numbers.
template <class Format>
__device__ __forceinline__ long long words_of(long long K) {
    return (K + STEP * Format::NUMBERS - 1) / (STEP * Format::NUMBERS) * STEP;
}

// A thread's groups of a tile of x (T, K), from row `top` and number k on; 0 outside. fours: rows begin at 16 bytes.
template <class Format, int ROWS, int LOADS>
__device__ __forceinline__ void load_x(const float* x, bool fours, long long top, long long T, long long k, long long K,
                                       float to[LOADS][GROUP * Format::NUMBERS]) {
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        int e = threadIdx.x + i * THREADS;
        long long row = top + e / GROUPS, first = k + e % GROUPS * GROUP * Format::NUMBERS;
        bool there = e < ROWS * GROUPS && row < T;
#pragma unroll
        for (int j = 0; j < GROUP * Format::NUMBERS; j += 4) {
            if (fours && there && first + j < K) {
                const float4 four = *(const float4*)(x + row * K + first + j);
                to[i][j] = four.x, to[i][j + 1] = four.y, to[i][j + 2] = four.z, to[i][j + 3] = four.w;
            } else {
#pragma unroll
                for (int l = j; l < j + 4; l++) to[i][l] = there && first + l < K ? x[row * K + first + l] : 0.0f;
            }
        }
    }
}

// Its groups of a tile of W (N, words), from row `left` and word k on.
template <int LOADS>
__device__ __forceinline__ void load_w(const unsigned int* w, long long left, long long N, long long k, long long words,
                                       uint4 to[LOADS]) {
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        int e = threadIdx.x + i * THREADS;
        long long row = left + e / GROUPS, first = k + e % GROUPS * GROUP;
        uint4 four = {0u, 0u, 0u, 0u};
        if (row < N && first < words) four = *(const uint4*)(w + row * words + first);
        to[i] = four;
    }
}

// x     (T, K)
// w     (N, words)
// bias  (N), or null
// out   (T, stride): columns first:first+N are written
template <class Format, int DOWN, int ACROSS, int HIGH, int WIDE>
__device__ __forceinline__ void product(const float* x, const unsigned int* w, const float* bias, long long T,
                                        long long N, long long K, long long stride, long long first, float* out) {
    constexpr int ROWS = 16 * HIGH * DOWN, COLUMNS = 8 * WIDE * ACROSS, NUMBERS = Format::NUMBERS;
    constexpr int X_LOADS = (ROWS * GROUPS + THREADS - 1) / THREADS, W_LOADS = COLUMNS * GROUPS / THREADS;
    __shared__ __align__(16) unsigned int xs[ROWS][LINE];
    __shared__ __align__(16) unsigned int ws[COLUMNS][LINE];
    int me = threadIdx.x, g = me % WARP / 4, t = me % 4;
    int down = me / WARP / ACROSS * 16 * HIGH, across = me / WARP % ACROSS * 8 * WIDE;  // of this warp's first fragment
    long long top = (long long)blockIdx.y * ROWS, left = (long long)blockIdx.x * COLUMNS, words = words_of<Format>(K);
    bool fours = K % 4 == 0 && (unsigned long long)x % 16 == 0;

    float next_x[X_LOADS][GROUP * NUMBERS], sums[HIGH][WIDE][4];
    uint4 next_w[W_LOADS];
#pragma unroll
    for (int m = 0; m < HIGH; m++)
#pragma unroll
        for (int n = 0; n < WIDE; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][n][i] = 0.0f;

    load_x<Format, ROWS, X_LOADS>(x, fours, top, T, 0, K, next_x);
    load_w<W_LOADS>(w, left, N, 0, words, next_w);
    for (long long k = 0; k < words; k += DEPTH) {
#pragma unroll
        for (int i = 0; i < X_LOADS; i++) {
            int e = me + i * THREADS;
            if (e >= ROWS * GROUPS) continue;
            const float* from = next_x[i];
            uint4 four = {Format::word(from), Format::word(from + NUMBERS), Format::word(from + 2 * NUMBERS),
                          Format::word(from + 3 * NUMBERS)};
            *(uint4*)&xs[e / GROUPS][e % GROUPS * GROUP] = four;
        }
#pragma unroll
        for (int i = 0; i < W_LOADS; i++) {
            int e = me + i * THREADS;
            *(uint4*)&ws[e / GROUPS][e % GROUPS * GROUP] = next_w[i];
        }
        __syncthreads();
        if (k + DEPTH < words) {
            load_x<Format, ROWS, X_LOADS>(x, fours, top, T, (k + DEPTH) * NUMBERS, K, next_x);
            load_w<W_LOADS>(w, left, N, k + DEPTH, words, next_w);
        }
        for (int s = 0; s < DEPTH && k + s < words; s += STEP) {
            unsigned int a[HIGH][4], b[WIDE][2];
#pragma unroll
            for (int m = 0; m < HIGH; m++) {
                const unsigned int* near = &xs[down + 16 * m + g][s + t];
                const unsigned int* far = &xs[down + 16 * m + g + 8][s + t];
                a[m][0] = near[0], a[m][1] = far[0], a[m][2] = near[4], a[m][3] = far[4];
            }
#pragma unroll
            for (int n = 0; n < WIDE; n++) {
                const unsigned int* line = &ws[across + 8 * n + g][s + t];
                b[n][0] = line[0], b[n][1] = line[4];
            }
#pragma unroll
            for (int m = 0; m < HIGH; m++)
#pragma unroll
                for (int n = 0; n < WIDE; n++) Format::multiply(sums[m][n], a[m], b[n]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < HIGH; m++)
#pragma unroll
        for (int n = 0; n < WIDE; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                long long row = top + down + 16 * m + g + i / 2 * 8, column = left + across + 8 * n + 2 * t + i % 2;
                if (row < T && column < N)
                    out[row * stride + first + column] = bias ? sums[m][n][i] + bias[column] : sums[m][n][i];
            }
}

#define PRODUCT(name, Format, DOWN, ACROSS, HIGH, WIDE)                                                           \
    extern "C" __global__ void __launch_bounds__(128)                                                             \
        name(const float* x, const unsigned int* w, const float* bias, long long T, long long N, long long K,     \
             long long stride, long long first, float* out) {                                                     \
        product<Format, DOWN, ACROSS, HIGH, WIDE>(x, w, bias, T, N, K, stride, first, out);                       \
    }

// Tiles of 128 x 64; for few rows of 16 x 64.
PRODUCT(matmul_tf32, TF32, 2, 2, 4, 4)
PRODUCT(matmul_fp16, FP16, 2, 2, 4, 4)
PRODUCT(matmul_bf16, BF16, 2, 2, 4, 4)
PRODUCT(matmul_tf32_few, TF32, 1, 4, 1, 2)
PRODUCT(matmul_fp16_few, FP16, 1, 4, 1, 2)
PRODUCT(matmul_bf16_few, BF16, 1, 4, 1, 2)

// W (rows, K) rounded into words, a thread for each. beyond (1): 1 where a number that is finite would not stay so.
template <class Format>
__device__ __forceinline__ void round_rows(const float* w, long long rows, long long K, int* beyond,
                                           unsigned int* out) {
    long long i = thread_number(), words = words_of<Format>(K);
    if (i >= rows * words) return;
    float numbers[Format::NUMBERS];
#pragma unroll
    for (int j = 0; j < Format::NUMBERS; j++) {
        long long k = i % words * Format::NUMBERS + j;
        numbers[j] = k < K ? w[i / words * K + k] : 0.0f;
        if (fabsf(numbers[j]) >= Format::limit() && fabsf(numbers[j]) < INFINITE) *beyond = 1;
    }
    out[i] = Format::word(numbers);
}

#define ROUNDING(name, Format)                                                                            \
    extern "C" __global__ void name(const float* w, long long rows, long long K, int* beyond,             \
                                    unsigned int* out) {                                                  \
        round_rows<Format>(w, rows, K, beyond, out);                                                      \
    }

ROUNDING(round_tf32, TF32)
ROUNDING(round_fp16, FP16)
ROUNDING(round_bf16, BF16)
