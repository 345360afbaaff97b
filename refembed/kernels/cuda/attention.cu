// Scaled dot-product attention over packed texts (Vaswani et al. 2017): exact/attention.py, without a T x T matrix.
//
// A block has one head and 16 queries of one text, counted from the text's start; each of its 4 warps has 4 of them.
// It goes through the keys that its queries see, 32 at a time: a thread has the scores of one key. What was summed is
// scaled down where a larger score comes (Milakov & Gimelshein 2018; Dao et al. 2022). The tiles of a query depend on
// its place in its text alone, and so do its bits.
#include "common.cuh"

#define QUERIES 16
#define OWN 4         // queries of a warp
#define KEYS 32       // a thread of a warp has one
#define CHANNELS 64   // of keys or values that are in shared memory at a time

// The keys begin:end that query i of a text of n tokens sees: `reach`. kind: 0 standard, 1 chunked, 2 symmetric
__device__ __forceinline__ void reach(long long i, long long n, int causal, long long window, int kind,
                                      long long* begin, long long* end) {
    *begin = 0;
    *end = causal ? i + 1 : n;
    if (window > 0 && kind == 0 && i - window + 1 > 0) *begin = i - window + 1;
    if (window > 0 && kind == 1) *begin = i / window * window;
    if (window > 0 && kind == 2) {
        long long half = window / 2;
        if (i - half > 0) *begin = i - half;
        if (i + half + 1 < *end) *end = i + half + 1;
    }
}

// The same, and in a row of an image to the image's end.
__device__ __forceinline__ void reach(long long i, long long n, int causal, long long window, int kind,
                                      const long long* ends, long long start, long long* begin, long long* end) {
    reach(i, n, causal, window, kind, begin, end);
    if (ends && i < n && ends[start + i] > *end) *end = ends[start + i];
}

