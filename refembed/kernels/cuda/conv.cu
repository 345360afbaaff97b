// Short convolution along a text: exact/conv.py. A thread has a number of the result.
#include "common.cuh"

// y_t = w_0 x_(t-n+1+ahead) + ... + w_(n-1) x_(t+ahead) + bias      what lies outside the text is left out
//
// x, out   (T, C)
// w        (C, n)
// bounds   (T, 2)  first and last row, plus one, of the text that each row belongs to
// bias     (C)     or null
extern "C" __global__ void short_conv(const float* x, const float* w, const long long* bounds, const float* bias,
                                      long long rows, long long channels, int n, int ahead, float* out) {
    long long i = thread_number();
    if (i >= rows * channels) return;
    long long t = i / channels, c = i % channels;
    float sum = 0.0f;
    for (int j = 0; j < n; j++) {
        long long from = t - n + 1 + ahead + j;
        if (bounds[2 * t] <= from && from < bounds[2 * t + 1]) sum = sum + w[c * n + j] * x[from * channels + c];
    }
    out[i] = bias ? sum + bias[c] : sum;
}
