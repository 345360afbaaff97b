// Sums in order: exact/sums.py. A thread has a column.
#include "common.cuh"

// The mean of each text's rows, added in double, one after the other: x (T, C) -> out (S, C).
//
// offsets  (S+1)  text s is rows offsets[s]:offsets[s+1]
extern "C" __global__ void mean(const float* x, const long long* offsets, long long texts, long long n, float* out) {
    long long i = thread_number();
    if (i >= texts * n) return;
    long long begin = offsets[i / n], end = offsets[i / n + 1], channel = i % n;
    double sum = x[begin * n + channel];
    for (long long t = begin + 1; t < end; t++) sum += x[t * n + channel];
    out[i] = (float)(sum / (double)(end - begin));
}

// y[a, t] = w[t, a, 0] x[0, t] + ... + w[t, a, S-1] x[S-1, t]: x, out (S, T, C), w (T, S, S)
extern "C" __global__ void mix_streams(const float* x, const float* w, int streams, long long rows, long long n,
                                       float* out) {
    long long i = thread_number();
    if (i >= streams * rows * n) return;
    long long a = i / (rows * n), t = i / n % rows, channel = i % n;
    const float* weights = w + (t * streams + a) * streams;
    float sum = weights[0] * x[t * n + channel];
    for (int j = 1; j < streams; j++) sum = sum + weights[j] * x[(j * rows + t) * n + channel];
    out[i] = sum;
}

// Softmax of each row of x (rows, n); a warp has a row.
extern "C" __global__ void softmax(const float* x, long long rows, long long n, float* out) {
    long long row = warp_number();
    if (row >= rows) return;
    const float* from = x + row * n;
    float* to = out + row * n;
    float high = -INFINITE;
    for (long long i = lane_number(); i < n; i += WARP) high = fmaxf(high, from[i]);
    high = warp_max(high);
    double sum = 0;
    for (long long i = lane_number(); i < n; i += WARP) {
        to[i] = expf(from[i] - high);
        sum += to[i];
    }
    float total = (float)warp_sum(sum);
    for (long long i = lane_number(); i < n; i += WARP) to[i] = to[i] / total;
}