// CHUNKS  64 channels each, as many as D fills
template <int CHUNKS>
__device__ __forceinline__ void attend(const float* q, const float* k, const float* v, const long long* offsets,
                                       const int* tiles, int heads, int group, int D, float scale, int causal,
                                       long long window, int kind, const long long* ends, float soft_cap,
                                       const float* slopes, const float* bias, long long longest, const float* sinks, float* out) {
    __shared__ float queries[QUERIES][CHUNKS * CHANNELS];
    __shared__ float chunk[KEYS][CHANNELS + 1];  // of keys or values; one more, so that keys are in different banks
    __shared__ float shares[QUERIES][KEYS];
    int me = threadIdx.x, lane = me % WARP, own = me / WARP * OWN;  // the first of this warp's queries
    int h = blockIdx.y;
    long long text = tiles[2 * blockIdx.x], first = (long long)tiles[2 * blockIdx.x + 1] * QUERIES;
    long long start = offsets[text], n = offsets[text + 1] - start;
    long long width = (long long)heads * D, key_width = (long long)(heads / group) * D;
    int last = n - first < QUERIES ? (int)(n - first) - 1 : QUERIES - 1;  // of the queries

    for (int e = me; e < QUERIES * D; e += blockDim.x) {
        int i = e / D, d = e % D;
        queries[i][d] = i <= last ? q[(start + first + i) * width + (long long)h * D + d] : 0.0f;
    }
    long long low, high, ignored, begin[OWN], end[OWN];
    reach(first, n, causal, window, kind, ends, start, &low, &ignored);
    reach(first + last, n, causal, window, kind, ends, start, &ignored, &high);
#pragma unroll
    for (int r = 0; r < OWN; r++) reach(first + own + r, n, causal, window, kind, ends, start, &begin[r], &end[r]);

    float most[OWN], total[OWN], sums[OWN][2 * CHUNKS];  // sums: channels lane, lane + 32, lane + 64 ...
#pragma unroll
    for (int r = 0; r < OWN; r++) {
        most[r] = -INFINITE;
        total[r] = 0.0f;
#pragma unroll
        for (int c = 0; c < 2 * CHUNKS; c++) sums[r][c] = 0.0f;
    }

    for (long long j0 = low; j0 < high; j0 += KEYS) {
        float scores[OWN];
#pragma unroll
        for (int r = 0; r < OWN; r++) scores[r] = 0.0f;
#pragma unroll 1
        for (int c = 0; c < CHUNKS; c++) {
            int deep = D - c * CHANNELS < CHANNELS ? D - c * CHANNELS : CHANNELS;
            __syncthreads();  // what was in the chunk has been read
            for (int e = me; e < KEYS * deep; e += blockDim.x) {
                int j = e / deep, d = e % deep;
                chunk[j][d] = j0 + j < n ? k[(start + j0 + j) * key_width + (long long)(h / group) * D + c * CHANNELS + d] : 0.0f;
            }
            __syncthreads();
#pragma unroll 4
            for (int d = 0; d < deep; d++) {
                float key = chunk[lane][d];
#pragma unroll
                for (int r = 0; r < OWN; r++) scores[r] = fmaf(queries[own + r][c * CHANNELS + d], key, scores[r]);
            }
        }
        long long j = j0 + lane;
#pragma unroll
        for (int r = 0; r < OWN; r++) {
            long long i = first + own + r;
            bool seen = begin[r] <= j && j < end[r] && i < n;
            float score = scores[r] * scale;
            if (soft_cap > 0.0f) score = soft_cap * tanhf(score / soft_cap);
            if (bias && seen) score = score + bias[((long long)h * longest + i) * longest + j];
            if (slopes) score = score - slopes[h] * (float)(i > j ? i - j : j - i);
            if (!seen) score = -INFINITE;
            float larger = fmaxf(most[r], warp_max(score));
            float kept = most[r] == larger ? 1.0f : expf(most[r] - larger);  // of what was summed so far
            float share = seen ? expf(score - larger) : 0.0f;
            most[r] = larger;
            total[r] = total[r] * kept + warp_sum(share);
            shares[own + r][lane] = share;
#pragma unroll
            for (int c = 0; c < 2 * CHUNKS; c++) sums[r][c] = sums[r][c] * kept;
        }
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            int deep = D - c * CHANNELS < CHANNELS ? D - c * CHANNELS : CHANNELS;
            __syncthreads();
            for (int e = me; e < KEYS * deep; e += blockDim.x) {
                int j = e / deep, d = e % deep;
                chunk[j][d] = j0 + j < n ? v[(start + j0 + j) * key_width + (long long)(h / group) * D + c * CHANNELS + d] : 0.0f;
            }
            __syncthreads();
#pragma unroll 4
            for (int key = 0; key < KEYS; key++) {
                float near = lane < deep ? chunk[key][lane] : 0.0f, far = lane + 32 < deep ? chunk[key][lane + 32] : 0.0f;
#pragma unroll
                for (int r = 0; r < OWN; r++) {
                    sums[r][2 * c] = fmaf(shares[own + r][key], near, sums[r][2 * c]);
                    sums[r][2 * c + 1] = fmaf(shares[own + r][key], far, sums[r][2 * c + 1]);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < OWN; r++) {
        if (own + r > last) continue;
        float kept = 1.0f;
        if (sinks) {  // one more score, without a value
            float larger = fmaxf(most[r], sinks[h]);
            kept = expf(most[r] - larger);
            total[r] = total[r] * kept + expf(sinks[h] - larger);
        }
#pragma unroll
        for (int c = 0; c < 2 * CHUNKS; c++) {
            int d = c * 32 + lane;
            if (d < D) out[(start + first + own + r) * width + (long long)h * D + d] = sums[r][c] * kept / total[r];
        }
    }
}

// q, out   (T, H D)   heads side by side
// k, v     (T, H/group D)
// offsets  (S+1)      text s is rows offsets[s]:offsets[s+1]
// tiles    (B, 2)     of each block of the grid's x: the text, and which 16 of its queries; the grid's y is the head
// kind     of the window: 0 standard, 1 chunked, 2 symmetric; window 0: none
// ends     (T)        of each row the first key of its text that it does not see, if that is farther; or null
// soft_cap 0: none
// slopes   (H)        ALiBi's; or null
// bias     (H, L, L)  added to the scores, L = longest; or null
// sinks    (H)        or null
#define ATTENTION(name, chunks)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) name(                                                           \
        const float* q, const float* k, const float* v, const long long* offsets, const int* tiles, int heads,        \
        int group, int D, float scale, int causal, long long window, int kind, const long long* ends, float soft_cap, \
        const float* slopes, const float* bias, long long longest, const float* sinks, float* out) {                  \
        attend<chunks>(q, k, v, offsets, tiles, heads, group, D, scale, causal, window, kind, ends, soft_cap, slopes, \
                       bias, longest, sinks, out);                                                                    \
    }

ATTENTION(attention_64, 1)
ATTENTION(attention_128, 2)
ATTENTION(attention_256, 4)
ATTENTION(attention_512, 8)
