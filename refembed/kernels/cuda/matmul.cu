// x Wᵀ + b: exact/matmul.py. An element is one chain of multiply-adds in order of k, whatever the tile, so a row of x
// has the same bits wherever it stands; llvm/gemm.py computes the very same chain.
//
// A block of 64 threads has a tile of 8 R x 64 elements, a thread R x 8 of them; 16 numbers of each row at a time are
// in shared memory, from where a thread reads four neighbors at once.
#include "common.cuh"

#define DEPTH 16
#define WIDE 64
#define NEIGHBORS 4

// Which row (of a tile) element i of a thread's is in, where a thread has R of them; and column j, of 8.
template <int R>
__device__ __forceinline__ int place(int thread, int i) {
    return R == 8 ? thread * NEIGHBORS + i % NEIGHBORS + i / NEIGHBORS * 32 : thread + 8 * i;
}

// Its R numbers of a line of shared memory, which is a multiple of 16 bytes.
template <int R>
__device__ __forceinline__ void load(const float* line, int thread, float* to) {
    if constexpr (R == 8) {
        const float4 near = *(const float4*)(line + place<R>(thread, 0));
        const float4 far = *(const float4*)(line + place<R>(thread, NEIGHBORS));
        to[0] = near.x, to[1] = near.y, to[2] = near.z, to[3] = near.w;
        to[4] = far.x, to[5] = far.y, to[6] = far.z, to[7] = far.w;
    } else {
#pragma unroll
        for (int i = 0; i < R; i++) to[i] = line[place<R>(thread, i)];
    }
}

// x     (T, K)
// w     (N, K)
// bias  (N), or null
// out   (T, stride): columns first:first+N are written
template <int R>
__device__ __forceinline__ void product(const float* x, const float* w, const float* bias, long long T, long long N,
                                        long long K, long long stride, long long first, float* out) {
    __shared__ __align__(16) float xs[DEPTH][8 * R + NEIGHBORS];  // transposed; longer lines meet fewer banks twice
    __shared__ __align__(16) float ws[DEPTH][WIDE + NEIGHBORS];
    int me = threadIdx.x, tx = me % 8, ty = me / 8;
    long long top = (long long)blockIdx.y * 8 * R, left = (long long)blockIdx.x * WIDE;
    float sums[R][8];
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) sums[i][j] = 0.0f;

    for (long long k = 0; k < K; k += DEPTH) {
        for (int e = me; e < 8 * R * DEPTH; e += 64) {
            long long row = top + e / DEPTH, at = k + e % DEPTH;
            xs[e % DEPTH][e / DEPTH] = row < T && at < K ? x[row * K + at] : 0.0f;
        }
        for (int e = me; e < WIDE * DEPTH; e += 64) {
            long long row = left + e / DEPTH, at = k + e % DEPTH;
            ws[e % DEPTH][e / DEPTH] = row < N && at < K ? w[row * K + at] : 0.0f;
        }
        __syncthreads();
        int deep = K - k < DEPTH ? (int)(K - k) : DEPTH;
        for (int d = 0; d < deep; d++) {
            float a[R], b[8];
            load<R>(xs[d], ty, a);
            load<8>(ws[d], tx, b);
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
            long long row = top + place<R>(ty, i), column = left + place<8>(tx, j);
            if (row < T && column < N)
                out[row * stride + first + column] = bias ? sums[i][j] + bias[column] : sums[i][j];
        }
}

extern "C" __global__ void __launch_bounds__(64)
    matmul(const float* x, const float* w, const float* bias, long long T, long long N, long long K, long long stride,
           long long first, float* out) {
    product<8>(x, w, bias, T, N, K, stride, first, out);
}

// The same with tiles of 16 rows, for few rows.
extern "C" __global__ void __launch_bounds__(64)
    matmul_few(const float* x, const float* w, const float* bias, long long T, long long N, long long K,
               long long stride, long long first, float* out) {
    product<2>(x, w, bias, T, N, K, stride, first, out);
}
