// Normalization layers: exact/norms.py. A warp has a row; sums are in double, as there.
#include "common.cuh"

// y = (x - E[x]) / sqrt(Var[x] + eps) w + b      Ba, Kiros & Hinton 2016
//
// x         (rows, n)
// residual  (rows, n)    added to x first; or null
// w, b      (groups, n)  row r takes those of r mod groups; or null
extern "C" __global__ void layer_norm(const float* x, const float* residual, const float* w, const float* b,
                                      float eps, long long rows, int n, int groups, float* out) {
    long long row = warp_number();
    if (row >= rows) return;
    const float* from = x + row * n;
    const float* more = residual ? residual + row * n : nullptr;
    float* to = out + row * n;
    long long group = row % groups * n;

    double sum = 0;
    for (int i = lane_number(); i < n; i += WARP) {
        to[i] = more ? from[i] + more[i] : from[i];
        sum += to[i];
    }
    float mean = (float)(warp_sum(sum) / n);
    double squares = 0;
    for (int i = lane_number(); i < n; i += WARP) {
        float centered = to[i] - mean;
        squares += (double)(centered * centered);
    }
    float scale = (float)(1.0 / sqrt(warp_sum(squares) / n + (double)eps));
    for (int i = lane_number(); i < n; i += WARP) {
        float y = (to[i] - mean) * scale;
        if (w) y = y * w[group + i];
        if (b) y = y + b[group + i];
        to[i] = y;
    }
}

// y = x / sqrt(E[x^2] + eps) w      Zhang & Sennrich 2019
//
// x  (rows, n)
// w  (groups, n)  row r takes those of r mod groups; or null
extern "C" __global__ void rms_norm(const float* x, const float* w, float eps, long long rows, int n, int groups,
                                    float* out) {
    long long row = warp_number();
    if (row >= rows) return;
    const float* from = x + row * n;
    float* to = out + row * n;
    long long group = row % groups * n;

    double squares = 0;
    for (int i = lane_number(); i < n; i += WARP) squares += (double)from[i] * (double)from[i];
    float scale = (float)(1.0 / sqrt(warp_sum(squares) / n + (double)eps));
    for (int i = lane_number(); i < n; i += WARP) {
        float y = from[i] * scale;
        to[i] = w ? y * w[group + i] : y;
    }
}
