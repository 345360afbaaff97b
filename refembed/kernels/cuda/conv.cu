// Short convolution along a text, and an image's patches and planes: exact/conv.py. A thread has a number of the result.
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

// An image's patches as rows, a plane after the other; what is left at the right and below is cut off.
//
// x    (planes, height, width)
// out  (height/size width/size, planes size size)
extern "C" __global__ void patches(const float* x, long long planes, long long height, long long width, int size,
                                   float* out) {
    long long i = thread_number(), across = width / size, square = (long long)size * size, all = planes * square;
    if (i >= height / size * across * all) return;
    long long patch = i / all, place = i % all;
    long long row = patch / across * size + place % square / size, column = patch % across * size + place % size;
    out[i] = x[(place / square * height + row) * width + column];
}

// a (1 - dx) (1 - dy) + b dx (1 - dy) + c (1 - dx) dy + d dx dy      of the four numbers around
//
// x                (planes, high, wide)
// above, below, dy (height)  rows of x, and how far a row of the result is from the one above
// left, right, dx  (width)   columns likewise
// out              (planes, height, width)
extern "C" __global__ void interpolate(const float* x, long long planes, long long high, long long wide,
                                       const long long* above, const long long* below, const float* dy,
                                       const long long* left, const long long* right, const float* dx,
                                       long long height, long long width, float* out) {
    long long i = thread_number();
    if (i >= planes * height * width) return;
    long long column = i % width, row = i / width % height;
    const float* plane = x + i / width / height * high * wide;
    const float *upper = plane + above[row] * wide, *lower = plane + below[row] * wide;
    float across = dx[column], down = dy[row];
    out[i] = upper[left[column]] * (1.0f - across) * (1.0f - down) + upper[right[column]] * across * (1.0f - down) +
             lower[left[column]] * (1.0f - across) * down + lower[right[column]] * across * down;
}

// The mean of each k x k square of each plane, added row by row: x (planes, high, wide) -> (planes, high/k, wide/k).
extern "C" __global__ void pool_2d(const float* x, long long planes, long long high, long long wide, int k,
                                   float* out) {
    long long i = thread_number(), height = high / k, width = wide / k;
    if (i >= planes * height * width) return;
    const float* from = x + (i / width / height * high + i / width % height * k) * wide + i % width * k;
    float sum = 0.0f;
    for (int row = 0; row < k; row++)
        for (int column = 0; column < k; column++) sum = sum + from[row * wide + column];
    out[i] = sum / (float)(k * k);
}
